"""
The schema of a ctk file, append-only: a step once released is never edited.

The newest step that changes a column drops the views and makes them anew from ctk/store/views.py,
which knows the newest schema only.

Base tables have singular names, hold integers and each address or identity once. Views have
plural names, the columns of design section 5, and text for people. Times are ns since the
epoch, UTC. bytes and packets are NULL where nothing measured them.
"""

from sys import byteorder

from ctk.migrations.tables import migrations
from sqlite_utils import Database

from ctk.store.views import drop_views, make_views

_IDENTITY = ("kind", "namespace", "name", "workload", "workload_kind", "node", "labels")
_BUCKETS_NS = {"1m": 60 * 10**9, "1h": 3600 * 10**9, "1d": 86_400 * 10**9}


def _text(time_ns: str) -> str:
    """SQL for an RFC 3339 UTC text, to the nanosecond; NULL stays NULL."""
    seconds = f"strftime('%Y-%m-%dT%H:%M:%S', ({time_ns}) / 1000000000, 'unixepoch')"
    return f"{seconds} || printf('.%09dZ', ({time_ns}) % 1000000000)"


def _version(packed: str) -> str:
    return f"CASE length({packed}) WHEN 4 THEN 4 WHEN 16 THEN 6 END"


def _flows(table: str, ended_ns: str, src_port: str) -> str:
    """
    The columns of design section 5 over one of the flow tables.

    LEFT JOIN lets SQLite leave out the joins a question does not use. The `+` keeps the flow
    table outermost, so that a span of started_ns is a range of its primary key, in order: with
    it no index, made up for one question or not, can find flows by their edge.
    """
    sides = ", ".join(
        f"{side}.{column} AS {name}_{column}"
        for side, name in (("src", "src"), ("backend", "dst"))
        for column in _IDENTITY
    )
    return f"""
        SELECT
            {_text("f.started_ns")} AS started_at, {_text(ended_ns)} AS ended_at,
            f.started_ns AS started_ns, {ended_ns} AS ended_ns,
            (SELECT node FROM recorder WHERE id = edge.recorder_id) AS node, edge.proto AS proto,
            COALESCE({_version("src.packed")}, {_version("dialled.packed")}) AS ip_version,
            edge.zone AS zone, src.address AS src, {src_port} AS src_port,
            dialled.address AS dst, edge.dst_port AS dst_port, edge.nat_src AS nat_src,
            NULLIF(backend.address, dialled.address) AS nat_dst,
            edge.nat_dst_port AS nat_dst_port,
            {sides},
            edge.service AS service, edge.service_via AS service_via,
            f.connections AS connections, f.new_events AS new_events,
            f.update_events AS update_events, f.destroy_events AS destroy_events,
            f.unreplied AS unreplied, f.refused AS refused,
            f.bytes_out AS bytes_out, f.packets_out AS packets_out,
            f.bytes_in AS bytes_in, f.packets_in AS packets_in
        FROM {table} AS f
        LEFT JOIN edge ON edge.id = +f.edge_id
        LEFT JOIN endpoint AS src ON src.id = +edge.src_id
        LEFT JOIN endpoint AS dialled ON dialled.id = +edge.dialled_id
        LEFT JOIN endpoint AS backend ON backend.id = +edge.backend_id
    """


@migrations()
def m005_views(db: Database) -> None:
    """What people read: flows and rollups by name, history, gaps and recordings."""
    flow = _flows("flow", "f.started_ns + f.lasted_ns", "f.src_port")
    db.conn.execute(f"CREATE VIEW flows AS {flow}")
    for level, width_ns in _BUCKETS_NS.items():
        rollup = _flows(f"flow_{level}", f"f.started_ns + {width_ns}", "NULL")
        db.conn.execute(f"CREATE VIEW flows_{level} AS {rollup}")
    valid = f"""
        {_text("valid_from_ns")} AS valid_from, {_text("valid_to_ns")} AS valid_to,
        valid_from_ns, valid_to_ns
    """
    db.conn.execute(
        f"""
        CREATE VIEW endpoints AS
        SELECT id, address, kind, namespace, name, workload, workload_kind, node, labels, uid,
            {valid}
        FROM endpoint
        """
    )
    db.conn.execute(
        f"""
        CREATE VIEW pods AS
        SELECT uid, namespace, name, node, workload, workload_kind, phase, host_network,
            addresses, labels, {valid}
        FROM pod
        """
    )
    db.conn.execute(
        f"""
        CREATE VIEW services AS
        SELECT uid, namespace, name, type, addresses, ports, labels, {valid}
        FROM service
        """
    )
    db.conn.execute(f"CREATE VIEW nodes AS SELECT uid, name, addresses, labels, {valid} FROM node")
    db.conn.execute(
        f"""
        CREATE VIEW gaps AS
        SELECT {_text("gap.started_ns")} AS started_at, {_text("gap.ended_ns")} AS ended_at,
            gap.started_ns AS started_ns, gap.ended_ns AS ended_ns, recorder.node AS node,
            gap.kind AS kind, gap.lost AS lost, gap.detail AS detail,
            gap.recording_id AS recording_id
        FROM gap
        LEFT JOIN recording ON recording.id = gap.recording_id
        LEFT JOIN recorder ON recorder.id = recording.recorder_id
        """
    )
    db.conn.execute(
        f"""
        CREATE VIEW recordings AS
        SELECT recording.id AS id, recorder.node AS node,
            {_text("started_ns")} AS started_at, {_text("committed_ns")} AS committed_at,
            {_text("ended_ns")} AS ended_at, started_ns, committed_ns, ended_ns, version, source,
            settings, events, lost, malformed
        FROM recording LEFT JOIN recorder ON recorder.id = recording.recorder_id
        """
    )


@migrations()
def m006_late_flows(db: Database) -> None:
    """Flows that were written after some that start later: who reads on by time misses them."""
    db.conn.execute(
        """
        CREATE TABLE late_flow (
            id INTEGER PRIMARY KEY, -- in the order they were written
            started_ns INTEGER NOT NULL, -- with n, of a row of flow
            n INTEGER NOT NULL
        )
        """
    )


@migrations()
def m007_clusters(db: Database) -> None:
    """Whose cluster a recording is of, the zone of a node, and which ends are inferred."""
    conn = db.conn
    drop_views(conn)
    # A file may hold nodes of the same name in several clusters, so the name alone is not unique.
    conn.execute(
        """
        CREATE TABLE new_recorder (
            id INTEGER PRIMARY KEY,
            node TEXT NOT NULL,
            cluster TEXT -- its name; NULL where none was followed
        )
        """
    )
    conn.execute("INSERT INTO new_recorder(id, node) SELECT id, node FROM recorder")
    conn.execute("DROP TABLE recorder")
    conn.execute("ALTER TABLE new_recorder RENAME TO recorder")
    conn.execute("CREATE UNIQUE INDEX recorder_node ON recorder(node, IFNULL(cluster, ''))")
    conn.execute("ALTER TABLE recording ADD COLUMN cluster_uid TEXT")  # of namespace kube-system
    conn.execute(
        """
        CREATE TABLE node_zone (
            node TEXT PRIMARY KEY,
            zone TEXT NOT NULL -- the newest label topology.kubernetes.io/zone of that node
        ) WITHOUT ROWID
        """
    )
    conn.execute(
        """
        INSERT INTO node_zone
        SELECT name, zone FROM (
            SELECT name, json_extract(labels, '$."topology.kubernetes.io/zone"') AS zone,
                MAX(valid_from_ns)
            FROM node GROUP BY name
        ) WHERE zone IS NOT NULL
        """
    )
    # An end that nobody saw: nothing is known of the endpoint or the object after it.
    for table in ("endpoint", "pod", "service", "node"):
        conn.execute(f"ALTER TABLE {table} ADD COLUMN end_inferred INTEGER NOT NULL DEFAULT 0")
    # By what was dialled first: a service that is found late names the edges of one endpoint.
    conn.execute("DROP INDEX edge_src")
    conn.execute("CREATE INDEX edge_dialled ON edge(dialled_id, src_id, dst_port)")
    make_views(conn)


@migrations()
def m008_folded(db: Database) -> None:
    """How many addresses stand behind a row of an edge that stands for many."""
    conn = db.conn
    drop_views(conn)
    # 1: of an edge that stands for many, the rows in which a connection failed
    conn.execute("ALTER TABLE edge ADD COLUMN failed INTEGER")
    conn.execute(
        """
        CREATE TABLE folded (
            level TEXT NOT NULL, -- flow, 1m, 1h, 1d
            started_ns INTEGER NOT NULL, -- with edge_id, of the level's row
            edge_id INTEGER NOT NULL,
            src_addresses INTEGER, -- how many dialled; NULL where src is one address
            dst_addresses INTEGER, -- how many were dialled, or answered
            src_counted BLOB, -- what src_addresses comes from (ctk/model/distinct.py)
            dst_counted BLOB,
            PRIMARY KEY (level, started_ns, edge_id)
        )
        """
    )
    make_views(conn)


@migrations()
def m010_peers_and_idle(db: Database) -> None:
    """When who talked to whom was first seen, and which live connections are idle."""
    conn = db.conn
    # Of the first row that an edge had, however long that row stays; NULL where nothing is known.
    conn.execute("ALTER TABLE edge ADD COLUMN first_ns INTEGER")
    conn.execute("CREATE TEMP TABLE first_row (edge_id INTEGER PRIMARY KEY, at_ns INTEGER)")
    for level in ("1d", "1h", "1m", "flow"):
        table = level if level == "flow" else f"flow_{level}"
        # A bucket says no more than its own start. A finer row says more, where none is gone.
        conn.execute(
            f"""
            INSERT INTO first_row
            SELECT edge_id, MIN(started_ns) FROM {table} WHERE edge_id > 0 GROUP BY edge_id
            ON CONFLICT DO UPDATE SET at_ns = excluded.at_ns WHERE excluded.at_ns < at_ns
                OR at_ns >= (SELECT IFNULL(pruned_ns, at_ns) FROM level WHERE name = '{level}')
            """
        )
    conn.execute(
        "UPDATE edge SET first_ns = (SELECT at_ns FROM first_row WHERE edge_id = edge.id)"
        " WHERE id > 0"
    )
    conn.execute("DROP TABLE first_row")
    conn.execute(
        """
        CREATE TABLE peer (
            id INTEGER PRIMARY KEY, -- a hash of the names: see ctk/store/peers.py
            first_ns INTEGER NOT NULL -- of an edge that is gone
        )
        """
    )
    conn.execute(
        """
        CREATE TABLE idle (
            edge_id INTEGER PRIMARY KEY REFERENCES edge(id),
            connections BLOB NOT NULL -- 26 bytes each: see ctk/store/live.py
        )
        """
    )
    conn.execute("ALTER TABLE recording ADD COLUMN idle_ns INTEGER")  # when `idle` was written
    conn.execute("ALTER TABLE recording ADD COLUMN idle_more INTEGER")
    conn.execute("ALTER TABLE recording ADD COLUMN idle_unmeasured INTEGER")
    # What is kept of a live connection also says when it last moved anything: here, when it was
    # last looked at.
    found = conn.execute(
        "SELECT connection.rowid, counters, (SELECT MAX(committed_ns) FROM recording WHERE"
        " recording.recorder_id = edge.recorder_id) FROM connection JOIN edge ON edge.id = edge_id"
        " WHERE counters IS NOT NULL"
    ).fetchall()
    for rowid, counters, at_ns in found:
        moved = at_ns.to_bytes(8, byteorder)
        each = [counters[at : at + 32] + moved for at in range(0, len(counters), 32)]
        conn.execute("UPDATE connection SET counters = ? WHERE rowid = ?", (b"".join(each), rowid))


@migrations()
def m011_meanings(db: Database) -> None:
    """What each view and column means, as comments in the views."""
    make_views(db.conn)


@migrations()
def m012_times_of_pods(db: Database) -> None:
    """What a recording decides by whose an address was: the next one decides by the same."""
    conn = db.conn
    for name in (
        "told_ns",  # when the row's state was told
        "watched_ns",  # since when all pods were known then
        "started_ns",  # what follows is the API's, in whole seconds
        "networked_ns",
        "running_ns",
        "ended_ns",
        "grace_s",
        "sure_until_ns",  # of an end that nobody saw
    ):
        conn.execute(f"ALTER TABLE pod ADD COLUMN {name} INTEGER")
    # Up to when pods were known; NULL where nobody told.
    conn.execute("ALTER TABLE recording ADD COLUMN told_ns INTEGER")
    # Of the API server, as of then: a watch goes on from it.
    conn.execute("ALTER TABLE recording ADD COLUMN pods_version TEXT")
    conn.execute("UPDATE recording SET told_ns = committed_ns")


@migrations()
def m013_table_use(db: Database) -> None:
    """How full the kernel's table of connections was, what it refused, and who held its entries."""
    conn = db.conn
    # Counters grew by so much since the look before; NULL where that is not known.
    conn.execute(
        """
        CREATE TABLE table_look (
            at_ns INTEGER NOT NULL,
            recording_id INTEGER NOT NULL REFERENCES recording(id),
            entries INTEGER NOT NULL, -- nf_conntrack_count
            peak INTEGER NOT NULL, -- the most since the look before
            most INTEGER, -- nf_conntrack_max
            found INTEGER,
            invalid INTEGER,
            inserted INTEGER,
            insert_failed INTEGER,
            dropped INTEGER,
            early_dropped INTEGER,
            errors INTEGER,
            search_restarts INTEGER,
            clash_resolved INTEGER,
            chain_too_long INTEGER,
            PRIMARY KEY (at_ns, recording_id)
        ) WITHOUT ROWID
        """
    )
    conn.execute(
        """
        CREATE TABLE holder (
            id INTEGER PRIMARY KEY,
            proto TEXT, -- NULL with client_kind "other" and "left out"
            client_kind TEXT NOT NULL,
            client TEXT, -- NULL where nobody is known by name
            service TEXT,
            backend_kind TEXT,
            backend TEXT,
            port INTEGER -- that was dialled
        )
        """
    )
    conn.execute("CREATE INDEX holder_client ON holder(client, service, port)")
    conn.execute(
        """
        CREATE TABLE held (
            at_ns INTEGER NOT NULL, -- the end of a dump
            recording_id INTEGER NOT NULL REFERENCES recording(id),
            holder_id INTEGER NOT NULL REFERENCES holder(id),
            state TEXT NOT NULL,
            entries INTEGER NOT NULL,
            PRIMARY KEY (at_ns, recording_id, holder_id, state)
        ) WITHOUT ROWID
        """
    )
    make_views(conn)
