"""What a window held, as rows of the file and as records for people."""

from collections.abc import Callable, Iterator, Mapping
from operator import attrgetter
from typing import NamedTuple

import orjson

from ctk.conntrack.aggregate import Window
from ctk.conntrack.counting import Aggregation
from ctk.conntrack.groups import Addresses, Counters, Group, Totals
from ctk.model import Edge, Endpoint, FlowRow, counts_of
from ctk.model.distinct import Distinct
from ctk.model.lone import LoneEvents
from ctk.store.columns import FLOW_COLUMNS, FLOW_KEYS, FlowRecord, edge_path
from ctk.store.flows import sum_of
from ctk.store.folded import FoldedCount
from ctk.timespan import format_time

_IP_VERSIONS = {4: 4, 16: 6}  # by an address's bytes; an edge of others only has none
_NOT_MEASURED = (None, None, None, None)
Measured = tuple[int | None, int | None, int | None, int | None]  # in a FlowRow's order


class Rows(NamedTuple):
    """
    The rows of a window; of single events without counters, the events with their edge's id.

    Of an edge that stands for many there is one row.
    """

    rows: list[FlowRow]
    events: LoneEvents[int]
    addresses: dict[int, Addresses]  # that rows stand for, by their edge's id

    def folded(self) -> Iterator[FoldedCount]:
        """Yield how many addresses the rows stand for that stand for many."""
        for row in self.rows if self.addresses else ():
            counted = self.addresses.get(row.edge_id)
            if counted is not None:
                yield FoldedCount(row.edge_id, row.started_ns, counted.src, counted.dst)

    def __len__(self) -> int:
        return len(self.rows) + len(self.events)

    def each(self) -> Iterator[FlowRow]:
        """Yield every row, those of single events too."""
        yield from self.rows
        for at_ns, edge_id, port, counts in self.events:
            yield _row_of_event(edge_id, at_ns, port, counts, _NOT_MEASURED)


def rows_of(window: Window, edge_id_of: Callable[[Group], int], aggregation: Aggregation) -> Rows:
    """Turn what a window held into rows: one an edge, a connection or an event."""
    merged: dict[int, FlowRow] = {}
    alone: list[FlowRow] = []
    edge_ids: dict[Group, int] = {}
    addresses: dict[int, Addresses] = {}
    for totals in window.totals:
        edge_id = edge_ids[totals.group] = edge_id_of(totals.group)
        if totals.apart is not None:
            has_ports = totals.group.has_ports
            for at_ns, port, counts, moved in totals.apart:
                src_port = port if has_ports else None
                alone.append(_row_of_event(edge_id, at_ns, src_port, counts, _measured(moved)))
            continue
        row = _row(edge_id, totals, window)
        if totals.addresses is not None:
            counted = addresses.setdefault(edge_id, totals.addresses)
            if counted is not totals.addresses:
                counted.merge(totals.addresses)
        elif aggregation == "connections":
            alone.append(row)
            continue
        other = merged.get(edge_id)
        merged[edge_id] = row if other is None else sum_of(other, row)
    events = _with_edges(window.lone, edge_ids)
    return Rows([*merged.values(), *alone], events, addresses)


def _with_edges(lone: LoneEvents[Group], edge_ids: Mapping[Group, int]) -> LoneEvents[int]:
    """Put ids of edges in the place of groups; take out what is no port: an ICMP id, say."""
    events, ports = LoneEvents[int](), lone.src_ports
    if not lone:
        return events
    portless = {group for group in set(lone.owners) if not group.has_ports}
    if portless:
        both = zip(lone.owners, ports, strict=True)
        ports = [None if group in portless else port for group, port in both]
    events.extend(lone.started_ns, map(edge_ids.__getitem__, lone.owners), ports, lone.counts)
    return events


def events_of(window: Window) -> int:
    """Return how many kernel events a window holds."""
    return len(window.lone) + sum(
        len(each.apart)
        if each.apart is not None
        else each.new_events + each.update_events + each.destroy_events
        for each in window.totals
    )


def size_of(window: Window) -> int:
    """Return how many totals and single events a window holds in memory."""
    return len(window.lone) + sum(1 + len(each.apart or ()) for each in window.totals)


def started_in(totals: Totals, window: Window) -> int:
    """Say when the row of these totals starts."""
    return min(max(totals.started_ns, window.started_ns), window.ended_ns - 1)


def _row(edge_id: int, totals: Totals, window: Window) -> FlowRow:
    last_ns = window.ended_ns - 1
    started_ns = started_in(totals, window)
    moved = Counters(totals.packets_out, totals.bytes_out, totals.packets_in, totals.bytes_in)
    return FlowRow(
        edge_id,
        started_ns,
        max(started_ns, min(totals.ended_ns, last_ns)),
        totals.port if totals.group.has_ports else None,
        totals.connections,
        totals.new_events,
        totals.update_events,
        totals.destroy_events,
        totals.unreplied,
        totals.refused,
        *(_measured(moved) if totals.measured else _NOT_MEASURED),
    )


def _row_of_event(
    edge_id: int, at_ns: int, port: int | None, counts: int, measured: Measured
) -> FlowRow:
    return FlowRow._make((edge_id, at_ns, at_ns, port, *counts_of(counts), *measured))


def _measured(moved: Counters) -> Measured:
    """Put the kernel's counters into a FlowRow's order."""
    packets_out, bytes_out, packets_in, bytes_in = moved
    return bytes_out, packets_out, bytes_in, packets_in


class ToldRow(NamedTuple):
    """A row with its edge, and how many addresses it stands for where it stands for many."""

    row: FlowRow
    edge: Edge
    addresses: Addresses | None = None


def as_record(
    told: ToldRow,
    node: str,
    cluster: str | None = None,
    zone_of: Callable[[str | None], str | None] = lambda node: None,
) -> FlowRecord:
    """The row as the `flows` view shows it."""
    row, edge, addresses = told
    src, dialled, backend = edge.src, edge.dialled, edge.backend
    values: dict[str, object] = dict(zip(_TAKEN, _take(told), strict=True))
    values |= {
        "started_at": format_time(row.started_ns),
        "ended_at": format_time(row.ended_ns),
        "ended_ns": row.ended_ns,
        "cluster": cluster,
        "node": node,
        "ip_version": _IP_VERSIONS.get(len(edge.flow.src or edge.flow.dst)),
        "src_port": row.src_port,
        "nat_dst": backend.address if backend.address != dialled.address else None,
        "src_node_zone": zone_of(src.node),
        "src_labels": _as_json(src),
        "dst_node_zone": zone_of(backend.node),
        "dst_labels": _as_json(backend),
        "src_addresses": _count(addresses.src) if addresses else None,
        "dst_addresses": _count(addresses.dst) if addresses else None,
    }
    return FlowRecord._make(map(values.__getitem__, FLOW_KEYS))


# Where a column of these tables is found in a Told.
_TABLES = {
    "f": "row",
    "edge": "edge",
    "src": "edge.src",
    "dialled": "edge.dialled",
    "backend": "edge.backend",
}


def _places() -> Iterator[tuple[str, str]]:
    """The keys that are a column of a table as it is, and where in a Told they are found."""
    for key, column in FLOW_COLUMNS.items():
        table, dot, name = column.sql.partition(".")
        if dot and table in _TABLES and name.isidentifier() and not column.json:
            yield key, f"edge.{edge_path(name)}" if table == "edge" else f"{_TABLES[table]}.{name}"


_TAKEN, _FOUND_AT = zip(*_places(), strict=True)
_take = attrgetter(*_FOUND_AT)


def _count(addresses: Distinct | None) -> int | None:
    return None if addresses is None else len(addresses)


def _as_json(endpoint: Endpoint) -> str | None:
    return orjson.dumps(dict(endpoint.labels)).decode() if endpoint.labels else None
