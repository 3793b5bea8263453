"""
Conntrack messages as the kernel writes them (ctnetlink_fill_info and ctnetlink_conntrack_event,
net/netfilter/nf_conntrack_netlink.c), from values a test knows.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address

from ctk.conntrack.decode import Decoder
from ctk.model import Datagrams

SECOND = 1_000_000_000
TCP, UDP, ICMP, ICMPV6 = 6, 17, 1, 58
SEEN_REPLY, CONFIRMED = 1 << 1, 1 << 3
SYN_SENT, ESTABLISHED, TIME_WAIT, CLOSE = 1, 3, 7, 8

NEW_FLAGS, UPDATE_FLAGS, DUMP_FLAGS = 0x600, 0, 0x002
CT_NEW, CT_DELETE = 0x100, 0x102
_NESTED = 0x8000

Counted = tuple[int, int, int, int]  # packets_out, bytes_out, packets_in, bytes_in


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def nest(kind: int, *attributes: bytes) -> bytes:
    return attribute(kind | _NESTED, b"".join(attributes))


def number(kind: int, code: str, value: int) -> bytes:
    return attribute(kind, struct.pack(">" + code, value))


@lru_cache(1 << 12)
def _packed(address: str) -> bytes:
    return ip_address(address).packed


def message(family: int, *attributes: bytes, kind: int = CT_NEW, flags: int = 0) -> bytes:
    body = struct.pack("=BBH", family, 0, 0) + b"".join(attributes)
    return struct.pack("=IHHII", 16 + len(body), kind, flags, 0, 0) + body


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """One entry of the kernel's table: `backend` and `masquerade` are what NAT made of it."""

    proto: int = TCP
    src: str = "10.244.0.21"
    port: int = 40_000  # for ICMP its id; None of it for protocols the kernel does not know
    dst: str = "10.96.0.80"
    dst_port: int = 80
    backend: str | None = None
    backend_port: int | None = None
    masquerade: str | None = None
    masquerade_port: int | None = None
    zone: int = 0
    zone_of_original: int = 0
    zone_of_reply: int = 0
    ct_id: int = 1

    def new(self, at_ns: int | None = None) -> bytes:
        return self._event(CT_NEW, NEW_FLAGS, at_ns, status=CONFIRMED, state=SYN_SENT)

    def update(self, at_ns: int | None = None) -> bytes:
        return self._event(
            CT_NEW, UPDATE_FLAGS, at_ns, status=CONFIRMED | SEEN_REPLY, state=ESTABLISHED
        )

    def destroy(
        self,
        at_ns: int | None = None,
        counted: Counted | None = None,
        *,
        status: int = CONFIRMED | SEEN_REPLY,
        state: int | None = None,
        start_ns: int | None = None,
    ) -> bytes:
        return self._event(
            CT_DELETE, 0, at_ns, status=status, state=state, counted=counted, start_ns=start_ns
        )

    def listed(
        self,
        counted: Counted | None = None,
        *,
        start_ns: int | None = None,
        state: int = ESTABLISHED,
    ) -> bytes:
        """As a dump has it."""
        return self._event(
            CT_NEW,
            DUMP_FLAGS,
            None,
            status=CONFIRMED | SEEN_REPLY,
            state=state,
            counted=counted,
            start_ns=start_ns,
        )

    def _event(
        self,
        kind: int,
        flags: int,
        at_ns: int | None,
        *,
        status: int,
        state: int | None,
        counted: Counted | None = None,
        start_ns: int | None = None,
    ) -> bytes:
        attributes = [*self.tuples()]
        if self.zone:
            attributes.append(number(18, "H", self.zone))
        attributes += [number(12, "I", self.ct_id), number(3, "I", status)]
        if counted is not None:
            for direction, (packets, size) in ((9, counted[:2]), (10, counted[2:])):
                attributes.append(nest(direction, number(1, "Q", packets), number(2, "Q", size)))
        if start_ns is not None:
            attributes.append(nest(20, number(1, "Q", start_ns)))
        if self.proto == TCP and state is not None:
            attributes.append(nest(4, nest(1, number(1, "B", state))))
        if at_ns is not None:
            attributes.append(number(27, "Q", at_ns))
        return message(10 if ":" in self.src else 2, *attributes, kind=kind, flags=flags)

    def tuples(self) -> tuple[bytes, bytes]:
        return _tuples(self)

    def made_tuples(self) -> tuple[bytes, bytes]:
        backend = self.backend or self.dst
        backend_port = self.dst_port if self.backend_port is None else self.backend_port
        back_port = self.port if self.masquerade_port is None else self.masquerade_port
        return (
            self._tuple(1, self.src, self.dst, self.port, self.dst_port, self.zone_of_original),
            self._tuple(
                2, backend, self.masquerade or self.src, backend_port, back_port, self.zone_of_reply
            ),
        )

    def _tuple(self, which: int, src: str, dst: str, port: int, to: int, zone: int) -> bytes:
        first = 3 if ":" in src else 1
        ip = nest(
            1,
            attribute(first, _packed(src)),
            attribute(first + 1, _packed(dst)),
        )
        ends = [number(1, "B", self.proto)]
        if self.proto in (ICMP, ICMPV6):
            identity, request, reply = (4, 8, 0) if self.proto == ICMP else (7, 128, 129)
            ends += [
                number(identity, "H", self.port),
                number(identity + 1, "B", request if which == 1 else reply),
                number(identity + 2, "B", 0),
            ]
        elif self.proto in (TCP, UDP, 33, 47, 132, 136):
            ends += [number(2, "H", port), number(3, "H", to)]
        zones = [number(3, "H", zone)] if zone else []
        return nest(which, ip, nest(2, *ends), *zones)


@lru_cache(1 << 12)  # an entry sends several messages, and these are more than half of each
def _tuples(one: Connection) -> tuple[bytes, bytes]:
    return one.made_tuples()


def batch(*messages: bytes, at_ns: int, dumped: bool = False) -> Datagrams:
    """What one read gave."""
    offsets, buffer = [], bytearray()
    for each in messages:
        offsets.append(len(buffer))
        buffer += each
    return Datagrams(at_ns, dumped, buffer, offsets, [len(each) for each in messages])


def events(*messages: bytes, at_ns: int = 0) -> "Sequence[tuple[object, ...]]":
    """Decode messages that are well-formed."""
    decoder = Decoder()
    read = decoder.read(batch(*messages, at_ns=at_ns))
    assert decoder.malformed == 0
    return read
