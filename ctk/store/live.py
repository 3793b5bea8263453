"""
What the file keeps of live connections: all of them at a clean stop, for the next recording, and
from time to time those that have moved nothing for long, for whoever asks.
"""

import sqlite3
import struct
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from ctk.model.kept import LiveConnections, Sides

if TYPE_CHECKING:
    from ctk.model import IdleConnections

AT_ONCE = 5_000  # rows that are kept between two writes of edges

_KEEP = "INSERT INTO connection(flow, began_ns, edge_id, keys, counters) VALUES (?,?,?,?,?)"
_STRANGE = ("external", "unknown")
# 26 bytes a connection, the same on every host: source port (0 without one), began_ns, moved_ns,
# and the bytes of both directions.
_IDLE = struct.Struct("<HqqQ")


class IdleRow(NamedTuple):
    """One idle connection of an edge, as it is kept."""

    src_port: int
    began_ns: int
    moved_ns: int
    bytes: int


def forget(conn: sqlite3.Connection, recorder_id: int) -> None:
    """Throw away what is kept of a node's live connections."""
    conn.execute(
        "DELETE FROM connection WHERE edge_id IN (SELECT id FROM edge WHERE recorder_id = ?)",
        (recorder_id,),
    )


def keep(conn: sqlite3.Connection, some: Iterable[LiveConnections]) -> None:
    """Keep connections that go on."""
    conn.executemany(
        _KEEP, ((each.flow, each.began_ns, each.edge_id, each.keys, each.counters) for each in some)
    )


def load(conn: sqlite3.Connection, recorder_id: int) -> Iterator[LiveConnections]:
    """Yield what was kept of a node's live connections."""
    rows = conn.execute(
        "SELECT flow, began_ns, edge_id, edge.dst_port IS NOT NULL, keys, counters,"
        " src_id < 0, dialled_id < 0, backend_id < 0, src.kind, dialled.kind, backend.kind"
        " FROM connection JOIN edge ON edge.id = edge_id"
        " LEFT JOIN endpoint AS src ON src.id = src_id"
        " LEFT JOIN endpoint AS dialled ON dialled.id = dialled_id"
        " LEFT JOIN endpoint AS backend ON backend.id = backend_id"
        " WHERE edge.recorder_id = ?",
        (recorder_id,),
    )
    for flow, began_ns, edge_id, has_ports, keys, counters, *of_sides in rows:
        plain = LiveConnections(flow, began_ns, edge_id, bool(has_ports), keys, counters)
        if edge_id < 0:
            yield plain._replace(folded=Sides(*map(bool, of_sides[:3])))
        else:
            src, dialled, backend = (kind if kind in _STRANGE else None for kind in of_sides[3:])
            yield plain._replace(strangers=(src, dialled, backend))


def keep_idle(
    conn: sqlite3.Connection, recorder_id: int, recording_id: int, idle: "IdleConnections"
) -> None:
    """Keep a node's idle connections in place of those of an earlier look."""
    conn.execute(
        "DELETE FROM idle WHERE edge_id IN (SELECT edge_id FROM idle"
        " CROSS JOIN edge ON edge.id = edge_id WHERE recorder_id = ?)",
        (recorder_id,),
    )
    conn.executemany(
        # An edge may be gone that a connection had which has ended since the look.
        "INSERT INTO idle(edge_id, connections) SELECT id, ? FROM edge WHERE id = ?",
        [
            (b"".join(_IDLE.pack(*each) for each in some), edge_id)
            for edge_id, some in sorted(idle.by_edge.items())
        ],
    )
    conn.execute(
        "UPDATE recording SET idle_ns = ?, idle_more = ?, idle_unmeasured = ? WHERE id = ?",
        (idle.at_ns, idle.more, idle.unmeasured, recording_id),
    )


def idle_rows(packed: bytes) -> Iterator[IdleRow]:
    """Read what `keep_idle` keeps of one edge."""
    return map(IdleRow._make, _IDLE.iter_unpack(packed))
