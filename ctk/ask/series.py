"""
What moved when: any question's sums by steps of time, from the tables that `top` reads.

The sums over all steps are those of `top`. A step is whole buckets of the coarsest level that
fits into it; the edges of the span are read from finer ones.
"""

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

from ctk.ask.caveats import Caveat, Coarse, Widened, caveats_of_span, pruned_of_span
from ctk.ask.connection import one_moment
from ctk.ask.folded import folded_of
from ctk.ask.spans import Held, Piece, clip, cover, held
from ctk.ask.sums import COUNTS, SEEN, Counts, Value, needs_flows, sum_up
from ctk.errors import UsageError
from ctk.model import Filters
from ctk.timespan import MINUTE, format_time, parse_age


@dataclass(frozen=True, slots=True)
class SeriesRow:
    """What one group's flows of one step add up to; a step without any has no row."""

    started_ns: int  # of the step: a multiple of it since the epoch
    keys: tuple[Value, ...]
    counts: Counts


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Sums by step and keys, oldest first."""

    by: tuple[str, ...]
    step_ns: int
    rows: tuple[SeriesRow, ...]
    caveats: tuple[Caveat, ...]

    def records(self) -> list[dict[str, Value]]:
        """Give each row as a dict of its time, keys and counts, for a data frame."""
        names = ("started_at", "started_ns", *self.by, *COUNTS[: -len(SEEN)])
        return [
            dict(
                zip(
                    names,
                    (format_time(row.started_ns), row.started_ns, *row.keys, *row.counts),
                    strict=False,
                )
            )
            for row in self.rows
        ]


def parse_step(step: str | int) -> int:
    """Turn "5m", or nanoseconds, into the width of a step: whole minutes."""
    step_ns = parse_age(step) if isinstance(step, str) else step
    if not isinstance(step_ns, int) or step_ns <= 0 or step_ns % MINUTE:
        raise UsageError(f"{step!r} is not a step of whole minutes", hint="1m, 15m, 1h or 1d")
    return step_ns


def series(conn: sqlite3.Connection, filters: Filters, by: Sequence[str], step_ns: int) -> Series:
    """Sum up the flows that fit by steps of time and by what their keys are."""
    flows_only = needs_flows(filters, by)
    with one_moment(conn):
        levels = held(conn)[: 1 if flows_only else None]
        span = clip(conn, levels, filters.since_ns, filters.until_ns)
        pieces = [] if span is None else cover_steps(levels, *span, step_ns)
        summed = sum_up(conn, pieces, filters, by, step_ns)
        found = conn.execute(
            f"{summed.sql} SELECT folded, {', '.join([*summed.keys, *COUNTS])} FROM named"
            f" ORDER BY {', '.join(summed.keys)}",
            summed.values,
        )
        folded = False
        rows = []
        for is_folded, started_ns, *row in found:
            folded = folded or bool(is_folded)
            keys, counts = tuple(row[: len(by)]), Counts._make(row[len(by) :])
            rows.append(SeriesRow(started_ns, keys, counts))
        caveats = list(caveats_of_span(conn, filters.since_ns, filters.until_ns))
        if flows_only:
            caveats += pruned_of_span(conn, filters.since_ns, filters.until_ns)
        reach = (pieces[0].since_ns, pieces[-1].until_ns) if pieces else span
        if reach is not None and reach != span:
            caveats.append(Widened(*reach))
        caveats += _coarse(levels, pieces, step_ns)
        caveats += folded_of(conn, pieces, filters, shown=folded)
    return Series(by=tuple(by), step_ns=step_ns, rows=tuple(rows), caveats=tuple(caveats))


def cover_steps(levels: Sequence[Held], since_ns: int, until_ns: int, step_ns: int) -> list[Piece]:
    """
    Cut a span into pieces, as `cover` does, whose buckets fit into steps wherever such are left.

    Where all levels that fit are pruned, coarser buckets stand for them.
    """
    fitting = [level for level in levels if step_ns % level.width_ns == 0]
    kept_ns = min(level.pruned_ns for level in fitting)
    if kept_ns <= since_ns:
        return cover(fitting, since_ns, until_ns)
    # The last of these may reach out to the edge of its bucket; the finer ones go on from there.
    before = cover(levels, since_ns, min(kept_ns, until_ns))
    if not before:
        return cover(fitting, since_ns, until_ns)
    return before + cover(fitting, before[-1].until_ns, until_ns)


def _coarse(levels: Sequence[Held], pieces: Sequence[Piece], step_ns: int) -> list[Caveat]:
    widths = {level.table: level.width_ns for level in levels}
    unfit = [piece for piece in pieces if step_ns % widths[piece.table]]
    if not unfit:
        return []
    return [Coarse(unfit[-1].until_ns, max(widths[piece.table] for piece in unfit))]
