"""
What was shipped, to ask: what `ctk.open("clickhouse://...")` gives.

Sums are made where the rows are. For what is more than sums, the rows of the span are brought here
and merged (brought.py). SQL is ClickHouse's own.
"""

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, TypeVar, Unpack

from ctk.ask.caveats import (
    Caveat,
    CountedFromEnd,
    HasGaps,
    NothingFits,
    NothingRecorded,
    SeenTo,
    SummedUp,
    Unrecorded,
    WholeMinutes,
)
from ctk.ask.connection import Connect
from ctk.ask.flows import Flows
from ctk.ask.gaps import Gaps
from ctk.ask.keywords import Asked
from ctk.ask.moments import Moment, Reference
from ctk.ask.observers import AllObservers
from ctk.ask.presets import RankedSide
from ctk.ask.sums import Value, needs_flows
from ctk.ask.top import Top, check
from ctk.errors import UsageError
from ctk.fleet.clickhouse import tables
from ctk.fleet.clickhouse.client import Client, TooManyError, reading
from ctk.fleet.clickhouse.notshipped import NotShipped, told_apart
from ctk.fleet.clickhouse.recordings import Told, read
from ctk.fleet.clickhouse.target import parse_target
from ctk.model import Filters
from ctk.store.source import Source, source
from ctk.timespan import FOREVER_NS, MINUTE, Span

if TYPE_CHECKING:
    from ctk.ask.describe import Description
    from ctk.ask.failures import Failures
    from ctk.ask.pages import Position
    from ctk.ask.series import Series
    from ctk.ask.sql import SqlAnswer, SqlValue
    from ctk.fleet.clickhouse.sums import TargetSums

T = TypeVar("T", Top, "Series", "Failures")
_EVER: Span = (-FOREVER_NS, FOREVER_NS)


class Shipped(NotShipped):
    """What the nodes shipped, read-only, as one merged file of theirs would answer."""

    def __init__(self, target: str, *, all_observers: bool = False) -> None:
        """Open a target; a UsageError where it is none, or has no tables of ctk."""
        self.target = parse_target(target)
        self.path = Path(self.target.said)
        self._open = True
        self._all_observers = all_observers
        self._opened = ExitStack()
        self._asked = threading.local()  # of what each thread asks now: span, and caveats
        self._bringing = threading.Lock()
        self._brought: list[tuple[Span, Source]] = []
        self._told: Told | None = None
        self._sums: TargetSums | None = None
        self.client: Client = reading(self.target)
        self._opened.callback(self.client.close)
        try:
            self._keep_days = tables.check(self.client)
        except BaseException:
            self._opened.close()
            raise

    def close(self) -> None:
        """Answer no further question, and throw away what was brought here."""
        super().close()
        self._opened.close()

    def flows(
        self,
        filters: Filters | None = None,
        /,
        *,
        after: "Position | None" = None,
        **asked: Unpack[Asked],
    ) -> Flows:
        """Give what fits, oldest first: a row is what an edge did in a minute."""
        self._check()
        if after is not None:
            raise UsageError("where a reader stopped is of one file", hint="since, of what is here")
        chosen = self._filters(filters, asked)
        explain = partial(self._explained, self._asked.span)
        return _Minutes(self._connected(), chosen, self._asked.caveats, explain)

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
        """Sum up what fits by keys, the largest first; all `counts` come at once."""
        self._check()
        keys = told_apart(by)
        chosen = self._filters(filters, asked, "by", "sort", "limit", "seen", "side", "counts")
        found = self._added_up(chosen, keys, sort, limit, seen=seen, side=side)
        if found is None or not found.groups:
            try:  # what is brought tells why nothing fits
                found = super().top(chosen, by=keys, sort=sort, limit=limit, seen=seen, side=side)
            except TooManyError:
                if found is None:
                    raise
        return self._with_caveats(found)

    def _added_up(
        self,
        filters: Filters,
        keys: Sequence[str],
        sort: str | None,
        limit: int | None,
        *,
        seen: bool,
        side: RankedSide,
    ) -> Top | None:
        """Answer from where the rows are; None where they cannot tell."""
        if self._sums is None:
            from ctk.fleet.clickhouse.speaking import fleet_of
            from ctk.fleet.clickhouse.sums import TargetSums

            fleet = fleet_of(self.told)
            self._sums = TargetSums(
                self.client, self.told, fleet, self._keep_days, everybody=self._all_observers
            )
        check(sort, limit, side)
        found = self._sums.top(filters, keys, sort, limit, seen=seen, side=side)
        if found is None:
            return None
        return found._replace(caveats=(*self.caveats_of(filters), *found.caveats))

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
        among: "Sequence[tuple[Value, ...]] | None" = None,
        **asked: Unpack[Asked],
    ) -> "Series":
        """Sum up what fits by steps of a minute or more, and by keys."""
        return self._with_caveats(
            super().series(
                filters,
                by=told_apart(by),
                step=step,
                sort=sort,
                limit=limit,
                most_steps=most_steps,
                side=side,
                among=among,
                **asked,
            )
        )

    def failures(
        self,
        filters: Filters | None = None,
        /,
        *,
        limit: int | None = None,
        **asked: Unpack[Asked],
    ) -> "Failures":
        """Say what failed, most failures first; a row is a minute, so when is exact to that."""
        found = super().failures(filters, limit=limit, **asked)
        rows = tuple(row._replace(exact_to_ns=max(row.exact_to_ns, MINUTE)) for row in found.rows)
        caveats = found.caveats
        if rows and not any(isinstance(each, SeenTo) for each in caveats):
            caveats = (*caveats, SeenTo(MINUTE))
        return self._with_caveats(found._replace(rows=rows, caveats=caveats))

    def sql(
        self,
        text: str,
        params: "Mapping[str, SqlValue] | None" = None,
        filters: Filters | None = None,
        /,
        *,
        since: Moment | None = None,
        until: Moment | None = None,
        limit_s: float = 30.0,
        memory_bytes: int | None = None,
        explain: bool = False,
        attach: "Mapping[str, str | os.PathLike[str]] | None" = None,
        **named: "SqlValue",
    ) -> "SqlAnswer":
        """
        Ask in ClickHouse's SQL: one statement that only reads, within limits of time and memory.

        `{name:Type}` in it is bound to the argument of that name, or to that of `params`;
        `{since_ns:Int64}` and `{until_ns:Int64}` to `since` and `until`, or to the ends of time.
        """
        from ctk.fleet.clickhouse.sql import ShippedSql

        self._check()
        if attach:
            raise UsageError("files are attached to a file", hint="leave --attach out")
        span = filters or self._span(since, until)
        caveats = self.caveats_of(span) if span != Filters() else ()
        return ShippedSql(
            self.client,
            f"EXPLAIN {text}" if explain else text,
            {**(params or {}), **named},
            span,
            limit_s=limit_s,
            memory_bytes=memory_bytes,
            caveats=caveats,
        )

    def gaps(self, *, since: Moment | None = None, until: Moment | None = None) -> Gaps:
        """Give the gaps that touch a span, oldest first."""
        self._check()
        span = self._span(since, until)
        return Gaps(
            rows=self.told.gaps_in(span.since_ns, span.until_ns),
            caveats=self.caveats_of(span, gaps=False),
        )

    def describe(self, *, sizes: bool = True) -> "Description":
        """Say what was shipped: its span, nodes, recordings, gaps; by `sizes` its tables too."""
        from ctk.fleet.clickhouse.described import described

        self._check()
        try:
            found, is_whole = self._source(_EVER), True
        except TooManyError:
            found, is_whole = self._source((0, 0)), False
        with found.reader() as conn:
            return described(self.client, conn, sizes=sizes, is_whole=is_whole)

    def reference(self) -> Reference:
        """Give what ages count from: now where nodes ship, else the end of what they shipped."""
        self._check()
        return self.told.reference(time.time_ns())

    def committed(self) -> tuple[int, int]:
        """Give up to when the newest recording is shipped, and the width of its rows, in ns."""
        self._check()
        return max((each.committed_ns for each in self.told.recordings), default=0), MINUTE

    @property
    def told(self) -> Told:
        """The recordings and gaps that there were when this was first asked."""
        if self._told is None:
            self._told = read(self.client)
        return self._told

    def caveats_of(self, filters: Filters, *, gaps: bool = True) -> tuple[Caveat, ...]:
        """Give what any answer lacks, and where its span comes from."""
        found: list[Caveat] = [] if self.told.recordings else [NothingRecorded()]
        if filters.counted_from_ns is not None:
            found.append(CountedFromEnd(filters.counted_from_ns))
        if gaps and (some := self.told.gaps_in(filters.since_ns, filters.until_ns)):
            found.append(HasGaps(some))
        if gaps and (spans := self.told.unrecorded_in(filters.since_ns, filters.until_ns)):
            found.append(Unrecorded(spans))
        return tuple(found)

    def _filters(
        self, filters: Filters | None, asked: Mapping[str, object], *others: str
    ) -> Filters:
        """Give the filters of a question, of whole minutes; and keep them for its connection."""
        chosen = super()._filters(filters, asked, *others)
        caveats: list[Caveat] = []
        since_ns, until_ns = chosen.since_ns, chosen.until_ns
        if since_ns is not None:
            since_ns -= since_ns % MINUTE
        if until_ns is not None:
            until_ns += -until_ns % MINUTE
        if (since_ns, until_ns) != (chosen.since_ns, chosen.until_ns):
            caveats.append(WholeMinutes())
            chosen = chosen._replace(since_ns=since_ns, until_ns=until_ns)
        if needs_flows(chosen, ()):
            caveats.append(SummedUp())
        self._asked.span = (
            -FOREVER_NS if since_ns is None else since_ns,
            FOREVER_NS if until_ns is None else until_ns,
        )
        self._asked.caveats = tuple(caveats)
        return chosen

    def _with_caveats(self, answer: T) -> T:
        """Say of an answer what was said of its question."""
        caveats = (*answer.caveats, *self._asked.caveats)
        explain = partial(self._explained, self._asked.span)
        return answer._replace(caveats=tuple(map(explain, caveats)))

    def _explained(self, span: Span, caveat: Caveat) -> Caveat:
        """Say of a span that is before all that was shipped, or behind, that it is."""
        if not isinstance(caveat, NothingFits):
            return caveat
        from ctk.ask.nothing import outside

        ends = self.client.query("SELECT count(), min(first_seen_ns) FROM flows_1d").rows[0]
        last = self.client.query("SELECT max(first_seen_ns) FROM flows_1m").rows[0][0]
        if not ends[0] or not last:
            return caveat
        since_ns, until_ns = span
        recorded = (max(each.committed_ns, each.ended_ns or 0) for each in self.told.recordings)
        rows_end_ns = int(last) + 1
        end_ns = max(recorded, default=rows_end_ns)
        asked = Filters(since_ns=since_ns, until_ns=until_ns)
        reason = outside(asked, int(ends[1]), end_ns, rows_end_ns)
        return NothingFits((reason,)) if reason else caveat

    def _connect(self) -> AbstractContextManager[sqlite3.Connection]:
        return self._connected()()

    def _connected(self) -> Connect:
        """Give what opens a connection to a file of the span that this thread asks about."""
        span: Span = getattr(self._asked, "span", _EVER)
        return lambda: self._source(span).reader()

    def _source(self, span: Span) -> Source:
        """Bring what was shipped of a span, unless it is here."""
        with self._bringing:
            for have, found in self._brought:
                if have[0] <= span[0] and span[1] <= have[1]:
                    return found
            from ctk.fleet.clickhouse.brought import bring

            folder = Path(self._opened.enter_context(TemporaryDirectory(prefix="ctk-")))
            path = bring(self.client, self.told, span, folder, aside=self._all_observers)
            found = source(path)
            if self._all_observers:
                found = AllObservers(found)
            self._brought.append((span, found))
            return found


class _Minutes(Flows):
    """Flows that are sums of minutes."""

    def __init__(
        self,
        connect: Connect,
        filters: Filters,
        caveats: tuple[Caveat, ...],
        explain: Callable[[Caveat], Caveat],
    ) -> None:
        super().__init__(connect, filters)
        self._explain = explain
        self._said = (*caveats, *([] if SummedUp() in caveats else [SummedUp()]))

    @property
    def caveats(self) -> tuple[Caveat, ...]:
        """What the flows lack, and what they are."""
        return (*map(self._explain, super().caveats), *self._said)
