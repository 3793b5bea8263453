"""
Tuples read by learned layouts, as decode reads messages: 1.5 us a flow instead of 15.

Where every connection is a flow of its own, as in a scan, this is a third of what they cost.
"""

from collections import defaultdict

from ctk.conntrack.decode import (
    CTA_IP_V4_DST,
    CTA_IP_V4_SRC,
    CTA_IP_V6_DST,
    CTA_IP_V6_SRC,
    CTA_PROTO_DST_PORT,
    CTA_PROTO_SRC_PORT,
    CTA_TUPLE_IP,
    CTA_TUPLE_ORIG,
    CTA_TUPLE_PROTO,
    CTA_TUPLE_REPLY,
    CTA_TUPLE_ZONE,
    FlowTuple,
    tuple_places,
)

_MOST_LAYOUTS = 64  # one a family and protocol, and an ICMP type; past it FlowTuple.parse reads


class _Layout:
    """Where addresses and ports are in tuples of one shape; all else is the template."""

    __slots__ = ("_addresses", "_ports", "_proto", "mask", "template")

    def __init__(self, opening: bytes, answering: bytes, like: FlowTuple) -> None:
        whole, places = tuple_places(opening, answering)
        tuples = opening + answering

        def place(*path: int) -> slice:
            at, size = places[path]
            if at >= len(opening) and whole != tuples:
                at -= 4  # the source port, which was left out
            return slice(at, at + size)

        src, dst = CTA_IP_V4_SRC, CTA_IP_V4_DST
        if len(like.src) == 16:
            src, dst = CTA_IP_V6_SRC, CTA_IP_V6_DST
        self._proto = like.proto
        self._addresses = [
            place(tuple_, CTA_TUPLE_IP, side)
            for tuple_ in (CTA_TUPLE_ORIG, CTA_TUPLE_REPLY)
            for side in (src, dst)
        ]
        self._ports: list[slice] = []
        if like.dst_port is not None:
            self._ports = [
                place(CTA_TUPLE_ORIG, CTA_TUPLE_PROTO, CTA_PROTO_DST_PORT),
                place(CTA_TUPLE_REPLY, CTA_TUPLE_PROTO, CTA_PROTO_SRC_PORT),
            ]
        mask = bytearray(b"\xff" * len(tuples))
        for value in self._addresses + self._ports:
            mask[value] = bytes(value.stop - value.start)
        self.mask = int.from_bytes(mask, "big")
        self.template = int.from_bytes(tuples, "big") & self.mask

    def read(self, tuples: bytes, zone: int) -> FlowTuple:
        src, dst, reply_src, reply_dst = [tuples[place] for place in self._addresses]
        dst_port = reply_src_port = None
        if self._ports:
            dst_port, reply_src_port = [int.from_bytes(tuples[at], "big") for at in self._ports]
        return FlowTuple(
            self._proto, zone, src, dst, dst_port, reply_src, reply_src_port, reply_dst
        )


class TupleReader:
    """`FlowTuple.parse`, with a memory for the layouts it has met."""

    def __init__(self) -> None:
        self._layouts: defaultdict[tuple[int, int], list[_Layout]] = defaultdict(list)
        self._learned = 0

    def read(self, opening: bytes, answering: bytes, zone: int) -> FlowTuple:
        """Read what an event holds of its flow; MalformedError where its headers do not fit."""
        tuples = opening + answering
        number = int.from_bytes(tuples, "big")
        shape = (len(opening), len(answering))
        for layout in self._layouts.get(shape, ()):
            if number & layout.mask == layout.template:
                return layout.read(tuples, zone)
        flow = FlowTuple.parse(opening, answering, zone)
        if self._learned < _MOST_LAYOUTS and _is_plain(opening, answering, flow):
            self._learned += 1
            self._layouts[shape].append(_Layout(opening, answering, flow))
        return flow


def _is_plain(opening: bytes, answering: bytes, flow: FlowTuple) -> bool:
    """Without a zone of one direction, or a port in one tuple only: such are rare, not learned."""
    if (flow.dst_port is None) != (flow.reply_src_port is None):
        return False
    _, places = tuple_places(opening, answering)
    return not any(path[1:] == (CTA_TUPLE_ZONE,) for path in places)
