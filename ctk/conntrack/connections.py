"""
The table of live connections, and what events and dumps do to it.

A connection is known by (id, zone, original tuple), since CTA_ID is a hash that can come again.
Here it is one integer, its key: `flow.base | ct_id << 16 | source port`. What stands in `live`
lives. Most connections are just that; the few of which more must be known have a state besides.

    state      | new event        | update | destroy    | listed by a dump    | missing in a dump
    -----------|------------------|--------|------------|---------------------|------------------
    (unknown)  | live, counted    | found  | found, end | found               | -
    (live)     | it is the same:  | live   | end        | live                | MISSED
               | a dump was first |        |            |                     |
    MISSED     | another: live,   | MISSED | end        | live                | end, untold
               | counted          |        |            |                     |
    RESTORED   | another: live,   | stays  | end        | live; another where | MISSED
               | counted          |        |            | it started since    |
    OLDER      | began here after | OLDER  | end        | live                | MISSED
               | all: counted now |        |            |                     |
    UNMEASURED | (with OLDER)     | stays  | end, bytes | live, counters are  | MISSED
               |                  |        | not known  | its baseline        |
    UNDATED    | it is the same   | stays  | end; it    | live; it says when  | MISSED
               |                  |        | says when  | that began          |
    UNWANTED   | -                | -      | -          | UNWANTED, handed on | MISSED

"found" is a first sight without a new event: `Baseline` says how it counts. "end, untold" is
the second dump in a row without it: after one the destroy event may still wait in the socket, and
would be taken for that of a connection never seen. A dump is ahead of the events: what it lists
with lower counters, or as begun later, may be another, which is told when it ends. OLDER lasts
until the next dump begins: by then a new event that was queued when the dump ran has been read.
"""

import struct
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

from ctk.conntrack.attributes import MalformedError
from ctk.conntrack.decode import EventTuple
from ctk.conntrack.groups import (
    NOTHING,
    Counters,
    Ends,
    Flow,
    FlowKey,
    FoldedGroup,
    Group,
    Other,
    RestoredGroup,
    base_of,
    moved_since,
)
from ctk.conntrack.outcome import AT, ORIG, REPLY, ZONE, four_of
from ctk.conntrack.packing import packed
from ctk.conntrack.strangers import Strangers
from ctk.conntrack.tuples import TupleReader
from ctk.conntrack.unlisted import Unlisted
from ctk.model import FlowTuple
from ctk.model.kept import LiveConnections

RESTORED = 1  # taken up from the file after a clean stop, and not listed by a dump yet
MISSED = 2  # the last dump did not list it
OLDER = 4  # found without a start time, and taken for older than the recording
UNCOUNTED = 8  # OLDER, and not counted as a connection
UNMEASURED = 16  # an event told of an older one: what it moved before is in no dump yet
UNWANTED = 32  # restored, though the filter does not want it now: it is kept for the next recording
UNDATED = 64  # found by an update, which does not tell when it began
UNDATED_UNCOUNTED = 128  # and not counted as a connection
_MAY_HAVE_ENDED = RESTORED | MISSED
_UNTIL_NEXT_DUMP = OLDER | UNCOUNTED

MOST_FLOWS = 15_000  # remembered, twice: it is a cache of what takes 3 us and 500 bytes each
_EXPORTED_AT_ONCE = 50_000
# What is counted, and when it last grew: the time takes no memory beyond the four counters.
_PACKED = struct.Struct("=4Qq")
_FOUR = struct.Struct("=4Q")
FourCounters = tuple[int, int, int, int]  # Counters, as an event has them


class Connections:
    """
    Live connections by key. Bounded: the kernel's table is, and dumps remove what it lost.

    One that is idle takes some 400 bytes where it is of a flow of its own, 200 where not.
    """

    def __init__(
        self,
        wanted: Callable[[FlowTuple], bool] | None = None,
        strangers: Strangers | None = None,
    ) -> None:
        self.strangers = strangers  # None where none of their flows is folded
        self.live: dict[int, Group] = {}
        self.states: dict[int, int] = {}  # of those that have one
        # None stands for a flow that the filter does not want.
        self.flows: dict[FlowKey, Flow | None] = {}
        self.malformed = 0
        self.ended: set[int] | None = None  # while a dump is under way: it may list them yet
        self._counters: dict[int, bytes] = {}  # packed, as the windows have counted them so far
        self._wanted = wanted
        self.filters = wanted is not None
        self._tuples = TupleReader() if strangers is None else strangers.tuples
        self._older_flows: dict[FlowKey, Flow | None] = {}
        self._unlisted = Unlisted()  # by the dump under way
        self._missed_ns = 0  # when the dump was over that did not list those that are MISSED

    # Flows.

    def flow(self, orig: bytes, reply: bytes, zone: int, of_flow: int = 0) -> Flow | None:
        """
        Enter a flow that is not among `flows`; None where it is not wanted or well-formed.

        A flow that is folded is not entered: it is the `Other` that it is folded into. `of_flow`
        are the bits of a key that are the connection's own.
        """
        key = (orig, reply, zone)
        # Asked for each event of a flood: what is empty is not looked into.
        older = self._older_flows
        if older and key in older:
            flow = self.flows[key] = older[key]
            return flow
        if self._wanted and key in self.flows:
            return self.flows[key]
        other = None
        if self.strangers is not None:
            other = self.strangers.other_of(orig, reply, zone)
            if other is not None:
                group = self.live.get(other.base | of_flow)
                # It was folded before, or is now.
                folded = self.strangers.full if group is None else group.folded
                if folded and self._wanted is not None:
                    folded = self._wanted(self._tuples.read(*key))  # 3 us more
                if folded and (group is not None or self.strangers.is_folded_at_once(other)):
                    return other
        return self.enter(key, other)

    def ends(self, orig: bytes, reply: bytes, zone: int) -> Ends:
        """Return the addresses in a well-formed flow's tuples."""
        return self._tuples.ends(orig, reply, zone)

    def enter(self, key: FlowKey, other: Other | None) -> Flow | None:
        """Enter a flow, whatever it may be folded into: `other` was looked up for it."""
        flow = Flow(key, self._tuples.read, other)
        if other is None or self._wanted is not None:
            try:
                flow_tuple = flow.tuple
            except MalformedError:
                self.malformed += 1
                return None  # not kept: each of them is to be counted
            if self._wanted is not None and not self._wanted(flow_tuple):
                self.flows[key] = None
                return None
        self.flows[key] = flow
        return flow

    def own_flow(self, flow: Flow, orig: bytes, reply: bytes, zone: int) -> Flow:
        """Return a flow of its own for one that may be folded, and is well-formed."""
        if not isinstance(flow, Other):
            return flow
        return self.enter((orig, reply, zone), flow) or flow

    def counted_under(self, group: Group, key: FlowKey, moved: Counters | None) -> Group:
        """Say where a folded connection of a flow counts that moved so much: it may stand out."""
        folded = group.into or group
        if moved is None or self.strangers is None or not self.strangers.stands_out(moved):
            return folded
        flow = self.enter(key, self.strangers.other_of(*key))
        return folded if flow is None else Group(flow, group.began_ns)

    def forget_idle_flows(self) -> None:
        """Forget flows that had no event for long, where there are many; between batches."""
        if len(self.flows) >= MOST_FLOWS:
            self._older_flows, self.flows = self.flows, {}

    def are_unknown(self, keys: Sequence[int], events: Sequence[EventTuple]) -> Sequence[bool]:
        """Say of each event whether neither its connection, by its key, nor its flow is known."""
        live, flows, older = self.live, self.flows, self._older_flows
        flow_keys = [(event[ORIG], event[REPLY], event[ZONE]) for event in events]
        return [
            key not in live and flow not in flows and flow not in older
            for key, flow in zip(keys, flow_keys, strict=True)
        ]

    # What was counted.

    def counters(self, key: int) -> Counters | None:
        """What of a live connection is in the windows so far; None where it was not measured."""
        packed = self._counters.get(key)
        return None if packed is None else Counters(*_PACKED.unpack(packed)[:4])

    def moved(self, key: int) -> tuple[Counters, int] | None:
        """What of a live connection was counted, and when it was last seen to move anything."""
        packed = self._counters.get(key)
        if packed is None:
            return None
        *counters, moved_ns = _PACKED.unpack(packed)
        return Counters(*counters), moved_ns

    def is_counted(self, key: int, counters: Sequence[int | None]) -> bool:
        """Say whether all that a connection moved is in the windows; in a third of the time."""
        packed = self._counters.get(key)
        if packed is None or None in counters:
            return packed is None and counters[0] is None
        return packed.startswith(_FOUR.pack(*counters))

    def packed(self, keys: Sequence[int]) -> Sequence[bytes | None]:
        """What of live connections is in the windows so far, for `moved_from`."""
        return list(map(self._counters.get, keys))

    def count(self, key: int, counters: Counters, at_ns: int) -> None:
        """From here on what a connection moved is what it has beyond `counters`."""
        self._counters[key] = _PACKED.pack(*counters, at_ns)

    def count_events(self, keys: Sequence[int], events: Sequence[EventTuple]) -> None:
        """Do so with the counters of several events: those that are alike share their bytes."""
        packed = b""
        for key, event in zip(keys, events, strict=True):
            now = _PACKED.pack(*four_of(event), event[AT])
            if now != packed:
                packed = now
            self._counters[key] = packed

    # Events. The hot loop in `aggregate` does the plain cases itself.

    def is_same(self, key: int, at_ns: int | None = None) -> bool:
        """
        Say whether a connection that seems to begin while it lives is the one that lives.

        Otherwise all it has moved is still to be counted: its end was missed and the kernel's id
        came again, or it was taken for older than the recording and not counted. `at_ns` is when
        its event says that it began.
        """
        state = self.states.get(key, 0)
        if not state & (_MAY_HAVE_ENDED | OLDER):
            return True
        if state & MISSED and at_ns is not None and at_ns < self._missed_ns:
            return True  # a dump found it, and it was over before its event was read
        self.clear_state(key, ~UNWANTED)
        self._counters.pop(key, None)
        return bool(state & OLDER) and not state & UNCOUNTED

    def end(self, key: int) -> tuple[int, Counters | None]:
        """Drop what is kept of a connection that ended: its state, and what was counted of it."""
        packed = self._counters.pop(key, None) if self._counters else None
        state = self.states.pop(key, 0) if self.states else 0
        return state, None if packed is None else Counters(*_PACKED.unpack(packed)[:4])

    def drop(self, keys: Sequence[int]) -> None:
        """Drop connections that ended, and have no state."""
        for key in keys:
            del self.live[key]
        if self._counters:
            for key in keys:
                self._counters.pop(key, None)
        if self.ended is not None:
            self.ended.update(keys)

    def forget(self, key: int) -> None:
        """The connection with this key ended untold."""
        self.live.pop(key, None)
        self._counters.pop(key, None)
        self.states.pop(key, None)

    def set_state(self, key: int, state: int) -> None:
        self.states[key] = self.states.get(key, 0) | state

    def clear_state(self, key: int, state: int) -> None:
        left = self.states.get(key, 0) & ~state
        if left:
            self.states[key] = left
        else:
            self.states.pop(key, None)

    # Dumps.

    def begin_dump(self) -> None:
        """A dump starts: remember what lives now, and which connections end meanwhile."""
        self._unlisted = Unlisted(self.live)
        self.ended = set()
        self._keep_states(~_UNTIL_NEXT_DUMP)

    def go_on_with_dump(self) -> None:
        """A part of the dump comes."""
        self._unlisted.enter()

    def find(
        self, orig: bytes, reply: bytes, zone: int, of_flow: int
    ) -> tuple[int, Flow | None] | None:
        """
        Return the key of a connection that a dump lists, and its flow unless it surely lives.

        None where it is not wanted or well-formed.
        """
        flow = self.flows.get((orig, reply, zone))
        if flow is None:
            # A dump lists all there are: those that are known are not to fill the cache of flows.
            key = base_of(orig, reply, zone) | of_flow
            if key in self.live and key not in self.states:
                return key, None
            flow = self.flow(orig, reply, zone, of_flow)
        if flow is not None:
            return flow.base | of_flow, flow
        key = base_of(orig, reply, zone) | of_flow
        if key not in self.live:
            return None
        self.set_state(key, UNWANTED)
        return key, None

    def listed(self, key: int) -> int | None:
        """The dump lists this key; None where its connection ended since, and does not count."""
        if self.ended and key in self.ended:
            return None
        return self._unlisted.take(key)

    def are_listed(self, keys: Sequence[int]) -> Sequence[int]:
        """The dump lists these, none of which has ended: give each as it stands among those."""
        return self._unlisted.take_all(keys)

    def end_dump(self, at_ns: int, read_ns: int | None = None) -> int:
        """
        The dump is whole: drop what two in a row did not list, and return how many.

        That is at `at_ns`. Where events wait for long they are read up to `read_ns` only: what an
        earlier dump did not list may have its events among the others, its begin too, and stays
        until they are read.
        """
        missing = self._unlisted.left().keys() & self.live.keys()
        ended = {key for key in missing if self.states.get(key, 0) & MISSED}
        if read_ns is not None and read_ns < self._missed_ns:
            missing, ended = ended, set()
        else:
            self._missed_ns = at_ns
        for key in ended:
            del self.live[key]
            self._counters.pop(key, None)
            del self.states[key]
        self._keep_states(_UNTIL_NEXT_DUMP | UNWANTED)
        for key in missing - ended:
            self.set_state(key, MISSED)
        self._unlisted = Unlisted()
        self.ended = None
        return len(ended)

    def _keep_states(self, kept: int) -> None:
        self.states = {key: state & kept for key, state in self.states.items() if state & kept}

    # Clean stops.

    def export(
        self, ask: Callable[[Group], object] = lambda group: None
    ) -> Iterator[LiveConnections]:
        """
        Yield the live connections whose owner is known, for a clean stop to keep.

        `ask` is called with each group, for its owner to become known.
        """
        # Packed: 0.1 us a connection, where a row each took 6 us and 150 bytes. Some at a time: how
        # long it takes is looked at in between.
        connections = iter(self.live.items())
        for _ in range(0, len(self.live), _EXPORTED_AT_ONCE):
            yield from packed(islice(connections, _EXPORTED_AT_ONCE), self._counters, ask)

    def restore(self, kept: Iterable[LiveConnections], *, by_port: bool) -> None:
        """Take up what a clean stop kept. `by_port`: each connection is a row of its own."""
        for some in kept:
            bases = [
                int.from_bytes(some.flow[at : at + 8], "big") << 48
                for at in range(0, len(some.flow), 8)
            ]
            group = _restored(some)
            for n, of_flow in enumerate(array("Q", some.keys)):
                key = bases[n if len(bases) > 1 else 0] | of_flow
                alone = by_port and some.folded is None
                self.live[key] = _restored(some) if alone else group
                if some.counters is not None:
                    start = n * _PACKED.size
                    self._counters[key] = some.counters[start : start + _PACKED.size]
        self.states = dict.fromkeys(self.live, RESTORED)


def moved_from(packed: bytes, now: FourCounters) -> FourCounters | None:
    """What a connection moved since it was counted; None where its counters went back."""
    if packed.startswith(_FOUR.pack(*now)):
        return NOTHING
    return moved_since(Counters(*_PACKED.unpack(packed)[:4]), Counters(*now))


def _restored(some: LiveConnections) -> Group:
    if some.folded is None:
        return RestoredGroup(some)
    group = FoldedGroup(None, some.folded, some.began_ns, has_ports=some.has_ports)
    group.edge_id = some.edge_id
    return group
