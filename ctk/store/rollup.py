"""
Flows folded to minutes, hours and days.

LEVELS is a table, finest first; each level is folded from the one before it. Two watermarks say
how far a level is: every bucket before `folded_ns` is the exact sum of the finer level, and what
was before `pruned_ns` is gone. A watermark moves in the transaction that makes it true.

`fold` is an iterator of small transactions: the caller stops when it has no more time, and calls
again later.
"""

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import NamedTuple

from ctk.store import bulk, folded
from ctk.store.columns import COUNT_KEYS, MEASURED_KEYS, EdgeRow
from ctk.store.folded import FoldedCount
from ctk.timespan import DAY, FOREVER_NS, HOUR, MINUTE


class Level(NamedTuple):
    name: str
    table: str
    width_ns: int  # of a bucket; 0 where rows keep their own time
    keep_ns: int  # how long rows stay, unless --retain says otherwise
    peers: int  # edges with an external side that a bucket keeps; the others become "other"


LEVELS: tuple[Level, ...] = (
    Level("flow", "flow", 0, DAY, 0),
    Level("1m", "flow_1m", MINUTE, 7 * DAY, 10_000),
    Level("1h", "flow_1h", HOUR, 90 * DAY, 2_000),
    Level("1d", "flow_1d", DAY, 730 * DAY, 1_000),
)

_COPIED_AT_ONCE = 100_000  # rows in one transaction: 50 ms
_COLUMNS = ", ".join(COUNT_KEYS)
_SUMS = ", ".join(f"SUM({key})" for key in COUNT_KEYS)
_ADDED = ", ".join(
    f"{key} = COALESCE({key} + excluded.{key}, {key}, excluded.{key})"
    if key in MEASURED_KEYS  # NULL is "not measured"
    else f"{key} = {key} + excluded.{key}"
    for key in COUNT_KEYS
)


class Watermarks(NamedTuple):
    """How far a level is; None where nothing was folded or pruned yet."""

    folded_ns: int | None
    pruned_ns: int | None


def watermarks(conn: sqlite3.Connection) -> dict[str, Watermarks]:
    return {
        name: Watermarks(folded_ns, pruned_ns)
        for name, folded_ns, pruned_ns in conn.execute(
            "SELECT name, folded_ns, pruned_ns FROM level"
        )
    }


def settled_ns(by_level: Mapping[str, Watermarks]) -> int:
    """A row that starts before this is late at some level."""
    return max((level.folded_ns or -FOREVER_NS for level in by_level.values()), default=-FOREVER_NS)


def floor(at_ns: int, width_ns: int) -> int:
    """The start of the bucket of this width that holds `at_ns`; without a width, `at_ns`."""
    return at_ns - at_ns % width_ns if width_ns else at_ns


def add_late(
    conn: sqlite3.Connection,
    by_level: Mapping[str, Watermarks],
    started_ns: int,
    edge_id: int,
    counts: Sequence[int | None],
) -> bool:
    """
    Add a row to every finished bucket that holds its time, so that all sums stay equal.

    True where the row itself is to be stored: not where flows that old have been pruned.
    """
    for level in LEVELS[1:]:
        folded_ns, pruned_ns = by_level[level.name]
        start_ns = floor(started_ns, level.width_ns)
        if folded_ns is not None and (pruned_ns or 0) <= start_ns < folded_ns:
            conn.execute(_add(level.table, "started_ns, edge_id"), (start_ns, edge_id, *counts))
    return started_ns >= (by_level["flow"].pruned_ns or 0)


def count_late(
    conn: sqlite3.Connection, by_level: Mapping[str, Watermarks], count: FoldedCount
) -> None:
    """Count the addresses of a late row in every finished bucket that holds its time."""
    for level in LEVELS[1:]:
        folded_ns, pruned_ns = by_level[level.name]
        start_ns = floor(count.started_ns, level.width_ns)
        if folded_ns is not None and (pruned_ns or 0) <= start_ns < folded_ns:
            folded.add(conn, level.name, [count._replace(started_ns=start_ns)])


def fold(
    conn: sqlite3.Connection, until_ns: int, levels: Sequence[Level] = LEVELS
) -> Iterator[None]:
    """
    Fold every whole bucket before `until_ns`, one of them a step.

    Rows that start before `until_ns` must be in the file, or come as late ones. Watermarks move
    with rows only, so a clock that jumped ahead for a moment leaves none in the future.
    """
    folded.make_aggregate(conn)
    conn.execute(
        f"CREATE TEMP TABLE IF NOT EXISTS bucket (edge_id INTEGER PRIMARY KEY, {_COLUMNS})"
    )
    for finer, level in pairwise(levels):
        until_ns = floor(until_ns, level.width_ns)
        done_ns = watermarks(conn)[level.name].folded_ns
        while True:
            (next_ns,) = conn.execute(
                f"SELECT MIN(started_ns) FROM {finer.table} WHERE started_ns >= ?",
                (-FOREVER_NS if done_ns is None else done_ns,),
            ).fetchone()
            if next_ns is None or floor(next_ns, level.width_ns) >= until_ns:
                break
            start_ns = floor(next_ns, level.width_ns)
            done_ns = start_ns + level.width_ns
            _fold_bucket(conn, finer, level, start_ns)
            yield


def reopen(conn: sqlite3.Connection, at_ns: int) -> None:
    """
    Unfold the buckets that hold `at_ns`, which the end of a recording folded as they were.

    Rows to come in them are then folded with their bucket, not one by one as late ones. Where a
    finer row is gone already, its bucket stays.
    """
    by_level = watermarks(conn)
    for finer, level in pairwise(LEVELS):
        start_ns = floor(at_ns, level.width_ns)
        is_last = by_level[level.name].folded_ns == start_ns + level.width_ns
        if is_last and (by_level[finer.name].pruned_ns or -FOREVER_NS) <= start_ns:
            conn.execute(f"DELETE FROM {level.table} WHERE started_ns >= ?", (start_ns,))
            folded.forget(conn, level.name, start_ns, FOREVER_NS)
            move_watermark(conn, level, "folded_ns", start_ns)


def _fold_bucket(conn: sqlite3.Connection, finer: Level, level: Level, start_ns: int) -> None:
    # Summed up beside the file, so that the lock is held for the writing only.
    conn.execute("DELETE FROM temp.bucket")
    conn.execute(
        f"INSERT INTO temp.bucket SELECT edge_id, {_COLUMNS} FROM {finer.table}"
        f" WHERE started_ns >= ? AND started_ns < ? ON CONFLICT DO UPDATE SET {_ADDED}",
        (start_ns, start_ns + level.width_ns),
    )
    counts = folded.of_bucket(conn, finer.name, start_ns, start_ns + level.width_ns)
    _fold_tail(conn, level.peers, counts)
    last_id, more = -FOREVER_NS, True
    while more:
        with transaction(conn):
            if last_id == -FOREVER_NS:  # what a crash left of it
                conn.execute(f"DELETE FROM {level.table} WHERE started_ns = ?", (start_ns,))
                folded.forget(conn, level.name, start_ns, start_ns + 1)
                folded.add(
                    conn,
                    level.name,
                    [count._replace(started_ns=start_ns) for count in counts.values()],
                )
            more = _copy_bucket(conn, level, start_ns, last_id) == _COPIED_AT_ONCE
            if not more:
                move_watermark(conn, level, "folded_ns", start_ns + level.width_ns)
        (last_id,) = conn.execute(
            f"SELECT MAX(edge_id) FROM {level.table} WHERE started_ns = ?", (start_ns,)
        ).fetchone()


def _copy_bucket(conn: sqlite3.Connection, level: Level, start_ns: int, after_id: int) -> int:
    copied = conn.execute(
        f"INSERT INTO {level.table}(started_ns, edge_id, {_COLUMNS})"
        f" SELECT ?, edge_id, {_COLUMNS} FROM temp.bucket WHERE edge_id > ?"
        " ORDER BY edge_id LIMIT ?",
        (start_ns, after_id, _COPIED_AT_ONCE),
    )
    return copied.rowcount


def _fold_tail(conn: sqlite3.Connection, peers: int, counts: dict[int, FoldedCount]) -> None:
    """
    Of the bucket's edges with an external or unknown side, fold those past the biggest `peers`.

    Their sums stay, by what they still tell apart, as what a window folds does: the side that is
    known, and the port that was dialled. Those with failures stand apart. How many addresses they
    had is added to `counts`.
    """
    (edges,) = conn.execute("SELECT COUNT(*) FROM temp.bucket").fetchone()
    if edges <= peers:
        return
    conn.execute(_CREATE_TAIL)
    conn.execute("DELETE FROM temp.tail")
    conn.execute(_FILL_TAIL)
    conn.execute(_SPARE_BIGGEST, (peers,))
    ids: dict[EdgeRow, int] = {}
    while others := conn.execute(_SUM_TAIL, (_TAIL_AT_ONCE,)).fetchall():
        with transaction(conn):
            for other in others:
                key = EdgeRow._make(other[:_KEYS])
                if key not in ids:
                    ids[key] = _other_edge(conn, key)
        conn.execute(f"DELETE FROM temp.bucket WHERE edge_id IN ({_TAIL_NOW})", (_TAIL_AT_ONCE,))
        conn.execute(f"DELETE FROM temp.tail WHERE edge_id IN ({_TAIL_NOW})", (_TAIL_AT_ONCE,))
        conn.executemany(
            _add("temp.bucket", "edge_id"),
            [(ids[EdgeRow._make(other[:_KEYS])], *other[_KEYS:-2]) for other in others],
        )
        for other in others:
            edge_id = ids[EdgeRow._make(other[:_KEYS])]
            count = FoldedCount(edge_id, 0, *map(folded.read, other[-2:]))
            counts[edge_id] = folded.plus(counts.get(edge_id), count)


_KEYS = len(EdgeRow._fields)
_SIDES = ("src", "dialled", "backend")
_KINDS_FOLDED = ", ".join(f"'{kind}'" for kind in folded.ENDPOINT_IDS)
_WHENS = " ".join(f"WHEN '{kind}' THEN {found}" for kind, found in folded.ENDPOINT_IDS.items())
# The three sides as they are to be: the edge's own, or one that stands for many.
_CREATE_TAIL = (
    "CREATE TEMP TABLE IF NOT EXISTS tail (edge_id INTEGER PRIMARY KEY, src_id, dialled_id,"
    " backend_id)"
)
_FILL_TAIL = f"""
    INSERT INTO temp.tail
    SELECT edge_id, {", ".join(f"CASE {side}.kind {_WHENS} ELSE {side}_id END" for side in _SIDES)}
    FROM temp.bucket
    JOIN edge ON edge.id = edge_id
    {" ".join(f"JOIN endpoint AS {side} ON {side}.id = {side}_id" for side in _SIDES)}
    WHERE edge_id > 0
        AND ({" OR ".join(f"{side}.kind IN ({_KINDS_FOLDED})" for side in _SIDES)})
"""
# Sorting for a LIMIT holds no more rows than that.
_SPARE_BIGGEST = """
    DELETE FROM temp.tail WHERE edge_id IN (
        SELECT edge_id FROM temp.tail JOIN temp.bucket USING (edge_id)
        ORDER BY COALESCE(bytes_out, 0) + COALESCE(bytes_in, 0) DESC, connections DESC, edge_id
        LIMIT ?
    )
"""
_OTHER_KEY = {
    **{column: f"edge.{column}" for column in EdgeRow._fields},
    **{f"{side}_id": f"tail.{side}_id" for side in _SIDES},
    "nat_src": "CASE WHEN tail.src_id > 0 THEN edge.nat_src END",
    "nat_dst_port": "CASE WHEN tail.backend_id > 0 THEN edge.nat_dst_port END",
    "failed": "CASE WHEN bucket.unreplied + bucket.refused > 0 THEN 1 END",
}
_SRC = "CASE WHEN tail.src_id < 0 THEN src.packed END"
_DST = (
    "CASE WHEN tail.dialled_id < 0 THEN dialled.packed"
    " WHEN tail.backend_id < 0 THEN backend.packed END"
)
# SQLite holds what it sorts for a GROUP BY in memory: all of 250,000 edges took 17 MB.
_TAIL_AT_ONCE = 20_000
_TAIL_NOW = "SELECT edge_id FROM temp.tail ORDER BY edge_id LIMIT ?"
_SUM_TAIL = f"""
    SELECT {", ".join(_OTHER_KEY.values())}, {_SUMS}, distinct_count({_SRC}), distinct_count({_DST})
    FROM (SELECT * FROM temp.tail ORDER BY edge_id LIMIT ?) AS tail
    JOIN temp.bucket AS bucket ON bucket.edge_id = tail.edge_id
    JOIN edge ON edge.id = tail.edge_id
    {" ".join(f"JOIN endpoint AS {side} ON {side}.id = edge.{side}_id" for side in _SIDES)}
    GROUP BY {", ".join(map(str, range(1, _KEYS + 1)))}
"""


def _other_edge(conn: sqlite3.Connection, key: EdgeRow) -> int:
    same = " AND ".join(f"{column} IS ?" for column in EdgeRow._fields)
    found = conn.execute(f"SELECT id FROM edge WHERE +id < 0 AND {same}", key).fetchone()
    if found is not None:
        return int(found[0])
    folded.make_endpoints(conn)
    (other_id,) = conn.execute("SELECT MIN(COALESCE(MIN(id), 0), 0) - 1 FROM edge").fetchone()
    conn.execute(bulk.plain("edge", ("id", *EdgeRow._fields)).one, (other_id, *key))
    return int(other_id)


def _add(table: str, key: str) -> str:
    """SQL to add counts to the row with this key, or to make it."""
    bound = ", ".join("?" * (key.count(",") + 1 + len(COUNT_KEYS)))
    return (
        f"INSERT INTO {table}({key}, {_COLUMNS}) VALUES ({bound})"
        f" ON CONFLICT({key}) DO UPDATE SET {_ADDED}"
    )


def move_watermark(conn: sqlite3.Connection, level: Level, which: str, at_ns: int) -> None:
    conn.execute(f"UPDATE level SET {which} = ? WHERE name = ?", (at_ns, level.name))


@contextmanager
def transaction(conn: sqlite3.Connection) -> Iterator[None]:
    conn.execute("BEGIN IMMEDIATE")
    try:
        yield
        conn.execute("COMMIT")
    except BaseException:
        if conn.in_transaction:
            conn.execute("ROLLBACK")
        raise
