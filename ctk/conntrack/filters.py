"""
Which connections to record: by address, protocol and port.

The filter has two forms. `EventFilter.wants` is for the entries of a dump and for replays. The
kernel runs `program` for each event before it queues it; what it drops for that is not loss. A test
shows on every fixture that both decide alike.
"""

import ipaddress
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Self

from ctk.conntrack import attributes
from ctk.conntrack.names import PROTOCOL_NUMBERS, parse_protocol
from ctk.errors import UsageError
from ctk.model import FlowTuple
from ctk.model.numbers import parse_port


class Cidr(NamedTuple):
    """All addresses from `first` to `last`, in network order; 4 bytes each, or 16."""

    first: bytes
    last: bytes
    bits: int  # of the prefix

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read "10.244.0.0/16", "fd00::/8" or one address."""
        try:
            network = ipaddress.ip_network(text, strict=False)
        except ValueError as error:
            raise UsageError(
                f"{text!r} is not an address or a CIDR",
                hint="write it as 10.244.0.0/16 or fd00::/8",
            ) from error
        return cls(
            network.network_address.packed, network.broadcast_address.packed, network.prefixlen
        )

    def has(self, address: bytes) -> bool:
        return len(address) == len(self.first) and self.first <= address <= self.last


@dataclass(frozen=True, slots=True, kw_only=True)
class EventFilter:
    """
    What a connection must be like to be recorded.

    Of its source, its dialled destination and its backend, one is within one of `cidrs` and none
    within any of `exclude_cidrs`; the dialled port or the backend's is among `ports`; the protocol
    is among `protocols`. A field that is empty asks nothing.
    """

    cidrs: tuple[Cidr, ...] = ()
    exclude_cidrs: tuple[Cidr, ...] = ()
    protocols: frozenset[int] = frozenset()
    ports: frozenset[int] = frozenset()

    @classmethod
    def parse(
        cls,
        *,
        cidrs: Iterable[str] = (),
        exclude_cidrs: Iterable[str] = (),
        protocols: Iterable[str] = (),
        ports: Iterable[str] = (),
    ) -> Self:
        """Parse the words of a command line; UsageError where one is not what it should be."""
        return cls(
            cidrs=tuple(map(Cidr.parse, cidrs)),
            exclude_cidrs=tuple(map(Cidr.parse, exclude_cidrs)),
            protocols=frozenset(map(parse_protocol, protocols)),
            ports=frozenset(map(parse_port, ports)),
        )

    def __bool__(self) -> bool:
        return bool(self.cidrs or self.exclude_cidrs or self.protocols or self.ports)

    def wants(self, flow: FlowTuple) -> bool:
        addresses = (flow.src, flow.dst, flow.reply_src)
        if (
            self.protocols
            and (PROTOCOL_NUMBERS.get(flow.proto) or int(flow.proto)) not in self.protocols
        ):
            return False
        if self.ports and self.ports.isdisjoint((flow.dst_port, flow.reply_src_port)):
            return False
        if any(cidr.has(address) for cidr in self.exclude_cidrs for address in addresses):
            return False
        return not self.cidrs or any(
            cidr.has(address) for cidr in self.cidrs for address in addresses
        )


# Classic BPF: linux/bpf_common.h, linux/filter.h.
_LD_IMM, _LDX_IMM, _LD_MEM, _ST = 0x00, 0x01, 0x60, 0x02
_LD_W_ABS, _LD_B_ABS = 0x20, 0x30
_LD_W_IND, _LD_H_IND, _LD_B_IND = 0x40, 0x48, 0x50
_AND, _TAX = 0x54, 0x07
_JA, _JEQ, _RET = 0x05, 0x15, 0x06
# A load from these two is a search. A is an offset; it becomes that of the first attribute of type
# X from there on (_NLATTR), or within the nest there (_NLATTR_NEST); 0 where there is none.
_NLATTR, _NLATTR_NEST = 0xFFFFF000 + 12, 0xFFFFF000 + 16
_KEEP, _DROP = 0xFFFFFFFF, 0
_MAX_INSTRUCTIONS = 4096  # BPF_MAXINSNS

_FAMILY = attributes.NLMSG_HEADER  # the first byte of nfgenmsg
_ATTRIBUTES = attributes.NLMSG_HEADER + attributes.NFGENMSG
_PROTOCOL = (attributes.CTA_TUPLE_ORIG, attributes.CTA_TUPLE_PROTO, attributes.CTA_PROTO_NUM)
_PORTS = (
    (attributes.CTA_TUPLE_ORIG, attributes.CTA_TUPLE_PROTO, attributes.CTA_PROTO_DST_PORT),
    (attributes.CTA_TUPLE_REPLY, attributes.CTA_TUPLE_PROTO, attributes.CTA_PROTO_SRC_PORT),
)
# Family, bytes of an address, and the paths of source, dialled destination and backend.
_FAMILIES = tuple(
    (
        family,
        size,
        (
            (attributes.CTA_TUPLE_ORIG, attributes.CTA_TUPLE_IP, src),
            (attributes.CTA_TUPLE_ORIG, attributes.CTA_TUPLE_IP, dst),
            (attributes.CTA_TUPLE_REPLY, attributes.CTA_TUPLE_IP, src),
        ),
    )
    for family, size, src, dst in (
        (attributes.AF_INET, 4, attributes.CTA_IP_V4_SRC, attributes.CTA_IP_V4_DST),
        (attributes.AF_INET6, 16, attributes.CTA_IP_V6_SRC, attributes.CTA_IP_V6_DST),
    )
)

Instruction = tuple[int, int, int, int]  # code, jt, jf, k
# A program as it is written: a text alone is a label, and a _JA whose k is a text jumps to that.
_Draft = Iterator[tuple[int, int, int, int | str] | str]


def program(wanted: EventFilter) -> list[Instruction] | None:
    """
    Return `wanted` as classic BPF for a netlink socket; None where it is longer than BPF allows.

    It keeps a message that lacks the protocol or the addresses it asks about, so that the reader
    counts it as malformed.
    """
    draft = list(_draft(wanted))
    places: dict[str, int] = {}
    size = 0
    for one in draft:
        if isinstance(one, str):
            places[one] = size
        else:
            size += 1
    if size > _MAX_INSTRUCTIONS:
        return None
    instructions: list[Instruction] = []
    for one in draft:
        if not isinstance(one, str):
            code, jt, jf, k = one
            # A label is always a _JA's, and its distance counts from the next instruction.
            distance = places[k] - len(instructions) - 1 if isinstance(k, str) else k
            instructions.append((code, jt, jf, distance))
    return instructions


def _draft(wanted: EventFilter) -> _Draft:
    yield _LD_B_ABS, 0, 0, _FAMILY
    for family, _, _ in _FAMILIES:
        yield from _jump_if(family, f"family {family}")
    yield _JA, 0, 0, "keep"
    for family, size, addresses in _FAMILIES:
        yield f"family {family}"
        yield from _protocols(wanted.protocols, f"protocol {family}")
        yield from _ports(wanted.ports, f"port {family}")
        if wanted.cidrs or wanted.exclude_cidrs:
            for slot, path in enumerate(addresses):
                yield from _find(path, "keep")
                for word in range(size // 4):
                    yield _LD_W_IND, 0, 0, 4 + 4 * word
                    yield _ST, 0, 0, slot * size // 4 + word
        for cidrs, verdict in ((wanted.exclude_cidrs, "drop"), (wanted.cidrs, "keep")):
            for cidr in cidrs:
                if len(cidr.first) == size:
                    for slot in range(len(addresses)):
                        yield from _within(cidr, slot * size // 4, verdict)
        yield _JA, 0, 0, "drop" if wanted.cidrs else "keep"
    yield "keep"
    yield _RET, 0, 0, _KEEP
    yield "drop"
    yield _RET, 0, 0, _DROP


def _protocols(protocols: frozenset[int], fits: str) -> _Draft:
    if protocols:
        yield from _find(_PROTOCOL, "keep")
        yield _LD_B_IND, 0, 0, 4
        for protocol in sorted(protocols):
            yield from _jump_if(protocol, fits)
        yield _JA, 0, 0, "drop"
        yield fits


def _ports(ports: frozenset[int], fits: str) -> _Draft:
    if ports:
        for number, path in enumerate(_PORTS):
            yield from _find(path, f"{fits} no {number}")
            yield _LD_H_IND, 0, 0, 4
            for port in sorted(ports):
                yield from _jump_if(port, fits)
            yield f"{fits} no {number}"
        yield _JA, 0, 0, "drop"
        yield fits


def _jump_if(value: int, label: str) -> _Draft:
    """Go to `label` if A is `value`; by a _JA, since jt reaches only 255 instructions."""
    yield _JEQ, 0, 1, value
    yield _JA, 0, 0, label


def _find(path: tuple[int, int, int], missing: str) -> _Draft:
    """Set X to the offset of the attribute at `path`; go to `missing` where there is none."""
    yield _LD_IMM, 0, 0, _ATTRIBUTES
    for kind, where in zip(path, (_NLATTR, _NLATTR_NEST, _NLATTR_NEST), strict=True):
        yield _LDX_IMM, 0, 0, kind
        yield _LD_W_ABS, 0, 0, where
        yield from _jump_if(0, missing)
    yield _TAX, 0, 0, 0


def _within(cidr: Cidr, slot: int, label: str) -> _Draft:
    """Go to `label` if `cidr` has the address whose words are in memory from `slot` on."""
    whole, rest = divmod(cidr.bits, 32)
    left = 2 * whole + 3 * bool(rest)  # instructions up to the _JA
    for word, (value,) in enumerate(struct.iter_unpack(">I", cidr.first)):
        if word < whole:
            left -= 2
            yield _LD_MEM, 0, 0, slot + word
            yield _JEQ, 0, left + 1, value
        elif word == whole and rest:
            left -= 3
            yield _LD_MEM, 0, 0, slot + word
            yield _AND, 0, 0, 0xFFFFFFFF << (32 - rest) & 0xFFFFFFFF
            yield _JEQ, 0, left + 1, value
    yield _JA, 0, 0, label
