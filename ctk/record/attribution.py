"""
What a window held, as rows of the file and as records for people.

Where groups meet who they belonged to: one row an edge, a connection or an event.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from socket import AF_INET, AF_INET6, inet_ntop
from typing import Any

import orjson

from ctk.conntrack.aggregate import Aggregation, Window
from ctk.conntrack.connections import Group
from ctk.model import AnyEdge, Edge, Endpoint, FlowRecord, FlowRow, FlowTuple, LoneEvent
from ctk.timespan import format_time


def rows_of(
    window: Window, edge_of: Callable[[Group], AnyEdge], aggregation: Aggregation
) -> tuple[list[FlowRow], dict[AnyEdge, list[LoneEvent]]]:
    """
    Turn what a window held into rows: one an edge, a connection or an event.

    Events without counters are the second part, under their edge.
    """
    first_ns, last_ns = window.started_ns, window.ended_ns - 1
    merged: dict[AnyEdge, FlowRow] = {}
    alone: list[FlowRow] = []
    events: dict[AnyEdge, list[LoneEvent]] = {}
    for totals in window.totals:
        group = totals.group
        edge = group.edge
        if edge is None:
            edge = edge_of(group)
        if totals.apart is not None:
            if totals.apart.lone:
                events.setdefault(edge, []).extend(_with_ports(edge, totals.apart.lone))
            for at_ns, port, counts, moved in totals.apart.measured:
                packets_out, bytes_out, packets_in, bytes_in = moved
                measured = (bytes_out, packets_out, bytes_in, packets_in)
                alone.append(_as_row(edge, (at_ns, port, counts), measured))
            continue
        started_ns = min(max(totals.started_ns, first_ns), last_ns)
        row = FlowRow(
            edge,
            started_ns,
            max(started_ns, min(totals.ended_ns, last_ns)),
            totals.port if has_ports(edge) else None,
            totals.connections,
            totals.new_events,
            totals.update_events,
            totals.destroy_events,
            totals.unreplied,
            totals.refused,
            *(
                (totals.bytes_out, totals.packets_out, totals.bytes_in, totals.packets_in)
                if totals.measured
                else (None, None, None, None)
            ),
        )
        if aggregation == "connections":
            alone.append(row)
            continue
        other = merged.get(edge)
        merged[edge] = row if other is None else _sum(other, row)
    return [*merged.values(), *alone], events


def has_ports(edge: AnyEdge) -> bool:
    """Of an edge that has none, it is the edge itself that is handed on, not its id."""
    return isinstance(edge, int) or edge.dst_port is not None


def _with_ports(edge: AnyEdge, events: Sequence[LoneEvent]) -> Sequence[LoneEvent]:
    """What stands in place of a port where a protocol has none is nobody's source port."""
    if has_ports(edge):
        return events
    return [(at_ns, None, counts) for at_ns, _, counts in events]


def _as_row(
    edge: AnyEdge, event: LoneEvent, measured: Sequence[int | None] = (None,) * 4
) -> FlowRow:
    [(at_ns, port, counts)] = _with_ports(edge, [event])
    bits = (counts >> bit & 1 for bit in range(6))
    return FlowRow._make((edge, at_ns, at_ns, port, *bits, *measured))


def rows_of_events(events: Mapping[AnyEdge, Sequence[LoneEvent]]) -> Iterator[FlowRow]:
    return (_as_row(edge, event) for edge, under in events.items() for event in under)


def _sum(one: FlowRow, other: FlowRow) -> FlowRow:
    counts = [
        mine if its is None else its if mine is None else mine + its
        for mine, its in zip(one[4:], other[4:], strict=True)
    ]
    return FlowRow(
        one.edge,
        min(one.started_ns, other.started_ns),
        max(one.ended_ns, other.ended_ns),
        one.src_port if one.src_port == other.src_port else None,
        *counts,  # type: ignore[arg-type]
    )


@lru_cache(maxsize=16_384)
def _address(packed: bytes) -> str:
    return inet_ntop(AF_INET if len(packed) == 4 else AF_INET6, packed)


def ends_of(
    flow: FlowTuple,
) -> tuple[str, int, str, str, int | None, str, int | None, str]:
    return (
        flow.proto,
        flow.zone,
        _address(flow.src),
        _address(flow.dst),
        flow.dst_port,
        _address(flow.reply_src),
        flow.reply_src_port,
        _address(flow.reply_dst),
    )


def as_record(row: FlowRow, edge: Edge, node: str) -> FlowRecord:
    """The row, which is one of `edge`, as the `flows` view shows it."""
    src, dialled, backend = edge.src, edge.dialled, edge.backend
    return FlowRecord._make(
        (
            format_time(row.started_ns),
            format_time(row.ended_ns),
            row.started_ns,
            row.ended_ns,
            node,
            edge.proto,
            6 if ":" in src.address else 4,
            edge.zone,
            src.address,
            row.src_port,
            dialled.address,
            edge.dst_port,
            edge.nat_src,
            backend.address if backend.address != dialled.address else None,
            edge.nat_dst_port,
            *_identity(src),
            *_identity(backend),
            edge.service,
            edge.service_via,
            *row[4:],
        )
    )


def _identity(endpoint: Endpoint) -> tuple[Any, ...]:
    return (
        endpoint.kind,
        endpoint.namespace,
        endpoint.name,
        endpoint.workload,
        endpoint.workload_kind,
        endpoint.node,
        orjson.dumps(dict(endpoint.labels)).decode() if endpoint.labels else None,
    )
