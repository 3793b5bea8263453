"""
The values that a recorder works with: flows and who stands behind them, rows, what the kernel sent.

Readers import none of them, which takes 4 ms: `ctk.model` has them, too, by name.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from types import MappingProxyType
from typing import NamedTuple

from ctk.model import Kind, Via

NO_LABELS: Mapping[str, str] = MappingProxyType({})  # one for all that have none


class FlowTuple(NamedTuple):
    """Both tuples of a connection without the source port. Addresses are 4 or 16 bytes."""

    proto: str
    zone: int
    src: bytes
    dst: bytes
    dst_port: int | None  # None for ICMP and protocols without ports
    reply_src: bytes
    reply_src_port: int | None
    reply_dst: bytes


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Endpoint:
    """
    Who was behind an address for a span of time.

    Compared by identity: the same pod with changed labels is another endpoint. `valid_to_ns` is
    None while the interval is open; its end is told by a `Closed`, since a value does not change.
    """

    address: str  # canonical text, as inet_ntop writes it
    kind: Kind
    valid_from_ns: int
    namespace: str | None = None
    name: str | None = None
    workload: str | None = None
    workload_kind: str | None = None
    node: str | None = None
    labels: Mapping[str, str] = field(default_factory=lambda: NO_LABELS)
    uid: str | None = None


# Stand for many strangers, that past a cap are not told apart: b"" in an edge's tuples.
OTHER: Mapping[Kind, Endpoint] = {
    "external": Endpoint(address="other", kind="external", valid_from_ns=0),
    "unknown": Endpoint(address="other", kind="unknown", valid_from_ns=0),
}


class Edge(NamedTuple):
    """
    What all rows of one flow have in common: who dialled what and who answered.

    Hashes by the identity of its endpoints: the same tuples in other hands are another edge.
    """

    flow: FlowTuple
    src: Endpoint
    dialled: Endpoint  # the original tuple's destination: a service's address, say
    backend: Endpoint  # who answered: the reply tuple's source; `dialled` itself without NAT
    service: str | None  # "namespace/name"
    service_via: Via | None
    failed: bool | None = None  # of what is folded, those rows in which a connection failed

    @property
    def nat_src(self) -> str | None:
        """The source after NAT: the reply tuple's destination where it is another address."""
        from ctk.model.addresses import address_text

        flow = self.flow
        return address_text(flow.reply_dst) if flow.reply_dst != flow.src else None

    @property
    def nat_dst_port(self) -> int | None:
        """The backend's port where it is not the dialled one."""
        flow = self.flow
        return flow.reply_src_port if flow.reply_src_port != flow.dst_port else None


class FlowRow(NamedTuple):
    """One row of the finest table. Spans [started_ns, ended_ns], the first and the last event."""

    edge_id: int
    started_ns: int
    ended_ns: int
    src_port: int | None
    connections: int
    new_events: int
    update_events: int
    destroy_events: int
    unreplied: int
    refused: int
    bytes_out: int | None
    packets_out: int | None
    bytes_in: int | None
    packets_in: int | None

    @property
    def counts(self) -> tuple[int | None, ...]:
        """What every rollup sums up: all after the edge, the times and the port."""
        found: tuple[int | None, ...] = _counts(self)
        return found


_counts = itemgetter(slice(FlowRow._fields.index("connections"), None))


class Datagrams(NamedTuple):
    """
    What one wake-up read: conntrack messages, as the kernel sent them.

    Each of `offsets` is where a netlink header starts in `buffer`; `lengths` go with it. A dump's
    multipart datagrams are already split into their messages. The buffer is used again for the
    next batch.
    """

    at_ns: int  # wall clock when they were read
    dumped: bool  # an answer to a dump, not an event
    buffer: bytearray
    offsets: Sequence[int]
    lengths: Sequence[int]


# What a kernel event counts as that is a row of its own (`--aggregate none`).
COUNTS_CONNECTION, COUNTS_NEW, COUNTS_UPDATE, COUNTS_DESTROY = 1, 2, 4, 8
COUNTS_UNREPLIED, COUNTS_REFUSED = 16, 32
# The count of a row that each bit is one of; the lowest bit first.
LONE_COUNTS = (
    "connections",
    "new_events",
    "update_events",
    "destroy_events",
    "unreplied",
    "refused",
)


def counts_of(bits: int) -> list[int]:
    """Give a lone event's counts, in the order of LONE_COUNTS."""
    return [bits >> at & 1 for at in range(len(LONE_COUNTS))]


class EventCounts(NamedTuple):
    """What a recording has seen since it started, in kernel events."""

    events: int = 0
    lost: int = 0
    malformed: int = 0


class IdleConnections(NamedTuple):
    """Live connections that have moved nothing for long, as of a time."""

    at_ns: int
    # By edge: source port, when it began, when it last moved anything, and the bytes so far.
    by_edge: Mapping[int, Sequence[tuple[int, int, int, int]]]
    more: int  # idle ones that are left out, for there are too many
    unmeasured: int  # of which nothing tells: the kernel does not count what they move


class Previous(NamedTuple):
    """The recording before this one in the same file, by the same node."""

    started_ns: int
    committed_ns: int  # the end of its last window in the file
    ended_ns: int | None  # None after a crash
    boot_id: str | None
    told_ns: int | None = None  # up to when pods were known, by it or by one before
    watched_ns: int | None = None  # and since when all of them, where the file tells
    kept_nothing: bool = False  # its end is in the file, but for want of room not what lived then
