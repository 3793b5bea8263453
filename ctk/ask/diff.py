"""
What changed between two spans, or two files: who is new, who vanished, who does more or less.

Spans of different length are compared by what was counted a second of the time that was recorded.
Who is absent is only said to have vanished, or to be new, where nothing can have hidden it.
"""

import sqlite3
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from heapq import nsmallest
from typing import Literal, NamedTuple, get_args

from ctk.ask.caveats import Caveat, Folded, OfOtherNodes, Widened, each_once
from ctk.ask.connection import one_moment
from ctk.ask.coverage import Coverage, coverage_of, recorders_of
from ctk.ask.moments import AskedSpan, Moment, ends_of
from ctk.ask.sums import COUNTS, KEYS, SEEN, SORTS, Counts, Keys
from ctk.ask.top import top
from ctk.errors import UsageError
from ctk.model import Filters
from ctk.store.columns import joins_of
from ctk.store.peers import STRANGERS
from ctk.timespan import SECOND, format_time

BY = ("client", "server", "dst_port", "proto")
DIFF_SORTS = tuple(sort for sort, count in SORTS.items() if count not in SEEN)
# In the order in which they are told. "unknown": it is on one side only, and may have been hidden
# on the other by a gap, or by a row that many external addresses were folded into.
ChangeState = Literal["new", "vanished", "unknown", "changed", "same"]
STATES: tuple[ChangeState, ...] = get_args(ChangeState)

SPANS_HINT = "--before 2h..1h --after 1h.."


# "2h..1h", or the two ends, either of them None for that of the file.


class ComparedSpan(NamedTuple):
    """One of the two spans, as far as there were recordings."""

    since_ns: int
    until_ns: int
    recorded_ns: int
    is_whole: bool  # no gap may hide somebody
    groups: int


class Difference(NamedTuple):
    """A group on both sides; None where it is not there."""

    state: ChangeState
    keys: Keys
    before: Counts | None
    after: Counts | None
    per_s: float | None  # how much more of what sorts there is a second; None where not measured


class Diff(NamedTuple):
    """Changes in the order of STATES, the largest first; those left out are in `states` too."""

    by: tuple[str, ...]
    sort: str
    before: ComparedSpan
    after: ComparedSpan
    rows: tuple[Difference, ...]
    states: Mapping[ChangeState, int]
    caveats: tuple[Caveat, ...]

    @property
    def by_rate(self) -> bool:
        """Whether the spans differ by more than a hundredth, so that only rates compare."""
        longer = max(self.before.recorded_ns, self.after.recorded_ns)
        return abs(self.before.recorded_ns - self.after.recorded_ns) * 100 > longer


def two_spans(
    conn: sqlite3.Connection,
    before: AskedSpan | None,
    after: AskedSpan | None,
    two_files: bool,
    of_before: Callable[[Moment | None, Moment | None], Filters],
    of_after: Callable[[Moment | None, Moment | None], Filters],
) -> tuple[Filters, Filters]:
    """Read two spans. Of one file's one may be left out: it is as long as the other, beside it."""
    one, other = of_before(*ends_of(before)), of_after(*ends_of(after))
    if two_files or (before is not None and after is not None):
        return one, other
    if before is None and after is None:
        raise UsageError("there are no two spans, or files, to compare", hint=SPANS_HINT)
    given = one if after is None else other
    extent = coverage_of(conn).extent or (0, 0)
    since_ns = extent[0] if given.since_ns is None else given.since_ns
    until_ns = extent[1] if given.until_ns is None else given.until_ns
    long_ns = until_ns - since_ns
    if after is None:
        return one, one._replace(since_ns=until_ns, until_ns=until_ns + long_ns)
    return other._replace(since_ns=since_ns - long_ns, until_ns=since_ns), other


class _SpanAnswer(NamedTuple):
    side: ComparedSpan
    counts: Mapping[Keys, Counts]
    folded: bool
    nodes: frozenset[str]
    caveats: tuple[Caveat, ...]


def diff(
    before: tuple[sqlite3.Connection, Filters],
    after: tuple[sqlite3.Connection, Filters],
    by: Sequence[str] = BY,
    sort: str | None = None,
    limit: int | None = None,
) -> Diff:
    """
    Compare what the flows of two spans add up to, by keys; `limit` is of rows for each state.

    The default sort is bytes, and connections where no bytes were measured.
    """
    if sort is not None and sort not in DIFF_SORTS:
        hint = f"one of {', '.join(DIFF_SORTS)}"
        raise UsageError(f"{sort!r} is not a count to sort by", hint=hint)
    one, other = _answer(*before, by, "before"), _answer(*after, by, "after")
    # Who is not among one side's groups may be in a row of it that stands for many.
    gone = _strangers(before[0], by) if other.folded else ()
    hidden = gone if other.folded and before[0] is after[0] else ()
    if one.folded and not hidden:
        hidden = _strangers(after[0], by)
    measured = any(
        counts.bytes is not None for counts in (*one.counts.values(), *other.counts.values())
    )
    sort = sort or ("bytes" if measured else "connections")
    compared = _Compared(one, other, hidden, gone, COUNTS.index(SORTS[sort]))
    # Of thousands of groups few are shown: what is told of one is put together for these alone.
    groups: dict[ChangeState, list[Keys]] = {state: [] for state in STATES}
    for keys in one.counts.keys() | other.counts.keys():
        groups[compared.state(keys)].append(keys)
    rows: list[Difference] = []
    for state, some in groups.items():
        shown = len(some) if limit is None else limit
        rows += (compared.change(state, keys) for keys in nsmallest(shown, some, compared.order))
    return Diff(
        by=tuple(by),
        sort=sort,
        before=one.side,
        after=other.side,
        rows=tuple(rows),
        states={state: len(some) for state, some in groups.items()},
        caveats=each_once((*one.caveats, *other.caveats, *_of_nodes(one.nodes, other.nodes))),
    )


def _answer(
    conn: sqlite3.Connection, filters: Filters, by: Sequence[str], name: str
) -> _SpanAnswer:
    with one_moment(conn):
        coverage = coverage_of(conn)
        ranked = top(conn, filters, by, None, None)
        recorders = recorders_of(conn)
    # Where there are no finer rows, more was counted than was asked for.
    since_ns, until_ns = filters.since_ns, filters.until_ns
    for caveat in ranked.caveats:
        if isinstance(caveat, Widened):
            since_ns, until_ns = caveat.since_ns, caveat.until_ns
    counts = {row.keys: row.counts for row in ranked.rows}
    side = _side(coverage, since_ns, until_ns, len(counts), name)
    folded = any(isinstance(caveat, Folded) for caveat in ranked.caveats)
    nodes = frozenset(
        node
        for node, first_ns, last_ns in recorders
        if first_ns < side.until_ns and last_ns > side.since_ns
    )
    return _SpanAnswer(side, counts, folded, nodes, ranked.caveats)


def _of_nodes(before: frozenset[str], after: frozenset[str]) -> Iterator[Caveat]:
    """Yield that a node recorded on one side only: what it alone sees is no change."""
    if before != after:
        yield OfOtherNodes(tuple(sorted(before - after)), tuple(sorted(after - before)))


def _strangers(conn: sqlite3.Connection, by: Sequence[str]) -> Container[Keys]:
    """Give the groups that some edge with an external or unknown side is of."""
    if "src_port" in by:  # it is of flows, not of edges
        return _Everything()
    keys = ", ".join(KEYS[key] for key in by)
    condition = " OR ".join(f"{side}.kind IN {STRANGERS}" for side in ("src", "backend"))
    joins = joins_of(f"{keys} {condition}")
    return set(conn.execute(f"SELECT DISTINCT {keys} FROM edge {joins} WHERE {condition}"))


class _Everything:
    def __contains__(self, keys: object) -> bool:
        return True


def _side(
    coverage: Coverage, since_ns: int | None, until_ns: int | None, groups: int, name: str
) -> ComparedSpan:
    """Cut a span to what there are recordings of: nothing is known of what is outside."""
    if coverage.extent is None:
        raise UsageError("nothing was recorded in the file", hint="ctk info DB")
    begin_ns, end_ns = coverage.extent
    since_ns = begin_ns if since_ns is None else max(since_ns, begin_ns)
    until_ns = end_ns if until_ns is None else min(until_ns, end_ns)
    recorded_ns = coverage.recorded_ns(since_ns, until_ns)
    if recorded_ns <= 0:
        begin, end = (format_time(at_ns // SECOND * SECOND)[:19] + "Z" for at_ns in coverage.extent)
        raise UsageError(
            f"nothing was recorded in the span {name}", hint=f"a span within {begin}..{end}"
        )
    return ComparedSpan(
        since_ns=since_ns,
        until_ns=until_ns,
        recorded_ns=recorded_ns,
        is_whole=coverage.is_whole(since_ns, until_ns)
        and not coverage.misnames(since_ns, until_ns),
        groups=groups,
    )


class _Compared(NamedTuple):
    """Two answers, and which groups may be hidden in a row that stands for many."""

    one: _SpanAnswer
    other: _SpanAnswer
    hidden: Container[Keys]  # on the side before
    gone: Container[Keys]  # on the side after
    at: int  # the place of the count that sorts

    def state(self, keys: Keys) -> ChangeState:
        one, other = self.one, self.other
        before, after = one.counts.get(keys), other.counts.get(keys)
        if before is None:
            return "new" if one.side.is_whole and keys not in self.hidden else "unknown"
        if after is None:
            return "vanished" if other.side.is_whole and keys not in self.gone else "unknown"
        return "same" if _alike(before, one.side, after, other.side) else "changed"

    def change(self, state: ChangeState, keys: Keys) -> Difference:
        before, after = self.one.counts.get(keys), self.other.counts.get(keys)
        return Difference(
            state=state, keys=keys, before=before, after=after, per_s=self._more_per_s(keys)
        )

    def order(self, keys: Keys) -> tuple[float | str, ...]:
        """Put the largest change first."""
        return (-abs(self._more_per_s(keys) or 0), *map(str, keys))

    def _more_per_s(self, keys: Keys) -> float | None:
        was, now = self._per_s(self.one, keys), self._per_s(self.other, keys)
        return None if was is None or now is None else now - was

    def _per_s(self, answer: _SpanAnswer, keys: Keys) -> float | None:
        """Give the count that sorts by the second; who is not there counts 0."""
        counts = answer.counts.get(keys)
        counted = 0 if counts is None else counts[self.at]
        return None if counted is None else counted * SECOND / answer.side.recorded_ns


def _alike(before: Counts, one: ComparedSpan, after: Counts, other: ComparedSpan) -> bool:
    return all(
        (was is None) == (now is None)
        and (was or 0) * other.recorded_ns == (now or 0) * one.recorded_ns
        for was, now in (
            (before.connections, after.connections),
            (before.failed, after.failed),
            (before.bytes, after.bytes),
        )
    )
