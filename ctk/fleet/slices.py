"""
A level of several files, cut into slices of time that are copied one after another.

A slice has some rows of all files together, whatever each has, so that they can be put in order in
memory; and within it the same nodes recorded.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from ctk.fleet.attached import Attached
from ctk.fleet.inputs import Input
from ctk.store.levels import Level
from ctk.store.rollup import floor
from ctk.timespan import FOREVER_NS

ROWS = 200_000  # of a slice: some 40 MB while it is put in order
_LEAST, _MOST = 1_000, 20_000  # rows between two marks of a file


class Mark(NamedTuple):
    """So many rows of a table start at `first_ns` or later, and at `last_ns` at the latest."""

    first_ns: int
    last_ns: int
    rows: int


def marks(
    conn: sqlite3.Connection, table: str, second: str, since_ns: int, until_ns: int, step: int
) -> Iterator[Mark]:
    """Yield the rows of a table, so many at a time."""
    at: tuple[int, int] = (since_ns, -FOREVER_NS)
    rows = f"FROM {table} WHERE (started_ns, {second}) >= (?, ?) AND started_ns < ?"
    order = f"ORDER BY started_ns, {second}"
    while True:
        following = conn.execute(
            f"SELECT started_ns, {second} {rows} {order} LIMIT 1 OFFSET ?", (*at, until_ns, step)
        ).fetchone()
        first = conn.execute(
            f"SELECT started_ns {rows} {order} LIMIT 1", (*at, until_ns)
        ).fetchone()
        if first is None:
            return
        if following is None:
            last_ns, count = conn.execute(
                f"SELECT MAX(started_ns), COUNT(*) {rows}", (*at, until_ns)
            ).fetchone()
            yield Mark(first[0], last_ns, count)
            return
        yield Mark(first[0], following[0], step)
        at = following


class LevelRows:
    """Where the rows of a level are, in each file, of a span."""

    def __init__(
        self,
        conn: sqlite3.Connection,
        attached: Attached,
        inputs: Sequence[Input],
        level: Level,
        span: tuple[int, int],
    ) -> None:
        second = "edge_id" if level.width_ns else "n"
        step = min(max(ROWS // (2 * len(inputs)), _LEAST), _MOST)
        self.width_ns = level.width_ns
        self.files: Mapping[int, list[Mark]] = {
            file: [
                mark
                for table in each.tables(level.table)
                for mark in marks(conn, f"{attached[file]}.{table}", second, *span, step)
            ]
            for file, each in enumerate(inputs)
        }

    @property
    def rows(self) -> int:
        return sum(mark.rows for found in self.files.values() for mark in found)

    def slices(self, changes: Iterable[int]) -> Iterator[tuple[int, int, Sequence[int]]]:
        """Yield from when to when each slice is, oldest first, and the files that have rows."""
        found = sorted(mark for some in self.files.values() for mark in some)
        if not found:
            return
        first_ns, last_ns = found[0].first_ns, max(mark.last_ns for mark in found)
        cuts = {first_ns, last_ns + max(self.width_ns, 1)}
        rows = 0
        for mark in found:
            if rows + mark.rows > ROWS:
                cuts.add(floor(mark.first_ns, self.width_ns))
                rows = 0
            rows += mark.rows
        for change_ns in changes:
            if first_ns < change_ns <= last_ns:
                start_ns = floor(change_ns, self.width_ns)
                cuts |= {start_ns, start_ns + self.width_ns} if start_ns < change_ns else {start_ns}
        ordered = sorted(cuts)
        for since_ns, until_ns in pairwise(ordered):
            files = [
                file
                for file, some in self.files.items()
                if any(mark.first_ns < until_ns and mark.last_ns >= since_ns for mark in some)
            ]
            if files:
                yield since_ns, until_ns, files
