"""
What changed between two spans, or two files: who is new, who vanished, who does more or less.

Spans of different length are compared by what was counted a second of the time that was recorded.
Who is absent is only said to have vanished, or to be new, where nothing can have hidden it.
"""

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from ctk.ask.caveats import Caveat, Folded, Widened
from ctk.ask.connection import one_moment
from ctk.ask.coverage import Coverage, coverage_of
from ctk.ask.moments import Moment
from ctk.ask.sums import SEEN, SORTS, Counts, Value, plus, refuse_cut
from ctk.ask.top import top
from ctk.errors import UsageError
from ctk.model import Filters
from ctk.store.peers import STRANGERS
from ctk.timespan import SECOND, format_time

BY = ("client", "server", "dst_port", "proto")
DIFF_SORTS = tuple(sort for sort, count in SORTS.items() if count not in SEEN)
# In the order in which they are told. "unknown": it is on one side only, and may have been hidden
# on the other by a gap, or by a row that many external addresses were folded into.
State = Literal["new", "vanished", "unknown", "changed", "same"]
STATES: tuple[State, ...] = get_args(State)

SPANS_HINT = "--before 2h..1h --after 1h.."

_KINDS = ("src_kind", "dst_kind")
Keys = tuple[Value, ...]


# "2h..1h", or the two ends, either of them None for that of the file.
AskedSpan = str | tuple[Moment | None, Moment | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One of the two spans, as far as there were recordings."""

    since_ns: int
    until_ns: int
    recorded_ns: int
    is_whole: bool  # no gap may hide somebody
    groups: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A group on both sides; None where it is not there."""

    state: State
    keys: Keys
    before: Counts | None
    after: Counts | None
    per_s: float | None  # how much more of what sorts there is a second; None where not measured


@dataclass(frozen=True, slots=True, kw_only=True)
class Diff:
    """Changes in the order of STATES, the largest first; those left out are in `states` too."""

    by: tuple[str, ...]
    sort: str
    before: Side
    after: Side
    rows: tuple[Change, ...]
    states: Mapping[State, int]
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
    one, other = of_before(*_ends(before)), of_after(*_ends(after))
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
        return one, replace(one, since_ns=until_ns, until_ns=until_ns + long_ns)
    return replace(other, since_ns=since_ns - long_ns, until_ns=since_ns), other


def _ends(span: AskedSpan | None) -> tuple[Moment | None, Moment | None]:
    if span is None:
        return None, None
    if not isinstance(span, str):
        return span
    since, dots, until = span.partition("..")
    if not dots:
        raise UsageError(f"{span!r} is not a span", hint="2h..1h, 09:00..10:00, or 1h.. until now")
    return since.strip() or None, until.strip() or None


@dataclass(frozen=True, slots=True)
class _Answer:
    side: Side
    counts: Mapping[Keys, Counts]
    strangers: frozenset[Keys]  # groups with an external or unknown side
    folded: bool
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
    one, other = (
        _answer(*asked, by, name) for asked, name in ((before, "before"), (after, "after"))
    )
    measured = any(
        counts.bytes is not None for counts in (*one.counts.values(), *other.counts.values())
    )
    sort = sort or ("bytes" if measured else "connections")
    changes: dict[State, list[Change]] = {state: [] for state in STATES}
    for keys in one.counts.keys() | other.counts.keys():
        change = _change(keys, one, other, SORTS[sort])
        changes[change.state].append(change)
    for some in changes.values():
        some.sort(key=lambda change: (-abs(change.per_s or 0), *map(str, change.keys)))
    return Diff(
        by=tuple(by),
        sort=sort,
        before=one.side,
        after=other.side,
        rows=tuple(change for some in changes.values() for change in some[:limit]),
        states={state: len(some) for state, some in changes.items()},
        caveats=tuple(dict.fromkeys([*one.caveats, *other.caveats])),
    )


def _answer(conn: sqlite3.Connection, filters: Filters, by: Sequence[str], name: str) -> _Answer:
    refuse_cut(filters, "groups")
    with one_moment(conn):
        coverage = coverage_of(conn)
        ranked = top(conn, filters, (*by, *_KINDS), None, None)
    # Where finer rows were pruned, more was counted than was asked for.
    since_ns, until_ns = filters.since_ns, filters.until_ns
    for caveat in ranked.caveats:
        if isinstance(caveat, Widened):
            since_ns, until_ns = caveat.since_ns, caveat.until_ns
    counts: dict[Keys, Counts] = {}
    strangers: set[Keys] = set()
    for row in ranked.rows:
        keys = row.keys[: len(by)]
        counts[keys] = plus(counts[keys], row.counts) if keys in counts else row.counts
        if any(kind in STRANGERS for kind in row.keys[len(by) :]):
            strangers.add(keys)
    side = _side(coverage, since_ns, until_ns, len(counts), name)
    folded = any(isinstance(caveat, Folded) for caveat in ranked.caveats)
    return _Answer(side, counts, frozenset(strangers), folded, ranked.caveats)


def _side(
    coverage: Coverage, since_ns: int | None, until_ns: int | None, groups: int, name: str
) -> Side:
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
    return Side(
        since_ns=since_ns,
        until_ns=until_ns,
        recorded_ns=recorded_ns,
        is_whole=coverage.is_whole(since_ns, until_ns)
        and not coverage.misnames(since_ns, until_ns),
        groups=groups,
    )


def _change(keys: Keys, one: _Answer, other: _Answer, count: str) -> Change:
    before, after = one.counts.get(keys), other.counts.get(keys)
    was, now = _per_s(before, one.side, count), _per_s(after, other.side, count)
    if before is None:
        state: State = "unknown" if _may_hide(one, keys in other.strangers) else "new"
    elif after is None:
        state = "unknown" if _may_hide(other, keys in one.strangers) else "vanished"
    else:
        state = "same" if _alike(before, one.side, after, other.side) else "changed"
    per_s = None if was is None or now is None else now - was
    return Change(state=state, keys=keys, before=before, after=after, per_s=per_s)


def _per_s(counts: Counts | None, side: Side, count: str) -> float | None:
    """Give a count by the second; who is not there counts 0."""
    counted = 0 if counts is None else getattr(counts, count)
    return None if counted is None else counted * SECOND / side.recorded_ns


def _may_hide(answer: _Answer, is_stranger: bool) -> bool:
    return not answer.side.is_whole or (answer.folded and is_stranger)


def _alike(before: Counts, one: Side, after: Counts, other: Side) -> bool:
    return all(
        (was is None) == (now is None)
        and (was or 0) * other.recorded_ns == (now or 0) * one.recorded_ns
        for was, now in (
            (before.connections, after.connections),
            (before.failed, after.failed),
            (before.bytes, after.bytes),
        )
    )
