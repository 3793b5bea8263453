"""
Which rows count, told in SQL: the rule of ctk/fleet/speaker.py, asked of whole buckets.

Between two times at which a node begins or ends to be recorded, the same nodes are, and one set of
names tells who speaks. So a span is cut into buckets of days, hours and minutes within such times;
in the minutes that have one of them each row is asked when its first flow began.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple, cast

from ctk.ask.spans import HeldLevel, Piece
from ctk.fleet.clickhouse import tables
from ctk.fleet.clickhouse.conditions import Bound
from ctk.fleet.clickhouse.recordings import Told
from ctk.fleet.inputs import HeldRecording, Input, choose, narrowed_of
from ctk.fleet.recorded import SILENT, Recorded, RecordedNode
from ctk.store.levels import LEVELS, Watermarks
from ctk.store.source import Source
from ctk.timespan import SECOND, Span

_LEVELS = {level.table: level for level in tables.LEVELS}


class BucketPart(NamedTuple):
    """Buckets of one table in which the same nodes are recorded; None where that changes."""

    level: tables.LevelTable
    recorded: frozenset[RecordedNode] | None
    ranges: Sequence[Span]  # in seconds


class Fleet(NamedTuple):
    """When each node was recorded, and which cluster a file is of: None where of several."""

    recorded: Recorded
    clusters: Mapping[str, str | None] | None


def fleet_of(told: Told) -> Fleet:
    """Give when each node was recorded, as a merge of the same recordings has it."""
    ids: dict[tuple[str | None, str], int] = {}
    silent: dict[tuple[str, int], list[Span]] = {}
    for gap in told.gaps:
        if gap.kind in SILENT:
            found = silent.setdefault((gap.recording, gap.recording_id), [])
            found.append((gap.started_ns, gap.ended_ns))
    held = [
        HeldRecording(
            at,
            ids.setdefault((each.cluster_uid or each.cluster, each.node), len(ids)),
            *(each.node, each.cluster, each.cluster_uid, each.boot_id, each.started_ns),
            *(max(each.committed_ns, each.ended_ns or 0), None, each.events),
            *narrowed_of(each.settings),
            silent.get((each.recording, each.id), ()),
        )
        for at, each in enumerate(told.recordings)
    ]
    of = Input(
        path=Path(),
        source=cast("Source", None),
        recordings=held,
        marks={level.name: Watermarks(None, None) for level in LEVELS},
        aside=False,
        asides=(),
        notes=(),
    )
    chosen = choose([of])
    clusters: dict[str, set[str | None]] = {}
    for taken in chosen.taken:
        for each in taken.recordings:
            clusters.setdefault(told.recordings[each.id].recording, set()).add(taken.node.cluster)
    if any(len(some) > 1 for some in clusters.values()):
        return Fleet(chosen.recorded, None)
    return Fleet(chosen.recorded, {file: next(iter(some)) for file, some in clusters.items()})


def parts(
    pieces: Sequence[Piece],
    held: Sequence[HeldLevel],
    changes: Sequence[int],
    recorded: Recorded,
) -> list[BucketPart]:
    """Cut pieces of a span into buckets in which the same nodes are recorded."""
    found: dict[tuple[str, frozenset[RecordedNode] | None], list[Span]] = {}
    for piece in pieces:
        for table, nodes, span in _of_piece(piece, held, changes, recorded):
            ranges = found.setdefault((table, nodes), [])
            if ranges and ranges[-1][1] == span[0]:
                ranges[-1] = ranges[-1][0], span[1]
            else:
                ranges.append(span)
    return [
        BucketPart(
            _LEVELS[table], nodes, [(since // SECOND, until // SECOND) for since, until in ranges]
        )
        for (table, nodes), ranges in found.items()
    ]


def _of_piece(
    piece: Piece, held: Sequence[HeldLevel], changes: Sequence[int], recorded: Recorded
) -> Iterator[tuple[str, frozenset[RecordedNode] | None, Span]]:
    at = next(i for i, level in enumerate(held) if level.table == piece.table)
    width_ns = held[at].width_ns
    cuts = {piece.since_ns, piece.until_ns}
    unlike = set()  # buckets in which it changes who is recorded
    for change_ns in changes:
        if piece.since_ns <= change_ns < piece.until_ns:
            start_ns = change_ns - change_ns % width_ns
            cuts |= {start_ns, min(start_ns + width_ns, piece.until_ns)}
            if start_ns < change_ns:
                unlike.add(start_ns)
    for since_ns, until_ns in pairwise(sorted(cuts)):
        if since_ns not in unlike:
            yield piece.table, recorded.at(since_ns, until_ns), (since_ns, until_ns)
            continue
        finer = held[at - 1] if at else None
        if finer is None or finer.pruned_ns > since_ns:
            yield piece.table, None, (since_ns, until_ns)
            continue
        within = Piece(finer.table, since_ns, until_ns)
        yield from _of_piece(within, held, changes, recorded)


class Clusters:
    """What tells nodes of several clusters apart: a number before the name, where there are any."""

    def __init__(self, of_file: Mapping[str, str | None], bound: Bound) -> None:
        uids = sorted(set(of_file.values()), key=str)
        self._numbers = {uid: at for at, uid in enumerate(uids)}
        self._several = len(uids) > 1
        self._of_file = ""
        if self._several:
            names = bound.add(list(of_file), "Array(String)")
            numbers = bound.add([self._numbers[uid] for uid in of_file.values()], "Array(UInt16)")
            self._of_file = f"transform(toString(recording), {names}, {numbers}, toUInt16(0))"

    def named(self, column: str) -> str:
        """Give the SQL of a node, as `of` names it."""
        return f"concat(toString({self._of_file}), '/', {column})" if self._several else column

    def of(self, node: RecordedNode) -> str:
        """Name a node."""
        return f"{self._numbers[node.cluster]}/{node.name}" if self._several else node.name


def counts(part: BucketPart, recorded: Recorded, clusters: Clusters, bound: Bound) -> str:
    """Give the SQL that a row of a part counts: that its observer speaks."""
    if part.recorded is not None:
        names = bound.add([clusters.of(node) for node in part.recorded], "Array(String)")
        # Asked of the column itself, it is asked once for each name in its dictionary.
        src, dst = (clusters.named(f"{side}_node") for side in ("src", "dst"))
        has_src, has_dst = (f"ifNull({side} IN {names}, 0)" for side in (src, dst))
    else:
        src, dst = (clusters.named(f"ifNull({side}_node, '')") for side in ("src", "dst"))
        has_src, has_dst = (_then(part, recorded, clusters, bound, side) for side in (src, dst))
    # A source that was folded keeps no sign of its rewriting: see ctk/fleet/identities.py.
    rewrites = "(nat_src IS NOT NULL OR (src_id < 0 AND ifNull(dst_node <> node, 0)))"
    return (
        f"multiIf({has_src}, ifNull(src_node = node, 0), {rewrites}, 1,"
        f" {has_dst}, ifNull(dst_node = node, 0), 1)"
    )


def _then(
    part: BucketPart, recorded: Recorded, clusters: Clusters, bound: Bound, column: str
) -> str:
    """Give the SQL that a node was recorded when a row began, or in some part of its bucket."""
    since_s, until_s = part.ranges[0][0], part.ranges[-1][1]
    spans = [
        (clusters.of(node), *span)
        for node, some in recorded.spans.items()
        for span in some
        if span[0] < until_s * SECOND and span[1] > since_s * SECOND
    ]
    names, begins, ends = (
        bound.add([span[i] for span in spans], f"Array({kind})")
        for i, kind in enumerate(("String", "Int64", "Int64"))
    )
    if part.level is tables.MINUTES:
        within = "b <= first_seen_ns AND e > first_seen_ns"
    else:
        start = f"toInt64(toUnixTimestamp({part.level.column})) * {SECOND}"
        within = f"b < {start} + {part.level.width_s * SECOND} AND e > {start}"
    return f"arrayExists((n, b, e) -> n = {column} AND {within}, {names}, {begins}, {ends})"
