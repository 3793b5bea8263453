"""
The document of one span, schema `ctk.report/1`: one JSON object of everything that a page shows.

`ctk report --format json` prints it, the HTML file holds it and the served page fetches it. Numbers
are those of `ctk top` over the same span and filters. Times are RFC 3339 text: nanoseconds since
the epoch do not fit a JavaScript number.
"""

import time
from collections.abc import Iterable, Mapping
from itertools import chain
from typing import TYPE_CHECKING, Any

from ctk.ask.caveats import Unrecorded, Widened
from ctk.ask.graph import At, Graph
from ctk.ask.keywords import flags_of
from ctk.ask.leafedges import SUM_KEYS, Leaf, LeafEdge, Sums, values_of
from ctk.model import Filters
from ctk.report.redact import Words
from ctk.timespan import SECOND, format_age, format_time

if TYPE_CHECKING:
    from ctk.ask.recording import Recording

SCHEMA = "ctk.report/1"
# Of a span: past these, the edges that neither fail nor move most are left out, with their sums.
MOST_EDGES = 5_000
# So many of the first edges have steps of their own.
MOST_SERIES = 50

Document = dict[str, Any]  # JSON
OpenSpan = tuple[int | None, int | None]


def document(
    recording: "Recording",
    filters: Filters,
    *,
    before: OpenSpan | None = None,
    most_edges: int = MOST_EDGES,
    labels: bool = True,
    words: Words | None = None,
    at: At | None = None,
) -> Document:
    """
    Give the document of the flows that fit, beside those of the span before.

    `before` is the span to compare with: by default the one before it, as long, where that is
    asked for by a `since`. Pods have their labels with `labels`. With `words` these stand for all
    names and addresses.
    """
    told = at or (lambda part, doing: None)
    found = recording.graph(
        filters, series_of=MOST_SERIES, at=lambda part, doing: told(0.6 * part, doing)
    )
    told(0.6, "the span before")
    earlier = _before(recording, filters, found, before)
    if words is not None:
        found, earlier = words.graph(found), earlier and words.graph(earlier)
    told(0.8, "what the file holds")
    left_out = found.edges[most_edges:]
    names = _Nodes(found.labels if labels else {})
    return {
        "schema": SCHEMA,
        "made_at": format_time(time.time_ns()),
        "source": _source(recording, words),
        "asked": {
            "flags": flags_of(filters) if words is None else "",
            "since": _moment(filters.since_ns),
            "until": _moment(filters.until_ns),
        },
        "answered": {
            "since": _moment(found.since_ns),
            "until": _moment(found.until_ns),
            "widened": any(isinstance(each, Widened) for each in found.caveats),
            "folded": format_age(found.precise_ns) if found.precise_ns > 1 else None,
        },
        "trust": _trust(found),
        "edges": [_edge(each, names) for each in found.edges[:most_edges]],
        "before": _before_part(earlier, most_edges, names),
        "series": _series(found, most_edges),
        "left_out": {"edges": len(left_out), "sums": _sums(_total(left_out))},
        "sums": _sums(found.sums),
        "nodes": names.nodes,
    }


def _source(recording: "Recording", words: Words | None) -> Document:
    """Say what the file holds; with words, not what it is called."""
    held = recording.describe(sizes=False)
    nodes, clusters = list(held.nodes), list(held.clusters)
    if words is not None:
        nodes, clusters = words.each("node", nodes), words.each("cluster", clusters)
    last = held.recordings[-1] if held.recordings else None
    return {
        "file": recording.path.name if words is None else "FILE",
        "redacted": words is not None,
        "nodes": nodes,
        "clusters": clusters,
        "recordings": [
            {
                "node": each.node if words is None else words.word("node", each.node),
                "since": each.started_at,
                "until": each.ended_at or each.committed_at,
                "ended": each.ended_at is not None,
                "events": each.events,
                "lost": each.lost,
            }
            for each in held.recordings
        ],
        "since": held.since,
        "until": held.until,
        "ended": None if last is None else last.ended_at is not None,
    }


def _before(
    recording: "Recording", filters: Filters, found: Graph, span: OpenSpan | None
) -> Graph | None:
    if span is None:
        if found.since_ns is None or found.until_ns is None or filters.since_ns is None:
            return None
        began_ns = filters.since_ns
        lasts_ns = (filters.until_ns or found.until_ns) - began_ns
        span = (began_ns - lasts_ns, began_ns)
    earlier = filters._replace(since_ns=span[0], until_ns=span[1])
    return recording.graph(earlier, series_of=0)


def _before_part(earlier: Graph | None, most_edges: int, names: "_Nodes") -> Document | None:
    if earlier is None or earlier.since_ns is None:
        return None
    kept, gaps = earlier.edges[:most_edges], _gaps(earlier)
    return {
        "since": _moment(earlier.since_ns),
        "until": _moment(earlier.until_ns),
        "complete": not gaps and len(kept) == len(earlier.edges),
        "gaps": gaps,
        "edges": [_edge(each, names) for each in kept],
        "sums": _sums(earlier.sums),
    }


def _trust(found: Graph) -> Document:
    unnamed = [edge for edge in found.edges if "unknown" in (edge.src.kind, edge.dst.kind)]
    counted = [edge.sums.bytes_out is not None for edge in found.edges]
    return {
        "gaps": _gaps(found),
        "lost": sum(gap.lost or 0 for gap in found.gaps),
        "bytes_measured": "all" if all(counted) else "some" if any(counted) else "none",
        # Connections of which a side is unknown.
        "unnamed": _total(unnamed).connections,
        "caveats": [caveat.text for caveat in found.caveats],
    }


def _gaps(of: Graph) -> list[Document]:
    """Give the gaps, and as such, of no node, what no recorder was there for."""
    holes = (each.spans for each in of.caveats if isinstance(each, Unrecorded))
    unrecorded = [
        {
            "since": _moment(since_ns),
            "until": _moment(until_ns),
            "node": "",
            "kind": "not recorded",
            "lost": None,
            "detail": None,
        }
        for since_ns, until_ns in chain.from_iterable(holes)
    ]
    return sorted([*map(_gap, of.gaps), *unrecorded], key=lambda gap: str(gap["since"]))


def _gap(gap: Any) -> Document:
    return {
        "since": gap.started_at,
        "until": gap.ended_at,
        "node": gap.node,
        "kind": gap.kind,
        "lost": gap.lost,
        "detail": gap.detail,
    }


class _Nodes:
    """The nodes of the document: who stands at an end of an edge, and what that belongs to."""

    def __init__(self, labels: Mapping[Leaf, str]) -> None:
        self.nodes: list[Document] = []
        self._ids: dict[object, int] = {}
        self._labels = labels

    def id_of(self, leaf: Leaf) -> int:
        """Give the id of a leaf; its namespace and workload come before it."""
        known = self._ids.get(leaf)
        if known is not None:
            return known
        parent = None
        if leaf.namespace is not None:
            parent = self._id(("namespace", leaf.namespace), "namespace", leaf.namespace, None)
        if leaf.workload is not None:
            key = ("workload", leaf.namespace, leaf.workload_kind, leaf.workload)
            parent = self._id(key, "workload", leaf.workload, parent)
            self.nodes[parent]["workload_kind"] = leaf.workload_kind
        found = self._id(leaf, leaf.kind, leaf.name or leaf.address, parent)
        self.nodes[found]["node"] = leaf.node
        if text := self._labels.get(leaf):
            from orjson import loads

            self.nodes[found]["labels"] = loads(text)
        return found

    def _id(self, key: object, kind: str, name: str | None, parent: int | None) -> int:
        known = self._ids.get(key)
        if known is None:
            known = self._ids[key] = len(self.nodes)
            self.nodes.append({"id": known, "parent": parent, "kind": kind, "name": name})
        return known


def _edge(edge: LeafEdge, names: _Nodes) -> Document:
    return {
        "src": names.id_of(edge.src),
        "dst": names.id_of(edge.dst),
        "service": edge.service,
        "port": edge.port,
        "proto": edge.proto,
        **_sums(edge.sums),
        "first_at": _moment(edge.first_ns),
        "last_at": _moment(edge.last_ns),
        "failed_first_at": _moment(edge.failed_first_ns),
        "failed_last_at": _moment(edge.failed_last_ns),
    }


def _series(found: Graph, kept: int) -> Document:
    """Give sums by step; a step that was not recorded, wholly or at all, is told by the gaps."""
    if found.since_ns is None or found.until_ns is None:
        return {"start": None, "step_s": found.step_ns // SECOND, "total": {}, "edges": {}}
    start_ns = found.since_ns - found.since_ns % found.step_ns
    # A clock that was set back ends a recording before its last rows.
    until_ns = max(found.until_ns, max(found.steps, default=0) + 1)
    times = range(start_ns, until_ns, found.step_ns)
    return {
        "start": _moment(start_ns),
        "step_s": found.step_ns // SECOND,
        "total": _columns(found.steps, times),
        "edges": {
            str(place): _columns(steps, times)
            for place, steps in sorted(found.edge_steps.items())
            if place < kept
        },
    }


def _columns(steps: Mapping[int, Sums], times: Iterable[int]) -> Document:
    nothing = Sums()
    rows = [values_of(steps.get(at_ns, nothing)) for at_ns in times]
    return {
        key: list(column) for key, column in zip(SUM_KEYS, zip(*rows, strict=True), strict=True)
    }


def _total(edges: Iterable[LeafEdge]) -> Sums:
    total = Sums()
    for edge in edges:
        total.add(*values_of(edge.sums))
    return total


def _sums(sums: Sums) -> Document:
    return dict(zip(SUM_KEYS, values_of(sums), strict=True))


def _moment(time_ns: int | None) -> str | None:
    return None if time_ns is None else format_time(time_ns)
