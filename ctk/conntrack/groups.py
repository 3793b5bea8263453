"""
Flows, the groups of their connections, and what a group did in the open window.

A flow is what connections share when their source port is dropped. Who is behind its addresses may
change, so the connections that began in the same second form a group: the group is attributed once,
by when they began, and every later event of them counts under it, however long they live.

Flows of strangers, whose address nobody in the cluster has, can be folded (strangers.py): many of
them, with the strangers' addresses cut out, are one `Other`, which has groups of its own.
"""

from collections.abc import Callable, Iterable
from hashlib import blake2b
from operator import sub
from typing import NamedTuple

from ctk.model import FlowTuple, Kind
from ctk.model.distinct import Distinct
from ctk.model.kept import LiveConnections, Sides

# orig, reply and zone, as decode gives them. A zone has 16 bits: what else is to tell flows apart,
# a mark say, may stand above them. decode puts it there, tuples takes it out, and nobody in between
# looks. It may change while a connection lives, so `base_of` leaves it out: a connection counts
# under what it was first seen with.
FlowKey = tuple[bytes, bytes, int]
ZONE_MASK = (1 << 16) - 1


class Counters(NamedTuple):
    """CTA_COUNTERS_ORIG and CTA_COUNTERS_REPLY of one connection, in the kernel's order."""

    packets_out: int
    bytes_out: int
    packets_in: int
    bytes_in: int


NOTHING = Counters(0, 0, 0, 0)


class Flow:
    """
    A flow that connections begin in.

    `base` is a 64-bit hash of its tuples and zone, shifted past a connection's own bits: a flow
    that was forgotten comes back with the same. Of a million live flows two share one with a chance
    of 1 in 37 million. `other` is what it may be folded into, where a side of it is a stranger; it
    was looked up for this flow last. `tuple` is read when somebody asks: of a flood nobody does.
    """

    __slots__ = ("_key", "_read", "_tuple", "base", "ends", "group", "other")

    def __init__(
        self,
        key: FlowKey,
        read: Callable[[bytes, bytes, int], FlowTuple],
        other: "Other | None" = None,
    ) -> None:
        self._key = key
        self._read = read
        self._tuple: FlowTuple | None = None
        self.base: int = base_of(*key) if other is None else other.base
        self.group: Group | None = None  # the one that connections beginning now belong to
        self.other = other
        self.ends: Ends | None = None if other is None else other.ends

    @property
    def identity(self) -> int:
        """What tells it from every other flow; what stands above its zone is not in `base`."""
        return self.base | self._key[2]

    @property
    def tuple(self) -> FlowTuple:
        if self._tuple is None:
            self._tuple = self._read(*self._key)
        return self._tuple


# The addresses of a flow: who dialled, what was dialled, and who answered; of those that are known,
# any. A plain tuple: one is made for each event of a flood, and a NamedTuple takes three times as
# long.
Ends = tuple[bytes, bytes, bytes]
MOST_WAITING = 128  # of them, to be counted
StrangerKinds = tuple[Kind | None, Kind | None, Kind | None]  # of Ends; None for those known
NO_STRANGERS: StrangerKinds = (None, None, None)


class Other(Flow):
    """
    What is left of many flows without the addresses of their strangers.

    Its tuples have b"" there. `base` and `ends` are those of the flow that was looked up last: a
    flow that is folded is no object of its own. `as_of` is what was known of the cluster then.
    """

    __slots__ = ("as_of", "kinds", "sides")

    def __init__(self, flow_tuple: FlowTuple, kinds: StrangerKinds, as_of: int) -> None:
        self._key = (b"", b"", 0)
        self.base = 0
        self.group = None
        self._tuple = flow_tuple
        self.other = None
        self.kinds = kinds
        self.as_of = as_of
        self.sides = Sides(*(kind is not None for kind in kinds))
        self.ends = (b"", b"", b"")


def base_of(orig: bytes, reply: bytes, zone: int) -> int:
    """Return `Flow.base`, in 0.6 us."""
    if zone:
        digest = blake2b(orig + reply, digest_size=8, salt=(zone & ZONE_MASK).to_bytes(2, "big"))
    else:
        digest = blake2b(orig + reply, digest_size=8)
    return int.from_bytes(digest.digest(), "big") << 48


class Group:
    """Connections of one flow that began in the same second."""

    __slots__ = (
        "_has_ports",
        "began_ns",
        "edge_id",
        "ends",
        "flow",
        "folded",
        "into",
        "is_older",
        "other",
        "totals",
        "waits",
    )

    def __init__(
        self,
        flow: Flow | None,
        began_ns: int,
        *,
        has_ports: bool = True,
        is_older: bool = False,
    ) -> None:
        self.flow = flow  # None once its edge is in the file: 300 bytes less a live connection
        self.began_ns = began_ns
        self._has_ports = has_ports
        self.is_older = is_older  # than this recording: an earlier one may have attributed it
        self.edge_id: int | None = None  # of the row that says who they belong to
        self.totals: Totals | None = None  # of the open window, where the group had events
        # What it may be folded into where it is of strangers, and who they are.
        self.other: Other | None = None if flow is None else flow.other
        self.ends: Ends | None = None if flow is None or flow.other is None else flow.ends
        self.folded = False  # whether its connections count under `into`, or it is one of those
        self.into: FoldedGroup | None = None
        self.waits = False  # whether a window with it was handed over, and its edge is not written

    @property
    def has_ports(self) -> bool:
        flow = self.flow
        return self._has_ports if flow is None else flow.tuple.dst_port is not None

    def forget_flow(self) -> None:
        """Its edge is in the file, and is all that is needed from now on."""
        self._has_ports = self.has_ports
        self.flow = None
        self.waits = False


class RestoredGroup(Group):
    """Connections of one flow that the last recording kept, and which sides were strangers."""

    __slots__ = ("_strangers",)

    def __init__(self, kept: LiveConnections) -> None:
        super().__init__(None, kept.began_ns, has_ports=kept.has_ports)
        self._strangers = kept.strangers
        self.edge_id = kept.edge_id

    def recognise(self, flow: Flow) -> None:
        """
        Take note of a flow that a dump lists it in: what it may be folded into.

        Where its sides are the strangers that they were: an address may have been a pod's then.
        """
        if flow.other is not None and flow.other.kinds == self._strangers:
            self.other, self.ends = flow.other, flow.ends


class FoldedGroup(Group):
    """
    Connections of one `Other` that began in the same second.

    What failed of them stands apart, in `failures`: a group that no connection is in.
    """

    __slots__ = ("_failures", "failed", "failures_of", "sides")

    def __init__(
        self, other: Other | None, sides: Sides, began_ns: int, *, has_ports: bool = True
    ) -> None:
        super().__init__(other, began_ns, has_ports=has_ports)
        self.folded = True
        self.sides = sides
        self.failed = False  # whether it is the `failures` of another
        self.failures_of: int | None = None  # the edge of the other, where it has no flow
        self._failures: FoldedGroup | None = None

    @property
    def failures(self) -> "FoldedGroup":
        if self._failures is None:
            other = self.flow if isinstance(self.flow, Other) else None
            made = FoldedGroup(other, self.sides, self.began_ns, has_ports=self.has_ports)
            made.failed = True
            if other is None:  # taken up from the file: its edge says what it is
                made.failures_of = self.edge_id
            self._failures = made
        return self._failures


class MeasuredEvent(NamedTuple):
    """An event that is a row of its own, with what moved; `counts` are bits COUNTS_*."""

    at_ns: int
    port: int
    counts: int
    moved: Counters


class Addresses:
    """How many addresses of strangers a folded group had events of in one window."""

    __slots__ = ("_dst", "_of_backend", "_src", "waiting")

    def __init__(self, sides: Sides) -> None:
        self._src = Distinct() if sides.src else None
        self._dst = Distinct() if sides.dialled or sides.backend else None
        self._of_backend = not sides.dialled
        self.waiting: set[Ends] = set()  # to be counted, many at once

    def add(self, ends: Ends) -> None:
        self.waiting.add(ends)
        if len(self.waiting) >= MOST_WAITING:
            self.count_waiting()

    def update(self, addresses: Iterable[bytes]) -> None:
        """Count many at once, where strangers are on one side only."""
        distinct = self._dst if self._src is None else self._src
        assert distinct is not None
        distinct.update(addresses)

    def count_waiting(self) -> None:
        if self._src is not None:
            self._src.update([ends[0] for ends in self.waiting])
        if self._dst is not None:
            side = 2 if self._of_backend else 1
            self._dst.update([ends[side] for ends in self.waiting])
        self.waiting.clear()

    @property
    def src(self) -> Distinct | None:
        self.count_waiting()
        return self._src

    @property
    def dst(self) -> Distinct | None:
        self.count_waiting()
        return self._dst

    def merge(self, other: "Addresses") -> None:
        """Count those of the same sides, too."""
        for mine, its in ((self.src, other.src), (self.dst, other.dst)):
            if mine is not None and its is not None:
                mine.merge(its)


class Totals:
    """What a group did in one window."""

    __slots__ = (
        "addresses",
        "apart",
        "bytes_in",
        "bytes_out",
        "connections",
        "destroy_events",
        "ended_ns",
        "group",
        "measured",
        "new_events",
        "packets_in",
        "packets_out",
        "port",
        "refused",
        "started_ns",
        "unreplied",
        "update_events",
    )

    def __init__(self, group: Group, at_ns: int, port: int, *, apart: bool = False) -> None:
        self.group = group
        # For `--aggregate none` its events with counters; those without stand in LoneEvents.
        self.apart: list[MeasuredEvent] | None = [] if apart else None
        self.addresses = Addresses(group.sides) if isinstance(group, FoldedGroup) else None
        self.port: int | None = port  # the source port; None once there were several
        self.started_ns = self.ended_ns = at_ns
        self.connections = self.new_events = self.update_events = self.destroy_events = 0
        self.unreplied = self.refused = 0
        self.measured = False
        self.packets_out = self.bytes_out = self.packets_in = self.bytes_in = 0

    def see(self, at_ns: int) -> None:
        """Take note of when an event was, but for an end: they need not come in that order."""
        if at_ns > self.ended_ns:
            self.ended_ns = at_ns
        elif at_ns < self.started_ns:
            self.started_ns = at_ns

    def add(self, moved: Counters) -> None:
        """Add what moved in one of the group's connections."""
        packets_out, bytes_out, packets_in, bytes_in = moved
        self.measured = True
        self.packets_out += packets_out
        self.bytes_out += bytes_out
        self.packets_in += packets_in
        self.bytes_in += bytes_in

    def take(self, other: "Totals") -> None:
        """Add what another group did in the same window."""
        self.started_ns = min(self.started_ns, other.started_ns)
        self.ended_ns = max(self.ended_ns, other.ended_ns)
        if self.port != other.port:
            self.port = None
        self.connections += other.connections
        self.new_events += other.new_events
        self.update_events += other.update_events
        self.destroy_events += other.destroy_events
        self.unreplied += other.unreplied
        self.refused += other.refused
        if other.measured:
            moved = other.packets_out, other.bytes_out, other.packets_in, other.bytes_in
            self.add(Counters(*moved))


def moved_since(before: Counters | None, now: Counters) -> Counters | None:
    """Return what moved between two looks at a connection's counters; None where they went back."""
    if before is None:
        return now
    if before == now:  # as most of what a flood leaves behind
        return NOTHING
    moved = Counters(*map(sub, now, before))
    return None if min(moved) < 0 else moved
