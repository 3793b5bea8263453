"""
Caveats: what an answer lacks, or holds beyond what was asked.

Each is a value whose `text` is the line that the command line prints beside the answer.
"""

import sqlite3
from collections.abc import Iterable, Iterator
from typing import dataclass_transform

from ctk.ask.coverage import unrecorded
from ctk.ask.spans import clip, held
from ctk.ask.storedgaps import StoredGap, gaps_in_words, gaps_of
from ctk.model import Filters
from ctk.timespan import SECOND, format_age, format_time


@dataclass_transform(frozen_default=True)
class Caveat:
    """
    A value, equal to those of its type that hold the same.

    For who reads the code it is a frozen dataclass. Every answer imports all types: to make them
    takes 0.2 ms, where NamedTuples take 3 ms, and frozen dataclasses 20 ms.
    """

    def __init__(self, *values: object, **named: object) -> None:
        names = type(self).__annotations__
        self.__dict__.update(zip(names, values, strict=False), **named)

    @property
    def text(self) -> str:
        raise NotImplementedError

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self._values() == other._values()

    def __hash__(self) -> int:
        return hash((type(self), self._values()))

    def __repr__(self) -> str:
        named = zip(type(self).__annotations__, self._values(), strict=True)
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in named)})"

    def _values(self) -> tuple[object, ...]:
        return tuple(getattr(self, name) for name in type(self).__annotations__)


class NothingRecorded(Caveat):
    """Nothing was ever recorded in the file, or nothing of it came along."""

    @property
    def text(self) -> str:
        return "no recording is in it: if it was copied without its -wal, copy it with ctk snapshot"


class CountedFromEnd(Caveat):
    """Ages and clocks counted from the end of the file, since nobody writes it."""

    at_ns: int

    @property
    def text(self) -> str:
        end = _short(self.at_ns // SECOND * SECOND)
        return f"times count from the file's end, {end}: nobody writes it now"


class HasGaps(Caveat):
    """In these spans something was lost or unknown."""

    gaps: tuple[StoredGap, ...]

    @property
    def text(self) -> str:
        return gaps_in_words(self.gaps, " in this window") or ""


class Unrecorded(Caveat):
    """In these spans, in ns, nothing was recorded, and no gap tells of them."""

    spans: tuple[tuple[int, int], ...]

    @property
    def text(self) -> str:
        (since_ns, _), (_, until_ns) = self.spans[0], self.spans[-1]
        since, until = (_short(at_ns // SECOND * SECOND) for at_ns in (since_ns, until_ns))
        lasted = format_age(sum(last_ns - first_ns for first_ns, last_ns in self.spans))
        if len(self.spans) == 1:
            return f"nothing was recorded from {since} to {until}, {lasted}"
        spans = f"{len(self.spans):,} spans from {since} to {until}"
        return f"nothing was recorded in {spans}, {lasted} in all"


class Pruned(Caveat):
    """Flows before this were pruned: the rollups alone hold them."""

    before_ns: int

    @property
    def text(self) -> str:
        return f"flows before {_short(self.before_ns)} were pruned: only rollups hold them"


class PrunedMeanwhile(Caveat):
    """The recorder pruned flows before they were read, from `since_ns` to `until_ns`."""

    since_ns: int
    until_ns: int

    @property
    def text(self) -> str:
        since, until = _short(self.since_ns), _short(self.until_ns)
        return f"flows from {since} to {until} were pruned before they were read"


class Widened(Caveat):
    """The answer is of this span, which is more than was asked: there are no finer rows."""

    since_ns: int
    until_ns: int

    @property
    def text(self) -> str:
        since, until = _short(self.since_ns), _short(self.until_ns)
        return f"counted from {since} to {until}: there are no finer rows"


class WholeMinutes(Caveat):
    """The span was widened to whole minutes: finer rows were not shipped."""

    @property
    def text(self) -> str:
        return "the span is widened to whole minutes: what was shipped are sums of these"


class SummedUp(Caveat):
    """Flows were summed up when they were shipped: what is listed, or fits, are such sums."""

    @property
    def text(self) -> str:
        return "flows are sums of a minute: so they were shipped"


class Coarse(Caveat):
    """Before this time counts stand at the start of a bucket that does not fit into the step."""

    until_ns: int
    width_ns: int

    @property
    def text(self) -> str:
        until, width = _short(self.until_ns), format_age(self.width_ns)
        return f"before {until} counts stand at the start of their {width}: there are no finer rows"


class Folded(Caveat):
    """
    Past a cap, addresses outside the cluster were folded into one row, "other".

    `addresses` is how many, None where flows that fit may be among them. Past some hundreds it is
    an estimate, and where very many rows answered it is a lower bound (`more`).
    """

    addresses: int | None = None
    is_exact: bool = True
    more: bool = False

    @property
    def text(self) -> str:
        number = "some"
        if self.addresses is not None:
            about = "" if self.is_exact else "about "
            number = f"{'at least ' if self.more else about}{self.addresses:,}"
        noun, are = ("address", "is") if self.addresses == 1 else ("addresses", "are")
        return f"{number} external {noun}, each with little, {are} counted together as 'other'"


class NothingFits(Caveat):
    """No flow fits; the reasons are what was asked for and is not there."""

    reasons: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        return ": ".join(["no flows fit", *([", and ".join(self.reasons)] if self.reasons else [])])


class SeenTo(Caveat):
    """Rollups answered, so first and last seen are the edges of buckets, at most this wide."""

    width_ns: int

    @property
    def text(self) -> str:
        return f"first and last seen are exact to {format_age(self.width_ns)}: rollups answered"


class BeganLater(Caveat):
    """Recording began within the span that was asked for, so much that is old is seen first."""

    at_ns: int

    @property
    def text(self) -> str:
        began = _short(self.at_ns // SECOND * SECOND)
        return f"recording began {began}: what was there before was first seen then"


class StrangersForgotten(Caveat):
    """There was no room to remember when all external addresses were first seen."""

    @property
    def text(self) -> str:
        return "there were more external addresses than are remembered: some may not be new"


class IdleUnmeasured(Caveat):
    """Of these live connections nothing tells whether they are idle."""

    connections: int

    @property
    def text(self) -> str:
        return (
            f"{self.connections:,} connections may be idle, too: the kernel does not count what"
            " they move (net.netfilter.nf_conntrack_acct)"
        )


class IdleLeftOut(Caveat):
    """There were more idle connections than are kept in the file."""

    connections: int

    @property
    def text(self) -> str:
        return f"{self.connections:,} more were idle: the file keeps the oldest"


class NoIdleLook(Caveat):
    """No recorder has looked for idle connections: it does after five minutes, and at its end."""

    @property
    def text(self) -> str:
        return "no recorder has looked for idle connections yet: it does every 5m, and at its end"


class NearlyFull(Caveat):
    """A node's table was nearly full."""

    node: str
    at_ns: int
    peak: int
    most: int

    @property
    def text(self) -> str:
        at = _short(self.at_ns // SECOND * SECOND)
        share = f"{self.peak / self.most:.0%}"
        return (
            f"the table of {self.node} was {share} full at {at}: {self.peak:,} of"
            f" {self.most:,} entries"
        )


class NoTableLook(Caveat):
    """No recorder has looked at the table in the span."""

    @property
    def text(self) -> str:
        return "no recorder has looked at the table then: it does once a minute, since ctk 0.1.0"


class NoHolders(Caveat):
    """The table was looked at in the span, and nobody is told of who held its entries."""

    empty: bool

    @property
    def text(self) -> str:
        if self.empty:
            return "nobody held entries then: the table was empty at each look"
        return (
            "who held entries then is not in the file: it is counted once a minute, in a dump, and"
            " kept as long as flows are"
        )


class TextTimes(Caveat):
    """SQL names a time that is text, and a function whose times do not compare with it."""

    column: str
    function: str

    @property
    def text(self) -> str:
        numbers = f"compare {self.column.removesuffix('_at')}_ns with ago('1h')"
        if self.function == "datetime":
            return f"{self.column} has a T where datetime() has a blank: {numbers}"
        return f"{self.column} is text, larger than the number of {self.function}(): {numbers}"


class OfFiles(Caveat):
    """Of several files that were asked, it is true of the answers of these."""

    files: tuple[str, ...]
    caveat: Caveat

    @property
    def text(self) -> str:
        return f"{', '.join(self.files)}: {self.caveat.text}"


class SeenByEach(Caveat):
    """The files are of several nodes, and one connection may be in the file of each."""

    nodes: int

    @property
    def text(self) -> str:
        twice = "a connection that two of them saw counts twice: ctk merge counts it once"
        return f"of {self.nodes:,} nodes: {twice}"


class OfOtherNodes(Caveat):
    """Of two spans, or files, that are compared, these nodes recorded one only."""

    before: tuple[str, ...]
    after: tuple[str, ...]

    @property
    def text(self) -> str:
        sides = [
            (names[0] if len(names) == 1 else f"{len(names):,} nodes", side)
            for names, side in ((self.before, "before"), (self.after, "after"))
            if names
        ]
        only = ", ".join(
            f"{who}{'' if i else ' recorded'} only {side}" for i, (who, side) in enumerate(sides)
        )
        return f"{only}: what a node does not see looks new, vanished or changed"


def each_once(caveats: Iterable[Caveat]) -> tuple[Caveat, ...]:
    """Leave out what is said before."""
    return tuple(dict.fromkeys(caveats))


def caveats_of(
    conn: sqlite3.Connection, filters: Filters, *, gaps: bool = True
) -> Iterator[Caveat]:
    """Yield what any answer lacks, and where its span comes from."""
    yield from nothing_recorded(conn)
    if filters.counted_from_ns is not None:
        yield CountedFromEnd(filters.counted_from_ns)
    if gaps and (found := gaps_of(conn, filters.since_ns, filters.until_ns)):
        yield HasGaps(found)
    if gaps:
        yield from unrecorded_of([conn], filters.since_ns, filters.until_ns)


def unrecorded_of(
    conns: Iterable[sqlite3.Connection], since_ns: int | None, until_ns: int | None
) -> Iterator[Unrecorded]:
    """Yield where, between the recordings of files, a span was not recorded."""
    if spans := unrecorded(conns, since_ns, until_ns):
        yield Unrecorded(spans)


def nothing_recorded(conn: sqlite3.Connection) -> Iterator[Caveat]:
    if not conn.execute("SELECT 1 FROM recording").fetchone():
        yield NothingRecorded()


def pruned_of_span(
    conn: sqlite3.Connection,
    since_ns: int | None,
    until_ns: int | None,
    pruned_ns: int | None = None,
) -> Iterator[Caveat]:
    """
    Yield what flows of a span lack that rollups hold.

    Flows before `pruned_ns` were pruned; by default that is what the file says now.
    """
    levels = held(conn)
    if pruned_ns is None:
        pruned_ns = levels[0].pruned_ns
    span = clip(conn, levels, since_ns, until_ns)
    if span is not None and span[0] < pruned_ns:
        yield Pruned(pruned_ns)


def _short(time_ns: int) -> str:
    return format_time(time_ns).replace(".000000000", "")
