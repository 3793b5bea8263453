"""
Words for names and addresses, the same word for the same name, wherever one stands in a document.

For a report that leaves the house: who talked to whom and what failed can be told without names.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace

from ctk.ask.caveats import NothingFits
from ctk.ask.graph import Graph
from ctk.ask.leafedges import Leaf

_NOT_A_NAME = ("other",)  # of a rollup: it stands for many


class Words:
    """Gives each name a word by its kind, numbered in the order in which they are asked for."""

    def __init__(self) -> None:
        self._words: dict[tuple[str, str | None, str], str] = {}
        self._numbers: dict[str, int] = {}

    def word(self, kind: str, name: str | None, within: str | None = None) -> str | None:
        """Give the word for a name of a kind, within a namespace where it is in one."""
        if name is None or name in _NOT_A_NAME:
            return name
        known = self._words.get((kind, within, name))
        if known is None:
            number = self._numbers[kind] = self._numbers.get(kind, 0) + 1
            known = self._words[kind, within, name] = f"{kind}-{number}"
        return known

    def service(self, name: str | None) -> str | None:
        """Give the word for a service's "namespace/name"."""
        if name is None:
            return None
        namespace, _, own = name.rpartition("/")
        return f"{self.word('namespace', namespace)}/{self.word('service', own, namespace)}"

    def leaf(self, leaf: Leaf) -> Leaf:
        """Give a leaf with words for all of its names."""
        within = leaf.namespace
        return leaf._replace(
            namespace=self.word("namespace", leaf.namespace),
            name=self.word(leaf.kind, leaf.name, within),
            workload=self.word("workload", leaf.workload, within),
            node=self.word("node", leaf.node),
            address=self.word("address", leaf.address),
        )

    def graph(self, graph: Graph) -> Graph:
        """Give a graph with words for all names, and without labels."""
        leaf = _once(self.leaf)
        edges = tuple(
            replace(
                edge, src=leaf(edge.src), dst=leaf(edge.dst), service=self.service(edge.service)
            )
            for edge in graph.edges
        )
        gaps = tuple(
            gap._replace(node=self.word("node", gap.node) or "", detail=None) for gap in graph.gaps
        )
        # Why nothing fits is told by names that are there, and by those that were asked for.
        caveats = tuple(
            NothingFits() if isinstance(each, NothingFits) else each for each in graph.caveats
        )
        return replace(graph, edges=edges, gaps=gaps, labels={}, caveats=caveats)

    def each(self, kind: str, names: Iterable[str]) -> list[str]:
        """Give the words for names of one kind."""
        return [self.word(kind, name) or "" for name in names]


def _once(answer: Callable[[Leaf], Leaf]) -> Callable[[Leaf], Leaf]:
    known: dict[Leaf, Leaf] = {}

    def ask(leaf: Leaf) -> Leaf:
        if leaf not in known:
            known[leaf] = answer(leaf)
        return known[leaf]

    return ask
