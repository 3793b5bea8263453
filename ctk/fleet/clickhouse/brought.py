"""
What was shipped of a span, brought into a file here: the rows of all observers, merged as files.

A question that is more than sums is asked of that file, so its answer is that of a merged file by
construction. Rows are minutes, each of them with the times of its first and last flow; where these
are too many, hours, and then days.
"""

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from ctk.fleet.clickhouse import tables
from ctk.fleet.clickhouse.client import Client, TooManyError
from ctk.fleet.clickhouse.kept import kept
from ctk.fleet.clickhouse.names import EndpointKey, Name, names_since
from ctk.fleet.clickhouse.recordings import Told
from ctk.fleet.clickhouse.speaking import fleet_of
from ctk.fleet.merge import merge
from ctk.store import bulk, connect
from ctk.store.columns import (
    COUNT_KEYS,
    EDGE_OWN,
    EDGE_SIDES,
    ENDPOINT_IDENTITY,
    FOLDED_KEYS,
    EdgeRow,
)
from ctk.store.folded import make_endpoints
from ctk.store.levels import LEVELS
from ctk.timespan import DAY, SECOND, Span

MOST_ROWS = 400_000  # that are brought: some 10 s, and 150 MB
_PART = 20_000  # rows that are written at once


_SIDES = ("src", "dialled", "backend")
_IDS = {"src": "src_id", "dialled": "dialled_id", "backend": "dst_id"}
_OF_SIDE = {
    "src": ("src", "src_kind", "src_namespace", "src_name", "src_workload", "src_workload_kind"),
    "backend": (
        "dst",
        "dst_kind",
        "dst_namespace",
        "dst_name",
        "dst_workload",
        "dst_workload_kind",
    ),
}
_OF_EDGE = tuple(name for name in EDGE_OWN if name != "failed")
_IN_SPAN = (
    "{column} >= toDateTime({{since:UInt32}}, 'UTC')"
    " AND {column} < toDateTime({{until:UInt32}}, 'UTC')"
)


def bring(client: Client, told: Told, span: Span, folder: Path, *, aside: bool) -> Path:
    """Bring what was shipped of a span, as fine as there is room for; with `aside` of everybody."""
    level, span = _level(client, span)
    made, out = folder / "brought.db", folder / "merged.db"
    for path in (made, out):
        path.unlink(missing_ok=True)
    with connect.writer(made) as conn:
        conn.execute("PRAGMA synchronous = OFF")
        conn.execute("BEGIN")
        recorders = _recordings(conn, told)
        clusters = fleet_of(told).clusters
        names = names_since(client, clusters, _where(tables.DAYS), _bound(_days(span)))
        endpoints = _endpoints(conn, client, level, span, names)
        edges = _edges(conn, client, level, span, recorders, endpoints)
        _rows(conn, client, level, span, edges)
        _levels(conn, level, span)
        conn.execute("COMMIT")
    merge([made], out, aside=aside)
    made.unlink()
    return out


def _bound(span: Span) -> dict[str, object]:
    since_ns, until_ns = span
    return {"since": max(since_ns // SECOND, 0), "until": min(until_ns // SECOND, 2**32 - 1)}


def _days(span: Span) -> Span:
    """Give the days that a span is in."""
    return span[0] - span[0] % DAY, span[1]


def _where(level: tables.LevelTable) -> str:
    return _IN_SPAN.format(column=level.column)


def _level(client: Client, span: Span) -> tuple[tables.LevelTable, Span]:
    """Choose the finest level of which all of a span is left, and few enough rows; its buckets."""
    held = kept(client)
    counted = 0
    for at, level in enumerate(tables.LEVELS):
        if held is not None and not held.has(at, *span):
            continue
        width_ns = level.width_s * SECOND
        whole = span[0] - span[0] % width_ns, span[1] + -span[1] % width_ns
        found = client.query(
            f"SELECT count() FROM {level.table} WHERE {_where(level)}", _bound(whole)
        ).rows
        counted = int(found[0][0])
        if counted <= MOST_ROWS:
            return level, whole
    raise TooManyError(
        f"{counted:,} rows are too many to bring here",
        hint="narrow it, as with --since 1h; ctk top adds up where they are",
    )


def _recordings(conn: sqlite3.Connection, told: Told) -> dict[tuple[str, str], int]:
    """Write the recordings and gaps; give the ids of recorders by their file and node."""
    recorders: dict[tuple[str, str], int] = {}
    by_node: dict[tuple[str | None, str], int] = {}
    ids: dict[tuple[str, int], int | None] = {}
    named: dict[tuple[str, str | None], int] = {}
    for each in told.recordings:
        whose = each.cluster_uid or each.cluster, each.node
        if whose not in by_node:
            # Of clusters that are called alike, the second goes by its UID.
            called = each.cluster_uid if (each.node, each.cluster) in named else each.cluster
            made = conn.execute(
                "INSERT INTO recorder(node, cluster) VALUES (?, ?)", (each.node, called)
            ).lastrowid
            assert made is not None
            by_node[whose] = named[each.node, each.cluster] = made
        recorders[each.recording, each.node] = by_node[whose]
        ids[each.recording, each.id] = conn.execute(
            "INSERT INTO recording(recorder_id, started_ns, committed_ns, ended_ns, boot_id,"
            " version, source, settings, events, lost, malformed, cluster_uid)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(by_node[whose], each.started_ns, each.committed_ns, each.ended_ns, each.boot_id),
                *(each.version, each.source, each.settings, each.events, each.lost),
                *(each.malformed, each.cluster_uid),
            ),
        ).lastrowid
    conn.executemany(
        "INSERT INTO gap(recording_id, kind, started_ns, ended_ns, lost, detail)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        [
            (ids[gap.recording, gap.recording_id], *gap[4:])
            for gap in told.gaps
            if (gap.recording, gap.recording_id) in ids
        ],
    )
    return recorders


def _endpoints(
    conn: sqlite3.Connection,
    client: Client,
    level: tables.LevelTable,
    span: Span,
    named: Mapping[EndpointKey, Name],
) -> dict[tuple[str, int], int]:
    """Write the endpoints that rows of a span have; give their ids by file and id there."""
    make_endpoints(conn)
    names = ("address", *(name for name in ENDPOINT_IDENTITY), "valid_from_ns", "valid_to_ns")
    found = client.query(
        f"SELECT recording, id, node_zone, end_inferred, {', '.join(names)} FROM endpoints FINAL"
        " WHERE id > 0 AND (recording, id) IN (SELECT DISTINCT recording,"
        f" arrayJoin([src_id, dialled_id, dst_id]) FROM {level.table} WHERE {_where(level)})"
        " ORDER BY recording, id",
        _bound(span),
    ).rows
    ids: dict[tuple[str, int], int] = {}
    alike: dict[tuple[object, ...], list[Any]] = {}
    zones: dict[str, set[str]] = {}
    for recording, old_id, zone, end_inferred, *row in found:
        *identity, since_ns, until_ns = row
        if (recording, old_id) in named:
            name = named[recording, old_id]
            identity[1:] = (getattr(name, column) for column in ENDPOINT_IDENTITY)
        kind, node = (identity[names.index(name)] for name in ("kind", "node"))
        if node is not None and zone is not None:
            zones.setdefault(node, set()).add(zone)
        # What nobody could name is somebody else in each file.
        key = (*identity, (recording, old_id) if kind == "unknown" else None)
        known = alike.get(key)
        if known is None:
            known = alike[key] = [len(alike) + 1, *identity, since_ns, until_ns, bool(end_inferred)]
        else:
            _unite(known, since_ns, until_ns, bool(end_inferred))
        ids[recording, old_id] = known[0]
    columns = ", ".join(("id", *names, "end_inferred", "packed"))
    marks = ", ".join("?" * (len(names) + 3))
    conn.executemany(
        f"INSERT INTO endpoint({columns}) VALUES ({marks})",
        ((*each, _packed(each[1])) for each in alike.values()),
    )
    conn.executemany(
        "INSERT INTO node_zone(node, zone) VALUES (?, ?)",
        [(node, *some) for node, some in zones.items() if len(some) == 1],
    )
    return ids


def _unite(known: list[Any], since_ns: int, until_ns: int | None, inferred: bool) -> None:
    """Let an endpoint stand for what another file says of it: an end that was seen holds."""
    known[-3] = min(known[-3], since_ns)
    mine, its = known[-2], until_ns
    seen = [end for end, unsure in ((mine, known[-1]), (its, inferred)) if end and not unsure]
    if seen:
        known[-2:] = [seen[0], False]
    else:
        known[-2:] = [
            None if mine is None or its is None else max(mine, its),
            known[-1] and inferred,
        ]


def _packed(address: str) -> bytes:
    try:
        return ip_address(address).packed
    except ValueError:
        return b""  # of "other"


def _edges(
    conn: sqlite3.Connection,
    client: Client,
    level: tables.LevelTable,
    span: Span,
    recorders: Mapping[tuple[str, str], int],
    endpoints: dict[tuple[str, int], int],
) -> dict[tuple[str, int], int]:
    """Write the edges of a span; give their ids by file and id there, below zero for "other"."""
    names = ("cluster", "node", "nat_dst", "src_node", "dst_node", *_OF_EDGE, *_IDS.values())
    names = (*names, *_OF_SIDE["src"], *_OF_SIDE["backend"])
    picked = ", ".join(f"any({name})" for name in names)
    found = client.query(
        f"SELECT recording, edge, {picked}, sum(unreplied + refused) > 0 FROM {level.table}"
        f" WHERE {_where(level)} GROUP BY recording, edge ORDER BY recording, edge",
        _bound(span),
    ).rows
    ids: dict[tuple[str, int], int] = {}
    written = []
    next_id = other_id = 0
    for recording, edge, *values, failed in found:
        row = dict(zip(names, values, strict=True))
        if (recording, row["node"]) not in recorders:
            continue  # who tells of recordings is not there yet
        if edge < 0:
            other_id -= 1
        else:
            next_id += 1
        ids[recording, edge] = new_id = other_id if edge < 0 else next_id
        sides = [_endpoint_of(conn, endpoints, recording, row, side) for side in _SIDES]
        of_edge = (row[name] for name in _OF_EDGE)
        fails = bool(failed) if edge < 0 else None
        recorder = recorders[recording, row["node"]]
        written.append((new_id, *sides, recorder, *of_edge, fails))
    columns = ("id", *EdgeRow._fields[:EDGE_SIDES], "recorder_id", *_OF_EDGE, "failed")
    conn.executemany(bulk.plain("edge", columns).one, written)
    return ids


def _endpoint_of(
    conn: sqlite3.Connection,
    endpoints: dict[tuple[str, int], int],
    recording: str,
    row: Mapping[str, Any],
    side: str,
) -> int:
    """Give an endpoint's id; one that is not told of any more is made of what its row says."""
    old_id = int(row[_IDS[side]])
    if old_id < 0:
        return old_id
    found = endpoints.get((recording, old_id))
    if found is None:
        address, kind, *named, node = row["dst"], "unknown", None, None, None, None, None
        if side in _OF_SIDE:
            address, kind, *named = (row[name] for name in _OF_SIDE[side])
            node = row["src_node" if side == "src" else "dst_node"]
            if side == "backend":
                address = row["nat_dst"] or address
        made = conn.execute(
            "INSERT INTO endpoint(address, packed, kind, namespace, name, workload, workload_kind,"
            " node, valid_from_ns) VALUES (?, ?, ?, ?, ?, ?, ?, ?, 0)",
            (address, _packed(address), kind, *named, node),
        ).lastrowid
        assert made is not None
        found = endpoints[recording, old_id] = made
    return found


def _rows(
    conn: sqlite3.Connection,
    client: Client,
    level: tables.LevelTable,
    span: Span,
    edges: Mapping[tuple[str, int], int],
) -> None:
    """Write the rows: minutes as flows, which begin and end when their first and last one did."""
    fine = level is tables.MINUTES
    keys = (
        "recording, edge, first_seen_ns, last_seen_ns"
        if fine
        else f"recording, edge, {level.column}"
    )
    sums = COUNT_KEYS if fine else tuple(f"sum({key})" for key in COUNT_KEYS)
    grouped = "" if fine else f"GROUP BY {keys}"
    behind = ", ".join(FOLDED_KEYS if fine else (f"max({key})" for key in FOLDED_KEYS))
    found = client.query(
        f"SELECT {keys}, {', '.join(sums)}, {behind} FROM {level.table} WHERE {_where(level)}"
        f" {grouped}",
        _bound(span),
    ).rows
    counts = ", ".join(COUNT_KEYS)
    marks = ", ".join("?" * len(COUNT_KEYS))
    if fine:
        rows: Iterator[Sequence[object]] = (
            (began_ns, n, edges[recording, edge], ended_ns - began_ns, *sums[: len(COUNT_KEYS)])
            for n, (recording, edge, began_ns, ended_ns, *sums) in enumerate(found)
            if (recording, edge) in edges
        )
        conn.executemany(
            f"INSERT INTO flow(started_ns, n, edge_id, lasted_ns, {counts})"
            f" VALUES (?, ?, ?, ?, {marks})",
            rows,
        )
    else:
        table, _ = _stored(level)
        conn.executemany(
            f"INSERT INTO {table}(started_ns, edge_id, {counts}) VALUES (?, ?, {marks})",
            (
                (int(at.timestamp()) * SECOND, edges[recording, edge], *sums[: len(COUNT_KEYS)])
                for recording, edge, at, *sums in found
                if (recording, edge) in edges
            ),
        )
    name = "flow" if fine else level.name
    conn.executemany(
        "INSERT OR REPLACE INTO folded(level, started_ns, edge_id, src_addresses, dst_addresses)"
        " VALUES (?, ?, ?, ?, ?)",
        (
            (name, at if fine else int(at.timestamp()) * SECOND, edges[row[0], row[1]], *row[-2:])
            for row in found
            if row[1] < 0 and (row[0], row[1]) in edges
            for at in row[2:3]
        ),
    )


def _stored(level: tables.LevelTable) -> tuple[str, int]:
    """Give a file's table for a level, and the width of its buckets."""
    return next((each.table, each.width_ns) for each in LEVELS if each.name == level.name)


def _levels(conn: sqlite3.Connection, level: tables.LevelTable, span: Span) -> None:
    """Say how far each level is: what is finer than the rows that were brought is not there."""
    if level is tables.MINUTES:
        return
    table, width_ns = _stored(level)
    (last_ns,) = conn.execute(f"SELECT MAX(started_ns) FROM {table}").fetchone()
    end_ns = (span[0] if last_ns is None else last_ns) + width_ns
    for each in LEVELS:
        if each.name == level.name:
            conn.execute("UPDATE level SET folded_ns = ? WHERE name = ?", (end_ns, each.name))
            return
        conn.execute(
            "UPDATE level SET pruned_ns = ?, folded_ns = ? WHERE name = ?",
            (end_ns, end_ns, each.name),
        )
