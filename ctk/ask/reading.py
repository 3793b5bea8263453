"""Which rows answer a question of sums, and what is said of them."""

import sqlite3
from collections.abc import Sequence
from typing import NamedTuple

from ctk.ask.caveats import Caveat, Folded, Widened, caveats_of, pruned_of_span
from ctk.ask.connection import choose_edges
from ctk.ask.folded import folded_of
from ctk.ask.selectors import Condition, all_of, bucket_condition, folded_condition
from ctk.ask.spans import HeldLevel, Piece, clip, cover, held, holding
from ctk.ask.sums import needs_flows
from ctk.model import Filters

# So many rows are read for exact times rather than buckets of them: that takes some 50 ms.
_READ_FOR_TIMES = 50_000

# A SELECT of SQLite unites 500 tables at most, and each costs some to prepare.
_MOST_PARTS = 100


class Reading(NamedTuple):
    """The pieces that answer; `span` is what was asked of what the levels hold, `reach` theirs."""

    flows_only: bool
    levels: Sequence[HeldLevel]
    span: tuple[int, int] | None
    pieces: Sequence[Piece]
    reach: tuple[int, int] | None


def reading(
    conn: sqlite3.Connection, filters: Filters, keys: Sequence[str], *, seen: bool = False
) -> Reading:
    """Find the pieces for sums by these keys; with `seen`, so that they tell times well."""
    flows_only = needs_flows(filters, keys)
    levels = held(conn)[: 1 if flows_only else None]
    span = clip(conn, levels, filters.since_ns, filters.until_ns)
    if seen and span is not None:
        levels = _finest(conn, levels, span)
        span = clip(conn, levels, filters.since_ns, filters.until_ns)
    pieces = [] if span is None else cover(levels, *span)
    reach = (pieces[0].since_ns, pieces[-1].until_ns) if pieces else span
    if span is not None and flows_only and (filters.first, filters.last) == (None, None):
        pieces = _holding(conn, filters, span)
    return Reading(flows_only, levels, span, pieces, reach)


def caveats_of_sums(
    conn: sqlite3.Connection, filters: Filters, read: Reading, *, some: bool, folded: bool
) -> list[Caveat]:
    """Give what sums lack; `folded` where some of the groups stand for many."""
    caveats = list(caveats_of(conn, filters))
    if read.flows_only:
        caveats += pruned_of_span(conn, filters.since_ns, filters.until_ns)
    if read.reach is not None and read.reach != read.span:
        caveats.append(Widened(*read.reach))
    caveats += folded_of(conn, read.pieces, filters, shown=folded)
    if not some and not any(isinstance(each, Folded) for each in caveats):
        from ctk.ask.nothing import why_nothing

        caveats[:0] = why_nothing(conn, filters)
    return caveats


def _finest(
    conn: sqlite3.Connection, levels: Sequence[HeldLevel], span: tuple[int, int]
) -> list[HeldLevel]:
    """Leave out the levels whose buckets are not needed: times are as exact as the finest left."""
    for i, level in enumerate(levels):
        counted = f"SELECT 1 FROM {level.table} WHERE started_ns >= ? AND started_ns < ? LIMIT ?"
        (rows,) = conn.execute(
            f"SELECT COUNT(*) FROM ({counted})", (*span, _READ_FOR_TIMES + 1)
        ).fetchone()
        if level.pruned_ns <= span[0] and rows <= _READ_FOR_TIMES:
            return list(levels[: i + 1])
    return list(levels)


def _holding(conn: sqlite3.Connection, filters: Filters, span: tuple[int, int]) -> list[Piece]:
    """Give the parts of a span in which flows may fit, as rollups tell; few, so some are joined."""
    conditions = []
    if (possible := folded_condition(filters.terms)) is not None:
        choose_edges(conn, "possible", possible)
        conditions.append(Condition("+edge_id IN (SELECT id FROM temp.possible)"))
    if (counts := bucket_condition(filters.terms)) is not None:
        conditions.append(counts)
    levels = held(conn)
    parts = [span]
    if conditions:
        parts = list(holding(conn, levels, span, all_of(conditions), newest_first=False))
    joined: list[tuple[int, int]] = []
    for since_ns, until_ns in parts:
        if joined and joined[-1][1] == since_ns:
            joined[-1] = (joined[-1][0], until_ns)
        else:
            joined.append((since_ns, until_ns))
    while len(joined) > _MOST_PARTS:
        joined = [
            (pair[0][0], pair[-1][1])
            for pair in (joined[i : i + 2] for i in range(0, len(joined), 2))
        ]
    return [Piece(levels[0].table, *part) for part in joined]
