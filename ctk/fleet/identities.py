"""
Who was behind an address, from several files: endpoints with ids of the merged file.

An endpoint that two files name alike is one. One that a file could not name is completed where
another file of the same cluster names its address, and nobody else had that then.
"""

import sqlite3
from collections.abc import Iterable
from itertools import groupby
from operator import itemgetter

from ctk.fleet.recorded import RecordedNode
from ctk.store.columns import ENDPOINT_IDENTITY, EdgeRow
from ctk.timespan import FOREVER_NS, SECOND

_SIDES = ("src_id", "dialled_id", "backend_id")
_SAME = " AND ".join(f"o.{name} IS e.{name}" for name in ("packed", *ENDPOINT_IDENTITY))
_COLUMNS = ("address", "packed", *ENDPOINT_IDENTITY, "valid_from_ns", "valid_to_ns", "end_inferred")
# A source that was folded keeps no sign of its rewriting. Who forwards what strangers dial to
# another node rewrites it, or the answer would pass it by; kube-proxy's policy Cluster does.
_REWRITES = "edge.nat_src IS NOT NULL OR (edge.src_id < 0 AND backend.node <> recorder.node)"


def prepare(conn: sqlite3.Connection, files: int) -> None:
    """Make the tables that tell what an id of each file is here."""
    for file in range(files):
        for table in ("endpoint", "recorder"):
            conn.execute(f"CREATE TEMP TABLE {table}_{file} (id INTEGER PRIMARY KEY, new_id)")
        conn.execute(f"CREATE TEMP TABLE edge_{file} (id INTEGER PRIMARY KEY, new_id, class)")
    # The nodes of the merged file: `cluster` is what tells it from others, not what it is called.
    conn.execute("CREATE TEMP TABLE nodes (id INTEGER PRIMARY KEY, node, cluster)")
    # Of which clusters an endpoint of the merged file is, where it is told of one.
    conn.execute(
        "CREATE TEMP TABLE whose (endpoint_id, cluster, PRIMARY KEY(endpoint_id, cluster))"
    )
    # The edges that are alike in what tells who speaks, and whether their rows count now.
    conn.execute(
        "CREATE TEMP TABLE class (id INTEGER PRIMARY KEY, key TEXT UNIQUE, recorder_id, src_node,"
        " dst_node, rewrites, unrecorded, counts)"
    )


def recorders(
    conn: sqlite3.Connection, file: int, recorders: Iterable[tuple[int, RecordedNode, str | None]]
) -> None:
    """Give the nodes of a file, each with its id there and its cluster's name, ids here."""
    for old_id, node, called in recorders:
        found = conn.execute(
            "SELECT id FROM temp.nodes WHERE node = ? AND cluster IS ?", (node.name, node.cluster)
        ).fetchone()
        if found is None:
            taken = "SELECT 1 FROM main.recorder WHERE node = ? AND cluster IS ?"
            # Of clusters that are called alike, the second goes by its UID.
            alike = conn.execute(taken, (node.name, called)).fetchone()
            name = node.cluster if alike else called
            new_id = conn.execute(
                "INSERT INTO main.recorder(node, cluster) VALUES (?, ?)", (node.name, name)
            ).lastrowid
            conn.execute("INSERT INTO temp.nodes VALUES (?, ?, ?)", (new_id, *node[::-1]))
            found = (new_id,)
        conn.execute(f"INSERT INTO temp.recorder_{file} VALUES (?, ?)", (old_id, *found))


def endpoints(conn: sqlite3.Connection, file: int, schema: str) -> None:
    """Copy the endpoints that the edges of the nodes taken from a file have."""
    table = f"temp.endpoint_{file}"
    conn.execute("CREATE TEMP TABLE used (id INTEGER PRIMARY KEY)")
    for side in _SIDES:
        conn.execute(
            f"INSERT OR IGNORE INTO temp.used SELECT {side} FROM {schema}.edge"
            f" WHERE recorder_id IN (SELECT id FROM temp.recorder_{file})"
        )
    (last_id,) = conn.execute("SELECT IFNULL(MAX(id), 0) FROM main.endpoint").fetchone()
    # Those that stand for many are the same two in every file.
    conn.execute(f"INSERT INTO {table} SELECT id, id FROM temp.used WHERE id < 0")
    conn.execute(
        f"INSERT INTO {table} SELECT e.id, MIN(o.id) FROM temp.used CROSS JOIN {schema}.endpoint"
        " AS e ON e.id = used.id AND e.id > 0 AND e.kind <> 'unknown'"
        f" CROSS JOIN main.endpoint AS o ON {_SAME} GROUP BY e.id"
    )
    conn.execute(
        f"INSERT INTO {table} SELECT id, ? + row_number() OVER (ORDER BY id) FROM temp.used"
        f" WHERE id NOT IN (SELECT id FROM {table})",
        (max(last_id, 0),),
    )
    conn.execute("DROP TABLE temp.used")
    columns = ", ".join(_COLUMNS)
    conn.execute(
        f"INSERT INTO main.endpoint(id, {columns}) SELECT new_id, {columns}"
        f" FROM {table} AS made JOIN {schema}.endpoint AS e ON e.id = made.id WHERE new_id > ?"
        " ORDER BY new_id",
        (max(last_id, 0),),
    )
    conn.execute(
        f"INSERT OR IGNORE INTO main.endpoint(id, {columns}) SELECT id, {columns}"
        f" FROM {schema}.endpoint WHERE id < 0"
    )
    conn.execute(
        f"UPDATE main.endpoint AS o SET valid_from_ns = MIN(o.valid_from_ns, e.valid_from_ns),"
        f" {_ends('o', 'e')} FROM {table} AS made JOIN {schema}.endpoint AS e ON e.id = made.id"
        " WHERE o.id = made.new_id AND made.new_id BETWEEN 1 AND ?",
        (last_id,),
    )
    for side in _SIDES:
        conn.execute(
            f"INSERT OR IGNORE INTO temp.whose SELECT made.new_id, nodes.cluster"
            f" FROM {schema}.edge AS edge JOIN temp.recorder_{file} AS of ON of.id = recorder_id"
            f" JOIN temp.nodes AS nodes ON nodes.id = of.new_id JOIN {table} AS made"
            f" ON made.id = edge.{side} WHERE edge.{side} > 0"
        )


def _ends(one: str, other: str) -> str:
    """Give the end of an interval that two files tell of: one that was seen, else the later."""
    seen = "{0}.valid_to_ns IS NOT NULL AND NOT {0}.end_inferred"
    first, second = seen.format(one), seen.format(other)
    return (
        f"valid_to_ns = CASE WHEN {first} THEN {one}.valid_to_ns"
        f" WHEN {second} THEN {other}.valid_to_ns"
        f" ELSE MAX({one}.valid_to_ns, {other}.valid_to_ns) END,"
        f" end_inferred = CASE WHEN {first} OR {second} THEN 0"
        f" ELSE {one}.end_inferred AND {other}.end_inferred END"
    )


_CANDIDATES = """
    SELECT u.id, u.valid_from_ns, IFNULL(u.valid_to_ns, :forever), k.id, k.kind, k.valid_from_ns,
        IFNULL(IIF(k.end_inferred, NULL, k.valid_to_ns), :forever), k.namespace, k.name, k.uid
    FROM main.endpoint AS u JOIN temp.whose AS of ON of.endpoint_id = u.id
    CROSS JOIN main.endpoint AS k ON k.packed = u.packed AND k.kind IN ('pod', 'node', 'service')
    JOIN temp.whose AS whose ON whose.endpoint_id = k.id AND whose.cluster IS of.cluster
    WHERE u.kind = 'unknown' ORDER BY u.id, k.id
"""


def complete(conn: sqlite3.Connection) -> int:
    """
    Name what one file could not name and another did; return how many endpoints.

    A node keeps its addresses, so it is enough that nobody else ever had that one. Of a pod or a
    service it must be known that it had the address when it was seen. The next pod may have got it
    up to a second before it is known to have it (docs/kubernetes.md).
    """
    completed = []
    found = conn.execute(_CANDIDATES, {"forever": FOREVER_NS})
    for (unknown_id, since_ns, until_ns), some in groupby(found, itemgetter(0, 1, 2)):
        then = [
            (known_id, kind, began_ns, who)
            for _, _, _, known_id, kind, began_ns, ended_ns, *who in some
            if began_ns < until_ns + SECOND and ended_ns > since_ns
        ]
        if len({(kind, *who) for _, kind, _, who in then}) != 1:
            continue
        known = [each[0] for each in then if each[1] == "node" or each[2] <= since_ns]
        if known:
            completed.append((known[0], unknown_id))
    names = ", ".join(ENDPOINT_IDENTITY)
    conn.executemany(
        f"UPDATE main.endpoint SET ({names}) = (SELECT {names} FROM main.endpoint WHERE id = ?)"
        " WHERE id = ?",
        completed,
    )
    return len(completed)


def edges(conn: sqlite3.Connection, file: int, schema: str, next_id: int, other_id: int) -> None:
    """Give the edges of a file ids here, those that stand for many below zero, and classes."""
    source = f"""
        FROM {schema}.edge AS edge
        JOIN temp.recorder_{file} AS of ON of.id = edge.recorder_id
        JOIN main.recorder AS recorder ON recorder.id = of.new_id
        JOIN temp.endpoint_{file} AS src_of ON src_of.id = edge.src_id
        JOIN main.endpoint AS src ON src.id = src_of.new_id
        JOIN temp.endpoint_{file} AS backend_of ON backend_of.id = edge.backend_id
        JOIN main.endpoint AS backend ON backend.id = backend_of.new_id
    """
    values = f"recorder.id, src.node, backend.node, {_REWRITES}, src.kind IN ('node', 'unknown')"
    conn.execute(
        "INSERT OR IGNORE INTO temp.class(key, recorder_id, src_node, dst_node, rewrites,"
        f" unrecorded) SELECT DISTINCT json_array({values}), {values} {source}"
    )
    conn.execute(
        f"INSERT INTO temp.edge_{file} SELECT edge.id,"
        f" IIF(edge.id < 0, {other_id} - row_number() OVER (PARTITION BY edge.id < 0 ORDER BY"
        f" edge.id), {next_id} + row_number() OVER (PARTITION BY edge.id < 0 ORDER BY edge.id)),"
        f" class.id {source} JOIN temp.class ON class.key = json_array({values})"
    )


def copy_edges(conn: sqlite3.Connection, file: int, schema: str) -> None:
    """Copy the edges of a file that are in temp.edge_in_use."""
    own = [name for name in (*EdgeRow._fields, "first_ns") if name not in (*_SIDES, "recorder_id")]
    conn.execute(
        f"INSERT INTO main.edge(id, {', '.join((*_SIDES, 'recorder_id', *own))})"
        " SELECT made.new_id, src.new_id, dialled.new_id, backend.new_id, of.new_id,"
        f" {', '.join(f'edge.{name}' for name in own)} FROM temp.edge_{file} AS made"
        f" JOIN {schema}.edge AS edge ON edge.id = made.id"
        f" JOIN temp.recorder_{file} AS of ON of.id = edge.recorder_id"
        f" JOIN temp.endpoint_{file} AS src ON src.id = edge.src_id"
        f" JOIN temp.endpoint_{file} AS dialled ON dialled.id = edge.dialled_id"
        f" JOIN temp.endpoint_{file} AS backend ON backend.id = edge.backend_id"
        " WHERE made.new_id IN (SELECT id FROM temp.edge_in_use) ORDER BY made.new_id"
    )


def drop_unused(conn: sqlite3.Connection) -> None:
    """Throw away the endpoints that no edge has."""
    used = " UNION ".join(f"SELECT {side} FROM main.edge" for side in _SIDES)
    conn.execute(f"DELETE FROM main.endpoint WHERE id NOT IN ({used})")
