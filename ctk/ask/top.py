"""Who moved most: sums over any span, exact, from the coarsest tables that hold it."""

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

from ctk.ask.caveats import Caveat, Folded, SeenTo, Widened, caveats_of, pruned_of_span
from ctk.ask.connection import one_moment
from ctk.ask.folded import folded_of
from ctk.ask.spans import clip, cover, held
from ctk.ask.sums import (
    COUNTS,
    NOTHING,
    SEEN,
    SORTS,
    Counts,
    Value,
    added,
    needs_flows,
    sum_up,
)
from ctk.errors import UsageError
from ctk.model import Filters
from ctk.timespan import FOREVER_NS


@dataclass(frozen=True, slots=True)
class TopRow:
    """One group: what its keys are, and what its flows add up to."""

    keys: tuple[Value, ...]
    counts: Counts


@dataclass(frozen=True, slots=True, kw_only=True)
class Top:
    """Groups of flows, the largest first, and the sums of all groups, those left out included."""

    by: tuple[str, ...]
    sort: str
    rows: tuple[TopRow, ...]
    totals: Counts
    groups: int  # in all; `rows` are the first of them
    caveats: tuple[Caveat, ...]

    def records(self) -> list[dict[str, Value]]:
        """Give each row as a dict of its keys and counts, for a data frame."""
        counts = COUNTS if self.totals.first_seen_ns is not None else COUNTS[: -len(SEEN)]
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
) -> Top:
    """
    Sum up the flows that fit by what their keys are, the largest first.

    When they were first and last seen is told where `seen`, or the sort, asks for it.

    The default sort is bytes, and connections where no bytes were measured. Flows are read one
    by one where a rollup cannot tell: for failed, from_port, first, last and src_port.
    """
    if sort is not None and sort not in SORTS:
        raise UsageError(f"{sort!r} is not a count to sort by", hint=f"one of {', '.join(SORTS)}")
    flows_only = needs_flows(filters, by)
    seen = seen or (sort is not None and SORTS[sort] in SEEN)
    with one_moment(conn):
        levels = held(conn)[: 1 if flows_only else None]
        span = clip(conn, levels, filters.since_ns, filters.until_ns)
        pieces = [] if span is None else cover(levels, *span)
        summed = sum_up(conn, pieces, filters, by, seen=seen)
        found = conn.execute(_sql(summed.sql, summed.keys, sort), (*summed.values, _most(limit)))
        groups, folded, *first = found.fetchone()
        sums = Counts._make(first[len(by) :])
        rows = tuple(
            TopRow(tuple(row[: len(by)]), Counts._make(row[len(by) :])) for _, _, *row in found
        )
        caveats = list(caveats_of(conn, filters))
        if flows_only:
            caveats += pruned_of_span(conn, filters.since_ns, filters.until_ns)
        reach = (pieces[0].since_ns, pieces[-1].until_ns) if pieces else span
        if reach is not None and reach != span:
            caveats.append(Widened(*reach))
        caveats += folded_of(conn, pieces, filters, shown=bool(folded))
        if not groups and not any(isinstance(each, Folded) for each in caveats):
            from ctk.ask.nothing import why_nothing

            caveats[:0] = why_nothing(conn, filters)
        tables = {piece.table for piece in pieces}
        widest_ns = max((level.width_ns for level in levels if level.table in tables), default=1)
        if seen and widest_ns > 1:
            caveats.append(SeenTo(widest_ns))
    measured = sums.bytes is not None
    return Top(
        by=tuple(by),
        sort=sort or ("bytes" if measured else "connections"),
        rows=rows,
        totals=sums if groups else NOTHING,
        groups=groups,
        caveats=tuple(caveats),
    )


def _most(limit: int | None) -> int:
    if limit is None:
        return -1
    if not isinstance(limit, int) or not 0 <= limit <= FOREVER_NS:
        raise UsageError(f"{limit!r} is not a number of rows", hint="write it as 20")
    return limit


def _sql(summed: str, keys: Sequence[str], sort: str | None) -> str:
    """Give the SELECT of a row for the total, then the groups; how many of them is bound."""
    named = ", ".join(keys)
    order = "CASE WHEN (SELECT COUNT(bytes) FROM named) THEN bytes ELSE connections END"
    if sort is not None:
        order = SORTS[sort]
    return f"""
        {summed}
        SELECT COUNT(*), MAX(folded), {", ".join("NULL" for _ in keys)}, {added()} FROM named
        UNION ALL
        SELECT * FROM (
            SELECT 0, folded, {named}, {", ".join(COUNTS)} FROM named
            ORDER BY {order} DESC, {named} LIMIT ?
        )
    """
