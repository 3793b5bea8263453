"""
Who moved most: sums over any span, exact, from the coarsest tables that hold it.

Rows are summed by edge, edges by the ids behind the keys, and only what is left is looked up by
name: sorting text is what costs.
"""

import re
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ctk.ask.flows import one_moment
from ctk.ask.selectors import (
    Condition,
    both,
    edge_condition,
    folded_condition,
    row_condition,
    settle,
)
from ctk.ask.spans import Piece, clip, cover, held
from ctk.errors import UsageError
from ctk.model import Filters
from ctk.store.columns import IDENTITY_KEYS, flow_sql, joins_of

# What to rank by: a flow's keys that are neither times nor counts, and the two sides by the finest
# name that is known.
KEYS: dict[str, str] = {
    "source": "COALESCE(src.namespace || '/' || src.name, src.name, src.address)",
    "destination": "COALESCE(CASE backend.kind WHEN 'pod' THEN backend.namespace || '/' ||"
    " backend.name END, edge.service, backend.namespace || '/' || backend.name, backend.name,"
    " backend.address)",
    **{key: sql for key, sql in flow_sql(src_port="edge.src_port").items() if key in IDENTITY_KEYS},
}
SORTS = ("bytes", "packets", "connections", "events", "failed")

# What was not measured is left out of a sum; a sum of nothing else is NULL.
_SUMMED = {
    "connections": "connections",
    "events": "new_events + update_events + destroy_events",
    "failed": "unreplied + refused",
    "packets": "COALESCE(packets_out + packets_in, packets_out, packets_in)",
    "bytes": "COALESCE(bytes_out + bytes_in, bytes_out, bytes_in)",
}
COUNTS = tuple(_SUMMED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """Groups in order, each its keys and then its COUNTS, and the COUNTS of all groups."""

    keys: tuple[str, ...]
    sort: str
    rows: list[tuple[Any, ...]]
    total: tuple[int | None, ...]
    groups: int  # of which `rows` are the first
    folded: bool  # some rows stand for many external addresses, folded into "other"
    widened: tuple[int, int] | None  # what was counted, where that is more than what was asked
    one_by_one: bool  # from flows alone: rollups could not tell


def top(
    conn: sqlite3.Connection,
    filters: Filters,
    keys: Sequence[str],
    sort: str | None = None,
    limit: int = 20,
) -> Ranking:
    """
    Sum up the flows that fit by what their keys are, the largest first.

    The default sort is bytes, and connections where no bytes were measured. Flows are read one
    by one where a rollup cannot tell: for --failed, --from-port, --first, --last and src_port.
    """
    for key in keys:
        if key not in KEYS:
            raise UsageError(f"{key!r} is not a key to rank by", hint=_suggested(key))
    one_by_one = (
        "src_port" in keys
        or (filters.first, filters.last) != (None, None)
        or row_condition(filters.terms) is not None
    )
    with one_moment(conn):
        levels = held(conn)[: 1 if one_by_one else None]
        span = clip(conn, levels, filters.since_ns, filters.until_ns)
        pieces = [] if span is None else cover(levels, *span)
        moved = _moved(conn, pieces, filters, "src_port" in keys)
        answer = conn.execute(_sql(keys, sort, moved.sql), (*moved.values, limit))
        groups, folded, *first = answer.fetchone()
        total = tuple(first[len(keys) :])
        rows = [found[2:] for found in answer]
        hidden = _hides(conn, pieces, filters)
    reach = (pieces[0].since_ns, pieces[-1].until_ns) if pieces else span
    measured = total[COUNTS.index("bytes")] is not None
    return Ranking(
        keys=tuple(keys),
        sort=sort or ("bytes" if measured else "connections"),
        rows=rows,
        total=total,
        groups=groups,
        folded=bool(folded) or hidden,
        widened=None if reach == span else reach,
        one_by_one=one_by_one,
    )


def _suggested(key: str) -> str:
    from difflib import get_close_matches

    return "--by " + (",".join(get_close_matches(key, KEYS, 1)) or "src_workload,service")


def _moved(
    conn: sqlite3.Connection, pieces: Sequence[Piece], filters: Filters, by_port: bool
) -> Condition:
    """Give the SELECT of what each edge moved."""
    conditions = ["started_ns >= ? AND started_ns < ?"]
    bound: tuple[object, ...] = ()
    if fits := edge_condition(filters.terms):
        settle(conn, "fitting", fits)
        conditions.append("edge_id IN (SELECT id FROM temp.fitting)")
    if row := row_condition(filters.terms):
        conditions.append(row.sql)
        bound = row.values
    end = ""
    if filters.first is not None or filters.last is not None:
        order = "ASC" if filters.last is None else "DESC"
        end = f"ORDER BY started_ns {order}, n {order} LIMIT ?"
        bound = (*bound, filters.first if filters.last is None else filters.last)
    columns = ["edge_id", *(["src_port"] if by_port else [])]
    read = ", ".join([*columns, *(f"{sql} AS {key}" for key, sql in _SUMMED.items())])
    selects = [
        f"SELECT {read} FROM {piece.table} WHERE {both(conditions)} {end}" for piece in pieces
    ] or [f"SELECT {read.replace('src_port', 'NULL AS src_port')} FROM flow_1d WHERE 0"]
    values = [(piece.since_ns, piece.until_ns, *bound) for piece in pieces]
    rows = selects[0] if len(selects) == 1 else " UNION ALL ".join(selects)
    group = ", ".join(columns)
    return Condition(f"SELECT {group}, {_sums()} FROM ({rows}) GROUP BY {group}", sum(values, ()))


def _hides(conn: sqlite3.Connection, pieces: Sequence[Piece], filters: Filters) -> bool:
    """Say whether flows that fit may be folded where their address or port is not told apart."""
    folded = folded_condition(filters.terms)
    if folded is None or folded == edge_condition(filters.terms):
        return False
    others = Condition(f"edge.id < 0 AND ({folded.sql})", folded.values)
    if not settle(conn, "possible", others):
        return False
    return any(
        conn.execute(
            f"SELECT EXISTS (SELECT 1 FROM {piece.table} WHERE started_ns >= ? AND started_ns < ?"
            " AND edge_id IN (SELECT id FROM temp.possible))",
            (piece.since_ns, piece.until_ns),
        ).fetchone()[0]
        for piece in pieces
    )


def _sql(keys: Sequence[str], sort: str | None, moved: str) -> str:
    """Give the SELECT of a row for the total, then the groups; the number of groups is bound."""
    named = {f"k{i}": KEYS[key] for i, key in enumerate(keys)}
    expressions = " ".join(named.values())
    joins = joins_of(expressions)
    behind = {*re.findall(r"\bedge\.(\w+)", f"{expressions} {joins}")}
    columns = ", ".join(sorted(behind))
    each = ", ".join(f"{expression} AS {name}" for name, expression in named.items())
    groups = ", ".join(named)
    by = sort or "CASE WHEN (SELECT COUNT(bytes) FROM named) THEN bytes ELSE connections END"
    return f"""
        WITH moved AS ({moved}),
        behind AS (
            SELECT {columns}, MAX(edge.id < 0) AS folded, {_sums()}
            FROM moved CROSS JOIN edge ON edge.id = moved.edge_id GROUP BY {columns}
        ),
        named AS MATERIALIZED (
            SELECT {each}, MAX(folded) AS folded, {_sums()}
            FROM behind AS edge {joins} GROUP BY {groups}
        )
        SELECT COUNT(*), MAX(folded), {", ".join("NULL" for _ in keys)}, {_sums()} FROM named
        UNION ALL
        SELECT * FROM (
            SELECT 0, folded, {groups}, {", ".join(COUNTS)} FROM named
            ORDER BY {by} DESC, {groups} LIMIT ?
        )
    """


def _sums() -> str:
    return ", ".join(f"SUM({key}) AS {key}" for key in _SUMMED)
