"""
Sums, made where the rows are: `ctk top` of what was shipped, in one SELECT.

The keys are those of ctk/ask/sums.py, over the columns of a row in place of tables. What a row does
not tell, or what is no sum, is asked of a file that rows are brought to.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from typing import NamedTuple

from ctk.ask.caveats import Caveat, Folded, NothingFits, Widened
from ctk.ask.presets import EITHER_KEYS, RankedSide, answered, opened
from ctk.ask.spans import HeldLevel, Piece, cover
from ctk.ask.sums import COUNTS, KEYS, NOTHING, SORTS, Counts, needs_flows, plus
from ctk.ask.top import MEASURED, Top, TopRow, others_of
from ctk.fleet.clickhouse import tables
from ctk.fleet.clickhouse.client import Client
from ctk.fleet.clickhouse.conditions import ANSWERED, Bound, condition, folded_terms
from ctk.fleet.clickhouse.kept import Kept, kept
from ctk.fleet.clickhouse.names import Renamed, names_since
from ctk.fleet.clickhouse.recordings import Told
from ctk.fleet.clickhouse.speaking import BucketPart, Clusters, Fleet, counts, parts
from ctk.model import Filters
from ctk.timespan import DAY, FOREVER_NS, SECOND

_READ = {
    "connections": "connections",
    "events": "new_events + update_events + destroy_events",
    "unreplied": "unreplied",
    "refused": "refused",
    "packets": "coalesce(packets_out + packets_in, packets_out, packets_in)",
    "bytes_out": "bytes_out",
    "bytes_in": "bytes_in",
}
_SEEN = ("first_seen_ns", "last_seen_ns")
_COUNT = {
    "failed": "unreplied + refused",
    "bytes": "coalesce(bytes_out + bytes_in, bytes_out, bytes_in)",
}
# What a table of a file is, of columns here.
_COLUMNS = {
    "src.address": "src",
    "dialled.address": "dst",
    "backend.address": ANSWERED,
    "src_zone.zone": "src_node_zone",
    "dst_zone.zone": "dst_node_zone",
}
_TABLES = {"src": "src_", "backend": "dst_", "edge": "", "recorder": ""}
_LOST = {
    "src_id < 0": ("src", "nat_src"),
    "dialled_id < 0": ("dst", "dst_port"),
    "dst_id < 0": (ANSWERED, "nat_dst", "nat_dst_port"),
}
_IDS = "src_id dialled_id dst_id"
_MOST_NAMES = 2_000  # that came later: they are bound


class EndRows(NamedTuple):
    """One end of each flow: its keys, which rows have them, and which rows are the whole."""

    keys: Sequence[str]
    where: str
    whole: str


def key_sql(key: str, sql: str | None = None) -> str | None:
    """Give a key over the columns of a row; None where these do not tell it."""
    if key in tables.IDENTITY:
        return key
    sql = sql or KEYS[key]
    if "labels" in sql or "moved." in sql or "packed" in sql:
        return None
    for told, column in _COLUMNS.items():
        sql = sql.replace(told, column)
    return re.sub(r"\b(src|backend|edge|recorder)\.(\w+)", lambda m: _TABLES[m[1]] + m[2], sql)


class TargetSums:
    """Answers from the rows of a target; `everybody` counts what each observer saw."""

    def __init__(
        self,
        client: Client,
        told: Told,
        fleet: Fleet,
        keep_days: Mapping[str, int | None],
        *,
        everybody: bool,
    ) -> None:
        self._client = client
        self._told = told
        self._fleet = fleet
        self._keep_days = keep_days
        self._everybody = everybody
        self._kept: Kept | None = None

    def top(
        self,
        filters: Filters,
        by: Sequence[str],
        sort: str | None,
        limit: int | None,
        *,
        seen: bool,
        side: RankedSide,
    ) -> Top | None:
        """Answer as `ctk.ask.top.top` does; None where a row cannot tell."""
        bound = Bound()
        fits = condition(filters.terms, bound)
        groups = _groups(by, side)
        if fits is None or groups is None or (filters.first, filters.last) != (None, None):
            return None
        held = self._held()
        span = _reach(held, filters)
        if span is None or self._fleet.clusters is None:
            return None
        pieces = cover(held[: 2 if needs_flows(filters, by) else None], *span)
        rows = self._rows(pieces, held, fits, groups, bound)
        if rows is None:
            return None
        seen = seen or (sort is not None and SORTS[sort] in _SEEN)
        found = self._client.query(_top_sql(rows, groups, len(by), sort, seen), bound).rows
        reach = pieces[0].since_ns, pieces[-1].until_ns
        if not found:
            return Top(
                by=tuple(by),
                sort=sort or "connections",
                rows=(),
                totals=NOTHING,
                others=NOTHING,
                groups=0,
                span=self._recorded(filters, reach),
                caveats=(NothingFits(),),
            )
        width = len(by)
        ranked = [
            TopRow(tuple(row[:width]), Counts._make(row[width : width + len(COUNTS)]))
            for row in found
        ]
        measured = {
            name: sum(row.counts[COUNTS.index(name)] is not None for row in ranked)
            for name in MEASURED
        }
        if sort is None and not measured["bytes"]:
            ranked.sort(key=lambda row: -row.counts.connections)  # as they are within it, by keys
        of_groups = reduce(plus, (row.counts for row in ranked))
        totals = of_groups
        if len(groups) > 1:
            at = width + len(COUNTS) + 1
            totals = reduce(plus, (Counts._make(row[at:]) for row in found))
        kept = tuple(ranked if limit is None else ranked[:limit])
        caveats: list[Caveat] = []
        if (filters.since_ns is not None and reach[0] < span[0]) or (
            filters.until_ns is not None and reach[1] > span[1]
        ):
            caveats.append(Widened(*reach))
        if any(row[width + len(COUNTS)] for row in found) or self._hides(filters, pieces):
            caveats.append(Folded())
        return Top(
            by=tuple(by),
            sort=sort or ("bytes" if measured["bytes"] else "connections"),
            rows=kept,
            totals=totals,
            others=others_of(of_groups, kept, measured) if len(ranked) > len(kept) else NOTHING,
            groups=len(ranked),
            span=self._recorded(filters, reach),
            caveats=tuple(caveats),
        )

    def _recorded(self, filters: Filters, reach: tuple[int, int]) -> tuple[int, int]:
        """Give the part of a span that a recorder was there for."""
        since_ns = min(each.started_ns for each in self._told.recordings)
        until_ns = max(each.ended_ns or each.committed_ns for each in self._told.recordings)
        if filters.since_ns is not None:
            since_ns = max(since_ns, min(filters.since_ns, reach[0]))
        if filters.until_ns is not None:
            until_ns = min(until_ns, max(filters.until_ns, reach[1]))
        return since_ns, until_ns

    def _hides(self, filters: Filters, pieces: Sequence[Piece]) -> bool:
        """Say whether flows that fit may be folded where their address or port is not told."""
        kept = folded_terms(filters.terms)
        if kept is None:
            return False
        own = Bound()
        rest = condition(kept, own)
        found = self._client.query(
            f"SELECT 1 FROM flows_1d WHERE edge < 0 AND {_days(pieces)} AND ({rest}) LIMIT 1", own
        ).rows
        return bool(found)

    def _held(self) -> list[HeldLevel]:
        """Say what each table holds: what is coarser is as far as what is finer."""
        if self._kept is None:
            self._kept = kept(self._client, self._keep_days)
        if self._kept is None:
            return []
        # What is finer than minutes was not shipped.
        return [
            HeldLevel("flow", "", 1, FOREVER_NS, FOREVER_NS),
            *(
                HeldLevel(level.name, level.table, level.width_s * SECOND, FOREVER_NS, pruned_ns)
                for level, pruned_ns in zip(tables.LEVELS, self._kept.pruned_ns, strict=True)
            ),
        ]

    def _zones(self) -> Mapping[str, str]:
        """Give the zone of each node, where one alone is told."""
        found = self._client.query(
            "SELECT node, any(node_zone) FROM endpoints WHERE node IS NOT NULL"
            " AND node_zone IS NOT NULL GROUP BY node HAVING uniqExact(node_zone) = 1"
        ).rows
        return {str(node): str(zone) for node, zone in found}

    def _with_rows(self, part: BucketPart) -> BucketPart | None:
        """Give a part without the buckets before all rows, and after them; None where none is."""
        assert self._kept is not None
        ranges = [
            (since_s, until_s)
            for since_s, until_s in part.ranges
            if until_s * SECOND > self._kept.since_ns and since_s * SECOND < self._kept.until_ns
        ]
        return part._replace(ranges=ranges) if ranges else None

    def _rows(
        self,
        pieces: Sequence[Piece],
        held: Sequence[HeldLevel],
        fits: str,
        groups: Sequence[EndRows],
        bound: Bound,
    ) -> str | None:
        """Give the SELECT of the rows that count and fit, by the names that are known now."""
        clusters = self._fleet.clusters
        assert clusters is not None
        names = names_since(self._client, clusters, _days(pieces), {})
        if len(names) > _MOST_NAMES:
            return None
        recorded = self._fleet.recorded
        changes = [] if self._everybody else recorded.changes()
        of = Clusters(clusters, bound)
        # A zone is asked for, or not at all.
        zones = self._zones() if "node_zone" in f"{fits} {groups}" else {}
        named = Renamed(names, zones, bound)
        keys = " ".join(" ".join((*each.keys, each.where, each.whole)) for each in groups)
        picked = _needed(f"{keys} {' '.join(_READ.values())} {' '.join(_SEEN)} {_IDS}")
        selects = []
        cut = map(self._with_rows, parts(pieces, held, changes, recorded))
        found = [part for part in cut if part is not None]
        for level in tables.LEVELS:
            some = [part for part in found if part.level is level]
            if not some:
                continue
            within = _in_ranges(level, [each for part in some for each in part.ranges])
            where = f"{within} AND ({fits})"
            if not self._everybody:
                speaks = [counts(part, recorded, of, bound) for part in some]
                if len(some) > 1:
                    each = ", ".join(
                        f"{_in_ranges(level, part.ranges)}, {sql}"
                        for part, sql in zip(some, speaks, strict=True)
                    )
                    speaks = [f"multiIf({each}, 0)"]
                where += f" AND {speaks[0]}"
            needed = list(dict.fromkeys([*picked, *_needed(where)]))
            table = named.table(level, needed)
            selects.append(f"SELECT {', '.join(picked)} FROM {table} WHERE {where}")
        return " UNION ALL ".join(selects) or None


def _needed(told: str) -> list[str]:
    """Give the columns that SQL names: the planning takes longer for each that is there."""
    return [name for name in tables.FLOWS_1M if re.search(rf"\b{name}\b", told)]


def _in_ranges(level: tables.LevelTable, ranges: Iterable[tuple[int, int]]) -> str:
    joined: list[tuple[int, int]] = []
    for since_s, until_s in sorted(ranges):
        if joined and joined[-1][1] == since_s:
            joined[-1] = joined[-1][0], until_s
        else:
            joined.append((since_s, until_s))
    each = [
        f"{level.column} >= toDateTime({max(since_s, 0)}, 'UTC')"
        f" AND {level.column} < toDateTime({min(until_s, 2**32 - 1)}, 'UTC')"
        for since_s, until_s in joined
    ]
    return f"({' OR '.join(each)})"


def _days(pieces: Sequence[Piece]) -> str:
    since_s = max(pieces[0].since_ns // DAY * DAY // SECOND, 0)
    until_s = min(-(-pieces[-1].until_ns // SECOND), 2**32 - 1)
    return f"day >= toDateTime({since_s}, 'UTC') AND day < toDateTime({until_s}, 'UTC')"


def _reach(held: Sequence[HeldLevel], filters: Filters) -> tuple[int, int] | None:
    """Give the span that is asked about, in whole days where it has no end; None without rows."""
    if not held:
        return None
    since_ns = 0 if filters.since_ns is None else max(filters.since_ns, 0)
    end_ns = 2**32 // (DAY // SECOND) * DAY
    until_ns = end_ns if filters.until_ns is None else min(filters.until_ns, end_ns)
    return (since_ns, until_ns) if since_ns < until_ns else None


def _groups(by: Sequence[str], side: RankedSide) -> list[EndRows] | None:
    """Give each end of a flow that makes a group; None where rows do not tell a key."""
    found = {key: key_sql(key) for key in by}
    either = [key for key in by if key in EITHER_KEYS]
    src = {key: key_sql("", opened(key)) for key in either}
    dst = {key: key_sql("", answered(key)) for key in either}
    if any(sql is None for sql in (*found.values(), *src.values(), *dst.values())):
        return None

    def end(of_end: Mapping[str, str | None]) -> list[str]:
        return [str(of_end.get(key) or found[key]) for key in by]

    def known(of_end: Mapping[str, str | None]) -> str:
        return " AND ".join(f"isNotNull({sql})" for sql in of_end.values()) or "1"

    if not either:
        return [EndRows(end({}), "1", "1")]
    if side == "from":
        return [EndRows(end(src), known(src), "1")]
    if side == "to":
        return [EndRows(end(dst), known(dst), "1")]
    apart = " OR ".join(f"ifNull(({src[key]}) <> ({dst[key]}), 1)" for key in either)
    return [
        EndRows(end(src), known(src), "1"),
        EndRows(end(dst), f"{known(dst)} AND ({apart})", f"NOT ({known(src)})"),
    ]


def _lost(keys: Iterable[str]) -> str:
    told = " ".join(keys)
    found = [
        f"({sql})"
        for sql, columns in _LOST.items()
        if any(re.search(rf"(?<![\w']){re.escape(each)}(?![\w'])", told) for each in columns)
    ]
    return " OR ".join(found) or "0"


def _top_sql(rows: str, groups: Sequence[EndRows], width: int, sort: str | None, seen: bool) -> str:
    """
    Give the SELECT of all groups: keys, counts, whether folded, the whole's counts.

    They come the largest first, by the sort that is given.
    """
    names = [f"k{i}" for i in range(width)]
    read = _READ | ({name: name for name in _SEEN} if seen else {})
    added = {"first_seen_ns": "minOrNull", "last_seen_ns": "maxOrNull"}
    arms = [
        f"SELECT {', '.join(f'{sql} AS k{i}' for i, sql in enumerate(group.keys))},"
        f" ({group.whole}) AS whole, ({_lost(group.keys)}) AS lost,"
        f" {', '.join(f'{sql} AS r_{count}' for count, sql in read.items())}"
        f" FROM ({rows}) WHERE {group.where}"
        for group in groups
    ]
    twice = len(groups) > 1
    sums = ", ".join(f"{added.get(count, 'sum')}(r_{count}) AS s_{count}" for count in read)
    wholes = "".join(
        f", {added.get(count, 'sum')}If(r_{count}, whole) AS w_{count}" for count in read if twice
    )
    counted = ", ".join(_of(count, "s_", seen) + f" AS c_{count}" for count in COUNTS)
    of_whole = "".join(
        ", " + _of(count, "w_", seen) + f" AS t_{count}" for count in COUNTS if twice
    )
    order = "c_bytes DESC NULLS LAST" if sort is None else f"c_{SORTS[sort]} DESC NULLS LAST"
    keys = ", ".join(f"{name} ASC NULLS FIRST" for name in names)
    return (
        f"SELECT {', '.join(names)}, {counted}, lost{of_whole} FROM"
        f" (SELECT {', '.join(names)}, max(lost) AS lost, {sums}{wholes}"
        f" FROM ({' UNION ALL '.join(arms)}) GROUP BY {', '.join(names)})"
        f" ORDER BY {order}, {keys}"
    )


def _of(count: str, prefix: str, seen: bool) -> str:
    """Give a count over the sums of what was read, whose names begin so."""
    if count in _SEEN and not seen:
        return "NULL"
    return re.sub(r"\b([a-z_]{5,})\b(?!\()", rf"{prefix}\1", _COUNT.get(count, count))
