"""
The kernel's conntrack events, as they come over netlink.

Many messages are received by one system call and handed on as the kernel wrote them.
"""

import ctypes
import errno
import os
import select
import socket
import struct
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from ctk.conntrack.netlink import NETLINK_NETFILTER, explained, open_socket
from ctk.conntrack.slots import SLOT_BYTES, SLOTS, Slots
from ctk.errors import SourceError
from ctk.model import Datagrams, Gap

GROUPS = {"new": 1, "update": 2, "destroy": 3}  # NFNLGRP_CONNTRACK_*

# The kernel doubles what is asked for and counts 1,280 bytes for an event, so this holds 209,000
# of them: a second at the highest rate. It takes memory only while events wait.
BUFFER_BYTES = 128 << 20
BUFFER_MAX_BYTES = 512 << 20

# Events gather for so long before they are read: to wake up costs 65 us, and what is counted is
# in no cache any more. In a flood 0.03 s took a sixth less CPU than 0.01 s.
GATHER_S = 0.03

# From linux/socket.h and linux/netlink.h; Python's socket module doesn't have them.
_SO_ATTACH_FILTER = 26
_SO_RCVBUFFORCE = 33
_SO_MEMINFO = 55  # since 4.12; nine numbers, of which the first two are these:
_RMEM_ALLOC, _RCVBUF, _MEMINFO = 0, 1, struct.Struct("=9I")
_SOL_NETLINK = 270
_NETLINK_ADD_MEMBERSHIP = 1

Program = Sequence[tuple[int, int, int, int]]  # classic BPF: code, jt, jf, k


class Socket:
    """
    Conntrack events of this network namespace, from the moment it is entered.

    `program` is what the kernel asks whether to queue an event (filters.py); it is in force
    before the first one. `note` gets a sentence for a person, once it is sure that there are
    events: without the right to them, entering is one SourceError and nothing else is said.
    """

    def __init__(
        self,
        *,
        events: Sequence[str] = tuple(GROUPS),
        buffer_bytes: int = BUFFER_BYTES,
        buffer_max_bytes: int = BUFFER_MAX_BYTES,
        program: Program = (),
        note: Callable[[str], None] = lambda sentence: None,
    ) -> None:
        self.buffer_bytes = buffer_bytes
        # Datagrams longer than a slot: no conntrack events.
        self.malformed = 0
        self.more_waits = False  # whether more was queued than the last read took
        self._events = events
        self._buffer_max_bytes = buffer_max_bytes
        self._program = program
        self._note = note
        self._slots = Slots()
        self._poll = select.poll()
        self._empty_ns = 0  # when the queue was last seen empty
        self._overrun_ns: int | None = None  # since when events are being lost
        self._drops_counted = 0
        self._gap: Gap | None = None

    def __enter__(self) -> Self:
        try:
            self._socket = open_socket(NETLINK_NETFILTER)
        except OSError as error:
            raise explained(error, "opening a netfilter socket") from error
        try:
            notes = self._join()
        except OSError as error:
            self._socket.close()
            raise explained(error, "listening to conntrack events") from error
        for sentence in notes:
            self._note(sentence)
        self._poll.register(self._socket, select.POLLIN)
        self._empty_ns = time.time_ns()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._socket.close()

    def fileno(self) -> int:
        return self._socket.fileno()

    def receive(self, timeout_s: float) -> Datagrams | None:
        """
        Wait for events, let them gather for 30 ms, and read what one system call can take.

        None where there were none in time. The buffer is the same one every time. After a None,
        `lost` knows all that was lost so far.
        """
        # The socket is read whatever poll says: one that a signal ended tells nothing.
        if not self.more_waits and self._poll.poll(timeout_s * 1000):
            # A buffer that may not be large is not to be full by then.
            time.sleep(min(GATHER_S, self.buffer_bytes / BUFFER_BYTES))
        at_ns = time.time_ns()
        n = self._slots.fill(self._socket.fileno())
        while n < 0:
            if n == -errno.ENOBUFS:
                self._overran()
            elif n == -errno.EAGAIN:
                self._emptied(time.time_ns())
                return None
            elif n != -errno.EINTR:
                raise SourceError(f"reading conntrack events failed: {os.strerror(-n)}")
            n = self._slots.fill(self._socket.fileno())
        # A read is also short where it meets an overrun, so only EAGAIN shows that one is over.
        self.more_waits = n == SLOTS or self._overrun_ns is not None
        if not self.more_waits:
            self._empty_ns = at_ns
        elif self._is_half_full():
            self._grow()
        offsets: Sequence[int] = range(0, n * SLOT_BYTES, SLOT_BYTES)
        lengths = self._slots.lengths(n)
        if max(lengths) > SLOT_BYTES:
            offsets, lengths = self._without_long_ones(lengths)
        return Datagrams(at_ns, False, self._slots.buffer, offsets, lengths)

    def lost(self) -> Gap | None:
        """
        Return what an overrun cost, once, after it is over.

        While the queue is full the kernel drops every event until it has been emptied, so the
        span is from when it was last seen empty to when it was empty again. The number is exact.
        """
        gap, self._gap = self._gap, None
        return gap

    def unread(self) -> Gap | None:
        """
        Return the gap that is left where reading ends now: None if the queue has been emptied.

        How many events wait is not known. None of them is older than the queue was last seen
        empty.
        """
        if not self.more_waits:
            return None
        now_ns = time.time_ns()
        since_ns = self._empty_ns if self._overrun_ns is None else self._overrun_ns
        return Gap("events lost", min(since_ns, now_ns), now_ns, None, "not read before the stop")

    def drops(self) -> int | None:
        """Return how many events the kernel could not queue here since the socket was opened."""
        inode = str(os.fstat(self._socket.fileno()).st_ino)
        try:
            lines = Path("/proc/thread-self/net/netlink").read_text(encoding="ascii").splitlines()
        except OSError:
            return None
        column = lines[0].split().index("Drops")
        for fields in map(str.split, lines):
            if fields[-1] == inode:
                return int(fields[column])
        return None

    def _join(self) -> list[str]:
        """Join the groups of the chosen events; return what is to be noted."""
        notes = []
        # To the kernel: what another process sends here is refused. To look at each sender instead
        # took a twelfth of the time of a read. To send to these groups takes CAP_NET_ADMIN, and who
        # has that can make the kernel send any event.
        self._socket.connect((0, 0))
        asked = self.buffer_bytes
        self._set_buffer(asked)
        if self.buffer_bytes < asked:
            notes.append(
                f"the socket's buffer is {self.buffer_bytes} bytes where {asked} were asked for:"
                " more than net.core.rmem_max needs CAP_NET_ADMIN"
            )
        if self._program:
            try:
                _attach(self._socket, self._program)
            except OSError as error:
                # Before 6.6 a socket's programs may take 20 KiB (net.core.optmem_max).
                notes.append(
                    f"the kernel does not take the filter ({error.strerror}): slower without"
                )
        for event in self._events:
            self._socket.setsockopt(_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, GROUPS[event])
        return notes

    def _set_buffer(self, size: int) -> None:
        """Ask for `size`, past net.core.rmem_max where the kernel allows it."""
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, size)
        except PermissionError:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
        # The kernel answers with twice the size that was set.
        self.buffer_bytes = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2

    def _overran(self) -> None:
        if self._overrun_ns is None:
            self._overrun_ns = self._empty_ns
        self._grow()

    def _is_half_full(self) -> bool:
        """Whether what waits takes half the buffer: it is to grow before events are lost."""
        if self.buffer_bytes >= self._buffer_max_bytes:
            return False
        try:
            found = self._socket.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size)
        except OSError:
            return False
        numbers = _MEMINFO.unpack(found)
        return bool(numbers[_RMEM_ALLOC] > numbers[_RCVBUF] // 2)

    def _grow(self) -> None:
        if self.buffer_bytes < self._buffer_max_bytes:
            self._set_buffer(min(2 * self.buffer_bytes, self._buffer_max_bytes))

    def _emptied(self, at_ns: int) -> None:
        self.more_waits = False
        self._empty_ns = at_ns
        if self._overrun_ns is None:
            return
        drops = self.drops()
        lost = None
        if drops is not None:
            lost = drops - self._drops_counted
            self._drops_counted = drops
        started_ns = min(self._overrun_ns, at_ns)  # the clock may have been set back
        if self._gap is not None:  # not asked for yet: both are one
            started_ns = min(self._gap.started_ns, started_ns)
            lost = None if lost is None or self._gap.lost is None else self._gap.lost + lost
        self._gap = Gap("events lost", started_ns, at_ns, lost)
        self._overrun_ns = None

    def _without_long_ones(self, lengths: Sequence[int]) -> tuple[list[int], list[int]]:
        """Keep what a slot could hold; count the rest as malformed."""
        kept = [
            (slot * SLOT_BYTES, length)
            for slot, length in enumerate(lengths)
            if length <= SLOT_BYTES
        ]
        self.malformed += len(lengths) - len(kept)
        return [offset for offset, _ in kept], [length for _, length in kept]


def _attach(sock: socket.socket, program: Program) -> None:
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
    pinned = ctypes.create_string_buffer(code, len(code))
    sock.setsockopt(
        socket.SOL_SOCKET,
        _SO_ATTACH_FILTER,
        struct.pack("@HP", len(program), ctypes.addressof(pinned)),
    )
