"""
Events counted many at once, where each of them is plain: what a flood is made of.

The columns of a run of messages say which connections begin or are updated, and nothing is made of
an event but its key. It takes a third of the time of one at a time (`EventCounter`), which counts
all that is not plain: ends, flows that are new, connections whose begin was not seen, strangers.
"""

import struct
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import repeat
from operator import or_

from ctk.conntrack.baseline import Baseline
from ctk.conntrack.connections import Connections
from ctk.conntrack.counting import Aggregation, EventCounter
from ctk.conntrack.decode import NEW, UPDATE, EventTuple, Part, events_of
from ctk.conntrack.groups import Flow, Group
from ctk.conntrack.outcome import AT
from ctk.conntrack.runs import Columns
from ctk.model import COUNTS_CONNECTION, COUNTS_NEW, COUNTS_UPDATE

_MOST_FLOWS = 4096  # by their tuples' bytes, 250 bytes each
_PAUSE = 32  # parts, after one with a stranger: it took a fifth of the time for nothing
_PORT = (1 << 16) - 1
_BEGUN, _UPDATED = COUNTS_CONNECTION | COUNTS_NEW, COUNTS_UPDATE
_NEW = struct.pack(">I", NEW)


class PartCounter(EventCounter):
    """Adds the parts of a batch to the totals of their groups, in the window that is open."""

    def __init__(
        self, connections: Connections, baseline: Baseline, aggregation: Aggregation
    ) -> None:
        super().__init__(connections, baseline, aggregation)
        # Flows without a stranger, by the bytes of both tuples with 0 for the source port.
        self._flows: dict[bytes, Flow] = {}
        self._pause = 0
        # Groups of the open window that have several source ports, and are not to be folded.
        self._several: set[Group] = set()
        # What is counted and not added to the totals yet, by group: a window has many events of
        # one. And when the last of them was read, where the kernel does not say when it was.
        self._begun: Counter[Group] = Counter()
        self._updated: Counter[Group] = Counter()
        self._read_ns: dict[Group, int] = {}
        # When the last of what counts in the open window was read: the clock may step back.
        self._latest_ns = 0

    def _look_anew(self) -> None:
        """Another window begins, or other flows may be strangers' from here on."""
        self._flows.clear()
        self._several.clear()

    def _count_parts(self, parts: Iterable[Part]) -> None:
        one_by_one: list[EventTuple] = []
        for part in parts:
            flows = self._flows_of(part) if isinstance(part, Columns) else None
            if flows is None or not isinstance(part, Columns):
                one_by_one += events_of([part])
                continue
            if one_by_one:
                self._count(one_by_one)
                one_by_one = []
            done = self._count_together(part, flows)
            if done < len(part):
                one_by_one = part.events()[done:]
        self._count(one_by_one)

    def _count_together(self, columns: Columns, flows: Sequence[Flow]) -> int:
        """Count events as long as they are plain; return how many were."""
        places = columns.places
        assert places is not None
        own = columns.own(places)
        keys = list(map(or_, [flow.base for flow in flows], own))
        begun: Sequence[Group] = ()
        updated: Sequence[Group] = ()
        if columns.is_all(_NEW, places):
            groups = begun = self._begin_all(flows, keys)
        else:
            groups, begun, updated = self._begin_and_update(flows, keys, columns.whats(places))
        if not groups:
            return 0
        times = columns.times(places)
        if not self._several.issuperset(groups):
            self._see_ports(groups, own, times)
        if places.at is None and columns.at_ns >= self._latest_ns:
            self._read_ns.update(zip(groups, repeat(columns.at_ns)))
        else:
            _see_times(groups, times)
        if self._apart:
            self._keep_all_apart(groups, own, times, columns.whats(places) if updated else ())
        else:  # nobody asks what events apart come to, but for a restored group's that is folded
            self._begun.update(begun)
        self._updated.update(updated)
        self.events += len(groups)
        return len(groups)

    def _flows_of(self, columns: Columns) -> list[Flow] | None:
        """
        Return the flow of each event, where all of them begin or are updated.

        None where one does not, or its flow is new, unwanted, or has a stranger.
        """
        places = columns.places
        if places is None or self._by_port:
            return None
        if self._pause:
            self._pause -= 1
            return None
        if not columns.is_all(_NEW, places):
            whats = columns.whats(places)
            if whats.count(NEW) + whats.count(UPDATE) < len(whats):
                return None
        flows = columns.flows(places, self._flows.get)
        if all(flows):
            return flows  # type: ignore[return-value]
        orig, reply = slice(places.port - places.tuples), slice(places.reply - places.tuples, None)
        known, entered = self._flows, self.connections.flows.get
        if len(known) >= _MOST_FLOWS:
            known.clear()
        found: list[Flow] = []
        for of in columns.flows(places, bytes):
            flow = known.get(of)
            if flow is None:
                flow = entered((of[orig], of[reply], 0))
                if flow is None or flow.other is not None:
                    self._pause = _PAUSE
                    return None
                known[of] = flow
            found.append(flow)
        return found

    def _begin_all(self, flows: Sequence[Flow], keys: Sequence[int]) -> Sequence[Group]:
        """Enter connections that begin; nothing where one lives, or is the first of its group."""
        groups = [flow.group for flow in flows]
        if not all(groups):
            return ()
        live = self.connections.live
        lived = len(live)
        # Each look-up waits for the memory; those that follow find there what was looked up.
        if not live.keys().isdisjoint(keys):
            return ()
        live.update(zip(keys, groups, strict=True))  # type: ignore[arg-type]
        if len(live) < lived + len(keys):  # one begins twice
            while len(live) > lived:
                live.popitem()  # what was entered last
            return ()
        return groups  # type: ignore[return-value]

    def _begin_and_update(
        self, flows: Sequence[Flow], keys: Sequence[int], whats: Sequence[int]
    ) -> tuple[Sequence[Group], Sequence[Group], Sequence[Group]]:
        """Enter and look up connections as long as they are plain: all, begun, and updated."""
        live = self.connections.live
        groups: list[Group] = []
        begun: list[Group] = []
        updated: list[Group] = []
        for flow, key, what in zip(flows, keys, whats, strict=True):
            group = live.get(key)
            if what == UPDATE:
                if group is None or group.folded or group.other is not None:
                    break  # its totals may be folded before what is counted here is added
                updated.append(group)
            else:
                if group is not None or flow.group is None:
                    break
                group = live[key] = flow.group
                begun.append(group)
            groups.append(group)
        return groups, begun, updated

    def _see_ports(self, groups: Sequence[Group], own: Sequence[int], times: Sequence[int]) -> None:
        """Begin totals where there are none, and say which groups have several source ports."""
        for group, bits, at_ns in zip(groups, own, times, strict=False):
            port = bits & _PORT
            totals = self._totals(group, at_ns, port)
            if totals.port is None and group.other is None:
                self._several.add(group)

    def _keep_all_apart(
        self,
        groups: Sequence[Group],
        own: Sequence[int],
        times: Sequence[int],
        whats: Sequence[int],
    ) -> None:
        """Keep the events themselves. `whats` says which of them are updates, if there are any."""
        done = len(groups)
        counts = [_BEGUN] * done
        if whats:
            counts = [_BEGUN if what == NEW else _UPDATED for what in whats[:done]]
        self._lone.extend(times[:done], groups, [bits & _PORT for bits in own[:done]], counts)

    def _add_counted(self) -> None:
        """Add what was counted to the totals: the window is over."""
        for group, count in self._begun.items():
            totals = group.totals
            assert totals is not None
            totals.connections += count
            totals.new_events += count
        for group, count in self._updated.items():
            totals = group.totals
            assert totals is not None
            totals.update_events += count
        _see_times(self._read_ns.keys(), self._read_ns.values())
        self._begun.clear()
        self._updated.clear()
        self._read_ns.clear()


def _see_times(groups: Iterable[Group], times: Iterable[int]) -> None:
    """Do what Totals.see does, for each event."""
    for group, at_ns in zip(groups, times, strict=False):
        totals = group.totals
        assert totals is not None
        if at_ns > totals.ended_ns:
            totals.ended_ns = at_ns
        elif at_ns < totals.started_ns:
            totals.started_ns = at_ns


def first_ns(parts: Sequence[Part]) -> int | None:
    """Say when the first event of a batch happened."""
    for part in parts:
        if isinstance(part, Columns):
            return part.first_ns()
        if part:
            return part[0][AT]
    return None
