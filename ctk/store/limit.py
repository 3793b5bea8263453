"""
`--max-size`: the file and its -wal together stay within it while they are written.

The oldest of the finest rows go first, each level before the next coarser one. Where that is not
enough, buckets that are still open are folded early and their fine rows go: a gap of kind "thinned"
says of which span. Days go last, the oldest first.

The file has free pages that the next window fills; beside it there is room for the -wal, which
takes what a commit writes before the file does.
"""

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence

from ctk.errors import FileBusyError
from ctk.model import FlowRow
from ctk.model.lone import LoneEvents
from ctk.store import prune, rollup
from ctk.store.connect import PAGE_BYTES, WAL_BYTES, empty_wal, limit_wal, path_of
from ctk.store.flows import merged
from ctk.store.folded import FoldedCount
from ctk.store.levels import Level
from ctk.store.orphans import Orphans
from ctk.store.rollup import OpenBucket, floor
from ctk.store.sizes import database_bytes, used_bytes, wal_bytes

# Of the limit, or of a file that is small: a window of 10,000 strangers takes 2 MB, and three times
# that of the -wal, as the index of addresses is written all over.
_ROOM, _ROOM_BYTES, _MOST_ROOM = 0.2, 8 << 20, 0.35
_WAL = 1 / 16
_ROW_BYTES = 50
_ROWS = 1 / 16  # the part of the limit that a window's rows may take as they are
_FADES = 0.9  # what a window takes at most is forgotten by so much with each

# Called in the transaction that throws rows away before their time.
Thinned = Callable[[int, int], object]


class SizeLimit:
    """Keeps one file within `max_bytes`."""

    def __init__(
        self,
        conn: sqlite3.Connection,
        max_bytes: int,
        orphans: Orphans,
        levels: Sequence[Level],
        folding: OpenBucket,
        thinned: Thinned,
    ) -> None:
        self._conn, self._orphans, self._levels = conn, orphans, levels
        self._folding, self._thinned = folding, thinned
        self._max_bytes = max_bytes
        room = min(max(max_bytes * _ROOM, _ROOM_BYTES), max_bytes * _MOST_ROOM)
        self._file_bytes = int(max_bytes - room)
        self._most_rows = int(max_bytes * _ROWS / _ROW_BYTES)  # of a window
        self._used_before = 0
        self._grown = 0.0  # the most that a window added to what is used, of late
        self._written = max_bytes * _WAL  # and to file and -wal together
        self._size_before = 0
        limit_wal(conn, min(WAL_BYTES, int(max_bytes * _WAL)))

    def before_window(self) -> None:
        """
        Make room in the -wal for a window.

        FileBusyError where a reader keeps it from being emptied and there is no room beside it: the
        window waits, as it does for a lock.
        """
        if self.is_held:
            raise FileBusyError(
                f"a program that reads {path_of(self._conn)} keeps its -wal from being emptied",
                hint="end that program, or allow more with --max-size",
            )
        self._used_before = used_bytes(self._conn)
        self._size_before = self._size()

    def fitting(
        self,
        rows: Iterable[FlowRow],
        events: LoneEvents[int],
        addresses: Sequence[FoldedCount],
    ) -> tuple[Sequence[FlowRow], LoneEvents[int], Sequence[FoldedCount]]:
        """Give a window as it is, or its sums by edge where it has too many rows."""
        rows = list(rows)
        count = len(rows) + len(events)
        if count <= self._most_rows:
            return rows, events, addresses
        sums = merged(rows, events)
        if len(sums) < count:
            self._thinned(min(row.started_ns for row in sums), max(row.ended_ns for row in sums))
        # Addresses are counted for a row by its start, which is now that of the edge's first row.
        started_ns = {row.edge_id: row.started_ns for row in sums}
        moved = [each._replace(started_ns=started_ns[each.edge_id]) for each in addresses]
        return sums, LoneEvents(), moved

    def after_window(self) -> None:
        """Learn from a window that is committed how much the next may take."""
        grown, written = used_bytes(self._conn) - self._used_before, self._size()
        self._grown = max(self._grown * _FADES, grown)
        self._written = max(self._written * _FADES, written - self._size_before)

    def room_bytes(self) -> int:
        """Say how much may be written at once: first to the -wal, then to the file's free pages."""
        left = self._max_bytes - self._size()
        free = database_bytes(self._conn) - used_bytes(self._conn)
        return max(0, min(left, (left + free) // 2))

    @property
    def is_held(self) -> bool:
        """Whether a reader holds the -wal, and what a window takes is not left beside it."""
        return (
            self._size() + self._written > self._max_bytes
            and wal_bytes(self._conn) > self._written
            and not empty_wal(self._conn)
        )

    def steps(self, now_ns: int) -> Iterator[None]:
        """
        Throw away, in small steps, what is too much. Every row that starts before `now_ns` is in
        the file, or comes late.
        """
        if self._orphans.due:
            yield from self._orphans.sweep()
        if used_bytes(self._conn) + self._grown > self._file_bytes:
            yield from self._shrink(now_ns)
        if database_bytes(self._conn) > self._file_bytes:
            yield from prune.give_back(self._conn, self._file_bytes // PAGE_BYTES)

    def _shrink(self, now_ns: int) -> Iterator[None]:
        *finer, coarsest = self._levels
        for level in finer:
            yield from self._down(level, floor(now_ns, prune.width_ns(level)))
        for i, level in enumerate(finer):
            if self._excess <= 0:
                return
            yield from self._fold_open(i)
            yield from self._down(level, floor(now_ns, level.width_ns), self._thinned)
        yield from self._down(coarsest, floor(now_ns, coarsest.width_ns))

    @property
    def _excess(self) -> int:
        """By how much too much is used, with room for two windows."""
        spare = max(self._file_bytes / 4, 2 * self._grown)
        return used_bytes(self._conn) - int(max(self._file_bytes - spare, self._file_bytes / 3))

    def _fold_open(self, i: int) -> Iterator[None]:
        """Fold all there is of a level and of those below it, the buckets that are open too."""
        levels = self._levels[: i + 2]
        newest = [prune.newest_ns(self._conn, level) for level in levels]
        newest_ns = max((at_ns for at_ns in newest if at_ns is not None), default=None)
        if newest_ns is not None:
            until_ns = newest_ns + levels[-1].width_ns
            yield from rollup.fold(self._conn, until_ns, levels, self._folding)

    def _down(
        self, level: Level, most_ns: int, on_moving: Thinned = lambda first_ns, until_ns: None
    ) -> Iterator[None]:
        """
        Throw away a level's oldest rows until the file is small enough.

        With rows go their edges and endpoints, which take three times as much where each is
        another's: so what points to nothing is looked for each time a quarter is gone.
        """
        while (excess := self._excess) > 0:
            goal = used_bytes(self._conn) - excess // 4
            found = False
            while used_bytes(self._conn) > goal:
                until_ns = prune.end_of_oldest(self._conn, level)
                until_ns = most_ns if until_ns is None else min(until_ns, most_ns)
                if not (yield from prune.before(self._conn, level, until_ns, on_moving)):
                    break
                found = True
            if not found:
                return
            yield from self._orphans.sweep()

    def _size(self) -> int:
        return database_bytes(self._conn) + wal_bytes(self._conn)
