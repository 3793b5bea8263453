"""
Who talked to whom for the first time: peers that no earlier row, and no memory, knows.

A peer is a client workload (or pod, node, address), the service or workload it dialled, and the
port. When an edge was first seen stands on it, and outlives its rows; of edges that are gone the
file remembers their peers.
"""

import sqlite3
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import NamedTuple

from ctk.ask.caveats import BeganLater, Caveat, StrangersForgotten
from ctk.ask.connection import choose_edges, one_moment
from ctk.ask.selectors import Condition
from ctk.ask.sums import KEYS, Counts, refuse_cut
from ctk.ask.top import TopRow, top
from ctk.model import Filters
from ctk.store import peers
from ctk.store.columns import joins_of
from ctk.store.peers import CLIENT, Peer
from ctk.timespan import FOREVER_NS

BY = Peer._fields
_NAMED = ", ".join(KEYS[key] for key in BY)


class NewPeer(NamedTuple):
    """A peer, when it was first seen, and what its flows in the span add up to."""

    peer: Peer
    first_ns: int
    counts: Counts


class New(NamedTuple):
    """Peers that were first seen in the span, in that order."""

    rows: tuple[NewPeer, ...]
    caveats: tuple[Caveat, ...]


def new(conn: sqlite3.Connection, filters: Filters) -> New:
    """List the peers that were seen for the first time in a span, of those whose flows fit."""
    refuse_cut(filters, "peers")
    since_ns = -FOREVER_NS if filters.since_ns is None else filters.since_ns
    until_ns = FOREVER_NS if filters.until_ns is None else filters.until_ns
    with one_moment(conn):
        first_ns = fresh(conn, since_ns, until_ns)
        for peer in known(conn, first_ns, since_ns):
            del first_ns[peer]
        ranked = top(conn, filters, BY, "connections", None)
        caveats = [*caveats_of_new(conn, since_ns), *ranked.caveats]
    return answer(first_ns, ranked.rows, caveats)


def answer(
    first_ns: Mapping[Peer, int], ranked: Iterable[TopRow], caveats: Iterable[Caveat]
) -> New:
    """Put together when peers were first seen, and what is known of them."""
    rows = [
        NewPeer(peer=peer, first_ns=first_ns[peer], counts=row.counts)
        for row in ranked
        if (peer := Peer._make(row.keys)) in first_ns
    ]
    rows.sort(key=lambda row: (row.first_ns, *map(str, row.peer)))
    return New(rows=tuple(rows), caveats=tuple(caveats))


def fresh(conn: sqlite3.Connection, since_ns: int, until_ns: int) -> dict[Peer, int]:
    """Give the peers with an edge that was first seen in the span, and when."""
    return _named(conn, "first_ns >= ? AND first_ns < ?", (since_ns, until_ns))


def known(conn: sqlite3.Connection, some: Collection[Peer], since_ns: int) -> set[Peer]:
    """Give those of some peers that were seen before a time."""
    if not some:
        return set()
    import json

    # The same names may stand on an older edge: that of another pod of the workload, say.
    clients = json.dumps(list({peer.client for peer in some}))
    older = _named(
        conn,
        "IFNULL(first_ns < ?, 1) AND src_id IN (SELECT src.id FROM endpoint AS src"
        f" WHERE {CLIENT} IN (SELECT value FROM json_each(?)))",
        (since_ns, clients),
    )
    return {peer for peer in some if peer in older} | {
        peer for peer, first_ns in peers.remembered(conn, some).items() if first_ns < since_ns
    }


def _named(conn: sqlite3.Connection, condition: str, values: tuple[object, ...]) -> dict[Peer, int]:
    """Give the peers of the edges that fit, and when the first edge of each was first seen."""
    choose_edges(conn, "chosen", Condition(f"id > 0 AND {condition}", values))
    found = conn.execute(
        f"SELECT {_NAMED}, MIN(edge.first_ns) FROM temp.chosen CROSS JOIN edge USING (id)"
        f" {joins_of(_NAMED)} GROUP BY {', '.join(map(str, range(1, len(BY) + 1)))}"
    )
    return {Peer._make(names): first_ns for *names, first_ns in found}


def caveats_of_new(conn: sqlite3.Connection, since_ns: int) -> Iterator[Caveat]:
    (began_ns,) = conn.execute("SELECT MIN(started_ns) FROM recording").fetchone()
    if began_ns is not None and began_ns >= since_ns:
        yield BeganLater(began_ns)
    if peers.count(conn) >= peers.most_strangers(conn):
        yield StrangersForgotten()
