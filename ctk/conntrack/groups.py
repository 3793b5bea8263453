"""
Flows, the groups of their connections, and what a group did in the open window.

A flow is what connections share when their source port is dropped. Who is behind its addresses may
change, so the connections that began in the same second form a group: the group is attributed once,
by when they began, and every later event of them counts under it, however long they live.
"""

from hashlib import blake2b
from operator import sub
from typing import NamedTuple

from ctk.model import FlowTuple, LoneEvent

FlowKey = tuple[bytes, bytes, int]  # orig, reply and zone, as decode gives them


class Counters(NamedTuple):
    """CTA_COUNTERS_ORIG and CTA_COUNTERS_REPLY of one connection, in the kernel's order."""

    packets_out: int
    bytes_out: int
    packets_in: int
    bytes_in: int


class Flow:
    """
    A flow that connections begin in.

    `base` is a 64-bit hash of its key, shifted past a connection's own bits: a flow that was
    forgotten comes back with the same. Of a million live flows two share one with a chance of 1 in
    37 million.
    """

    __slots__ = ("base", "group", "tuple")

    def __init__(self, key: FlowKey, flow_tuple: FlowTuple) -> None:
        self.base = base_of(*key)
        self.group: Group | None = None  # the one that connections beginning now belong to
        self.tuple = flow_tuple


def base_of(orig: bytes, reply: bytes, zone: int) -> int:
    """Return `Flow.base` in 0.6 us, where making the flow takes 3."""
    digest = blake2b(orig + reply, digest_size=8, salt=zone.to_bytes(2, "big"))
    return int.from_bytes(digest.digest(), "big") << 48


class Group:
    """Connections of one flow that began in the same second."""

    __slots__ = ("began_ns", "edge_id", "flow", "has_ports", "is_older", "totals")

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
        self.has_ports = has_ports if flow is None else flow.tuple.dst_port is not None
        self.is_older = is_older  # than this recording: an earlier one may have attributed it
        self.edge_id: int | None = None  # of the row that says who they belong to
        self.totals: Totals | None = None  # of the open window, where the group had events


class Apart:
    """The events of a group themselves, for `--aggregate none`."""

    __slots__ = ("lone", "measured")

    def __init__(self) -> None:
        self.lone: list[LoneEvent] = []
        self.measured: list[tuple[LoneEvent, Counters]] = []

    def add(self, event: LoneEvent, moved: Counters | None) -> None:
        """Keep an event, with what moved if that was measured."""
        if moved is None:
            self.lone.append(event)
        else:
            self.measured.append((event, moved))


class Totals:
    """What a group did in one window."""

    __slots__ = (
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

    def __init__(self, group: Group, at_ns: int, port: int, apart: Apart | None) -> None:
        self.group = group
        self.apart = apart
        self.port: int | None = port  # the source port; None once there were several
        self.started_ns = self.ended_ns = at_ns
        self.connections = self.new_events = self.update_events = self.destroy_events = 0
        self.unreplied = self.refused = 0
        self.measured = False
        self.packets_out = self.bytes_out = self.packets_in = self.bytes_in = 0

    def add(self, moved: Counters) -> None:
        """Add what moved in one of the group's connections."""
        packets_out, bytes_out, packets_in, bytes_in = moved
        self.measured = True
        self.packets_out += packets_out
        self.bytes_out += bytes_out
        self.packets_in += packets_in
        self.bytes_in += bytes_in


def moved_since(before: Counters | None, now: Counters) -> Counters | None:
    """Return what moved between two looks at a connection's counters; None where they went back."""
    if before is None:
        return now
    moved = Counters(*map(sub, now, before))
    return None if min(moved) < 0 else moved
