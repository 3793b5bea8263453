"""
Events to flows by window. Pure: time is the events' own, so a replayed capture gives what the
live recording gave.

New, update and destroy events of a connection, and all connections of a flow, add to the same
counts. Nothing is looked up by event but the flow and the connection; who they belong to is asked
by whoever takes the window, once for all connections of a flow that began in the same second.
"""

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any, Literal, NamedTuple

from ctk.conntrack.connections import (
    Apart,
    Census,
    Connections,
    Counters,
    Flow,
    Group,
    Totals,
)
from ctk.conntrack.decode import DESTROY, IPS_SEEN_REPLY, NEW, TCP_CONNTRACK_CLOSE, Event
from ctk.model import (
    COUNTS_CONNECTION,
    COUNTS_DESTROY,
    COUNTS_NEW,
    COUNTS_REFUSED,
    COUNTS_UNREPLIED,
    COUNTS_UPDATE,
)
from ctk.timespan import SECOND

Aggregation = Literal["ports", "connections", "none"]
_PORT, _AT, _STATUS, _START = map(Event._fields.index, ("port", "at_ns", "status", "start_ns"))
# Of a window in memory: past it, it is handed over in parts.
MOST_ROWS = 25_000
MOST_EVENTS = 20_000


class Window(NamedTuple):
    """
    What one window held: the totals of the groups that had events, in the order of their first.

    A window with very many of them comes in parts.
    """

    started_ns: int
    ended_ns: int
    totals: list[Totals]


# Whatever is found began, and moved all it has, since the recording started.
EVERYTHING = Census(whole_from_ns=0, undated_whole=True)


class Aggregator:
    """Merges events into the open window; closes windows as time passes."""

    def __init__(
        self, connections: Connections, *, window_ns: int, aggregation: Aggregation = "ports"
    ) -> None:
        self.connections = connections
        self.events = 0  # kernel events counted so far
        self.behind = False  # whether the last of them had waited for over a second
        self._width_ns = window_ns
        self._by_port = aggregation == "connections"
        self._start_ns = self._end_ns = 0
        self._slice_end_ns = 0
        self._slice: list[Flow] = []  # flows with an open group
        # The same of connections that were found: by their flow, their second and their kind.
        self._found_alike: dict[tuple[int, int, bool], Group] = {}
        self._open_totals: list[Totals] = []
        self._apart = aggregation == "none"  # every event is a row of its own
        self._part_at = 0
        self.census = EVERYTHING  # how to count what is found

    def add(self, events: list[tuple[Any, ...]], at_ns: int) -> Iterator[Window]:
        """
        Count a batch read at `at_ns`; yield the windows that are over by then, oldest first.

        An event older than the open window counts there: a closed one is never reopened. An
        empty batch is a tick. Where the clock went back by over a second, the window is closed
        and one begins at the new time.
        """
        self.behind = bool(events) and at_ns - events[0][_AT] >= SECOND
        if not self.behind:
            yield from self._add(events, at_ns)
            return
        # They waited, as they do while a disk stalls: more wait behind them, and time is theirs.
        for _, second in groupby(events, lambda event: event[_AT] // SECOND):
            waited = list(second)
            yield from self._add(waited, max(waited[-1][_AT], self._start_ns))

    def _add(self, events: list[tuple[Any, ...]], at_ns: int) -> Iterator[Window]:
        if at_ns >= self._slice_end_ns:
            self.cut()
            self._slice_end_ns = at_ns - at_ns % SECOND + SECOND
        if at_ns < self._start_ns - SECOND:
            yield from self.close()
            self._open(at_ns)
            self._slice_end_ns = at_ns
        # at_ns is no earlier than any event of the batch, so this is once a window.
        while at_ns >= self._end_ns:
            self._count([event for event in events if event[_AT] < self._end_ns])
            events = [event for event in events if event[_AT] >= self._end_ns]
            yield from self.close()
            self._open(min((event[_AT] for event in events), default=at_ns))
        self._count(events)
        if self._is_large():
            yield from self.close()

    def _open(self, at_ns: int) -> None:
        self._start_ns = at_ns - at_ns % self._width_ns
        self._end_ns = self._start_ns + self._width_ns

    def close(self) -> list[Window]:
        """End the open window whatever the time; nothing where it is empty."""
        open_totals, self._open_totals = self._open_totals, []
        for totals in open_totals:
            totals.group.totals = None
        self._part_at = self.events
        self.cut()
        return [Window(self._start_ns, self._end_ns, open_totals)] if open_totals else []

    def cut(self) -> None:
        """From now on connections make new groups: who they belong to may differ."""
        for flow in self._slice:
            flow.group = None
        self._slice.clear()
        self._found_alike.clear()

    def whole_ns(self, at_ns: int) -> int:
        """Up to when everything was handed over, at `at_ns`."""
        return self._start_ns if self._open_totals else at_ns

    def edges_held(self) -> set[Any]:
        """Who connections belong to, those that live and those of the open window."""
        held = {totals.group.edge for totals in self._open_totals}
        held.update(group.edge for group in self.connections.live.values())
        return held

    def _is_large(self) -> bool:
        if self._apart:
            return self.events - self._part_at >= MOST_EVENTS
        return len(self._open_totals) >= MOST_ROWS

    def add_census(self, entries: Iterable[tuple[Any, ...]]) -> None:
        """Count what moved since the last dump, and connections that no event told of."""
        connections = self.connections
        connections.sweep()
        live, whole_from_ns = connections.live, self.census.whole_from_ns
        for entry in entries:
            _, orig, port, reply, zone, ct_id, at_ns = entry[:7]
            found = connections.find(orig, reply, zone, ct_id << 16 | port)
            if found is None:
                continue
            shown, flow = found
            key = connections.listed(shown)
            if key is None:
                continue
            counters = _counters(entry)
            if key in connections.unwanted:
                if counters is not None:
                    connections.count(key, counters)
                continue
            group, start_ns = live.get(key), entry[_START]
            if (
                group is not None
                and start_ns is not None
                and group.began_ns < whole_from_ns <= start_ns
                and not connections.goes_on(key)
            ):
                # A restored one ended meanwhile, and the kernel's id came again.
                group = None
            begun = 0
            before = connections.counted(key)
            if group is None:
                group, begun = self._found(flow, key, entry)
                live[key] = group
                before = connections.counted(key)
            elif counters is not None and key in connections.unmeasured:
                connections.unmeasured.remove(key)
                before = counters
                connections.count(key, counters)
            if not begun and counters == before:
                continue
            totals = self._totals(group, at_ns, port)
            totals.connections += begun
            moved = None
            if counters is not None and counters != before:
                moved = totals.moved(counters, before)
                connections.count(key, counters)
            if totals.apart is not None:
                totals.apart.add(at_ns, port, begun and COUNTS_CONNECTION, moved)

    def _count(self, events: list[tuple[Any, ...]]) -> None:  # noqa: PLR0912, PLR0915
        # The hot loop. Local names, plain tuples and slots: 0.6 us an event, most of it the two
        # look-ups. A connection is counted when it is entered, so a new event of one that a dump
        # found first does not count it again.
        self.events += len(events)
        connections = self.connections
        connections.sweep()
        flows, live, gone = connections.flows, connections.live, connections.gone
        open_totals, by_port, apart = self._open_totals, self._by_port, self._apart
        for event in events:
            what, orig, port, reply, zone, ct_id, at_ns = event[:7]
            try:
                flow = flows[orig, reply, zone]
            except KeyError:
                flow = connections.flow(orig, reply, zone)
            if flow is None:
                continue
            key = flow.base | ct_id << 16 | port
            begun = 0
            if what == NEW:
                group = live.get(key)
                if group is None or not connections.goes_on(key):
                    group = flow.group
                    if group is None or by_port:
                        group = self._begin(flow, port, at_ns)
                    live[key] = group
                    begun = 1
            elif what == DESTROY:
                group = live.pop(key, None)
                if gone is not None:
                    gone.add(key)
            else:
                group = live.get(key)
            if group is None:
                group, begun = self._found(flow, key, event)
                if what != DESTROY:
                    live[key] = group
            totals = group.totals
            if totals is None:
                totals = group.totals = Totals(group, at_ns, port, Apart() if apart else None)
                open_totals.append(totals)
            elif totals.port != port:
                totals.port = None
            totals.connections += begun
            if what == DESTROY:
                totals.destroy_events += 1
                self._end(totals, key, event, begun)
                continue
            totals.ended_ns = at_ns
            if what == NEW:
                totals.new_events += 1
                if totals.apart is not None:
                    totals.apart.lone.append((at_ns, port, begun | COUNTS_NEW))
            else:
                totals.update_events += 1
                if totals.apart is not None:
                    totals.apart.lone.append((at_ns, port, begun | COUNTS_UPDATE))

    def _end(self, totals: Totals, key: int, event: tuple[Any, ...], counts: int) -> None:
        """Count how a connection ended, and what moved since it was last looked at."""
        status, state, *counters = event[_STATUS:_START]
        if status is None or not status & IPS_SEEN_REPLY:
            # A refused connection ends at once in state CLOSE: reset before it was established.
            if state == TCP_CONNTRACK_CLOSE:
                totals.refused += 1
                counts |= COUNTS_REFUSED
            elif status is not None:
                totals.unreplied += 1
                counts |= COUNTS_UNREPLIED
        before = self.connections.uncount(key)
        moved = None
        if None not in counters and key not in self.connections.unmeasured:
            moved = totals.moved(tuple(counters), before)
        if totals.apart is not None:
            totals.apart.add(event[_AT], event[_PORT], counts | COUNTS_DESTROY, moved)

    def _begin(self, flow: Flow, port: int, at_ns: int) -> Group:
        group = Group(flow, at_ns)
        if not self._by_port:
            if flow.group is None:
                self._slice.append(flow)
            flow.group = group
        return group

    def _found(self, flow: Flow | None, key: int, event: tuple[Any, ...]) -> tuple[Group, int]:
        """The group of a connection whose begin was not seen; 1 where it is to be counted."""
        start_ns: int | None = event[_START]
        census = self.census
        whole = census.undated_whole if start_ns is None else start_ns >= census.whole_from_ns
        began_ns = start_ns
        if began_ns is None:
            began_ns = event[_AT] if whole else min(event[_AT], census.whole_from_ns - 1)
        counters = _counters(event)
        if not whole:
            # What it moved so far was before this recording, or was counted by the one before.
            if counters is not None:
                self.connections.count(key, counters)
            else:
                self.connections.unmeasured.add(key)
        if start_ns is None and not whole:
            self.connections.undated[key] = census.count_older
        alike = (key >> 48, began_ns // SECOND, whole)
        group = None if self._by_port else self._found_alike.get(alike)
        if group is None:
            group = self._found_alike[alike] = Group(flow, began_ns)
        return group, int(whole or census.count_older)

    def _totals(self, group: Group, at_ns: int, port: int) -> Totals:
        totals = group.totals
        if totals is None:
            totals = group.totals = Totals(group, at_ns, port, Apart() if self._apart else None)
            self._open_totals.append(totals)
        elif totals.port != port:
            totals.port = None
        totals.ended_ns = at_ns
        return totals


def _counters(event: tuple[Any, ...]) -> Counters | None:
    counters = event[_STATUS + 2 : _START]
    return None if None in counters else counters
