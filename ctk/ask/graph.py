"""
Who talked to whom, and when: the edges between the finest names that are known.

What a report and its page are made of. The sums of all edges are those of `top` over the same span
and filters.
"""

import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ctk.ask.caveats import Caveat, Folded, Widened, caveats_of, pruned_of_span
from ctk.ask.connection import one_moment
from ctk.ask.coverage import answered_span
from ctk.ask.folded import folded_of
from ctk.ask.leafedges import EdgeSource, Leaf, LeafEdge, Sums, values_of
from ctk.ask.nothing import why_nothing
from ctk.ask.series import STEPS, cover_steps, step_of
from ctk.ask.spans import HeldLevel, clip, cover, exact_extent, held
from ctk.ask.storedgaps import StoredGap, gaps_of
from ctk.ask.sums import needs_flows, refuse_cut
from ctk.model import Filters
from ctk.timespan import MINUTE

# A span up to this long is read from the flows themselves, so that its times are theirs; not where
# a flood made more of them than are read in some 0.3 s: a page asks again for every window.
_READ_EXACTLY = 30 * MINUTE
_MOST_READ = 100_000
_MOST_STEPS = 150


# Is told what part of an answer is made, and what comes next.
At = Callable[[float, str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """
    The edges of a span, and their sums over time.

    `steps` has the sums of all edges by the start of a step, `edge_steps` those of the edges that
    were asked for; a step without any has none. `precise_ns` is the widest bucket that was read,
    1 where flows themselves were.
    """

    since_ns: int | None  # None where nothing was recorded
    until_ns: int | None
    edges: tuple[LeafEdge, ...]
    sums: Sums
    labels: Mapping[Leaf, str]  # JSON text
    step_ns: int
    steps: Mapping[int, Sums]
    edge_steps: Mapping[int, Mapping[int, Sums]]  # by the place of an edge in `edges`
    precise_ns: int
    gaps: tuple[StoredGap, ...]
    caveats: tuple[Caveat, ...]


def graph(
    conn: sqlite3.Connection,
    filters: Filters,
    *,
    series_of: int = 50,
    step_ns: int | None = None,
    at: At = lambda part, doing: None,
) -> Graph:
    """
    Sum up the flows that fit by who stands at both ends.

    What fails comes first, then what moved most. `series_of` edges of them have steps of their
    own. Without `step_ns` the span is cut into 75 to 150 steps. `at` is told what part is done.
    """
    refuse_cut(filters, "sums by edge", hint="since and until")
    with one_moment(conn):
        flows_only = needs_flows(filters, ())
        levels = held(conn)[: 1 if flows_only else None]
        exact = exact_extent(conn, levels)
        since_ns = filters.since_ns
        if exact is not None:  # a bucket of a day begins before what it holds
            since_ns = exact[0] if since_ns is None else max(since_ns, exact[0])
        span = clip(conn, levels, since_ns, filters.until_ns)
        caveats = list(caveats_of(conn, filters))
        gaps = gaps_of(conn, filters.since_ns, filters.until_ns)
        if flows_only:
            caveats += pruned_of_span(conn, filters.since_ns, filters.until_ns)
        if span is None:
            quiet = exact and answered_span(conn, since_ns, filters.until_ns, None)
            quiet_since_ns, quiet_until_ns = quiet or (None, None)
            quiet_ns = quiet[1] - quiet[0] if quiet else 0
            return Graph(
                since_ns=quiet_since_ns,
                until_ns=quiet_until_ns,
                edges=(),
                sums=Sums(),
                labels={},
                step_ns=step_ns or step_of(quiet_ns, _MOST_STEPS),
                steps={},
                edge_steps={},
                precise_ns=1,
                gaps=gaps,
                caveats=(*why_nothing(conn, filters), *caveats),
            )
        exactly = _is_read_exactly(conn, levels[0], span)
        if exactly:
            levels = levels[:1]
        pieces = cover(levels, *span)
        reach = pieces[0].since_ns, pieces[-1].until_ns
        _, until_ns = answered_span(conn, since_ns, filters.until_ns, reach) or reach
        if step_ns is None:  # shorter ones than a minute are in no rollup
            fitting = [step for step in STEPS if exactly or flows_only or step >= MINUTE]
            step_ns = step_of(until_ns - span[0], _MOST_STEPS, fitting)
        # The same span again: steps need finer buckets than sums do.
        in_steps = cover_steps(levels, *span, step_ns)
        if reach != span:
            caveats.append(Widened(*reach))
        source = EdgeSource(conn, levels, filters)
        at(0, "who talked to whom")
        found = source.edges(pieces)
        caveats += folded_of(conn, pieces, filters, shown=found.folded)
        if not found.edges and not any(isinstance(each, Folded) for each in caveats):
            caveats[:0] = why_nothing(conn, filters)
        chosen = {
            edge_id: place
            for place in range(min(series_of, len(found.edges)))
            for edge_id in found.ids[place]
        }
        total = Sums()
        for edge in found.edges:
            total.add(*values_of(edge.sums))
        at(0.6, "when each did")
        edge_steps, failed = source.edge_steps(in_steps, step_ns, chosen)
        for place, (first_ns, last_ns) in failed.items():  # perhaps of finer buckets
            found.edges[place].failed_first_ns = first_ns
            found.edges[place].failed_last_ns = last_ns
        at(0.8, "when all did")
        return Graph(
            since_ns=reach[0],
            until_ns=until_ns,
            edges=tuple(found.edges),
            sums=total,
            labels=found.labels,
            step_ns=step_ns,
            steps=source.steps(in_steps, step_ns),
            edge_steps=edge_steps,
            precise_ns=max(source.width_of[piece.table] for piece in pieces),
            gaps=gaps,
            caveats=tuple(caveats),
        )


def _is_read_exactly(conn: sqlite3.Connection, flows: HeldLevel, span: tuple[int, int]) -> bool:
    if span[1] - span[0] > _READ_EXACTLY or flows.pruned_ns > span[0]:
        return False
    counted = f"SELECT 1 FROM {flows.table} WHERE started_ns >= ? AND started_ns < ? LIMIT ?"
    (rows,) = conn.execute(f"SELECT COUNT(*) FROM ({counted})", (*span, _MOST_READ + 1)).fetchone()
    return int(rows) <= _MOST_READ
