"""`ctk idle`: connections that move nothing, as of when."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from sample import AT, WEB_TO_CLIENT, WEB_TO_DB

from ctk.model import EventCounts, IdleConnections
from ctk.store import connect
from ctk.store.write import Writer
from ctk.timespan import HOUR, MINUTE

Invoke = Callable[..., Result]


@pytest.fixture
def idle(tmp_path: Path) -> Path:
    path = tmp_path / "idle.db"
    with connect.writer(path) as conn:
        writer = Writer(conn, node="n1", source="k", settings={}, started_ns=AT, boot_id=None)
        to_db, out = writer.edge_id(WEB_TO_DB), writer.edge_id(WEB_TO_CLIENT)
        writer.window((), committed_ns=AT, counters=EventCounts())
        at_ns = AT + 2 * HOUR
        by_edge = {
            to_db: [(40_001, AT, at_ns - 6 * MINUTE, 1_024)],
            out: [(40_002, AT + 60 * MINUTE, at_ns - 30 * MINUTE, 99)],
        }
        writer.keep_idle(IdleConnections(at_ns=at_ns, by_edge=by_edge, more=0, unmeasured=0))
    return path


IDLE = """\
IDLE     AGE  SOURCE      SRC PORT  DESTINATION  PORT      SERVICE    BYTES
 30m      1h  shop/web-1     40002  203.0.113.9  443/tcp   -           99 B
  6m      2h  shop/web-1     40001  shop/db-0    5432/tcp  shop/db  1.0 KiB
"""


def test_the_longest_idle_come_first_and_it_is_said_as_of_when(invoke: Invoke, idle: Path) -> None:
    result = invoke("idle", idle)
    assert result.stderr == "2 idle as of 2024-11-25T20:47:22Z\n"
    assert [line.split() for line in result.stdout.splitlines()] == [
        line.split() for line in IDLE.splitlines()
    ]
    assert invoke("idle", idle, "--min-idle", "10m", "-o", "name").stdout.count("\n") == 1


def test_programs_get_every_time(invoke: Invoke, idle: Path) -> None:
    result = invoke("idle", idle, "--to-service", "shop/db", "-o", "jsonl")
    assert json.loads(result.stdout) == {
        "as_of_at": "2024-11-25T20:47:22.852716307Z",
        "as_of_ns": AT + 2 * HOUR,
        "began_at": "2024-11-25T18:47:22.852716307Z",
        "began_ns": AT,
        "moved_at": "2024-11-25T20:41:22.852716307Z",
        "moved_ns": AT + 2 * HOUR - 6 * MINUTE,
        "node": "n1",
        "proto": "tcp",
        "source": "shop/web-1",
        "src": "10.244.0.5",
        "src_port": 40001,
        "destination": "shop/db-0",
        "dst": "10.96.0.20",
        "dst_port": 5432,
        "service": "shop/db",
        "bytes": 1024,
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("--min-idle", "1m"),
            "connections idle for less than 5m are not in the file\nTry: --min-idle 5m\n",
        ),
        (("--failed",), "--failed is of flows, not of live connections\nTry: leave it out\n"),
    ],
)
def test_what_is_not_known_is_refused(
    invoke: Invoke, idle: Path, words: tuple[str, ...], message: str
) -> None:
    result = invoke("idle", idle, *words)
    assert (result.exit_code, result.stderr) == (2, f"Error: {message}")


def test_a_file_in_which_nobody_looked_says_so(invoke: Invoke, shop: Path) -> None:
    assert invoke("idle", shop).stderr == (
        "no recorder has looked for idle connections yet: it does every 5m, and at its end\n"
    )


def test_each_node_was_looked_at_in_its_own_time(
    invoke: Invoke, idle: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.db"
    with connect.writer(other) as conn:
        writer = Writer(conn, node="n2", source="k", settings={}, started_ns=AT, boot_id=None)
        writer.window((), committed_ns=AT, counters=EventCounts())
        looked = IdleConnections(at_ns=AT + HOUR, by_edge={}, more=0, unmeasured=0)
        writer.keep_idle(looked)
    told = "2 idle as of 2024-11-25T20:47:22Z (n1), 2024-11-25T19:47:22Z (n2)"
    assert told in invoke("idle", idle, other).stderr.splitlines()
