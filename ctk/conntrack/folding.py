"""
Which flows of strangers a window keeps, and where the others are counted (strangers.py).

The biggest are kept: by bytes, then by connections. Of those that are as big as the biggest that
is folded none is kept, so that it is no matter of luck who is: of a flood of equals, nobody. While
such a flood goes on, the next window does not wait until it is full: it keeps what is bigger.
"""

from collections import defaultdict

from ctk.conntrack.groups import FoldedGroup, Group, Other, Totals
from ctk.conntrack.strangers import Size, Strangers
from ctk.timespan import SECOND


class Folding:
    """Folds what a window has too many of: in between where it grows too large, and at its end."""

    def __init__(self, strangers: Strangers) -> None:
        self._strangers = strangers
        # By what they are left with, and the second in which their connections began.
        self._groups: dict[tuple[int, int], FoldedGroup] = {}
        # Each flow that is folded when the window is full has cost ten times one that never was.
        self._slack = strangers.most // 4
        self._kept = 0  # flows of strangers in the parts of the window that were handed over
        self._folded: Size | None = None  # the biggest in this window
        self.begin_window()

    def begin_window(self) -> None:
        strangers = self._strangers
        equals = strangers.folded_at_once > strangers.most and self._kept <= strangers.most // 10
        strangers.begin_window(full=equals)
        self._kept = 0
        if not equals:
            self._folded = None
        self._begin_part()

    def _begin_part(self) -> None:
        self._entered = 0  # totals of strangers that are not folded, in this part of the window
        self._most = self._strangers.most + self._slack

    def regroup(self) -> None:
        """From now on others have new groups: who their known side belongs to may differ."""
        self._groups.clear()
        self._strangers.regroup()

    def group(self, other: Other, began_ns: int) -> FoldedGroup:
        """Return the group of connections that are folded and began then."""
        key = (id(other), began_ns // SECOND)
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = FoldedGroup(other, other.sides, began_ns)
        return group

    def enter(self, open_totals: list[Totals]) -> None:
        """Take note that totals of a stranger are about to be opened; make room for them."""
        self._entered += 1
        if self._entered > self._most:
            self._fold_smallest(open_totals)
            self._entered = 1 + sum(each.group.other is not None for each in open_totals)
            self._most = self._entered + self._slack

    def close(self, open_totals: list[Totals]) -> None:
        """Fold what is too much in a window that is over, or in a part of it."""
        if self._entered:
            self._fold_smallest(open_totals)
            self._kept += len(_by_flow(open_totals))
        self._begin_part()

    def _fold_smallest(self, open_totals: list[Totals]) -> None:
        """Leave the biggest, for as many as there is room; none as small as one that is folded."""
        strangers = self._strangers
        room = max(0, strangers.most - self._kept)
        flows = _by_flow(open_totals)
        size = strangers.size_of
        sizes = {key: size(several) for key, several in flows.items()}
        if len(flows) > room:
            biggest = sorted(sizes.values(), reverse=True)[room]
            if self._folded is None or biggest > self._folded:
                self._folded = biggest
            strangers.full = True
        if self._folded is None:
            return
        # One that was folded as it began, and moved so much, is a flow as big as this.
        self._folded = max(self._folded, Size(False, strangers.most_moved, 1))
        small = {key: size for key, size in sizes.items() if size <= self._folded}
        strangers.have_folded(
            connections=max((size.connections for size in small.values()), default=0),
            moved_bytes=max((size.bytes for size in small.values()), default=0),
        )
        for key in small:
            for totals in flows[key]:
                self._fold(totals, open_totals)
        open_totals[:] = [each for each in open_totals if each.group.totals is each]

    def _fold(self, totals: Totals, open_totals: list[Totals]) -> None:
        """Count totals under what they are folded into, with all that comes of their group."""
        group, ends = totals.group, totals.group.ends
        into = self.fold_group(group)
        if into is None or ends is None:
            return
        target = into.failures if totals.refused or totals.unreplied else into
        opened = target.totals
        if opened is None:
            opened = Totals(target, totals.started_ns, totals.port or 0)
            opened.ended_ns = totals.ended_ns
            target.totals = opened
            open_totals.append(opened)
        opened.take(totals)
        assert opened.addresses is not None
        opened.addresses.add(ends)
        group.totals = None

    def fold_group(self, group: Group) -> FoldedGroup | None:
        """Fold all that comes of a group of strangers; None where somebody told who it is."""
        other, ends = group.other, group.ends
        assert other is not None
        assert ends is not None
        group.other = None
        if not self._strangers.are_strange(ends, other):
            return None
        group.into, group.folded = self.group(other, group.began_ns), True
        group.ends = None
        if not group.waits:  # for an edge of its own, which the flow tells
            group.flow = None
        return group.into


def _by_flow(open_totals: list[Totals]) -> dict[int, list[Totals]]:
    """Give the totals of strangers by their flow, or by their edge once that is all they need."""
    found: defaultdict[int, list[Totals]] = defaultdict(list)
    for totals in open_totals:
        group: Group = totals.group
        if group.other is not None:
            found[group.edge_id or 0 if group.flow is None else group.flow.base].append(totals)
    return found
