"""`ctk info`: what a file holds, and its gaps; `ctk snapshot`: a copy of it."""

import json
import re
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

from click.testing import Result
from sample import AT

from ctk.model import EventCounts
from ctk.store import connect
from ctk.store.write import Writer
from ctk.timespan import DAY, SECOND

Invoke = Callable[..., Result]


def test_a_person_sees_span_nodes_levels_and_sizes(invoke: Invoke, shop: Path) -> None:
    result = invoke("info", shop)
    size = shop.stat().st_size
    assert (result.exit_code, result.stderr) == (0, "")
    facts, levels, tables = result.stdout.split("\n\n")
    assert facts == (
        "nodes       n1\n"
        "from        2024-11-25 18:47:22 UTC\n"
        "until       2024-11-25 18:48:32\n"
        f"file        {size / 1024:.1f} KiB\n"
        "endpoints   2 external, 1 node, 4 pod, 1 service, 1 unknown\n"
        "recordings  1\n"
        "            2024-11-25 18:47:22 to 2024-11-25 18:48:32, kernel: 40 events, 1,204 lost\n"
        "gaps        2 gaps: 1,204 events lost, recorder down for 3s"
    )
    assert levels == (
        "LEVEL  FROM (UTC)           FOLDED UNTIL (UTC)   PRUNED UNTIL  ROWS\n"
        "flow   2024-11-25 18:47:22  -                    -                7\n"
        "1m     2024-11-25 18:47:00  2024-11-25 18:48:32  -                7\n"
        "1h     2024-11-25 18:00:00  2024-11-25 18:48:32  -                6\n"
        "1d     2024-11-25 00:00:00  2024-11-25 18:48:32  -                6"
    )
    rows = [line.split()[:2] for line in tables.splitlines()[1:]]
    assert ["flow", "7"] in rows
    assert ["edge", "6"] in rows
    assert ["endpoint", "9"] in rows


def test_a_program_gets_one_object(invoke: Invoke, shop: Path) -> None:
    found = json.loads(invoke("info", shop, "-o", "json").stdout)
    assert {key: found[key] for key in ("since", "until", "bytes", "nodes")} == {
        "since": "2024-11-25T18:47:22.852716307Z",
        "until": "2024-11-25T18:48:32.852716307Z",
        "bytes": shop.stat().st_size,
        "nodes": ["n1"],
    }
    assert found["recordings"] == [
        {
            "node": "n1",
            "started_at": "2024-11-25T18:47:22.852716307Z",
            "committed_at": "2024-11-25T18:48:32.852716307Z",
            "ended_at": "2024-11-25T18:48:32.852716307Z",
            "version": found["recordings"][0]["version"],
            "source": "kernel",
            "events": 40,
            "lost": 1204,
            "malformed": 0,
            "unwritten": 0,
        }
    ]
    assert found["gaps"] == [
        {"kind": "events lost", "gaps": 1, "lost": 1204, "lasted_ns": 10**9},
        {"kind": "recorder down", "gaps": 1, "lost": None, "lasted_ns": 3 * 10**9},
    ]
    assert json.loads(invoke("info", shop, "-o", "jsonl").stdout) == found


def test_what_found_no_room_is_said_beside_what_was_lost(invoke: Invoke, shop: Path) -> None:
    with connect.writer(shop) as conn:
        conn.execute(
            "INSERT INTO gap(recording_id, kind, started_ns, ended_ns, lost)"
            " SELECT id, 'disk full', started_ns, started_ns + 1, 205 FROM recording"
        )
    assert ": 40 events, 1,204 lost, 205 not written\n" in invoke("info", shop).stdout
    [recording] = json.loads(invoke("info", shop, "-o", "json").stdout)["recordings"]
    assert (recording["lost"], recording["unwritten"]) == (1204, 205)


def test_a_hole_between_two_recordings_is_said_where_a_span_covers_it(
    invoke: Invoke, shop: Path
) -> None:
    """Another node's recorder, and one that goes on from a capture, leave no gap behind it."""
    year, end_ns = 365 * DAY, AT + 70 * SECOND
    with connect.writer(shop) as conn:
        later_ns = end_ns + 2 * year
        writer = Writer(
            conn, node="n2", source="kernel", settings={}, started_ns=later_ns, boot_id=None
        )
        writer.window([], committed_ns=later_ns + SECOND, counters=EventCounts(0, 0))
        writer.finish(later_ns + SECOND)
    said = "nothing was recorded from 2024-11-25T18:48:32Z to 2026-11-25T18:48:32Z, 730d\n"
    assert invoke("info", shop).stderr == said
    assert said in invoke("top", shop).stderr
    assert said not in invoke("top", shop, "--until", "2024-11-25T18:48:20Z").stderr
    report = json.loads(invoke("report", shop, "--format", "json").stdout)
    assert [gap["kind"] for gap in report["trust"]["gaps"]] == [
        "recorder down",
        "events lost",
        "not recorded",
    ]
    asked = ("--since", "2024-11-25T18:48:20Z", "--until", "2024-11-26T18:48:33Z")
    assert (
        "2024-11-25T18:48:32Z to 2024-11-26T18:48:33Z, 1d\n" in invoke("top", shop, *asked).stderr
    )


def test_the_sizes_of_the_tables_are_those_of_their_pages(invoke: Invoke, shop: Path) -> None:
    found = json.loads(invoke("info", shop, "-o", "json").stdout)
    conn = sqlite3.connect(shop)
    pages = dict(
        conn.execute(
            "SELECT tbl_name, SUM(pgsize) FROM dbstat JOIN sqlite_schema USING (name)"
            " WHERE aggregate = TRUE GROUP BY 1"
        )
    )
    counts = {
        name: conn.execute(f"SELECT COUNT(*) FROM {name}").fetchone()[0]
        for name in ("flow", "flow_1m", "edge", "endpoint", "gap", "level")
    }
    conn.close()
    tables = {table["table"]: table for table in found["tables"]}
    assert {name: table["bytes"] for name, table in tables.items()} == {
        name: pages[name] for name in tables
    }
    assert {name: tables[name]["rows"] for name in counts} == counts


def test_gaps_are_listed(invoke: Invoke, shop: Path) -> None:
    assert invoke("info", shop, "--gaps").stdout == (
        "FROM (UTC)           LASTED  NODE  WHAT           EVENTS LOST  DETAIL\n"
        "2024-11-25 18:47:34      3s  n1    recorder down            ?  -\n"
        "2024-11-25 18:47:57      1s  n1    events lost          1,204  -\n"
    )
    result = invoke("info", shop, "--gaps", "-o", "jsonl")
    assert json.loads(result.stdout.splitlines()[1]) == {
        "started_at": "2024-11-25T18:47:57.852716307Z",
        "ended_at": "2024-11-25T18:47:58.852716307Z",
        "started_ns": 1732560477852716307,
        "ended_ns": 1732560478852716307,
        "node": "n1",
        "kind": "events lost",
        "lost": 1204,
        "detail": None,
    }


def test_a_new_file_holds_nothing_and_says_so(invoke: Invoke, tmp_path: Path) -> None:
    path = tmp_path / "new.db"
    with connect.writer(path):
        pass
    result = invoke("info", path)
    assert result.exit_code == 0
    assert "from        -\n" in result.stdout
    assert "gaps        none\n" in result.stdout
    lacking = (
        "no recording is in it: if it was copied without its -wal, copy it with ctk snapshot\n"
    )
    assert result.stderr == lacking
    assert invoke("info", path, "--gaps").stderr == f"no gaps\n{lacking}"
    for command, heads in (
        ("query", "TIME  SOURCE  DESTINATION  SERVICE  PROTO  CONNS  FAILED  OUT  IN\n"),
        ("top", "SOURCE  DESTINATION  CONNS  FAILED  PACKETS  BYTES\n"),
    ):
        result = invoke(command, path)
        assert (result.exit_code, result.stdout, result.stderr) == (0, heads, lacking)
    assert invoke("top", path, "-o", "json").stdout == "[]\n"
    assert invoke("export", path).stdout == ""


def test_how_fresh_a_file_is_tells_a_probe_by_its_exit_code(invoke: Invoke, tmp_path: Path) -> None:
    path = tmp_path / "live.db"

    def told(*words: str) -> tuple[int, str, str]:
        result = invoke("info", path, "--fresh", *words)
        # How long the test takes is not the point.
        return result.exit_code, result.stdout, re.sub(r"5m \d+s", "5m Ns", result.stderr)

    with connect.writer(path) as conn:
        assert told("60s") == (
            1,
            "",
            f"Error: {path} has no commit yet\nTry: look at what its recorder says\n",
        )
        now_ns = time.time_ns()
        at_ns = now_ns - 301 * SECOND
        writer = Writer(conn, node="n1", source="k", settings={}, started_ns=at_ns, boot_id=None)
        writer.window([], committed_ns=at_ns, counters=EventCounts(0, 0))
        assert told("60s") == (
            1,
            "",
            f"Error: {path} was last committed 5m Ns ago\nTry: look at what its recorder says\n",
        )
        code, said, _ = told("10m")
        assert (code, said.startswith(f"{path} was last committed 5m ")) == (0, True)
        # A clock that was set back makes nothing old.
        writer.window([], committed_ns=now_ns + 60 * SECOND, counters=EventCounts(0, 0))
        assert told("60s") == (0, f"{path} was last committed 0s ago\n", "")
    assert told("60s") == (
        1,
        "",
        f"Error: {path} was last committed 0s ago, and nobody writes it\nTry: ctk record {path}\n",
    )
    assert told("10m", "--gaps")[2] == (
        "Error: --gaps and --fresh exclude each other\nTry: give one of them\n"
    )


def test_a_snapshot_is_the_file(invoke: Invoke, shop: Path, tmp_path: Path) -> None:
    out = tmp_path / "copy.db"
    result = invoke("snapshot", shop, out)
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")
    assert invoke("query", out).stdout == invoke("query", shop).stdout
    result = invoke("snapshot", shop, out)
    assert (result.exit_code, result.stderr) == (
        2,
        f"Error: {out} is there already\nTry: name another file, or remove it\n",
    )


def test_the_tables_of_a_file_come_in_every_form(invoke: Invoke, shop: Path) -> None:
    names = invoke("info", shop, "-o", "name").stdout.splitlines()
    assert {"flow", "edge", "gap"} <= set(names)
    found = invoke("info", shop, "--columns", "table,rows").stdout.splitlines()
    assert found[0].split() == ["TABLE", "ROWS"]
    assert ["flow", "7"] in [line.split() for line in found]
    blocks = invoke("info", shop, "-o", "vertical").stdout.split("\n\n")
    assert len(blocks) == len(names)
    assert [line.split()[0] for line in blocks[0].splitlines()] == ["table", "rows", "bytes"]
