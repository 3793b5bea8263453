"""
What is too old, or too much, thrown away: rows first, then what no row points to any more.

Iterators of small transactions, like `rollup.fold`. No row goes before the next level holds it
in its sums.
"""

import sqlite3
from collections.abc import Generator, Iterator, Mapping, Sequence

from ctk.store import folded
from ctk.store.connect import WAL_BYTES, limit_wal
from ctk.store.orphans import Orphans
from ctk.store.rollup import (
    LEVELS,
    Level,
    floor,
    fold,
    move_watermark,
    transaction,
    watermarks,
)
from ctk.store.sizes import database_bytes, pragma, used_bytes, wal_bytes
from ctk.timespan import DAY, FOREVER_NS

_ROWS = 10_000  # deleted in one transaction: some 20 ms
_CONNECTIONS = 1_000  # rows of them deleted in one transaction, each of a flow
_PAGES = 50  # given back in one transaction
_SPARE = 0.25  # the part of a file that may be free before it is given back

# Past the first share of --max-size rows go, until the file fits into the second. What is between
# is room for the -wal and for what arrives before the next look.
_HIGH, _LOW = 0.8, 0.65
_WAL = 1 / 16


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
        yield from _before(conn, level, now_ns - retain.get(level.name, level.keep_ns))
    if _day(conn) != day:
        yield from orphans.sweep()
    if pragma(conn, "freelist_count") > pragma(conn, "page_count") * _SPARE:
        yield from _give_back(conn)


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
        yield from _give_back(conn)


def by_size(conn: sqlite3.Connection, max_bytes: int, orphans: Orphans) -> Iterator[None]:
    """
    Throw away the oldest of the finest rows where the file, its -wal included, is too big.

    Where that is not enough, buckets that are still open are folded early: what comes for them
    later is added as late rows are.
    """
    if orphans.due:
        yield from orphans.sweep()
    limit_wal(conn, min(WAL_BYTES, int(max_bytes * _WAL)))
    if database_bytes(conn) + wal_bytes(conn) <= max_bytes * _HIGH:
        return
    low_bytes = int(max_bytes * _LOW)
    for early in (False, True):
        for i, level in enumerate(LEVELS):
            if used_bytes(conn) <= low_bytes:
                break
            if early:
                _fold_open(conn, LEVELS[: i + 2])
            yield from _down_to(conn, level, low_bytes)
            yield from orphans.sweep()
    yield from _give_back(conn)


def _fold_open(conn: sqlite3.Connection, levels: Sequence[Level]) -> None:
    """Fold all there is, at once: no window may come between one of the levels and the next."""
    newest = [_newest_ns(conn, level) for level in levels]
    newest_ns = max((at_ns for at_ns in newest if at_ns is not None), default=None)
    if newest_ns is not None:
        for _ in fold(conn, newest_ns + levels[-1].width_ns, levels):
            pass


def _down_to(conn: sqlite3.Connection, level: Level, low_bytes: int) -> Iterator[None]:
    while used_bytes(conn) > low_bytes:
        row = conn.execute(
            f"SELECT started_ns FROM {level.table} ORDER BY started_ns LIMIT 1 OFFSET ?", (_ROWS,)
        ).fetchone()
        until_ns = row[0] + _width_ns(level) if row else None
        if not (yield from _before(conn, level, until_ns)):
            break


def _before(
    conn: sqlite3.Connection, level: Level, until_ns: int | None
) -> Generator[None, None, bool]:
    """
    Throw away the rows of a level before a time; with None, all that the next level holds.

    False where there are none. The watermark moves first, so that nobody reads what is half gone;
    what a crash left over goes the next time.
    """
    now = watermarks(conn)
    coarser = _coarser(level)
    if coarser is not None:
        folded_ns = now[coarser.name].folded_ns
        if folded_ns is None:
            return False
        until_ns = folded_ns if until_ns is None else min(until_ns, folded_ns)
    elif until_ns is None:
        return False
    until_ns = floor(until_ns, _width_ns(level))
    until_ns = max(until_ns, now[level.name].pruned_ns or until_ns)
    second = "edge_id" if level.width_ns else "n"
    found = False
    while True:
        first_ns = _oldest_ns(conn, level)
        if first_ns is None or first_ns >= until_ns:
            return found
        found = True
        last = conn.execute(
            f"SELECT started_ns, {second} FROM {level.table} WHERE started_ns < ?"
            f" ORDER BY started_ns, {second} LIMIT 1 OFFSET ?",
            (until_ns, _ROWS),
        ).fetchone()
        with transaction(conn):
            move_watermark(conn, level, "pruned_ns", until_ns)
            folded.forget(conn, level.name, -FOREVER_NS, until_ns)
            conn.execute(
                f"DELETE FROM {level.table} WHERE (started_ns, {second}) < (?, ?)",
                last or (until_ns, -FOREVER_NS),
            )
        yield


def _give_back(conn: sqlite3.Connection) -> Iterator[None]:
    """Move what is left to the front of the file and cut its end off."""
    while pragma(conn, "freelist_count"):
        before = pragma(conn, "page_count")
        # A row without columns comes for each page; `execute` stops at the first of them.
        conn.executescript(f"PRAGMA incremental_vacuum({_PAGES})")
        if pragma(conn, "page_count") == before:  # a file without auto_vacuum
            break
        yield
    # What readers do not hold up; they never have to wait for this.
    conn.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()


def _oldest_ns(conn: sqlite3.Connection, level: Level) -> int | None:
    found: int | None = conn.execute(f"SELECT MIN(started_ns) FROM {level.table}").fetchone()[0]
    return found


def _newest_ns(conn: sqlite3.Connection, level: Level) -> int | None:
    found: int | None = conn.execute(f"SELECT MAX(started_ns) FROM {level.table}").fetchone()[0]
    return found


def _coarser(level: Level) -> Level | None:
    return next((other for other in LEVELS if other.width_ns > level.width_ns), None)


def _width_ns(level: Level) -> int:
    """A level is pruned by whole buckets of the next, so that nothing is cut in two."""
    return (_coarser(level) or level).width_ns


def _day(conn: sqlite3.Connection) -> int:
    return (watermarks(conn)["1m"].pruned_ns or 0) // DAY
