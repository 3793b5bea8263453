"""How full the kernel's table is, and who holds its entries: looks at it, for the file."""

import logging
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from heapq import nlargest
from operator import itemgetter

from ctk.conntrack import statistics, table
from ctk.conntrack.connections import Connections
from ctk.conntrack.decode import EventTuple
from ctk.conntrack.groups import Group, Other, base_of
from ctk.errors import SourceError
from ctk.model import Edge, Endpoint
from ctk.record.attribution import Attribution
from ctk.tableuse import LEFT_OUT, OTHER_HOLDERS, Held, Holder, TableCounters, TableLook, TableUse
from ctk.timespan import MINUTE, SECOND

log = logging.getLogger("ctk")

_OFTEN_NS, _SELDOM_NS = 10 * SECOND, MINUTE  # between two looks: in the first minute, then
_COUNTED_NS = 10 * SECOND  # between two readings of the kernel's counters
MOST_HOLDERS = 100  # rows of a look, by holder and state, besides those of the others
_MOST_ASKED = 2_000  # of whom a look asks who they are: some 20 ms
_MOST_WAITING = 500  # looks that wait for room on the disk, some 10 kB each

# linux/netfilter/nf_conntrack_tcp.h
_TCP_STATES = (
    *("NONE", "SYN_SENT", "SYN_RECV", "ESTABLISHED", "FIN_WAIT", "CLOSE_WAIT", "LAST_ACK"),
    *("TIME_WAIT", "CLOSE", "SYN_SENT2"),
)
# Of other protocols, by IPS_SEEN_REPLY and IPS_ASSURED, as `conntrack -L` marks them.
_STATES = ("UNREPLIED", "REPLIED", "ASSURED", "ASSURED")


class TableWatch:
    """
    Looks at the table each second, and counts who holds it in a dump once a minute.

    A look is kept until it is in the file: `looks` gives them, `written` says that they are.
    """

    def __init__(
        self, connections: Connections, attribution: Attribution, started_ns: int, *, live: bool
    ) -> None:
        self._connections, self._attribution = connections, attribution
        self._started_ns, self._live = started_ns, live
        self._waiting: list[TableLook] = []
        self.use: TableUse | None = None  # the newest, with what was counted since the start
        self._peak = 0
        self._looked_ns = self._held_ns = 0
        self._counted: statistics.Counted | None = None
        self._counted_ns = 0
        self._grown = self._grown_before = TableCounters(*(0,) * len(TableCounters._fields))
        # While a dump is under way that is looked at: entries by who has them and their state.
        self._listing: Counter[tuple[Hashable, int]] | None = None
        self._listed: list[tuple[int, Counter[tuple[Hashable, int]]]] = []  # not named yet
        if live:
            self._count(started_ns)

    def tick(self, at_ns: int) -> None:
        """Look at how full the table is; once a second."""
        self._look(at_ns, last=False)

    def finish(self, at_ns: int) -> None:
        """Look a last time: what was refused since the look before is not to be lost."""
        self._look(at_ns, last=True)

    def _look(self, at_ns: int, *, last: bool) -> None:
        entries = table.sysctl("nf_conntrack_count") if self._live else None
        if entries is None:
            return
        if not 0 <= at_ns - self._counted_ns < _COUNTED_NS:
            self._count(at_ns)
        self._peak = max(self._peak, entries)
        most = table.sysctl("nf_conntrack_max")
        known = self._counted is not None
        self.use = TableUse(at_ns, entries, self._peak, most, self._grown if known else None)
        if last or self._is_due(self._looked_ns, at_ns):
            self._count(at_ns)
            since = [
                now - before for now, before in zip(self._grown, self._grown_before, strict=True)
            ]
            counters = TableCounters._make(since) if self._counted is not None else None
            self._keep(self.use._replace(counters=counters))
            self._looked_ns, self._peak, self._grown_before = at_ns, entries, self._grown

    def begin_dump(self, at_ns: int) -> None:
        """A dump begins: it is looked at where that is due."""
        self._listing = Counter() if self._is_due(self._held_ns, at_ns) else None

    def listed(self, entries: Iterable[EventTuple]) -> None:
        """Count entries that the dump listed, by whose they are; once they are among the live."""
        counts = self._listing
        if counts is None:
            return
        live, flows = self._connections.live, self._connections.flows
        for entry in entries:
            _, orig, port, reply, zone, ct_id, _, status, tcp_state = entry[:9]
            flow = flows.get((orig, reply, zone))
            base = base_of(orig, reply, zone) if flow is None else flow.base
            group = live.get(base | ct_id << 16 | port)
            state = -1 - ((status or 0) >> 1 & 3) if tcp_state is None else tcp_state
            counts[None if group is None else _whose(group), state] += 1

    def end_dump(self, at_ns: int) -> None:
        """The dump is whole."""
        counts, self._listing = self._listing, None
        if counts is None:
            return
        self._held_ns = at_ns
        self._listed.append((at_ns, counts))
        if not self._live:
            entries = counts.total()
            self._keep(TableUse(at_ns, entries, entries, None, None))

    def looks(self) -> Sequence[TableLook]:
        """Give what is not in the file yet, named by what is known now."""
        for at_ns, counts in self._listed:
            self._keep(Held(at_ns, self._by_holder(counts, at_ns)))
        self._listed.clear()
        return self._waiting

    def written(self) -> None:
        """What `looks` gave is in the file."""
        self._waiting.clear()

    def _is_due(self, last_ns: int, at_ns: int) -> bool:
        is_early = at_ns < self._started_ns + MINUTE
        return not 0 <= at_ns - last_ns < (_OFTEN_NS if is_early else _SELDOM_NS)

    def _keep(self, look: TableLook) -> None:
        self._waiting.append(look)
        del self._waiting[:-_MOST_WAITING]

    def _count(self, at_ns: int) -> None:
        before, self._counted_ns = self._counted, at_ns
        try:
            self._counted = statistics.read()
        except SourceError as error:
            log.debug("%s", error.message)
            self._counted = None
            return
        if before is not None:
            more = statistics.grown(before, self._counted)
            self._grown = TableCounters._make(map(sum, zip(self._grown, more, strict=True)))

    def _by_holder(
        self, counts: Counter[tuple[Hashable, int]], at_ns: int
    ) -> dict[tuple[Holder, str], int]:
        """Name who has most, and add the others up by state."""
        asked = dict(nlargest(_MOST_ASKED, counts.items(), key=itemgetter(1)))
        ids = {whose: found for whose, _ in asked if (found := _edge_id(whose)) is not None}
        edges = self._attribution.edges(ids.values())
        holders: dict[Hashable, Holder] = {}
        named: Counter[tuple[Holder, str]] = Counter()
        for (whose, state), entries in counts.items():
            holder = LEFT_OUT if whose is None else OTHER_HOLDERS
            if whose is not None and (whose, state) in asked:
                if whose not in holders:
                    edge = edges.get(ids[whose]) if whose in ids else self._edge(whose, at_ns)
                    holders[whose] = LEFT_OUT if edge is None else _holder_of(edge)
                holder = holders[whose]
            named[holder, _state_name(state)] += entries
        kept: Counter[tuple[Holder, str]] = Counter()
        with_names = {key: n for key, n in named.items() if key[0] not in (LEFT_OUT, OTHER_HOLDERS)}
        largest = set(nlargest(MOST_HOLDERS, with_names, key=with_names.__getitem__))
        for (holder, name), entries in named.items():
            is_small = (holder, name) in with_names and (holder, name) not in largest
            kept[OTHER_HOLDERS if is_small else holder, name] += entries
        return kept

    def _edge(self, whose: Hashable, at_ns: int) -> Edge | None:
        """Say whose entries are that no row has counted, or that may be folded."""
        if isinstance(whose, Group):
            return (
                None if whose.flow is None else self._attribution.edge(whose.flow, whose.began_ns)
            )
        return self._attribution.edge(whose, at_ns) if isinstance(whose, Other) else None


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


def _state_name(state: int) -> str:
    if state < 0:
        return _STATES[-1 - state]
    return _TCP_STATES[state] if state < len(_TCP_STATES) else str(state)
