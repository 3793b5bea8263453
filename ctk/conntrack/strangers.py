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

from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import NamedTuple

from ctk.conntrack.attributes import MalformedError
from ctk.conntrack.groups import Counters, Ends, Other, StrangerKinds, Totals, base_of
from ctk.conntrack.tuples import Layout, TupleReader
from ctk.model import FlowTuple, Kind
from ctk.model.kept import Sides

MOST_PEERS = 10_000  # flows of strangers that a window keeps, unless --peers says otherwise
# Past so many in a window, what is folded is no longer told apart by its port: a port scan.
MOST_OTHERS = 2_000
_NO_STRANGERS: StrangerKinds = (None, None, None)
_MOST_SEEN = 2**15  # flows whose connections are counted to tell which of them stand out


class _Cut:
    """
    Tuples of one layout between the same kinds of addresses, and what they are folded into.

    `others` are found by what is left of the tuples' bytes without those of `mask`. Where one side
    is a stranger, `end` is where its address stands, and `same` is where it stands again.
    """

    __slots__ = ("end", "kind", "kinds", "mask", "orig_size", "others", "reply_size", "same")

    def __init__(self, layout: Layout, orig: bytes, kinds: StrangerKinds, *, ports: bool) -> None:
        src, dialled, backend = layout.places
        self.kinds = kinds
        self.orig_size, self.reply_size = len(orig), layout.size - len(orig)
        self.mask = layout.mask_without(_sides(kinds), ports=ports)
        self.others: dict[int, Other] = {}
        self.kind: Kind | None = None
        if kinds[1:] == (None, None):
            self.kind, self.end, self.same = kinds[0], src, src
        elif kinds[0] is None and kinds[1] == kinds[2]:
            self.kind, self.end, self.same = kinds[1], dialled, backend


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
        self.biggest_folded: Size | None = None  # of those that stood in a window before
        self._kind_of = kind_of
        self.tuples = TupleReader()
        self._may_be_named = may_be_named
        self._as_of = 0
        self._others: dict[tuple[FlowTuple, StrangerKinds], Other] = {}
        # The same, by what is left of the bytes of tuples, in one look-up.
        self._cuts: dict[tuple[Layout, StrangerKinds, bool], _Cut] = {}
        self._last: _Cut | None = None  # the one that was used last: a flood is all of one kind
        self._seen: dict[int, int] = {}  # connections of folded flows by their base
        self.folded_at_once = 0  # flows, in this window

    def begin_window(self, *, full: bool) -> None:
        """From now on fold only what is too much; with `full`, what is as small as it was."""
        self.full = full or self.most == 0
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
            cut = self._cuts[layout, kinds, with_ports] = _Cut(
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
        if not self.full or (self._may_be_named and "unknown" in other.kinds):
            return False
        seen, biggest = self._seen, self.biggest_folded
        connections = seen.get(other.base, 0) + 1
        if biggest is not None and connections > biggest.connections:
            return False
        self.folded_at_once += connections == 1
        if len(seen) >= _MOST_SEEN:
            seen.clear()
        seen[other.base] = connections
        return True

    def stands_out(self, moved: Counters) -> bool:
        """Say whether a folded connection that moved so much at once is to be told apart."""
        biggest = self.biggest_folded
        return biggest is not None and moved.bytes_out + moved.bytes_in > biggest.bytes

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
    return FlowTuple(
        flow.proto,
        flow.zone,
        b"" if src else flow.src,
        b"" if dialled else flow.dst,
        dst_port,
        b"" if backend else flow.reply_src,
        dst_port if backend or not with_ports else flow.reply_src_port,
        b"" if src else flow.reply_dst,
    )
