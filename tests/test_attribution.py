"""Who a group belongs to: asked once, kept as an id, void where its window fails."""

from collections.abc import Iterable

from edges import packed

from ctk.conntrack.groups import Flow, Group
from ctk.kube.endpoints import Endpoints
from ctk.kube.objects import Applied, Pod
from ctk.model import Edge, FlowTuple
from ctk.record.attribution import Attribution

T = 1_000_000_000_000
FLOW = FlowTuple(
    "tcp", 0, packed("10.244.0.5"), packed("10.244.0.9"), 80, packed("10.244.0.9"), 80,
    packed("10.244.0.5"),
)  # fmt: skip


class Ids:
    """Ids as the writer gives them: the same edge has the same, until a window fails."""

    def __init__(self) -> None:
        self.given: list[Edge] = []
        self.read: list[set[int]] = []

    def of(self, edge: Edge) -> int:
        if edge not in self.given:
            self.given.append(edge)
        return self.given.index(edge) + 1

    def edges(self, ids: Iterable[int]) -> dict[int, Edge]:
        self.read.append(set(ids))
        return {each: self.given[each - 1] for each in ids}


def attribution() -> tuple[Attribution, Endpoints, Ids]:
    endpoints, ids = Endpoints("n1", frozenset(), T, kube=True), Ids()
    return Attribution(endpoints, ids.of, ids.edges), endpoints, ids


def group(began_ns: int = T) -> Group:
    return Group(Flow((b"orig", b"reply", 0), lambda *key: FLOW), began_ns)


def pod(name: str) -> Pod:
    return Pod(
        uid=f"uid-{name}", namespace="shop", name=name, labels={}, node="n1", workload=None,
        workload_kind=None, phase="Running", host_network=False, addresses=("10.244.0.5",),
        started_ns=T - 60 * 10**9, ended_ns=None,
    )  # fmt: skip


def test_groups_of_one_flow_have_one_edge_while_nothing_changes():
    given, _, ids = attribution()
    first, second = group(), group(T + 1)
    assert (given.edge_id(first), given.edge_id(second), given.edge_id(first)) == (1, 1, 1)
    assert len(ids.given) == 1


def test_after_a_change_groups_are_asked_about_anew():
    given, endpoints, ids = attribution()
    before = group()
    given.edge_id(before)
    endpoints.apply(Applied(pod("web"), T + 1))
    given.changed()
    assert given.edge_id(group(T + 2)) == 2
    assert [edge.src.name for edge in ids.given] == [None, "web"]


def test_a_group_needs_no_flow_once_its_window_is_in_the_file():
    given, _, ids = attribution()
    one = group()
    edge_id = given.edge_id(one)
    assert given.edges([edge_id]) == {1: ids.given[0]}
    given.committed([one])
    assert (one.flow, given.edge_id(one)) == (None, edge_id)
    assert given.edges([edge_id]) == {1: ids.given[0]}
    assert ids.read == [set(), {1}]  # from memory before the commit, from the file after it


def test_a_group_whose_window_failed_is_asked_about_again():
    given, _, ids = attribution()
    written, failed = group(), group(T + 1)
    given.edge_id(written)
    given.committed([written])
    given.edge_id(failed)
    given.rolled_back([written, failed])
    assert (written.edge_id, failed.edge_id) == (1, None)
    assert given.edge_id(failed) == ids.of(ids.given[-1])


def test_flows_of_two_marks_have_two_edges_though_their_connections_have_one_base():
    given, _, ids = attribution()
    flows = [
        Flow((b"orig", b"reply", mark << 16), lambda *key: FLOW._replace(zone=key[2]))
        for mark in (1, 2)
    ]
    assert flows[0].base == flows[1].base
    assert [given.edge_id(Group(flow, T)) for flow in flows] == [1, 2]
    assert [edge.flow.zone for edge in ids.given] == [1 << 16, 2 << 16]
