"""
Events to flows by window. Pure: time is the events' own, so a replayed capture gives what the
live recording gave.

New, update and destroy events of a connection, and all connections of a flow, add to the same
totals (counting.py); who a group belongs to is asked by whoever takes the window.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from ctk.conntrack.alike import ListedEntries
from ctk.conntrack.baseline import Baseline
from ctk.conntrack.connections import (
    UNDATED,
    UNMEASURED,
    UNWANTED,
    Connections,
)
from ctk.conntrack.counting import Aggregation
from ctk.conntrack.decode import (
    EventTuple,
    Part,
    events_of,
)
from ctk.conntrack.groups import (
    Counters,
    Flow,
    Group,
    RestoredGroup,
    Totals,
    moved_since,
)
from ctk.conntrack.outcome import AT, START, counters_of
from ctk.conntrack.parts import PartCounter, first_ns
from ctk.model import (
    COUNTS_CONNECTION,
)
from ctk.model.lone import LoneEvents
from ctk.timespan import SECOND

# Of a window in memory: past it, it is handed over in parts.
MOST_ROWS = 25_000
MOST_EVENTS = 20_000
# The connections of a group began within a second of each other; events come in batches.
_ONE_GROUP_NS = 2 * SECOND
_MOST_DOUBTED = 4096  # where counters of more went back, another tool zeroes them


class Window(NamedTuple):
    """
    What one window held: the totals of the groups that had events, in the order of their first.

    For `--aggregate none`, `lone` has their events, but for those with counters. A window with very
    many of them comes in parts.
    """

    started_ns: int
    ended_ns: int
    totals: list[Totals]
    lone: LoneEvents[Group]


class Aggregator(PartCounter):
    """Merges events into the open window; closes windows as time passes."""

    def __init__(
        self,
        connections: Connections,
        baseline: Baseline,
        *,
        window_ns: int,
        aggregation: Aggregation = "ports",
    ) -> None:
        super().__init__(connections, baseline, aggregation)
        self.behind = False  # whether the last of them had waited for over a second
        self._first_ns: int | None = None  # of the last batch
        self._width_ns = window_ns
        self._start_ns = self._end_ns = 0
        self._second_end_ns = 0  # of the second whose beginning connections share a group
        self._events_at_open = 0
        # What the dump under way lists of a known key, and may be another connection.
        self._doubted: list[tuple[int, EventTuple]] = []
        self._most_rows = MOST_ROWS
        if connections.strangers is not None:
            self._most_rows = max(MOST_ROWS, 2 * connections.strangers.most)

    # Windows.

    def add(self, events: list[EventTuple], at_ns: int) -> Iterator[Window]:
        """
        Count a batch read at `at_ns`; yield the windows that are over by then, oldest first.

        An event older than the open window counts there: a closed one is never reopened. An
        empty batch is a tick. Where the clock went back by over a second, the window is closed
        and one begins at the new time.
        """
        return self.add_parts([events], at_ns)

    def add_parts(self, parts: Sequence[Part], at_ns: int) -> Iterator[Window]:
        """Do so with a batch in parts."""
        began_ns = first_ns(parts)
        self.behind = began_ns is not None and at_ns - began_ns >= SECOND
        self._first_ns = began_ns
        if not self.behind:
            yield from self._add(parts, at_ns)
            return
        # They waited, as they do while a disk stalls: more wait behind them, and time is theirs.
        for _, second in groupby(events_of(parts), lambda event: event[AT] // SECOND):
            waited = list(second)
            yield from self._add([waited], max(waited[-1][AT], self._start_ns))

    def _add(self, parts: Sequence[Part], at_ns: int) -> Iterator[Window]:
        if at_ns >= self._second_end_ns:
            self._begin_groups()
            self._second_end_ns = at_ns - at_ns % SECOND + SECOND
        if at_ns < self._start_ns - SECOND:
            yield from self._over()
            self._open(at_ns)
            self._second_end_ns = at_ns
        # at_ns is no earlier than any event of the batch, so this is once a window.
        while at_ns >= self._end_ns:
            events = events_of(parts)
            self._count([event for event in events if event[AT] < self._end_ns])
            events = [event for event in events if event[AT] >= self._end_ns]
            parts = [events]
            yield from self._over()
            self._open(min((event[AT] for event in events), default=at_ns))
        self._count_parts(parts)
        self._latest_ns = max(self._latest_ns, at_ns)
        if self._is_large():
            yield from self._over()

    def _open(self, at_ns: int) -> None:
        self._start_ns = at_ns - at_ns % self._width_ns
        self._end_ns = self._start_ns + self._width_ns
        if self._folding is not None:
            self._folding.begin_window()

    def close(self) -> list[Window]:
        """End the open window whatever the time; nothing where it is empty."""
        self._undated.clear()
        return self._over()

    def _over(self) -> list[Window]:
        """Hand over the open window, but for what the dump under way will tell the begin of."""
        self._add_counted()
        open_totals, self._open_totals = self._open_totals, []
        if self._undated:
            undated = [each for each in open_totals if each.group in self._undated]
            open_totals = [each for each in open_totals if each.group not in self._undated]
            self._open_totals = undated
        if self._folding is not None:
            self._folding.close(open_totals)
        lone = self._lone_of(open_totals)
        for totals in open_totals:
            group = totals.group
            group.totals = None
            group.waits = group.flow is not None
        self._events_at_open = self.events
        if not self._open_totals:
            self._latest_ns = 0
        self.regroup()
        return [Window(self._start_ns, self._end_ns, open_totals, lone)] if open_totals else []

    def _lone_of(self, over: Sequence[Totals]) -> LoneEvents[Group]:
        """Take the events of totals that are over; of groups that are folded none is kept."""
        lone, self._lone = self._lone, LoneEvents()
        if not lone:
            return lone
        groups = set(lone.owners)
        handed = {totals.group for totals in over}
        if groups <= handed:
            return lone
        stay = {group for group in groups - handed if not group.folded}
        self._lone = lone.chosen([group in stay for group in lone.owners])
        return lone.chosen([group in handed for group in lone.owners])

    def regroup(self) -> None:
        """From now on connections form new groups: who they belong to may differ."""
        self._begin_groups()
        self._look_anew()
        if self._folding is not None:
            self._folding.regroup()

    def whole_ns(self, at_ns: int) -> int:
        """Return up to when everything was handed over, at `at_ns`."""
        return self._start_ns if self._open_totals else at_ns

    def groups(self) -> Iterator[Group]:
        """Yield the groups of the open window and of live connections; some come several times."""
        for totals in self._open_totals:
            yield totals.group
        yield from (group.into or group for group in self.connections.live.values())

    def fold_oldest(self, most: int) -> None:
        """
        Of groups of strangers that live, and have no totals now, leave the newest `most`.

        All others are folded, and so hold no edge of their own.
        """
        if self._folding is None:
            return
        apart = {
            group
            for group in self.connections.live.values()
            if group.other is not None and group.totals is None and not group.waits
        }
        for group in sorted(apart, key=lambda group: -group.began_ns)[most:]:
            self._folding.fold_group(group)

    def _is_large(self) -> bool:
        if self._apart:
            return self.events - self._events_at_open >= MOST_EVENTS
        return len(self._open_totals) >= self._most_rows

    # Dumps.

    def add_dump(self, entries: Sequence[EventTuple]) -> ListedEntries:
        """Count what moved since the last dump, and connections that no event told of."""
        connections = self.connections
        connections.go_on_with_dump()
        connections.forget_idle_flows()
        self._add_counted()  # a restored group may turn out to be of strangers, and be folded
        self._look_anew()
        self._latest_ns = max([self._latest_ns, *[entry[AT] for entry in entries[-1:]]])
        listed = ListedEntries((), entries)
        if self._at_once is not None:
            listed = self._at_once.take_listed(entries)
        live, states = connections.live, connections.states
        for entry in listed.others:
            # All of it by name: a slice costs 0.1 us.
            _, orig, port, reply, zone, ct_id, at_ns, _, _, po, bo, pi, bi, start_ns, _ = entry
            shown = connections.find(orig, reply, zone, ct_id << 16 | port)
            key = None if shown is None else connections.listed(shown[0])
            if shown is None or key is None:
                continue
            state, group = states.get(key, 0) if states else 0, live.get(key)
            now = po, bo, pi, bi  # packets and bytes, out and in
            if group is not None and not state and connections.is_counted(key, now):
                continue
            counters = counters_of(entry)
            if state & UNWANTED:
                if counters is not None and counters != connections.counters(key):
                    connections.count(key, counters, at_ns)
                continue
            counted = 0
            if group is not None and state & UNDATED and start_ns is not None:
                counted = self._date(key, group, start_ns)
                state = states.get(key, 0)
            if group is not None and state:
                group = self._taken_up(group, key, shown[1], start_ns)
            before = connections.counters(key)
            if group is None:
                if self.behind and start_ns is not None and start_ns >= self._end_ns:
                    continue  # its event is among those that wait, and counts in its own window
                group, counted = self._find(shown[1], key, entry)
                live[key] = group
                before = connections.counters(key)
            elif counters is not None and state & UNMEASURED:
                connections.clear_state(key, UNMEASURED)
                before = counters
                connections.count(key, counters, at_ns)
            if counted or counters != before:
                self._count_listed(group, key, entry, counted, before)
        return listed

    def _count_listed(
        self,
        group: Group,
        key: int,
        entry: EventTuple,
        counted: int,
        before: Counters | None,
        *,
        doubted: bool = True,
    ) -> None:
        """
        Count a connection that a dump listed, and what it moved since the last look.

        Where it is `doubted` whether it is the one that lived, that waits for the end of the dump.
        """
        (_, orig, port, reply, zone, _, at_ns, *_), connections = entry, self.connections
        counters, moved = counters_of(entry), None
        if counters is not None and counters != before:
            moved = moved_since(before, counters)
            if moved is None or (not counted and _began_later(group, entry)):
                if doubted and len(self._doubted) < _MOST_DOUBTED:
                    self._doubted.append((key, entry))
                    return
                moved = self._moved(before, counters)
            connections.count(key, counters, at_ns)
        if group.folded:
            group = connections.live[key] = connections.counted_under(
                group, (orig, reply, zone), moved
            )
        totals = self._totals(group, at_ns, port)
        totals.see(at_ns)
        totals.connections += counted
        if moved is not None:
            totals.add(moved)
        self._keep_apart(totals, entry, counted and COUNTS_CONNECTION, moved)
        if totals.addresses is not None:
            totals.addresses.add(connections.ends(orig, reply, zone))

    def _settle_doubted(self) -> None:
        """
        Tell connections that a dump listed with lower counters, or that began later, from others.

        A dump is ahead of the events: where one ended, and its tuples and the kernel's id came
        again, the events that tell so have been read by now.
        """
        connections, ended = self.connections, self.connections.ended or ()
        doubted, self._doubted = self._doubted, []
        for key, entry in doubted:
            group = connections.live.get(key)
            if group is None or key in ended:
                continue  # its end, or the next dump, tells what the other one moved
            _, orig, port, reply, zone, ct_id, _ = entry[:7]
            counted = 0
            if _began_later(group, entry):
                connections.forget(key)
                shown = connections.find(orig, reply, zone, ct_id << 16 | port)
                if shown is None:
                    continue
                group, counted = self._find(shown[1], key, entry)
                connections.live[key] = group
            before = connections.counters(key)
            self._count_listed(group, key, entry, counted, before, doubted=False)

    def end_dump(self, at_ns: int) -> int:
        """The dump is whole, at `at_ns`; return how many connections ended untold."""
        self._settle_doubted()
        self._undated.clear()
        self.baseline = Baseline.after_first_dump()
        read_ns = self._first_ns if self.behind else None
        return self.connections.end_dump(at_ns, read_ns)

    def _taken_up(
        self, group: Group, key: int, flow: Flow | None, start_ns: int | None
    ) -> Group | None:
        """Return the group of a connection that has a state; None where it is another one."""
        if self._is_another(key, group, start_ns):
            return None
        if isinstance(group, RestoredGroup) and flow is not None:
            group.recognise(flow)
        return group

    def _is_another(self, key: int, group: Group, start_ns: int | None) -> bool:
        """Say whether a restored connection ended meanwhile, and the kernel's id came again."""
        whole_from_ns = self.baseline.whole_from_ns
        started_since = start_ns is not None and group.began_ns < whole_from_ns <= start_ns
        return started_since and not self.connections.is_same(key)


def _began_later(group: Group, entry: EventTuple) -> bool:
    """Whether a connection that a dump lists began later than all of its group."""
    start_ns = entry[START]
    return start_ns is not None and start_ns > group.began_ns + _ONE_GROUP_NS and not group.folded
