"""
The rows of several files, copied in the order of time: what counts, and what does not.

Each level is copied from where no file has finer rows any more up to where all have them. From
there on it is the fold of what was copied, so that the sums of all levels are equal: copied, too,
where the files' own buckets are just that, and folded anew elsewhere.
"""

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

from ctk.fleet.attached import Attached
from ctk.fleet.classes import Classes
from ctk.fleet.inputs import Input
from ctk.fleet.slices import LevelRows
from ctk.store import folded
from ctk.store.columns import COUNT_KEYS
from ctk.store.levels import LEVELS, Level
from ctk.store.merged import Aside, Why, aside_of
from ctk.store.sums import ADDED, COLUMNS, SUMS
from ctk.timespan import FOREVER_NS, Span

_OF_FLOW = ("started_ns", "n", "edge_id", "lasted_ns", "src_port", *COUNT_KEYS)
_OF_BUCKET = ("started_ns", "edge_id", *COUNT_KEYS)


class LevelCopier:
    """Copies levels, and adds up what does not count, or may count twice."""

    def __init__(
        self,
        conn: sqlite3.Connection,
        attached: Attached,
        inputs: Sequence[Input],
        classes: Classes,
        changes: Sequence[int],
        *,
        aside: bool,
        progress: Callable[[int], None],
    ) -> None:
        self._conn = conn
        self._attached = attached
        self._inputs = inputs
        self._classes = classes
        self._changes = changes
        self._aside = aside
        self._progress = progress
        self._sums: dict[tuple[int, Why], list[int | None]] = {}
        columns = ", ".join(dict.fromkeys((*_OF_FLOW, *_OF_BUCKET)))
        conn.execute(f"CREATE TEMP TABLE slice (class, {columns})")

    def asides(self) -> list[Aside]:
        """Give what does not count, or may count twice, of all that was copied."""
        found = sorted(self._sums.items())
        return [Aside._make((*key, *sums)) for key, sums in found]

    def copy(self, level: Level, rows: LevelRows, fold_ns: int) -> list[Span]:
        """
        Copy the rows of a level; give the spans that are to be folded instead.

        From `fold_ns` on there are finer rows of all files.
        """
        columns = _OF_BUCKET if level.width_ns else _OF_FLOW
        to_fold: list[Span] = []
        at_ns = fold_ns  # up to where it is known what is to be folded
        kept_ns = self._folded_until(level, fold_ns)
        for since_ns, until_ns, files in rows.slices([*self._changes, fold_ns, kept_ns]):
            if since_ns >= fold_ns:
                if (
                    until_ns > kept_ns
                    or any(since_ns < change_ns < until_ns for change_ns in self._changes)
                    or any(self._has_others(level, file, since_ns, until_ns) for file in files)
                ):
                    continue
                to_fold.append((at_ns, since_ns))
                at_ns = until_ns
            self._classes.as_of(since_ns, until_ns)
            copied = sum(self._read(level, columns, file, since_ns, until_ns) for file in files)
            self._write(level, columns)
            if since_ns < fold_ns:  # what has finer rows was added up there
                self._sum_up()
            self._conn.execute("DELETE FROM temp.slice")
            self._progress(copied)
        return [span for span in (*to_fold, (at_ns, FOREVER_NS)) if span[0] < span[1]]

    def _folded_until(self, level: Level, fold_ns: int) -> int:
        """Give up to when the files' own buckets hold all that they have of finer rows."""
        finer = LEVELS[: LEVELS.index(level)]
        ends = [FOREVER_NS]
        for file, each in enumerate(self._inputs):
            folded_ns = each.marks[level.name].folded_ns
            since_ns = max(fold_ns, -FOREVER_NS if folded_ns is None else folded_ns)
            schema = self._attached[file]
            for table in (table for below in finer for table in each.tables(below.table)):
                asked = f"SELECT EXISTS (SELECT 1 FROM {schema}.{table} WHERE started_ns >= ?)"
                if self._conn.execute(asked, (since_ns,)).fetchone()[0]:
                    ends.append(since_ns)
        return min(ends)

    def _has_others(self, level: Level, file: int, since_ns: int, until_ns: int) -> bool:
        """Say whether rows of a file stand for many: of these only finer rows tell who speaks."""
        schema = self._attached[file]
        asked = "started_ns >= ? AND started_ns < ? AND edge_id < 0"
        return any(
            self._conn.execute(
                f"SELECT EXISTS (SELECT 1 FROM {schema}.{table} WHERE {asked})",
                (since_ns, until_ns),
            ).fetchone()[0]
            for table in self._inputs[file].tables(level.table)
        )

    def _read(
        self, level: Level, columns: Sequence[str], file: int, since_ns: int, until_ns: int
    ) -> int:
        """Take in the rows of a file in a slice of time, with its edges' ids here."""
        schema = self._attached[file]
        of_row = {column: f"f.{column}" for column in columns} | {"edge_id": "made.new_id"}
        if "n" in of_row:  # what tells rows of one time apart does so in every file
            of_row["n"] = f"f.n * {len(self._inputs)} + {file}"
        copied = 0
        for table in self._inputs[file].tables(level.table):
            copied += self._conn.execute(
                f"INSERT INTO temp.slice(class, {', '.join(of_row)})"
                f" SELECT made.class, {', '.join(of_row.values())} FROM {schema}.{table} AS f"
                f" CROSS JOIN temp.edge_{file} AS made ON made.id = f.edge_id"
                " WHERE f.started_ns >= ? AND f.started_ns < ?",
                (since_ns, until_ns),
            ).rowcount
        self._conn.execute(
            "INSERT OR IGNORE INTO main.folded"
            " SELECT level, started_ns, made.new_id, src_addresses, dst_addresses, src_counted,"
            f" dst_counted FROM {schema}.folded AS f CROSS JOIN temp.edge_{file} AS made"
            " ON made.id = f.edge_id CROSS JOIN temp.class ON class.id = made.class"
            " WHERE level = ? AND started_ns >= ? AND started_ns < ? AND counts",
            (level.name, since_ns, until_ns),
        )
        return copied

    def _write(self, level: Level, columns: Sequence[str]) -> None:
        """Write a slice, in order; a merged file may have one bucket's row in two tables."""
        of_slice, grouped = ", ".join(columns), ""
        if level.width_ns and any(each.aside for each in self._inputs):
            of_slice, grouped = f"started_ns, edge_id, {SUMS}", "GROUP BY started_ns, edge_id"
        second = "edge_id" if level.width_ns else "n"
        for table, counts in ((level.table, "counts"), (aside_of(level.table), "NOT counts")):
            if counts == "counts" or self._aside:
                self._conn.execute(
                    f"INSERT INTO main.{table}({', '.join(columns)}) SELECT {of_slice}"
                    f" FROM temp.slice CROSS JOIN temp.class ON class.id = slice.class"
                    f" WHERE {counts} {grouped} ORDER BY started_ns, {second}"
                )

    def _sum_up(self) -> None:
        for found, *sums in self._conn.execute(
            "SELECT class, COUNT(*), SUM(connections), SUM(bytes_out), SUM(bytes_in)"
            " FROM temp.slice WHERE class IN (SELECT class FROM temp.told) GROUP BY class"
        ):
            key = self._classes.recorder_ids[found], self._classes.why[found]
            self.add(key, sums)

    def add(self, key: tuple[int, Why], sums: Sequence[int | None]) -> None:
        """Add to what does not count: an earlier merge may have left it out for good."""
        before = self._sums.get(key)
        self._sums[key] = (
            list(sums)
            if before is None
            else [
                its if mine is None else mine if its is None else mine + its
                for mine, its in zip(before, sums, strict=True)
            ]
        )


def fold(
    conn: sqlite3.Connection,
    level: Level,
    spans: Sequence[Span],
    tables: Callable[[str], str] = lambda table: table,
) -> None:
    """Fold spans of a level from the finer one, in the tables that `tables` names."""
    finer = LEVELS[LEVELS.index(level) - 1]
    for span in spans if level.width_ns else ():
        # In the order of time its bucket is at hand: 1.7 us a row, where GROUP BY took 2.8.
        conn.execute(
            f"INSERT INTO main.{tables(level.table)}(started_ns, edge_id, {COLUMNS})"
            f" SELECT started_ns - started_ns % {level.width_ns}, edge_id, {COLUMNS}"
            f" FROM main.{tables(finer.table)} WHERE started_ns >= ? AND started_ns < ?"
            f" ON CONFLICT(started_ns, edge_id) DO UPDATE SET {ADDED}",
            span,
        )


def fold_counts(conn: sqlite3.Connection, since_ns: Mapping[str, int]) -> None:
    """Fold how many addresses stand behind the rows of edges that stand for many."""
    for finer, level in pairwise(LEVELS):
        width_ns = level.width_ns
        starts = conn.execute(
            f"SELECT DISTINCT started_ns - started_ns % {width_ns} FROM main.folded"
            " WHERE level = ? AND started_ns >= ?",
            (finer.name, since_ns[finer.name]),
        ).fetchall()
        for (start_ns,) in starts:
            counts = folded.of_bucket(conn, finer.name, start_ns, start_ns + width_ns)
            folded.put(conn, level.name, start_ns, counts)
