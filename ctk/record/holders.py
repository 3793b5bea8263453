"""
Who holds the entries that a dump lists: counted as it comes, and named in slices afterwards.

A dump may list a million, of as many flows: what is counted is by edge, and by what strangers of
one kind may be folded into. Whoever holds little is summed up with others, first whatever port was
dialled, then whoever was. So the rows are few, and add up to all that was listed.
"""

from collections import Counter
from collections.abc import Callable, Hashable
from heapq import nlargest
from itertools import islice

from ctk.conntrack.alike import ListedEntries
from ctk.conntrack.connections import Connections
from ctk.conntrack.groups import Group, Other, base_of
from ctk.model import Edge, Endpoint
from ctk.model.tableuse import LEFT_OUT, OTHER_HOLDERS, Held, Holder
from ctk.record.attribution import Attribution

MOST_HOLDERS = 100  # rows by holder and state that stand as they are; half as many of each sum
_MOST_NAMED = 10_000  # rows while they are being named: further ones are of any port

# linux/netfilter/nf_conntrack_tcp.h
_TCP_STATES = (
    *("NONE", "SYN_SENT", "SYN_RECV", "ESTABLISHED", "FIN_WAIT", "CLOSE_WAIT", "LAST_ACK"),
    *("TIME_WAIT", "CLOSE", "SYN_SENT2"),
)
# Of other protocols, by IPS_SEEN_REPLY and IPS_ASSURED, as `conntrack -L` marks them.
_STATES = ("UNREPLIED", "REPLIED", "ASSURED", "ASSURED")

_HolderRows = Counter[tuple[Holder, str]]


class Holders:
    """The entries of one dump, by who holds them and their state."""

    def __init__(self, connections: Connections, attribution: Attribution) -> None:
        self._connections, self._attribution = connections, attribution
        self._counts: Counter[tuple[Hashable, int]] = Counter()
        self._named: _HolderRows = Counter()
        self._at_ns = 0

    def count(self, listed: ListedEntries) -> None:
        """Count entries that the dump listed."""
        counts, live, flows = self._counts, self._connections.live, self._connections.flows
        for (folded, outcome), entries in Counter(listed.at_once).items():
            counts[_whose(folded), _state(*outcome)] += entries
        for entry in listed.others:
            _, orig, port, reply, zone, ct_id, _, status, tcp_state = entry[:9]
            flow = flows.get((orig, reply, zone))
            base = base_of(orig, reply, zone) if flow is None else flow.base
            group = live.get(base | ct_id << 16 | port)
            whose = None if group is None else _whose(group)
            counts[whose, _state(status, tcp_state)] += 1

    def end(self, at_ns: int) -> int:
        """The dump is whole; give how many entries it listed."""
        self._at_ns = at_ns
        return self._counts.total()

    @property
    def unnamed(self) -> int:
        return len(self._counts)

    def name(self, most: int) -> None:
        """Say who holds some of what has no name yet: some 8 us each."""
        some = dict(islice(self._counts.items(), most))
        ids = {whose: found for whose, _ in some if (found := _edge_id(whose)) is not None}
        edges = self._attribution.edges(ids.values())
        for (whose, state), entries in some.items():
            del self._counts[whose, state]
            edge = edges.get(ids[whose]) if whose in ids else self._edge(whose)
            row = (LEFT_OUT if edge is None else _holder_of(edge), _state_name(state))
            if len(self._named) >= _MOST_NAMED and row not in self._named:
                row = (_of_any_port(row[0]), row[1])
            self._named[row] += entries

    def held(self) -> Held:
        """Give the rows; what has no name yet is of others."""
        special: _HolderRows = Counter()
        for (_, state), entries in self._counts.items():
            special[OTHER_HOLDERS, _state_name(state)] += entries
        rest: _HolderRows = Counter()
        for row, entries in self._named.items():
            (special if row[0] == LEFT_OUT else rest)[row] += entries
        kept: _HolderRows = Counter()
        for most, summed in _SUMS:
            sums: _HolderRows = Counter()
            for (holder, name), entries in rest.items():
                sums[summed(holder), name] += entries
            for row in nlargest(most, sums, key=sums.__getitem__):
                kept[row] += sums.pop(row)
            rest = sums
        for (_, name), entries in rest.items():
            special[OTHER_HOLDERS, name] += entries
        return Held(self._at_ns, kept + special)

    def _edge(self, whose: Hashable) -> Edge | None:
        """Say whose entries are that no row has counted, or that may be folded."""
        if isinstance(whose, Group):
            return (
                None if whose.flow is None else self._attribution.edge(whose.flow, whose.began_ns)
            )
        return self._attribution.edge(whose, self._at_ns) if isinstance(whose, Other) else None


def _of_any_port(holder: Holder) -> Holder:
    return holder._replace(port=None)


def _of_client(holder: Holder) -> Holder:
    return Holder(holder.proto, holder.client_kind, holder.client, None, None, None, None)


_SUMS: tuple[tuple[int, Callable[[Holder], Holder]], ...] = (
    (MOST_HOLDERS, lambda holder: holder),
    (MOST_HOLDERS // 2, _of_any_port),
    (MOST_HOLDERS // 2, _of_client),
)


def _whose(group: Group) -> Hashable:
    """Give what connections of the same names have in common, as far as it costs nothing."""
    if group.other is not None:
        return group.other
    group = group.into or group
    return group if group.edge_id is None else group.edge_id


def _edge_id(whose: Hashable) -> int | None:
    if isinstance(whose, Group):
        return whose.edge_id
    return whose if isinstance(whose, int) else None


def _holder_of(edge: Edge) -> Holder:
    return Holder(
        edge.flow.proto,
        edge.src.kind,
        _name_of(edge.src),
        edge.service,
        edge.backend.kind,
        _name_of(edge.backend),
        edge.flow.dst_port,
    )


def _name_of(endpoint: Endpoint) -> str | None:
    """Spell a workload, or who has none; None where nobody is known."""
    name = endpoint.workload or endpoint.name
    if name is None or endpoint.namespace is None:
        return name
    return f"{endpoint.namespace}/{name}"


def _state(status: int | None, tcp_state: int | None) -> int:
    return -1 - ((status or 0) >> 1 & 3) if tcp_state is None else tcp_state


def _state_name(state: int) -> str:
    if state < 0:
        return _STATES[-1 - state]
    return _TCP_STATES[state] if state < len(_TCP_STATES) else str(state)
