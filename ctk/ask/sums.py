"""
Flows summed up by what their keys are: what `top` and `series` have in common.

Rows are summed by edge, edges by the ids behind the keys, and only what is left is looked up by
name: sorting text is what costs.
"""

import re
import sqlite3
from collections.abc import Sequence
from typing import NamedTuple

from ctk.ask.connection import choose_edges
from ctk.ask.selectors import (
    Condition,
    both,
    edge_condition,
    folded_condition,
    row_condition,
)
from ctk.ask.spans import Piece
from ctk.errors import UsageError
from ctk.model import Filters
from ctk.store.columns import IDENTITY_KEYS, flow_sql, joins_of

# What flows are summed up by: a flow's keys that are neither times nor counts, and the two sides
# by the finest name that is known.
KEYS: dict[str, str] = {
    "source": "COALESCE(src.namespace || '/' || src.name, src.name, src.address)",
    "destination": "COALESCE(CASE backend.kind WHEN 'pod' THEN backend.namespace || '/' ||"
    " backend.name END, edge.service, backend.namespace || '/' || backend.name, backend.name,"
    " backend.address)",
    **{key: sql for key, sql in flow_sql(src_port="edge.src_port").items() if key in IDENTITY_KEYS},
}

# What was not measured is left out of a sum; a sum of nothing else is NULL.
_SUMMED = {
    "connections": "connections",
    "events": "new_events + update_events + destroy_events",
    "failed": "unreplied + refused",
    "packets": "COALESCE(packets_out + packets_in, packets_out, packets_in)",
    "bytes": "COALESCE(bytes_out + bytes_in, bytes_out, bytes_in)",
}
SUMS = ", ".join(f"SUM({key}) AS {key}" for key in _SUMMED)

Value = str | int | None


class Counts(NamedTuple):
    """
    What flows add up to.

    `events` are the kernel's messages, `failed` connections were refused or got no reply; packets
    and bytes are of both directions, None where none of them was measured.
    """

    connections: int
    events: int
    failed: int
    packets: int | None
    bytes: int | None


COUNTS = Counts._fields


class Summed(NamedTuple):
    """
    The common tables `moved`, `behind` and `named` of a SELECT, and what is bound in them.

    `named` has a row for each group: its keys in the columns `keys`, COUNTS, and `folded` where
    it holds rows that stand for many external addresses.
    """

    sql: str
    values: tuple[object, ...]
    keys: tuple[str, ...]


def check_keys(keys: Sequence[str], spelled: str) -> None:
    """Refuse what is not a key; the hint is the nearest one, behind `spelled`."""
    for key in keys:
        if key not in KEYS:
            from difflib import get_close_matches

            near = ",".join(get_close_matches(key, KEYS, 1)) or "src_workload,service"
            raise UsageError(f"{key!r} is not a key to rank by", hint=f"{spelled} {near}")


def needs_flows(filters: Filters, keys: Sequence[str]) -> bool:
    """Say whether flows themselves must be read, since a rollup cannot tell what is asked."""
    return (
        "src_port" in keys
        or (filters.first, filters.last) != (None, None)
        or row_condition(filters.terms) is not None
    )


def sum_up(
    conn: sqlite3.Connection,
    pieces: Sequence[Piece],
    filters: Filters,
    keys: Sequence[str],
    step_ns: int | None = None,
) -> Summed:
    """Give the SQL that sums the pieces up by keys; with a step, by time first, as `bucket_ns`."""
    moved = _moved(conn, pieces, filters, "src_port" in keys, step_ns)
    named = {f"k{i}": KEYS[key] for i, key in enumerate(keys)}
    if step_ns is not None:
        named = {"bucket_ns": "edge.bucket_ns"} | named
    expressions = " ".join(named.values())
    joins = joins_of(expressions)
    columns = ", ".join(sorted({*re.findall(r"\bedge\.(\w+)", f"{expressions} {joins}")}))
    each = ", ".join(f"{expression} AS {name}" for name, expression in named.items())
    sql = f"""
        WITH moved AS ({moved.sql}),
        behind AS (
            SELECT {columns}, MAX(edge.id < 0) AS folded, {SUMS}
            FROM moved CROSS JOIN edge ON edge.id = moved.edge_id GROUP BY {columns}
        ),
        named AS MATERIALIZED (
            SELECT {each}, MAX(folded) AS folded, {SUMS}
            FROM behind AS edge {joins} GROUP BY {", ".join(named)}
        )
    """
    return Summed(sql, moved.values, tuple(named))


def _moved(
    conn: sqlite3.Connection,
    pieces: Sequence[Piece],
    filters: Filters,
    by_port: bool,
    step_ns: int | None,
) -> Condition:
    """Give the SELECT of what each edge moved."""
    conditions = ["started_ns >= ? AND started_ns < ?"]
    bound: tuple[object, ...] = ()
    if fits := edge_condition(filters.terms):
        choose_edges(conn, "fitting", fits)
        conditions.append("edge_id IN (SELECT id FROM temp.fitting)")
    if row := row_condition(filters.terms):
        conditions.append(row.sql)
        bound = row.values
    end = ""
    if filters.first is not None or filters.last is not None:
        order = "ASC" if filters.last is None else "DESC"
        end = f"ORDER BY started_ns {order}, n {order} LIMIT ?"
        bound = (*bound, filters.first if filters.last is None else filters.last)
    columns = {"edge_id": "edge_id"}
    if by_port:
        columns["src_port"] = "src_port" if pieces else "NULL"
    if step_ns is not None:
        columns["bucket_ns"] = f"started_ns - started_ns % {step_ns}"
    read = ", ".join(f"{sql} AS {name}" for name, sql in (columns | _SUMMED).items())
    selects = [
        f"SELECT {read} FROM {piece.table} WHERE {both(conditions)} {end}" for piece in pieces
    ] or [f"SELECT {read} FROM flow_1d WHERE 0"]
    values = [(piece.since_ns, piece.until_ns, *bound) for piece in pieces]
    rows = selects[0] if len(selects) == 1 else " UNION ALL ".join(selects)
    group = ", ".join(columns)
    return Condition(f"SELECT {group}, {SUMS} FROM ({rows}) GROUP BY {group}", sum(values, ()))


def hides(conn: sqlite3.Connection, pieces: Sequence[Piece], filters: Filters) -> bool:
    """Say whether flows that fit may be folded where their address or port is not told apart."""
    folded = folded_condition(filters.terms)
    if folded is None or folded == edge_condition(filters.terms):
        return False
    others = Condition(f"edge.id < 0 AND ({folded.sql})", folded.values)
    if not choose_edges(conn, "possible", others):
        return False
    return any(
        conn.execute(
            f"SELECT EXISTS (SELECT 1 FROM {piece.table} WHERE started_ns >= ? AND started_ns < ?"
            " AND edge_id IN (SELECT id FROM temp.possible))",
            (piece.since_ns, piece.until_ns),
        ).fetchone()[0]
        for piece in pieces
    )
