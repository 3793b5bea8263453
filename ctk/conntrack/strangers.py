"""
Flows of strangers, and what they are folded into where a window has too many of them.

A stranger is an address that nobody in the cluster has. A scan or a flood brings thousands of them
a second, each for one connection. A window keeps the biggest of their flows; of all others the
sums are kept, by what is left of their tuples without the strangers' addresses: an `Other`.

While a window has room, a stranger's flow is a flow like any other. Once it is full the smallest
are folded, and from then on a new one is folded before it costs an object: its address is cut out
of the bytes of its tuples, and what is left finds the `Other`. It gets a flow of its own when it
stands out: with more connections, or more bytes in one look, than all that were folded.
"""

import struct
from collections.abc import Callable, Sequence
from hashlib import blake2b
from itertools import compress
from math import inf
from typing import NamedTuple, cast

from ctk.conntrack.attributes import MalformedError
from ctk.conntrack.decode import EventTuple
from ctk.conntrack.groups import Counters, Ends, Other, StrangerKinds, Totals, base_of
from ctk.conntrack.outcome import ID, ORIG, PORT, REPLY, ZONE
from ctk.conntrack.tuples import Layout, TupleReader
from ctk.model import FlowTuple, Kind
from ctk.model.kept import Sides

MOST_PEERS = 10_000  # flows of strangers that a window keeps, unless --peers says otherwise
# Past so many in a window, what is folded is no longer told apart by its port: a port scan.
MOST_OTHERS = 2_000
_SRC = FlowTuple._fields.index("src")
_NO_STRANGERS: StrangerKinds = (None, None, None)
_MOST_SEEN = 2**15  # flows whose connections are counted to tell which of them stand out


class _TupleCut:
    """
    Tuples of one layout between the same kinds of addresses, and what they are folded into.

    `others` are found by what is left of the tuples' bytes without those of `mask`. Where one side
    is a stranger, `end` is where its address stands, and `same` is where it stands again.
    """

    __slots__ = (
        *("end", "kind", "kinds", "mask", "orig_size", "others", "reply_size", "same", "sides"),
    )

    def __init__(self, layout: Layout, orig: bytes, kinds: StrangerKinds, *, ports: bool) -> None:
        src, dialled, backend = layout.places
        self.kinds = kinds
        self.sides = _sides(kinds)
        self.orig_size, self.reply_size = len(orig), layout.size - len(orig)
        self.mask = layout.mask_without(self.sides, ports=ports)
        self.others: dict[int, Other] = {}
        self.kind: Kind | None = None
        if kinds[1:] == (None, None):
            self.kind, self.end, self.same = kinds[0], src, src
        elif kinds[0] is None and kinds[1] == kinds[2]:
            self.kind, self.end, self.same = kinds[1], dialled, backend


class Alike(NamedTuple):
    """
    Events of flows of strangers that are alike, and of each what a column has.

    `keys` are the connections' (`Connections`), `bases` the flows' part of them.
    """

    events: Sequence[EventTuple]
    keys: Sequence[int]
    bases: Sequence[int]
    others: Sequence[Other]
    addresses: Sequence[bytes]  # the strangers'
    sides: Sides  # on which they are

    def chosen(self, chosen: Sequence[bool]) -> "Alike":
        """Leave out those that are not."""
        if all(chosen):
            return self
        return Alike(
            list(compress(self.events, chosen)),
            list(compress(self.keys, chosen)),
            list(compress(self.bases, chosen)),
            list(compress(self.others, chosen)),
            list(compress(self.addresses, chosen)),
            self.sides,
        )


class Size(NamedTuple):
    """What flows are ranked by. Those that may turn out to be a pod's are folded last."""

    may_be_named: bool
    bytes: int
    connections: int


class Strangers:
    """
    Tells strangers by their addresses, and knows what they are folded into.

    `most` flows of strangers are kept in a window. `kind_of` says which kind of stranger an address
    is, None where somebody has it or may have. `may_be_named` is whether the owner of an unknown
    address may be told later.
    """

    def __init__(
        self,
        kind_of: Callable[[bytes], Kind | None],
        *,
        most: int = MOST_PEERS,
        may_be_named: bool = False,
    ) -> None:
        self.most = most
        self.full = False  # whether new strangers are folded
        # What stands out: more connections, or more bytes in one look, than any that was folded in
        # this window or in the one before.
        self.most_connections = self.most_bytes = inf
        self._folded: tuple[int, int] | None = None  # the most of those of this window
        self._folded_before = (1, 0)
        self._kind_of = kind_of
        self.tuples = TupleReader()
        self._may_be_named = may_be_named
        self._as_of = 0
        self._others: dict[tuple[FlowTuple, StrangerKinds], Other] = {}
        # The same, by what is left of the bytes of tuples, in one look-up.
        self._cuts: dict[tuple[Layout, StrangerKinds, bool], _TupleCut] = {}
        # The one that was used last: a flood is all of one kind.
        self._last: _TupleCut | None = None
        self._seen: dict[int, int] = {}  # connections of folded flows by their base
        self.folded_at_once = 0  # flows, in this window

    def begin_window(self, *, full: bool) -> None:
        """From now on fold only what is too much; with `full`, what is as small as it was."""
        self.full = full or self.most == 0
        if self._folded is not None:
            self._folded_before, self._folded = self._folded, None
            self.most_connections, self.most_bytes = self._folded_before
        self.folded_at_once = 0
        self._others.clear()
        self._seen.clear()
        self.regroup()

    def regroup(self) -> None:
        """More may be known of who has an address: it is asked about anew."""
        self._as_of += 1
        self._last = None
        for cut in self._cuts.values():
            cut.others.clear()

    @property
    def has_cut(self) -> bool:
        """Whether there may be events that are `alike`."""
        return self._last is not None

    def other_of(self, orig: bytes, reply: bytes, zone: int) -> Other | None:
        """
        Return what a flow may be folded into, having looked at it; None where nobody is a stranger.

        None as well for what is not well-formed.
        """
        # In a flood it is asked about each event; so it calls little, and makes little.
        tuples = orig + reply
        number = int.from_bytes(tuples, "big")
        cut = self._last
        if (
            cut is not None
            and len(orig) == cut.orig_size
            and len(reply) == cut.reply_size
            and not zone
        ):
            # What is left is that of a flow before: so is the layout, and so are known addresses.
            other = cut.others.get(number & cut.mask)
            end = tuples[cut.end]
            if other is not None and tuples[cut.same] == end and self._kind_of(end) == cut.kind:
                # What base_of gives.
                digest = blake2b(tuples, digest_size=8).digest()
                other.base, other.ends = int.from_bytes(digest, "big") << 48, (end, end, end)
                return other
        if not zone:
            for layout in self.tuples.layouts.get((len(orig), len(reply)), ()):
                if number & layout.mask == layout.template:
                    return self._other_like(layout, orig, reply, number)
        return self._other_of_parsed(orig, reply, zone)

    def alike(self, events: Sequence[EventTuple], *, new: bool) -> "Alike | None":
        """
        Choose events of flows that are like one that was looked at before, but for the stranger.

        Where they are `new`, whoever it is now must be a stranger, too. None where there are none.
        """
        cut = self._last
        if cut is None or not events:
            return None
        sizes = cut.orig_size, cut.reply_size
        alike = [e for e in events if (len(e[ORIG]), len(e[REPLY])) == sizes and not e[ZONE]]
        tuples = [event[ORIG] + event[REPLY] for event in alike]
        mask, end, same = cut.mask, cut.end, cut.same
        others = [cut.others.get(number & mask) for number in map(int.from_bytes, tuples)]
        ends = [each[end] for each in tuples]
        ok = None not in others and (end == same or ends == [each[same] for each in tuples])
        strange = set(ends)
        if new:
            strange = {each for each in strange if self._kind_of(each) == cut.kind}
            ok = ok and len(strange) == len(set(ends))
        if not ok:
            plain = [
                other is not None and each[same] == address and address in strange
                for other, each, address in zip(others, tuples, ends, strict=True)
            ]
            alike, tuples = list(compress(alike, plain)), list(compress(tuples, plain))
            others, ends = list(compress(others, plain)), list(compress(ends, plain))
        if not alike:
            return None
        digests = b"".join([blake2b(each, digest_size=8).digest() for each in tuples])
        # What base_of gives.
        bases = [base << 48 for base in struct.unpack(f">{len(alike)}Q", digests)]
        keys = [
            base | event[ID] << 16 | event[PORT] for base, event in zip(bases, alike, strict=True)
        ]
        return Alike(alike, keys, bases, cast(list[Other], others), ends, cut.sides)

    def _other_like(self, layout: Layout, orig: bytes, reply: bytes, number: int) -> Other | None:
        """The same, of tuples of a layout that is known; `number` is their bytes."""
        tuples = orig + reply
        ends = layout.ends(tuples)
        kinds = self._kinds(ends)
        if kinds == _NO_STRANGERS:
            return None
        with_ports = len(self._others) < MOST_OTHERS
        cut = self._cuts.get((layout, kinds, with_ports))
        if cut is None:
            cut = self._cuts[layout, kinds, with_ports] = _TupleCut(
                layout, orig, kinds, ports=with_ports
            )
        if cut.kind is not None:
            self._last = cut
        rest = number & cut.mask
        other = cut.others.get(rest)
        if other is None:
            other = self._other(layout.read(tuples, 0), kinds, with_ports=with_ports)
            cut.others[rest] = other
        other.base, other.ends = base_of(orig, reply, 0), ends
        return other

    def _other_of_parsed(self, orig: bytes, reply: bytes, zone: int) -> Other | None:
        """The same, of tuples of a layout that was not met before, or of a rare one."""
        try:
            flow = self.tuples.read(orig, reply, zone)
        except MalformedError:
            return None
        ends = (flow.src, flow.dst, flow.reply_src)
        kinds = self._kinds(ends)
        if kinds == _NO_STRANGERS:
            return None
        other = self._other(flow, kinds, with_ports=len(self._others) < MOST_OTHERS)
        other.base, other.ends = base_of(orig, reply, zone), ends
        return other

    def _kinds(self, ends: Ends) -> StrangerKinds:
        src, dialled, backend = ends
        kind_of = self._kind_of
        of_dialled = kind_of(dialled)
        of_backend = of_dialled if backend == dialled else kind_of(backend)
        return kind_of(src), of_dialled, of_backend

    def _other(self, flow: FlowTuple, kinds: StrangerKinds, *, with_ports: bool) -> Other:
        cut = _cut(flow, kinds, with_ports=with_ports)
        other = self._others.get((cut, kinds))
        if other is None:
            other = self._others[cut, kinds] = Other(cut, kinds, self._as_of)
        return other

    def is_folded_at_once(self, other: Other) -> bool:
        """Say whether the new flow that was looked at last is to be folded as it begins."""
        return self._folds_at_once(other) and self._is_small(other.base)

    def are_folded_at_once(self, alike: Alike) -> Sequence[bool]:
        """Say the same of new flows that are alike."""
        if not self._folds_at_once(alike.others[0]):
            return [False] * len(alike.bases)
        seen, first = self._seen, dict.fromkeys(alike.bases, 1)
        if (
            len(first) == len(alike.bases)
            and seen.keys().isdisjoint(first)
            and len(seen) + len(first) <= _MOST_SEEN
        ):
            seen.update(first)
            self.folded_at_once += len(first)
            return [True] * len(first)
        return list(map(self._is_small, alike.bases))

    def _folds_at_once(self, other: Other) -> bool:
        return self.full and not (self._may_be_named and "unknown" in other.kinds)

    def _is_small(self, base: int) -> bool:
        """Count a connection of a flow; say whether it has no more than those that are folded."""
        seen = self._seen
        connections = seen.get(base, 0) + 1
        if connections > self.most_connections:
            return False
        self.folded_at_once += connections == 1
        if len(seen) >= _MOST_SEEN:
            seen.clear()
        seen[base] = connections
        if connections > 1 and self.most_connections < inf:
            self.have_folded(connections=connections, moved_bytes=0)
        return True

    def have_folded(self, *, connections: int, moved_bytes: int) -> None:
        """Take note of the most that flows have which are folded."""
        before = self._folded or (1, 0)
        most = self._folded = max(before[0], connections), max(before[1], moved_bytes)
        self.most_connections = max(self._folded_before[0], most[0])
        self.most_bytes = max(self._folded_before[1], most[1])

    @property
    def most_moved(self) -> int:
        """The most bytes that a flow has, or moved in one look, which was folded in this window."""
        return 0 if self._folded is None else self._folded[1]

    def stands_out(self, moved: Counters) -> bool:
        """Say whether a folded connection that moved so much at once is to be told apart."""
        moved_bytes = moved.bytes_out + moved.bytes_in
        if moved_bytes > self.most_bytes:
            return True
        if moved_bytes and self.most_bytes < inf:
            self.have_folded(connections=1, moved_bytes=moved_bytes)
        return False

    def size_of(self, several: Sequence[Totals]) -> Size:
        """Say how big a flow is that has these totals."""
        other, may_be_named = several[0].group.other, False
        if self._may_be_named and other is not None:
            may_be_named = "unknown" in other.kinds
        connections = moved_bytes = 0
        for each in several:
            connections += each.connections
            moved_bytes += each.bytes_out + each.bytes_in
        return Size(may_be_named, moved_bytes, connections)

    def are_strange(self, ends: Ends, other: Other) -> bool:
        """Say whether addresses are still what they were: meanwhile somebody may have told."""
        return other.as_of == self._as_of or all(
            kind is None or self._kind_of(end) == kind
            for end, kind in zip(ends, other.kinds, strict=True)
        )


def _sides(kinds: StrangerKinds) -> Sides:
    return Sides(*(kind is not None for kind in kinds))


def _cut(flow: FlowTuple, kinds: StrangerKinds, *, with_ports: bool) -> FlowTuple:
    """
    Leave the strangers' addresses out of tuples, and what follows from them.

    What a stranger is translated to goes with it; the port of a stranger who answers does, but for
    the one that was dialled.
    """
    src, dialled, backend = kinds
    dst_port = flow.dst_port if with_ports else None
    return FlowTuple._make(  # _replace takes 0.4 us more
        (
            *flow[:_SRC],  # what stands before the addresses is no stranger's
            b"" if src else flow.src,
            b"" if dialled else flow.dst,
            dst_port,
            b"" if backend else flow.reply_src,
            dst_port if backend or not with_ports else flow.reply_src_port,
            b"" if src else flow.reply_dst,
        )
    )
