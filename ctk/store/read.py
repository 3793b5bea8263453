"""
Flows from a ctk file, oldest first.

A question about names becomes a set of edges first, and the rollups say where those have flows,
so that what is rare is found without an index on ten million rows.
"""

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from ctk.model import FLOW_KEYS, Filters, FlowRecord
from ctk.store.selectors import both, edge_condition, folded_condition, row_condition, settle
from ctk.store.spans import clip, held, holding
from ctk.timespan import SECOND

# With this many edges or fewer each is looked up in a bucket; with more, the bucket is read.
_FEW_EDGES = 2_000

_IDENTITY = ("kind", "namespace", "name", "workload", "workload_kind", "node", "labels")

# What a flow's keys are, but for its times and counts, over the tables of JOINS.
COLUMNS: dict[str, str] = {
    "node": "recorder.node",
    "proto": "edge.proto",
    "ip_version": "CASE COALESCE(NULLIF(length(src.packed), 0), length(dialled.packed))"
    " WHEN 4 THEN 4 WHEN 16 THEN 6 END",
    "zone": "edge.zone",
    "src": "src.address",
    "src_port": "f.src_port",
    "dst": "dialled.address",
    "dst_port": "edge.dst_port",
    "nat_src": "edge.nat_src",
    "nat_dst": "NULLIF(backend.address, dialled.address)",
    "nat_dst_port": "edge.nat_dst_port",
    **{f"src_{column}": f"src.{column}" for column in _IDENTITY},
    **{f"dst_{column}": f"backend.{column}" for column in _IDENTITY},
    "service": "edge.service",
    "service_via": "edge.service_via",
}
JOINS: dict[str, str] = {
    "recorder": "LEFT JOIN recorder ON recorder.id = edge.recorder_id",
    "src": "LEFT JOIN endpoint AS src ON src.id = edge.src_id",
    "dialled": "LEFT JOIN endpoint AS dialled ON dialled.id = edge.dialled_id",
    "backend": "LEFT JOIN endpoint AS backend ON backend.id = edge.backend_id",
}

_RECORD = ", ".join(
    [
        "f.started_ns",
        "f.started_ns + f.lasted_ns",
        *(COLUMNS.get(key, f"f.{key}") for key in FLOW_KEYS[FLOW_KEYS.index("node") :]),
    ]
)


def flows(conn: sqlite3.Connection, filters: Filters) -> Iterator[FlowRecord]:
    """
    Yield the flows that fit, oldest first, as of one moment.

    The first comes at once, unless only the last ones are asked for.
    """
    for _, record in numbered_flows(conn, filters):
        yield record


def numbered_flows(
    conn: sqlite3.Connection, filters: Filters, after: tuple[int, int] | None = None
) -> Iterator[tuple[int, FlowRecord]]:
    """
    Yield flows with the number that tells those of one nanosecond apart.

    `after` is where an earlier reader stopped: the last (started_ns, number) it had.
    """
    with one_moment(conn):
        rows = _rows(conn, filters, after)
        if filters.last is not None:
            rows = reversed(list(rows))
        for number, started_ns, ended_ns, *rest in rows:
            times = (_text(started_ns), _text(ended_ns), started_ns, ended_ns)
            yield number, FlowRecord(*times, *rest)


def _rows(
    conn: sqlite3.Connection, filters: Filters, after: tuple[int, int] | None
) -> Iterable[tuple[Any, ...]]:
    newest_first = filters.last is not None
    left = filters.last if newest_first else filters.first
    since_ns = filters.since_ns
    if after is not None:
        since_ns = max(after[0], after[0] if since_ns is None else since_ns)
    levels = held(conn)
    span = clip(conn, levels[:1], since_ns, filters.until_ns)
    if span is None or left == 0:
        return
    row = row_condition(filters.terms)
    conditions = ["f.started_ns >= ? AND f.started_ns < ?"]
    if after is not None:
        conditions.append("(f.started_ns, f.n) > (?, ?)")
    if fits := edge_condition(filters.terms):
        settle(conn, "fitting", fits)
        conditions.append("f.edge_id IN (SELECT id FROM temp.fitting)")
    if row:
        conditions.append(row.sql)
    order = "DESC" if newest_first else "ASC"
    sql = f"""
        SELECT f.n, {_RECORD} FROM flow AS f CROSS JOIN edge ON edge.id = f.edge_id
        {" ".join(JOINS.values())}
        WHERE {both(conditions)} ORDER BY f.started_ns {order}, f.n {order} LIMIT ?
    """
    bound = (*(after or ()), *(row.values if row else ()))
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
