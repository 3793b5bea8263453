"""
A flow as an event of the Elastic Common Schema (ECS).

What ECS has no field for stands under `ctk`, in the words of a flow. A field is left out where its
value is not known.
"""

from typing import Any

from ctk.render.community import community_id, protocol_number
from ctk.render.encode import harmless
from ctk.render.eventlog import stored_labels
from ctk.store.columns import FlowRecord

VERSION = "8.11.0"  # of the schema
_TRANSPORTS = {"icmpv6": "ipv6-icmp"}  # IANA's words, where they are others


def ecs_line(record: FlowRecord) -> bytes:
    """Return the event of a flow, one JSON object without the line's end."""
    from orjson import dumps

    number = protocol_number(record.proto)
    types = ["connection"]
    if record.new_events:
        types.append("start")
    if record.destroy_events:
        types.append("end")
    addresses = (record.src, record.dst, record.nat_src, record.nat_dst)
    event: dict[str, Any] = {
        "@timestamp": record.started_at,
        "ecs": {"version": VERSION},
        "event": {
            "kind": "event",
            "category": ["network"],
            "type": types,
            "module": "ctk",
            "dataset": "ctk.flow",
            "start": record.started_at,
            "end": record.ended_at,
            "duration": record.ended_ns - record.started_ns,
        },
        "source": {
            "address": record.src,
            "ip": record.src,
            "port": record.src_port,
            "bytes": record.bytes_out,
            "packets": record.packets_out,
            "nat": {"ip": record.nat_src},
        },
        "destination": {
            "address": record.dst,
            "ip": record.dst,
            "port": record.dst_port,
            "bytes": record.bytes_in,
            "packets": record.packets_in,
            "nat": {"ip": record.nat_dst, "port": record.nat_dst_port},
        },
        "network": {
            "transport": _TRANSPORTS.get(record.proto, record.proto),
            "iana_number": None if number is None else str(number),
            "type": None if record.ip_version is None else f"ipv{record.ip_version}",
            "bytes": _sum(record.bytes_out, record.bytes_in),
            "packets": _sum(record.packets_out, record.packets_in),
            "community_id": community_id(record),
        },
        "related": {"ip": sorted({address for address in addresses if address})},
        "observer": {"hostname": record.node, "product": "ctk", "type": "sensor"},
        "orchestrator": {"type": "kubernetes", "cluster": {"name": record.cluster}},
        "ctk": {
            "source": _side(record, "src"),
            "destination": _side(record, "dst"),
            "service": record.service,
            "service_via": record.service_via,
            "zone": record.zone,
            "connections": record.connections,
            "new_events": record.new_events,
            "update_events": record.update_events,
            "destroy_events": record.destroy_events,
            "unreplied": record.unreplied,
            "refused": record.refused,
        },
    }
    return harmless(dumps(_known(event)))


def _side(record: FlowRecord, side: str) -> dict[str, Any]:
    keys = ("kind", "namespace", "name", "workload", "workload_kind", "node", "node_zone")
    found = {key: getattr(record, f"{side}_{key}") for key in keys}
    # Elasticsearch would make objects of the dots in a key: app, and name in app.kubernetes.io.
    labels = stored_labels(getattr(record, f"{side}_labels")) or {}
    found["labels"] = {key.replace(".", "_"): value for key, value in labels.items()}
    return found


def _sum(out: int | None, back: int | None) -> int | None:
    return None if out is None or back is None else out + back


def _known(value: dict[str, Any]) -> dict[str, Any]:
    """Leave out what is null, and what has nothing in it then."""
    known = {
        key: _known(inner) if isinstance(inner, dict) else inner for key, inner in value.items()
    }
    return {key: inner for key, inner in known.items() if inner is not None and inner != {}}
