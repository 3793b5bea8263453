"""
Netlink messages in, events out. Pure.

The kernel writes conntrack messages in a handful of layouts: the same attributes in the same
order at the same places (ctnetlink_conntrack_event, net/netfilter/nf_conntrack_netlink.c). Each
layout is learned once by a walk over the attributes, which compiles a Struct that takes every
value and every attribute header in one unpack. A message is read by a layout of its length if
all its headers are those of the layout; otherwise it is walked, and its layout is learned too.

Addresses are not parsed here. The bytes of both tuples without the source port (for ICMP, its id)
are the same for all connections of one flow: `orig` is what stands before the source port, `reply`
what stands behind it. `tuples` parses them once for each new flow, and checks the attribute headers
inside them. The attributes' names, and the walk over them, are in `attributes`.
"""

import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple, cast

from ctk.conntrack.attributes import (
    CTA_COUNTERS_BYTES,
    CTA_COUNTERS_ORIG,
    CTA_COUNTERS_PACKETS,
    CTA_COUNTERS_REPLY,
    CTA_ID,
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
    CTA_TUPLE_REPLY,
    CTA_TUPLE_ZONE,
    CTA_ZONE,
    NFGENMSG,
    NLMSG_HEADER,
    Attribute,
    AttributePath,
    MalformedError,
    port_gaps,
    walk,
)
from ctk.conntrack.runs import AT_ONCE, Columns, Places, Run
from ctk.model import Datagrams

# linux/netlink.h, linux/netfilter/nfnetlink.h, nfnetlink_conntrack.h
NFNL_SUBSYS_CTNETLINK = 1
IPCTNL_MSG_CT_NEW = NFNL_SUBSYS_CTNETLINK << 8
IPCTNL_MSG_CT_DELETE = NFNL_SUBSYS_CTNETLINK << 8 | 2
NLM_F_MULTI = 0x002
NLM_F_EXCL = 0x200
NLM_F_CREATE = 0x400

IPS_SEEN_REPLY = 1 << 1  # linux/netfilter/nf_conntrack_common.h
TCP_CONNTRACK_TIME_WAIT, TCP_CONNTRACK_CLOSE = 7, 8  # linux/netfilter/nf_conntrack_tcp.h

_FEW = 16  # messages are read one at a time
_MAX_LAYOUTS = 256  # a mixed sample has nine; past this each message is walked


def _what(message_type: int, flags: int) -> int:
    """Return type and flags of a netlink header as a big-endian Struct reads both in one."""
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
    orig: bytes  # from nfgenmsg to the header of the source port: family, src, dst, protocol
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


# What `read` yields: an Event's values, by their place.
EventTuple = tuple[
    int,
    bytes,
    int,
    bytes,
    int,
    int,
    int,
    int | None,
    int | None,
    int | None,
    int | None,
    int | None,
    int | None,
    int | None,
    int | None,
]

# Of a batch: events, or messages of one layout, which are read when they are asked for.
Part = list[EventTuple] | Columns

_POSITIONS = {name: position for position, name in enumerate(Event._fields)}
_WHAT, _ORIG, _PORT, _REPLY, _ZONE, _CT_ID, _AT = (
    _POSITIONS[name] for name in ("what", "orig", "port", "reply", "zone", "ct_id", "at_ns")
)
# The attributes whose values an event has: path, Struct code, position in Event.
_VALUES: dict[AttributePath, tuple[str, int]] = {
    (CTA_ZONE,): ("H", _POSITIONS["zone"]),
    (CTA_ID,): ("I", _CT_ID),
    (CTA_STATUS,): ("I", _POSITIONS["status"]),
    (CTA_PROTOINFO, CTA_PROTOINFO_TCP, CTA_PROTOINFO_TCP_STATE): ("B", _POSITIONS["tcp_state"]),
    (CTA_COUNTERS_ORIG, CTA_COUNTERS_PACKETS): ("Q", _POSITIONS["packets_out"]),
    (CTA_COUNTERS_ORIG, CTA_COUNTERS_BYTES): ("Q", _POSITIONS["bytes_out"]),
    (CTA_COUNTERS_REPLY, CTA_COUNTERS_PACKETS): ("Q", _POSITIONS["packets_in"]),
    (CTA_COUNTERS_REPLY, CTA_COUNTERS_BYTES): ("Q", _POSITIONS["bytes_in"]),
    (CTA_TIMESTAMP, CTA_TIMESTAMP_START): ("Q", _POSITIONS["start_ns"]),
    (CTA_TIMESTAMP, CTA_TIMESTAMP_STOP): ("Q", _POSITIONS["stop_ns"]),
    (CTA_TIMESTAMP_EVENT,): ("Q", _POSITIONS["at_ns"]),
}
# A message lacks some of an event's values. Three stand-ins follow its own: None, 0 and the time
# of receipt. These are their indexes, and which of them each position takes.
_NONE, _ZERO, _RECEIVED = -3, -2, -1
_STAND_INS = [_NONE] * len(Event._fields)
for _name, _stand_in in (("port", _ZERO), ("zone", _ZERO), ("at_ns", _RECEIVED)):
    _STAND_INS[_POSITIONS[_name]] = _stand_in


class _StructField(NamedTuple):
    """What one code of a layout's Struct takes from a message."""

    at: int  # its offset
    code: str
    position: int | None  # in Event; None for an attribute's header, which is compared


class _MessageLayout:
    """Where everything is in messages of one shape."""

    __slots__ = ("heads", "next", "pick", "pick_of_run", "run", "template", "unpack")

    def __init__(self, message: bytes) -> None:
        """Learn from one message; MalformedError where it is not one of conntrack."""
        orig_end, reply_start, reply_end = port_gaps(message)
        fields = [
            _StructField(0, "I", None),  # the message's length
            _StructField(4, "I", _WHAT),
            _StructField(NLMSG_HEADER, f"{orig_end - NLMSG_HEADER}s", _ORIG),
            _StructField(reply_start, f"{reply_end - reply_start}s", _REPLY),
        ]
        if reply_start != orig_end:
            fields.append(_StructField(orig_end, "H", _PORT))
        inside = _compared_inside(message, orig_end, reply_start)
        for path, at, size in _needed(walk(message, NLMSG_HEADER + NFGENMSG)):
            if path[0] in (CTA_TUPLE_ORIG, CTA_TUPLE_REPLY):
                # Other headers in the tuples are checked by parse_tuples, once a flow.
                if path[1:] == (CTA_TUPLE_ZONE,):
                    # A tuple's zone takes as much room as CTA_ZONE behind both tuples does: only
                    # this header tells two such messages of one length apart.
                    in_reply = at > reply_start
                    start = reply_start if in_reply else NLMSG_HEADER
                    position = _REPLY if in_reply else _ORIG
                    inside.append((position, slice(at - 4 - start, at - start)))
                continue
            fields.append(_StructField(at - 4, "I", None))
            if path in _VALUES:
                code, position = _VALUES[path]
                if struct.calcsize(code) != size:
                    raise MalformedError(f"attribute {path} has {size} bytes")
                fields.append(_StructField(at, code, position))
        fields = _merged(sorted(fields, key=lambda field: field.at))
        layout, end = ">", 0
        for field in fields:
            if field.at < end:
                raise MalformedError("attributes overlap")
            layout += f"{field.at - end}x{field.code}"
            end = field.at + struct.calcsize(">" + field.code)
        layout += f"{len(message) - end}x"
        headers = [index for index, field in enumerate(fields) if field.position is None]
        picked = list(_STAND_INS)
        for index, field in enumerate(fields):
            if field.position is not None:
                picked[field.position] = index
        if picked[_CT_ID] < 0:
            raise MalformedError("no CTA_ID")
        self.unpack = struct.Struct(layout).unpack_from
        # itemgetter of one item gives the item, not a tuple: there are always several here.
        self.heads: Callable[[tuple[Any, ...]], tuple[Any, ...]] = itemgetter(*headers)
        if inside:
            heads, parts = self.heads, [(picked[position], part) for position, part in inside]
            self.heads = lambda values: (*heads(values), *(values[n][part] for n, part in parts))
        self.pick = itemgetter(*picked)
        self.run: Run | None = None
        self.pick_of_run = self.pick
        self._read_in_runs(message, [] if inside else fields, reply_end)
        self.template = self.heads(self.unpack(message, 0))
        self.next: _MessageLayout | None = None  # another one of the same length

    def _read_in_runs(self, message: bytes, fields: Sequence[_StructField], reply_end: int) -> None:
        """Learn how to read many at once: what is compared is no value of them."""
        if not fields:
            return
        values = [field for field in fields if field.position is not None]
        picked = list(_STAND_INS)
        for index, field in enumerate(values):
            picked[cast(int, field.position)] = index
        self.pick_of_run = itemgetter(*picked)
        self.run = Run(
            message,
            [(f.at, struct.calcsize(">" + f.code)) for f in fields if f.position is None],
            [(field.at, field.code) for field in values],
            _places({cast(int, field.position): field.at for field in values}, reply_end),
        )


def _places(at: Mapping[int, int], reply_end: int) -> Places | None:
    """Say where the columns of a flood are, by the places of what an event has."""
    if _ZONE in at or _PORT not in at:
        return None
    what, orig, port, reply = (at[each] for each in (_WHAT, _ORIG, _PORT, _REPLY))
    return Places(what, orig, port, reply, reply_end, at[_CT_ID], at.get(_AT))


def _compared_inside(message: bytes, orig_end: int, reply_start: int) -> list[tuple[int, slice]]:
    """
    Return what of `orig` is compared: its position in Event, and which bytes of it.

    Without ports, tuples of two families or protocols can have the same length (ICMP over IPv4,
    and IPv6 with a protocol that has none), so the family and the last header are compared. With a
    source and a destination port no others have their length.
    """
    if orig_end != reply_start and message[orig_end - 2 : orig_end] == _SRC_PORT:
        return []
    return [(_ORIG, slice(0, 1)), (_ORIG, slice(orig_end - 4 - NLMSG_HEADER, None))]


def _needed(attributes: Iterator[Attribute]) -> Iterator[Attribute]:
    """
    Leave out what stands in a nest behind the last value that an event takes from it.

    Its header need not be compared: nothing is read behind it before the nest's own end.
    """
    for nest, several in groupby(attributes, key=lambda one: one[0][0]):
        inside = list(several)
        paths = [path for path, _, _ in inside]
        wanted = {path for path in _VALUES if path[0] == nest and len(path) > 1}
        if wanted and wanted.issubset(paths):
            last = max(i for i, path in enumerate(paths) if path in wanted)
            del inside[last + 1 :]
        yield from inside


def _merged(fields: list[_StructField]) -> list[_StructField]:
    """Make one field of headers that touch, as a nest's and its first child's do."""
    merged: list[_StructField] = []
    for field in fields:
        if field.position is None and merged and merged[-1].position is None:
            start = merged[-1].at
            if start + struct.calcsize(">" + merged[-1].code) == field.at:
                size = field.at + struct.calcsize(">" + field.code) - start
                merged[-1] = _StructField(start, f"{size}s", None)
                continue
        merged.append(field)
    return merged


class Decoder:
    """Reads batches; remembers the layouts it has met and counts what it could not read."""

    def __init__(self) -> None:
        self.malformed = 0
        self._layouts: dict[int, _MessageLayout] = {}
        self._learned = 0

    def read(self, batch: Datagrams) -> list[EventTuple]:
        """Return the batch's events in order, each a tuple shaped as Event."""
        return events_of(self.parts(batch))

    def parts(self, batch: Datagrams) -> list[Part]:
        """Return them in parts: what came in runs of one layout is read when it is asked for."""
        offsets, lengths = batch.offsets, batch.lengths
        parts: list[Part] = []
        for first in range(0, len(lengths), AT_ONCE):
            some = lengths[first : first + AT_ONCE]
            at = offsets[first : first + AT_ONCE]
            run = None
            if len(some) >= _FEW and some.count(some[0]) == len(some):
                run = self._run(batch, at, some[0])
            parts.append(self._each(batch, at, some) if run is None else run)
        return parts

    def _run(self, batch: Datagrams, offsets: Sequence[int], length: int) -> Columns | None:
        """Read messages of one layout, at equal distances; None where they are not."""
        layout = self._layouts.get(length)
        first, distance, count = offsets[0], offsets[1] - offsets[0], len(offsets)
        end = first + distance * count
        if distance <= 0 or not _are_equal(offsets, range(first, end, distance)):
            return None
        while layout is not None:
            if layout.run is None:
                return None
            if layout.run.fits(batch.buffer, first, distance, count):
                messages = memoryview(batch.buffer)[first:end]
                stand_ins = (None, 0, batch.at_ns)
                # A third less a message than one at a time.
                return Columns(layout.run, messages, distance, layout.pick_of_run, stand_ins)
            layout = layout.next
        return None

    def _each(
        self,
        batch: Datagrams,
        offsets: Sequence[int],
        lengths: Sequence[int],
    ) -> list[EventTuple]:
        events: list[EventTuple] = []
        append = events.append
        layouts = self._layouts
        buffer = batch.buffer
        stand_ins = (None, 0, batch.at_ns)
        for offset, length in zip(offsets, lengths, strict=False):
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

    def _learn(self, message: bytes) -> _MessageLayout:
        if len(message) < NLMSG_HEADER + NFGENMSG:
            raise MalformedError("shorter than its headers")
        if int.from_bytes(message[:4], "little" if _LITTLE else "big") != len(message):
            raise MalformedError("length is not the header's")
        if what_of(message, 0) not in _KINDS:
            raise MalformedError("not a conntrack message")
        layout = _MessageLayout(message)
        if self._learned < _MAX_LAYOUTS:
            self._learned += 1
            layout.next = self._layouts.get(len(message))
            self._layouts[len(message)] = layout
        return layout


def _are_equal(numbers: Sequence[int], others: range) -> bool:
    """Compare them; two ranges at once."""
    return numbers == others if isinstance(numbers, range) else list(numbers) == list(others)


def events_of(parts: Iterable[Part]) -> list[EventTuple]:
    """Return the events of all parts, in order."""
    events: list[EventTuple] = []
    for part in parts:
        events += part.events() if isinstance(part, Columns) else part
    return events


def what_of(buffer: bytes | bytearray, offset: int) -> int:
    """Return what the message there is: NEW, UPDATE, DESTROY, DUMPED or something unknown."""
    return int.from_bytes(buffer[offset + 4 : offset + 8], "big")


_LITTLE = struct.pack("=H", 1) == struct.pack("<H", 1)
