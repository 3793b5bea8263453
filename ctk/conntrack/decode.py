"""
Bytes in, events out. Pure.

The kernel writes conntrack messages in a handful of layouts: the same attributes in the same
order at the same places (ctnetlink_conntrack_event, net/netfilter/nf_conntrack_netlink.c). Each
layout is learned once by a walk over the attributes, which compiles a Struct that takes every
value and every attribute header in one unpack. A message is read by the layout of its length
when all headers are as they were; otherwise it is walked, and its layout is learned too.

Addresses are not parsed here. The two runs of bytes around the source port, `orig` and
`reply`, tell one flow from another; `tuples` reads them once for each new flow, and checks the
headers inside them. What they leave out is the source port (for ICMP its id). What attributes are
called, and the walk over them, is in `attributes`.
"""

import struct
from collections.abc import Callable, Iterator
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple, cast

from ctk.conntrack.attributes import (
    CTA_COUNTERS_BYTES,
    CTA_COUNTERS_ORIG,
    CTA_COUNTERS_PACKETS,
    CTA_COUNTERS_REPLY,
    CTA_ID,
    CTA_PROTO_DST_PORT,
    CTA_PROTO_ICMP_ID,
    CTA_PROTO_ICMPV6_ID,
    CTA_PROTO_SRC_PORT,
    CTA_PROTOINFO,
    CTA_PROTOINFO_TCP,
    CTA_PROTOINFO_TCP_STATE,
    CTA_STATUS,
    CTA_TIMESTAMP,
    CTA_TIMESTAMP_EVENT,
    CTA_TIMESTAMP_START,
    CTA_TIMESTAMP_STOP,
    CTA_TUPLE_ORIG,
    CTA_TUPLE_PROTO,
    CTA_TUPLE_REPLY,
    CTA_TUPLE_ZONE,
    CTA_ZONE,
    NFGENMSG,
    NLA_TYPE_MASK,
    NLMSG_HEADER,
    Attribute,
    AttributePath,
    MalformedError,
    aligned,
    header,
    walk,
)
from ctk.model import Datagrams

# linux/netlink.h, linux/netfilter/nfnetlink.h, nfnetlink_conntrack.h
NFNL_SUBSYS_CTNETLINK = 1
IPCTNL_MSG_CT_NEW = NFNL_SUBSYS_CTNETLINK << 8
IPCTNL_MSG_CT_DELETE = NFNL_SUBSYS_CTNETLINK << 8 | 2
NLM_F_MULTI = 0x002
NLM_F_EXCL = 0x200
NLM_F_CREATE = 0x400

IPS_SEEN_REPLY = 1 << 1  # linux/netfilter/nf_conntrack_common.h
TCP_CONNTRACK_CLOSE = 8  # linux/netfilter/nf_conntrack_tcp.h

_MAX_LAYOUTS = 256  # nine in a mixed sample; past this a message is walked each time


def _what(message_type: int, flags: int) -> int:
    """The type and flags words of a netlink header, as a big-endian Struct reads both at once."""
    return cast(int, struct.unpack(">I", struct.pack("=HH", message_type, flags))[0])


# NEW and UPDATE share a message type; only NLM_F_CREATE|NLM_F_EXCL tell them apart.
NEW = _what(IPCTNL_MSG_CT_NEW, NLM_F_CREATE | NLM_F_EXCL)
UPDATE = _what(IPCTNL_MSG_CT_NEW, 0)
DESTROY = _what(IPCTNL_MSG_CT_DELETE, 0)
DUMPED = _what(IPCTNL_MSG_CT_NEW, NLM_F_MULTI)
_SRC_PORT = struct.pack("=H", CTA_PROTO_SRC_PORT)
_KINDS = frozenset((NEW, UPDATE, DESTROY, DUMPED))


class Event(NamedTuple):
    """
    One conntrack message. `read` yields plain tuples of this shape, since a NamedTuple costs
    three times as much to make.
    """

    what: int  # NEW, UPDATE, DESTROY or DUMPED
    orig: bytes  # from nfgenmsg to the header of the source port: the family, src, dst, proto
    port: int  # the source port; for ICMP its id; 0 where the protocol has neither
    reply: bytes  # from the dialled port to the header of the reply's destination port
    zone: int  # CTA_ZONE; a zone of one direction only stands in the tuple
    ct_id: int  # CTA_ID, a hash that can come again
    at_ns: int  # CTA_TIMESTAMP_EVENT where the kernel sends it, else the time of receipt
    status: int | None  # IPS_* bits
    tcp_state: int | None  # TCP_CONNTRACK_*; with destroy events since 5.11
    packets_out: int | None  # counters come with destroy events and dumps, where acct is on
    bytes_out: int | None
    packets_in: int | None
    bytes_in: int | None
    start_ns: int | None  # CTA_TIMESTAMP, where nf_conntrack_timestamp is on
    stop_ns: int | None


# Values an event takes: path, Struct code, place in Event.
_VALUES: dict[AttributePath, tuple[str, int]] = {
    (CTA_ZONE,): ("H", Event._fields.index("zone")),
    (CTA_ID,): ("I", Event._fields.index("ct_id")),
    (CTA_STATUS,): ("I", Event._fields.index("status")),
    (CTA_PROTOINFO, CTA_PROTOINFO_TCP, CTA_PROTOINFO_TCP_STATE): (
        "B",
        Event._fields.index("tcp_state"),
    ),
    (CTA_COUNTERS_ORIG, CTA_COUNTERS_PACKETS): ("Q", Event._fields.index("packets_out")),
    (CTA_COUNTERS_ORIG, CTA_COUNTERS_BYTES): ("Q", Event._fields.index("bytes_out")),
    (CTA_COUNTERS_REPLY, CTA_COUNTERS_PACKETS): ("Q", Event._fields.index("packets_in")),
    (CTA_COUNTERS_REPLY, CTA_COUNTERS_BYTES): ("Q", Event._fields.index("bytes_in")),
    (CTA_TIMESTAMP, CTA_TIMESTAMP_START): ("Q", Event._fields.index("start_ns")),
    (CTA_TIMESTAMP, CTA_TIMESTAMP_STOP): ("Q", Event._fields.index("stop_ns")),
    (CTA_TIMESTAMP_EVENT,): ("Q", Event._fields.index("at_ns")),
}
# What stands behind a message's own values for those it lacks; `at_ns` is the time of receipt.
_NONE, _ZERO, _RECEIVED = -3, -2, -1
_LACKING = [_NONE] * len(Event._fields)
for _name, _stand_in in (("port", _ZERO), ("zone", _ZERO), ("at_ns", _RECEIVED)):
    _LACKING[Event._fields.index(_name)] = _stand_in


class _Layout:
    """Where everything is in messages of one shape."""

    __slots__ = ("heads", "next", "pick", "template", "unpack")

    def __init__(self, message: bytes) -> None:
        """Learn from one message; MalformedError where it is not one of conntrack."""
        fields: list[tuple[int, str, int | None]] = [(0, "I", None), (4, "I", 0)]
        orig_end, reply_start, reply_end = _port_gaps(message)
        fields.append((NLMSG_HEADER, f"{orig_end - NLMSG_HEADER}s", 1))
        if reply_start != orig_end:
            fields.append((orig_end, "H", 2))
        fields.append((reply_start, f"{reply_end - reply_start}s", 3))
        # What is compared inside orig (1) and reply (3).
        inside = _family(message, orig_end, reply_start)
        for path, at, size in _needed(walk(message, NLMSG_HEADER + NFGENMSG)):
            if path[0] in (CTA_TUPLE_ORIG, CTA_TUPLE_REPLY):
                # Other headers there are checked by parse_tuples, once a flow.
                if path[1:] == (CTA_TUPLE_ZONE,):
                    # It takes the room that CTA_ZONE takes behind both: of the same length, such
                    # messages have all other headers at the same places.
                    place, start = (3, reply_start) if at > reply_start else (1, NLMSG_HEADER)
                    inside.append((place, slice(at - 4 - start, at - start)))
                continue
            fields.append((at - 4, "I", None))
            if path in _VALUES:
                code, place = _VALUES[path]
                if struct.calcsize(code) != size:
                    raise MalformedError(f"attribute {path} has {size} bytes")
                fields.append((at, code, place))
        # An empty nest and its first child's header never share a place, so order is by offset.
        fields = _merged(sorted(fields, key=lambda one: one[0]))
        layout, end = ">", 0
        for at, code, _ in fields:
            if at < end:
                raise MalformedError("attributes overlap")
            layout += f"{at - end}x{code}"
            end = at + struct.calcsize(">" + code)
        layout += f"{len(message) - end}x"
        places = [index for index, one in enumerate(fields) if one[2] is None]
        picked = list(_LACKING)
        for index, one in enumerate(fields):
            if one[2] is not None:
                picked[one[2]] = index
        if picked[Event._fields.index("ct_id")] < 0:
            raise MalformedError("no CTA_ID")
        self.unpack = struct.Struct(layout).unpack_from
        # itemgetter of one item gives the item, not a tuple: there are always several here.
        self.heads: Callable[[tuple[Any, ...]], tuple[Any, ...]] = itemgetter(*places)
        if inside:
            heads, parts = self.heads, [(picked[place], part) for place, part in inside]
            self.heads = lambda values: (*heads(values), *(values[n][part] for n, part in parts))
        self.pick = itemgetter(*picked)
        self.template = self.heads(self.unpack(message, 0))
        self.next: _Layout | None = None


def _family(message: bytes, orig_end: int, reply_start: int) -> list[tuple[int, slice]]:
    """
    Where the family and the last header of `orig` stand, where they are to be compared.

    ICMP's tuples of IPv4 take the room of IPv6's without ports. Those of TCP and the like, with
    their two ports, are as long as no others.
    """
    if orig_end != reply_start and message[orig_end - 2 : orig_end] == _SRC_PORT:
        return []
    return [(1, slice(0, 1)), (1, slice(orig_end - 4 - NLMSG_HEADER, None))]


def _needed(attributes: Iterator[Attribute]) -> Iterator[Attribute]:
    """
    Leave out what stands in a nest behind its values, once all that it may have are there.

    Nothing depends on it: the nest's own header says where it ends.
    """
    for nest, several in groupby(attributes, key=lambda one: one[0][0]):
        inside = list(several)
        paths = [path for path, _, _ in inside]
        wanted = {path for path in _VALUES if path[0] == nest and len(path) > 1}
        if wanted and wanted.issubset(paths):
            last = max(i for i, path in enumerate(paths) if path in wanted)
            del inside[last + 1 :]
        yield from inside


def _merged(fields: list[tuple[int, str, int | None]]) -> list[tuple[int, str, int | None]]:
    """Headers that follow each other at once, as a nest's and its first child's do, are one."""
    merged: list[tuple[int, str, int | None]] = []
    for at, code, place in fields:
        if place is None and merged and merged[-1][2] is None:
            start, before, _ = merged[-1]
            if start + struct.calcsize(">" + before) == at:
                merged[-1] = (start, f"{at + struct.calcsize('>' + code) - start}s", None)
                continue
        merged.append((at, code, place))
    return merged


class Decoder:
    """Reads batches; remembers the layouts it has met and counts what it could not read."""

    def __init__(self) -> None:
        self.malformed = 0
        self._layouts: dict[int, _Layout] = {}
        self._learned = 0

    def read(self, batch: Datagrams) -> list[tuple[Any, ...]]:
        """Return the batch's events in order, each a tuple shaped as Event."""
        events: list[tuple[Any, ...]] = []
        append = events.append
        layouts = self._layouts
        buffer = batch.buffer
        stand_ins = (None, 0, batch.at_ns)
        for offset, length in zip(batch.offsets, batch.lengths, strict=False):
            # 0.45 us a message, of which the unpack is 0.17.
            layout = layouts.get(length)
            while layout is not None:
                values = layout.unpack(buffer, offset)
                if layout.heads(values) == layout.template:
                    append(layout.pick(values + stand_ins))
                    break
                layout = layout.next
            else:
                try:
                    layout = self._learn(bytes(buffer[offset : offset + length]))
                except MalformedError:
                    self.malformed += 1
                else:
                    append(layout.pick(layout.unpack(buffer, offset) + stand_ins))
        return events

    def _learn(self, message: bytes) -> _Layout:
        if len(message) < NLMSG_HEADER + NFGENMSG:
            raise MalformedError("shorter than its headers")
        if int.from_bytes(message[:4], "little" if _LITTLE else "big") != len(message):
            raise MalformedError("length is not the header's")
        if what_of(message, 0) not in _KINDS:
            raise MalformedError("not a conntrack message")
        layout = _Layout(message)
        if self._learned < _MAX_LAYOUTS:
            self._learned += 1
            layout.next = self._layouts.get(len(message))
            self._layouts[len(message)] = layout
        return layout


def what_of(buffer: bytes | bytearray, offset: int) -> int:
    """Return what the message there is: NEW, UPDATE, DESTROY, DUMPED or something unknown."""
    return int.from_bytes(buffer[offset + 4 : offset + 8], "big")


_LITTLE = struct.pack("=H", 1) == struct.pack("<H", 1)
_OWN_PORT = frozenset((CTA_PROTO_SRC_PORT, CTA_PROTO_ICMP_ID, CTA_PROTO_ICMPV6_ID))
_REPLY_PORT = frozenset((CTA_PROTO_DST_PORT, CTA_PROTO_ICMP_ID, CTA_PROTO_ICMPV6_ID))


def _port_gaps(message: bytes) -> tuple[int, int, int]:
    """
    Return where `orig` ends, and where `reply` starts and ends.

    Between them stands the source port (or the ICMP id), after them the same of the reply.
    `tuples` puts zeros there when it walks them.
    """
    start = NLMSG_HEADER + NFGENMSG
    orig_size = _sized(message, start, CTA_TUPLE_ORIG)
    reply_at = start + orig_size
    end = reply_at + _sized(message, reply_at, CTA_TUPLE_REPLY)
    orig_end = reply_start = reply_end = reply_proto_end = 0
    for path, at, size in walk(message[:end], start):
        if path == (CTA_TUPLE_REPLY, CTA_TUPLE_PROTO):
            reply_proto_end = at + aligned(size)
        if len(path) != 3 or path[1] != CTA_TUPLE_PROTO:
            continue
        if path[0] == CTA_TUPLE_ORIG and path[2] in _OWN_PORT:
            orig_end, reply_start = at, at + 4
        elif path[0] == CTA_TUPLE_REPLY and path[2] in _REPLY_PORT:
            reply_end = at
        else:
            continue
        if size != 2:
            raise MalformedError("a port is two bytes")
    if bool(orig_end) != bool(reply_end):
        raise MalformedError("one tuple has a port, the other none")
    if not orig_end:
        return reply_at, reply_at, end
    if reply_proto_end != end:
        # Something stands behind the reply's ports (a zone of the reply direction): keep it, and
        # the port before it. Such flows are told apart by that port too: finer than it need be.
        reply_end = end
    return orig_end, reply_start, reply_end


def _sized(message: bytes, at: int, kind: int) -> int:
    if at + 4 > len(message):
        raise MalformedError("a tuple is missing")
    size, found = header(message, at)
    if found & NLA_TYPE_MASK != kind or size < 4 or at + aligned(size) > len(message):
        raise MalformedError("a tuple is missing")
    return aligned(size)
