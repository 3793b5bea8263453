"""
Flows from a ctk file, oldest first.

A question about names becomes a set of edges first, and the rollups say where those have flows,
so that what is rare is found without an index on ten million rows.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, NamedTuple

from ctk.ask.selectors import both, edge_condition, folded_condition, row_condition, settle
from ctk.ask.spans import clip, held, holding
from ctk.model import Filters
from ctk.store.columns import FLOW_COLUMNS, JOINS, FlowRecord, flow_sql
from ctk.timespan import FOREVER_NS, SECOND

# With this many edges or fewer each is looked up in a bucket; with more, the bucket is read.
_FEW_EDGES = 2_000

# What a row is read as: a text of a time is made here, since most share their second.
_STORED = {key: sql for key, sql in flow_sql().items() if FLOW_COLUMNS[key].time_of is None}
_RECORD = ", ".join(_STORED.values())
_JOINS = " ".join(JOINS.values())


class Place(NamedTuple):
    """Up to where a reader of flows is: the last one it had, by time and among the late ones."""

    started_ns: int
    number: int  # tells flows of one nanosecond apart
    late_id: int  # in late_flow: of those written after flows that start later


BEFORE_ALL = Place(-1, 0, 0)


def flows(conn: sqlite3.Connection, filters: Filters) -> Iterator[FlowRecord]:
    """
    Yield the flows that fit, oldest first, as of one moment.

    The first comes at once, unless only the last ones are asked for.
    """
    with one_moment(conn):
        rows: Iterable[_Row] = _rows(conn, filters, None)
        if filters.last is not None:
            rows = reversed(list(rows))
        for row in rows:
            yield _record(row)


def flows_after(
    conn: sqlite3.Connection, filters: Filters, after: Place
) -> Iterator[tuple[Place, FlowRecord]]:
    """
    Yield the flows that an earlier reader, which stopped at `after`, has not had: late ones first.

    Each comes with the place where a reader is that had it.
    """
    with one_moment(conn):
        left = filters.first
        for late_id, *late in _late_rows(conn, filters, after):
            yield after._replace(late_id=late_id), _record(late)
            left = None if left is None else left - 1
        (late_id,) = conn.execute("SELECT COALESCE(MAX(id), 0) FROM late_flow").fetchone()
        for row in _rows(conn, replace(filters, first=left), after):
            yield Place(row[1], row[0], late_id), _record(row)


_Row = Sequence[Any]  # the number, then what _RECORD selects


def _record(row: _Row) -> FlowRecord:
    _, started_ns, ended_ns, *rest = row
    return FlowRecord(_text(started_ns), _text(ended_ns), started_ns, ended_ns, *rest)


def _conditions(conn: sqlite3.Connection, filters: Filters) -> tuple[list[str], Sequence[Any]]:
    """What a row must be to fit, of a span that is bound first; and what is bound after it."""
    conditions = ["f.started_ns >= ? AND f.started_ns < ?"]
    if fits := edge_condition(filters.terms):
        settle(conn, "fitting", fits)
        conditions.append("f.edge_id IN (SELECT id FROM temp.fitting)")
    row = row_condition(filters.terms)
    if row:
        conditions.append(row.sql)
    return conditions, row.values if row else ()


def _late_rows(conn: sqlite3.Connection, filters: Filters, after: Place) -> Iterable[_Row]:
    conditions, values = _conditions(conn, filters)
    sql = f"""
        SELECT late_flow.id, f.n, {_RECORD} FROM late_flow
        CROSS JOIN flow AS f ON f.started_ns = late_flow.started_ns AND f.n = late_flow.n
        CROSS JOIN edge ON edge.id = f.edge_id
        {_JOINS}
        WHERE {both(conditions)} AND late_flow.id > ? AND (f.started_ns, f.n) <= (?, ?)
        ORDER BY late_flow.id LIMIT ?
    """
    since_ns = -FOREVER_NS if filters.since_ns is None else filters.since_ns
    until_ns = FOREVER_NS if filters.until_ns is None else filters.until_ns
    place = (after.late_id, after.started_ns, after.number)
    limit = -1 if filters.first is None else filters.first
    return conn.execute(sql, (since_ns, until_ns, *values, *place, limit))


def _rows(conn: sqlite3.Connection, filters: Filters, after: Place | None) -> Iterator[_Row]:
    newest_first = filters.last is not None
    left = filters.last if newest_first else filters.first
    since_ns = filters.since_ns
    if after is not None:
        since_ns = max(after.started_ns, after.started_ns if since_ns is None else since_ns)
    levels = held(conn)
    span = clip(conn, levels[:1], since_ns, filters.until_ns)
    if span is None or left == 0:
        return
    conditions, values = _conditions(conn, filters)
    if after is not None:
        conditions.append("(f.started_ns, f.n) > (?, ?)")
    order = "DESC" if newest_first else "ASC"
    sql = f"""
        SELECT f.n, {_RECORD} FROM flow AS f CROSS JOIN edge ON edge.id = f.edge_id
        {_JOINS}
        WHERE {both(conditions)} ORDER BY f.started_ns {order}, f.n {order} LIMIT ?
    """
    bound = (*values, *(after[:2] if after else ()))
    parts: Iterable[tuple[int, int]] = [span]
    if condition := _rollup_condition(conn, filters):
        parts = holding(conn, levels, span, condition, newest_first=newest_first)
    for part in parts:
        for found in conn.execute(sql, (*part, *bound, -1 if left is None else left)):
            yield found
            if left is not None:
                left -= 1
        if left == 0:
            return


def _rollup_condition(conn: sqlite3.Connection, filters: Filters) -> str | None:
    """Give what a bucket's row must be where flows that fit may be in it; None if all may be."""
    conditions = []
    if possible := folded_condition(filters.terms):
        few = settle(conn, "possible", possible) <= _FEW_EDGES
        # The plus keeps the edge out of the primary key's lookup.
        conditions.append(f"{'' if few else '+'}edge_id IN (SELECT id FROM temp.possible)")
    if any(term.field == "failed" and not term.negated for term in filters.terms):
        conditions.append("(unreplied > 0 OR refused > 0)")
    return both(conditions) if conditions else None


@contextmanager
def one_moment(conn: sqlite3.Connection) -> Iterator[None]:
    """Read the file as it is now, whatever is committed meanwhile."""
    if conn.in_transaction:
        yield
        return
    conn.execute("BEGIN")
    try:
        yield
    finally:
        # A reader that is left behind half read may outlive its connection.
        with suppress(sqlite3.ProgrammingError):
            conn.execute("ROLLBACK")


def _text(time_ns: int) -> str:
    seconds, fraction_ns = divmod(time_ns, SECOND)
    return f"{_second(seconds)}.{fraction_ns:09d}Z"


# Rows come in order, so most share their second with the one before.
@lru_cache(maxsize=64)
def _second(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}"
