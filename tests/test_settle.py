"""Uniting the parts of a folder of chDB (ctk/fleet/clickhouse/settle.py)."""

import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ctk.fleet.clickhouse import ddl, tables
from ctk.fleet.clickhouse.client import Client, opened
from ctk.fleet.clickhouse.settle import settle
from ctk.fleet.clickhouse.target import Target, parse_target

DAY_S, PARTS = 86400, 3
BEGAN_S = 1_732_492_800  # a midnight
SUMS = "sum(connections), sum(bytes_out), min(first_seen_ns), max(last_seen_ns)"


def insert(client: Client, first: int = 0) -> None:
    """Insert blocks of three days, several of each day."""
    text = ("String", "LowCardinality(String)")
    for day in range(first, first + 3):
        for part in range(PARTS):
            row = {
                name: "x" if kind in text else None if "Nullable" in kind else part
                for name, kind in tables.FLOWS_1M.items()
            } | {"minute": BEGAN_S + day * DAY_S + part * 60, "connections": 1, "bytes_out": 10}
            columns = [[value] for value in row.values()]
            client.insert("flows_1m", tables.FLOWS_1M, columns, tables.settings_of(f"{day}/{part}"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made: Path = tmp_path_factory.mktemp("chdb") / "ch"
    target = parse_target(f"chdb://{made}")
    with opened(target, database=False) as client:
        ddl.make(client, dict.fromkeys(("1m", "1h", "1d")))
    with opened(target) as client:
        client.command("SYSTEM STOP MERGES")
        insert(client)
    return made


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Target:
    return parse_target(f"chdb://{shutil.copytree(folder, tmp_path / 'ch', symlinks=True)}")


def parts(client: Client) -> dict[str, tuple[int, int]]:
    """Count the parts that hold, and those that are merged into them."""
    found = client.query(
        "SELECT table, countIf(active), countIf(NOT active) FROM system.parts"
        " WHERE database = 'ctk' AND table LIKE 'flows%' GROUP BY table"
    ).rows
    return {table: (active, old) for table, active, old in found}


def test_of_each_partition_one_part_is_left_and_sums_are_as_before(copy):
    said: list[str] = []
    with opened(copy) as client:
        client.command("SYSTEM STOP MERGES")
        assert parts(client)["flows_1m"] == (9, 0)
        before = client.query(f"SELECT {SUMS} FROM flows_1m").rows
        client.command("SYSTEM START MERGES")
        settle(client, said.append)
        # A month of hours is one, a day of minutes is.
        assert parts(client) == {"flows_1m": (3, 0), "flows_1h": (1, 0), "flows_1d": (1, 0)}
        for level in tables.LEVELS:
            assert client.query(f"SELECT {SUMS} FROM {level.table}").rows == before
    assert said == []


def test_what_there_is_no_time_for_is_said_and_left(copy):
    said: list[str] = []
    with opened(copy) as client:
        client.command("SYSTEM STOP MERGES")
        insert(client, first=3)
        settle(client, said.append, limit_s=0)
    (text,) = said
    assert re.fullmatch(r"the parts of (\d) of \1 partitions are left for the next time", text)


def test_tables_that_were_made_before_let_old_parts_go_too(copy):
    with opened(copy) as client:
        client.command("ALTER TABLE flows_1m RESET SETTING old_parts_lifetime")
        settle(client, str)
        assert parts(client)["flows_1m"][0] == 3
        found = client.query("SELECT engine_full FROM system.tables WHERE name = 'flows_1m'").rows
        assert "old_parts_lifetime = 0" in found[0][0]


def test_a_kill_in_the_middle_loses_nothing(copy):
    code = (
        "import sys, test_settle as t\n"
        "with t.opened(t.parse_target(sys.argv[1])) as client:\n"
        "    print('begins', flush=True)\n"
        "    t.settle(client, str)\n"
        "    input()"
    )
    with opened(copy) as client:
        before = client.query(f"SELECT {SUMS} FROM flows_1m").rows
    for after_s in (0.002, 0.02):
        command = [sys.executable, "-c", code, copy.said]
        with subprocess.Popen(
            command, cwd=Path(__file__).parent, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as settling:
            assert settling.stdout is not None
            assert settling.stdout.readline() == b"begins\n"
            time.sleep(after_s)
            settling.kill()
    with opened(copy) as client:
        settle(client, str)
        for level in tables.LEVELS:
            assert client.query(f"SELECT {SUMS} FROM {level.table}").rows == before
