"""Following: what is there, what comes, and an end by Ctrl-C that loses nothing."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import Result
from edges import with_ids
from test_cli_export import EDGES

import ctk
from ctk.errors import UsageError
from ctk.model import EventCounts, FlowRow
from ctk.store import connect
from ctk.store.write import Writer
from ctk.timespan import SECOND

Invoke = Callable[..., Result]
START_S = 1_700_000_000


def write(writer: Writer, *at_s: int) -> None:
    starts = [(START_S + each) * SECOND for each in at_s]
    rows = [FlowRow(EDGES[0], start_ns, start_ns, 7, *(1,) * 10) for start_ns in starts]
    writer.window(with_ids(writer, rows), committed_ns=max(starts), counters=EventCounts())


@contextmanager
def recorder(path: Path) -> Iterator[Writer]:
    with connect.writer(path) as conn:
        yield Writer(conn, node="n1", source="kernel", settings={}, started_ns=0, boot_id=None)


def started(lines: Sequence[str | bytes]) -> list[int]:
    """The seconds, since START_S, of lines of JSON."""
    return [json.loads(line)["started_ns"] // SECOND - START_S for line in lines]


def test_from_python_each_flow_comes_once_the_late_ones_too(tmp_path: Path) -> None:
    path = tmp_path / "node.db"
    waits = []
    with recorder(path) as writer:
        write(writer, 1, 5)

        def wait(seconds: float) -> bool:
            """In place of time that passes, another window, or the end."""
            assert 0 < seconds <= 1
            waits.append(seconds)
            if len(waits) == 1:
                write(writer, 9, 3)
            elif len(waits) == 3:  # once without anything new
                write(writer, 11)
            return len(waits) > 3

        with ctk.open(path) as recording:
            flows = recording.follow(wait=wait)
            found = [flow.started_ns // SECOND - START_S for flow in flows]
    assert found == [1, 5, 3, 9, 11]


def test_only_the_last_of_those_before_and_all_that_come(tmp_path: Path) -> None:
    path = tmp_path / "node.db"
    waits = []
    with recorder(path) as writer:
        write(writer, *range(10))

        def wait(seconds: float) -> bool:
            waits.append(seconds)
            write(writer, *range(10 * len(waits), 10 * len(waits) + 5))
            return len(waits) == 2

        with ctk.open(path) as recording:
            found = [f.started_ns // SECOND - START_S for f in recording.follow(last=2, wait=wait)]
    assert found == [8, 9, *range(10, 15)]


def test_what_is_followed_is_one_file(shop: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.db"
    with recorder(other) as writer:
        write(writer, 1)
    with ctk.open([shop, other]) as recording, pytest.raises(UsageError, match="is one file"):
        recording.follow()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_export_follows_until_it_is_interrupted_and_goes_on_from_there(
    invoke: Invoke, tmp_path: Path, number: signal.Signals
) -> None:
    path, out = tmp_path / "node.db", tmp_path / "flows.jsonl"
    words = ["export", str(path), "--output", str(out), "--cursor", "siem"]
    with recorder(path) as writer:
        write(writer, 1, 2)
        with subprocess.Popen([sys.executable, "-m", "ctk", *words, "-f"]) as following:
            await_lines(out, 2)
            write(writer, 3, 4)
            await_lines(out, 4)
            following.send_signal(number)
            assert following.wait(30) == 0
        write(writer, 5)
        assert invoke(*words).exit_code == 0
    assert started(out.read_bytes().splitlines()) == [1, 2, 3, 4, 5]


def await_lines(path: Path, count: int) -> None:
    until_s = time.monotonic() + 60
    while not path.exists() or path.read_bytes().count(b"\n") < count:
        assert time.monotonic() < until_s
        time.sleep(0.02)


def test_a_query_follows_under_one_head_from_the_last_ten_on(tmp_path: Path) -> None:
    path, out = tmp_path / "node.db", tmp_path / "out"
    with recorder(path) as writer, out.open("wb") as file:
        write(writer, *range(30))
        command = [
            sys.executable,
            "-m",
            "ctk",
            "query",
            str(path),
            "-f",
            "--columns",
            "time,source",
        ]
        with subprocess.Popen([*command, "--utc"], stdout=file) as following:
            await_lines(out, 11)
            write(writer, 30, 31)
            await_lines(out, 13)
            following.send_signal(signal.SIGINT)
            assert following.wait(30) == 0
    head, *lines = out.read_text().splitlines()
    assert head.split()[0] == "TIME"
    assert [line.split()[1] for line in lines] == [f"22:13:{20 + at}" for at in range(20, 32)]


@pytest.mark.parametrize(
    ("words", "stderr"),
    [
        (("SELECT 1",), "what is followed are flows, not SQL\nTry: filters, or no --follow\n"),
        (("-o", "json"), "json is one array: it cannot be gone on with\nTry: -o jsonl\n"),
        (("--first", "3"), "--follow has no end\nTry: --since 15m, or no --follow\n"),
    ],
)
def test_a_query_that_cannot_be_followed_is_refused(
    invoke: Invoke, shop: Path, words: Sequence[str], stderr: str
) -> None:
    result = invoke("query", shop, *words, "-f")
    assert (result.exit_code, result.stdout, result.stderr) == (2, "", f"Error: {stderr}")


def test_a_file_that_another_took_the_place_of_is_not_followed(tmp_path: Path) -> None:
    path, other = tmp_path / "node.db", tmp_path / "other.db"
    with recorder(path) as writer:
        write(writer, 1)
    with connect.writer(other) as conn:
        writer = Writer(conn, node="n2", source="kernel", settings={}, started_ns=0, boot_id=None)
        write(writer, 2)
    command = [sys.executable, "-m", "ctk", "export", str(path), "-f"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as following:
        assert following.stdout is not None
        assert following.stderr is not None
        assert started([following.stdout.readline()]) == [1]
        other.rename(path)
        assert following.wait(30) == 1
        assert following.stderr.read().endswith(
            f"Error: {path} is another file now\nTry: begin anew\n".encode()
        )


def test_an_export_that_is_interrupted_leaves_what_was_there(tmp_path: Path) -> None:
    """Without a cursor: its FILE is replaced as a whole, or not at all."""
    path, out = tmp_path / "node.db", tmp_path / "flows.jsonl"
    with recorder(path) as writer:
        for at_s in range(0, 200_000, 20_000):
            write(writer, *range(at_s, at_s + 20_000))
    out.write_text("before\n")
    words = ["export", str(path), "--output", str(out)]
    with subprocess.Popen([sys.executable, "-m", "ctk", *words]) as export:
        part = out.with_name("flows.jsonl.part")
        await_lines(part, 1)
        export.send_signal(signal.SIGINT)
        assert export.wait(30) == 130
    assert out.read_text() == "before\n"
    assert not part.exists()
