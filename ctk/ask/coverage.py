"""
What of a span was recorded: where a 0 is known, and where nothing is.

Recorders of several nodes may be in one file: what any of them recorded is recorded, and what any
of them lost makes a sum of that time too small.
"""

import sqlite3
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import chain, pairwise

from ctk.ask.storedgaps import StoredGap, gaps_of
from ctk.model import GapKind
from ctk.timespan import Span

# Gaps in which connections may have gone unseen: what is not there then is not known to be absent.
HIDING: frozenset[GapKind] = frozenset(
    ("events lost", "recorder down", "disk full", "file locked", "malformed", "clock step")
)
# In these what was seen may stand under another name.
MISNAMING: frozenset[GapKind] = frozenset(("metadata stale",))

_UNTIL = "MAX(committed_ns, IFNULL(ended_ns, 0))"
_RECORDED = f"SELECT started_ns, {_UNTIL} FROM recording"


class Coverage:
    """
    The times at which something was recorded, and the gaps that may hide something.

    What was recorded are intervals apart from each other, oldest first.
    """

    def __init__(self, recorded: Sequence[Span], gaps: Sequence[StoredGap]) -> None:
        self.recorded = recorded
        self.gaps = gaps
        self._hidden = _merged(
            (gap.started_ns, max(gap.ended_ns, gap.started_ns + 1))
            for gap in gaps
            if gap.kind in HIDING
        )

    @property
    def extent(self) -> Span | None:
        """From when to when there are recordings at all."""
        return (self.recorded[0][0], self.recorded[-1][1]) if self.recorded else None

    def recorded_ns(self, since_ns: int, until_ns: int) -> int:
        """Return how much of a span was recorded."""
        return sum(_overlaps(self.recorded, since_ns, until_ns))

    def is_whole(self, since_ns: int, until_ns: int) -> bool:
        """Say whether all of a span was recorded, and no gap touches it."""
        if since_ns >= until_ns or any(_overlaps(self._hidden, since_ns, until_ns)):
            return False
        return self.recorded_ns(since_ns, until_ns) == until_ns - since_ns

    def misnames(self, since_ns: int, until_ns: int) -> bool:
        """Say whether names may have been old in a span."""
        return any(
            gap.kind in MISNAMING and gap.started_ns < until_ns and gap.ended_ns >= since_ns
            for gap in self.gaps
        )


def coverage_of(conn: sqlite3.Connection) -> Coverage:
    """Read when there were recordings, and their gaps."""
    return Coverage(_merged(conn.execute(_RECORDED)), gaps_of(conn))


def extent_of(conn: sqlite3.Connection) -> Span | None:
    """Give from when to when there are recordings at all."""
    began_ns, ended_ns = conn.execute(
        f"SELECT MIN(started_ns), MAX({_UNTIL}) FROM recording"
    ).fetchone()
    return None if began_ns is None else (began_ns, ended_ns)


def recorders_of(conn: sqlite3.Connection) -> list[tuple[str, int, int]]:
    """Give the node of each recording, and from when to when it was."""
    return conn.execute(f"SELECT node, started_ns, {_UNTIL} FROM recordings").fetchall()


def unrecorded(
    conns: Iterable[sqlite3.Connection], since_ns: int | None, until_ns: int | None
) -> tuple[Span, ...]:
    """Give the parts of a span, between the recordings of files, that no gap tells of."""
    conns = list(conns)
    recorded = list(chain.from_iterable(conn.execute(_RECORDED) for conn in conns))
    gaps = chain.from_iterable(map(gaps_of, conns))
    return untold(recorded, gaps, since_ns, until_ns)


def untold(
    recorded: Iterable[Span],
    gaps: Iterable[StoredGap],
    since_ns: int | None,
    until_ns: int | None,
) -> tuple[Span, ...]:
    """
    Give the parts of a span, between times that were recorded, that no gap tells of.

    A recorder leaves a gap behind its own node's last live recording, not behind a capture's or
    another node's.
    """
    recorded = _merged(recorded)
    if len(recorded) < 2:
        return ()
    told = _merged([*recorded, *((gap.started_ns, gap.ended_ns) for gap in gaps)])
    since_ns, until_ns = (
        told[0][0] if since_ns is None else since_ns,
        told[-1][1] if until_ns is None else until_ns,
    )
    holes = ((max(end, since_ns), min(start, until_ns)) for (_, end), (start, _) in pairwise(told))
    return tuple((first_ns, last_ns) for first_ns, last_ns in holes if first_ns < last_ns)


def answered_span(
    conn: sqlite3.Connection, since_ns: int | None, until_ns: int | None, reach: Span | None
) -> Span | None:
    """
    Give the part of a span that a recorder was there for, be there flows or none.

    `reach` is what was read of it: a bucket may begin before the recording did, and a span that was
    widened is that of its buckets.
    """
    extent = extent_of(conn)
    if extent is None:
        return reach
    first_ns, last_ns = extent
    if since_ns is not None:
        first_ns = max(first_ns, min(since_ns, reach[0]) if reach else since_ns)
    if until_ns is not None:
        last_ns = min(last_ns, max(until_ns, reach[1]) if reach else until_ns)
    return (first_ns, last_ns) if reach or first_ns < last_ns else None


def _merged(spans: Iterable[Span]) -> list[Span]:
    """Join spans that touch each other."""
    joined: list[Span] = []
    for start_ns, end_ns in sorted(spans):
        if joined and start_ns <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end_ns, joined[-1][1]))
        elif end_ns > start_ns:
            joined.append((start_ns, end_ns))
    return joined


def _overlaps(spans: Sequence[Span], since_ns: int, until_ns: int) -> Iterable[int]:
    """Yield how long each of some spans overlaps with one; they are apart and in order."""
    at = max(bisect_right(spans, (since_ns, until_ns)) - 1, 0)
    for start_ns, end_ns in spans[at:]:
        if start_ns >= until_ns:
            return
        if end_ns > since_ns:
            yield min(end_ns, until_ns) - max(start_ns, since_ns)
