"""
Rows for buckets that are finished: added to each of them, so that the sums stay equal.

They come where the clock was set back, and where open buckets were folded early: to hold
--max-size, or since a recording ended in them.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence

from ctk.store import folded
from ctk.store.folded import FoldedCount
from ctk.store.levels import LEVELS, Level, Watermarks
from ctk.store.rollup import OpenBucket, add_to, floor, recap
from ctk.timespan import FOREVER_NS

RowCounts = Sequence[int | None]
_BUCKETS = 1_000  # remembered, with few rows each: as many as a clock that was set back touches


class LateRows:
    """
    Adds late rows to the buckets of one file.

    `added` is how many edges each bucket was given, by level and start: past the peers that its
    level keeps it is to be folded again.
    """

    def __init__(
        self, conn: sqlite3.Connection, levels: Sequence[Level], folding: OpenBucket
    ) -> None:
        self._conn = conn
        self._levels = levels
        self._folding = folding
        self.added: dict[tuple[Level, int], int] = {}

    def add(
        self, by_level: Mapping[str, Watermarks], rows: Iterable[tuple[int, int, RowCounts]]
    ) -> None:
        """Add rows, each with its start and its edge, to every finished bucket of their time."""
        sums: dict[tuple[int, int], RowCounts] = {}
        for started_ns, edge_id, counts in rows:
            key = (floor(started_ns, self._levels[1].width_ns), edge_id)
            before = sums.get(key)
            sums[key] = counts if before is None else plus(before, counts)
        for level in self._levels[1:]:
            folded_ns, pruned_ns = by_level[level.name]
            if folded_ns is None:
                continue
            first_ns = -FOREVER_NS if pruned_ns is None else pruned_ns
            of_level: dict[tuple[int, int], RowCounts] = {}
            for (at_ns, edge_id), counts in sums.items():
                key = (floor(at_ns, level.width_ns), edge_id)
                if first_ns <= key[0] < folded_ns:
                    before = of_level.get(key)
                    of_level[key] = counts if before is None else plus(before, counts)
            add_to(self._conn, level, of_level)
            for start_ns, _ in of_level:
                self.added[level, start_ns] = self.added.get((level, start_ns), 0) + 1

    def recap(self) -> Iterator[None]:
        """Fold again, in small steps, the buckets that were given too many edges."""
        for bucket, added in list(self.added.items()):
            level, start_ns = bucket
            if added > level.peers // 2:
                if not (yield from recap(self._conn, level, start_ns, self._folding)):
                    return
                del self.added[bucket]
        while len(self.added) > _BUCKETS:
            del self.added[next(iter(self.added))]


def count_late(
    conn: sqlite3.Connection, by_level: Mapping[str, Watermarks], count: FoldedCount
) -> None:
    """Count the addresses of a late row in every finished bucket that holds its time."""
    for level in LEVELS[1:]:
        folded_ns, pruned_ns = by_level[level.name]
        start_ns = floor(count.started_ns, level.width_ns)
        if folded_ns is not None and (pruned_ns or -FOREVER_NS) <= start_ns < folded_ns:
            folded.add(conn, level.name, [count._replace(started_ns=start_ns)])


def plus(one: RowCounts, other: RowCounts) -> list[int | None]:
    """Add counts; None is "not measured"."""
    return [
        its if mine is None else mine if its is None else mine + its
        for mine, its in zip(one, other, strict=True)
    ]
