"""
What is too old, or too much, thrown away: rows first, then what no row points to any more.

Iterators of small transactions, like `rollup.fold`. No row goes before the next level holds it
in its sums.
"""

import sqlite3
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import NamedTuple

from ctk.store import folded
from ctk.store.levels import LEVELS, Level, watermarks
from ctk.store.orphans import Orphans
from ctk.store.rollup import floor, move_watermark, slices
from ctk.store.sizes import pragma
from ctk.store.sums import transaction
from ctk.timespan import DAY, FOREVER_NS

MANY_ROWS = 1_000_000  # counted in some 50 ms; events wait in the socket's buffer meanwhile
_ROWS = 10_000  # deleted in one transaction: some 20 ms
_CONNECTIONS = 1_000  # rows of them deleted in one transaction, each of a flow
_PAGES = 50  # given back in one transaction
_SPARE = 0.25  # the part of a file that may be free before it is given back


def by_age(
    conn: sqlite3.Connection, now_ns: int, retain: Mapping[str, int], orphans: Orphans
) -> Iterator[None]:
    """
    Throw away rows older than their level keeps; `retain` has ages in ns by level name.

    Once a day of the file's own time, what nothing points to any more goes too. A sweep of that
    which is under way comes first.
    """
    if orphans.due:
        yield from orphans.sweep()
    day = _day(conn)
    for level in LEVELS:
        yield from before(conn, level, _until_ns(level, now_ns, retain))
    if _day(conn) != day:
        yield from orphans.sweep()


class Outdated(NamedTuple):
    """A level of which no row is young enough to stay."""

    level: Level
    rows: int  # at most MANY_ROWS of them are counted
    first_ns: int
    last_ns: int


class Staying(NamedTuple):
    """A level that keeps something of what a file holds."""

    level: Level
    since_ns: int


def outdated(conn: sqlite3.Connection, now_ns: int, retain: Mapping[str, int]) -> list[Outdated]:
    """Find the levels that `by_age` would leave nothing of, but for what is recorded from now."""
    found = []
    for level in LEVELS:
        until_ns = _until_ns(level, now_ns, retain)
        first_ns, last_ns = _oldest_ns(conn, level), newest_ns(conn, level)
        if first_ns is None or last_ns is None or last_ns >= until_ns:
            continue
        (rows,) = conn.execute(
            f"SELECT COUNT(*) FROM (SELECT 1 FROM {level.table} LIMIT {MANY_ROWS})"
        ).fetchone()
        found.append(Outdated(level, rows, first_ns, last_ns + level.width_ns))
    return found


def staying(conn: sqlite3.Connection, now_ns: int, retain: Mapping[str, int]) -> list[Staying]:
    """
    Find the levels that `by_age` would leave something of.

    What a finer level holds is folded before it goes: a recorder that was killed left it so.
    """
    marks, found = watermarks(conn), []
    for n, level in enumerate(LEVELS):
        since_ns, firsts = _until_ns(level, now_ns, retain), []
        for finer in reversed(LEVELS[: n + 1]):
            (first_ns,) = conn.execute(
                f"SELECT MIN(started_ns) FROM {finer.table} WHERE started_ns >= ?", (since_ns,)
            ).fetchone()
            if first_ns is not None:
                firsts.append(floor(first_ns, level.width_ns))
            # What is before is in this level already, and from here on is to come from the finer.
            since_ns = max(since_ns, marks[finer.name].folded_ns or since_ns)
        if firsts:
            found.append(Staying(level, min(firsts)))
    return found


def spare(conn: sqlite3.Connection) -> Iterator[None]:
    """Give back what is free, where it is much of the file."""
    if pragma(conn, "freelist_count") > pragma(conn, "page_count") * _SPARE:
        yield from give_back(conn)


def connections(conn: sqlite3.Connection, recorder_id: int) -> Iterator[None]:
    """Throw away what is kept of a node's live connections, and give its pages back."""
    while True:
        with transaction(conn):
            deleted = conn.execute(
                "DELETE FROM connection WHERE rowid IN (SELECT connection.rowid FROM connection"
                " JOIN edge ON edge.id = edge_id WHERE edge.recorder_id = ? LIMIT ?)",
                (recorder_id, _CONNECTIONS),
            )
        if not deleted.rowcount:
            return
        yield
        yield from give_back(conn)


def before(
    conn: sqlite3.Connection,
    level: Level,
    until_ns: int,
    on_moving: Callable[[int, int], object] = lambda first_ns, until_ns: None,
) -> Generator[None, None, bool]:
    """
    Throw away the rows of a level before a time, as far as the next level holds them.

    False where there are none. The watermark moves first, so that nobody reads what is half gone;
    what a crash left over goes the next time. `on_moving` is called in its transaction, with the
    span that goes.
    """
    now = watermarks(conn)
    coarser = _coarser(level)
    if coarser is not None:
        folded_ns = now[coarser.name].folded_ns
        if folded_ns is None:
            return False
        until_ns = min(until_ns, folded_ns)
    until_ns = max(until_ns, now[level.name].pruned_ns or until_ns)
    found = False
    for condition, bound in slices(conn, level, -FOREVER_NS, until_ns, _ROWS):
        first_ns = _oldest_ns(conn, level)
        if first_ns is None or first_ns >= until_ns:
            break
        with transaction(conn):
            if not found:
                on_moving(first_ns, until_ns)
                move_watermark(conn, level, "pruned_ns", until_ns)
                folded.forget(conn, level.name, -FOREVER_NS, until_ns)
            conn.execute(f"DELETE FROM {level.table} WHERE {condition}", bound)
        found = True
        yield
    return found


def give_back(conn: sqlite3.Connection, keep: int = 0) -> Iterator[None]:
    """Move what is left to the front of the file and cut its end off, but for so many pages."""
    while pragma(conn, "freelist_count") and (pages := pragma(conn, "page_count")) > keep:
        # A row without columns comes for each page; `execute` stops at the first of them.
        conn.executescript(f"PRAGMA incremental_vacuum({min(_PAGES, pages - keep)})")
        if pragma(conn, "page_count") == pages:  # a file without auto_vacuum
            break
        yield
    # What readers do not hold up; they never have to wait for this.
    conn.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()


def end_of_oldest(conn: sqlite3.Connection, level: Level) -> int | None:
    """Give a time before which there are some of the oldest rows; None where there are few."""
    row = conn.execute(
        f"SELECT started_ns FROM {level.table} ORDER BY started_ns LIMIT 1 OFFSET ?", (_ROWS,)
    ).fetchone()
    return None if row is None else floor(row[0], width_ns(level)) + width_ns(level)


def newest_ns(conn: sqlite3.Connection, level: Level) -> int | None:
    found: int | None = conn.execute(f"SELECT MAX(started_ns) FROM {level.table}").fetchone()[0]
    return found


def _oldest_ns(conn: sqlite3.Connection, level: Level) -> int | None:
    found: int | None = conn.execute(f"SELECT MIN(started_ns) FROM {level.table}").fetchone()[0]
    return found


def _coarser(level: Level) -> Level | None:
    return next((other for other in LEVELS if other.width_ns > level.width_ns), None)


def width_ns(level: Level) -> int:
    """A level is pruned by whole buckets of the next, so that nothing is cut in two."""
    return (_coarser(level) or level).width_ns


def _until_ns(level: Level, now_ns: int, retain: Mapping[str, int]) -> int:
    """Say before which time rows of a level are too old."""
    return floor(now_ns - retain.get(level.name, level.keep_ns), width_ns(level))


def _day(conn: sqlite3.Connection) -> int:
    return (watermarks(conn)["flow"].pruned_ns or 0) // DAY
