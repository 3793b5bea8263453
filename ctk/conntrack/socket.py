"""
The live source: the kernel's conntrack events and dumps, over netlink.

The only user of pyroute2, which opens the sockets and encodes requests; messages are received
here, many a system call, and handed on as the kernel wrote them. Nothing here changes the
kernel's table: the one request it knows is a dump that leaves the counters alone.
"""

import ctypes
import errno
import os
import select
import socket
import struct
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from ctk.conntrack.slots import SLOT_BYTES, SLOTS, Slots
from ctk.errors import CtkError, SourceError
from ctk.imports import bare
from ctk.model import Datagrams, Gap

GROUPS = {"new": 1, "update": 2, "destroy": 3}  # NFNLGRP_CONNTRACK_*

# The kernel doubles what is asked and counts 1,280 bytes for an event, so this holds 209,000 of
# them: a second at the highest rate. It is memory only while events wait.
BUFFER_BYTES = 128 << 20
BUFFER_MAX_BYTES = 512 << 20

GATHER_S = 0.01

DUMP_BUFFER_BYTES = 64 << 10  # the kernel fills at most 32 KiB a datagram
DUMP_ATTEMPTS = 5
DUMP_TIMEOUT_S = 10

_SYSCTLS = Path("/proc/sys/net/netfilter")

# From linux/socket.h and linux/netlink.h; Python's socket module doesn't have them.
_SO_ATTACH_FILTER = 26
_SO_RCVBUFFORCE = 33
_SOL_NETLINK = 270
_NETLINK_ADD_MEMBERSHIP = 1
_NETLINK_NETFILTER = 12

_IPCTNL_MSG_CT_GET = 0x101  # NFNL_SUBSYS_CTNETLINK << 8 | 1; never 3, which zeroes the counters
_NLM_F_DUMP = 0x301  # with NLM_F_REQUEST
_NLM_F_DUMP_INTR = 0x10
_NLMSG_ERROR = 2
_NLMSG_DONE = 3
_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port

Program = Sequence[tuple[int, int, int, int]]  # classic BPF: code, jt, jf, k


class Socket:
    """
    Conntrack events of this network namespace, from the moment it is entered.

    `program` is what the kernel asks whether to queue an event (filters.py); it is in force
    before the first one. `note` is told, in a sentence, what a person should know.
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
        self.malformed = 0  # datagrams longer than a slot, which no conntrack event is
        self._events = events
        self._buffer_max_bytes = buffer_max_bytes
        self._program = program
        self._note = note
        self._slots = Slots()
        self._poll = select.poll()
        self._hurry = False  # more is waiting than one read took
        self._empty_ns = 0  # when the queue was last seen empty
        self._overrun_ns: int | None = None  # since when events are being lost
        self._drops_counted = 0
        self._gap: Gap | None = None

    def __enter__(self) -> Self:
        self._netlink, self._socket = _netlink_socket()
        try:
            self._prepare()
        except CtkError:
            self._netlink.close()
            raise
        self._poll.register(self._socket, select.POLLIN)
        self._empty_ns = time.time_ns()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._netlink.close()

    def fileno(self) -> int:
        return self._socket.fileno()

    def receive(self, timeout_s: float) -> Datagrams | None:
        """
        Wait for events, let them gather for 10 ms, and read what one call can take.

        None where there were none in time. The buffer is the same every time. After a None,
        `lost` knows all that was lost so far.
        """
        # Then it is read in any case: a poll that a signal ended says nothing of what waits.
        if not self._hurry and self._poll.poll(timeout_s * 1000):
            time.sleep(GATHER_S)
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
        # A read that comes short may have met an overrun, so that only EAGAIN ends one.
        self._hurry = n == SLOTS or self._overrun_ns is not None
        if not self._hurry:
            self._empty_ns = at_ns
        offsets: Sequence[int] = range(0, n * SLOT_BYTES, SLOT_BYTES)
        lengths = self._slots.lengths(n)
        if max(lengths) > SLOT_BYTES or not self._slots.all_from_kernel(n):
            offsets, lengths = self._without_strangers(n, lengths)
        return Datagrams(at_ns, False, self._slots.buffer, offsets, lengths)

    def lost(self) -> Gap | None:
        """
        What an overrun cost, once it is over: told once.

        While the queue is full the kernel drops every event until it has been emptied, so the
        span is from when it was last seen empty to when it was empty again. The number is exact.
        """
        gap, self._gap = self._gap, None
        return gap

    def drops(self) -> int | None:
        """How many events the kernel could not queue here since the socket was opened."""
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

    def _prepare(self) -> None:
        asked = self.buffer_bytes
        try:
            self._set_buffer(asked)
            self._attach_program()
            for event in self._events:
                self._socket.setsockopt(_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, GROUPS[event])
        except OSError as error:
            raise _explained(error, "listening to conntrack events") from error
        if self.buffer_bytes < asked:
            self._note(
                f"the socket's buffer is {self.buffer_bytes} bytes where {asked} were asked for:"
                " more than net.core.rmem_max needs CAP_NET_ADMIN"
            )

    def _set_buffer(self, size: int) -> None:
        """Ask for `size`, past net.core.rmem_max if the kernel lets us."""
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, size)
        except PermissionError:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
        # The kernel answers with twice the size that was set.
        self.buffer_bytes = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2

    def _attach_program(self) -> None:
        if not self._program:
            return
        try:
            _attach(self._socket, self._program)
        except OSError as error:
            # Before 6.6 a socket's programs may take 20 KiB (net.core.optmem_max).
            self._note(f"the kernel does not take the filter ({error.strerror}): slower without")

    def _overran(self) -> None:
        if self._overrun_ns is None:
            self._overrun_ns = self._empty_ns
        if self.buffer_bytes < self._buffer_max_bytes:
            self._set_buffer(min(2 * self.buffer_bytes, self._buffer_max_bytes))

    def _emptied(self, at_ns: int) -> None:
        self._hurry = False
        self._empty_ns = at_ns
        if self._overrun_ns is None:
            return
        drops = self.drops()
        lost = None
        if drops is not None:
            lost = drops - self._drops_counted
            self._drops_counted = drops
        started_ns = min(self._overrun_ns, at_ns)  # the clock may have been set back
        if self._gap is not None:  # nobody asked since the last one: they are one
            started_ns = min(self._gap.started_ns, started_ns)
            lost = None if lost is None or self._gap.lost is None else self._gap.lost + lost
        self._gap = Gap("events lost", started_ns, at_ns, lost)
        self._overrun_ns = None

    def _without_strangers(self, n: int, lengths: list[int]) -> tuple[list[int], list[int]]:
        """Only what the kernel sent and a slot could hold; the rest is counted as malformed."""
        kept = [
            (slot * SLOT_BYTES, length)
            for slot, (length, ours) in enumerate(
                zip(lengths, self._slots.from_kernel(n), strict=True)
            )
            if ours and length <= SLOT_BYTES
        ]
        self.malformed += n - len(kept)
        return [offset for offset, _ in kept], [length for _, length in kept]


def dump(note: Callable[[str], None] = lambda sentence: None) -> Iterator[Datagrams]:
    """
    Yield the live entries of both families, a hundred or so at a time.

    It has its own socket and the kernel makes a chunk when it is asked for, so a reader of
    events can turn to them between two. A dump that the kernel calls inconsistent is made
    again, so an entry may come twice.
    """
    netlink, sock = _netlink_socket()
    try:
        sock.settimeout(DUMP_TIMEOUT_S)
        for attempt in range(1, DUMP_ATTEMPTS + 1):
            try:
                sock.send(_dump_request(attempt))
                consistent = yield from _dumped(sock, attempt)
            except OSError as error:
                raise _explained(error, "dumping the conntrack table") from error
            if consistent:
                return
        note(f"the conntrack table changed under each of {DUMP_ATTEMPTS} dumps")
    finally:
        netlink.close()


def local_addresses() -> frozenset[str]:
    """Return the addresses of this host's interfaces, as inet_ntop writes them."""
    with bare("pyroute2"):
        from pyroute2.iproute import IPRoute

    with IPRoute() as ipr:
        found = (
            address.get_attr("IFA_LOCAL") or address.get_attr("IFA_ADDRESS")
            for address in ipr.get_addr()
        )
        return frozenset(address for address in found if address)


class Interface(NamedTuple):
    """A network interface; `peer_elsewhere`: a veth whose other end is in another namespace."""

    name: str
    bridge: bool = False
    peer_elsewhere: bool = False


def interfaces() -> tuple[Interface, ...]:
    """Return the interfaces of this namespace."""
    with bare("pyroute2"):
        from pyroute2.iproute import IPRoute

    found = []
    with IPRoute() as ipr:
        for link in ipr.get_links():
            about = link.get_attr("IFLA_LINKINFO")
            kind = about.get_attr("IFLA_INFO_KIND") if about is not None else None
            elsewhere = kind == "veth" and link.get_attr("IFLA_LINK_NETNSID") is not None
            found.append(Interface(link.get_attr("IFLA_IFNAME"), kind == "bridge", elsewhere))
    return tuple(found)


def sysctl(name: str) -> int | None:
    """Read net.netfilter.NAME; None where this kernel, or this namespace, has none."""
    try:
        return int((_SYSCTLS / name).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def enable_accounting() -> list[str]:
    """Make the kernel count bytes and keep times; return the settings that had to change."""
    changed = []
    for name in ("nf_conntrack_acct", "nf_conntrack_timestamp"):
        if sysctl(name) == 1:
            continue
        try:
            (_SYSCTLS / name).write_text("1", encoding="ascii")
        except OSError as error:
            raise SourceError(
                f"net.netfilter.{name} cannot be set: {error.strerror}",
                hint=f"set it on the node: sysctl -w net.netfilter.{name}=1",
            ) from error
        changed.append(f"net.netfilter.{name}=1")
    return changed


def _netlink_socket() -> tuple[Any, socket.socket]:
    """Open a netfilter socket; closing the first closes the second."""
    try:
        # Not all of pyroute2, its database and its other protocols: 4 MB less.
        with bare("pyroute2"):
            from pyroute2.netlink.nlsocket import NetlinkSocket

        netlink = NetlinkSocket(family=_NETLINK_NETFILTER)
        netlink.bind()
        return netlink, netlink.asyncore.socket
    except OSError as error:
        raise _explained(error, "opening a netfilter socket") from error


def _attach(sock: socket.socket, program: Program) -> None:
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
    pinned = ctypes.create_string_buffer(code, len(code))
    sock.setsockopt(
        socket.SOL_SOCKET,
        _SO_ATTACH_FILTER,
        struct.pack("@HP", len(program), ctypes.addressof(pinned)),
    )


def _dump_request(sequence: int) -> bytes:
    """Ask for all families: asked for one, the kernel walks the whole table all the same."""
    with bare("pyroute2"):
        from pyroute2.netlink.nfnetlink.nfctsocket import nfct_msg

    message = nfct_msg()
    message["nfgen_family"] = socket.AF_UNSPEC
    message["header"]["type"] = _IPCTNL_MSG_CT_GET
    message["header"]["flags"] = _NLM_F_DUMP
    message["header"]["sequence_number"] = sequence
    message.encode()
    return bytes(message.data)


def _dumped(sock: socket.socket, sequence: int) -> Generator[Datagrams, None, bool]:
    """Yield the answer to the dump request of that number; return whether it was consistent."""
    buffer = bytearray(DUMP_BUFFER_BYTES)
    consistent = True
    while True:
        size = sock.recv_into(buffer)
        at_ns = time.time_ns()
        offsets, lengths = [], []
        offset, done = 0, False
        while offset + _HEADER.size <= size:
            length, kind, flags, answers, _ = _HEADER.unpack_from(buffer, offset)
            if length < _HEADER.size or offset + length > size:
                break
            if answers == sequence:
                consistent = consistent and not flags & _NLM_F_DUMP_INTR
                if kind in (_NLMSG_DONE, _NLMSG_ERROR):
                    code = struct.unpack_from("=i", buffer, offset + _HEADER.size)[0]
                    if code < 0:
                        raise OSError(-code, os.strerror(-code))
                    done = True
                else:
                    offsets.append(offset)
                    lengths.append(length)
            offset += (length + 3) & ~3
        if offsets:
            yield Datagrams(at_ns, True, buffer, offsets, lengths)
        if done:
            return consistent


def _explained(error: OSError, doing: str) -> SourceError:
    """Say what a person can do about `error`."""
    if error.errno in (errno.EPERM, errno.EACCES):
        return SourceError(
            f"{doing} needs CAP_NET_ADMIN",
            hint="run it as root, or give a container the capability NET_ADMIN",
        )
    if error.errno in (errno.EINVAL, errno.ENOENT, errno.EPROTONOSUPPORT, errno.EOPNOTSUPP):
        return SourceError(
            f"{doing} failed: this kernel has no conntrack netlink here ({error.strerror})",
            hint="modprobe nf_conntrack_netlink",
        )
    return SourceError(f"{doing} failed: {error.strerror}")
