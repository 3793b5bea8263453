"""
What is told beside flows, from several files: recordings and gaps, and how pods, services and nodes
stood, which every recorder of a cluster was told: it is told once here.
"""

import sqlite3
from collections.abc import Mapping, Sequence

from ctk.fleet.inputs import Taken
from ctk.store.peers import remember
from ctk.timespan import FOREVER_NS

_OF_OBJECTS = ("pod", "service", "node")
# What changes while an object stands as it does, and what only the recorder that goes on needs.
_SPAN = ("valid_from_ns", "valid_to_ns", "end_inferred")
_OF_RECORDER = (
    *("told_ns", "watched_ns", "started_ns", "networked_ns", "running_ns", "ended_ns", "grace_s"),
    "sure_until_ns",
)


def recordings(
    conn: sqlite3.Connection, schema: str, taken: Sequence[Taken], since_ns: int | None
) -> None:
    """Copy the recordings of the nodes that are taken from a file, and their gaps."""
    columns = _columns(conn, "recording", "id", "recorder_id")
    of_gap = _columns(conn, "gap", "id", "recording_id")
    for each in taken:
        for held in each.recordings:
            if since_ns is not None and held.ended_ns <= since_ns:
                continue
            made = conn.execute(
                f"INSERT INTO main.recording(recorder_id, {columns}) SELECT new_id, {columns}"
                f" FROM {schema}.recording AS recording JOIN temp.recorder_{each.file} AS of"
                " ON of.id = recorder_id WHERE recording.id = ?",
                (held.id,),
            ).lastrowid
            conn.execute(
                f"INSERT INTO main.gap(recording_id, {of_gap}) SELECT ?, {of_gap}"
                f" FROM {schema}.gap WHERE recording_id = ? AND ended_ns >= ?",
                (made, held.id, -FOREVER_NS if since_ns is None else since_ns),
            )
            table_use(conn, schema, held.id, made, since_ns)


def table_use(
    conn: sqlite3.Connection, schema: str, old_id: int, new_id: int | None, since_ns: int | None
) -> None:
    """Copy how full the table was in a recording, and who held it."""
    since_ns = -FOREVER_NS if since_ns is None else since_ns
    looks = _columns(conn, "table_look", "recording_id")
    conn.execute(
        f"INSERT INTO main.table_look(recording_id, {looks}) SELECT ?, {looks}"
        f" FROM {schema}.table_look WHERE recording_id = ? AND at_ns >= ?",
        (new_id, old_id, since_ns),
    )
    names = _columns(conn, "holder", "id")
    same = " AND ".join(f"known.{name} IS of.{name}" for name in names.split(", "))
    conn.execute(
        f"INSERT INTO main.holder({names}) SELECT {names} FROM {schema}.holder AS of"
        f" WHERE id IN (SELECT holder_id FROM {schema}.held"
        " WHERE recording_id = ? AND at_ns >= ?)"
        f" AND NOT EXISTS (SELECT 1 FROM main.holder AS known WHERE {same})",
        (old_id, since_ns),
    )
    conn.execute(
        "INSERT INTO main.held(at_ns, recording_id, holder_id, state, entries)"
        f" SELECT at_ns, ?, known.id, state, entries FROM {schema}.held AS held"
        f" JOIN {schema}.holder AS of ON of.id = held.holder_id"
        f" JOIN main.holder AS known ON {same} WHERE recording_id = ? AND at_ns >= ?",
        (new_id, old_id, since_ns),
    )


def idle(conn: sqlite3.Connection, file: int, schema: str, recorder_id: int) -> None:
    """Copy the idle connections of a node that count."""
    conn.execute(
        "INSERT INTO main.idle(edge_id, connections) SELECT made.new_id, connections"
        f" FROM {schema}.idle AS idle JOIN {schema}.edge AS edge ON edge.id = idle.edge_id"
        f" JOIN temp.edge_{file} AS made ON made.id = edge.id"
        " JOIN temp.class ON class.id = made.class WHERE edge.recorder_id = ? AND counts",
        (recorder_id,),
    )


def objects(conn: sqlite3.Connection, schema: str) -> None:
    """Copy how pods, services and nodes stood; `unite` makes one of what was told twice."""
    for table in _OF_OBJECTS:
        columns = _columns(conn, table, "id")
        conn.execute(f"INSERT INTO main.{table}({columns}) SELECT {columns} FROM {schema}.{table}")


def unite(conn: sqlite3.Connection) -> None:
    """Make one row of those that say the same of an object, as long as one follows the other."""
    for table in _OF_OBJECTS:
        told = ", ".join(
            name for name in _columns(conn, table, "id", *_SPAN, *_OF_RECORDER).split(", ")
        )
        ends = f"IFNULL(valid_to_ns, {FOREVER_NS})"
        same = f"OVER (PARTITION BY {told} ORDER BY valid_from_ns, id"
        seen = "CASE WHEN NOT end_inferred THEN valid_to_ns END"
        conn.execute(
            f"""
            CREATE TEMP TABLE united AS
            WITH ordered AS (
                SELECT *, MAX({ends}) {same} ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
                    AS before_ns FROM main.{table}
            ), apart AS (
                SELECT *, SUM(before_ns IS NULL OR before_ns < valid_from_ns) {same}) AS number
                FROM ordered
            )
            SELECT {told}, MIN(valid_from_ns) AS valid_from_ns,
                CASE WHEN COUNT({seen}) THEN MAX({seen})
                    WHEN COUNT(valid_to_ns) = COUNT(*) THEN MAX(valid_to_ns) END AS valid_to_ns,
                COUNT({seen}) = 0 AND COUNT(valid_to_ns) = COUNT(*) AS end_inferred
            FROM apart GROUP BY {told}, number ORDER BY valid_from_ns
            """
        )
        names = f"{told}, {', '.join(_SPAN)}"
        conn.execute(f"DELETE FROM main.{table}")
        conn.execute(f"INSERT INTO main.{table}({names}) SELECT {names} FROM temp.united")
        conn.execute("DROP TABLE temp.united")


def peers(conn: sqlite3.Connection, schema: str) -> None:
    """Remember when peers were first seen whose edges are gone."""
    remember(conn, conn.execute(f"SELECT id, first_ns FROM {schema}.peer").fetchall())


def zones(conn: sqlite3.Connection, found: Mapping[str, Mapping[str | None, str]]) -> list[str]:
    """
    Give each node its zone, of those that its cluster tells.

    A name that nodes of several clusters have in several zones has none here; give such names.
    """
    known = {node: set(zones.values()) for node, zones in found.items()}
    conn.executemany(
        "INSERT INTO main.node_zone VALUES (?, ?)",
        [(node, *zones) for node, zones in sorted(known.items()) if len(zones) == 1],
    )
    return [node for node, zones in sorted(known.items()) if len(zones) > 1]


def _columns(conn: sqlite3.Connection, table: str, *but: str) -> str:
    names = conn.execute("SELECT name FROM pragma_table_info(?, 'main')", (table,)).fetchall()
    return ", ".join(name for (name,) in names if name not in but)
