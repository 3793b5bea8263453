"""`ctk ship`: its flags, what it says, and what it refuses."""

import json
import shutil
import sqlite3
from pathlib import Path

import pytest
from fleetworld import World

from ctk.timespan import HOUR, MINUTE


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("node")
    made = World(2, seed=5)
    (path,) = made.write(folder, made.talks(60, HOUR), HOUR, [0])
    return path


@pytest.fixture
def db(node: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    shutil.copy(node, tmp_path / "node.db")
    return "node.db"


def test_a_file_is_shipped_looked_after_and_verified(invoke, db, tmp_path):
    to = f"--to=chdb://{tmp_path}/fleet"
    before = invoke("ship", db, to)
    assert (before.exit_code, before.stdout) == (2, "")
    assert before.stderr == (
        f"Error: there is no database chdb://{tmp_path}/fleet\n"
        f"Try: ctk ship {db} --to chdb://{tmp_path}/fleet --init\n"
    )
    made = invoke("ship", to, "--init", "--ddl", "--retain=forever")
    assert made.exit_code == 0
    assert made.stdout.startswith("CREATE DATABASE IF NOT EXISTS ctk;\n")
    assert "TTL minute" not in made.stdout
    with sqlite3.connect(db) as conn:
        asked = "SELECT COUNT(*) FROM (SELECT DISTINCT started_ns / 60000000000, edge_id FROM flow)"
        (rows,) = conn.execute(asked).fetchone()
    assert invoke("ship", db, to, "--status").stdout == (
        f"node.db: nothing is shipped to chdb://{tmp_path}/fleet\n"
    )
    until = "up to 2024-11-25T10:00:10Z"
    assert invoke("ship", db, to).stderr == f"node.db: {rows} rows in 1 batch, {until}\n"
    assert invoke("ship", db, to).stderr == f"node.db: 0 rows in 0 batches, {until}\n"
    status = invoke("ship", db, to, "--status").stdout
    assert status == f"node.db: 1 batch shipped, {until}, all of it\n"
    verified = invoke("ship", db, to, "--verify")
    assert (verified.exit_code, verified.stderr) == (0, "node.db: 1 batch and 1 day compared\n")
    assert oct(Path("node.db-ship").stat().st_mode & 0o777) == "0o600"


def test_how_long_rows_stay_is_changed_where_tables_are(invoke, tmp_path):
    to = f"--to=chdb://{tmp_path}/fleet"
    there = f"chdb://{tmp_path}/fleet has the tables: --ddl prints them\n"
    made = invoke("ship", to, "--init")
    assert (made.stderr, made.stdout) == (there, "")
    changed = invoke("ship", to, "--init", "--ddl", "--retain=1m=7d", "--retain=1d=1d")
    assert changed.stderr.splitlines() == [
        "flows_1m: rows stay 7 days, before: 30 days",
        "flows_1d: rows stay 1 day, before: 730 days",
        "gaps: rows stay 1 day, before: 730 days",
        "endpoints: rows stay 1 day, before: 730 days",
        "pods: rows stay 1 day, before: 730 days",
    ]
    assert "ALTER TABLE ctk.flows_1m MODIFY TTL minute + INTERVAL 7 DAY;\n" in changed.stdout
    assert invoke("ship", to, "--init", "--retain=1m=7d").stderr == there
    forever = invoke("ship", to, "--init", "--retain=1m=forever").stderr
    assert forever == f"{there}flows_1m: rows stay for ever, before: 7 days\n"
    assert invoke("ship", to, "--init").stderr == there  # what is not named stays as it is


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--to=http://ch"], "this is not the address of a ClickHouse"),
        (["--to=chdb:///x", "--verify", "--follow"], "--follow, --verify and --status are not"),
        (["--to=chdb:///x", "--retain=1m=30d"], "--retain changes tables"),
        (["--to=chdb:///x", "--ddl"], "--ddl prints what --init does"),
        (["--to=chdb:///x", "--init", "--retain=1m=90m"], "'90m' is not a number of days"),
        (["--to=chdb:///x", "--init", "--retain=2m=1d"], "'2m=1d' is not LEVEL=AGE"),
        (["--to=chdb:///x", "--init", "--retain=30d"], "'30d' is not LEVEL=AGE"),
        (["--to=clickhouse://a:hunter2@ch"], "a password in the address would be seen by others"),
    ],
)
def test_what_is_asked_wrongly_is_one_line_and_exit_2(invoke, db, flags, said):
    result = invoke("ship", db, *flags)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"Error: {said}")
    assert "hunter2" not in result.stderr


def test_a_damaged_state_is_one_line_and_what_to_do(invoke, db, tmp_path):
    (tmp_path / "node.db-ship").write_bytes(b"no file of SQLite" * 100)
    result = invoke("ship", db, "--to=clickhouse://ch", "--status")
    assert (result.exit_code, result.stderr) == (
        1,
        f"Error: {tmp_path}/node.db-ship is damaged\n"
        "Try: remove it: shipping goes on where ClickHouse says\n",
    )


def test_nothing_to_ship_is_said(invoke):
    result = invoke("ship", "--to=chdb:///x")
    assert (result.exit_code, result.stderr) == (
        2,
        "Error: there is nothing to ship\nTry: ctk ship node.db --to chdb:///x\n",
    )


def test_a_server_that_is_not_there_is_one_line(invoke, db):
    result = invoke("ship", db, "--to=clickhouse+http://127.0.0.1:1/ctk")
    assert (result.exit_code, result.stderr) == (
        1,
        "Error: clickhouse+http://127.0.0.1:1/ctk does not answer: Connection refused\n",
    )


def test_when_failures_were_seen_is_exact_to_a_minute_and_said_to_be(invoke, tmp_path):
    capture = Path(__file__).parents[1] / "fixtures/captures/demo.ctkcap.gz"
    db, target = f"{tmp_path}/demo.db", f"chdb://{tmp_path}/fleet"
    assert invoke("record", db, "--from-capture", str(capture), "--no-kube").exit_code == 0
    assert invoke("ship", db, "--to", target, "--init", "--retain=forever").exit_code == 0
    found = invoke("failures", target, "-o", "jsonl")
    assert {json.loads(line)["exact_to_ns"] for line in found.stdout.splitlines()} == {MINUTE}
    assert "first and last seen are exact to 1m: rollups answered\n" in found.stderr
