"""
Which table answers for which part of a span: coarse ones in the middle, fine ones at its edges.

Every bucket of a level before `folded_ns` is the exact fold of the finer level; rows of a level
before `pruned_ns` are gone, and then only coarser buckets are left.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ctk.ask.selectors import Condition
from ctk.store.levels import LEVELS, watermarks
from ctk.timespan import FOREVER_NS


class HeldLevel(NamedTuple):
    """A table of flows, or of buckets of them, and for which times it answers."""

    name: str
    table: str
    width_ns: int  # of a bucket; 1 where rows keep their own time
    folded_ns: int
    pruned_ns: int


class Piece(NamedTuple):
    """The rows of one table with since <= started_ns < until."""

    table: str
    since_ns: int
    until_ns: int


def held(conn: sqlite3.Connection) -> list[HeldLevel]:
    """Read what each level holds, the finest first."""
    found = []
    marks = watermarks(conn)
    for level in LEVELS:
        folded_ns, pruned_ns = marks[level.name]
        if not level.width_ns:
            folded_ns = FOREVER_NS
        found.append(
            HeldLevel(
                level.name,
                level.table,
                level.width_ns or 1,
                -FOREVER_NS if folded_ns is None else folded_ns,
                -FOREVER_NS if pruned_ns is None else pruned_ns,
            )
        )
    return found


def extent(conn: sqlite3.Connection, found: Sequence[HeldLevel]) -> tuple[int, int] | None:
    """
    Give the span of all that was recorded; None for a file without rows.

    It ends where the finest rows do: they are pruned from the other end, and the last bucket of a
    coarser level may not be over.
    """
    starts, ends = [], []
    for level in found:
        # Each alone is one step into the primary key; both in one SELECT would read it all.
        (first_ns,) = conn.execute(f"SELECT MIN(started_ns) FROM {level.table}").fetchone()
        (last_ns,) = conn.execute(f"SELECT MAX(started_ns) FROM {level.table}").fetchone()
        if first_ns is not None:
            starts.append(first_ns)
            ends.append(last_ns + level.width_ns)
    return (min(starts), ends[0]) if starts else None


def exact_extent(conn: sqlite3.Connection, found: Sequence[HeldLevel]) -> tuple[int, int] | None:
    """Give from when to when there are rows, as exactly as those that are left tell."""
    whole = extent(conn, found)
    if whole is None:
        return None
    finest = next((level for level in found if level.pruned_ns < whole[0]), found[-1])
    first = extent(conn, [finest])
    last = extent(conn, found[:1])
    return (first or whole)[0], (last or whole)[1]


def clip(
    conn: sqlite3.Connection, found: Sequence[HeldLevel], since_ns: int | None, until_ns: int | None
) -> tuple[int, int] | None:
    """Give the part of a span in which the levels have rows; None where there is none."""
    reach = extent(conn, found)
    if reach is None:
        return None
    since_ns = reach[0] if since_ns is None else max(since_ns, reach[0])
    until_ns = reach[1] if until_ns is None else min(until_ns, reach[1])
    return (since_ns, until_ns) if since_ns < until_ns else None


def cover(found: Sequence[HeldLevel], since_ns: int, until_ns: int) -> list[Piece]:
    """
    Cut a span into pieces, oldest first, that together answer for all of it and nothing else.

    Where every finer row is gone, the first or last piece reaches out to the edge of its bucket.
    """
    *finer, level = found
    if since_ns >= until_ns:
        return []
    if level.width_ns == 1:
        return [Piece(level.table, since_ns, until_ns)]
    # From where on, and until where, this level's buckets are whole; the rest is for finer ones.
    start_ns = _up(max(since_ns, level.pruned_ns), level.width_ns)
    end_ns = _down(min(until_ns, level.folded_ns), level.width_ns)
    if not _kept(finer, since_ns):
        start_ns = _down(since_ns, level.width_ns)
    if not _kept(finer, max(end_ns, since_ns)):
        end_ns = _up(until_ns, level.width_ns)
    if start_ns >= end_ns:
        return cover(finer, since_ns, until_ns)
    return [
        *cover(finer, since_ns, start_ns),
        Piece(level.table, start_ns, end_ns),
        *cover(finer, end_ns, until_ns),
    ]


def _kept(levels: Sequence[HeldLevel], at_ns: int) -> bool:
    return any(level.pruned_ns <= at_ns for level in levels)


def holding(
    conn: sqlite3.Connection,
    found: Sequence[HeldLevel],
    span: tuple[int, int],
    condition: Condition,
    *,
    newest_first: bool,
) -> Iterator[tuple[int, int]]:
    """
    Yield the parts of a span in which rows of `flow` may fit a condition, in order.

    The condition is asked of the rollups, day by day, then hour by hour and minute by minute
    only where it holds, so that what is rare is found without reading all flows.
    """
    *finer, level = found
    if not finer:
        yield span
        return
    since_ns, until_ns = span
    width_ns = level.width_ns
    first_ns = since_ns
    if _down(since_ns, width_ns) < level.pruned_ns:
        first_ns = min(max(since_ns, _up(level.pruned_ns, width_ns)), until_ns)
    last_ns = max(min(until_ns, level.folded_ns), first_ns)
    asked = f"SELECT EXISTS (SELECT 1 FROM {level.table} WHERE started_ns = ? AND {condition.sql})"
    parts: list[tuple[int, int, bool]] = [(since_ns, first_ns, False)]
    at_ns = first_ns
    while at_ns < last_ns:
        next_ns = min(_down(at_ns, width_ns) + width_ns, last_ns)
        parts.append((at_ns, next_ns, True))
        at_ns = next_ns
    parts.append((last_ns, until_ns, False))
    for start_ns, end_ns, bucket in reversed(parts) if newest_first else parts:
        if start_ns < end_ns and (
            not bucket
            or conn.execute(asked, (_down(start_ns, width_ns), *condition.values)).fetchone()[0]
        ):
            yield from holding(
                conn, finer, (start_ns, end_ns), condition, newest_first=newest_first
            )


def _down(time_ns: int, width_ns: int) -> int:
    return time_ns - time_ns % width_ns


def _up(time_ns: int, width_ns: int) -> int:
    return -_down(-time_ns, width_ns)
