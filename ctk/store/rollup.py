"""
Flows folded to minutes, hours and days: the levels of levels.py.

A watermark moves in the transaction that makes it true.

`fold` is an iterator of small steps: the caller may write a window between any two, and may stop
and call again later.
"""

import sqlite3
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from ctk.store import folded
from ctk.store.levels import LEVELS, Level, Watermarks, watermarks
from ctk.store.sums import ADDED, COLUMNS, adding, transaction
from ctk.store.tail import FoldedCounts, fold_tail
from ctk.timespan import FOREVER_NS

# Of --max-size that the peers of a minute may take, at some 200 bytes each with their identities.
_PEERS, _PEER_BYTES = 0.1, 200
_READ_AT_ONCE = 20_000  # rows summed up in a step: some 20 ms
_COPIED_AT_ONCE = 20_000  # rows in one transaction: 10 to 30 ms


def levels_within(max_bytes: int | None) -> Sequence[Level]:
    """Give the levels, with no more peers than go into a file that may be so big."""
    if max_bytes is None:
        return LEVELS
    most = peers_within(max_bytes)
    return [level._replace(peers=min(level.peers, most)) for level in LEVELS]


def peers_within(max_bytes: int) -> int:
    """Return how many strangers a window or a minute may keep in a file that may be so big."""
    return int(max_bytes * _PEERS / _PEER_BYTES)


@dataclass(slots=True)
class OpenBucket:
    """
    The bucket that is being summed up, and whether rows came for it meanwhile.

    Who inserts rows tells it of the earliest; then the bucket is summed up anew.
    """

    end_ns: int = -FOREVER_NS
    stale: bool = False

    def begin(self, end_ns: int) -> None:
        self.end_ns, self.stale = end_ns, False

    def inserted(self, first_ns: int) -> None:
        self.stale = self.stale or first_ns < self.end_ns


def settled_ns(by_level: Mapping[str, Watermarks]) -> int:
    """A row that starts before this is late at some level."""
    return max((level.folded_ns or -FOREVER_NS for level in by_level.values()), default=-FOREVER_NS)


def floor(at_ns: int, width_ns: int) -> int:
    """The start of the bucket of this width that holds `at_ns`; without a width, `at_ns`."""
    return at_ns - at_ns % width_ns if width_ns else at_ns


def fold(
    conn: sqlite3.Connection,
    until_ns: int,
    levels: Sequence[Level] = LEVELS,
    folding: OpenBucket | None = None,
) -> Iterator[None]:
    """
    Fold every whole bucket before `until_ns`, in small steps.

    Rows that start before `until_ns` must be in the file, or come as late ones. Watermarks move
    with rows only, so a clock that jumped ahead for a moment leaves none in the future. Where
    windows may be written between two steps, `folding` is told of it.
    """
    folding = folding or OpenBucket()
    _make_bucket(conn)
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
            if not (yield from _fold_bucket(conn, finer, level, start_ns, folding)):
                return


def recap(
    conn: sqlite3.Connection, level: Level, start_ns: int, folding: OpenBucket
) -> Generator[None, None, bool]:
    """
    Fold what late rows added to a finished bucket past the peers that it keeps.

    False where more came meanwhile: it is to be done again.
    """
    _make_bucket(conn)
    folding.begin(start_ns + level.width_ns)
    counts = yield from _sum_up(conn, level, start_ns, start_ns + level.width_ns, level.peers)
    if folding.stale:
        return False
    # One transaction: what is deleted here stands nowhere else.
    with transaction(conn):
        conn.execute(f"DELETE FROM {level.table} WHERE started_ns = ?", (start_ns,))
        _copy_bucket(conn, level, start_ns, -FOREVER_NS, -1)
        folded.put(conn, level.name, start_ns, counts)
    yield
    return True


def slices(
    conn: sqlite3.Connection, level: Level, since_ns: int, until_ns: int, rows: int
) -> Iterator[tuple[str, tuple[int, int, int, int]]]:
    """Yield conditions, and what they bind, that cut a level's rows of a span into so many each."""
    key = f"(started_ns, {'edge_id' if level.width_ns else 'n'})"
    first: tuple[int, int] | None = (since_ns, -FOREVER_NS)
    while first is not None:
        following = conn.execute(
            f"SELECT {key[1:-1]} FROM {level.table} WHERE {key} >= (?, ?) AND started_ns < ?"
            f" ORDER BY {key[1:-1]} LIMIT 1 OFFSET ?",
            (*first, until_ns, rows),
        ).fetchone()
        last = following or (until_ns, -FOREVER_NS)
        yield f"{key} >= (?, ?) AND {key} < (?, ?)", (*first, *last)
        first = following


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


def _make_bucket(conn: sqlite3.Connection) -> None:
    folded.make_aggregate(conn)
    conn.execute(f"CREATE TEMP TABLE IF NOT EXISTS bucket (edge_id INTEGER PRIMARY KEY, {COLUMNS})")


def _fold_bucket(
    conn: sqlite3.Connection, finer: Level, level: Level, start_ns: int, folding: OpenBucket
) -> Generator[None, None, bool]:
    """
    Write a bucket and move the watermark past it.

    False where that is for another time: rows of it came meanwhile, or came between the folding of
    the finer level and that of this one.
    """
    end_ns = start_ns + level.width_ns
    folding.begin(end_ns)
    if _unfolded(conn, finer, end_ns):
        return False
    # Summed up beside the file, so that the lock is held for the writing only.
    counts = yield from _sum_up(conn, finer, start_ns, end_ns, level.peers)
    last_id, more = -FOREVER_NS, True
    while more:
        if folding.stale:
            return False
        with transaction(conn):
            if last_id == -FOREVER_NS:  # what a crash, or a try before, left of it
                conn.execute(f"DELETE FROM {level.table} WHERE started_ns = ?", (start_ns,))
                folded.put(conn, level.name, start_ns, counts)
            more = _copy_bucket(conn, level, start_ns, last_id, _COPIED_AT_ONCE) == _COPIED_AT_ONCE
            if not more:
                move_watermark(conn, level, "folded_ns", end_ns)
        (last_id,) = conn.execute(
            f"SELECT MAX(edge_id) FROM {level.table} WHERE started_ns = ?", (start_ns,)
        ).fetchone()
        yield
    return True


def _unfolded(conn: sqlite3.Connection, finer: Level, end_ns: int) -> bool:
    """Whether there are rows before a time that the levels up to `finer` have not folded yet."""
    marks = watermarks(conn)
    for below, level in pairwise(each for each in LEVELS if each.width_ns <= finer.width_ns):
        since_ns = marks[level.name].folded_ns
        asked = f"SELECT 1 FROM {below.table} WHERE started_ns >= ? AND started_ns < ? LIMIT 1"
        if conn.execute(asked, (since_ns or -FOREVER_NS, end_ns)).fetchone():
            return True
    return False


def _sum_up(
    conn: sqlite3.Connection, level: Level, start_ns: int, end_ns: int, peers: int
) -> Generator[None, None, FoldedCounts]:
    """
    Sum up a level's rows of a span by edge in temp.bucket, the tail of them as "other".

    Give how many addresses the rows have that stand for many.
    """
    conn.execute("DELETE FROM temp.bucket")
    for condition, bound in slices(conn, level, start_ns, end_ns, _READ_AT_ONCE):
        conn.execute(
            f"INSERT INTO temp.bucket SELECT edge_id, {COLUMNS} FROM {level.table}"
            f" WHERE {condition} ON CONFLICT DO UPDATE SET {ADDED}",
            bound,
        )
        yield
    counts = folded.of_bucket(conn, level.name, start_ns, end_ns)
    yield from fold_tail(conn, peers, counts)
    return counts


def _copy_bucket(
    conn: sqlite3.Connection, level: Level, start_ns: int, after_id: int, rows: int
) -> int:
    copied = conn.execute(
        f"INSERT INTO {level.table}(started_ns, edge_id, {COLUMNS})"
        f" SELECT ?, edge_id, {COLUMNS} FROM temp.bucket WHERE edge_id > ?"
        " ORDER BY edge_id LIMIT ?",
        (start_ns, after_id, rows),
    )
    return copied.rowcount


def add_to(
    conn: sqlite3.Connection,
    level: Level,
    sums: Mapping[tuple[int, int], Sequence[int | None]],
) -> None:
    """Add sums to the rows of a level, each of a bucket's start and an edge."""
    conn.executemany(
        adding(level.table, "started_ns, edge_id"),
        [(*key, *counts) for key, counts in sums.items()],
    )


def move_watermark(conn: sqlite3.Connection, level: Level, which: str, at_ns: int) -> None:
    conn.execute(f"UPDATE level SET {which} = ? WHERE name = ?", (at_ns, level.name))
