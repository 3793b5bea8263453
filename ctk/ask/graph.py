"""
Who talked to whom, and when: the edges between the finest names that are known.

What a report and its page are made of. The sums of all edges are those of `top` over the same span
and filters.
"""

import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import NamedTuple

from ctk.ask.caveats import Caveat, Folded, Widened, caveats_of, pruned_of_span
from ctk.ask.connection import choose_edges, one_moment
from ctk.ask.coverage import answered_span
from ctk.ask.folded import folded_of
from ctk.ask.nothing import why_nothing
from ctk.ask.selectors import both, edge_condition, row_condition
from ctk.ask.series import STEPS, cover_steps, step_of
from ctk.ask.spans import Held, Piece, clip, cover, exact_extent, held
from ctk.ask.storedgaps import StoredGap, gaps_of
from ctk.ask.sums import needs_flows
from ctk.errors import UsageError
from ctk.model import Filters, Kind
from ctk.timespan import MINUTE

# A span up to this long is read from the flows themselves, so that its times are theirs; not where
# a flood made more of them than are read in some 0.3 s: a page asks again for every window.
_READ_EXACTLY = 30 * MINUTE
_MOST_READ = 100_000
_MOST_STEPS = 150


# Is told what part of an answer is made, and what comes next.
At = Callable[[float, str], None]


class Leaf(NamedTuple):
    """
    Who stands at one end of an edge.

    A pod, a node or a service is known by its names, and stands for all of its addresses; what has
    no name is known by its address, which is "other" where a rollup folded many into one.
    """

    kind: Kind
    namespace: str | None
    name: str | None
    workload: str | None
    workload_kind: str | None
    node: str | None
    address: str | None


@dataclass(slots=True)
class Sums:
    """What adds up; bytes are None where none of them was measured."""

    connections: int = 0
    refused: int = 0
    unreplied: int = 0
    bytes_out: int | None = None
    bytes_in: int | None = None

    def add(
        self,
        connections: int,
        refused: int,
        unreplied: int,
        bytes_out: int | None,
        bytes_in: int | None,
    ) -> None:
        self.connections += connections
        self.refused += refused
        self.unreplied += unreplied
        if bytes_out is not None:
            self.bytes_out = (self.bytes_out or 0) + bytes_out
        if bytes_in is not None:
            self.bytes_in = (self.bytes_in or 0) + bytes_in


SUM_KEYS = ("connections", "refused", "unreplied", "bytes_out", "bytes_in")
values_of = attrgetter(*SUM_KEYS)


@dataclass(slots=True, kw_only=True)
class LeafEdge:
    """
    What one end dialled at another, by service, port and protocol.

    Times are of the first and last row, and of the first and last row with a failure: exact where
    flows were read, else of the bucket of a rollup.
    """

    src: Leaf
    dst: Leaf
    service: str | None
    port: int | None
    proto: str
    sums: Sums
    first_ns: int
    last_ns: int
    failed_first_ns: int | None
    failed_last_ns: int | None


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
    if filters.first is not None or filters.last is not None:
        raise UsageError("first and last are not for sums by edge", hint="since and until")
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
        source = _Source(conn, levels, filters)
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


def _is_read_exactly(conn: sqlite3.Connection, flows: Held, span: tuple[int, int]) -> bool:
    if span[1] - span[0] > _READ_EXACTLY or flows.pruned_ns > span[0]:
        return False
    counted = f"SELECT 1 FROM {flows.table} WHERE started_ns >= ? AND started_ns < ? LIMIT ?"
    (rows,) = conn.execute(f"SELECT COUNT(*) FROM ({counted})", (*span, _MOST_READ + 1)).fetchone()
    return int(rows) <= _MOST_READ


class _Found(NamedTuple):
    edges: list[LeafEdge]
    ids: list[list[int]]  # of the edges of the file that each of them sums up
    labels: dict[Leaf, str]
    folded: bool


class _Source:
    """The rows of a span that fit, summed up by edge or by step."""

    def __init__(self, conn: sqlite3.Connection, levels: Sequence[Held], filters: Filters) -> None:
        self._conn = conn
        self.width_of = {level.table: level.width_ns for level in levels}
        self._conditions = ["started_ns >= ? AND started_ns < ?"]
        self._values: tuple[object, ...] = ()
        if fits := edge_condition(filters.terms):
            choose_edges(conn, "fitting", fits)
            self._conditions.append("edge_id IN (SELECT id FROM temp.fitting)")
        if row := row_condition(filters.terms):
            self._conditions.append(row.sql)
            self._values = row.values

    def _rows(
        self, pieces: Sequence[Piece], columns: Iterable[str], *more: str
    ) -> tuple[str, tuple[object, ...]]:
        """Give the SELECT of these columns of every row that fits."""
        selects, values = [], []
        for piece in pieces:
            width_ns = self.width_of[piece.table]
            ended = "started_ns + lasted_ns" if width_ns == 1 else f"started_ns + {width_ns}"
            read = ", ".join(columns).replace("{ended_ns}", ended)
            conditions = both([*self._conditions, *more])
            selects.append(f"SELECT {read} FROM {piece.table} WHERE {conditions}")
            values += [piece.since_ns, piece.until_ns, *self._values]
        return " UNION ALL ".join(selects), tuple(values)

    def edges(self, pieces: Sequence[Piece]) -> _Found:
        """Sum up by who stands at both ends; what fails first, then what moved most."""
        rows, values = self._rows(
            pieces, ("edge_id", "started_ns", "{ended_ns} AS ended_ns", *SUM_KEYS)
        )
        sql = f"""
            WITH moved AS (
                SELECT edge_id, {_summed()}, MIN(started_ns) AS first_ns, MAX(ended_ns) AS last_ns,
                    {_FAILED}
                FROM ({rows}) GROUP BY edge_id
            )
            SELECT edge_id, src_id, backend_id, service, dst_port, proto, moved.*
            FROM moved CROSS JOIN edge ON edge.id = moved.edge_id
        """
        leaves, labels = self._leaves()
        by_ends: dict[object, int] = {}
        edges: list[LeafEdge] = []
        ids: list[list[int]] = []
        folded = False
        for edge_id, src_id, dst_id, service, port, proto, _, *row in self._conn.execute(
            sql, values
        ):
            src, dst = leaves[src_id], leaves[dst_id]
            *sums, first_ns, last_ns, failed_first_ns, failed_last_ns = row
            folded = folded or edge_id < 0
            place = by_ends.setdefault((src, dst, service, port, proto), len(edges))
            if place == len(edges):
                ids.append([])
                edges.append(
                    LeafEdge(
                        src=src,
                        dst=dst,
                        service=service,
                        port=port,
                        proto=proto,
                        sums=Sums(),
                        first_ns=first_ns,
                        last_ns=last_ns,
                        failed_first_ns=failed_first_ns,
                        failed_last_ns=failed_last_ns,
                    )
                )
            edge = edges[place]
            ids[place].append(edge_id)
            edge.sums.add(*sums)
            edge.first_ns = min(edge.first_ns, first_ns)
            edge.last_ns = max(edge.last_ns, last_ns)
            if failed_first_ns is not None:
                edge.failed_first_ns = min(edge.failed_first_ns or failed_first_ns, failed_first_ns)
                edge.failed_last_ns = max(edge.failed_last_ns or failed_last_ns, failed_last_ns)
        order = sorted(range(len(edges)), key=lambda place: _rank(edges[place]))
        return _Found(
            [edges[place] for place in order],
            [ids[place] for place in order],
            labels,
            folded,
        )

    def steps(self, pieces: Sequence[Piece], step_ns: int) -> dict[int, Sums]:
        """Sum up all that fits by step."""
        rows, values = self._rows(
            pieces, (f"started_ns - started_ns % {step_ns} AS at_ns", *SUM_KEYS)
        )
        sql = f"SELECT at_ns, {_summed()} FROM ({rows}) GROUP BY at_ns"
        return {at_ns: Sums(*sums) for at_ns, *sums in self._conn.execute(sql, values)}

    def edge_steps(
        self, pieces: Sequence[Piece], step_ns: int, chosen: Mapping[int, int]
    ) -> tuple[dict[int, dict[int, Sums]], dict[int, tuple[int, int]]]:
        """
        Sum up edges of the file by step, each to the place that `chosen` has for it.

        With the first and the last failure of each place, as exact as these rows are.
        """
        found: dict[int, dict[int, Sums]] = {}
        failed: dict[int, tuple[int, int]] = {}
        if not chosen:
            return found, failed
        ids = ", ".join(map(str, chosen))
        rows, values = self._rows(
            pieces,
            (
                *("edge_id", f"started_ns - started_ns % {step_ns} AS at_ns"),
                *("started_ns", "{ended_ns} AS ended_ns", *SUM_KEYS),
            ),
            f"edge_id IN ({ids})",
        )
        sql = f"SELECT edge_id, at_ns, {_FAILED}, {_summed()} FROM ({rows}) GROUP BY edge_id, at_ns"
        for edge_id, at_ns, first_ns, last_ns, *sums in self._conn.execute(sql, values):
            place = chosen[edge_id]
            found.setdefault(place, {}).setdefault(at_ns, Sums()).add(*sums)
            if first_ns is not None:
                first, last = failed.get(place, (first_ns, last_ns))
                failed[place] = min(first, first_ns), max(last, last_ns)
        return found, failed

    def _leaves(self) -> tuple[dict[int, Leaf], dict[Leaf, str]]:
        """Give who is behind each id, and their labels."""
        by_id: dict[int, Leaf] = {}
        labels: dict[Leaf, str] = {}
        sql = (
            "SELECT id, labels, kind, namespace, name, workload, workload_kind, node,"
            " CASE WHEN name IS NULL THEN address END FROM endpoint ORDER BY valid_from_ns, id"
        )
        for endpoint_id, text, *names in self._conn.execute(sql):
            leaf = by_id[endpoint_id] = Leaf._make(names)
            if text:
                labels[leaf] = text  # the newest ones
        return by_id, labels


_FAILED = ", ".join(
    f"{end}(CASE WHEN refused + unreplied THEN {at}_ns END) AS failed_{name}_ns"
    for end, at, name in (("MIN", "started", "first"), ("MAX", "ended", "last"))
)


def _summed() -> str:
    # Of NULLs alone a sum is NULL: not measured.
    return ", ".join(f"SUM({key}) AS {key}" for key in SUM_KEYS)


def _rank(edge: LeafEdge) -> tuple[object, ...]:
    sums = edge.sums
    moved = (sums.bytes_out or 0) + (sums.bytes_in or 0)
    names = [part or "" for leaf in (edge.src, edge.dst) for part in leaf]
    rest = (edge.service or "", edge.port or 0, edge.proto)
    return -(sums.refused + sums.unreplied), -moved, -sums.connections, names, rest
