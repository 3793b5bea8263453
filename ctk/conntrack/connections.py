"""
The table of live connections: what they belonged to when they began, and what was counted.

A connection is known by (id, zone, original tuple): CTA_ID is a hash and can come again. Here it
is one integer, `flow.base | ct_id << 16 | source port`: the flow's base stands for the rest of the
tuples. There may be millions, so one that is idle is a key, a share of a group and, where they
are known, its packed counters: some 400 bytes where each is of a flow of its own, 200 where not.
"""

import struct
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from operator import sub
from typing import Any

from ctk.conntrack.attributes import MalformedError
from ctk.conntrack.tuples import TupleReader
from ctk.model import FlowTuple, LiveConnections, LoneEvent

Counters = tuple[int, int, int, int]  # packets_out, bytes_out, packets_in, bytes_in
FlowKey = tuple[bytes, bytes, int]  # orig, reply, zone, as decode gives them

MOST_FLOWS = 15_000  # remembered, twice: it is a cache of what takes 3 us and 500 bytes each
_EXPORTED_AT_ONCE = 20_000
_OF_FLOW = (1 << 48) - 1  # a key without its flow
_COUNTERS = struct.Struct("=4Q")


class Flow:
    """
    What connections with the same tuples but for the source port have in common.

    `base` is a hash of the tuples, 64 bits wide, so that a flow that was forgotten comes back
    with the same: of a million live flows two share one with a chance of 1 in 37 million.
    """

    __slots__ = ("base", "ends", "group", "tuple")

    def __init__(self, key: FlowKey, flow_tuple: FlowTuple) -> None:
        self.tuple: FlowTuple | None = flow_tuple
        self.base = _base_of(*key)
        self.group: Group | None = None  # that connections beginning now belong to
        self.ends: Any = None  # the recorder's: the tuple as text, which then stands for it


def _base_of(orig: bytes, reply: bytes, zone: int) -> int:
    """`Flow.base`, for 0.6 us where the flow itself would be 3."""
    digest = blake2b(orig + reply, digest_size=8, salt=zone.to_bytes(2, "big"))
    return int.from_bytes(digest.digest(), "big") << 48


class Group:
    """
    Connections of one flow that began within the same second.

    Who they belonged to is asked once for all of them, by when they began; their later events
    come back to it, however long they live.
    """

    __slots__ = ("began_ns", "edge", "flow", "totals")

    def __init__(self, flow: Flow | None, began_ns: int) -> None:
        self.flow = flow  # None once the edge is known
        self.began_ns = began_ns
        self.edge: Any = None  # the recorder's: who they belonged to, or its id in the file
        self.totals: Totals | None = None  # of the open window, where it had events


class Apart:
    """With `--aggregate none`, a group's events themselves."""

    __slots__ = ("lone", "measured")

    def __init__(self) -> None:
        self.lone: list[LoneEvent] = []
        self.measured: list[tuple[int, int, int, Counters]] = []

    def add(self, at_ns: int, port: int, counts: int, moved: Counters | None) -> None:
        """Keep an event, with what moved if that was measured."""
        if moved is None:
            self.lone.append((at_ns, port, counts))
        else:
            self.measured.append((at_ns, port, counts, moved))


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

    def moved(self, now: Counters, before: Counters | None) -> Counters:
        """
        Add what moved since `before`, and return it.

        Counters that went back were zeroed by another tool: what they show moved since.
        """
        self.measured = True
        if before is not None:
            since = tuple(map(sub, now, before))
            if min(since) >= 0:
                now = since
        packets_out, bytes_out, packets_in, bytes_in = now
        self.packets_out += packets_out
        self.bytes_out += bytes_out
        self.packets_in += packets_in
        self.bytes_in += bytes_in
        return now


@dataclass(frozen=True, slots=True, kw_only=True)
class Census:
    """
    How to count what a dump finds for the first time.

    `whole_from_ns`: a connection that started then or later moved all its bytes since, so all are
    counted; an older one's are a baseline. `undated_whole` says which holds without a start time.
    `count_older` is False after a crash: the recording before it counted them.
    """

    whole_from_ns: int
    undated_whole: bool
    count_older: bool = True


class Connections:
    """Live connections by key. Bounded: the kernel's table is, and dumps remove what it lost."""

    def __init__(self, wanted: Callable[[FlowTuple], bool] | None = None) -> None:
        self.live: dict[int, Group] = {}
        # None stands for a flow that a filter does not want.
        self.flows: dict[FlowKey, Flow | None] = {}
        self.malformed = 0
        self.gone: set[int] | None = None  # ended while a dump is under way
        # Taken for older than the recording, for want of a date; True where counted all the same.
        self.undated: dict[int, bool] = {}
        # Older ones that an event told of: what they moved before is in no dump yet.
        self.unmeasured: set[int] = set()
        self.unwanted: set[int] = set()  # taken up, though the filter does not want them now
        self._counted: dict[int, bytes] = {}  # packed, of those whose counters a dump has shown
        self._wanted = wanted
        self._tuples = TupleReader()
        self._older_flows: dict[FlowKey, Flow | None] = {}
        # What the dump under way did not show yet, each under itself: 48 bytes less a connection
        # where its counters stand under the very same object.
        self._unlisted: dict[int, int] = {}
        self._missed: set[int] = set()  # what the last dump did not have
        self._doubtful: set[int] = set()  # what may have ended untold: restored, or missed

    def flow(self, orig: bytes, reply: bytes, zone: int) -> Flow | None:
        """Enter a flow that is not among `flows`; None where it is not wanted or well-formed."""
        key = (orig, reply, zone)
        try:
            flow = self._older_flows[key]
        except KeyError:
            try:
                flow_tuple = self._tuples.read(orig, reply, zone)
            except MalformedError:
                self.malformed += 1
                return None  # not kept: each of them is to be counted
            wanted = self._wanted is None or self._wanted(flow_tuple)
            flow = Flow(key, flow_tuple) if wanted else None
        self.flows[key] = flow
        return flow

    def find(
        self, orig: bytes, reply: bytes, zone: int, of_flow: int
    ) -> tuple[int, Flow | None] | None:
        """
        The key of a connection that a dump shows, and its flow unless it surely lives already.

        None where it is not wanted or well-formed; one that is not wanted, but was taken up from
        a recording that wanted it, is handed on to the next: it is in `unwanted`.
        """
        try:
            flow = self.flows[orig, reply, zone]
        except KeyError:
            # A dump shows all there are: those that are known are not to fill the cache of flows.
            key = _base_of(orig, reply, zone) | of_flow
            if key in self.live and key not in self._doubtful and key not in self.undated:
                return key, None
            flow = self.flow(orig, reply, zone)
        if flow is not None:
            return flow.base | of_flow, flow
        if self._doubtful or self.unwanted:
            key = _base_of(orig, reply, zone) | of_flow
            if key in self.live:
                self.unwanted.add(key)
                return key, None
        return None

    def sweep(self) -> None:
        """Forget flows that had no event for long, where there are many; between batches."""
        if len(self.flows) >= MOST_FLOWS:
            self._older_flows, self.flows = self.flows, {}

    def counted(self, key: int) -> Counters | None:
        """What of a live connection is in the windows so far; None where it was not measured."""
        packed = self._counted.get(key)
        return None if packed is None else _COUNTERS.unpack(packed)

    def count(self, key: int, counters: Counters) -> None:
        """From here on what a connection moved is what it has beyond `counters`."""
        self._counted[key] = _COUNTERS.pack(*counters)

    def uncount(self, key: int) -> Counters | None:
        """The same as `counted`, of a connection that ended."""
        packed = self._counted.pop(key, None) if self._counted else None
        return None if packed is None else _COUNTERS.unpack(packed)

    def begin_census(self) -> None:
        """A dump starts: remember what lives now, and which connections end meanwhile."""
        self._unlisted = dict(zip(self.live, self.live, strict=True))
        self.gone = set()
        self.undated.clear()

    def listed(self, key: int) -> int | None:
        """The dump shows this key; None where its connection ended since, and does not count."""
        if self.gone and key in self.gone:
            return None
        return self._unlisted.pop(key, key)

    def end_census(self) -> int:
        """
        The dump is over: drop what two in a row did not have. Return how many.

        One miss is not enough: the destroy event may still be in the socket, and would be taken
        for a connection never seen.
        """
        missing = self._unlisted.keys() & self.live.keys()  # what began meanwhile is not among them
        ended = missing & self._missed
        for key in ended:
            del self.live[key]
            self._counted.pop(key, None)
            self.unwanted.discard(key)
        self._missed = self._doubtful = missing - ended
        self._unlisted = {}
        self.unmeasured.clear()
        self.gone = None
        return len(ended)

    def goes_on(self, key: int) -> bool:
        """
        Whether a connection that seems to begin while it lives is the one that lives.

        Otherwise its end was missed, and the kernel's id came again; or it was taken for older
        than the recording, and not counted.
        """
        was_counted = self.undated.pop(key, None)
        if was_counted is None and key not in self._doubtful:
            return True
        # Either way all it has moved is still to be counted.
        self._doubtful.discard(key)
        self._counted.pop(key, None)
        return bool(was_counted)

    def export(self) -> Iterator[LiveConnections]:
        """Yield the live connections whose owner is known, for a clean stop to keep."""
        # Packed: 0.3 us a connection, where a row each took 6 us and 150 bytes. Some at a time: all
        # of them grouped were another 250 bytes a connection in memory.
        counted = self._counted
        connections = iter(self.live.items())
        while some := list(islice(connections, _EXPORTED_AT_ONCE)):
            groups: defaultdict[tuple[Group, bool], list[int]] = defaultdict(list)
            for key, group in some:
                if group.edge is not None:
                    groups[group, key in counted].append(key)
            for (group, measured), keys in groups.items():
                yield LiveConnections(
                    (keys[0] >> 48).to_bytes(8, "big"),
                    group.began_ns,
                    group.edge,
                    array("Q", [key & _OF_FLOW for key in keys]).tobytes(),
                    b"".join([counted[key] for key in keys]) if measured else None,
                )

    def restore(self, kept: Iterable[LiveConnections], *, by_port: bool) -> None:
        """Take up what a clean stop kept. `by_port`: each connection is a row of its own."""
        for some in kept:
            base = int.from_bytes(some.flow, "big") << 48
            group = Group(None, some.began_ns)
            group.edge = some.edge
            for n, of_flow in enumerate(array("Q", some.keys)):
                key = base | of_flow
                if by_port:
                    group = Group(None, some.began_ns)
                    group.edge = some.edge
                self.live[key] = group
                if some.counters is not None:
                    self._counted[key] = some.counters[32 * n : 32 * n + 32]
        self._doubtful = set(self.live)
