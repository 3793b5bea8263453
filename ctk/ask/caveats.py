"""
Caveats: what an answer lacks, or holds beyond what was asked.

Each is a value whose `text` is the line that the command line prints beside the answer.
"""

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass

from ctk.ask.gaps import StoredGap, gaps_in_words, gaps_of
from ctk.ask.spans import clip, held
from ctk.timespan import format_age, format_time


@dataclass(frozen=True, slots=True)
class NothingRecorded:
    """Nothing was ever recorded in the file, or nothing of it came along."""

    @property
    def text(self) -> str:
        return "no recording is in it: if it was copied without its -wal, copy it with ctk snapshot"


@dataclass(frozen=True, slots=True)
class HasGaps:
    """In these spans something was lost or unknown."""

    gaps: tuple[StoredGap, ...]

    @property
    def text(self) -> str:
        return gaps_in_words(self.gaps, " in this window") or ""


@dataclass(frozen=True, slots=True)
class Pruned:
    """Flows before this were pruned: the rollups alone hold them."""

    before_ns: int

    @property
    def text(self) -> str:
        return f"flows before {_short(self.before_ns)} were pruned: only rollups hold them"


@dataclass(frozen=True, slots=True)
class PrunedMeanwhile:
    """The recorder pruned flows before they were read, from `since_ns` to `until_ns`."""

    since_ns: int
    until_ns: int

    @property
    def text(self) -> str:
        since, until = _short(self.since_ns), _short(self.until_ns)
        return f"flows from {since} to {until} were pruned before they were read"


@dataclass(frozen=True, slots=True)
class Widened:
    """The answer is of this span, which is more than was asked: finer rows were pruned."""

    since_ns: int
    until_ns: int

    @property
    def text(self) -> str:
        since, until = _short(self.since_ns), _short(self.until_ns)
        return f"counted from {since} to {until}: finer rows were pruned"


@dataclass(frozen=True, slots=True)
class Coarse:
    """Before this time counts stand at the start of a bucket that does not fit into the step."""

    until_ns: int
    width_ns: int

    @property
    def text(self) -> str:
        until, width = _short(self.until_ns), format_age(self.width_ns)
        return f"before {until} counts stand at the start of their {width}: finer rows were pruned"


@dataclass(frozen=True, slots=True)
class Folded:
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


@dataclass(frozen=True, slots=True)
class SeenTo:
    """Rollups answered, so first and last seen are the edges of buckets, at most this wide."""

    width_ns: int

    @property
    def text(self) -> str:
        return f"first and last seen are exact to {format_age(self.width_ns)}: rollups answered"


@dataclass(frozen=True, slots=True)
class TextTimes:
    """SQL names a time that is text, and a function whose times do not compare with it."""

    column: str
    function: str

    @property
    def text(self) -> str:
        numbers = f"compare {self.column.removesuffix('_at')}_ns with ago('1h')"
        if self.function == "datetime":
            return f"{self.column} has a T where datetime() has a blank: {numbers}"
        return f"{self.column} is text, larger than the number of {self.function}(): {numbers}"


@dataclass(frozen=True, slots=True)
class OfFiles:
    """Of several files that were asked, it is true of the answers of these."""

    files: tuple[str, ...]
    caveat: "Caveat"

    @property
    def text(self) -> str:
        return f"{', '.join(self.files)}: {self.caveat.text}"


@dataclass(frozen=True, slots=True)
class SeenByEach:
    """The files are of several nodes, and one connection may be in the file of each."""

    nodes: int

    @property
    def text(self) -> str:
        return f"of {self.nodes:,} nodes: a connection that two of them saw counts twice"


Caveat = (
    NothingRecorded
    | HasGaps
    | Pruned
    | PrunedMeanwhile
    | Widened
    | Coarse
    | Folded
    | SeenTo
    | TextTimes
    | OfFiles
    | SeenByEach
)


def caveats_of_span(
    conn: sqlite3.Connection, since_ns: int | None, until_ns: int | None
) -> Iterator[Caveat]:
    """Yield what any answer about a span lacks."""
    yield from nothing_recorded(conn)
    if found := gaps_of(conn, since_ns, until_ns):
        yield HasGaps(found)


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
