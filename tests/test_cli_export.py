"""`ctk export`: forms, files that are put aside, and cursors that go on where one stopped."""

import gzip
import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from click.testing import Result
from edges import edge, with_ids
from examples import few
from hypothesis import given
from hypothesis import strategies as st

from ctk.model import Edge, Endpoint, EventCounts, FlowRow
from ctk.render.compress import lines_in
from ctk.store import connect
from ctk.store.columns import FLOW_KEYS
from ctk.store.write import Writer
from ctk.timespan import SECOND

Invoke = Callable[..., Result]

GAPS = "2 gaps in this window: 1,204 events lost, recorder down for 3s\n"
FIRST_LOG_LINE = (
    '{"timestamp":"2024-11-25T18:47:22.852716307Z","src":"10.244.0.1","srcPort":53388,'
    '"srcName":"n1","dst":"10.244.0.3","dstPort":8181,"dstNs":"kube-system",'
    '"dstName":"kube-system:coredns-7c65d6cfc9-sq2br",'
    '"dstLbls":{"k8s-app":"kube-dns","pod-template-hash":"7c65d6cfc9"},'
    '"proto":"TCP","new":true,"update":true,"cnt":2}\n'
)


@pytest.mark.parametrize("form", ["jsonl", "csv", "tsv", "json"])
def test_a_form_is_what_query_writes(invoke: Invoke, shop: Path, form: str) -> None:
    asked = invoke("query", shop, "-o", form, "--pod", "db-0")
    result = invoke("export", shop, "--format", form, "--pod", "db-0")
    # A file of TSV says what its columns are; what query prints is for `cut`.
    head = "\t".join(FLOW_KEYS) + "\n" if form == "tsv" else ""
    assert (result.exit_code, result.stdout, result.stderr) == (0, head + asked.stdout, GAPS)


def test_json_lines_are_the_default(invoke: Invoke, shop: Path) -> None:
    assert invoke("export", shop).stdout == invoke("query", shop, "-o", "jsonl").stdout


def test_the_log_form_leaves_empty_fields_out(invoke: Invoke, shop: Path) -> None:
    result = invoke("export", shop, "--format", "log", "--first", "1")
    assert result.stdout == FIRST_LOG_LINE


def test_the_log_form_tells_events_and_accounting_only_where_it_is_asked_for(
    invoke: Invoke, tmp_path: Path
) -> None:
    path = tmp_path / "node.db"
    with connect.writer(path) as conn:
        writer = Writer(conn, node="n1", source="kernel", settings={}, started_ns=0, boot_id=None)
        began, moved, ended = (1, 1, 0, 0), (0, 0, 0, 0), (0, 0, 0, 1)
        rows = [
            FlowRow(EDGES[0], n * SECOND, n * SECOND, 7, *counts, 0, 0, 9, 1, 9, 1)
            for n, counts in enumerate((began, moved, ended))
        ]
        writer.window(with_ids(writer, rows), committed_ns=9, counters=EventCounts())
    words = ("export", path, "--format", "log")
    for extra, counts in ((), [1, 1]), (("--log-accounting",), [1, 0, 1]):
        found = [json.loads(line)["cnt"] for line in invoke(*words, *extra).stdout.splitlines()]
        assert found == counts
    left_out = (
        "1 flow that no event told, bytes of connections that go on, left out:"
        " --log-accounting has them\n"
    )
    assert left_out in invoke(*words).stderr
    assert "left out" not in invoke(*words, "--log-accounting").stderr
    # What is left out is read all the same: a cursor goes on behind it.
    assert invoke(*words, "--cursor", "c", "--first", "2").stdout.count("\n") == 1
    assert invoke(*words, "--cursor", "c", "--first", "2").stdout.count("\n") == 1


def test_a_file_gets_what_stdout_would(invoke: Invoke, shop: Path, tmp_path: Path) -> None:
    for form in ("jsonl", "log", "csv", "json"):
        out = tmp_path / f"out.{form}"
        out.write_text("what was there before")
        result = invoke("export", shop, "--format", form, "--output", out)
        assert (result.exit_code, result.stdout) == (0, "")
        assert result.stderr.startswith(f"{out} was replaced: 21 bytes were there\n")
        assert out.read_text() == invoke("export", shop, "--format", form).stdout


def test_a_full_file_is_put_aside_and_no_line_is_cut(
    invoke: Invoke, shop: Path, tmp_path: Path
) -> None:
    out = tmp_path / "flows.csv"
    words = ("--format", "csv", "--output", out, "--max-size", "1K", "--keep", "9")
    assert invoke("export", shop, *words).exit_code == 0
    files = sorted(tmp_path.glob("flows.csv*"), key=lambda file: file.suffix[1:].zfill(2))
    files.sort(key=lambda file: -int(file.suffix[1:]) if file.suffix != ".csv" else 1)
    header, *rows = invoke("export", shop, "--format", "csv").stdout.splitlines()
    written = [file.read_text().splitlines() for file in files]
    assert len(files) > 2
    assert all(lines[0] == header for lines in written)
    assert [line for lines in written for line in lines[1:]] == rows
    assert all(file.stat().st_size <= 1024 for file in files)


def test_what_is_put_aside_is_compressed_and_only_keep_throws_it_away(
    invoke: Invoke, shop: Path, tmp_path: Path
) -> None:
    out = tmp_path / "flows.log.gz"
    words = ("export", shop, "--format", "log", "--output", out, "--max-size", "400")
    lines = invoke("export", shop, "--format", "log").stdout.splitlines(keepends=True)

    def written() -> list[str]:
        """The lines, the oldest first."""
        aside = sorted(tmp_path.glob("flows.log.?.gz"), reverse=True)
        files = [gzip.decompress(file.read_bytes()).decode() for file in (*aside, out)]
        return "".join(files).splitlines(keepends=True)

    assert (invoke(*words).stderr, written()) == (GAPS, lines)
    for file in tmp_path.glob("flows.log*"):
        file.unlink()
    told, *rest = invoke(*words, "--keep", "1").stderr.splitlines(keepends=True)
    left = written()
    assert (lines[-len(left) :], rest) == (left, [GAPS])
    match = re.fullmatch(
        r"(\d) files put aside before, of (\d) lines, thrown away: --keep 1\n", told
    )
    assert match is not None
    assert int(match[1]) > 1
    assert int(match[2]) == len(lines) - len(left)
    assert len(list(tmp_path.glob("flows.log*"))) == 2


@pytest.mark.parametrize("ending", ["", ".gz", ".zst"])
def test_a_run_throws_nothing_away_that_it_wrote(
    invoke: Invoke, shop: Path, tmp_path: Path, ending: str
) -> None:
    out = tmp_path / f"flows.jsonl{ending}"
    words = ("--output", out, "--max-size", "1100", "--cursor", "siem")
    assert invoke("export", shop, *words).exit_code == 0
    lines = invoke("export", shop).stdout.splitlines()
    files = [file for file in tmp_path.glob("flows.jsonl*") if file.suffix != ".cursor"]
    assert len(files) > 2
    assert sum(lines_in(file) for file in files) == len(lines) == 7


def test_a_cursor_goes_on_where_the_last_one_stopped(invoke: Invoke, shop: Path) -> None:
    everything = invoke("export", shop).stdout.splitlines()
    seen = []
    for expected, lacking in (
        (3, "1 gap in this window: recorder down for 3s\n"),
        (3, "1 gap in this window: 1,204 events lost\n"),
        (1, ""),
        (0, ""),
    ):
        result = invoke("export", shop, "--cursor", "siem", "--first", "3")
        assert (result.exit_code, result.stderr) == (0, lacking)
        assert len(result.stdout.splitlines()) == expected
        seen += result.stdout.splitlines()
    assert seen == everything
    assert len(invoke("export", shop, "--cursor", "other").stdout.splitlines()) == 7
    kept = shop.with_name("shop.db.siem.cursor")
    assert kept.stat().st_mode & 0o777 == 0o600


def test_a_cursor_for_a_file_is_beside_it_and_the_header_comes_once(
    invoke: Invoke, shop: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out" / "flows.csv"
    out.parent.mkdir()
    for _ in range(3):
        words = ("--format", "csv", "--output", out, "--cursor", "siem", "--first", "3")
        assert invoke("export", shop, *words).exit_code == 0
    assert out.read_text() == invoke("export", shop, "--format", "csv").stdout
    assert sorted(file.name for file in out.parent.iterdir()) == [
        "flows.csv",
        "flows.csv.siem.cursor",
    ]


def test_what_a_killed_export_wrote_behind_its_cursor_is_written_again(
    invoke: Invoke, shop: Path, tmp_path: Path
) -> None:
    out = tmp_path / "flows.jsonl"
    invoke("export", shop, "--output", out, "--cursor", "siem", "--first", "2")
    with out.open("a") as file:
        file.write('{"started_at":"2024-11-25T18:47:4')
    invoke("export", shop, "--output", out, "--cursor", "siem")
    assert out.read_text() == invoke("export", shop).stdout


def test_a_cursor_of_another_file_starts_anew(invoke: Invoke, shop: Path) -> None:
    invoke("export", shop, "--cursor", "siem")
    kept = shop.with_name("shop.db.siem.cursor")
    kept.write_text(kept.read_text().replace("n1 2024", "n1 2023"))
    result = invoke("export", shop, "--cursor", "siem")
    assert len(result.stdout.splitlines()) == 7
    assert result.stderr.startswith(f"{shop} is another file than the one {kept} was kept for")


def test_a_cursor_goes_by_the_filters_it_was_made_with(invoke: Invoke, shop: Path) -> None:
    words = ("--cursor", "siem", "--not", "--pod", "db-0", "--to-port", "53")
    assert invoke("export", shop, *words).exit_code == 0
    kept = shop.with_name("shop.db.siem.cursor")
    before = kept.read_text()
    result = invoke("export", shop, "--cursor", "siem", "--failed")
    assert (result.exit_code, result.stdout, result.stderr) == (
        2,
        "",
        f"Error: the cursor {kept} goes by --not --pod db-0 --to-port 53: by another it would skip"
        " flows for good\nTry: give the same filters, or another --cursor\n",
    )
    assert kept.read_text() == before


def test_where_a_cursor_cannot_be_kept_nothing_goes_out(invoke: Invoke, shop: Path) -> None:
    part = shop.with_name("shop.db.siem.cursor.part")
    part.mkdir()
    result = invoke("export", shop, "--cursor", "siem")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.endswith("\nTry: it stands beside DB, or beside the FILE of --output\n")


def test_a_header_comes_once_where_there_is_nothing_yet(invoke: Invoke, tmp_path: Path) -> None:
    with connect.writer(tmp_path / "node.db"):
        pass
    words = ("export", tmp_path / "node.db", "--format", "csv", "--cursor", "siem")
    assert [invoke(*words).stdout.count("\n") for _ in range(3)] == [1, 0, 0]


def test_a_cursor_goes_by_the_format_it_was_made_with(invoke: Invoke, shop: Path) -> None:
    assert invoke("export", shop, "--cursor", "siem").exit_code == 0
    kept = shop.with_name("shop.db.siem.cursor")
    for words in (("--format", "csv"), ("--time", "us")):
        result = invoke("export", shop, "--cursor", "siem", *words)
        assert (result.exit_code, result.stdout, result.stderr) == (
            2,
            "",
            f"Error: the cursor {kept} goes by --format jsonl: lines of two formats do not go into"
            " one file\nTry: --format jsonl, or another --cursor\n",
        )


def test_a_cursor_that_does_not_say_its_format_is_gone_on_with(invoke: Invoke, shop: Path) -> None:
    invoke("export", shop, "--cursor", "siem", "--first", "3")
    kept = shop.with_name("shop.db.siem.cursor")
    said = json.loads(kept.read_bytes())
    del said["form"], said["output_began_s"]
    kept.write_text(json.dumps(said))
    assert len(invoke("export", shop, "--cursor", "siem").stdout.splitlines()) == 4


def test_a_cursor_that_is_broken_is_an_error(invoke: Invoke, shop: Path) -> None:
    kept = shop.with_name("shop.db.siem.cursor")
    kept.write_text("{")
    result = invoke("export", shop, "--cursor", "siem")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"Error: the cursor {kept} cannot be read: ")
    assert result.stderr.endswith("\nTry: remove it to start anew\n")


@pytest.mark.parametrize(
    ("words", "stderr"),
    [
        (
            ("--format", "json", "--cursor", "siem"),
            "Error: json is one array: it cannot be gone on with\nTry: --format jsonl\n",
        ),
        (("--max-size", "1M"), "Error: --max-size needs a file to put aside\nTry: --output FILE\n"),
        (
            ("--output", "x", "--max-size", "much"),
            "Error: 'much' is not a size\nTry: write it as 512K, 16MiB or 1G\n",
        ),
        (
            ("--cursor", "../x"),
            "Error: '../x' is not a name for a cursor\nTry: --cursor siem\n",
        ),
        (
            ("--cursor", "siem", "--last", "3"),
            "Error: --last would skip flows for good\nTry: --first 1000 --cursor siem\n",
        ),
        (
            ("--format", "parquet", "--follow"),
            "Error: parquet is one whole: it cannot be gone on with\nTry: --format jsonl\n",
        ),
        (("-f", "--first", "3"), "Error: --follow has no end\nTry: --since 15m, or no --follow\n"),
        (
            ("--keep", "3"),
            "Error: --keep is for what is put aside\nTry: --max-size 64MiB --keep 5\n",
        ),
        (
            ("--format", "ecs", "--time", "us"),
            "Error: ecs has its own form of times\n"
            "Try: --time is for jsonl, csv, tsv, json, parquet\n",
        ),
        (
            ("--log-accounting",),
            "Error: jsonl has what no event tells, too\nTry: --log-accounting is for log\n",
        ),
        (
            ("--output", "x", "--compress", "gzip"),
            "Error: --compress is for stdout\nTry: --output x.gz\n",
        ),
        *(
            (
                ("-o", path),
                f"Error: '{path}' is not a value of --format\n"
                f"Try: --output {path}, if that is a file\n",
            )
            for path in ("flows", "flows.csv")
        ),
        (
            ("--output", "/tmp"),
            "Error: /tmp is a folder\nTry: name a file: --output /tmp/flows.jsonl\n",
        ),
    ],
)
def test_what_contradicts_itself_is_refused(
    invoke: Invoke, shop: Path, words: Sequence[str], stderr: str
) -> None:
    result = invoke("export", shop, *words)
    assert (result.exit_code, result.stdout, result.stderr) == (2, "", stderr)


@pytest.mark.parametrize(
    ("words", "stderr"),
    [
        (("-o", "parquet"), "parquet is not for a terminal\nTry: --output flows.parquet"),
        (("--compress", "zstd"), "zstd is not for a terminal\nTry: --output flows.jsonl.zst"),
    ],
)
def test_a_terminal_is_shown_nothing_binary(shop: Path, words: Sequence[str], stderr: str) -> None:
    ours, terminal = pty.openpty()
    ended = subprocess.run(
        [sys.executable, "-m", "ctk", "export", shop, *words],
        stdout=terminal,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(terminal)
    os.close(ours)
    assert (ended.returncode, ended.stderr) == (2, f"Error: {stderr}\n")


@pytest.mark.parametrize("beside", ["", "-wal", "-shm", ".lock"])
def test_the_file_that_is_read_is_not_written_over(invoke: Invoke, shop: Path, beside: str) -> None:
    before = shop.read_bytes()
    result = invoke("export", shop, "--output", f"{shop}{beside}")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "Error: --output is DB itself\nTry: give it another name\n"
    assert shop.read_bytes() == before


@pytest.mark.parametrize("command", ["export", "report"])
def test_a_recording_is_not_written_over(
    invoke: Invoke, shop: Path, tmp_path: Path, command: str
) -> None:
    other = tmp_path / "other.db"
    other.write_bytes(shop.read_bytes())
    result = invoke(command, shop, "--output", other)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == f"Error: {other} is an SQLite file\nTry: give --output another name\n"
    assert other.read_bytes() == shop.read_bytes()


def test_a_place_that_cannot_be_written_is_an_error(invoke: Invoke, shop: Path) -> None:
    out = shop.parent / "nowhere" / "flows"
    for form in ("jsonl", "json"):
        result = invoke("export", shop, "--format", form, "--output", out)
        assert (result.exit_code, result.stdout, result.stderr) == (
            2,
            "",
            f"Error: {out} cannot be written: No such file or directory\n"
            "Try: check its directory\n",
        )


POD = Endpoint(address="10.244.0.5", kind="pod", valid_from_ns=0, namespace="shop", name="web")
PEER = Endpoint(address="192.0.2.1", kind="external", valid_from_ns=0)
EDGES = [edge("tcp", 0, POD, PEER, port, None, PEER, None, None, None) for port in (80, 443)]


@few
@given(
    windows=st.lists(
        st.lists(st.tuples(st.sampled_from(EDGES), st.integers(0, 4)), max_size=8),
        min_size=1,
        max_size=4,
    ),
    most=st.integers(2, 6),
    words=st.sampled_from([(), ("--port", "80"), ("--since", "1970-01-01T00:00:02Z")]),
)
def test_whatever_is_committed_between_exports_is_written_exactly_once(
    invoke: Invoke,
    tmp_path_factory: pytest.TempPathFactory,
    windows: list[list[tuple[Edge, int]]],
    most: int,
    words: tuple[str, ...],
) -> None:
    path = tmp_path_factory.mktemp("exports") / "node.db"
    exported: list[str] = []

    def batch() -> list[str]:
        words_ = ("--cursor", "c", "--first", most, *words)
        return invoke("export", path, *words_).stdout.splitlines()

    with connect.writer(path) as conn:
        writer = Writer(conn, node="n1", source="kernel", settings={}, started_ns=0, boot_id=None)
        for several in windows:
            # Few times: often only their numbers tell rows apart, and many come late.
            rows = [
                FlowRow(edge, at_s * SECOND, at_s * SECOND, n, *(1,) * 10)
                for n, (edge, at_s) in enumerate(several)
            ]
            writer.window(with_ids(writer, rows), committed_ns=0, counters=EventCounts())
            exported += batch()
        while some := batch():
            exported += some
        everything = invoke("export", path, *words).stdout.splitlines()
    assert sorted(exported) == sorted(everything)
    if not words:
        assert len(everything) == sum(map(len, windows))
