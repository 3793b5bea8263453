"""
What failed: who could not reach what, how often of how many times, and since when.

Refused connections and those without a reply are told apart. Sums come from rollups; when a
failure was first and last seen comes from the finest rows that are left of that time.
"""

import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from operator import itemgetter
from typing import NamedTuple

from ctk.ask.caveats import Caveat, SeenTo
from ctk.ask.connection import choose_edges, one_moment
from ctk.ask.reading import caveats_of_sums, reading
from ctk.ask.selectors import both, edge_condition, row_condition
from ctk.ask.spans import HeldLevel, clip, cover, held
from ctk.ask.sums import KEYS, Keys, Summed, Value, needs_flows, refuse_cut, sum_up
from ctk.model import Filters, Term
from ctk.store.columns import joins_of
from ctk.timespan import MINUTE

BY = ("client", "service", "backend", "dst_port", "proto")
_FAILED = "(unreplied > 0 OR refused > 0)"
# These say what a failure is, not whose attempts are counted.
_OF_FAILURE = ("failed", "refused", "unreplied")


class Attempts(NamedTuple):
    """Connections that began in the span, and those that failed in it."""

    connections: int
    refused: int
    unreplied: int

    @property
    def failed(self) -> int:
        return self.refused + self.unreplied


class Failure(NamedTuple):
    """
    What failed between one client workload and one backend.

    `share` is of the connections that began in the span; None where more failed than began in it,
    since an unanswered connection ends minutes later. Of the backends that this service was seen
    to have in the span, on this port, `failing` of `backends` failed; both are None without a
    service.
    """

    client: str
    service: str | None
    backend: str
    port: int | None  # that was dialled
    proto: str
    counts: Attempts
    share: float | None
    first_ns: int  # the start of the row with the first failure
    last_ns: int  # the end of the row with the last
    exact_to_ns: int  # how wide these rows are: 1 for flows, whose window is some seconds
    backends: int | None
    failing: int | None

    @property
    def stands_out(self) -> bool:
        """Whether only this one of several backends fails."""
        return self.failing == 1 and (self.backends or 0) > 1


class Failures(NamedTuple):
    """What failed, the most failures first; `found` in all, of which `rows` are the first."""

    rows: tuple[Failure, ...]
    found: int
    refused: int
    unreplied: int
    caveats: tuple[Caveat, ...]


class FoundFailures(NamedTuple):
    """
    What failed in one file, the most failures first, and the backends that services had.

    By service, port and protocol, `backends` says of each backend whether any failed.
    """

    rows: Sequence[tuple[Keys, Attempts]]
    backends: Mapping[Keys, Mapping[Value, bool]]
    caveats: Sequence[Caveat]


def failures(conn: sqlite3.Connection, filters: Filters, limit: int | None = None) -> Failures:
    """Sum up what failed by client workload, service, backend and port."""
    with one_moment(conn):
        found = find(conn, filters)
        found = found._replace(rows=wanted(found.rows, filters))
        seen = when_seen(conn, filters, [keys for keys, _ in found.rows[:limit]])
    return answer(found, seen, limit)


def find(conn: sqlite3.Connection, filters: Filters, *, least: int = 1) -> FoundFailures:
    """Sum up what failed, in whatever way, at least so often."""
    refuse_cut(filters, "failures")
    _, filters = _parted(filters)
    read = reading(conn, filters, BY)
    with_any = _FAILED if least > 0 else ""
    summed = sum_up(conn, read.pieces, filters, BY, counted=Attempts._fields, with_any=with_any)
    some, folded = 0, 0
    rows: list[tuple[Keys, Attempts]] = []
    backends: dict[Keys, dict[Value, bool]] = defaultdict(dict)
    at = 2 + len(BY)
    for row in conn.execute(_sql(summed, least), summed.values):
        if row[0] == _ALL:
            some, folded = row[-2:]
        elif row[0] == _BACKEND:
            _, is_failed, _, service, backend, port, proto, *_ = row
            backends[service, port, proto][backend] = bool(is_failed)
        else:
            rows.append((row[2:at], Attempts._make(row[at:])))
    caveats = caveats_of_sums(conn, filters, read, some=some > 0, folded=bool(folded))
    return FoundFailures(rows, backends, caveats)


def wanted(rows: Iterable[tuple[Keys, Attempts]], filters: Filters) -> list[tuple[Keys, Attempts]]:
    """Leave what failed in the way that is asked for: refused, say."""
    asked, _ = _parted(filters)
    return [
        (keys, attempts)
        for keys, attempts in rows
        if all((getattr(attempts, term.field) > 0) != term.negated for term in asked)
    ]


_ALL, _BACKEND, _FAILURE = range(3)


def _sql(summed: Summed, least: int) -> str:
    """Give the SELECT of whether there is anything, of backends, and of failures in order."""
    _, *of_backend = summed.keys
    named, counts = ", ".join(summed.keys), ", ".join(Attempts._fields)
    none = ", ".join("NULL" for _ in (*BY, *Attempts._fields[2:]))
    return f"""
        {summed.sql}
        SELECT {_ALL}, 0, {none}, COUNT(*), MAX(folded) FROM ends
        UNION ALL
        SELECT {_BACKEND}, MAX({_FAILED}), NULL, {", ".join(of_backend)},
            {", ".join("NULL" for _ in Attempts._fields)}
        FROM ends WHERE {of_backend[0]} IS NOT NULL AND (connections > 0 OR {_FAILED})
        GROUP BY {", ".join(of_backend)}
        UNION ALL
        SELECT * FROM (
            SELECT {_FAILURE}, 1, {named}, {counts} FROM named WHERE failed >= {least}
            ORDER BY failed DESC, {named}
        )
    """


def when_seen(
    conn: sqlite3.Connection, filters: Filters, groups: Sequence[Keys]
) -> "dict[Keys, tuple[SeenRow, SeenRow]]":
    """Give the first and the last row with a failure of each of these groups."""
    return _Search(conn, _parted(filters)[1]).seen(groups)


def answer(
    found: FoundFailures, seen: "Mapping[Keys, tuple[SeenRow, SeenRow]]", limit: int | None
) -> Failures:
    """Put together what failed and when."""
    rows = tuple(_failure(*row, *seen[row[0]], found.backends) for row in found.rows[:limit])
    caveats = list(found.caveats)
    coarsest_ns = max((row.exact_to_ns for row in rows), default=1)
    if coarsest_ns > MINUTE:
        caveats.append(SeenTo(coarsest_ns))
    return Failures(
        rows=rows,
        found=len(found.rows),
        refused=sum(attempts.refused for _, attempts in found.rows),
        unreplied=sum(attempts.unreplied for _, attempts in found.rows),
        caveats=tuple(caveats),
    )


def _parted(filters: Filters) -> tuple[list[Term], Filters]:
    """Part what is asked of failures from whose attempts are counted."""
    asked = [term for term in filters.terms if term.field in _OF_FAILURE]
    rest = tuple(term for term in filters.terms if term not in asked)
    return asked, filters._replace(terms=rest)


class SeenRow(NamedTuple):
    """A row, or a bucket, with a failure."""

    started_ns: int
    ended_ns: int
    width_ns: int  # 1 for a flow


def _failure(
    keys: Keys,
    counts: Attempts,
    first: SeenRow,
    last: SeenRow,
    backends: Mapping[Keys, Mapping[Value, bool]],
) -> Failure:
    client, service, backend, port, proto = keys
    of_service = backends.get((service, port, proto))
    return Failure(
        client=str(client),
        service=None if service is None else str(service),
        backend=str(backend),
        port=None if port is None else int(port),
        proto=str(proto),
        counts=counts,
        share=counts.failed / counts.connections if counts.failed <= counts.connections else None,
        first_ns=first.started_ns,
        last_ns=last.ended_ns,
        exact_to_ns=max(first.width_ns, last.width_ns),
        backends=None if of_service is None else len(of_service),
        failing=None if of_service is None else sum(of_service.values()),
    )


_FailureRow = tuple[int, int, int]  # a SeenRow: there is one for each edge that failed
_end = itemgetter(1)


class _Search:
    """Finds the first and the last failure of groups, from coarse buckets to the rows in them."""

    def __init__(self, conn: sqlite3.Connection, filters: Filters) -> None:
        self._conn = conn
        self._levels = held(conn)[: 1 if needs_flows(filters, BY) else None]
        self._span = clip(conn, self._levels, filters.since_ns, filters.until_ns)
        self._fits = edge_condition(filters.terms)
        self._row = row_condition(filters.terms)
        # By table and span: the first and the last failure of each edge in it.
        self._found: dict[tuple[str, int, int], Mapping[int, tuple[_FailureRow, _FailureRow]]] = {}

    def seen(self, groups: Sequence[Keys]) -> dict[Keys, tuple[SeenRow, SeenRow]]:
        """Give the first and the last row with a failure of each of these groups."""
        if self._span is None:
            return {}
        conn = self._conn
        if self._fits is not None:
            choose_edges(conn, "failing", self._fits)
        by_table = {level.table: level for level in self._levels}
        ends: dict[int, tuple[_FailureRow, _FailureRow]] = {}
        for piece in cover(self._levels, *self._span):
            level = by_table[piece.table]
            for edge_id, found in self._failed(level, piece.since_ns, piece.until_ns).items():
                first = ends[edge_id][0] if edge_id in ends else found[0]
                ends[edge_id] = first, found[1]  # pieces come oldest first
        wanted = set(groups)
        edges: dict[Keys, list[int]] = defaultdict(list)
        for edge_id, keys in self._named(ends):
            if keys in wanted:
                edges[keys].append(edge_id)
        return {
            keys: (
                SeenRow(*self._refined(some, min(ends[one][0] for one in some), newest=False)),
                SeenRow(
                    *self._refined(some, max((ends[one][1] for one in some), key=_end), newest=True)
                ),
            )
            for keys, some in edges.items()
        }

    def _refined(self, edges: Sequence[int], row: _FailureRow, *, newest: bool) -> _FailureRow:
        """Look into a bucket for the rows that were folded into it, as far as they are left."""
        for level in reversed(self._levels):
            started_ns, ended_ns, width_ns = row
            if level.width_ns >= width_ns or level.pruned_ns > started_ns:
                continue
            found = self._failed(level, started_ns, ended_ns)
            rows = [found[one][newest] for one in edges if one in found]
            if rows:  # none where an edge was folded into another, and is no more told apart
                row = max(rows, key=_end) if newest else min(rows)
        return row

    def _failed(
        self, level: HeldLevel, since_ns: int, until_ns: int
    ) -> Mapping[int, tuple[_FailureRow, _FailureRow]]:
        asked = level.table, since_ns, until_ns
        if asked not in self._found:
            self._found[asked] = self._read(level, since_ns, until_ns)
        return self._found[asked]

    def _read(
        self, level: HeldLevel, since_ns: int, until_ns: int
    ) -> dict[int, tuple[_FailureRow, _FailureRow]]:
        conditions = ["started_ns >= ? AND started_ns < ?", _FAILED]
        if self._fits is not None:
            conditions.append("edge_id IN (SELECT id FROM temp.failing)")
        values: tuple[object, ...] = ()
        if self._row is not None:
            conditions.append(self._row.sql)
            values = self._row.values
        width_ns = level.width_ns
        ended_ns = "started_ns + lasted_ns" if width_ns == 1 else f"started_ns + {width_ns}"
        found = self._conn.execute(
            f"SELECT edge_id, MIN(started_ns), MAX(started_ns), MAX({ended_ns}) FROM {level.table}"
            f" WHERE {both(conditions)} GROUP BY edge_id",
            (since_ns, until_ns, *values),
        )
        return {
            edge_id: ((first_ns, first_ns + width_ns, width_ns), (last_ns, last_to_ns, width_ns))
            for edge_id, first_ns, last_ns, last_to_ns in found
        }

    def _named(self, edges: Iterable[int]) -> Iterable[tuple[int, Keys]]:
        named = ", ".join(KEYS[key] for key in BY)
        found = self._conn.execute(
            f"SELECT {named}, edge.id FROM json_each(?) AS chosen"
            f" CROSS JOIN edge ON edge.id = chosen.value {joins_of(named)}",
            (str(list(edges)),),
        )
        return [(row[-1], row[:-1]) for row in found]
