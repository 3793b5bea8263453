"""The gap ledger: what was lost or unknown, kept until the file has it."""

import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from ctk.model import EventCounts, Gap, GapKind
from ctk.timespan import SECOND

log = logging.getLogger("ctk")

_CLOCK_STEP_NS = SECOND
_SAID: dict[GapKind, str] = {
    "disk full": "recording goes on, and what is lost is counted",
    "file locked": "recording goes on, and writes when it is free",
}


@dataclass(slots=True)
class GapLedger:
    """
    Collects gaps between two commits, and what all of them came to.

    `count` is how many gaps the recording has; `lost` and `malformed` are kernel events.
    """

    clock_offset_ns: int  # the wall clock's lead over the monotonic one
    count: int = 0
    of_kind: Counter[str] = field(default_factory=Counter)  # of `count`, but those thinned
    lost: int = 0
    malformed: int = 0
    counters_reset: int = 0
    unwritten: Gap | None = None  # the span in which the file could not be written
    _waiting: list[Gap] = field(default_factory=list)

    def add(self, gaps: Iterable[Gap]) -> None:
        """Take in gaps that others found."""
        for gap in gaps:
            self.count += 1
            self.of_kind[gap.kind] += 1
            self._waiting.append(gap)
            if gap.kind == "events lost":
                self.lost += gap.lost or 0
                lost = "some" if gap.lost is None else gap.lost
                why = gap.detail or "the socket's buffer was full"
                log.warning("%s events were lost: %s", lost, why)

    def count_written(self, kind: GapKind) -> None:
        """Count a gap that the file has: the one before the recording."""
        self.count += 1
        self.of_kind[kind] += 1

    def count_malformed(self, malformed: int, since_ns: int, at_ns: int) -> None:
        """Take in how many datagrams could not be decoded since the recording started."""
        if malformed > self.malformed:
            gap = Gap("malformed", min(since_ns, at_ns), at_ns, malformed - self.malformed)
            self.malformed = malformed
            self.add([gap])

    def count_resets(self, connections: int, since_ns: int, at_ns: int) -> None:
        """Take in of how many connections the counters went back since the recording started."""
        if connections > self.counters_reset:
            new, self.counters_reset = connections - self.counters_reset, connections
            detail = f"{new} connections: another tool zeroed their counters"
            log.warning("bytes and packets are short: another tool zeroes the kernel's counters")
            self.add([Gap("counters reset", min(since_ns, at_ns), at_ns, None, detail)])

    def watch_clock(self, clock_offset_ns: int, at_ns: int) -> None:
        """A step of the wall clock is a gap: times before and after it do not compare."""
        step_ns = clock_offset_ns - self.clock_offset_ns
        self.clock_offset_ns = clock_offset_ns
        if abs(step_ns) >= _CLOCK_STEP_NS:
            before_ns = at_ns - step_ns
            detail = f"the clock went {step_ns / SECOND:+.3f} s"
            log.warning("%s", detail)
            first_ns, last_ns = sorted((before_ns, at_ns))
            self.add([Gap("clock step", first_ns, last_ns, None, detail)])

    def to_write(self, until_ns: int) -> list[Gap]:
        """Return what the next commit is to write, the span without writing among it."""
        if self.unwritten is None:
            return list(self._waiting)
        self.unwritten = self.unwritten._replace(ended_ns=until_ns)
        if self._cost_nothing:
            return list(self._waiting)
        return [*self._waiting, self.unwritten]

    def failed(self, kind: GapKind, why: str, since_ns: int, until_ns: int, lost: int) -> None:
        """The file could not be written, and `lost` events are given up for it."""
        if self.unwritten is not None and self.unwritten.kind != kind:
            if not self._cost_nothing:
                self._waiting.append(self.unwritten)
            self.unwritten = None
        if self.unwritten is None:
            log.warning("%s; %s", why, _SAID[kind])
            self.unwritten = Gap(kind, since_ns, until_ns, 0)
        total = (self.unwritten.lost or 0) + lost
        self.unwritten = self.unwritten._replace(ended_ns=until_ns, lost=total)

    def written(self) -> None:
        """A commit took what `to_write` gave."""
        self._waiting.clear()
        if self.unwritten is not None:
            self.count += not self._cost_nothing
            self.of_kind[self.unwritten.kind] += not self._cost_nothing
            lost = (
                f"{self.unwritten.lost} events are not in it"
                if self.unwritten.lost
                else "all of it"
            )
            log.warning("the file is written again: %s", lost)
            self.unwritten = None

    @property
    def _cost_nothing(self) -> bool:
        """Whether a lock was waited for, and all that waited with it is written."""
        gap = self.unwritten
        return gap is not None and gap.kind == "file locked" and not gap.lost

    def event_counts(self, events: int) -> EventCounts:
        return EventCounts(events, self.lost, self.malformed)
