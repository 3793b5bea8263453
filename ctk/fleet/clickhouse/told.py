"""
What is told of a file beside its flows: recordings and gaps, and who was behind addresses.

A row that changed is told again; what has not is known by its digest, and not sent. The newest
holds: that of the file that goes furthest, however late an older snapshot of it is shipped. Pods
and nodes are told by the recorder on their own node, or each of a thousand would tell all of them.
"""

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Any

import orjson

from ctk.ask.connection import one_moment
from ctk.fleet.clickhouse import tables
from ctk.fleet.clickhouse.client import Client
from ctk.fleet.clickhouse.cut import ShippedPosition
from ctk.fleet.clickhouse.state import State

NOT_SHIPPED = "not shipped"  # a gap: rows were pruned while ClickHouse was away

_ROWS = 2_000  # that are looked at, and sent, at once
_COMMITTED = "SELECT MAX(committed_ns) FROM recording"
_CLUSTER = "(SELECT cluster FROM recorder ORDER BY id DESC LIMIT 1)"
_OWN = "(SELECT node FROM recorder)"

# Each gives the row's id, then what tables.TOLD names, but for `recording`; {after} are those that
# have a greater id. What is told in views has no id: it is that of the table.
_SELECTS: Mapping[str, str] = {
    "endpoints": "SELECT id, id, address, kind, namespace, name, workload, workload_kind, node,"
    " (SELECT zone FROM node_zone WHERE node_zone.node = endpoint.node), labels, uid,"
    " valid_from_ns, valid_to_ns, end_inferred FROM endpoint WHERE id > ?",
    "pods": f"SELECT id, {_CLUSTER}, uid, namespace, name, node, workload, workload_kind, phase,"
    " host_network, addresses, labels, valid_from_ns, valid_to_ns, end_inferred"
    f" FROM pod WHERE id > ? AND node IN {_OWN}",
    "services": f"SELECT id, {_CLUSTER}, uid, namespace, name, type, addresses, ports, labels,"
    " valid_from_ns, valid_to_ns, end_inferred FROM service WHERE id > ?",
    "nodes": f"SELECT id, {_CLUSTER}, uid, name,"
    " (SELECT zone FROM node_zone WHERE node_zone.node = node.name), addresses, labels,"
    f" valid_from_ns, valid_to_ns, end_inferred FROM node WHERE id > ? AND name IN {_OWN}",
}
_RECORDINGS = (
    "SELECT recording.id, recording.id, cluster, cluster_uid, node, boot_id, started_ns,"
    " committed_ns, ended_ns, version, source, settings, events, lost, malformed"
    " FROM recording JOIN recorder ON recorder.id = recorder_id WHERE started_ns < ?"
)
_GAPS = (
    "SELECT gap.id, gap.id, recording_id, cluster, node, kind, gap.started_ns, gap.ended_ns,"
    " gap.lost, detail FROM gap JOIN recording ON recording.id = recording_id"
    " JOIN recorder ON recorder.id = recorder_id WHERE gap.started_ns < ?"
)
_NO_ADDRESS = -100  # ids of endpoints begin above


def tell_names(
    conn: sqlite3.Connection, client: Client, state: State, *, all_of_them: bool
) -> None:
    """Tell who was behind addresses: what is new, or with `all_of_them` what changed, too."""
    # Asked before the rows are, which may be newer than that, but never older.
    (committed_ns,) = conn.execute(_COMMITTED).fetchone()
    for table, sql in _SELECTS.items():
        after = _NO_ADDRESS if all_of_them else state.last_told(table) or _NO_ADDRESS
        some = f"{sql} ORDER BY id LIMIT {_ROWS}"
        while found := conn.execute(some, (after,)).fetchall():
            _tell(client, state, table, found, committed_ns)
            after = found[-1][0]


def tell_recordings(
    conn: sqlite3.Connection, client: Client, state: State, position: ShippedPosition
) -> None:
    """
    Tell which recordings are there, up to where they are shipped, and their gaps.

    Up to then the other observers of a connection defer to this node, so it is told no further.
    """
    at_ns = position.at_ns
    with one_moment(conn):
        found = [list(row) for row in conn.execute(_RECORDINGS, (at_ns,))]
        gaps = conn.execute(_GAPS, (at_ns,)).fetchall()
        (committed_ns,) = conn.execute(_COMMITTED).fetchone()
    names = list(tables.TOLD["recordings"][0])
    committed, ended = names.index("committed_ns"), names.index("ended_ns")
    for row in found:
        if row[committed] > at_ns:
            row[committed], row[ended] = at_ns, None
    _tell(client, state, "recordings", found, min(at_ns, committed_ns))
    if found:
        of_last = found[-1]
        cluster, node = (of_last[names.index(name)] for name in ("cluster", "node"))
        own = of_last[0], cluster, node, NOT_SHIPPED
        gaps += [
            (-since_ns, -since_ns, *own, since_ns, until_ns, None, None)
            for since_ns, until_ns in state.skipped()
        ]
        # No span of its own: else others would speak in it for what was shipped, too.
        gaps += [
            (-found_ns - 1, -found_ns - 1, *own, found_ns, found_ns, None, late_pruned_said(flows))
            for found_ns, flows in state.late_pruned()
        ]
    _tell(client, state, "gaps", gaps, committed_ns)


def late_pruned_said(flows: int) -> str:
    """Say how many flows, at most, were late and are gone."""
    were = "flow that came late for what was shipped was"
    if flows != 1:
        were = "flows that came late for what was shipped were"
    return f"up to {flows:,} {were} pruned before"


def _tell(
    client: Client,
    state: State,
    table: str,
    rows: Sequence[Sequence[object]],
    told_ns: int,
) -> None:
    by_id = {int(str(row[0])): row[1:] for row in rows}
    digests = {each: _digest(row) for each, row in by_id.items()}
    changed = state.changed(table, digests)
    if not changed:
        return
    columns = dict(tables.TOLD[table][0])
    values = [list(column) for column in zip(*(by_id[each] for each in changed), strict=True)]
    if "recording" in columns:
        values.insert(0, [state.recording] * len(changed))
    values.append([told_ns] * len(changed))
    for i, kind in enumerate(columns.values()):
        if kind == "Bool":
            values[i] = list(map(bool, values[i]))
    # Told twice, the later of two that are as new holds: no token is needed.
    client.insert(table, columns | {"told_ns": "Int64"}, values, {"async_insert": 0})
    state.told(table, {each: digests[each] for each in changed})


def _digest(row: Sequence[object]) -> int:
    packed = orjson.dumps(list(row))
    return int.from_bytes(blake2b(packed, digest_size=7).digest(), "big")


def batches(client: Client, recording: str, after: int = 0) -> Iterator[Mapping[str, Any]]:
    """Yield the batches of a file that ClickHouse has been told of, oldest first."""
    found = client.query(
        "SELECT * EXCEPT (told_ns) FROM batches FINAL WHERE recording = {recording:String}"
        " AND batch > {after:UInt32} ORDER BY batch",
        {"recording": recording, "after": after},
    )
    for row in found.rows:
        yield dict(zip(found.names, row, strict=True))
