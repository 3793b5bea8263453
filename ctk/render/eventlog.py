"""
A flow as a line of the JSON event log, and of its live form.

The keys and their order are a contract with programs that parse the log (design.md, section 7).
The log tells events. A row without one says what older connections moved since, or that a dump
found them; it has a line only where accounting is asked for.
"""

from functools import lru_cache
from typing import Any

from ctk.render.encode import harmless
from ctk.store.columns import FlowRecord

# A line has these keys always. Another key is left out where its value is null, false, 0 or empty.
_ALWAYS = frozenset(("new", "update", "cnt"))


def events(record: FlowRecord) -> int:
    """Return how many kernel events were merged into a flow's row."""
    return record.new_events + record.update_events + record.destroy_events


def event_line(record: FlowRecord) -> bytes:
    """Return the line of a flow, or nothing where no event is in it."""
    return log_line(record) if events(record) else b""


def log_line(record: FlowRecord) -> bytes:
    """Return the line of a flow, one JSON object without the line's end."""
    from orjson import dumps

    line: dict[str, Any] = {"timestamp": record.started_at}
    line["src"] = record.src
    line["srcPort"] = record.src_port
    if record.src_kind == "pod":
        line["srcNs"] = record.src_namespace
        line["srcName"] = f"{record.src_namespace}:{record.src_name}"
        line["srcLbls"] = _raw(record.src_labels)
    elif record.src_kind == "node":
        line["srcName"] = record.src_name
    line["dst"] = record.dst
    line["dstPort"] = record.dst_port
    if record.dst_kind == "pod":
        line["dstNs"] = record.dst_namespace
        line["dstName"] = f"{record.dst_namespace}:{record.dst_name}"
        line["dstLbls"] = _raw(record.dst_labels)
    elif record.dst_kind == "node":
        line["dstName"] = record.dst_name
    line["proto"] = record.proto.upper()
    line["new"] = record.new_events > 0
    line["update"] = record.update_events > 0
    line["cnt"] = events(record)
    # Newer keys follow the older ones: the log's first readers do not know them.
    line["destroy"] = record.destroy_events > 0
    line["natSrc"] = record.nat_src
    line["natDst"] = record.nat_dst
    line["natDstPort"] = record.nat_dst_port
    line["service"] = record.service
    line["unreplied"] = record.unreplied
    line["refused"] = record.refused
    line["bytesOut"] = record.bytes_out
    line["packetsOut"] = record.packets_out
    line["bytesIn"] = record.bytes_in
    line["packetsIn"] = record.packets_in
    line["srcAddresses"] = record.src_addresses
    line["dstAddresses"] = record.dst_addresses
    return harmless(dumps({key: value for key, value in line.items() if value or key in _ALWAYS}))


@lru_cache(maxsize=10_000)
def _raw(labels: str | None) -> object:
    """Give labels as they are stored, to be put in as they are."""
    from orjson import Fragment, dumps

    found = stored_labels(labels)
    return Fragment(dumps(found)) if found else None


def stored_labels(labels: str | None) -> dict[str, Any] | None:
    """Read labels, if they are an object: the file may come from anywhere."""
    from orjson import JSONDecodeError, loads

    try:
        found = loads(labels) if labels else None
    except JSONDecodeError:
        return None
    return found if isinstance(found, dict) else None


def live_line(record: FlowRecord) -> bytes:
    """
    Return the live form: protocol and addresses, whether events were merged, and the log's line.

    `<tcp, Src: 10.244.0.1:53388, Dst: 10.244.0.3:8181> (true) - {...}`
    """
    merged = events(record) > 1
    source = _with_port(record.src, record.src_port)
    dialled = _with_port(record.dst, record.dst_port)
    head = f"<{record.proto}, Src: {source}, Dst: {dialled}> ({str(merged).lower()}) - "
    return head.encode() + log_line(record)


def _with_port(address: str, port: int | None) -> str:
    if port is None:
        return address
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
