"""Live connections as a clean stop keeps them: many in one row, since there may be millions."""

from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping

from ctk.conntrack.groups import FoldedGroup, Group
from ctk.model.kept import LiveConnections

_OF_FLOW = (1 << 48) - 1  # the bits of a key that are the connection's own


def packed(
    some: Iterable[tuple[int, Group]],
    counters: Mapping[int, bytes],
    ask: Callable[[Group], object],
) -> Iterator[LiveConnections]:
    """
    Yield live connections, by their key, with what of them was counted so far.

    `ask` is called with each group they count under; where its edge is unknown then, they are left
    out.
    """
    unmeasured, measured = _Packing(ask), _Packing(ask)
    for key, group in some:
        if counters:
            counted = counters.get(key)
            if counted is not None:
                measured.take(key, group).counters.append(counted)
                continue
        # A list of keys, whose numbers lie far apart in memory, takes 0.1 us more.
        add = unmeasured[group]
        if add is None:
            unmeasured.take(key, group)
        else:
            add(key & _OF_FLOW)
    for packing in (unmeasured, measured):
        for group, kept in packing.kept.items():
            if group.edge_id is None:
                continue
            yield LiveConnections(
                flow=b"".join([flow.to_bytes(8, "big") for flow in kept.flows]),
                began_ns=group.began_ns,
                edge_id=group.edge_id,
                has_ports=group.has_ports,
                keys=kept.own.tobytes(),
                counters=None if packing is unmeasured else b"".join(kept.counters),
                folded=group.sides if isinstance(group, FoldedGroup) else None,
            )


class _Packed:
    """Connections that count under one group, as a clean stop keeps them."""

    __slots__ = ("counters", "flows", "own")

    def __init__(self) -> None:
        self.own = array("Q")  # the bits of their keys that are their own
        self.flows: list[int] = []  # of one, or where folded of each
        self.counters: list[bytes] = []


class _Packing(dict[Group, Callable[[int], None] | None]):
    """
    Connections by what they count under.

    Gives for a group what adds a connection's own bits; None where more of it is needed: of the
    first one, and of those that are folded.
    """

    def __init__(self, ask: Callable[[Group], object]) -> None:
        self.kept: dict[Group, _Packed] = {}
        self._ask = ask

    def __missing__(self, group: Group) -> None:
        return None

    def take(self, key: int, group: Group) -> _Packed:
        under = group.into or group
        kept = self.kept.get(under)
        if kept is None:
            kept = self.kept[under] = _Packed()
            self._ask(under)
        kept.own.append(key & _OF_FLOW)
        if under.folded or not kept.flows:
            kept.flows.append(key >> 48)
        if not under.folded:
            self[group] = kept.own.append
        return kept
