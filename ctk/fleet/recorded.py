"""
Which nodes recorded when: the coverage of recordings, as a value.

A node is recorded while a recording of it runs, but for the gaps in which it wrote no rows at all:
then the other side of a connection speaks. A gap in which it saw less than there was takes nothing
away: it has rows of that time, and what moved meanwhile stands in those that came after it.
"""

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ctk.timespan import Span

# In these gaps no rows were written, or none came to ClickHouse (clickhouse/told.py). Between two
# recordings there are none, either.
SILENT: frozenset[str] = frozenset(("disk full", "file locked", "not shipped"))


class RecordedNode(NamedTuple):
    """A node of a cluster; `cluster` is None where none was followed."""

    cluster: str | None
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordingRun:
    """One recording: from when to when, and when it wrote nothing."""

    node: RecordedNode
    started_ns: int
    ended_ns: int
    silent: Sequence[Span] = ()


@dataclass(frozen=True, slots=True)
class Recorded:
    """When each node recorded: spans apart from each other, oldest first."""

    spans: Mapping[RecordedNode, Sequence[Span]]

    def at(self, since_ns: int, until_ns: int) -> frozenset[RecordedNode]:
        """Give the nodes that recorded in any part of a span."""
        return frozenset(
            node for node, spans in self.spans.items() if _touches(spans, since_ns, until_ns)
        )

    def changes(self) -> list[int]:
        """Give the times between which the same nodes recorded, in order."""
        return sorted({at for spans in self.spans.values() for span in spans for at in span})


def recorded_of(runs: Iterable[RecordingRun]) -> Recorded:
    """Put recordings together."""
    spans: dict[RecordedNode, list[Span]] = {}
    for run in runs:
        spans.setdefault(run.node, []).extend(_without((run.started_ns, run.ended_ns), run.silent))
    return Recorded({node: _joined(found) for node, found in spans.items()})


def _without(span: Span, holes: Iterable[Span]) -> Iterable[Span]:
    """Yield what is left of a span without its holes."""
    since_ns, until_ns = span
    for hole_ns, end_ns in sorted(holes):
        if since_ns < min(hole_ns, until_ns):
            yield since_ns, min(hole_ns, until_ns)
        since_ns = max(since_ns, end_ns)
    if since_ns < until_ns:
        yield since_ns, until_ns


def _joined(spans: Iterable[Span]) -> list[Span]:
    joined: list[Span] = []
    for since_ns, until_ns in sorted(spans):
        if joined and since_ns <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(joined[-1][1], until_ns)
        else:
            joined.append((since_ns, until_ns))
    return joined


def _touches(spans: Sequence[Span], since_ns: int, until_ns: int) -> bool:
    at = bisect_right(spans, since_ns, key=lambda span: span[0]) - 1
    return any(
        start_ns < until_ns and end_ns > since_ns for start_ns, end_ns in spans[max(at, 0) : at + 2]
    )
