"""
Events of folded connections, many at once: a flood is thousands of them that differ in an address.

What the plain loop (counting.py) does with each is done here by column, for those whose order does
not matter, in less than half the time. All others are left to that loop.
"""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from itertools import compress, repeat
from math import inf
from typing import Final, NamedTuple, TypeVar, cast

from ctk.conntrack.connections import Connections, FourCounters, moved_from
from ctk.conntrack.decode import DESTROY, NEW, EventTuple
from ctk.conntrack.groups import NOTHING, Counters, FoldedGroup, Group, Other, Totals
from ctk.conntrack.outcome import (
    AT,
    ID,
    NO_FAILURE,
    OUTCOME,
    PORT,
    WHAT,
    Outcome,
    counters_of,
    failure,
    four_of,
)
from ctk.conntrack.strangers import Alike, Strangers
from ctk.model.kept import Sides

FEW = 32  # events: they are not worth it
_PAUSE: Final = 16  # batches, after one in which little was alike
# What a batch may have of one connection: all that begin are counted before all that end.
_IN_ORDER: Final = ([NEW], [DESTROY], [NEW, DESTROY])

_T = TypeVar("_T")
_K = TypeVar("_K", bound=Hashable)


class ListedEntries(NamedTuple):
    """
    Entries of a dump, once they are among the live connections.

    Of those that were counted at once there is where each counts and its outcome.
    """

    at_once: Iterable[tuple[Group, Outcome]]
    others: Sequence[EventTuple]


class FoldedAtOnce:
    """
    Counts events of connections that are folded, or are to be.

    `begin` gives the group of connections that begin now, `totals` opens those of a group.
    """

    def __init__(
        self,
        connections: Connections,
        strangers: Strangers,
        begin: Callable[[Other, int], Group],
        totals: Callable[[Group, int, int], Totals],
    ) -> None:
        self._connections = connections
        self._strangers = strangers
        self._begin = begin
        self._totals = totals
        self._pause = 0

    def take(self, events: Sequence[EventTuple]) -> Sequence[EventTuple]:
        """Count what can be counted at once; return what is left, in its order."""
        if not self._strangers.full or not self._strangers.has_cut or len(events) < FEW:
            return events
        if self._pause:
            self._pause -= 1
            return events
        in_order = _in_order(events)
        new = [event for event in in_order if event[WHAT] == NEW]
        begun = self._take_new(new)
        # The end of one whose begin is left is counted after it.
        left = {event[ID] for event in new}.difference(event[ID] for event in begun)
        ended = [e for e in in_order if e[WHAT] == DESTROY and e[ID] not in left]
        taken = [*begun, *self._take_ended(ended)]
        if len(taken) == len(events):
            return ()
        if 4 * len(taken) < len(events):
            self._pause = _PAUSE
        are_taken = set(map(id, taken))
        return [event for event in events if id(event) not in are_taken]

    def take_listed(self, entries: Sequence[EventTuple]) -> ListedEntries:
        """Count what folded connections moved that a dump lists."""
        if not self._strangers.full or len(entries) < FEW:
            return ListedEntries((), entries)
        alike = self._strangers.alike(entries, new=False)
        # An entry may come twice.
        if alike is None or len(set(alike.keys)) < len(alike.keys):
            return ListedEntries((), entries)
        connections = self._connections
        is_measured = counters_of(alike.events[0]) is not None
        moved = self._moved(alike, is_measured=is_measured)
        into = self._folded_under(alike, moved)
        ended = connections.ended or ()
        plain = [
            folded is not None and key not in ended
            for key, folded in zip(alike.keys, into, strict=True)
        ]
        alike, moved = alike.chosen(plain), list(compress(moved, plain))
        groups = [each for each in compress(into, plain) if each is not None]
        listed = connections.are_listed(alike.keys)
        grown = [each is not NOTHING for each in moved]
        if any(grown):
            some, moved = alike.chosen(grown), list(compress(moved, grown))
            for folded, places in _places(compress(groups, grown)):
                counted = _at(places, some.events)
                totals = self._counted(folded, counted, _at(places, some.addresses))
                totals.add(_sum(_at(places, moved)))
            connections.count_events(list(compress(listed, grown)), some.events)
            self._note(moved)
        outcomes = (entry[OUTCOME] for entry in alike.events)
        at_once = zip(groups, cast(Iterable[Outcome], outcomes), strict=True)
        if len(groups) == len(entries):
            return ListedEntries(at_once, ())
        are_taken = set(map(id, alike.events))
        return ListedEntries(at_once, [entry for entry in entries if id(entry) not in are_taken])

    def _take_new(self, events: Sequence[EventTuple]) -> Sequence[EventTuple]:
        """Count connections that begin, and are folded as they do; return their events."""
        connections, strangers = self._connections, self._strangers
        alike = strangers.alike(events, new=True)
        if alike is None:
            return ()
        alike = alike.chosen(connections.are_unknown(alike.keys, alike.events))
        if alike.events:
            alike = alike.chosen(strangers.are_folded_at_once(alike))
        live = connections.live
        for other, places in _places(alike.others):
            some = _at(places, alike.events)
            group = other.group or self._begin(other, some[0][AT])
            live.update(zip(_at(places, alike.keys), repeat(group)))
            totals = self._counted(group, some, _at(places, alike.addresses))
            totals.connections += len(some)
            totals.new_events += len(some)
        return alike.events

    def _take_ended(self, events: Sequence[EventTuple]) -> Sequence[EventTuple]:
        """Count the ends of connections that were folded; return their events."""
        connections = self._connections
        alike = self._strangers.alike(events, new=False)
        if alike is None:
            return ()
        is_measured = counters_of(alike.events[0]) is not None
        moved = self._moved(alike, is_measured=is_measured)
        into = self._folded_under(alike, moved)
        plain = [folded is not None for folded in into]
        alike, moved = alike.chosen(plain), list(compress(moved, plain))
        outcomes = [event[OUTCOME] for event in alike.events]
        of_outcome = dict(zip(outcomes, alike.events, strict=True))
        for (folded, outcome), places in _places(zip(compress(into, plain), outcomes, strict=True)):
            assert folded is not None
            refused, unreplied = failed = failure(of_outcome[outcome])
            group = folded if failed == NO_FAILURE else folded.failures
            some, addresses = _at(places, alike.events), _at(places, alike.addresses)
            totals = self._counted(group, some, addresses, ended=True)
            totals.destroy_events += len(places)
            totals.refused += len(places) * refused
            totals.unreplied += len(places) * unreplied
            if is_measured:
                totals.add(_sum(_at(places, moved)))
        if is_measured:
            self._note(moved)
        connections.drop(alike.keys)
        return alike.events

    def _folded_under(
        self, alike: Alike, moved: Sequence[FourCounters | None]
    ) -> Sequence[FoldedGroup | None]:
        """Say where folded connections count; None where one has a state, or may stand out."""
        live, states = self._connections.live, self._connections.states
        most = self._strangers.most_bytes
        groups = [live.get(key) for key in alike.keys]
        into = {group: _into(group, alike.sides) for group in set(groups)}
        return [
            None if each is None or each[1] + each[3] > most or key in states else into[group]
            for key, group, each in zip(alike.keys, groups, moved, strict=True)
        ]

    def _note(self, moved: Sequence[FourCounters | None]) -> None:
        """Take note of the most that one of them moved."""
        most = max((each[1] + each[3] for each in moved if each is not None), default=0)
        if most and self._strangers.most_bytes < inf:
            self._strangers.have_folded(connections=1, moved_bytes=most)

    def _moved(self, alike: Alike, *, is_measured: bool) -> Sequence[FourCounters | None]:
        """
        Say what connections moved that was not counted, as far as their events tell.

        None where one is not as the others are, measured or not, or its counters went back.
        """
        if not is_measured:
            return [NOTHING if counters_of(event) is None else None for event in alike.events]
        nows = cast(list[FourCounters], list(map(four_of, alike.events)))
        return [
            None if None in now else now if before is None else moved_from(before, now)
            for before, now in zip(self._connections.packed(alike.keys), nows, strict=True)
        ]

    def _counted(
        self,
        group: Group,
        events: Sequence[EventTuple],
        addresses: Iterable[bytes],
        *,
        ended: bool = False,
    ) -> Totals:
        """Give the totals of a folded group, with ports, addresses and times of its events."""
        times = {event[AT] for event in events}
        first_ns = min(times)
        totals = group.totals or self._totals(group, first_ns, events[0][PORT])
        # What came before these may be counted after them.
        totals.started_ns = min(totals.started_ns, first_ns)
        if not ended:
            totals.ended_ns = max(totals.ended_ns, *times)
        port = totals.port
        if port is not None and any(event[PORT] != port for event in events):
            totals.port = None
        assert totals.addresses is not None
        totals.addresses.update(addresses)
        return totals


def _sum(moved: Sequence[FourCounters | None]) -> Counters:
    return Counters(*map(sum, zip(*filter(None, moved), strict=True)))


def _into(group: Group | None, sides: Sides) -> FoldedGroup | None:
    """Say where a connection that is folded counts; None where it is not, by these sides."""
    if group is None or not group.folded:
        return None
    folded = group.into or group
    return folded if isinstance(folded, FoldedGroup) and folded.sides == sides else None


def _in_order(events: Sequence[EventTuple]) -> Sequence[EventTuple]:
    """Leave out events of connections that may come in another order than they are counted in."""
    if len({event[ID] for event in events}) == len(events):
        return events
    by_id: defaultdict[int, list[int]] = defaultdict(list)
    for event in events:
        by_id[event[ID]].append(event[WHAT])
    return [event for event in events if by_id[event[ID]] in _IN_ORDER]


def _places(values: Iterable[_K]) -> Iterable[tuple[_K, Sequence[int]]]:
    """Give each value once, with its places."""
    found: defaultdict[_K, list[int]] = defaultdict(list)
    for place, value in enumerate(values):
        found[value].append(place)
    return found.items()


def _at(places: Sequence[int], values: Sequence[_T]) -> Sequence[_T]:
    """Choose some; most often it is all."""
    return values if len(places) == len(values) else [values[place] for place in places]
