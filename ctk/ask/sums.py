"""
Flows summed up by what their keys are: what `top` and `series` have in common.

Rows are summed by edge, and only what is left is looked up by name: sorting is what costs.
"""

import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from ctk.ask.connection import choose_edges
from ctk.ask.presets import EITHER_KEYS, PRESETS, FlowEnds, RankedSide, answered, expanded, opened
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
from ctk.store.levels import LEVELS
from ctk.store.peers import CLIENT, SERVER

# What flows are summed up by: a flow's keys that are neither times nor counts; the two sides by
# the finest name that is known (source, destination); by workload and service (client, server); and
# who answered, where (backend, backend_port).
KEYS: dict[str, str] = {
    "source": "COALESCE(src.namespace || '/' || src.name, src.name, src.address)",
    "destination": "COALESCE(CASE backend.kind WHEN 'pod' THEN backend.namespace || '/' ||"
    " backend.name END, edge.service, backend.namespace || '/' || backend.name, backend.name,"
    " backend.address)",
    **{key: opened(key) for key in EITHER_KEYS},
    "client": CLIENT,
    "server": SERVER,
    "backend": "COALESCE(backend.namespace || '/' || backend.name, backend.name, backend.address)",
    "backend_port": "COALESCE(edge.nat_dst_port, edge.dst_port)",
    **{
        key: sql for key, sql in flow_sql(src_port="moved.src_port").items() if key in IDENTITY_KEYS
    },
}

# What a table of flows is read for.
_READ = {
    "connections": "connections",
    "events": "new_events + update_events + destroy_events",
    "unreplied": "unreplied",
    "refused": "refused",
    # What was not measured is left out of a sum; a sum of nothing else is NULL.
    "packets": "COALESCE(packets_out + packets_in, packets_out, packets_in)",
    "bytes_out": "bytes_out",
    "bytes_in": "bytes_in",
}
_READ_ALL = tuple(_READ)  # all counts follow from these
# Read where they are asked for without what they are the sum of.
_READ |= {
    "failed": "unreplied + refused",
    "bytes": "COALESCE(bytes_out + bytes_in, bytes_out, bytes_in)",
}
# The times are read where they are asked for: they cost as much again as three of the sums.
_READ_SEEN = {"first_seen_ns": "started_ns", "last_seen_ns": "{ended_ns}"}
_ENDED_NS = {level.table: f"started_ns + {level.width_ns or 'lasted_ns'}" for level in LEVELS}
_ADDED = {"first_seen_ns": "MIN", "last_seen_ns": "MAX"}  # and SUM the others
# What follows from which sums.
_FOLLOWING = {
    "failed": (("unreplied", "refused"), "unreplied + refused"),
    "bytes": (("bytes_out", "bytes_in"), "COALESCE(bytes_out + bytes_in, bytes_out, bytes_in)"),
}

Value = str | int | None
Keys = tuple[Value, ...]  # of a group


class Counts(NamedTuple):
    """
    What flows add up to. A count that was not asked for is None.

    `events` are the kernel's messages, `failed` connections were refused or got no reply; packets
    and bytes are of both directions, None where none of them was measured. The flows began and
    ended between `first_seen_ns` and `last_seen_ns`: those of the rows that answered, so of whole
    buckets where a rollup did.
    """

    connections: int
    events: int
    failed: int
    packets: int | None
    bytes: int | None
    bytes_out: int | None
    bytes_in: int | None
    refused: int
    unreplied: int
    first_seen_ns: int | None  # None where it was not asked for
    last_seen_ns: int | None


COUNTS = Counts._fields
SEEN = tuple(_READ_SEEN)
NOTHING = Counts(0, 0, 0, None, None, None, None, 0, 0, None, None)


def plus(one: Counts, other: Counts) -> Counts:
    """Add two counts up; what was measured in neither stays None."""
    return Counts._make(
        mine if its is None else its if mine is None else _PLUS.get(name, int.__add__)(mine, its)
        for name, mine, its in zip(COUNTS, one, other, strict=True)
    )


_PLUS: Mapping[str, Callable[[int, int], int]] = {"first_seen_ns": min, "last_seen_ns": max}


# What groups are ranked by, and the count that it is. Times rank the latest first.
SORTS: dict[str, str] = {
    **{count: count for count in ("bytes", "packets", "connections", "events", "failed")},
    **{count: count for count in ("bytes_out", "bytes_in", "refused", "unreplied")},
    "first_seen": "first_seen_ns",
    "last_seen": "last_seen_ns",
}


def added(counts: Iterable[str] = COUNTS) -> str:
    """Give the SQL that adds rows with these counts up."""
    return ", ".join(f"{_ADDED.get(count, 'SUM')}({count}) AS {count}" for count in counts)


class Summed(NamedTuple):
    """
    The common tables of a SELECT, and what is bound in them.

    `named` has a row for each group: its keys in the columns `keys`, COUNTS, and `folded` where
    it holds rows that stand for many addresses which its keys would tell apart. `ends` has the same
    of each end of each edge, with no more counts than were read. Where a flow may be in two groups,
    `whole` has one row: COUNTS of all flows.
    """

    sql: str
    values: tuple[object, ...]
    keys: tuple[str, ...]
    twice: bool  # a flow may be in two groups


def check_keys(keys: Sequence[str], spelled: str) -> None:
    """Refuse what is neither a key nor a preset; the hint is the nearest one, behind `spelled`."""
    for key in keys:
        if key not in KEYS and key not in PRESETS:
            from difflib import get_close_matches

            near = get_close_matches(key, [*PRESETS, *KEYS], 1)
            others = f"one of {', '.join(PRESETS)}; `ctk top --help` has all"
            keys_told = f"{spelled} {near[0]}" if near else others
            raise UsageError(f"{key!r} is not a key to group by", hint=keys_told)


def keys_of(by: str | Iterable[str]) -> Sequence[str]:
    """Give the keys that `by` names, those of presets in their place."""
    keys = [key.strip() for key in by.split(",")] if isinstance(by, str) else list(by)
    check_keys(keys, "by=")
    return expanded(keys)


def refuse_cut(filters: Filters, of: str, hint: str = "--limit 20 cuts the answer") -> None:
    """Refuse `first` and `last` where an answer is not made of so many flows."""
    if (filters.first, filters.last) != (None, None):
        raise UsageError(f"first and last cut flows, not {of}", hint=hint)


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
    *,
    counted: Sequence[str] = _READ_ALL,
    seen: bool = False,
    side: RankedSide = "both",
    among: bool = False,
    with_any: str = "",
) -> Summed:
    """
    Give the SQL that sums the pieces up by keys; with a step, by time first, as `bucket_ns`.

    COUNTS that do not follow from `counted` are NULL, and so are its times without `seen`: each
    costs. `side` is of the keys that either side
    has; a flow that counts for both is in `whole` once. With `among`, only the edges of
    `ctk.ask.among` are read. Groups without an edge that is as `with_any` says, in SQL over its
    counts, are left out of `named`: to sort the texts of all groups is what costs.
    """
    read = {count: _READ[count] for count in counted} | (_READ_SEEN if seen else {})
    by = {"edge_id": "edge_id"} if keys else {}
    if "src_port" in keys:
        by["src_port"] = "src_port" if pieces else "NULL"
    if step_ns is not None:
        by["bucket_ns"] = f"started_ns - started_ns % {step_ns}"
    moved = _moved(conn, pieces, filters, read, by, among)
    arms = [
        _arm(keys, of_end, step_ns, where, whole, read)
        for of_end, where, whole in FlowEnds(keys, side).arms()
    ]
    # What is used once is not stored, but read as it is made; of `ends` SQLite sees for itself.
    kept = "MATERIALIZED" if len(arms) > 1 else "NOT MATERIALIZED"
    named = [*(() if step_ns is None else ("bucket_ns",)), *(f"k{i}" for i in range(len(keys)))]
    counts = ", ".join(f"{_count(count, read)} AS {count}" for count in COUNTS)
    names = ", ".join(named)
    whole = ""
    if len(arms) > 1:
        of_ends = f"SELECT {added(read)} FROM ends WHERE whole"
        whole = f", whole AS (SELECT {counts} FROM ({of_ends}))"
    where = ""
    if with_any:
        # An IN finds no NULL; no key is a blob.
        each = ", ".join(f"IFNULL({name}, x'00')" for name in named)
        where = f"WHERE ({each}) IN (SELECT {each} FROM ends WHERE {with_any})"
    sql = f"""
        WITH moved AS {kept} ({moved.sql}),
        ends AS ({" UNION ALL ".join(arms)}),
        grouped AS NOT MATERIALIZED (
            SELECT {names}, MAX(folded) AS folded, {added(read)} FROM ends {where} GROUP BY {names}
        ),
        named AS MATERIALIZED (SELECT {names}, folded, {counts} FROM grouped)
        {whole}
    """
    return Summed(sql, moved.values, tuple(named), bool(whole))


def _count(count: str, read: Mapping[str, str]) -> str:
    """Give the SQL of a count over the sums of what was read."""
    needed, sql = _FOLLOWING.get(count, ((count,), count))
    if count in read:
        return count
    return sql if read.keys() >= set(needed) else "NULL"


# What an edge that stands for many does not tell of a side of its: the address, and what is only
# known of one address.
_LOST = {
    "edge.src_id < 0": ("src.address", "src.packed", "edge.nat_src"),
    "edge.dialled_id < 0": ("dialled.address", "dialled.packed", "edge.dst_port"),
    "edge.backend_id < 0": ("backend.address", "backend.packed", "edge.nat_dst_port"),
}


def _lost(keys: Sequence[str]) -> str:
    """Give the SQL that an edge stands for many where a key would tell these apart."""
    told = " ".join(
        opened(key) + answered(key) if key in EITHER_KEYS else KEYS[key] for key in keys
    )
    return (
        " OR ".join(f"({sql})" for sql, of in _LOST.items() if any(each in told for each in of))
        or "0"
    )


def _arm(
    keys: Sequence[str],
    of_end: Mapping[str, str],
    step_ns: int | None,
    where: str,
    whole: str,
    read: Iterable[str],
) -> str:
    """Give the SELECT of one end of each flow: its keys, and what it moved."""
    named = {} if step_ns is None else {"bucket_ns": "moved.bucket_ns"}
    named |= {f"k{i}": of_end.get(key) or KEYS[key] for i, key in enumerate(keys)}
    each = ", ".join(f"{sql} AS {name}" for name, sql in named.items())
    edge = "CROSS JOIN edge ON edge.id = moved.edge_id" if keys else ""
    joins = joins_of(f"{each} {where} {whole}")
    return (
        f"SELECT {each}, {whole} AS whole, {_lost(keys)} AS folded,"
        f" {', '.join(f'moved.{count}' for count in read)}"
        f" FROM moved {edge} {joins} WHERE {where}"
    )


def _moved(
    conn: sqlite3.Connection,
    pieces: Sequence[Piece],
    filters: Filters,
    read: dict[str, str],
    columns: dict[str, str],
    among: bool,
) -> Condition:
    """Give the SELECT of what moved, by such columns."""
    conditions = ["started_ns >= ? AND started_ns < ?"]
    bound: tuple[object, ...] = ()
    if among:
        conditions.append("edge_id IN (SELECT id FROM temp.among)")
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
    group = ", ".join(columns)
    each = ", ".join(f"{sql} AS {name}" for name, sql in (columns | read).items())
    # Rows lie by time: those of a bucket's start are summed as they are read, without sorting.
    summed = ", ".join(
        [f"{sql} AS {name}" for name, sql in columns.items()]
        + [f"{_ADDED.get(name, 'SUM')}({sql}) AS {name}" for name, sql in read.items()]
    )
    selects = []
    for table in [piece.table for piece in pieces]:
        by_start = list(columns) == ["bucket_ns"] and table != "flow"
        named = (summed if by_start else each).replace("{ended_ns}", _ENDED_NS[table])
        order = "GROUP BY started_ns" if by_start else end
        selects.append(f"SELECT {named} FROM {table} WHERE {both(conditions)} {order}")
    if not pieces:
        selects.append(f"SELECT {each.replace('{ended_ns}', '0')} FROM flow_1d WHERE 0")
    values = [(piece.since_ns, piece.until_ns, *bound) for piece in pieces]
    rows = selects[0] if len(selects) == 1 else " UNION ALL ".join(selects)
    return Condition(
        f"SELECT {group}, {added(read)} FROM ({rows}) GROUP BY {group}", sum(values, ())
    )


def hides(conn: sqlite3.Connection, pieces: Sequence[Piece], filters: Filters) -> bool:
    """Say whether flows that fit may be folded where their address or port is not told apart."""
    folded = folded_condition(filters.terms)
    if folded is None or folded == edge_condition(filters.terms):
        return False
    others = Condition(f"edge.id < 0 AND ({folded.sql})", folded.values)
    if not choose_edges(conn, "possible", others):
        return False
    # All flows that stand for many are in `folded`, too, and are found there without reading flows.
    tables = {"flow": "folded WHERE level = 'flow' AND"}
    return any(
        conn.execute(
            f"SELECT EXISTS (SELECT 1 FROM {tables.get(piece.table, f'{piece.table} WHERE')}"
            " started_ns >= ? AND started_ns < ? AND edge_id IN (SELECT id FROM temp.possible))",
            (piece.since_ns, piece.until_ns),
        ).fetchone()[0]
        for piece in pieces
    )
