"""
A flow as a log record of OpenTelemetry, in OTLP's JSON: what `otlpjsonfile` of the Collector reads.

OpenTelemetry has no names for flows yet. `source.*`, `destination.*` and `network.*` are those of
its registry; `flow.*`, `source.k8s.*` and `destination.k8s.*` are those of the open proposal for
network flows, and may change with it. The scope says so.
"""

from typing import Any

import ctk
from ctk.render.community import community_id
from ctk.render.encode import harmless
from ctk.render.eventlog import stored_labels
from ctk.store.columns import FlowRecord

# The proposal "Network Flow Semantic Convention" as it stood then.
DRAFT = "network flow semantic convention, draft of 2025-09"
# Workloads for which the registry has a name.
_WORKLOADS = frozenset(("deployment", "replicaset", "statefulset", "daemonset", "job", "cronjob"))
_SEVERITY = {"severityNumber": 9, "severityText": "INFO"}


class OtelLines:
    """Makes log records; each stands in a line of its own, with its resource and its scope."""

    def __init__(self) -> None:
        self._scope = {
            "name": "ctk",
            "version": ctk.__version__,
            "attributes": _attributes({"ctk.draft": DRAFT}),
        }

    def __call__(self, record: FlowRecord) -> bytes:
        """Return the line of a flow, one JSON object without the line's end."""
        from orjson import dumps

        resource = {
            "service.name": "ctk",
            "k8s.node.name": record.node,
            "k8s.cluster.name": record.cluster,
        }
        logged = {
            # Numbers of 64 bits are text in OTLP's JSON.
            "timeUnixNano": str(record.started_ns),
            "observedTimeUnixNano": str(record.ended_ns),
            **_SEVERITY,
            "eventName": "network.flow",
            "attributes": _attributes(_of_flow(record)),
        }
        scoped = {"scope": self._scope, "logRecords": [logged]}
        of_resource = {"resource": {"attributes": _attributes(resource)}, "scopeLogs": [scoped]}
        return harmless(dumps({"resourceLogs": [of_resource]}))


def _of_flow(record: FlowRecord) -> dict[str, Any]:
    return {
        "source.address": record.src,
        "source.port": record.src_port,
        "destination.address": record.dst,
        "destination.port": record.dst_port,
        "network.transport": record.proto,
        "network.type": None if record.ip_version is None else f"ipv{record.ip_version}",
        "flow.community_id": community_id(record),
        "flow.bytes.delta": record.bytes_out,
        "flow.packets.delta": record.packets_out,
        "flow.reverse.bytes.delta": record.bytes_in,
        "flow.reverse.packets.delta": record.packets_in,
        **_side("source", record, "src"),
        **_side("destination", record, "dst"),
        "destination.k8s.service.name": (record.service or "").partition("/")[2] or None,
        "ctk.ended_ns": record.ended_ns,
        "ctk.zone": record.zone,
        "ctk.nat_src": record.nat_src,
        "ctk.nat_dst": record.nat_dst,
        "ctk.nat_dst_port": record.nat_dst_port,
        "ctk.service": record.service,
        "ctk.service_via": record.service_via,
        "ctk.connections": record.connections,
        "ctk.new_events": record.new_events,
        "ctk.update_events": record.update_events,
        "ctk.destroy_events": record.destroy_events,
        "ctk.unreplied": record.unreplied,
        "ctk.refused": record.refused,
    }


def _side(name: str, record: FlowRecord, side: str) -> dict[str, Any]:
    def of(key: str) -> Any:
        return getattr(record, f"{side}_{key}")

    found = {
        f"{name}.k8s.node.name": of("name") if of("kind") == "node" else of("node"),
        f"{name}.k8s.namespace.name": of("namespace"),
        f"{name}.k8s.pod.name": of("name") if of("kind") == "pod" else None,
        f"ctk.{name}.kind": of("kind"),
        f"ctk.{name}.node_zone": of("node_zone"),
    }
    kind = (of("workload_kind") or "").lower()
    if kind in _WORKLOADS:
        found[f"{name}.k8s.{kind}.name"] = of("workload")
    for key, value in (stored_labels(of("labels")) or {}).items():
        if of("kind") == "pod":
            found[f"{name}.k8s.pod.label.{key}"] = value
    return found


def _attributes(values: dict[str, Any]) -> list[dict[str, Any]]:
    """Give OTLP's list of attributes, without those that are not known."""
    return [
        {"key": key, "value": _value(value)} for key, value in values.items() if value is not None
    ]


def _value(value: object) -> dict[str, str]:
    return {"intValue": str(value)} if isinstance(value, int) else {"stringValue": str(value)}
