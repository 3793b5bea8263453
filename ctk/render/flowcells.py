"""
The columns of a flow as people look for them, beside its keys.

A port stands behind the address that it is a port of: behind the destination is the backend's,
behind the service the one that was dialled.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import attrgetter

from ctk.render.cells import CellKind, Head
from ctk.store.columns import FLOW_COLUMNS, FLOW_KEYS, FlowRecord

Get = Callable[[FlowRecord], object]


def at_port(address: str | None, port: int | None) -> str | None:
    """Write a name or an address with its port, IPv6 in brackets; None where there is neither."""
    if address is None or port is None:
        return address
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _name(namespace: str | None, name: str | None) -> str | None:
    return f"{namespace}/{name}" if namespace and name else name


def _backend_port(flow: FlowRecord) -> int | None:
    return flow.dst_port if flow.nat_dst_port is None else flow.nat_dst_port


def _source(flow: FlowRecord) -> str:
    return _name(flow.src_namespace, flow.src_name) or flow.src


def _destination(flow: FlowRecord) -> str:
    return _name(flow.dst_namespace, flow.dst_name) or flow.nat_dst or flow.dst


def _service(flow: FlowRecord) -> str | None:
    """Give what was dialled where another answered, or the service that the dialled pod backs."""
    if flow.service is not None:
        return at_port(flow.service, flow.dst_port if flow.service_via == "address" else None)
    is_backend = flow.nat_dst is None and flow.nat_dst_port is None
    return None if is_backend else at_port(flow.dst, flow.dst_port)


def _sum(*parts: int | None) -> int | None:
    measured = [part for part in parts if part is not None]
    return sum(measured) if measured else None


def _failed(flow: FlowRecord) -> int:
    return flow.unreplied + flow.refused


def _events(flow: FlowRecord) -> int:
    return flow.new_events + flow.update_events + flow.destroy_events


def _bytes(flow: FlowRecord) -> int | None:
    return _sum(flow.bytes_out, flow.bytes_in)


def _packets(flow: FlowRecord) -> int | None:
    return _sum(flow.packets_out, flow.packets_in)


# Every column of the table, and those that only `-o wide` has.
SHOWN: tuple[tuple[Head, Get], ...] = (
    (Head("time", "time"), attrgetter("started_ns")),
    (Head("lasted", "age", wide=True), lambda flow: flow.ended_ns - flow.started_ns),
    (Head("node", "name", wide=True), attrgetter("node")),
    (Head("source", "name"), lambda flow: at_port(_source(flow), flow.src_port)),
    (Head("src", "name", wide=True), attrgetter("src")),
    (Head("src_workload", "name", wide=True), attrgetter("src_workload")),
    (
        Head("destination", "name"),
        lambda flow: at_port(_destination(flow), _backend_port(flow)),
    ),
    (Head("nat_dst", "name", wide=True, title="BACKEND"), lambda flow: flow.nat_dst or flow.dst),
    (Head("dst_workload", "name", wide=True), attrgetter("dst_workload")),
    (Head("service", "name", -1), _service),
    (
        Head("dst", "name", wide=True, title="DIALLED"),
        lambda flow: at_port(flow.dst, flow.dst_port),
    ),
    (Head("proto", "text", 2), attrgetter("proto")),
    (Head("zone", "number", wide=True), attrgetter("zone")),
    (Head("connections", "count", 1, title="CONNS"), attrgetter("connections")),
    (Head("failed", "failures"), _failed),
    (Head("refused", "failures", wide=True), attrgetter("refused")),
    (Head("unreplied", "failures", wide=True), attrgetter("unreplied")),
    (Head("events", "count", wide=True), _events),
    (Head("packets_out", "count", wide=True, title="PKTS OUT"), attrgetter("packets_out")),
    (Head("packets_in", "count", wide=True, title="PKTS IN"), attrgetter("packets_in")),
    (Head("bytes_out", "bytes", 3, title="OUT"), attrgetter("bytes_out")),
    (Head("bytes_in", "bytes", 3, title="IN"), attrgetter("bytes_in")),
)


def _kind(key: str) -> CellKind:
    if key in ("unreplied", "refused"):
        return "failures"
    if FLOW_COLUMNS[key].counted:
        return "bytes" if key.startswith("bytes") else "count"
    return "time" if key in ("started_ns", "ended_ns") else "name"


# Each key as people see it: times without their text beside them.
KEYS: tuple[tuple[Head, Get], ...] = tuple(
    (Head(key.replace("_ns", "_at"), _kind(key)), attrgetter(key))
    for key in FLOW_KEYS
    if FLOW_COLUMNS[key].time_of is None
)

# What `--columns` may name for programs: a flow's keys, and what tables make of them.
FOR_PROGRAMS: dict[str, Get] = {
    "time": attrgetter("started_at"),
    "source": _source,
    "destination": _destination,
    "failed": _failed,
    "events": _events,
    "packets": _packets,
    "bytes": _bytes,
    **{key: attrgetter(key) for key in FLOW_KEYS},
}
# And for people: the columns of the table first, then the others.
FOR_PEOPLE: dict[str, tuple[Head, Get]] = {
    **{head.key: (head, get) for head, get in SHOWN},
    "packets": (Head("packets", "count"), _packets),
    "bytes": (Head("bytes", "bytes"), _bytes),
}
FOR_PEOPLE |= {head.key: (head, get) for head, get in KEYS if head.key not in FOR_PEOPLE}


def two_names(flow: FlowRecord) -> tuple[str, str]:
    """Give who opened a flow and who answered."""
    return _source(flow), _destination(flow)


def picked(gets: Sequence[Get], flows: Iterable[FlowRecord]) -> Iterator[tuple[object, ...]]:
    """Yield what these functions give of each flow."""
    for flow in flows:
        yield tuple(get(flow) for get in gets)
