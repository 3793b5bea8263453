"""
Several files, asked as one: what `ctk.open(["a.db", "b.db"])` gives.

Each file answers for itself, from its own tables and as exactly as they allow; the answers are put
together here: flows by time, sums by their keys. SQL is asked of views that unite theirs.
"""

import os
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import reduce
from itertools import chain
from typing import TYPE_CHECKING, Any, Unpack

from ctk.ask.caveats import (
    Caveat,
    CountedFromEnd,
    HasGaps,
    NothingFits,
    OfFiles,
    SeenByEach,
    Unrecorded,
    unrecorded_of,
)
from ctk.ask.connection import Connect
from ctk.ask.flows import Flows
from ctk.ask.flowstogether import FlowsTogether
from ctk.ask.follow import Follow
from ctk.ask.gaps import Gaps
from ctk.ask.keywords import Asked
from ctk.ask.moments import Moment, Reference
from ctk.ask.pages import Position
from ctk.ask.presets import RankedSide
from ctk.ask.recording import Recording
from ctk.ask.series import Series
from ctk.ask.storedgaps import StoredGap
from ctk.ask.sums import COUNTS, NOTHING, SORTS, Counts, Value, keys_of, plus
from ctk.ask.top import Top, TopRow
from ctk.errors import UsageError
from ctk.model import Filters
from ctk.timespan import FOREVER_NS

if TYPE_CHECKING:
    from ctk.ask.failures import Failures
    from ctk.ask.idle import Idle
    from ctk.ask.new import New


class Recordings(Recording):
    """
    What several files hold, as one `Recording`; each flow says which node recorded it.

    A connection that several of their nodes saw counts once for each: see `SeenByEach`.
    """

    def __init__(
        self, targets: Sequence[str | os.PathLike[str]], *, all_observers: bool = False
    ) -> None:
        """Open the files; a UsageError where two of them hold the same recording."""
        if not targets:
            raise UsageError("there is no file to open", hint="give one or more of them")
        super().__init__(targets[0], all_observers=all_observers)
        self._parts = tuple(Recording(target, all_observers=all_observers) for target in targets)
        holders: dict[tuple[object, ...], Recording] = {}
        for part in self._parts:
            runs = part.runs()
            for run in runs:
                if run in holders:
                    raise UsageError(
                        f"{part.path} and {holders[run].path} hold the same recording",
                        hint="give one of them",
                    )
            holders |= dict.fromkeys(runs, part)
        self._seen_by = len({(cluster, node) for cluster, node, _ in holders})

    def flows(
        self,
        filters: Filters | None = None,
        /,
        *,
        after: Position | None = None,
        **asked: Unpack[Asked],
    ) -> Flows:
        """Give the flows of all files that fit, oldest first; there is no reading on `after`."""
        self._check()
        if after is not None:
            raise UsageError("where a reader stopped is of one file", hint="give one file")
        return FlowsTogether(self._parts, self._filters(filters, asked, "after"), self._together)

    def top(
        self,
        filters: Filters | None = None,
        /,
        *,
        by: str | Iterable[str] = ("source", "destination"),
        sort: str | None = None,
        limit: int | None = 20,
        seen: bool = False,
        side: RankedSide = "both",
        counts: Sequence[str] | None = None,
        **asked: Unpack[Asked],
    ) -> Top:
        """Sum up the flows of all files that fit by keys, the largest first."""
        self._check()
        keys = keys_of(by)
        chosen = self._filters(filters, asked, "by", "sort", "limit", "seen", "side", "counts")
        # The first file refuses what is asked wrongly, the limit too.
        self._parts[0].top(
            chosen._replace(until_ns=-FOREVER_NS),
            by=keys,
            sort=sort,
            limit=limit,
            side=side,
            counts=counts,
        )
        tops = [
            part.top(each, by=keys, sort=sort, limit=None, seen=seen, side=side, counts=counts)
            for part, each in self._shares(chosen)
        ]
        groups: dict[tuple[Value, ...], Counts] = {}
        for row in chain.from_iterable(top.rows for top in tops):
            before = groups.get(row.keys)
            groups[row.keys] = row.counts if before is None else plus(before, row.counts)
        totals = tops[0].totals
        for top in tops[1:]:
            totals = plus(totals, top.totals)
        sort = sort or ("bytes" if totals.bytes is not None else "connections")
        rows = [TopRow(*group) for group in sorted(groups.items(), key=_largest_first(sort))]
        return tops[0]._replace(
            sort=sort,
            rows=tuple(rows[:limit]),
            totals=totals,
            others=reduce(plus, (row.counts for row in rows[len(rows[:limit]) :]), NOTHING),
            groups=len(groups),
            span=_widest([top.span for top in tops if top.span is not None]),
            caveats=self._together((top.caveats for top in tops), chosen),
        )

    def series(
        self,
        filters: Filters | None = None,
        /,
        *,
        by: str | Iterable[str] = (),
        step: str | int | None = "1m",
        sort: str | None = None,
        limit: int | None = None,
        most_steps: int | None = None,
        side: RankedSide = "both",
        among: Sequence[tuple[Value, ...]] | None = None,
        **asked: Unpack[Asked],
    ) -> Series:
        """Sum up the flows of all files that fit by steps of time, and by keys."""
        from ctk.ask.series import parse_step, step_of, together

        self._check()
        keys = keys_of(by)
        chosen = self._filters(
            filters, asked, "by", "step", "sort", "limit", "most_steps", "side", "among"
        )
        shares = self._shares(chosen)
        step_ns = None if step is None else parse_step(step)
        if step_ns is None:
            each = [part.series(share, step=None, most_steps=most_steps) for part, share in shares]
            step_ns = max(series.step_ns for series in each)
            starts = [step.started_ns for series in each for step in series.steps]
            if most_steps is not None and starts:  # all files may last longer than each of them
                lasts_ns = max(starts) + step_ns - min(starts)
                step_ns = max(step_ns, step_of(lasts_ns, most_steps))
        found = [
            part.series(share, by=keys, step=step_ns, sort=sort, side=side, among=among)
            for part, share in shares
        ]
        caveats = self._together((series.caveats for series in found), chosen)
        return together(found, sort, limit, caveats)

    def failures(
        self,
        filters: Filters | None = None,
        /,
        *,
        limit: int | None = None,
        **asked: Unpack[Asked],
    ) -> "Failures":
        """Say what failed in any of the files, the most failures first."""
        from ctk.ask.several import failures_of

        self._check()
        chosen = self._filters(filters, asked, "limit")
        return failures_of(
            self._connects(), chosen, limit, lambda found: self._together(found, chosen)
        )

    def new(self, filters: Filters | None = None, /, **asked: Unpack[Asked]) -> "New":
        """List who talked to whom for the first time in a span, and before it in none of them."""
        from ctk.ask.new import BY
        from ctk.ask.several import new_of
        from ctk.ask.sums import refuse_cut

        self._check()
        chosen = self._filters(filters, asked)
        refuse_cut(chosen, "peers")

        def top() -> Top:
            return self.top(chosen, by=BY, sort="connections", limit=None)

        return new_of(
            self._connects(), chosen, top, lambda found: self._together(found, sums=False)
        )

    def idle(
        self,
        filters: Filters | None = None,
        /,
        *,
        min_idle: str | int = "5m",
        **asked: Unpack[Asked],
    ) -> "Idle":
        """List the live connections of all files that move nothing."""
        from ctk.ask.several import idle_of

        self._check()
        chosen = self._filters(filters, asked, "min_idle")
        found = [part.idle(chosen, min_idle=min_idle) for part in self._parts]
        return idle_of(found, self._together)

    def follow(
        self,
        filters: Filters | None = None,
        /,
        *,
        after: Position | None = None,
        wait: Callable[[float], bool] | None = None,
        **asked: Unpack[Asked],
    ) -> Follow:
        """Refuse: where a reader stopped is of one file."""
        raise UsageError("what is followed is one file", hint="give one file")

    def gaps(self, *, since: Moment | None = None, until: Moment | None = None) -> Gaps:
        """Give the gaps of all files that touch a span, oldest first."""
        self._check()
        span = self._filters(None, {"since": since, "until": until})
        found = [part.gaps(since=span.since_ns, until=span.until_ns) for part in self._parts]
        rows = sorted(chain.from_iterable(gaps.rows for gaps in found), key=lambda gap: gap[2:4])
        caveats = self._together((gaps.caveats for gaps in found), sums=False)
        if span.counted_from_ns is not None:
            caveats = (CountedFromEnd(span.counted_from_ns), *caveats)
        return Gaps(rows=tuple(rows), caveats=caveats)

    def reference(self) -> Reference:
        """Give what ages count from: now where one of the files is written, else the last end."""
        self._check()
        found = [part.reference() for part in self._parts]
        return max(found, key=lambda each: (not each.is_end, each.at_ns))

    def sql_connection(self, text: str) -> Connect:
        """Give what opens a connection whose views are those of all files, for this SQL."""
        from ctk.ask.attached import uniting

        first, *others = (part.source for part in self._parts)
        return uniting(first.reader, others, text)

    def _connects(self) -> list[Connect]:
        return [part._connect for part in self._parts]

    def _connect(self) -> AbstractContextManager[sqlite3.Connection]:
        raise UsageError("that is asked of one file at a time", hint=f"of {self.path}, say")

    def _shares(self, filters: Filters) -> list[tuple[Recording, Filters]]:
        """Give each file's part of the question: of the first or last flows of all, its own."""
        if (filters.first, filters.last) == (None, None):
            return [(part, filters) for part in self._parts]
        flows = FlowsTogether(self._parts, filters, self._together)
        for _ in flows:
            pass
        return [
            (
                part,
                filters._replace(first=flows.given[at])
                if filters.last is None
                else filters._replace(last=flows.given[at]),
            )
            for at, part in enumerate(self._parts)
        ]

    def _together(
        self,
        found: Iterable[Iterable[Caveat]],
        span: Filters | None = None,
        *,
        sums: bool = True,
    ) -> tuple[Caveat, ...]:
        """
        Put the caveats of the files' answers together, in the files' order.

        What of the `span` none of them recorded is told of all of them, as of one file.
        """
        gaps: list[StoredGap] = []
        files: dict[Caveat, list[str]] = {}
        for part, caveats in zip(self._parts, found, strict=True):
            for caveat in caveats:
                if isinstance(caveat, HasGaps):
                    gaps += caveat.gaps
                elif not isinstance(caveat, Unrecorded):
                    files.setdefault(caveat, []).append(str(part.path))
        nothing = [names for caveat, names in files.items() if isinstance(caveat, NothingFits)]
        if sum(map(len, nothing)) < len(self._parts):  # in one of them something fits
            files = {each: of for each, of in files.items() if not isinstance(each, NothingFits)}
        together: list[Caveat] = []
        if gaps:
            together.append(HasGaps(tuple(sorted(gaps, key=lambda gap: gap[2:4]))))
        if span is not None:
            with ExitStack() as stack:
                conns = [stack.enter_context(connect()) for connect in self._connects()]
                together += unrecorded_of(conns, span.since_ns, span.until_ns)
        together += [
            caveat if len(names) == len(self._parts) else OfFiles(tuple(names), caveat)
            for caveat, names in files.items()
        ]
        return (*together, *self._of_files()) if sums else tuple(together)

    def _files(self) -> Sequence[Recording]:
        return self._parts

    def _of_files(self) -> tuple[Caveat, ...]:
        return (SeenByEach(self._seen_by),) if self._seen_by > 1 else ()


def _widest(spans: Sequence[tuple[int, int]]) -> tuple[int, int] | None:
    if not spans:
        return None
    return min(since_ns for since_ns, _ in spans), max(until_ns for _, until_ns in spans)


def _largest_first(sort: str) -> Callable[[tuple[tuple[Value, ...], Counts]], Any]:
    """Give the order of SQLite: the largest count first, NULL last; then by keys."""
    at = COUNTS.index(SORTS[sort])

    def order(group: tuple[tuple[Value, ...], Counts]) -> Any:
        keys, counts = group
        count = counts[at]
        return count is None, -(count or 0), *map(_nulls_first, keys)

    return order


def _nulls_first(value: Value) -> tuple[bool, Any]:
    return value is not None, value
