"""
What of a file is shipped next: a batch, which is some of its rows summed up by minute and edge.

A file is shipped up to a position: a time, and how many of the flows that were written late were
there then. What is written late for a time before it comes next; then the flows from there on. So
the same position gives the same batch, and each row is in one.

Where flows were pruned before they were shipped, their minutes are shipped instead: they hold the
same sums.
"""

import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ctk.ask.connection import one_moment
from ctk.errors import StoreError
from ctk.fleet.clickhouse import tables
from ctk.store import folded
from ctk.store.columns import COUNT_KEYS, JOINS, flow_sql
from ctk.store.levels import SETTLED_NS, watermarks
from ctk.store.rollup import floor
from ctk.store.sums import COLUMNS, SUMS
from ctk.timespan import DAY, FOREVER_NS, HOUR, MINUTE, SECOND

BATCH_ROWS = 50_000  # flows that go into one: some 90 MB while it is sent

_EDGE_SQL = flow_sql()
_EDGES = (
    f"SELECT edge.id, {', '.join(_EDGE_SQL[key] for key in tables.IDENTITY)},"
    " edge.src_id, edge.dialled_id, edge.backend_id FROM json_each(?) AS wanted"
    f" CROSS JOIN edge ON edge.id = wanted.value {' '.join(JOINS.values())}"
)
_LATE = (
    "FROM late_flow CROSS JOIN flow AS f ON f.started_ns = late_flow.started_ns"
    " AND f.n = late_flow.n"
)
_MINUTE_OF = f"(f.started_ns - f.started_ns % {MINUTE}) / {SECOND}"
_SUMMED = f"{_MINUTE_OF}, f.edge_id, {SUMS}, MIN(f.started_ns), MAX(f.started_ns + f.lasted_ns)"
_GROUPED = "GROUP BY 1, 2 ORDER BY 1, 2"


class ShippedPosition(NamedTuple):
    """Up to where a file is shipped: the flows that start before, late ones up to an id."""

    at_ns: int
    late_id: int

    def is_after(self, end: "ShippedPosition") -> bool:
        """Say whether nothing of what is shipped up to `end` is shipped from here on."""
        return self.at_ns >= end.at_ns and self.late_id >= end.late_id


START = ShippedPosition(-FOREVER_NS, 0)


class BatchSpan(NamedTuple):
    """What a batch has; `since` and `until` differ in `at_ns` but for one of late flows."""

    level: str  # "flow" or "1m"
    since: ShippedPosition
    until: ShippedPosition

    @property
    def is_late(self) -> bool:
        return self.since.at_ns == self.until.at_ns


class BatchSums(NamedTuple):
    """What a batch adds up to: by this it is compared with what is there."""

    rows: int
    connections: int
    bytes_out: int
    bytes_in: int


@dataclass(frozen=True, slots=True)
class BatchRows:
    """
    The rows of a batch.

    Each is a minute, an edge, counts, when it was first and last seen, and how many addresses are
    behind "other". `edges` has what tables.IDENTITY names, and the ids of three endpoints.
    """

    rows: Sequence[Sequence[int | None]]
    edges: Mapping[int, Sequence[Any]]

    def sums(self) -> BatchSums:
        at = [2 + COUNT_KEYS.index(key) for key in BatchSums._fields[1:]]
        return BatchSums(len(self.rows), *(sum(row[i] or 0 for row in self.rows) for i in at))

    def day(self) -> int:
        """Give the day that all rows are of, in days since the epoch."""
        return (self.rows[0][0] or 0) * SECOND // DAY

    def minutes(self) -> tuple[int, int]:
        """Give the first and the last minute, in seconds since the epoch."""
        found = [row[0] or 0 for row in self.rows]
        return min(found), max(found)

    def columns(self, recording: str, batch: int) -> list[Sequence[object]]:
        """Give the values of tables.FLOWS_1M, a sequence for each column."""
        edges = [self.edges[row[1] or 0] for row in self.rows]
        minute, edge, *counted = zip(*self.rows, strict=True)
        count, names = len(self.rows), len(tables.IDENTITY)
        return [
            minute,
            [recording] * count,
            [batch] * count,
            *([values[i] for values in edges] for i in range(names)),
            edge,
            *([values[i] for values in edges] for i in range(names, names + 3)),
            *counted,
        ]


class Cut(NamedTuple):
    """
    A batch, and what cannot be shipped any more.

    `skipped` is before it: no table of the file has its minutes. `late_pruned` is how many flows,
    at most, were written late for a time that was shipped, and then pruned: minutes have them, but
    not apart from what is there.
    """

    span: BatchSpan
    rows: BatchRows
    skipped: tuple[int, int] | None
    late_pruned: int


def settled_ns(conn: sqlite3.Connection, *, written: bool) -> int:
    """Give up to when flows can be shipped: all of them where nobody writes the file."""
    (committed_ns,) = conn.execute("SELECT MAX(committed_ns) FROM recording").fetchone()
    if committed_ns is None:
        return -FOREVER_NS
    if written:
        return floor(committed_ns - SETTLED_NS, MINUTE)
    (newest_ns,) = conn.execute("SELECT MAX(started_ns) FROM flow").fetchone()
    return max(int(committed_ns), -FOREVER_NS if newest_ns is None else newest_ns + 1)


def cut(
    conn: sqlite3.Connection, since: ShippedPosition, *, written: bool, most: int = BATCH_ROWS
) -> Cut | None:
    """
    Give the next batch after a position; None where nothing is to be shipped.

    A batch without rows moves the position on.
    """
    with one_moment(conn):
        late_id = _newest_late_id(conn)
        span = _late_span(conn, since, late_id, most)
        if span is not None:
            return Cut(span, read(conn, span), None, _late_pruned(conn, since, span.until.late_id))
        late_pruned = _late_pruned(conn, since, late_id)
        marks = watermarks(conn)
        end_ns = settled_ns(conn, written=written)
        flows_ns, minutes_ns = (marks[each].pruned_ns or -FOREVER_NS for each in ("flow", "1m"))
        skipped = _skipped(conn, since, flows_ns, minutes_ns) if since != START else None
        first_ns = _first_ns(conn, since.at_ns if skipped is None else skipped[1], flows_ns)
        if first_ns is None or first_ns >= end_ns:
            if end_ns <= since.at_ns and not late_pruned:
                return None
            return Cut(
                BatchSpan("flow", since, ShippedPosition(max(end_ns, since.at_ns), late_id)),
                BatchRows((), {}),
                skipped,
                late_pruned,
            )
        level = "1m" if first_ns < flows_ns else "flow"
        until_ns = min(end_ns, floor(first_ns, DAY) + DAY, flows_ns if level == "1m" else end_ns)
        until_ns = _limited(conn, level, first_ns, until_ns, most)
        if since == START:  # so that it is known what of the first day there was to ship
            first_ns = max(floor(first_ns, DAY), min(flows_ns, minutes_ns))
        span = BatchSpan(
            level, ShippedPosition(first_ns, since.late_id), ShippedPosition(until_ns, late_id)
        )
        return Cut(span, read(conn, span), skipped, late_pruned)


def read(conn: sqlite3.Connection, span: BatchSpan) -> BatchRows:
    """
    Read the rows of a batch, as they were when it was cut, with the names of now.

    Flows that were written later for its time are in a later batch.
    """
    since, until = span.since, span.until
    with one_moment(conn):
        if span.is_late:
            sql = (
                f"SELECT {_SUMMED} {_LATE} WHERE late_flow.id > ? AND late_flow.id <= ?"
                f" AND f.started_ns < ? {_GROUPED}"
            )
            found = conn.execute(sql, (since.late_id, until.late_id, since.at_ns)).fetchall()
        elif span.level == "1m":
            found = conn.execute(
                f"SELECT {_MINUTE_OF}, f.edge_id, {COLUMNS}, f.started_ns, f.started_ns + {MINUTE}"
                " FROM flow_1m AS f WHERE started_ns >= ? AND started_ns < ? ORDER BY 1, 2",
                (since.at_ns, until.at_ns),
            ).fetchall()
        else:
            later = ""
            if _newest_late_id(conn) > until.late_id:
                later = (
                    " AND (f.started_ns, f.n) NOT IN"
                    f" (SELECT started_ns, n FROM late_flow WHERE id > {until.late_id})"
                )
            found = conn.execute(
                f"SELECT {_SUMMED} FROM flow AS f WHERE f.started_ns >= ? AND f.started_ns < ?"
                f"{later} {_GROUPED}",
                (since.at_ns, until.at_ns),
            ).fetchall()
        behind = _behind_others(conn, span.level, found)
        rows = [(*row, *behind.get((row[0], row[1]), (None, None))) for row in found]
        return BatchRows(rows, _edges(conn, {row[1] for row in found}))


def _late_span(
    conn: sqlite3.Connection, since: ShippedPosition, late_id: int, most: int
) -> BatchSpan | None:
    """Give a batch of flows of one day that were written late for a time before a position."""
    found = conn.execute(
        f"SELECT late_flow.id, f.started_ns {_LATE} WHERE late_flow.id > ? AND late_flow.id <= ?"
        " AND f.started_ns < ? ORDER BY late_flow.id LIMIT ?",
        (since.late_id, late_id, since.at_ns, most),
    ).fetchall()
    if not found:
        return None
    day = found[0][1] // DAY
    last_id = found[0][0]
    for each_id, started_ns in found:
        if started_ns // DAY != day:
            break
        last_id = each_id
    return BatchSpan("flow", since, ShippedPosition(since.at_ns, last_id))


def _late_pruned(conn: sqlite3.Connection, since: ShippedPosition, late_id: int) -> int:
    """
    Count flows that were written late for a time before a position, and are gone.

    Their notes go once a day. What they were of is then not known, so each is counted.
    """
    if since == START or late_id <= since.late_id:
        return 0
    (to_be_shipped,) = conn.execute(
        "SELECT COUNT(*) FROM late_flow WHERE id > ? AND id <= ? AND (started_ns >= ? OR EXISTS"
        " (SELECT 1 FROM flow AS f WHERE f.started_ns = late_flow.started_ns"
        " AND f.n = late_flow.n))",
        (since.late_id, late_id, since.at_ns),
    ).fetchone()
    return late_id - since.late_id - int(to_be_shipped)


def _skipped(
    conn: sqlite3.Connection, since: ShippedPosition, flows_ns: int, minutes_ns: int
) -> tuple[int, int] | None:
    """Give a span after a position of which neither flows nor minutes are left, but hours are."""
    if since.at_ns >= flows_ns:
        return None
    # Of a minute that was shipped in part, the rest cannot be told from it any more.
    whole_ns = min(max(-floor(-since.at_ns, MINUTE), minutes_ns), flows_ns)
    table, width_ns = ("flow_1h", HOUR) if whole_ns - since.at_ns > MINUTE else ("flow_1m", MINUTE)
    asked = f"SELECT EXISTS (SELECT 1 FROM {table} WHERE started_ns >= ? AND started_ns < ?)"
    span = since.at_ns, whole_ns
    if span[0] >= span[1]:
        return None
    return span if conn.execute(asked, (floor(span[0], width_ns), span[1])).fetchone()[0] else None


def _first_ns(conn: sqlite3.Connection, at_ns: int, flows_ns: int) -> int | None:
    """Give when the next row begins: of minutes, of which flows are left."""
    of_minutes = None
    if at_ns < flows_ns:
        (of_minutes,) = conn.execute(
            "SELECT MIN(started_ns) FROM flow_1m WHERE started_ns >= ? AND started_ns < ?",
            (-floor(-at_ns, MINUTE), flows_ns),
        ).fetchone()
    if of_minutes is not None:
        return int(of_minutes)
    found = conn.execute(
        "SELECT MIN(started_ns) FROM flow WHERE started_ns >= ?", (max(at_ns, flows_ns),)
    ).fetchone()
    return None if found[0] is None else int(found[0])


def _limited(conn: sqlite3.Connection, level: str, since_ns: int, until_ns: int, most: int) -> int:
    """Give an earlier end where there are too many rows: of a minute, where that is possible."""
    table = "flow_1m" if level == "1m" else "flow"
    found = conn.execute(
        f"SELECT started_ns FROM {table} WHERE started_ns >= ? AND started_ns < ?"
        " ORDER BY started_ns LIMIT 1 OFFSET ?",
        (since_ns, until_ns, most),
    ).fetchone()
    if found is None:
        return until_ns
    end_ns = floor(found[0], MINUTE)
    if end_ns > since_ns:
        return end_ns
    # One minute has more: a bucket's rows stay together, flows may be cut.
    return min(until_ns, since_ns + MINUTE if level == "1m" else max(found[0], since_ns + 1))


def _edges(conn: sqlite3.Connection, wanted: set[int]) -> dict[int, Sequence[Any]]:
    found = {row[0]: row[1:] for row in conn.execute(_EDGES, (json.dumps(list(wanted)),))}
    if not wanted <= found.keys():
        raise StoreError(
            "the file is damaged: who some of its flows are of is missing",
            hint="copy what can be read with `sqlite3 FILE .recover`",
        )
    return found


def _behind_others(
    conn: sqlite3.Connection, level: str, rows: Sequence[Sequence[Any]]
) -> dict[tuple[int, int], tuple[int | None, int | None]]:
    """Count the addresses that rows of edges stand for that are of many, by minute and edge."""
    found = {}
    for minute in {row[0] for row in rows if row[1] < 0}:
        start_ns = minute * SECOND
        counts = folded.of_bucket(conn, level, start_ns, start_ns + MINUTE)
        for edge_id, count in counts.items():
            src, dst = (None if side is None else len(side) for side in (count.src, count.dst))
            found[minute, edge_id] = src, dst
    return found


def _newest_late_id(conn: sqlite3.Connection) -> int:
    (late_id,) = conn.execute("SELECT COALESCE(MAX(id), 0) FROM late_flow").fetchone()
    return int(late_id)
