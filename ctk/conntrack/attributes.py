"""
Netlink attributes as conntrack nests them: the kernel's names, and the walk over them.

`decode` learns the layouts of messages from the walk, `tuples` those of a connection's two tuples.
`filters` writes programs with which the kernel walks the same paths.
"""

import struct
from collections.abc import Iterator
from typing import cast

# linux/netlink.h, linux/netfilter/nfnetlink_conntrack.h
NLMSG_HEADER = 16  # bytes of struct nlmsghdr
NFGENMSG = 4  # bytes of struct nfgenmsg behind it: family, version, resource id
NLATTR = struct.Struct("=HH")  # struct nlattr, an attribute's header: size and type
NLA_TYPE_MASK = 0x3FFF  # without NLA_F_NESTED and NLA_F_NET_BYTEORDER
AF_INET, AF_INET6 = 2, 10

CTA_TUPLE_ORIG = 1
CTA_TUPLE_REPLY = 2
CTA_STATUS = 3
CTA_PROTOINFO = 4
CTA_COUNTERS_ORIG = 9
CTA_COUNTERS_REPLY = 10
CTA_ID = 12
CTA_ZONE = 18
CTA_TIMESTAMP = 20
CTA_TIMESTAMP_EVENT = 27  # since 6.14
CTA_TUPLE_IP = 1
CTA_TUPLE_PROTO = 2
CTA_TUPLE_ZONE = 3
CTA_IP_V4_SRC, CTA_IP_V4_DST, CTA_IP_V6_SRC, CTA_IP_V6_DST = 1, 2, 3, 4
CTA_PROTO_NUM = 1
CTA_PROTO_SRC_PORT = 2
CTA_PROTO_DST_PORT = 3
CTA_PROTO_ICMP_ID = 4
CTA_PROTO_ICMPV6_ID = 7
CTA_PROTOINFO_TCP = 1
CTA_PROTOINFO_TCP_STATE = 1
CTA_COUNTERS_PACKETS = 1
CTA_COUNTERS_BYTES = 2
CTA_TIMESTAMP_START = 1
CTA_TIMESTAMP_STOP = 2

_MAX_ATTRIBUTES = 128  # of one message; the kernel writes fewer

AttributePath = tuple[int, ...]  # of attribute types, the outermost first
Attribute = tuple[AttributePath, int, int]  # where its value is: path, offset, size
# Attributes that hold attributes, by their path.
_NESTED: frozenset[AttributePath] = frozenset(
    [
        (CTA_TUPLE_ORIG,),
        (CTA_TUPLE_ORIG, CTA_TUPLE_IP),
        (CTA_TUPLE_ORIG, CTA_TUPLE_PROTO),
        (CTA_TUPLE_REPLY,),
        (CTA_TUPLE_REPLY, CTA_TUPLE_IP),
        (CTA_TUPLE_REPLY, CTA_TUPLE_PROTO),
        (CTA_PROTOINFO,),
        (CTA_PROTOINFO, CTA_PROTOINFO_TCP),
        (CTA_COUNTERS_ORIG,),
        (CTA_COUNTERS_REPLY,),
        (CTA_TIMESTAMP,),
    ]
)


class MalformedError(ValueError):
    """A datagram that is not a conntrack message as the kernel writes them."""


def header(data: bytes, at: int) -> tuple[int, int]:
    """Return the attribute's size, its header counted, and its type with the flags."""
    return cast(tuple[int, int], NLATTR.unpack_from(data, at))


def aligned(size: int) -> int:
    """Return the distance from an attribute's begin to that of the next one."""
    return (size + 3) & ~3


def walk(data: bytes, start: int) -> Iterator[Attribute]:
    """
    Yield path, offset and size of each attribute's value, a nest before what is in it.

    MalformedError where attributes do not fit into each other, or are too many.
    """
    todo: list[tuple[AttributePath, int, int]] = [((), start, len(data))]
    seen = 0
    while todo:
        parent, at, end = todo.pop()
        while at < end:
            seen += 1
            if at + 4 > end or seen > _MAX_ATTRIBUTES:
                raise MalformedError("attributes do not fit")
            size, kind = header(data, at)
            if size < 4 or at + size > end:
                raise MalformedError("an attribute does not fit")
            path = (*parent, kind & NLA_TYPE_MASK)
            yield path, at + 4, size - 4
            if path in _NESTED:
                todo.append((path, at + 4, at + size))
            at += aligned(size)


_OWN_PORT = frozenset((CTA_PROTO_SRC_PORT, CTA_PROTO_ICMP_ID, CTA_PROTO_ICMPV6_ID))
_REPLY_PORT = frozenset((CTA_PROTO_DST_PORT, CTA_PROTO_ICMP_ID, CTA_PROTO_ICMPV6_ID))


def port_gaps(message: bytes) -> tuple[int, int, int]:
    """
    Return where `orig` ends, and where `reply` starts and ends.

    Between the two stands the source port (or the ICMP id), and behind `reply` that of the reply
    tuple. `tuples` puts zeros in both places before it walks them.
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
        # Something stands behind the reply's ports (a zone of the reply direction). `reply` then
        # has all of it and the port, so each connection is a flow of its own.
        reply_end = end
    return orig_end, reply_start, reply_end


def _sized(message: bytes, at: int, kind: int) -> int:
    if at + 4 > len(message):
        raise MalformedError("a tuple is missing")
    size, found = header(message, at)
    if found & NLA_TYPE_MASK != kind or size < 4 or at + aligned(size) > len(message):
        raise MalformedError("a tuple is missing")
    return aligned(size)
