"""
`ctk ship` and a server: a process that is killed, answers that do not come, a server that
is away. The server is chDB behind HTTP (clickhousefront.py), which clickhouse-connect speaks to.
"""

import os
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from urllib.request import urlopen

import pytest
from fleetworld import World

import ctk
from ctk.errors import UsageError
from ctk.fleet.clickhouse import ddl, tables
from ctk.fleet.clickhouse.client import Client, opened
from ctk.fleet.clickhouse.target import PASSWORD, Target, parse_target
from ctk.fleet.merge import merge
from ctk.store.columns import COUNT_KEYS
from ctk.timespan import HOUR

SPAN = 3 * HOUR
_SUMS = ", ".join(f"sum({key})" for key in COUNT_KEYS)
_FRONT = Path(__file__).with_name("clickhousefront.py")
_SECRET = "hunter2"


class Server:
    """One that can be stopped, and started on the same port with what it had."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            self.port = taken.getsockname()[1]
        self.to = f"clickhouse+http://ctk@127.0.0.1:{self.port}/ctk"

    def start(self) -> None:
        command = [sys.executable, str(_FRONT), str(self._folder), str(self.port), _SECRET]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        self._process.stdout.readline()

    def stop(self) -> None:
        self._process.terminate()
        self._process.communicate()

    def cut(self, answers: int) -> None:
        with urlopen(f"http://127.0.0.1:{self.port}/cut?{answers}"):
            pass

    def hold(self) -> None:
        with urlopen(f"http://127.0.0.1:{self.port}/hold"):
            pass

    def wait_until_held(self) -> None:
        with urlopen(f"http://127.0.0.1:{self.port}/held", timeout=60):
            pass

    @property
    def target(self) -> Target:
        return parse_target(self.to, {PASSWORD: _SECRET})


@contextmanager
def started(folder: Path) -> Iterator[Server]:
    server = Server(folder)
    server.start()
    with opened(server.target, database=False) as client:
        ddl.make(client, dict.fromkeys(("1m", "1h", "1d")))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with started(tmp_path_factory.mktemp("front") / "ch") as server:
        yield server


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("world")
    made = World(4, seed=11)
    return made.write(folder, made.talks(240, SPAN), SPAN, range(4))


def start(*args: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "ctk", "ship", *args],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {PASSWORD: _SECRET},
    )


def ship(server: Server, *args: str) -> str:
    """Run to the end, and give what it said."""
    process = start("--to", server.to, *args)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert _SECRET not in said
    return said


def is_there_once(client: Client, db: Path) -> bool:
    with sqlite3.connect(db) as conn:
        expected = conn.execute(f"SELECT {_SUMS} FROM flow").fetchall()
    for level in tables.LEVELS:
        found = client.query(
            f"SELECT {_SUMS} FROM {level.table} WHERE node = {{node:String}}", {"node": db.stem}
        ).rows
        assert list(map(tuple, found)) == expected, level.table
    return True


def test_answers_that_are_cut_off_count_once(server, files):
    server.cut(3)  # once more than the client asks by itself
    process = start(str(files[0]), "--to", server.to)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert said.startswith(f"Error: {server.to} does not answer: ")
    assert "looked for again" in ship(server, str(files[0]))
    with opened(server.target) as client:
        assert is_there_once(client, files[0])
    assert ship(server, str(files[0]), "--verify") == f"{files[0]}: 1 batch and 1 day compared\n"


def test_a_process_that_is_killed_again_and_again_ships_each_row_once(server, files, pytestconfig):
    rng = random.Random(2)
    for _ in range(pytestconfig.getoption("kills")):
        process = start(*map(str, files), "--to", server.to, "--follow", "--every", "1s")
        time.sleep(rng.uniform(0.5, 2.0))
        process.kill()
        process.communicate()
    ship(server, *map(str, files))
    with opened(server.target) as client:
        for db in files:
            assert is_there_once(client, db)


def test_a_server_that_is_away_for_a_while_loses_nothing(server, files, tmp_path):
    db = tmp_path / "n9.db"
    made = World(10, seed=12)
    server.stop()
    process = start(str(db), "--to", server.to, "--follow", "--every", "1s")
    assert process.stderr is not None
    lines = iter(process.stderr.readline, "")
    assert next(lines) == f"shipping to {server.to} every 1s\n"
    assert next(lines) == f"waiting for {db} to be recorded to\n"
    made.write(tmp_path, made.talks(60, SPAN), SPAN, [9])
    away = next(lines)
    assert away.startswith(f"{server.to} does not answer: ")
    assert away.endswith(": it is tried again, nothing is lost\n")
    server.start()
    assert next(lines) == f"{server.to} answers again\n"
    process.send_signal(signal.SIGTERM)
    assert next(lines).startswith("ended: ")
    assert process.wait(20) == 0
    process.communicate()
    with opened(server.target) as client:
        assert is_there_once(client, db)


def test_a_server_that_keeps_silent_is_not_waited_for_once_it_is_to_end(files, tmp_path):
    """Signals come well within the 30 s after which who stops a container kills it."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        to = f"clickhouse+http://ctk@127.0.0.1:{silent.getsockname()[1]}/ctk"
        process = start(
            str(files[1]), "--to", to, "--follow", "--every", "1s", "--state", str(tmp_path)
        )
        silent.settimeout(60)
        with silent.accept()[0]:
            process.send_signal(signal.SIGTERM)
            _, said = process.communicate(timeout=20)
    assert (process.returncode, said.splitlines()) == (
        0,
        [
            f"shipping to {to} every 1s",
            f"{to} did not answer in time: it is looked for the next time, nothing is lost",
            "ended: 0 rows in 0 batches",
        ],
    )


def test_an_insert_that_is_not_answered_when_it_is_to_end_counts_once(server, tmp_path):
    made = World(12, seed=13)
    (db,) = made.write(tmp_path, made.talks(60, SPAN), SPAN, [11])
    server.hold()
    process = start(str(db), "--to", server.to, "--follow", "--every", "1s")
    server.wait_until_held()
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 0
    assert said.endswith("nothing is lost\nended: 0 rows in 0 batches\n")
    assert "1 looked for again" in ship(server, str(db))
    with opened(server.target) as client:
        assert is_there_once(client, db)


def test_a_server_is_asked_as_the_merged_file_is(files, tmp_path, monkeypatch):
    """Also where so much is bound that the client sends it as a form."""
    monkeypatch.setenv(PASSWORD, _SECRET)
    merge(files, tmp_path / "all.db", aside=True)
    with started(tmp_path / "ch") as server:
        ship(server, "--state", str(tmp_path), *map(str, files))
        assert_same_answers(server.to, str(tmp_path / "all.db"))


def assert_same_answers(server: str, merged: str) -> None:
    with ctk.open(server) as there, ctk.open(merged) as file:
        for by in ("src_workload,service", "src_node_zone,dst_node_zone", "src,dst"):
            found, expected = (each.top(by=by, limit=None) for each in (there, file))
            assert found.totals == expected.totals
            assert {row.keys: row.counts for row in found.rows} == {
                row.keys: row.counts for row in expected.rows
            }
        found, expected = (each.series(by="service", step="10m") for each in (there, file))
        assert found == expected
        hour = datetime(2024, 11, 25, 9, tzinfo=UTC)
        sql = "SELECT min(hour), toDateTime({at:String}) FROM flows_1h"
        assert list(there.sql(sql, at="2024-11-25 09:00:00")) == [(hour, hour)]
        with pytest.raises(UsageError, match="the SQL took longer than 1 s"):
            list(there.sql("SELECT sum(sipHash64(number)) FROM numbers(100000000000)", limit_s=1))
        with pytest.raises(UsageError, match="the SQL may only read"):
            list(there.sql("INSERT INTO gaps SELECT * FROM gaps"))
    everybody = [ctk.open(each, all_observers=True) for each in (server, merged)]
    found, expected = (each.top(by="node") for each in everybody)
    assert found.totals == expected.totals
    for each in everybody:
        each.close()


def test_a_wrong_password_is_one_line_that_does_not_tell_it(server, files):
    process = subprocess.run(
        [sys.executable, "-m", "ctk", "ship", str(files[0]), "--to", server.to],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {PASSWORD: "swordfish"},
    )
    assert (process.returncode, process.stdout, process.stderr) == (
        2,
        "",
        f"Error: {server.to} refuses this user or password\nTry: set {PASSWORD}\n",
    )
