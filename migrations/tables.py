"""The tables that a ctk file began with; `migrations` has what came after."""

from sqlite_utils import Database
from sqlite_utils.migrations import Migrations

migrations = Migrations("ctk")

_APPLICATION_ID = 0x63746B31  # "ctk1": what `file` and our own reader know the file by

_COUNTS = """
    connections INTEGER NOT NULL,
    new_events INTEGER NOT NULL,
    update_events INTEGER NOT NULL,
    destroy_events INTEGER NOT NULL,
    unreplied INTEGER NOT NULL,
    refused INTEGER NOT NULL,
    bytes_out INTEGER,
    packets_out INTEGER,
    bytes_in INTEGER,
    packets_in INTEGER
"""


@migrations()
def m001_recordings(db: Database) -> None:
    """Who recorded, when, how; and what was lost."""
    db.conn.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
    db.conn.execute("CREATE TABLE recorder (id INTEGER PRIMARY KEY, node TEXT NOT NULL UNIQUE)")
    db.conn.execute(
        """
        CREATE TABLE recording (
            id INTEGER PRIMARY KEY,
            recorder_id INTEGER NOT NULL REFERENCES recorder(id),
            started_ns INTEGER NOT NULL,
            committed_ns INTEGER NOT NULL, -- the end of the last window in the file
            ended_ns INTEGER, -- NULL while it runs, and after a crash
            boot_id TEXT, -- /proc/sys/kernel/random/boot_id: counters start anew with a boot
            version TEXT NOT NULL, -- of ctk
            source TEXT NOT NULL, -- "kernel", or the capture's path
            settings TEXT NOT NULL, -- JSON: window, aggregation, filters
            events INTEGER NOT NULL DEFAULT 0,
            lost INTEGER NOT NULL DEFAULT 0,
            malformed INTEGER NOT NULL DEFAULT 0
        )
        """
    )
    db.conn.execute(
        """
        CREATE TABLE gap (
            id INTEGER PRIMARY KEY,
            recording_id INTEGER NOT NULL REFERENCES recording(id),
            kind TEXT NOT NULL,
            started_ns INTEGER NOT NULL,
            ended_ns INTEGER NOT NULL,
            lost INTEGER, -- events; NULL where it is not known
            detail TEXT
        )
        """
    )
    db.conn.execute("CREATE INDEX gap_started ON gap(started_ns)")


@migrations()
def m002_identities(db: Database) -> None:
    """Who was behind an address, and the history of pods, services and nodes."""
    db.conn.execute(
        """
        CREATE TABLE endpoint (
            id INTEGER PRIMARY KEY,
            address TEXT NOT NULL,
            packed BLOB NOT NULL, -- 4 or 16 bytes, network order: a CIDR is a range of it
            kind TEXT NOT NULL, -- pod, node, service, external, unknown
            namespace TEXT,
            name TEXT,
            workload TEXT,
            workload_kind TEXT,
            node TEXT,
            labels TEXT, -- JSON object
            uid TEXT,
            valid_from_ns INTEGER NOT NULL,
            valid_to_ns INTEGER -- NULL while open
        )
        """
    )
    db.conn.execute("CREATE INDEX endpoint_packed ON endpoint(packed, valid_from_ns)")
    db.conn.execute(
        """
        CREATE TABLE pod (
            id INTEGER PRIMARY KEY,
            uid TEXT NOT NULL,
            namespace TEXT NOT NULL,
            name TEXT NOT NULL,
            node TEXT,
            workload TEXT,
            workload_kind TEXT,
            phase TEXT,
            host_network INTEGER NOT NULL,
            addresses TEXT NOT NULL, -- JSON array
            labels TEXT NOT NULL, -- JSON object
            valid_from_ns INTEGER NOT NULL,
            valid_to_ns INTEGER
        )
        """
    )
    db.conn.execute(
        """
        CREATE TABLE service (
            id INTEGER PRIMARY KEY,
            uid TEXT NOT NULL,
            namespace TEXT NOT NULL,
            name TEXT NOT NULL,
            type TEXT,
            addresses TEXT NOT NULL, -- JSON array
            ports TEXT NOT NULL, -- JSON array of "name:port/proto"
            labels TEXT NOT NULL, -- JSON object
            valid_from_ns INTEGER NOT NULL,
            valid_to_ns INTEGER
        )
        """
    )
    db.conn.execute(
        """
        CREATE TABLE node (
            id INTEGER PRIMARY KEY,
            uid TEXT NOT NULL,
            name TEXT NOT NULL,
            addresses TEXT NOT NULL, -- JSON array
            labels TEXT NOT NULL, -- JSON object
            valid_from_ns INTEGER NOT NULL,
            valid_to_ns INTEGER
        )
        """
    )
    for table in ("pod", "service", "node"):
        db.conn.execute(f"CREATE INDEX {table}_uid ON {table}(uid, valid_from_ns)")


@migrations()
def m003_flows(db: Database) -> None:
    """
    Edges (what all rows of a flow share), flows by time, and their rollups.

    The flow tables are clustered by time, without a rowid: measured at 48 bytes a flow, where a
    rowid table and an index on its time took 65.
    """
    db.conn.execute(
        """
        CREATE TABLE edge (
            id INTEGER PRIMARY KEY,
            recorder_id INTEGER NOT NULL REFERENCES recorder(id),
            proto TEXT NOT NULL,
            zone INTEGER NOT NULL,
            src_id INTEGER NOT NULL REFERENCES endpoint(id),
            dialled_id INTEGER NOT NULL REFERENCES endpoint(id),
            dst_port INTEGER,
            nat_src TEXT,
            backend_id INTEGER NOT NULL REFERENCES endpoint(id),
            nat_dst_port INTEGER,
            service TEXT, -- "namespace/name"
            service_via TEXT
        )
        """
    )
    db.conn.execute("CREATE INDEX edge_src ON edge(src_id, dialled_id, dst_port)")
    db.conn.execute(
        f"""
        CREATE TABLE flow (
            started_ns INTEGER NOT NULL,
            n INTEGER NOT NULL, -- tells rows with the same started_ns apart
            edge_id INTEGER NOT NULL REFERENCES edge(id),
            lasted_ns INTEGER NOT NULL, -- ended_ns - started_ns
            src_port INTEGER, -- NULL where several were merged
            {_COUNTS},
            PRIMARY KEY (started_ns, n)
        ) WITHOUT ROWID
        """
    )
    for level in ("1m", "1h", "1d"):
        db.conn.execute(
            f"""
            CREATE TABLE flow_{level} (
                started_ns INTEGER NOT NULL, -- of the bucket
                edge_id INTEGER NOT NULL REFERENCES edge(id),
                {_COUNTS},
                PRIMARY KEY (started_ns, edge_id)
            ) WITHOUT ROWID
            """
        )
    # Every bucket of a level below folded_ns is the exact fold of the finer level; rows of the
    # level before pruned_ns are gone.
    db.conn.execute(
        """
        CREATE TABLE level (
            name TEXT PRIMARY KEY, -- flow, 1m, 1h, 1d
            folded_ns INTEGER, -- NULL: nothing folded yet; always NULL for "flow"
            pruned_ns INTEGER -- NULL: nothing pruned yet
        ) WITHOUT ROWID
        """
    )
    db.conn.execute("INSERT INTO level(name) VALUES ('flow'), ('1m'), ('1h'), ('1d')")


@migrations()
def m004_live_connections(db: Database) -> None:
    """What a clean stop keeps of live connections, so that a restart counts nothing twice."""
    db.conn.execute(
        """
        CREATE TABLE connection (
            flow BLOB NOT NULL, -- 8 bytes, a hash of the tuples without the source port
            began_ns INTEGER NOT NULL,
            edge_id INTEGER NOT NULL REFERENCES edge(id),
            keys BLOB NOT NULL, -- CTA_ID << 16 | source port of each, 8 bytes in the host's order
            counters BLOB -- packets and bytes out, packets and bytes in of each, 8 bytes a number
        )
        """
    )
