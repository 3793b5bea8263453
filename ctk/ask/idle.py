"""Which live connections have moved nothing for long, as a recorder last saw them."""

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from ctk.ask.caveats import (
    Caveat,
    IdleLeftOut,
    IdleUnmeasured,
    NoIdleLook,
    NothingRecorded,
    caveats_of,
)
from ctk.ask.connection import choose_edges, one_moment
from ctk.ask.selectors import edge_condition, row_condition
from ctk.ask.sums import KEYS, refuse_cut
from ctk.errors import UsageError
from ctk.model import Filters, Term
from ctk.store.columns import joins_of
from ctk.store.live import idle_rows
from ctk.timespan import FOREVER_NS, MINUTE, format_age

LEAST_NS = 5 * MINUTE  # what a recorder keeps has been idle for so long at least

_KEYS = {
    "node": "recorder.node",
    "proto": "edge.proto",
    **{key: KEYS[key] for key in ("source", "src", "destination", "dst", "dst_port", "service")},
}


class IdleConnection(NamedTuple):
    """
    A live connection that moves nothing.

    `as_of_ns` is when its recorder looked. It was seen to move something at `moved_ns`, or first
    seen then; `bytes` are those that it moved before.
    """

    as_of_ns: int
    began_ns: int
    moved_ns: int
    node: str
    proto: str
    source: str
    src: str
    src_port: int | None
    destination: str
    dst: str
    dst_port: int | None
    service: str | None
    bytes: int

    @property
    def idle_ns(self) -> int:
        return self.as_of_ns - self.moved_ns


class Idle(NamedTuple):
    """
    Idle connections, the longest idle first.

    `looks` are when each node's recorder looked, and `as_of_ns` the oldest of these; None where
    there is none.
    """

    rows: tuple[IdleConnection, ...]
    looks: tuple[tuple[str, int], ...]
    caveats: tuple[Caveat, ...]

    @property
    def as_of_ns(self) -> int | None:
        return min((at_ns for _, at_ns in self.looks), default=None)


def idle(conn: sqlite3.Connection, filters: Filters, least_ns: int = LEAST_NS) -> Idle:
    """List live connections that have moved nothing for `least_ns`; a span is of their begin."""
    refuse_cut(filters, "connections")
    if least_ns < LEAST_NS:
        least = format_age(LEAST_NS)
        raise UsageError(
            f"connections idle for less than {least} are not in the file",
            hint=f"--min-idle {least}",
        )
    with one_moment(conn):
        looks = _looks(conn)
        of_edge, of_port = _split(filters)
        some = [each for each in _found(conn, filters, of_edge, looks) if each.idle_ns >= least_ns]
        found = _with_ports(conn, some, of_port)
        caveats = list(caveats_of(conn, filters, gaps=False))
    if not looks and NothingRecorded() not in caveats:
        caveats.append(NoIdleLook())
    if unmeasured := sum(look.unmeasured for look in looks.values()):
        caveats.append(IdleUnmeasured(unmeasured))
    if more := sum(look.more for look in looks.values()):
        caveats.append(IdleLeftOut(more))
    of_nodes = tuple(sorted((look.node, look.at_ns) for look in looks.values()))
    return Idle(rows=tuple(in_order(found)), looks=of_nodes, caveats=tuple(caveats))


def in_order(found: Iterable[IdleConnection]) -> list[IdleConnection]:
    return sorted(found, key=lambda each: (-each.idle_ns, each.began_ns, each.src))


class _NodeLook(NamedTuple):
    """When a node's recorder looked, and what it left out."""

    node: str
    at_ns: int
    more: int
    unmeasured: int


def _looks(conn: sqlite3.Connection) -> dict[int, _NodeLook]:
    """Give the last look of each recorder."""
    found = conn.execute(
        "SELECT recorder_id, recorder.node, MAX(idle_ns), idle_more, idle_unmeasured FROM recording"
        " JOIN recorder ON recorder.id = recorder_id WHERE idle_ns IS NOT NULL GROUP BY recorder_id"
    )
    return {recorder_id: _NodeLook(*look) for recorder_id, *look in found}


def _found(
    conn: sqlite3.Connection,
    filters: Filters,
    of_edge: Sequence[Term],
    looks: Mapping[int, _NodeLook],
) -> Iterator[IdleConnection]:
    since_ns = -FOREVER_NS if filters.since_ns is None else filters.since_ns
    until_ns = FOREVER_NS if filters.until_ns is None else filters.until_ns
    if not looks:
        return
    chosen = "1"
    if (fits := edge_condition(of_edge)) is not None:
        choose_edges(conn, "fitting", fits)
        chosen = "edge.id IN (SELECT id FROM temp.fitting)"
    columns = ", ".join(f"{sql} AS {key}" for key, sql in _KEYS.items())
    edges = conn.execute(
        f"SELECT edge.recorder_id, idle.connections, {columns} FROM idle"
        f" CROSS JOIN edge ON edge.id = idle.edge_id {joins_of(columns)}"
        f" WHERE {chosen}"
    )
    for recorder_id, packed, node, proto, source, src, *to in edges.fetchall():
        for port, began_ns, moved_ns, moved in idle_rows(packed):
            if since_ns <= began_ns < until_ns and recorder_id in looks:
                at_ns = looks[recorder_id].at_ns
                known = (at_ns, began_ns, moved_ns, node, proto, source, src, port or None)
                yield IdleConnection._make((*known, *to, moved))


def _split(filters: Filters) -> tuple[list[Term], list[Term]]:
    """Part what is asked of edges from what is asked of source ports; nothing else is known."""
    of_edge = [term for term in filters.terms if row_condition([term]) is None]
    of_row = [term for term in filters.terms if term not in of_edge]
    for term in of_row:
        if term.field != "port":
            flag = f"--{term.field}".replace("_", "-")
            raise UsageError(f"{flag} is of flows, not of live connections", hint="leave it out")
    return of_edge, of_row


def _with_ports(
    conn: sqlite3.Connection, found: list[IdleConnection], terms: Sequence[Term]
) -> list[IdleConnection]:
    """Keep those whose source port fits."""
    condition = row_condition(terms)
    if condition is None:
        return found
    import json

    ports = json.dumps(list({each.src_port for each in found}))
    fitting = {
        port
        for (port,) in conn.execute(
            "SELECT src_port FROM (SELECT value AS src_port FROM json_each(?))"
            f" WHERE {condition.sql}",
            (ports, *condition.values),
        )
    }
    return [each for each in found if each.src_port in fitting]
