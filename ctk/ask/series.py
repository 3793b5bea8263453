"""
What moved when: any question's sums by steps of time, from the tables that `top` reads.

The sums over all steps are those of `top`. A step is whole buckets of the coarsest level that
fits into it; the edges of the span are read from finer ones. Steps have no holes: one in which
nothing was recorded, or in which a gap may hide what was, is there without counts.
"""

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from ctk.ask.among import choose_among
from ctk.ask.caveats import Caveat, Coarse, Folded, Widened, caveats_of, pruned_of_span
from ctk.ask.connection import one_moment
from ctk.ask.coverage import Coverage, coverage_of
from ctk.ask.folded import folded_of
from ctk.ask.presets import RankedSide
from ctk.ask.spans import HeldLevel, Piece, clip, cover, held
from ctk.ask.sums import COUNTS, NOTHING, SEEN, Counts, Keys, Value, needs_flows, plus, sum_up
from ctk.errors import UsageError
from ctk.model import Filters
from ctk.timespan import DAY, FOREVER_NS, HOUR, MINUTE, SECOND, WEEK, format_time, parse_age

# More steps, or rows of them, than these are not what anybody wants.
MOST_STEPS, MOST_ROWS = 100_000, 1_000_000


class SeriesRow(NamedTuple):
    """
    What one group's flows of one step add up to.

    `counts` are None where none are there and that may be for a gap, or since nothing was recorded:
    a 0 is known to be one. Where `is_whole` is not, counts may be too small; `recorded_ns` is how
    much of the step was recorded, by which rates are.
    """

    started_ns: int  # of the step: a multiple of it since the epoch
    keys: tuple[Value, ...]
    counts: Counts | None
    recorded_ns: int
    is_whole: bool

    def per_s(self, count: str) -> float | None:
        """Give a count by the second that was recorded."""
        value = None if self.counts is None else getattr(self.counts, count)
        return value * SECOND / self.recorded_ns if value is not None and self.recorded_ns else None


class Step(NamedTuple):
    """How much of a step was recorded, and whether nothing may be hidden in it."""

    started_ns: int
    recorded_ns: int
    is_whole: bool


class Series(NamedTuple):
    """Sums by step and keys: every step of the span, oldest first, and in it every group."""

    by: tuple[str, ...]
    step_ns: int
    sort: str
    steps: tuple[Step, ...]
    rows: tuple[SeriesRow, ...]
    groups: int  # in all; those of `rows` are the first of them, the largest first
    caveats: tuple[Caveat, ...]

    def records(self) -> list[dict[str, Value | float | bool]]:
        """Give each row as a dict of its time, keys, counts and rates, for a data frame."""
        names = (*SERIES_TIMES, *self.by, *SERIES_COUNTS, *SERIES_RATES)
        return [dict(zip(names, values(row), strict=True)) for row in self.rows]


SERIES_TIMES = ("started_at", "started_ns")
SERIES_COUNTS = COUNTS[: -len(SEEN)]
SERIES_RATES = ("connections_per_s", "bytes_per_s", "recorded_ns", "is_whole")
_NOT_KNOWN = (None,) * len(SERIES_COUNTS)


def values(row: SeriesRow) -> tuple[Value | float | bool, ...]:
    """Give what a row is told as: its times, keys, counts, rates, and what of it was recorded."""
    counts = _NOT_KNOWN if row.counts is None else row.counts[: len(SERIES_COUNTS)]
    rates = row.per_s("connections"), row.per_s("bytes")
    times = format_time(row.started_ns), row.started_ns
    return (*times, *row.keys, *counts, *rates, row.recorded_ns, row.is_whole)


_STEPS = "10s, 20s, 30s, or whole minutes: 1m, 15m, 1h, 1d"


def parse_step(step: str | int) -> int:
    """Turn "5m", or nanoseconds, into the width of a step: whole minutes, or 10, 20 or 30 s."""
    step_ns = parse_age(step) if isinstance(step, str) else step
    if not isinstance(step_ns, int) or step_ns <= 0 or (step_ns % MINUTE and step_ns not in _FINE):
        raise UsageError(f"{step!r} is not a step", hint=_STEPS)
    return step_ns


def series(
    conn: sqlite3.Connection,
    filters: Filters,
    by: Sequence[str],
    step_ns: int | None,
    sort: str | None = None,
    limit: int | None = None,
    *,
    most_steps: int | None = None,
    side: RankedSide = "both",
    among: Sequence[Keys] | None = None,
) -> Series:
    """
    Sum up the flows that fit by steps of time and by what their keys are; of groups, those `among`.

    Without a step, one is chosen that parts the span in 60 or fewer, or in `most_steps` or fewer,
    which may be as short as 10 s. The default sort is bytes, and connections where no bytes were
    measured.
    """
    if sort is not None and sort not in SERIES_COUNTS:
        hint = f"one of {', '.join(SERIES_COUNTS)}"
        raise UsageError(f"{sort!r} is not a count to sort by", hint=hint)
    flows_only = needs_flows(filters, by)
    with one_moment(conn):
        coverage = coverage_of(conn)
        levels = held(conn)[: 1 if flows_only else None]
        span = clip(conn, levels, filters.since_ns, filters.until_ns)
        if step_ns is None:
            step_ns = _chosen_step(filters, coverage, span, levels, most_steps)
        pieces = [] if span is None else cover_steps(levels, *span, step_ns)
        if among is not None:
            choose_among(conn, by, side, among)
        summed = sum_up(conn, pieces, filters, by, step_ns, side=side, among=among is not None)
        wanted = None if among is None else frozenset(among)
        found = conn.execute(
            f"{summed.sql} SELECT folded, {', '.join([*summed.keys, *COUNTS])} FROM named"
            f" ORDER BY {', '.join(summed.keys)}",
            summed.values,
        )
        folded = False
        steps: dict[int, dict[Keys, Counts]] = {}
        for is_folded, started_ns, *row in found:
            keys = tuple(row[: len(by)])
            if wanted is None or keys in wanted:
                folded = folded or bool(is_folded)
                steps.setdefault(started_ns, {})[keys] = Counts._make(row[len(by) :])
        caveats = list(caveats_of(conn, filters))
        if flows_only:
            caveats += pruned_of_span(conn, filters.since_ns, filters.until_ns)
        reach = (pieces[0].since_ns, pieces[-1].until_ns) if pieces else span
        if reach is not None and reach != span:
            caveats.append(Widened(*reach))
        coarse = _coarse(levels, pieces, step_ns)
        caveats += coarse
        caveats += folded_of(conn, pieces, filters, shown=folded)
        if not steps and not any(isinstance(each, Folded) for each in caveats):
            from ctk.ask.nothing import why_nothing

            caveats[:0] = why_nothing(conn, filters)
    known = _Known(filters, coverage, step_ns, coarse[-1].until_ns if coarse else -FOREVER_NS)
    return _series(tuple(by), step_ns, known.steps(steps), steps, sort, limit, caveats)


def together(
    found: Sequence[Series], sort: str | None, limit: int | None, caveats: Sequence[Caveat]
) -> Series:
    """
    Put the series of several files together.

    A count is what all files have of it: unknown where none knows, and perhaps too small where one
    of them does not.
    """
    by, step_ns = found[0].by, found[0].step_ns
    sums: dict[int, dict[Keys, Counts]] = {}
    files: dict[int, list[Step]] = {}
    for series in found:
        for step in series.steps:
            files.setdefault(step.started_ns, []).append(step)
        for row in series.rows:
            if row.counts is not None:
                some = sums.setdefault(row.started_ns, {})
                some[row.keys] = (
                    plus(some[row.keys], row.counts) if row.keys in some else row.counts
                )
    steps = [
        Step(
            started_ns,
            max((step.recorded_ns for step in files.get(started_ns, ())), default=0),
            len(files.get(started_ns, ())) == len(found)
            and all(step.is_whole for step in files[started_ns]),
        )
        for started_ns in (range(min(files), max(files) + 1, step_ns) if files else ())
    ]
    return _series(by, step_ns, steps, sums, sort, limit, caveats)


def _series(
    by: tuple[str, ...],
    step_ns: int,
    steps: Sequence[Step],
    found: Mapping[int, Mapping[Keys, Counts]],
    sort: str | None,
    limit: int | None,
    caveats: Sequence[Caveat],
) -> Series:
    """Give every step every group: what it counted, or 0, or that this is not known."""
    measured = any(counts.bytes is not None for some in found.values() for counts in some.values())
    nothing = NOTHING._replace(packets=0, bytes=0, bytes_out=0, bytes_in=0) if measured else NOTHING
    sort = sort or ("bytes" if measured else "connections")
    groups = _groups(found, sort) or [()] * (not by)
    if len(steps) * len(groups[:limit]) > MOST_ROWS:
        raise UsageError(
            f"{len(steps):,} steps of {len(groups):,} groups are too many",
            hint="take a wider step, or fewer groups",
        )
    rows = tuple(
        SeriesRow(
            step.started_ns,
            keys,
            found.get(step.started_ns, {}).get(keys, nothing if step.is_whole else None),
            step.recorded_ns,
            step.is_whole,
        )
        for step in steps
        for keys in groups[:limit]
    )
    return Series(
        by=by,
        step_ns=step_ns,
        sort=sort,
        steps=tuple(steps),
        rows=rows,
        groups=len(groups),
        caveats=tuple(caveats),
    )


def _groups(steps: Mapping[int, Mapping[Keys, Counts]], sort: str) -> list[Keys]:
    """Give the groups, the largest first."""
    totals: dict[Keys, int] = {}
    for some in steps.values():
        for keys, counts in some.items():
            totals[keys] = totals.get(keys, 0) + (getattr(counts, sort) or 0)
    return sorted(totals, key=lambda keys: (-totals[keys], *map(str, keys)))


class _Known(NamedTuple):
    """What is known of the time that is asked about."""

    filters: Filters
    coverage: Coverage
    step_ns: int
    exact_ns: int  # before this, counts stand at the start of buckets wider than a step

    def steps(self, found: Iterable[int]) -> list[Step]:
        """Give the steps of the span: of the one asked for, or of what there is."""
        filters, extent = self.filters, self.coverage.extent
        starts, ends = list(found), [started_ns + 1 for started_ns in found]
        if filters.since_ns is not None:
            starts.append(filters.since_ns)
        elif extent is not None:
            starts.append(extent[0])
        if filters.until_ns is not None:
            ends.append(filters.until_ns)
        elif extent is not None:
            ends.append(extent[1])
        if not starts or not ends:
            return []
        all_of_them = range(min(starts) // self.step_ns * self.step_ns, max(ends), self.step_ns)
        if len(all_of_them) > MOST_STEPS:
            raise UsageError(
                f"{len(all_of_them):,} steps are too many", hint="take a wider step: 1h or 1d"
            )
        return [self._step(started_ns) for started_ns in all_of_them]

    def _step(self, started_ns: int) -> Step:
        """Look at the part of a step that was asked for, and is not outside of all recordings."""
        filters, extent = self.filters, self.coverage.extent
        since_ns, until_ns = started_ns, started_ns + self.step_ns
        for least_ns in (filters.since_ns, extent and extent[0]):
            since_ns = since_ns if least_ns is None else max(since_ns, least_ns)
        for most_ns in (filters.until_ns, extent and extent[1]):
            until_ns = until_ns if most_ns is None else min(until_ns, most_ns)
        is_whole = started_ns >= self.exact_ns and self.coverage.is_whole(since_ns, until_ns)
        return Step(started_ns, self.coverage.recorded_ns(since_ns, until_ns), is_whole)


# What a span is cut into by itself; shorter ones than windows would show nothing but these.
STEPS = (
    *(count * SECOND for count in (10, 20, 30)),
    *(count * MINUTE for count in (1, 2, 5, 10, 15, 30)),
    *(count * HOUR for count in (1, 2, 3, 6, 12)),
    *(DAY, 2 * DAY, WEEK),
)
_FINE = STEPS[:3]
_MOST_CHOSEN = 60
_CHOSEN = (*(n * MINUTE for n in (1, 5, 15, 30)), HOUR, 3 * HOUR, 6 * HOUR, DAY, WEEK)
# So many days are a picture, and their rollup is read in a moment: that of hours takes seconds.
_DAYS = 24


def _chosen_step(
    filters: Filters,
    coverage: Coverage,
    span: tuple[int, int] | None,
    levels: Sequence[HeldLevel],
    most: int | None,
) -> int:
    extent = coverage.extent or span or (0, 0)
    since_ns = extent[0] if filters.since_ns is None else filters.since_ns
    until_ns = extent[1] if filters.until_ns is None else filters.until_ns
    lasts_ns = until_ns - since_ns
    if most is None:
        return step_of(lasts_ns, _MOST_CHOSEN, _CHOSEN)
    began_ns = span[0] if span else since_ns
    kept = [level.width_ns for level in levels if level.pruned_ns <= began_ns] or [MINUTE]
    steps = [
        step
        for step in STEPS
        if any(step % width_ns == 0 for width_ns in kept)
        and (step >= DAY or lasts_ns < _DAYS * DAY)
    ]
    return step_of(lasts_ns, most, steps or STEPS)


def step_of(lasts_ns: int, most: int, steps: Sequence[int] = STEPS) -> int:
    """Choose the first of some steps that parts a span in no more than so many."""
    return next((step for step in steps if lasts_ns // step < most), steps[-1])


def cover_steps(
    levels: Sequence[HeldLevel], since_ns: int, until_ns: int, step_ns: int
) -> list[Piece]:
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


def _coarse(levels: Sequence[HeldLevel], pieces: Sequence[Piece], step_ns: int) -> list[Coarse]:
    widths = {level.table: level.width_ns for level in levels}
    unfit = [piece for piece in pieces if step_ns % widths[piece.table]]
    if not unfit:
        return []
    return [Coarse(unfit[-1].until_ns, max(widths[piece.table] for piece in unfit))]
