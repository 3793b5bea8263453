"""
What a window held, as rows of the file and as records for people.

Where groups meet who they belonged to: one row an edge, a connection or an event.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from operator import attrgetter
from socket import AF_INET, AF_INET6, inet_ntop
from typing import NamedTuple

import orjson

from ctk.conntrack.aggregate import Aggregation, Window
from ctk.conntrack.connections import Group
from ctk.model import AnyEdge, Edge, Endpoint, FlowRow, FlowTuple, LoneEvent, counts_of
from ctk.store.columns import FLOW_COLUMNS, FLOW_KEYS, FlowRecord
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
    return FlowRow._make((edge, at_ns, at_ns, port, *counts_of(counts), *measured))


def rows_of_events(events: Mapping[AnyEdge, Sequence[LoneEvent]]) -> Iterator[FlowRow]:
    return (_as_row(edge, event) for edge, under in events.items() for event in under)


def _sum(one: FlowRow, other: FlowRow) -> FlowRow:
    counts = [
        mine if its is None else its if mine is None else mine + its
        for mine, its in zip(one.counts, other.counts, strict=True)
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


def as_record(
    row: FlowRow,
    edge: Edge,
    node: str,
    cluster: str | None = None,
    zone_of: Callable[[str | None], str | None] = lambda node: None,
) -> FlowRecord:
    """The row, which is one of `edge`, as the `flows` view shows it."""
    src, dialled, backend = edge.src, edge.dialled, edge.backend
    values: dict[str, object] = dict(zip(_TAKEN, _take(_Told(row, edge)), strict=True))
    values |= {
        "started_at": format_time(row.started_ns),
        "ended_at": format_time(row.ended_ns),
        "ended_ns": row.ended_ns,
        "cluster": cluster,
        "node": node,
        "ip_version": 6 if ":" in src.address else 4,
        "src_port": row.src_port,
        "nat_dst": backend.address if backend.address != dialled.address else None,
        "src_node_zone": zone_of(src.node),
        "src_labels": _as_json(src),
        "dst_node_zone": zone_of(backend.node),
        "dst_labels": _as_json(backend),
    }
    return FlowRecord._make(map(values.__getitem__, FLOW_KEYS))


class _Told(NamedTuple):
    """What a record is made of."""

    row: FlowRow
    edge: Edge


# Where a column of these tables is found in a _Told.
_TABLES = {
    "f": "row",
    "edge": "edge",
    "src": "edge.src",
    "dialled": "edge.dialled",
    "backend": "edge.backend",
}


def _places() -> Iterator[tuple[str, str]]:
    """The keys that are a column of a table as it is, and where in a _Told they are found."""
    for key, column in FLOW_COLUMNS.items():
        table, dot, name = column.sql.partition(".")
        if dot and table in _TABLES and name.isidentifier() and not column.json:
            yield key, f"{_TABLES[table]}.{name}"


_TAKEN, _FOUND_AT = zip(*_places(), strict=True)
_take = attrgetter(*_FOUND_AT)


def _as_json(endpoint: Endpoint) -> str | None:
    return orjson.dumps(dict(endpoint.labels)).decode() if endpoint.labels else None
