"""Who moved most: sums over any span, exact, from the coarsest tables that hold it."""

import sqlite3
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ctk.ask.caveats import Caveat, NothingFits, SeenTo
from ctk.ask.connection import one_moment
from ctk.ask.coverage import answered_span
from ctk.ask.presets import SIDES, RankedSide, expanded
from ctk.ask.reading import caveats_of_sums, reading
from ctk.ask.sums import (
    COUNTS,
    NOTHING,
    SEEN,
    SORTS,
    Counts,
    Summed,
    Value,
    added,
    sum_up,
)
from ctk.errors import UsageError
from ctk.model import Filters
from ctk.timespan import FOREVER_NS

# What is None where nothing was measured.
MEASURED = ("packets", "bytes", "bytes_out", "bytes_in")
_COUNTED = COUNTS[: -len(SEEN)]


class TopRow(NamedTuple):
    """One group: what its keys are, and what its flows add up to."""

    keys: tuple[Value, ...]
    counts: Counts


class Top(NamedTuple):
    """Groups of flows, the largest first, and the sums of all groups, those left out included."""

    by: tuple[str, ...]
    sort: str
    rows: tuple[TopRow, ...]
    totals: Counts
    others: Counts  # of the groups that `limit` cut; its times are not known
    groups: int  # in all; `rows` are the first of them
    span: tuple[int, int] | None  # since and until of what was recorded and answered
    caveats: tuple[Caveat, ...]

    def records(self) -> list[dict[str, Value]]:
        """Give each row as a dict of its keys and counts, for a data frame."""
        counts = COUNTS if self.totals.first_seen_ns is not None else _COUNTED
        names = (*self.by, *counts)
        return [dict(zip(names, (*row.keys, *row.counts), strict=False)) for row in self.rows]


def top(
    conn: sqlite3.Connection,
    filters: Filters,
    by: Sequence[str],
    sort: str | None = None,
    limit: int | None = 20,
    *,
    seen: bool = False,
    side: RankedSide = "both",
    counts: Sequence[str] | None = None,
) -> Top:
    """
    Sum up the flows that fit by what their keys are, the largest first.

    `side` is whose keys those are that either side has, such as `pod`.

    When they were first and last seen is told where `seen`, or the sort, asks for it. Only `counts`
    are read, and what the sort needs: each costs.

    The default sort is bytes, and connections where no bytes were measured. Flows are read one
    by one where a rollup cannot tell: for failed, from_port, first, last and src_port.
    """
    check(sort, limit, side)
    unknown = next((each for each in counts or () if each not in _COUNTED), None)
    if unknown is not None:
        raise UsageError(f"{unknown!r} is no count", hint=f"some of {', '.join(_COUNTED)}")
    by = expanded(by)
    seen = seen or (sort is not None and SORTS[sort] in SEEN)
    with one_moment(conn):
        read = reading(conn, filters, by, seen=seen)
        if counts is None:
            counts = _COUNTED
            summed = sum_up(conn, read.pieces, filters, by, seen=seen, side=side)
        else:
            ranking = ("bytes", "connections") if sort is None else (SORTS[sort],)
            counts = [each for each in dict.fromkeys((*counts, *ranking)) if each not in SEEN]
            summed = sum_up(conn, read.pieces, filters, by, counted=counts, seen=seen, side=side)
        found = conn.execute(_sql(summed, sort, counts, seen), (*summed.values, _most(limit)))
        groups, folded, *first = found.fetchone()
        measured = dict(zip(MEASURED, first, strict=False))
        at = len(MEASURED) + len(by)
        sums = of_groups = Counts._make(first[at:])
        if summed.twice:
            sums = Counts._make(found.fetchone()[2 + at :])
        rows = tuple(
            TopRow(tuple(row[len(MEASURED) : at]), Counts._make(row[at:])) for _, _, *row in found
        )
        span = answered_span(conn, filters.since_ns, filters.until_ns, read.reach)
        caveats = caveats_of_sums(conn, filters, read, some=groups > 0, folded=bool(folded))
        tables = {piece.table for piece in read.pieces}
        widest_ns = max(
            (level.width_ns for level in read.levels if level.table in tables), default=1
        )
        if seen and widest_ns > 1:
            caveats.append(SeenTo(widest_ns))
    if not groups:
        caveats = [_without_keys(conn, filters, by, each) for each in caveats]
    return Top(
        by=tuple(by),
        sort=sort or ("bytes" if measured["bytes"] else "connections"),
        rows=rows,
        totals=sums if groups else NOTHING,
        others=others_of(of_groups, rows, measured) if groups > len(rows) else NOTHING,
        groups=groups,
        span=span,
        caveats=tuple(caveats),
    )


# What not every flow has on a side, as people say it.
_OF_A_SIDE = {
    "pod": "a pod",
    "workload": "a workload",
    "namespace": "a namespace",
    "external_ip": "an external address",
    "endpoint_node": "a node",
    "endpoint_zone": "a zone",
}


def _without_keys(
    conn: sqlite3.Connection, filters: Filters, by: Sequence[str], caveat: Caveat
) -> Caveat:
    """Where flows fit and none has such a key, say that in place of that nothing fits."""
    keys = [_OF_A_SIDE[key] for key in by if key in _OF_A_SIDE]
    if not isinstance(caveat, NothingFits) or not keys:
        return caveat
    if not top(conn, filters, by=["proto"], limit=1).groups:
        return caveat
    return NothingFits((f"none of those asked for has {' and '.join(keys)}",))


def check(sort: str | None, limit: int | None, side: str) -> None:
    """Refuse what is no count to sort by, no number of rows, no side."""
    if sort is not None and sort not in SORTS:
        raise UsageError(f"{sort!r} is not a count to sort by", hint=f"one of {', '.join(SORTS)}")
    if side not in SIDES:
        raise UsageError(f"{side!r} is not a side", hint=f"one of {', '.join(SIDES)}")
    _most(limit)


def others_of(sums: Counts, rows: Sequence[TopRow], measured: Mapping[str, int]) -> Counts:
    """Take the rows from the sums; `measured` says in how many groups a count is not None."""
    left: list[int | None] = []
    for i, (name, whole) in enumerate(zip(COUNTS, sums, strict=True)):
        parts = [part for row in rows if (part := row.counts[i]) is not None]
        unknown = name in SEEN or measured.get(name) == len(parts)
        left.append(None if unknown or whole is None else whole - sum(parts))
    return Counts._make(left)


def _most(limit: int | None) -> int:
    if limit is None:
        return -1
    if not isinstance(limit, int) or not 0 <= limit <= FOREVER_NS:
        raise UsageError(f"{limit!r} is not a number of rows", hint="write it as 20")
    return limit


def _sql(summed: Summed, sort: str | None, counted: Sequence[str], seen: bool) -> str:
    """
    Give the SELECT of all groups, of the whole where that is less, and of the first groups.

    How many of them is bound.
    """
    named, counts = ", ".join(summed.keys), ", ".join(COUNTS)
    order = (
        "CASE WHEN EXISTS (SELECT 1 FROM named WHERE bytes IS NOT NULL)"
        " THEN bytes ELSE connections END"
    )
    if sort is not None:
        order = SORTS[sort]
    measured = ", ".join(f"COUNT({key})" for key in MEASURED)
    unmeasured = ", ".join("0" for _ in MEASURED)
    unnamed = ", ".join("NULL" for _ in summed.keys)
    # What was not asked for is NULL, and to add it up costs as if it were not.
    asked = {*counted, *(SEEN if seen else ())}
    sums = ", ".join(added((count,)) if count in asked else "NULL" for count in COUNTS)
    whole = f"SELECT 0, 0, {unmeasured}, {unnamed}, {counts} FROM whole UNION ALL"
    return f"""
        {summed.sql}
        SELECT COUNT(*), MAX(folded), {measured}, {unnamed}, {sums} FROM named
        UNION ALL
        {whole if summed.twice else ""}
        SELECT * FROM (
            SELECT 0, folded, {unmeasured}, {named}, {counts} FROM named
            ORDER BY {order} DESC, {named} LIMIT ?
        )
    """
