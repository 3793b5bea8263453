"""
The kernel as one stream: events as they come, and between them dumps of the live entries.

A capture file holds the same stream, so what reads one reads the other. A dump is over when an
empty dumped batch comes; one that is cut off has none. An empty batch of events is a tick.
"""

import logging
import math
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from itertools import chain
from typing import Protocol

from ctk.conntrack.addresses import local_addresses
from ctk.conntrack.capture import Capture
from ctk.conntrack.decode import DESTROY, NEW, UPDATE, what_of
from ctk.conntrack.schedule import DumpSchedule
from ctk.conntrack.table import dump
from ctk.errors import SourceError
from ctk.model import Datagrams, Gap

log = logging.getLogger("ctk")

TICK_S = 0.25  # at most, between two batches
_DUMP_SLICE_S = 0.02  # of a dump, between two looks at the events
_DRAIN_S = 5.0  # at most, for the events that wait when a dump is over
# At most, for all that is read after recording was told to stop; writing it down takes as long.
_STOP_S = 8.0
_LAST_DUMP = 0.8  # of that: when the last dump is cut off, for the events that came meanwhile

_KINDS = {"new": NEW, "update": UPDATE, "destroy": DESTROY}


class Replay:
    """A capture file as that stream; of its events only those that a socket would be given."""

    malformed = 0

    def __init__(
        self,
        capture: Capture,
        *,
        stopping: Callable[[], bool],
        events: Sequence[str] = tuple(_KINDS),
    ) -> None:
        self._unwanted = {kind for name, kind in _KINDS.items() if name not in events}
        self._capture = capture
        self._batches = iter(capture)
        self._stopping = stopping
        self._first = next(self._batches, None)
        self.started_ns = time.time_ns() if self._first is None else self._first.at_ns

    @property
    def local_addresses(self) -> frozenset[str]:
        """The addresses of the host that made it, as of the batch that came last."""
        return self._capture.addresses

    def last_ns(self) -> int:
        """Return when its last batch was read. Reads the file once more, unless it is a pipe."""
        if not self._capture.path.is_file():
            return self.started_ns
        with Capture(self._capture.path) as again:
            return max((batch.at_ns for batch in again), default=self.started_ns)

    def gaps(self) -> list[Gap]:
        """Return nothing: nothing is lost from a file."""
        return []

    def dump_soon(self) -> None:
        """Do nothing: the dumps of a file are where they are."""

    def __iter__(self) -> Iterator[Datagrams]:
        if self._first is None:
            return
        for batch in chain((self._first,), self._batches):
            yield self._chosen(batch) if self._unwanted and not batch.dumped else batch
            if self._stopping():
                return

    def _chosen(self, batch: Datagrams) -> Datagrams:
        places = [
            (offset, length)
            for offset, length in zip(batch.offsets, batch.lengths, strict=False)
            if what_of(batch.buffer, offset) not in self._unwanted
        ]
        return batch._replace(
            offsets=[offset for offset, _ in places], lengths=[length for _, length in places]
        )


class EventSource(Protocol):
    """What a listener needs of a socket (`ctk.conntrack.socket.Socket`)."""

    malformed: int
    more_waits: bool  # whether more was queued than the last read took

    def receive(self, timeout_s: float) -> Datagrams | None: ...

    def lost(self) -> Gap | None: ...

    def unread(self) -> Gap | None: ...


class TimeModule(Protocol):
    """What a listener needs of the module `time`."""

    def monotonic(self) -> float: ...

    def time_ns(self) -> int: ...

    def thread_time(self) -> float: ...


class Listener:
    """
    Yields the stream until `stopping` says so; then what is still queued, and a last dump.

    With `dump_every_s`, a dump comes so long after the one before. With None, dumps come as often
    as a hundredth of a core allows, the work of whoever takes them included: at the end of each
    window at best, every 30 s at worst, or as a tenth of a core allows (`schedule`). So what a
    connection moved stands in the window in which it moved, or in the next one where there are very
    many connections. A loss asks for a dump at once.

    After `stopping`, all is over within `stop_s`, counted from `asked_s` on the monotonic clock:
    what was in hand then may take long. Where the events that wait then are more than
    that allows, the rest is a gap; a last dump that takes longer is cut off and not reported as
    whole. Where nothing is `counting` bytes the last dump is left out, unless one is due: it would
    tell nothing new, at 4 us an entry.
    """

    def __init__(
        self,
        sock: EventSource,
        *,
        started_ns: int,  # no later than the socket listened
        window_ns: int,
        dump_every_s: float | None,
        stopping: Callable[[], bool],
        asked_s: Callable[[], float] = lambda: math.inf,
        counting: Callable[[], bool] = lambda: True,
        stop_s: float = _STOP_S,
        dump: Callable[[], Generator[Datagrams, None, None]] = dump,
        addresses: Callable[[], frozenset[str]] = local_addresses,
        clock: TimeModule = time,
    ) -> None:
        self.started_ns = started_ns
        self._socket = sock
        self._stopping = stopping
        self._asked_s = asked_s
        self._counting = counting
        self._stop_s = stop_s
        self._end_s = math.inf  # when all is to be over; known once recording is to stop
        self._dump_table = dump
        self._addresses = addresses
        self._clock = clock
        self._gaps: list[Gap] = []
        # The interfaces' addresses at the begin of the last dump: a CNI adds some later.
        self.local_addresses = addresses()
        # The first dump comes at once: the socket is bound, so nothing falls between the two.
        self._schedule = DumpSchedule(
            window_ns=window_ns, every_s=dump_every_s, now_s=clock.monotonic()
        )
        self._dump: Generator[Datagrams, None, None] | None = None
        self._dump_began_s = 0.0
        self._dump_cpu_s = 0.0  # what the dump under way has cost so far
        self._window_ns = window_ns
        self._window = 0  # the number of the window that the dump's last part fell in

    @property
    def malformed(self) -> int:
        """Datagrams that no slot could hold."""
        return self._socket.malformed

    def gaps(self) -> list[Gap]:
        """Return what was lost since the last call."""
        gaps, self._gaps = self._gaps, []
        return gaps

    def dump_soon(self) -> None:
        """Do not wait with the next dump until it is due."""
        self._schedule.soon(self._clock.monotonic())

    def __iter__(self) -> Iterator[Datagrams]:
        while not self._stop_asked():
            wait_s = 0.0
            if self._dump is None:
                wait_s = min(self._schedule.due_s - self._clock.monotonic(), TICK_S)
                if wait_s <= 0:
                    wait_s = 0.0
                    self._begin_dump()
            yield self._events(wait_s)
            if self._dump is not None:
                yield from self._slice(self._clock.monotonic() + _DUMP_SLICE_S)
        yield from self._last()

    def _stop_asked(self) -> bool:
        if self._end_s == math.inf and self._stopping():
            self._end_s = min(self._clock.monotonic(), self._asked_s()) + self._stop_s
        return self._end_s < math.inf

    def _last(self) -> Iterator[Datagrams]:
        # Events first: what is not read now is lost, while what a dump would have told of bytes is
        # told by the first dump of the next recording.
        yield from self._drain(self._end_s)
        dump_end_s = self._end_s - (1 - _LAST_DUMP) * self._stop_s
        yield from self._rest_of_dump(dump_end_s)
        due = self._clock.monotonic() >= self._schedule.due_s
        is_time = self._clock.monotonic() < dump_end_s
        if self._dump is None and is_time and (self._counting() or due):
            self._begin_dump()
            yield from self._rest_of_dump(dump_end_s)
        if self._dump is not None:
            self._dump.close()
            self._dump = None
        yield from self._drain(self._end_s)
        gap = self._socket.unread()
        if gap is not None:
            self._gaps.append(gap)

    def _events(self, timeout_s: float) -> Datagrams:
        """Read what the socket has; an empty batch where it has nothing."""
        batch = self._socket.receive(timeout_s)
        if batch is not None:
            return batch
        gap = self._socket.lost()
        if gap is not None:
            self._gaps.append(gap)
            self.dump_soon()  # it tells what lives now, and what began unheard
        return Datagrams(self._clock.time_ns(), False, bytearray(), (), ())

    def _drain(self, end_s: float) -> Iterator[Datagrams]:
        """
        Hand on what is queued now: until a read has emptied the queue, at most until `end_s`.

        Not until nothing comes: under load something always comes.
        """
        while True:
            yield self._events(0)
            self._stop_asked()
            if not self._socket.more_waits:
                return
            if self._clock.monotonic() >= min(end_s, self._end_s):
                return

    def _begin_dump(self) -> None:
        try:
            self.local_addresses = self._addresses()
        except SourceError as error:
            log.warning("the host's addresses are as before: %s", error.message)
        self._dump = self._dump_table()
        self._dump_began_s = self._clock.monotonic()
        self._dump_cpu_s = 0.0
        self._window = self._clock.time_ns() // self._window_ns
        self._schedule.begun()

    def _rest_of_dump(self, end_s: float) -> Iterator[Datagrams]:
        """Go on with a dump to its end, or until `end_s`; events are read meanwhile."""
        while self._dump is not None and self._clock.monotonic() < end_s:
            yield self._events(0)
            yield from self._slice(min(self._clock.monotonic() + _DUMP_SLICE_S, end_s))

    def _slice(self, end_s: float) -> Iterator[Datagrams]:
        """Go on with the dump until `end_s`; then events are due."""
        while self._dump is not None and self._clock.monotonic() < end_s:
            cpu_s = self._clock.thread_time()
            chunk = next(self._dump, None)
            self._dump_cpu_s += self._clock.thread_time() - cpu_s
            if chunk is not None:
                yield from self._dumped(chunk)
            else:
                self._dump = None
                yield from self._end_dump()

    def _dumped(self, batch: Datagrams) -> Iterator[Datagrams]:
        """Hand on a part of the dump, and count what it costs whoever takes it."""
        window = batch.at_ns // self._window_ns
        if window != self._window and not self._socket.more_waits:
            # A window is over, and is written now: that is no cost of the dump. Events that came
            # since the last read may belong to it, more of them where this process had to wait.
            self._window = window
            events = self._events(0)
            yield events
            batch = batch._replace(at_ns=max(batch.at_ns, events.at_ns))  # time does not go back
        cpu_s = self._clock.thread_time()
        yield batch
        self._dump_cpu_s += self._clock.thread_time() - cpu_s

    def _end_dump(self) -> Iterator[Datagrams]:
        # What the dump did not show has ended. The events that wait tell so first, among them the
        # ends that the dump itself brought about: the kernel drops what is past its time.
        yield from self._drain(self._clock.monotonic() + _DRAIN_S)
        yield from self._dumped(Datagrams(self._clock.time_ns(), True, bytearray(), (), ()))
        self._schedule.ended(
            began_s=self._dump_began_s,
            now_s=self._clock.monotonic(),
            now_ns=self._clock.time_ns(),
            cpu_s=self._dump_cpu_s,
            counting=self._counting(),
        )
