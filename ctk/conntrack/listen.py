"""
The kernel as one stream: events as they come, and between them dumps of the live entries.

A capture file holds the same stream, so what reads one reads the other. A dump is over when an
empty dumped batch comes; an empty batch of events is a tick.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from itertools import chain

from ctk.conntrack.capture import Capture
from ctk.conntrack.decode import DESTROY, NEW, UPDATE, what_of
from ctk.conntrack.socket import Socket, dump
from ctk.model import Datagrams, Gap

TICK_S = 0.25
_DUMP_SLICE_S = 0.02  # of a dump, between two looks at the events
_DRAIN_S = 5.0  # at most, for what is queued when recording stops


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
        self._path = capture.path
        self._batches = iter(capture)
        self._stopping = stopping
        self._first = next(self._batches, None)
        self.local_addresses = capture.header.addresses
        self.started_ns = time.time_ns() if self._first is None else self._first.at_ns

    def last_ns(self) -> int:
        """When its last batch was read: the file is read once more for it, unless it is a pipe."""
        if not self._path.is_file():
            return self.started_ns
        with Capture(self._path) as again:
            return max((batch.at_ns for batch in again), default=self.started_ns)

    def gaps(self) -> list[Gap]:
        """Nothing is lost from a file."""
        return []

    def dump_soon(self) -> None:
        """The dumps of a file are where they are."""

    def __iter__(self) -> Iterator[Datagrams]:
        if self._first is None:
            return
        for batch in chain((self._first,), self._batches):
            yield self._heard(batch) if self._unwanted and not batch.dumped else batch
            if self._stopping():
                return

    def _heard(self, batch: Datagrams) -> Datagrams:
        places = [
            (offset, length)
            for offset, length in zip(batch.offsets, batch.lengths, strict=False)
            if what_of(batch.buffer, offset) not in self._unwanted
        ]
        return batch._replace(
            offsets=[offset for offset, _ in places], lengths=[length for _, length in places]
        )


class Listener:
    """
    Yields the stream until `stopping` says so; then what is still queued, and a last dump.

    Where nothing is `counting` bytes, the last dump is left out, unless one is due: it would
    tell nothing new, at 4 us an entry.
    """

    def __init__(
        self,
        sock: Socket,
        *,
        started_ns: int,  # no later than the socket listened
        dump_every_s: float,
        stopping: Callable[[], bool],
        counting: Callable[[], bool] = lambda: True,
        local_addresses: frozenset[str] = frozenset(),
    ) -> None:
        self._socket = sock
        self.local_addresses = local_addresses
        self._counting = counting
        self._every_s = dump_every_s
        self._stopping = stopping
        self._gaps: list[Gap] = []
        self.started_ns = started_ns
        self._due = time.monotonic()  # the first dump comes at once: the socket is bound
        self._dump: Iterator[Datagrams] | None = None

    @property
    def malformed(self) -> int:
        """Datagrams that no slot could hold, or that did not come from the kernel."""
        return self._socket.malformed

    def gaps(self) -> list[Gap]:
        """What was lost since the last call."""
        gaps, self._gaps = self._gaps, []
        return gaps

    def dump_soon(self) -> None:
        """Do not wait with the next dump until it is due."""
        self._due = time.monotonic()

    def __iter__(self) -> Iterator[Datagrams]:
        while not self._stopping():
            if self._dump is None and time.monotonic() >= self._due:
                self._dump = dump()
            yield self._events(0 if self._dump else TICK_S)
            if self._dump is not None:
                yield from self._slice(_DUMP_SLICE_S)
        yield from self._queued()
        if self._dump is not None:
            yield from self._slice(float("inf"))
        if self._counting() or time.monotonic() >= self._due:
            self._dump = dump()
            yield from self._slice(float("inf"))
        # Entries past their time are not in a dump: it made the kernel end them.
        yield from self._queued()

    def _queued(self) -> Iterator[Datagrams]:
        end = time.monotonic() + _DRAIN_S
        while (batch := self._events(0)).lengths and time.monotonic() < end:
            yield batch

    def _events(self, timeout_s: float) -> Datagrams:
        batch = self._socket.receive(timeout_s)
        if batch is not None:
            return batch
        gap = self._socket.lost()
        if gap is not None:
            self._gaps.append(gap)
            self._due = time.monotonic()  # what lives now, and how often it began, is to be found
        return Datagrams(time.time_ns(), False, bytearray(), (), ())

    def _slice(self, seconds: float) -> Iterator[Datagrams]:
        """Go on with the dump for so long; then events are due."""
        end = time.monotonic() + seconds
        while self._dump is not None and time.monotonic() < end:
            chunk = next(self._dump, None)
            if chunk is not None:
                yield chunk
                continue
            self._dump = None
            self._due = time.monotonic() + self._every_s
            # What the dump did not show has ended. That is to be heard from the events that wait
            # first, the ends that the dump itself brought about among them.
            yield from self._queued()
            yield Datagrams(time.time_ns(), True, bytearray(), (), ())
