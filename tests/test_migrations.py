"""The schema: append-only, known to the reader, and the same whoever applies it."""

import gzip
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
from ctk.migrations.migrations import migrations
from sqlite_utils import Database

from ctk.store import connect
from ctk.store.columns import FLOW_KEYS

ROOT = Path(__file__).parent.parent
RELEASED = ROOT / "fixtures" / "schema"


# From this one on the views are made anew by the newest: only the newest of them are kept.
VIEWS_ANEW = connect.SCHEMA.index("m007_clusters")


def _schema(conn: sqlite3.Connection, but: str = "") -> list[tuple[str, str]]:
    return conn.execute(
        "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL AND type <> ? ORDER BY name",
        (but,),
    ).fetchall()


def _text(made: Iterable[tuple[str, str]]) -> str:
    return "\n\n".join(f"{sql};" for _, sql in made) + "\n"


def test_the_reader_knows_every_migration_by_name() -> None:
    db = Database(memory=True)
    assert tuple(m.name for m in migrations.pending(db)) == connect.SCHEMA
    db.close()


def test_sqlite_utils_migrate_makes_the_same_file(tmp_path: Path) -> None:
    theirs, ours = tmp_path / "theirs.db", tmp_path / "ours.db"
    subprocess.run(
        [sys.executable, "-m", "sqlite_utils", "migrate", theirs, ROOT / "migrations"],
        check=True,
        capture_output=True,
    )
    with connect.writer(ours) as conn, connect.reader(theirs) as other:
        assert _schema(other) == _schema(conn)
    with connect.writer(theirs) as conn:
        assert conn.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_released_migration_is_never_edited() -> None:
    """`fixtures/schema/NAME.sql` is what each made when it was released."""
    for at, name in enumerate(connect.SCHEMA):
        db = Database(memory=True)
        migrations.apply(db, stop_before=name)
        before = set(_schema(db.conn))
        migrations.apply(db, stop_before=connect.SCHEMA[at + 1 : at + 2])
        after = _schema(db.conn, but="view" if at >= VIEWS_ANEW else "")
        made = _text(each for each in after if each not in before)
        assert (RELEASED / f"{name}.sql").read_text() == made, name
        db.close()


def test_the_views_are_those_of_the_newest_schema() -> None:
    db = Database(memory=True)
    migrations.apply(db)
    made = _text(sorted(set(_schema(db.conn)) - set(_schema(db.conn, but="view"))))
    assert (RELEASED / "views.sql").read_text() == made
    db.close()


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A file that ctk made with the schema up to m006: two recordings, one of them ended."""
    path = tmp_path / "old.db"
    path.write_bytes(gzip.decompress((RELEASED / "m006.db.gz").read_bytes()))
    return path


@pytest.mark.parametrize("by", ["record", "sqlite-utils"])
def test_a_file_of_an_older_schema_keeps_all_it_has(old: Path, by: str) -> None:
    before = sqlite3.connect(old)
    columns = [row[1] for row in before.execute("PRAGMA table_info(flows)")]
    rows = {
        view: before.execute(f"SELECT {', '.join(columns)} FROM {view}").fetchall()
        for view in ("flows", "flows_1m", "flows_1h", "flows_1d")
    }
    before.close()
    if by == "record":
        with connect.writer(old):
            pass
    else:
        words = [sys.executable, "-m", "sqlite_utils", "migrate", old, ROOT / "migrations"]
        subprocess.run(words, check=True, capture_output=True)
    with connect.reader(old) as conn:
        for view, found in rows.items():
            assert conn.execute(f"SELECT {', '.join(columns)} FROM {view}").fetchall() == found
            assert found
        assert conn.execute("SELECT DISTINCT src_node, src_node_zone FROM flows").fetchall() == [
            ("n1", "eu-1a"),
            (None, None),
            ("n2", None),
        ]
        assert conn.execute("SELECT id, cluster, cluster_uid, node FROM recordings").fetchall() == [
            (1, None, None, "n1"),
            (2, None, None, "n1"),
        ]
        assert conn.execute("SELECT name, zone, end_inferred FROM nodes").fetchall() == [
            ("n1", "eu-1a", 0),
            ("n2", None, 0),
        ]
        # An edge begins with its first row; what lived moved last when it was last looked at.
        assert conn.execute("SELECT id, first_ns FROM edge ORDER BY id").fetchall() == (
            conn.execute("SELECT edge_id, MIN(started_ns) FROM flow GROUP BY edge_id").fetchall()
        )
        (committed_ns,) = conn.execute("SELECT MAX(committed_ns) FROM recording").fetchone()
        [(keys, counters)] = conn.execute("SELECT keys, counters FROM connection")
        assert len(keys) == 8
        assert struct.unpack("=4Qq", counters)[-1] == committed_ns
        assert conn.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert conn.execute("PRAGMA foreign_key_check").fetchall() == []


@pytest.mark.parametrize("view", ["flows", "flows_1m", "flows_1h", "flows_1d"])
def test_a_view_of_flows_has_the_columns_of_the_contract(view: str) -> None:
    db = Database(memory=True)
    migrations.apply(db)
    assert tuple(db[view].columns_dict) == FLOW_KEYS
    db.close()


@pytest.mark.parametrize(
    ("question", "plan"),
    [
        ("* FROM flows WHERE started_ns >= 5 AND started_ns < 7", "SEARCH f USING PRIMARY KEY"),
        ("* FROM flows_1h WHERE started_ns >= 5 AND src_name = 'a'", "SEARCH f USING PRIMARY KEY"),
        ("* FROM flows WHERE node = 'n' AND started_ns > 4", "SEARCH f USING PRIMARY KEY"),
        ("* FROM flows WHERE dst_name = 'a' ORDER BY started_ns DESC LIMIT 5", "SCAN f"),
        ("service, SUM(bytes_in) FROM flows_1d WHERE started_ns < 9 GROUP BY 1", "SEARCH f USING"),
    ],
)
def test_time_is_a_range_of_the_primary_key_in_every_view(question: str, plan: str) -> None:
    db = Database(memory=True)
    migrations.apply(db)
    steps = [row[3] for row in db.conn.execute(f"EXPLAIN QUERY PLAN SELECT {question}")]
    assert steps[0].startswith(plan)
    assert not [step for step in steps[1:] if "SCAN" in step or "ORDER BY" in step]
    db.close()


def test_an_edge_begins_as_exactly_as_the_rows_that_are_left_tell() -> None:
    """m010: a row of a finer level says more than its bucket, unless one before it was pruned."""
    db = Database(memory=True)
    migrations.apply(db, stop_before="m010_peers_and_idle")
    day, hour = 86_400 * 10**9, 3600 * 10**9
    conn = db.conn
    conn.execute("INSERT INTO recorder(id, node) VALUES (1, 'n1')")
    conn.execute("INSERT INTO endpoint VALUES (1, 'a', x'01', 'node', " + "NULL, " * 7 + "0, 0, 0)")
    for edge_id in range(1, 6):
        conn.execute(
            "INSERT INTO edge(id, recorder_id, proto, zone, src_id, dialled_id, backend_id)"
            " VALUES (?, 1, 'tcp', 0, 1, 1, 1)",
            (edge_id,),
        )
    rows = {
        "flow": [(day + 5 * hour + 7, 1), (day + 5 * hour + 9, 2), (3 * day + 4, 4)],
        "flow_1h": [(4 * hour, 3), (day + 5 * hour, 1), (day + 3 * hour, 2), (3 * day, 4)],
        "flow_1d": [(0, 3), (day, 1), (day, 2)],
    }
    for table, some in rows.items():
        n = ", n, lasted_ns" if table == "flow" else ""
        for started_ns, edge_id in some:
            conn.execute(
                f"INSERT INTO {table}(started_ns, edge_id{n}, connections, new_events,"
                " update_events, destroy_events, unreplied, refused)"
                f" VALUES (?, ?{', 0, 0' if n else ''}, 1, 0, 0, 0, 0, 0)",
                (started_ns, edge_id),
            )
    conn.execute("UPDATE level SET pruned_ns = ? WHERE name = 'flow'", (day + 5 * hour,))
    conn.execute("UPDATE level SET pruned_ns = ? WHERE name = '1m'", (4 * day,))
    migrations.apply(db)
    assert conn.execute("SELECT id, first_ns FROM edge ORDER BY id").fetchall() == [
        (1, day + 5 * hour + 7),  # its first flow is left
        (2, day + 3 * hour),  # its first hour is left
        (3, 4 * hour),
        (4, 3 * day + 4),
        (5, None),  # nothing is known
    ]
    db.close()
