"""
The edges between the finest names that are known, and their sums, as SQL reads them.

An edge of the file is between two endpoints, of which a pod has one for each span of each of its
addresses; here all that have the same names are one.
"""

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import NamedTuple

from ctk.ask.connection import choose_edges
from ctk.ask.selectors import both, edge_condition, row_condition
from ctk.ask.spans import HeldLevel, Piece
from ctk.model import Filters, Kind


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


class FoundEdges(NamedTuple):
    """The edges of a span, what fails first."""

    edges: list[LeafEdge]
    ids: list[list[int]]  # of the edges of the file that each of them sums up
    labels: dict[Leaf, str]
    folded: bool


class EdgeSource:
    """The rows of the file that fit, summed up by edge or by step."""

    def __init__(
        self, conn: sqlite3.Connection, levels: Sequence[HeldLevel], filters: Filters
    ) -> None:
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

    def edges(self, pieces: Sequence[Piece]) -> FoundEdges:
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
        return FoundEdges(
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
