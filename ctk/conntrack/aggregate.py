"""
Events to flows by window. Pure: time is the events' own, so a replayed capture gives what the
live recording gave.

New, update and destroy events of a connection, and all connections of a flow, add to the same
counts. Nothing is looked up by event but the flow and the connection; who they belong to is asked
by whoever takes the window, once for all connections of a flow that began in the same second.
"""

from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

from ctk.conntrack.connections import Census, Cohort, Connections, Flow
from ctk.conntrack.decode import (
    DESTROY,
    IPS_SEEN_REPLY,
    NEW,
    TCP_CONNTRACK_CLOSE,
    UPDATE,
    Event,
)

Aggregation = Literal["ports", "connections", "none"]
SECOND_NS = 1_000_000_000


class EventRow(NamedTuple):
    """One event, for `--aggregate none`; the counts are None unless it carried counters."""

    at_ns: int
    cohort: Cohort
    src_port: int
    what: int
    connections: int
    unreplied: int
    refused: int
    counts: tuple[int, int, int, int] | None  # packets_out, bytes_out, packets_in, bytes_in


class Window(NamedTuple):
    """What one window held: the cohorts that had events, or their events one by one."""

    started_ns: int
    ended_ns: int
    cohorts: list[Cohort]
    events: list[EventRow] | None  # with `--aggregate none`


class Aggregator:
    """Merges events into the open window; closes windows as time passes."""

    def __init__(
        self, connections: Connections, *, window_ns: int, aggregation: Aggregation = "ports"
    ) -> None:
        self.connections = connections
        self.events = 0  # kernel events counted so far
        self._width_ns = window_ns
        self._aggregation = aggregation
        self._by_port = aggregation == "connections"
        self._number = 1
        self._start_ns = self._end_ns = 0
        self._slice_end_ns = 0
        self._slice: list[Flow] = []  # flows with an open cohort
        self._cohorts: list[Cohort] = []
        self._rows: list[EventRow] | None = [] if aggregation == "none" else None
        self._census: Census | None = None
        self._listed: set[int] = set()

    def add(self, events: list[tuple[Any, ...]], at_ns: int) -> list[Window]:
        """
        Count a batch read at `at_ns`; return the windows that are now over, oldest first.

        An event older than the open window counts there: a closed one is never reopened. An
        empty batch is a tick. Where the clock went back by over a second, the window is closed
        and one begins at the new time.
        """
        if at_ns < self._end_ns and at_ns >= self._start_ns - SECOND_NS:
            if at_ns >= self._slice_end_ns:
                self._cut(at_ns)
            self._count(events)
            return []
        windows: list[Window] = []
        if self._end_ns and at_ns >= self._end_ns:
            # at_ns is no earlier than any event of the batch, so this is once a window.
            place = Event._fields.index("at_ns")
            self._count([event for event in events if event[place] < self._end_ns])
            events = [event for event in events if event[place] >= self._end_ns]
        windows += self.close()
        self._start_ns = at_ns - at_ns % self._width_ns
        self._end_ns = self._start_ns + self._width_ns
        self._cut(at_ns)
        self._count(events)
        return windows

    def close(self) -> list[Window]:
        """End the open window whatever the time; nothing where it is empty."""
        cohorts, rows = self._cohorts, self._rows
        window = Window(self._start_ns, self._end_ns, cohorts, rows)
        self._cohorts = []
        if rows is not None:
            self._rows = []
        self._number += 1
        self._cut(self._end_ns)
        self.connections.sweep()
        return [window] if cohorts else []

    def begin_census(self, census: Census) -> None:
        """The kernel's table is about to be dumped; `add_census` takes what it lists."""
        self._census = census
        self._listed = set()
        self.connections.begin_census()

    def end_census(self, *, first: bool = False) -> int:
        """The dump is complete: connections it no longer has are over. Return how many."""
        drop = self.connections.drop_missing if first else self.connections.end_census
        gone = drop(self._listed)
        self._census, self._listed = None, set()
        return gone

    def add_census(self, entries: Iterable[tuple[Any, ...]]) -> None:
        """Count what moved since the last dump, and connections that no event told of."""
        census = self._census
        if census is None:
            raise RuntimeError("add_census before begin_census")
        connections = self.connections
        live, counted, gone = connections.live, connections.counted, connections.gone
        for entry in map(Event._make, entries):
            flow = self._flow(entry)
            if flow is None:
                continue
            key = flow.base | entry.ct_id << 16 | entry.port
            if gone and key in gone:
                continue
            self._listed.add(key)
            counters = _counters(entry)
            cohort = live.get(key)
            if cohort is not None:
                if counters is None:
                    continue
                before = counted.get(key)
                if counters == before:
                    continue
                counted[key] = counters
                self._touch(cohort, entry.at_ns)
                cohort.moved(counters, before)
                self._row(entry, cohort, 0, before)
                continue
            began_ns = entry.start_ns if entry.start_ns is not None else entry.at_ns
            whole = (
                census.undated_whole
                if entry.start_ns is None
                else entry.start_ns >= census.whole_from_ns
            )
            cohort = live[key] = Cohort(flow, self._src_port(entry.port), began_ns)
            if counters is not None:
                counted[key] = counters
            found = int(whole or census.count_older)
            if not found:
                continue
            self._touch(cohort, entry.at_ns)
            cohort.connections += 1
            before = None if whole else counters
            if counters is not None:
                cohort.moved(counters, before)
            self._row(entry, cohort, 1, before)

    def _count(self, events: list[tuple[Any, ...]]) -> None:
        # The hot loop. Local names, plain tuples and slots: 0.6 us an event, most of it the two
        # look-ups. A connection is counted when it is entered, so a new event of one that a dump
        # found first does not count it again.
        self.events += len(events)
        connections = self.connections
        flows, live, counted, gone = (
            connections.flows,
            connections.live,
            connections.counted,
            connections.gone,
        )
        number, cohorts, rows, by_port = self._number, self._cohorts, self._rows, self._by_port
        for event in events:
            what, opening, port, answering, zone, ct_id, at_ns, status, state, *counts = event
            try:
                flow = flows[opening, answering, zone]
            except KeyError:
                flow = connections.flow(opening, answering, zone)
            if flow is None:
                continue
            key = flow.base | ct_id << 16 | port
            begun = unreplied = refused = 0
            if what == NEW:
                cohort = flow.cohort
                if cohort is None or by_port:
                    cohort = self._begin(flow, port, at_ns)
                if key in live:
                    cohort = live[key]
                else:
                    live[key] = cohort
                    cohort.last_began_ns = at_ns
                    cohort.connections += 1
                    begun = 1
                if cohort.window != number:
                    cohort.window = number
                    cohort.started_ns = at_ns
                    cohorts.append(cohort)
                cohort.new_events += 1
                cohort.ended_ns = at_ns
            elif what == UPDATE:
                cohort = live.get(key)
                if cohort is None:
                    cohort = live[key] = self._begin(flow, port, at_ns)
                    cohort.connections += 1
                    begun = 1
                if cohort.window != number:
                    cohort.window = number
                    cohort.started_ns = at_ns
                    cohorts.append(cohort)
                cohort.update_events += 1
                cohort.ended_ns = at_ns
            elif what == DESTROY:
                cohort = live.pop(key, None)
                if gone is not None:
                    gone.add(key)
                if cohort is None:
                    start_ns = counts[4]
                    cohort = Cohort(flow, port if by_port else None, start_ns or at_ns)
                    cohort.connections += 1
                    begun = 1
                if cohort.window != number:
                    cohort.window = number
                    cohort.started_ns = cohort.ended_ns = at_ns
                    cohorts.append(cohort)
                cohort.destroy_events += 1
                if not status & IPS_SEEN_REPLY:
                    if state == TCP_CONNTRACK_CLOSE:
                        refused = 1
                        cohort.refused += 1
                    else:
                        unreplied = 1
                        cohort.unreplied += 1
                if counts[1] is not None:
                    before = counted.pop(key, None) if counted else None
                    if before is None:
                        cohort.measured = True
                        cohort.packets_out += counts[0]
                        cohort.bytes_out += counts[1]
                        cohort.packets_in += counts[2]
                        cohort.bytes_in += counts[3]
                    else:
                        cohort.moved(tuple(counts[:4]), before)
            else:
                continue
            if rows is not None:
                moved = None
                if what == DESTROY and counts[1] is not None:
                    moved = _difference(counts[:4], before)
                rows.append(
                    (at_ns, cohort, port, what, begun, unreplied, refused, moved)  # type: ignore[arg-type]
                )

    def _begin(self, flow: Flow, port: int, at_ns: int) -> Cohort:
        cohort = Cohort(flow, self._src_port(port), at_ns)
        if not self._by_port:
            if flow.cohort is None:
                self._slice.append(flow)
            flow.cohort = cohort
        return cohort

    def _cut(self, at_ns: int) -> None:
        """Connections that begin from here on make new cohorts."""
        for flow in self._slice:
            flow.cohort = None
        self._slice.clear()
        self._slice_end_ns = at_ns - at_ns % SECOND_NS + SECOND_NS

    def _flow(self, event: Event) -> Flow | None:
        key = (event.opening, event.answering, event.zone)
        try:
            return self.connections.flows[key]
        except KeyError:
            return self.connections.flow(*key)

    def _src_port(self, port: int) -> int | None:
        return port if self._by_port else None

    def _touch(self, cohort: Cohort, at_ns: int) -> None:
        if cohort.window != self._number:
            cohort.window = self._number
            cohort.started_ns = at_ns
            self._cohorts.append(cohort)
        cohort.ended_ns = at_ns

    def _row(
        self, entry: Event, cohort: Cohort, begun: int, before: tuple[int, int, int, int] | None
    ) -> None:
        counters = _counters(entry)
        if self._rows is not None:
            moved = None if counters is None else _difference(counters, before)
            self._rows.append(
                EventRow(entry.at_ns, cohort, entry.port, entry.what, begun, 0, 0, moved)
            )


def _counters(event: Event) -> tuple[int, int, int, int] | None:
    if (
        event.packets_out is None
        or event.bytes_out is None
        or event.packets_in is None
        or event.bytes_in is None
    ):
        return None
    return event.packets_out, event.bytes_out, event.packets_in, event.bytes_in


def _difference(
    now: Iterable[int], before: tuple[int, int, int, int] | None
) -> tuple[int, int, int, int]:
    return tuple(max(0, new - old) for new, old in zip(now, before or (0, 0, 0, 0), strict=True))  # type: ignore[return-value]
