"""
The views: what people read. Plural names, text for times, columns in the contract's order.

They are made from columns.py and the levels. A migration that changes a column makes all of them
anew, so that only the newest set ever exists.
"""

import sqlite3
from collections.abc import Mapping

from ctk.model.tableuse import TableCounters
from ctk.store.columns import EDGE_JOIN, JOINS, flow_sql, rfc3339
from ctk.store.levels import LEVELS, Level
from ctk.store.meanings import comments

_VALID = (
    f"{rfc3339('valid_from_ns')} AS valid_from, {rfc3339('valid_to_ns')} AS valid_to,"
    " valid_from_ns, valid_to_ns, end_inferred"
)

_RECORDER = (
    "LEFT JOIN recording ON recording.id = {}.recording_id"
    " LEFT JOIN recorder ON recorder.id = recording.recorder_id"
)


def make_views(conn: sqlite3.Connection) -> None:
    """Drop the views of a file, whatever they are, and make those of this version."""
    drop_views(conn)
    for name, select in views().items():
        conn.execute(f"CREATE VIEW {name} AS\n{comments(name)}{select}")


def drop_views(conn: sqlite3.Connection) -> None:
    """Drop every view: SQLite changes no table that a view names wrongly."""
    found = conn.execute("SELECT name FROM sqlite_master WHERE type = 'view'").fetchall()
    for (name,) in found:
        conn.execute(f'DROP VIEW "{name}"')


def views() -> Mapping[str, str]:
    """Give the SELECT of each view by its name."""
    return {
        **{
            "flows" if not level.width_ns else level.table.replace("flow", "flows"): _flows(level)
            for level in LEVELS
        },
        "endpoints": "SELECT id, address, kind, namespace, name, workload, workload_kind, node,"
        f" (SELECT zone FROM node_zone WHERE node_zone.node = endpoint.node) AS node_zone,"
        f" labels, uid, {_VALID} FROM endpoint",
        "pods": "SELECT uid, namespace, name, node, workload, workload_kind, phase, host_network,"
        f" addresses, labels, {_VALID} FROM pod",
        "services": "SELECT uid, namespace, name, type, addresses, ports, labels,"
        f" {_VALID} FROM service",
        "nodes": "SELECT uid, name,"
        " (SELECT zone FROM node_zone WHERE node_zone.node = node.name) AS zone,"
        f" addresses, labels, {_VALID} FROM node",
        "gaps": f"""
            SELECT {rfc3339("gap.started_ns")} AS started_at,
                {rfc3339("gap.ended_ns")} AS ended_at,
                gap.started_ns AS started_ns, gap.ended_ns AS ended_ns,
                recorder.cluster AS cluster, recorder.node AS node,
                gap.kind AS kind, gap.lost AS lost, gap.detail AS detail,
                gap.recording_id AS recording_id
            FROM gap
            LEFT JOIN recording ON recording.id = gap.recording_id
            LEFT JOIN recorder ON recorder.id = recording.recorder_id
        """,
        "recordings": f"""
            SELECT recording.id AS id, recorder.cluster AS cluster, cluster_uid,
                recorder.node AS node, boot_id,
                {rfc3339("started_ns")} AS started_at, {rfc3339("committed_ns")} AS committed_at,
                {rfc3339("ended_ns")} AS ended_at, started_ns, committed_ns, ended_ns, version,
                source, settings, events, lost, malformed
            FROM recording LEFT JOIN recorder ON recorder.id = recording.recorder_id
        """,
        "pressure": f"""
            SELECT {rfc3339("at_ns")} AS at, at_ns, recorder.cluster AS cluster,
                recorder.node AS node, entries, peak, most, {", ".join(TableCounters._fields)}
            FROM table_look {_RECORDER.format("table_look")}
        """,
        "holders": f"""
            SELECT {rfc3339("at_ns")} AS at, at_ns, recorder.cluster AS cluster,
                recorder.node AS node, proto, client_kind, client, service, backend_kind, backend,
                port, state, entries
            FROM held LEFT JOIN holder ON holder.id = held.holder_id {_RECORDER.format("held")}
        """,
    }


def _flows(level: Level) -> str:
    if level.width_ns:
        sql = flow_sql(
            ended_ns=f"f.started_ns + {level.width_ns}", src_port="NULL", level=level.name
        )
    else:
        sql = flow_sql()
    columns = ", ".join(f"{expression} AS {key}" for key, expression in sql.items())
    return f"SELECT {columns} FROM {level.table} AS f {EDGE_JOIN} {' '.join(JOINS.values())}"
