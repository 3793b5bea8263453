"""
What the kernel counts of its table: `conntrack -S`, of this network namespace.

IPCTNL_MSG_CT_GET_STATS_CPU answers with a message for each processor, of 32-bit counters that go on
from 0 past their end. Those that a kernel no longer counts are left out by it.
(linux/netfilter/nfnetlink_conntrack.h)
"""

import socket
import struct
from collections.abc import Mapping

from ctk.conntrack import netlink
from ctk.conntrack.attributes import NLMSG_HEADER, aligned, header
from ctk.model.tableuse import TableCounters

_IPCTNL_MSG_CT_GET_STATS_CPU = 0x104  # NFNL_SUBSYS_CTNETLINK << 8 | 4
_NFGENMSG = struct.Struct(">BBH")  # family, version, the number of the processor
_CTA_STATS = {  # enum ctattr_stats_cpu
    "found": 2,
    "invalid": 4,
    "inserted": 8,
    "insert_failed": 9,
    "dropped": 10,
    "early_dropped": 11,
    "errors": 12,
    "search_restarts": 13,
    "clash_resolved": 14,
    "chain_too_long": 15,
}
_ATTRIBUTES = tuple(_CTA_STATS[name] for name in TableCounters._fields)
_U32 = struct.Struct(">I")
_NLA_TYPE_MASK = 0x3FFF
_WRAP = (1 << 32) - 1

Counted = Mapping[int, TableCounters]  # by processor


def read() -> Counted:
    """Ask for the counters of all processors; a SourceError where that is refused."""
    request = _NFGENMSG.pack(socket.AF_UNSPEC, 0, 0)
    found = {}
    for answer in netlink.dump(
        netlink.NETLINK_NETFILTER,
        _IPCTNL_MSG_CT_GET_STATS_CPU,
        request,
        "reading the counters of conntrack",
    ):
        for offset, length in zip(answer.offsets, answer.lengths, strict=True):
            cpu, counters = of_message(bytes(answer.buffer[offset : offset + length]))
            found[cpu] = counters
    return found


def of_message(message: bytes) -> tuple[int, TableCounters]:
    """Read the number of a processor and its counters; 0 for what this kernel does not count."""
    _, _, cpu = _NFGENMSG.unpack_from(message, NLMSG_HEADER)
    at = NLMSG_HEADER + _NFGENMSG.size
    values: dict[int, int] = {}
    while at + 4 <= len(message):
        size, kind = header(message, at)
        if size < 4:
            break
        if size == 8 and at + size <= len(message):
            (values[kind & _NLA_TYPE_MASK],) = _U32.unpack_from(message, at + 4)
        at += aligned(size)
    return cpu, TableCounters._make(values.get(each, 0) for each in _ATTRIBUTES)


def grown(before: Counted, now: Counted) -> TableCounters:
    """Sum up by how much the counters grew: less than 2**32 each, by processor."""
    zero = TableCounters(*(0,) * len(_ATTRIBUTES))
    each = (
        [(new - old) & _WRAP for old, new in zip(before.get(cpu, zero), counters, strict=True)]
        for cpu, counters in now.items()
    )
    return TableCounters._make(map(sum, zip(*each, strict=True))) if now else zero


def total(counted: Counted) -> TableCounters:
    """Sum up all processors: since the namespace was made, but for what went past the end."""
    return grown({}, counted)
