"""
How many addresses a row stands for, of edges that stand for many: beside the row, at every level.

What is stored is a number for people, and the count that it comes from (ctk.model.distinct), which
is merged where rows are summed up.
"""

import sqlite3
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, cast

from ctk.model import Kind
from ctk.model.distinct import Distinct
from ctk.store import bulk
from ctk.store.columns import EdgeRow

# The endpoints and edges that stand for many have ids below zero, apart from all others.
ENDPOINT_IDS: Mapping[Kind, int] = {"external": -1, "unknown": -2}


class FoldedCount(NamedTuple):
    """How many addresses a row of an edge that stands for many has; None of a side that is one."""

    edge_id: int
    started_ns: int
    src: Distinct | None
    dst: Distinct | None


_GET = (
    "SELECT src_counted, dst_counted FROM folded WHERE level = ? AND started_ns = ? AND edge_id = ?"
)
_PUT = (
    "INSERT OR REPLACE INTO folded(level, started_ns, edge_id, src_addresses, dst_addresses,"
    " src_counted, dst_counted) VALUES (?, ?, ?, ?, ?, ?, ?)"
)
_FINER = (
    "SELECT edge_id, src_counted, dst_counted FROM folded"
    " WHERE level = ? AND started_ns >= ? AND started_ns < ?"
)


def make_endpoints(conn: sqlite3.Connection) -> None:
    """Make the endpoints that stand for many, where they are not there yet."""
    conn.executemany(
        "INSERT OR IGNORE INTO endpoint(id, address, packed, kind, valid_from_ns)"
        " VALUES (?, 'other', x'', ?, 0)",
        [(row_id, kind) for kind, row_id in ENDPOINT_IDS.items()],
    )


def next_edge_id(conn: sqlite3.Connection) -> int:
    """Return the id of the next edge that stands for many."""
    (lowest,) = conn.execute("SELECT MIN(id) FROM edge").fetchone()
    return min(lowest or 0, 0) - 1


def other_edge(conn: sqlite3.Connection, key: EdgeRow) -> int:
    """Return the id of an edge that stands for many, which is made where it is not there yet."""
    same = " AND ".join(f"{column} IS ?" for column in EdgeRow._fields)
    found = conn.execute(f"SELECT id FROM edge WHERE +id < 0 AND {same}", key).fetchone()
    if found is not None:
        return int(found[0])
    make_endpoints(conn)
    other_id = next_edge_id(conn)
    conn.execute(bulk.plain("edge", ("id", *EdgeRow._fields)).one, (other_id, *key))
    return other_id


def add(conn: sqlite3.Connection, level: str, counts: Iterable[FoldedCount]) -> None:
    """Count addresses for rows of a level, with what is counted for them already."""
    for each in counts:
        found = conn.execute(_GET, (level, each.started_ns, each.edge_id)).fetchone()
        src, dst = each.src, each.dst
        if found is not None:
            src, dst = merged(read(found[0]), src), merged(read(found[1]), dst)
        row = (level, each.started_ns, each.edge_id, *map(_len, (src, dst)))
        conn.execute(_PUT, (*row, *map(_pack, (src, dst))))


def of_bucket(
    conn: sqlite3.Connection, level: str, start_ns: int, until_ns: int
) -> dict[int, FoldedCount]:
    """Merge what is counted for the rows of a level in a span, by their edge."""
    found: dict[int, FoldedCount] = {}
    for edge_id, src_counted, dst_counted in conn.execute(_FINER, (level, start_ns, until_ns)):
        count = FoldedCount(edge_id, start_ns, read(src_counted), read(dst_counted))
        found[edge_id] = plus(found.get(edge_id), count)
    return found


def put(
    conn: sqlite3.Connection, level: str, started_ns: int, counts: Mapping[int, FoldedCount]
) -> None:
    """Store the counts of a bucket, in place of what was there."""
    forget(conn, level, started_ns, started_ns + 1)
    add(conn, level, [count._replace(started_ns=started_ns) for count in counts.values()])


def forget(conn: sqlite3.Connection, level: str, since_ns: int, until_ns: int) -> None:
    """Throw away what is counted for the rows of a level in a span."""
    conn.execute(
        "DELETE FROM folded WHERE level = ? AND started_ns >= ? AND started_ns < ?",
        (level, since_ns, until_ns),
    )


class _DistinctCount:
    """The aggregate `distinct_count(values)`: a packed `Distinct`, NULL of nothing but NULLs."""

    def __init__(self) -> None:
        self._counted: Distinct | None = None

    def step(self, value: bytes | None) -> None:
        if value is not None:
            if self._counted is None:
                self._counted = Distinct()
            self._counted.add(value)

    def finalize(self) -> bytes | None:
        return _pack(self._counted)


def make_aggregate(conn: sqlite3.Connection) -> None:
    """Let SQL of this connection use `distinct_count`."""
    # typeshed knows aggregates of numbers only.
    conn.create_aggregate("distinct_count", 1, cast(Any, _DistinctCount))


def plus(one: FoldedCount | None, other: FoldedCount) -> FoldedCount:
    """Count what both have counted, for the row of the first."""
    if one is None:
        return other
    return one._replace(src=merged(one.src, other.src), dst=merged(one.dst, other.dst))


def merged(one: Distinct | None, other: Distinct | None) -> Distinct | None:
    """Count what either has counted; the first takes the second in."""
    if one is None or other is None:
        return other if one is None else one
    one.merge(other)
    return one


def read(packed: bytes | None) -> Distinct | None:
    """Give what is stored of a count."""
    return None if packed is None else Distinct.unpack(packed)


def _len(counted: Distinct | None) -> int | None:
    return None if counted is None else len(counted)


def _pack(counted: Distinct | None) -> bytes | None:
    return None if counted is None else counted.pack()
