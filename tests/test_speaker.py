"""Every way a connection can take through nodes that record or not: how often it counts."""

from collections.abc import Sequence
from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from ctk.fleet.speaker import speaker


class Hop(NamedTuple):
    """A node on the way, and what its conntrack does to the connection."""

    node: int
    recorded: bool
    dnat: bool  # it has the rule of the service, and rewrites what still goes to its address
    snat: bool


class Path(NamedTuple):
    opener: int | None  # the node of who opened it; None for somebody outside
    hops: Sequence[Hop]
    server: int | None  # the node of who answers


class Sight(NamedTuple):
    """What conntrack of one node says of it: the tuples, told by whose they are."""

    observer: int
    src: int | str | None
    backend: int | str | None
    rewrites: bool


OUTSIDE, SERVICE = "outside", "service"


def sights(path: Path) -> list[Sight]:
    """Play the path: each node tracks what comes in, and what it makes of it."""
    src: int | str | None = OUTSIDE if path.opener is None else path.opener
    dst: int | str | None = (
        SERVICE if any(hop.dnat for hop in path.hops) else _or_outside(path.server)
    )
    seen = []
    for hop in path.hops:
        if hop.dnat and dst == SERVICE:
            dst = _or_outside(path.server)
        seen.append(Sight(hop.node, src, dst, hop.snat))
        if hop.snat:
            src = hop.node
    return seen


def _or_outside(node: int | None) -> int | str:
    return OUTSIDE if node is None else node


def counting(path: Path) -> list[Sight]:
    recorded = {hop.node for hop in path.hops if hop.recorded}

    def node(of: int | str | None) -> int | None:
        return of if isinstance(of, int) else None

    return [
        sight
        for sight in sights(path)
        if sight.observer in recorded
        and sight.observer
        == speaker(
            sight.observer,
            src_node=node(sight.src),
            dst_node=node(sight.backend),
            rewrites=sight.rewrites,
            recorded=recorded,
        )
    ]


def segments(path: Path) -> list[list[Sight]]:
    """Cut the path behind each node that rewrites the source."""
    cut: list[list[Sight]] = [[]]
    for sight in sights(path):
        cut[-1].append(sight)
        if sight.rewrites:
            cut.append([])
    return [segment for segment in cut if segment]


def expected(path: Path) -> int:
    """Count as the docstring of `speaker` says it, segment by segment."""
    recorded = {hop.node for hop in path.hops if hop.recorded}
    count = 0
    for segment in segments(path):
        there = [sight for sight in segment if sight.observer in recorded]
        if segment[0].src in recorded:
            # In the first segment it has a row of its own; in a later one it spoke before.
            count += segment[0].src == segment[0].observer
            continue
        # Each defers to the backend's node where its own sight names one that recorded.
        count += sum(
            sight.rewrites or sight.backend not in recorded or sight.backend == sight.observer
            for sight in there
        )
    return count


@st.composite
def paths(draw: st.DrawFn) -> Path:
    """Paths over distinct nodes; who opened it is on the first one, or outside; so is the end."""
    nodes = draw(st.permutations(range(5)))[: draw(st.integers(1, 5))]
    hops = [Hop(node, *(draw(st.booleans()) for _ in range(3))) for node in nodes]
    opener = draw(st.sampled_from([None, nodes[0]]))
    server = draw(st.sampled_from([None, nodes[-1]]))
    return Path(opener, hops, server)


@given(paths())
def test_a_connection_counts_as_often_as_the_docstring_says(path):
    assert len(counting(path)) == expected(path)


def is_plain(path: Path) -> bool:
    """Whether the path is one that fleet.md promises to count once: see the cases below."""
    recorded = {hop.node for hop in path.hops if hop.recorded}
    first = path.opener in recorded
    rewriters_recorded = all(hop.recorded for hop in path.hops[:-1] if hop.snat)
    forwards = [hop for hop in path.hops if hop.recorded and not hop.snat]
    end_recorded = path.server in recorded
    resolved_first = not any(hop.dnat for hop in path.hops[1:]) or path.hops[0].dnat
    return rewriters_recorded and (
        first or ((end_recorded and resolved_first) or (len(forwards) == 0))
    )


@given(paths())
def test_a_connection_counts_once_where_who_rewrote_it_recorded(path):
    if is_plain(path) and any(hop.recorded for hop in path.hops):
        assert len(counting(path)) == 1


def hop(node: int, recorded: bool = True, *, dnat: bool = False, snat: bool = False) -> Hop:
    return Hop(node, recorded, dnat, snat)


A, B, C, D = range(4)
CASES = {
    "pod to pod": (Path(A, [hop(A), hop(B)], B), [A]),
    "pod to ClusterIP": (Path(A, [hop(A, dnat=True), hop(B)], B), [A]),
    "masqueraded on the way out": (Path(A, [hop(A, snat=True)], None), [A]),
    "NodePort, policy Cluster": (Path(None, [hop(A, dnat=True, snat=True), hop(B)], B), [A]),
    "NodePort, policy Local": (Path(None, [hop(B, dnat=True)], B), [B]),
    "the opener's node not recorded": (Path(A, [hop(A, False), hop(B)], B), [B]),
    "the ingress node not recorded": (
        Path(None, [hop(A, False, dnat=True, snat=True), hop(B)], B),
        [B],
    ),
    "the server's node not recorded": (Path(A, [hop(A), hop(B, False)], B), [A]),
    "through a recorded gateway": (Path(A, [hop(A), hop(C, snat=True), hop(B)], B), [A]),
    # Twice, as is said of it:
    "an unrecorded node rewrote it in between": (
        Path(A, [hop(A), hop(C, False, snat=True), hop(B)], B),
        [A, B],
    ),
    "rewritten behind an observer, the opener not recorded": (
        Path(None, [hop(C), hop(A, dnat=True), hop(B)], B),
        [C, B],
    ),
    "forwarded by several between ends that are not recorded": (
        Path(None, [hop(C), hop(D)], None),
        [C, D],
    ),
}


def test_each_named_case_counts_where_it_is_said_to():
    found = {
        name: [sight.observer for sight in counting(path)] for name, (path, _) in CASES.items()
    }
    assert found == {name: expected for name, (_, expected) in CASES.items()}
