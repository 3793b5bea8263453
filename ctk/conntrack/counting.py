"""
Events added to totals: the hot loop, and all that one event may lead to.

An event costs two look-ups, its flow and its connection. A connection whose begin was not seen, one
that ends, and one that stands under what its flow was folded into take a longer way.
"""

from collections.abc import Sequence
from typing import Literal

from ctk.conntrack.alike import FoldedAtOnce
from ctk.conntrack.baseline import Baseline
from ctk.conntrack.connections import (
    OLDER,
    UNCOUNTED,
    UNDATED,
    UNDATED_UNCOUNTED,
    UNMEASURED,
    Connections,
)
from ctk.conntrack.decode import (
    DESTROY,
    NEW,
    EventTuple,
)
from ctk.conntrack.folding import Folding
from ctk.conntrack.groups import (
    MOST_WAITING,
    Counters,
    Flow,
    FoldedGroup,
    Group,
    MeasuredEvent,
    Other,
    Totals,
    moved_since,
)
from ctk.conntrack.outcome import AT, NO_FAILURE, PORT, START, ZONE, counters_of, failure, is_over
from ctk.model import (
    COUNTS_DESTROY,
    COUNTS_NEW,
    COUNTS_REFUSED,
    COUNTS_UNREPLIED,
    COUNTS_UPDATE,
)
from ctk.model.lone import LoneEvents
from ctk.timespan import SECOND

Aggregation = Literal["ports", "connections", "none"]


class EventCounter:
    """Adds events to the totals of their groups, in the window that is open."""

    def __init__(
        self, connections: Connections, baseline: Baseline, aggregation: Aggregation
    ) -> None:
        self.connections = connections
        self.baseline = baseline
        self.events = 0  # kernel events counted so far
        self.counters_reset = 0  # connections whose counters went back
        self._by_port = aggregation == "connections"
        self._apart = aggregation == "none"  # every event is a row of its own
        self._grouping: list[Flow] = []  # flows with a group of those that begin in this second
        # The groups of connections that were found: by their flow, their second and their kind.
        self._found: dict[tuple[int, int, int, bool], Group] = {}
        self._open_totals: list[Totals] = []
        self._lone = LoneEvents[Group]()  # events of the open window that are rows of their own
        self._undated: set[Group] = set()  # found by an update: the next dump tells their begin
        strangers = connections.strangers
        self._folding = None if strangers is None else Folding(strangers)
        self._at_once: FoldedAtOnce | None = None
        if strangers is not None and not connections.filters:
            self._at_once = FoldedAtOnce(connections, strangers, self._begin, self._totals)

    def _begin_groups(self) -> None:
        for flow in self._grouping:
            flow.group = None
        self._grouping.clear()
        self._found.clear()

    def _count(self, events: Sequence[EventTuple]) -> None:  # noqa: PLR0912, PLR0915
        # The hot loop. Local names, plain tuples and slots: 0.6 us an event, most of it the two
        # look-ups. A connection is counted when it is entered, so a new event of one that a dump
        # found first does not count it again.
        self.events += len(events)
        connections = self.connections
        connections.forget_idle_flows()
        if self._at_once is not None:
            events = self._at_once.take(events)
        known, live, ended = connections.flows.get, connections.live, connections.ended
        by_port = self._by_port
        for event in events:
            # All of it by name: a slice costs 0.1 us.
            what, orig, port, reply, zone, ct_id, at_ns, _, _, _, _, _, _, _, _ = event
            # Not an exception where it is missing: 1 us, and in a flood each of them is.
            flow = known((orig, reply, zone))
            if flow is None:
                flow = connections.flow(orig, reply, zone, ct_id << 16 | port)
                if flow is None:
                    continue
            key = flow.base | ct_id << 16 | port
            counted = 0
            if what == NEW:
                group = live.get(key)
                if group is None or not connections.is_same(key, at_ns):
                    group = flow.group
                    if group is None or by_port:
                        group = self._begin(flow, at_ns)
                    live[key] = group
                    counted = 1
            elif what == DESTROY:
                group = live.pop(key, None)
                if ended is not None:
                    ended.add(key)
            else:
                group = live.get(key)
            if group is None:
                group, counted = self._find_by_event(flow, key, event)
                if what != DESTROY:
                    live[key] = group
            if group.folded:
                if what == DESTROY:
                    self._end_folded(group, flow, key, event, counted)
                    continue
                if group.into is not None:
                    group = live[key] = group.into
                addresses = (group.totals or self._totals(group, at_ns, port)).addresses
                if addresses is not None:
                    waiting = addresses.waiting
                    waiting.add(flow.ends or connections.ends(orig, reply, zone))
                    if len(waiting) >= MOST_WAITING:
                        addresses.count_waiting()
            totals = group.totals
            if totals is None:
                totals = self._totals(group, at_ns, port)
            elif totals.port != port:
                totals.port = None
            totals.connections += counted
            if what == DESTROY:
                totals.started_ns = min(totals.started_ns, at_ns)
                self._end(totals, key, event, counted)
                continue
            # What `see` does. Nothing is left to do for a batch of one time.
            if at_ns > totals.ended_ns:
                totals.ended_ns = at_ns
            elif at_ns < totals.started_ns:
                totals.started_ns = at_ns
            if what == NEW:
                totals.new_events += 1
                if totals.apart is not None:
                    self._lone.add(at_ns, group, port, counted | COUNTS_NEW)
            else:
                totals.update_events += 1
                if totals.apart is not None:
                    self._lone.add(at_ns, group, port, counted | COUNTS_UPDATE)

    def _begin(self, flow: Flow, at_ns: int) -> Group:
        if isinstance(flow, Other) and self._folding is not None:
            group: Group = self._folding.group(flow, at_ns)
        else:
            group = Group(flow, at_ns)
            if self._by_port:
                return group
        if flow.group is None:
            self._grouping.append(flow)
        flow.group = group
        return group

    def _end(self, totals: Totals, key: int, event: EventTuple, counts: int) -> None:
        """Count how a connection ended, and what moved since it was last looked at."""
        start_ns, states = event[START], self.connections.states
        if states and states.get(key, 0) & UNDATED and start_ns is not None:
            totals.connections += self._date(key, totals.group, start_ns)
        self._count_end(totals, event, counts, self._moved_last(key, event))

    def _count_end(
        self, totals: Totals, event: EventTuple, counts: int, moved: Counters | None
    ) -> None:
        refused, unreplied = failure(event)
        totals.destroy_events += 1
        totals.refused += refused
        totals.unreplied += unreplied
        if moved is not None:
            totals.add(moved)
        counts |= COUNTS_DESTROY | COUNTS_REFUSED * refused | COUNTS_UNREPLIED * unreplied
        self._keep_apart(totals, event, counts, moved)

    def _keep_apart(
        self, totals: Totals, event: EventTuple, counts: int, moved: Counters | None
    ) -> None:
        """Keep an event that is to be a row of its own."""
        if totals.apart is None:
            return
        if moved is None:
            self._lone.add(event[AT], totals.group, event[PORT], counts)
        else:
            totals.apart.append(MeasuredEvent(event[AT], event[PORT], counts, moved))

    def _moved_last(self, key: int, event: EventTuple) -> Counters | None:
        """Drop what is kept of a connection that ended; return what moved since the last look."""
        state, before = self.connections.end(key)
        counters = counters_of(event)
        if counters is None or state & UNMEASURED:
            return None
        return self._moved(before, counters)

    def _moved(self, before: Counters | None, now: Counters) -> Counters:
        moved = moved_since(before, now)
        if moved is None:
            # Another tool zeroed them: what they show moved since, and what moved before is lost.
            self.counters_reset += 1
            moved = now
        return moved

    # What is folded.

    def _end_folded(
        self, group: Group, flow: Flow, key: int, event: EventTuple, counted: int
    ) -> None:
        """Count the end of a connection that stands under what its flow was folded into."""
        _, orig, port, reply, zone, _, at_ns = event[:7]
        connections, ends = self.connections, flow.ends
        moved = self._moved_last(key, event)
        group = connections.counted_under(group, (orig, reply, zone), moved)
        failed = failure(event)
        if failed != NO_FAILURE and isinstance(group, FoldedGroup):
            group = group.failures
        totals = group.totals or self._totals(group, at_ns, port)
        if totals.port != port:
            totals.port = None
        totals.started_ns = min(totals.started_ns, at_ns)
        if totals.apart is None:
            totals.destroy_events += 1
            totals.refused += failed[0]
            totals.unreplied += failed[1]
            if moved is not None:
                totals.add(moved)
        else:
            self._count_end(totals, event, counted, moved)
        totals.connections += counted
        if totals.addresses is not None:
            totals.addresses.add(ends or connections.ends(orig, reply, zone))

    def _find_by_event(self, flow: Flow, key: int, event: EventTuple) -> tuple[Group, int]:
        group, counted = self._find(flow, key, event)
        what, orig, _, reply, zone, *_ = event
        if what != DESTROY and event[START] is None:
            self.connections.set_state(key, UNDATED if counted else UNDATED | UNDATED_UNCOUNTED)
            flow = self.connections.own_flow(flow, orig, reply, zone)
            # Its own, and not to be folded before its begin is known.
            group = Group(flow, group.began_ns, is_older=group.is_older)
            group.other = None
            self._undated.add(group)
        return group, counted

    def _find(self, flow: Flow | None, key: int, event: EventTuple) -> tuple[Group, int]:
        """Return the group of a connection whose begin was not seen, and 1 where it is counted."""
        connections, baseline = self.connections, self.baseline
        at_ns, start_ns, counters = event[AT], event[START], counters_of(event)
        counted, whole = baseline.first_sight(start_ns, over=is_over(event))
        began_ns = baseline.began_ns(start_ns, at_ns, whole=whole)
        if not whole:
            # What it moved so far was before this recording, or was counted by the one before.
            if counters is not None:
                connections.count(key, counters, at_ns)
            else:
                connections.set_state(key, UNMEASURED)
            if start_ns is None:
                connections.set_state(key, OLDER if counted else OLDER | UNCOUNTED)
        if isinstance(flow, Other) and self._folding is not None:
            return self._folding.group(flow, began_ns), int(counted)
        alike = (key >> 48, event[ZONE], began_ns // SECOND, whole)
        group = None if self._by_port else self._found.get(alike)
        if group is None:
            group = self._found[alike] = Group(flow, began_ns, is_older=not whole)
        return group, int(counted)

    def _date(self, key: int, group: Group, start_ns: int) -> int:
        """Say when an undated connection began; return 1 where it counts."""
        connections, sight = self.connections, self.baseline.first_sight(start_ns, over=False)
        counted = sight.counted and connections.states[key] & UNDATED_UNCOUNTED
        connections.clear_state(key, UNDATED | UNDATED_UNCOUNTED)
        if sight.whole:
            connections.clear_state(key, OLDER | UNCOUNTED | UNMEASURED)
        group.began_ns, group.is_older = start_ns, not sight.whole
        self._undated.discard(group)
        return int(bool(counted))

    def _totals(self, group: Group, at_ns: int, port: int) -> Totals:
        totals = group.totals
        if totals is not None:
            if totals.port != port:
                totals.port = None
            return totals
        if group.other is not None and self._folding is not None:
            self._folding.enter(self._open_totals)
        apart = self._apart and not group.folded
        totals = group.totals = Totals(group, at_ns, port, apart=apart)
        self._open_totals.append(totals)
        return totals
