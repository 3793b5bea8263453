"""
Who a group of connections belongs to: where what the kernel says meets what Kubernetes says.

A group is asked about once, for all its connections, by when they began: who dialled, which
service, who answered. What it gets is the id of that edge's row. An id stands in the file with the
next window; if that window fails the id is void, and the group is asked about again.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import NamedTuple

from ctk.conntrack.groups import (
    NO_STRANGERS,
    Flow,
    FoldedGroup,
    Group,
    Other,
    StrangerKinds,
)
from ctk.kube.endpoints import Endpoints
from ctk.model import OTHER, Edge, Endpoint, FlowTuple, Kind
from ctk.model.addresses import address_text

_MOST_CACHED = 16_384


class _EdgeAnswer(NamedTuple):
    edge_id: int
    until_ns: int  # up to when it holds if nothing changes


class Attribution:
    """
    Gives groups the ids of their edges.

    `id_of` gives the id of an edge's row, `read` the edges of ids that are in the file, `earlier`
    the id under which an earlier recording has connections of a flow that began at a time.
    """

    def __init__(
        self,
        endpoints: Endpoints,
        id_of: Callable[[Edge], int],
        read: Callable[[Iterable[int]], Mapping[int, Edge]],
        earlier: Callable[[FlowTuple, int], int | None] = lambda flow, began_ns: None,
    ) -> None:
        self._endpoints = endpoints
        self._id_of = id_of
        self._read = read
        self._earlier = earlier
        # Answers that hold for whatever begins after the last change of the cluster, by the flow's
        # `identity`, a cheap hash; for folded flows by the tuple without the strangers' parts.
        self._answers: dict[Hashable, _EdgeAnswer] = {}
        self._pending: dict[int, Edge] = {}  # given out since the last window that was written

    def edge_id(self, group: Group) -> int:
        """Return the id of the edge that the group's connections belong to."""
        if isinstance(group, FoldedGroup):
            return self._of_folded(group)
        if group.edge_id is None:
            if group.flow is None:
                raise RuntimeError("a group without a flow has an edge")
            flow, began_ns = group.flow, group.began_ns
            # An earlier recording heard of it when it began, and knew more of who was there then.
            group.edge_id = self._earlier(flow.tuple, began_ns) if group.is_older else None
            if group.edge_id is None:
                group.edge_id = self._ask(flow.identity, flow.tuple, began_ns)
        return group.edge_id

    def _of_folded(self, group: FoldedGroup) -> int:
        if group.edge_id is None:
            if group.failures_of is not None:
                [edge] = self.edges([group.failures_of]).values()
                group.edge_id = self._give(edge._replace(failed=True))
            elif isinstance(group.flow, Other):
                flow, failed = group.flow, group.failed
                of = (flow.tuple, flow.kinds, failed)
                group.edge_id = self._ask(of, flow.tuple, group.began_ns, flow.kinds, failed)
            else:
                raise RuntimeError("a folded group without a flow has an edge")
        return group.edge_id

    def edge(self, flow: Flow, when_ns: int) -> Edge:
        """Return the edge of a flow at a time, and give out no id for it."""
        kinds = flow.kinds if isinstance(flow, Other) else NO_STRANGERS
        return self._edge(flow.tuple, when_ns, kinds, failed=False)

    def edges(self, ids: Iterable[int]) -> dict[int, Edge]:
        """Return the edges with these ids, from memory or from the file."""
        wanted = set(ids)
        pending = {each: edge for each in wanted if (edge := self._pending.get(each))}
        return pending | dict(self._read(wanted - pending.keys()))

    def changed(self) -> None:
        """Answers are given anew: more is known of who was there, or edges are about to go."""
        self._answers.clear()

    def committed(self, groups: Iterable[Group]) -> None:
        """The window of these groups is in the file: an id is all they need from now on."""
        for group in groups:
            if not isinstance(group, FoldedGroup):  # few, and their failures come later
                group.forget_flow()
        self._pending.clear()

    def rolled_back(self, groups: Iterable[Group]) -> None:
        """The window of these groups is not in the file: ids given out for it are void."""
        for group in groups:
            if group.flow is not None and (not group.folded or group.edge_id in self._pending):
                group.edge_id = None
        self._answers.clear()
        self._pending.clear()

    def _ask(
        self,
        of: Hashable,
        flow: FlowTuple,
        when_ns: int,
        kinds: StrangerKinds = NO_STRANGERS,
        failed: bool = False,
    ) -> int:
        """Ask who it was; `kinds` says whose addresses are cut out of the flow's tuples."""
        endpoints = self._endpoints
        answer = self._answers.get(of)
        if answer is not None and endpoints.settled_ns <= when_ns < answer.until_ns:
            return answer.edge_id

        edge = self._edge(flow, when_ns, kinds, failed)
        edge_id = self._give(edge)
        if when_ns >= endpoints.settled_ns:
            if len(self._answers) >= _MOST_CACHED:
                self._answers.clear()
            sides = {edge.src, edge.dialled, edge.backend}
            self._answers[of] = _EdgeAnswer(edge_id, min(map(endpoints.good_until_ns, sides)))
        return edge_id

    def _edge(self, flow: FlowTuple, when_ns: int, kinds: StrangerKinds, failed: bool) -> Edge:
        endpoints = self._endpoints

        def at(address: bytes, kind: Kind | None) -> Endpoint:
            return OTHER[kind] if kind else endpoints.at(address_text(address), when_ns)

        src = at(flow.src, kinds[0])
        dialled = backend = at(flow.dst, kinds[1])
        if flow.reply_src != flow.dst or kinds[2] != kinds[1]:
            backend = at(flow.reply_src, kinds[2])
        service = via = None
        if flow.dst_port is not None and not kinds[1]:
            found = endpoints.service(dialled, flow.proto, flow.dst_port, when_ns)
            if found is not None:
                service, via = found
        return Edge(flow, src, dialled, backend, service, via, failed or None)

    def _give(self, edge: Edge) -> int:
        edge_id = self._id_of(edge)
        self._pending[edge_id] = edge
        return edge_id
