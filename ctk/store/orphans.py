"""
What no row points to any more, thrown away: edges without flows, endpoints without edges.

A sweep goes over all flows, so it is done in slices, and windows are written between any two of
them. While it goes on, temporary triggers note what new rows point to; so an edge that is used
again stays. Nothing is pruned meanwhile: an edge of a fine level that was left out, since the next
level has it too, is still found there.
"""

import sqlite3
from collections.abc import Callable, Iterator

from ctk.store import peers
from ctk.store.levels import LEVELS, Level, watermarks
from ctk.store.sums import transaction
from ctk.timespan import FOREVER_NS

_SCANNED = 20_000  # rows read in a slice: some 10 ms
_DELETED = 2_000  # rows looked at in a slice, and deleted where nothing points to them

# Called with "edge" or "endpoint" and the ids that are about to go: none may be used again. What
# it takes out of the set stays.
Forget = Callable[[str, set[int]], None]

_SIDES = ("src_id", "dialled_id", "backend_id")
_OF_LIVE = ("connection", "idle")
_POINTING_TO_EDGES = (*_OF_LIVE, *(level.table for level in LEVELS))


class Orphans:
    """The sweep of one file: `due` from when it is asked for until it is through."""

    def __init__(self, conn: sqlite3.Connection, forget: Forget) -> None:
        self._conn = conn
        self._forget = forget
        self._steps: Iterator[None] | None = None
        self.due = False

    def sweep(self) -> Iterator[None]:
        """
        Yield after each slice of a sweep; another call goes on where the last one was left.

        An error ends the sweep: the next call begins anew.
        """
        self.due = True
        if self._steps is None:
            self._steps = self._slices()
        while True:
            try:
                next(self._steps)
            except StopIteration:
                self._steps, self.due = None, False
                return
            except BaseException:
                self._steps = None
                raise
            yield

    def _slices(self) -> Iterator[None]:
        conn = self._conn
        self._watch()
        for table in _OF_LIVE:
            conn.execute(f"INSERT OR IGNORE INTO edge_in_use SELECT edge_id FROM {table}")
        yield
        for level in LEVELS:
            yield from self._scan(level)
        yield from self._throw_away("edge")
        yield from self._scan_edges()
        yield from self._throw_away("endpoint")
        self._stop_watching()
        with transaction(conn):
            _end_history(conn)
        yield
        yield from _forget_late(conn)

    def _watch(self) -> None:
        """Note from now on what new rows point to."""
        self._stop_watching()
        self._conn.execute("CREATE TEMP TABLE edge_in_use (id INTEGER PRIMARY KEY)")
        self._conn.execute("CREATE TEMP TABLE endpoint_in_use (id INTEGER PRIMARY KEY)")
        for table in _POINTING_TO_EDGES:
            self._conn.execute(
                f"CREATE TEMP TRIGGER {table}_uses AFTER INSERT ON main.{table}"
                " BEGIN INSERT OR IGNORE INTO edge_in_use VALUES (new.edge_id); END"
            )
        sides = ", ".join(f"(new.{side})" for side in _SIDES)
        self._conn.execute(
            "CREATE TEMP TRIGGER edge_uses AFTER INSERT ON main.edge"
            f" BEGIN INSERT OR IGNORE INTO endpoint_in_use VALUES {sides}; END"
        )

    def _stop_watching(self) -> None:
        for table in ("edge", *_POINTING_TO_EDGES):
            self._conn.execute(f"DROP TRIGGER IF EXISTS temp.{table}_uses")
        for table in ("edge", "endpoint"):
            self._conn.execute(f"DROP TABLE IF EXISTS temp.{table}_in_use")

    def _scan(self, level: Level) -> Iterator[None]:
        """Note the edges of a level's rows."""
        second = "edge_id" if level.width_ns else "n"
        last: tuple[int, int] | None = (_own_since_ns(self._conn, level), -FOREVER_NS)
        while last is not None:
            rows = f"FROM {level.table} WHERE (started_ns, {second}) > (?, ?)"
            order = f"ORDER BY started_ns, {second}"
            until = self._conn.execute(
                f"SELECT started_ns, {second} {rows} {order} LIMIT 1 OFFSET ?",
                (*last, _SCANNED - 1),
            ).fetchone()
            end = "" if until is None else f" AND (started_ns, {second}) <= (?, ?)"
            self._conn.execute(
                f"INSERT OR IGNORE INTO edge_in_use SELECT edge_id {rows}{end}",
                (*last, *(until or ())),
            )
            last = until
            yield

    def _scan_edges(self) -> Iterator[None]:
        """Note the endpoints of edges."""
        for first, last in self._slices_of("edge", _SCANNED):
            for side in _SIDES:
                self._conn.execute(
                    f"INSERT OR IGNORE INTO endpoint_in_use SELECT {side} FROM edge"
                    " WHERE id BETWEEN ? AND ?",
                    (first, last),
                )
            yield

    def _throw_away(self, table: str) -> Iterator[None]:
        conn = self._conn
        for first, last in self._slices_of(table, _DELETED):
            found = conn.execute(
                f"SELECT id FROM {table} WHERE id BETWEEN ? AND ?"
                f" AND id NOT IN (SELECT id FROM {table}_in_use)",
                (first, last),
            )
            unused = {row_id for (row_id,) in found if table == "edge" or row_id > 0}
            if unused:
                self._forget(table, unused)
                seen = list(peers.first_seen(conn, unused)) if table == "edge" else []
                with transaction(conn):
                    peers.remember(conn, seen)
                    conn.executemany(
                        f"DELETE FROM {table} WHERE id = ?",
                        [(row_id,) for row_id in sorted(unused)],
                    )
            yield

    def _slices_of(self, table: str, rows: int) -> Iterator[tuple[int, int]]:
        """Yield the first and the last id of each slice of the rows that there are now."""
        (newest,) = self._conn.execute(f"SELECT MAX(id) FROM {table}").fetchone()
        first = -FOREVER_NS
        while newest is not None and first <= newest:
            following = self._conn.execute(
                f"SELECT id FROM {table} WHERE id >= ? ORDER BY id LIMIT 1 OFFSET ?", (first, rows)
            ).fetchone()
            last = newest if following is None else min(following[0] - 1, newest)
            yield first, last
            first = last + 1


def _own_since_ns(conn: sqlite3.Connection, level: Level) -> int:
    """
    From when on a level may have edges that the next has not.

    Reading ten million flows takes 2.5 s, and their minutes a tenth of it.
    """
    coarser = next((other for other in LEVELS if other.width_ns > level.width_ns), None)
    if coarser is None:
        return -FOREVER_NS
    folded_ns, pruned_ns = watermarks(conn)[coarser.name]
    (oldest_ns,) = conn.execute(f"SELECT MIN(started_ns) FROM {level.table}").fetchone()
    if folded_ns is None or (pruned_ns or -FOREVER_NS) > (oldest_ns or 0):
        return -FOREVER_NS
    some_are_other = f"SELECT 1 FROM {coarser.table} WHERE edge_id < 0 LIMIT 1"
    return -FOREVER_NS if conn.execute(some_are_other).fetchone() else folded_ns


def _end_history(conn: sqlite3.Connection) -> None:
    """Throw away of history and gaps what ended before all rows that are left."""
    starts = [
        conn.execute(f"SELECT MIN(started_ns) FROM {level.table}").fetchone()[0] for level in LEVELS
    ]
    oldest_ns = min((start for start in starts if start is not None), default=None)
    if oldest_ns is None:
        return
    for table in ("pod", "service", "node"):
        conn.execute(f"DELETE FROM {table} WHERE valid_to_ns < ?", (oldest_ns,))
    conn.execute("DELETE FROM gap WHERE ended_ns < ?", (oldest_ns,))


def _forget_late(conn: sqlite3.Connection) -> Iterator[None]:
    """Throw away what is noted of late flows that are gone."""
    deleted = 1
    while deleted:
        with transaction(conn):
            # The last one stays: its id is not to be given out again.
            deleted = conn.execute(
                "DELETE FROM late_flow WHERE id IN (SELECT id FROM late_flow WHERE started_ns < ?"
                " AND id < (SELECT MAX(id) FROM late_flow) LIMIT ?)",
                (watermarks(conn)["flow"].pruned_ns, _DELETED),
            ).rowcount
        yield
