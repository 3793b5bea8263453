"""The schema: append-only, known to the reader, and the same whoever applies it."""

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from ctk.migrations.migrations import migrations
from sqlite_utils import Database

from ctk.model import FLOW_KEYS
from ctk.store import connect

ROOT = Path(__file__).parent.parent
RELEASED = ROOT / "fixtures" / "schema"


def _schema(conn: sqlite3.Connection) -> list[tuple[str, str]]:
    return conn.execute(
        "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY name"
    ).fetchall()


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
    for name in connect.SCHEMA:
        db = Database(memory=True)
        migrations.apply(db, stop_before=name)
        before = set(_schema(db.conn))
        following = connect.SCHEMA[connect.SCHEMA.index(name) + 1 :]
        migrations.apply(db, stop_before=following[:1])
        made = "\n\n".join(f"{sql};" for _, sql in _schema(db.conn) if (_, sql) not in before)
        assert (RELEASED / f"{name}.sql").read_text() == made + "\n", name
        db.close()


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
