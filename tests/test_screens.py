"""What a terminal shows of answers, to the letter: at four widths, in colour, and page by page."""

import fcntl
import io
import os
import pty
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import Result
from edges import edge, with_ids
from sample import AT, CLIENT6, NODE, WEB

import ctk
from ctk.model import Endpoint, EventCounts, FlowRow
from ctk.render import changes, failed, layout, ranking, tables
from ctk.render.cells import Head
from ctk.render.layout import Screen
from ctk.render.tables import Output
from ctk.store import connect
from ctk.store.write import Writer
from ctk.timespan import SECOND

Invoke = Callable[..., Result]

# Names of 63 characters, as long as Kubernetes lets them be.
LONG = "checkout-recommendation-engine-canary-v2-5d78c9869d-"
CLIENT = replace(WEB, name=f"{LONG}aaaaa-xbqtz", namespace="load", address="10.244.0.31")
SERVER = replace(WEB, name=f"{LONG}bbbbb-m7nrk", namespace="shop", address="10.244.0.32")
SERVICE = Endpoint(
    address="10.96.0.44", kind="service", valid_from_ns=0, namespace="shop", name="checkout"
)
EDGES = (
    edge("tcp", 0, CLIENT, SERVICE, 80, None, SERVER, 8080, "shop/checkout", "address"),
    edge("tcp", 0, CLIENT, SERVER, 9999, None, SERVER, None, None, None),
    edge("udp", 0, WEB, CLIENT6, 514, None, CLIENT6, None, None, None),
    edge("tcp", 0, NODE, SERVER, 8080, None, SERVER, None, "shop/checkout", "endpoint"),
    edge("tcp", 0, WEB, replace(NODE, address="192.0.2.7"), 30080, None, SERVER, 8080, None, None),
)
COUNTS = (
    ((12, 12, 12, 12, 0, 0), (64_000, 120, 5_064_000, 340)),
    ((7, 7, 0, 7, 2, 5), (420, 7, 280, 7)),
    ((3, 3, 0, 3, 3, 0), (700, 5, 0, 0)),
    ((1, 1, 1, 0, 0, 0), (None, None, None, None)),
    ((2, 2, 2, 2, 0, 0), (900, 10, 1_200, 10)),
)


@pytest.fixture(scope="module")
def long_names(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("screens") / "long.db"
    rows = [
        FlowRow(each, AT + i * SECOND, AT + (i + 1) * SECOND, None, *counts, *moved)
        for i, (each, (counts, moved)) in enumerate(zip(EDGES, COUNTS, strict=True))
    ]
    with connect.writer(path) as conn:
        writer = Writer(conn, node="n1", source="kernel", settings={}, started_ns=AT, boot_id=None)
        writer.window(with_ids(writer, rows), committed_ns=AT + 9 * SECOND, counters=EventCounts())
        writer.finish(AT + 9 * SECOND)
    return path


@pytest.fixture
def recording(long_names: Path) -> Iterator[ctk.Recording]:
    with ctk.open(long_names) as opened:
        yield opened


class Screens:
    """Both answers at a width, and what was left out of them."""

    def __init__(self, recording: ctk.Recording, width: int | None) -> None:
        self.left: list[str] = []
        screen = Screen(width=width, utc=True, left_out=self.left.extend)
        output = Output(format="table", screen=screen)
        flows, top, failures, diff = (io.BytesIO() for _ in range(4))
        tables.flows(recording.flows(), output, flows)
        ranking.top(recording.top(limit=3), output, top)
        self.flows, self.top = flows.getvalue().decode(), top.getvalue().decode()
        self.left_later: list[str] = []
        output = output._replace(screen=screen._replace(left_out=self.left_later.extend))
        spans = {"before": (AT, AT + 4 * SECOND), "after": (AT + 4 * SECOND, AT + 9 * SECOND)}
        failed.failures(recording.failures(), output, failures)
        by = ("source", "destination", "dst_port", "proto")
        changes.diff(recording.diff(**spans, by=by), output, diff)
        self.failures, self.diff = failures.getvalue().decode(), diff.getvalue().decode()


SHOWN = Path(__file__).parent / "screens"


@pytest.mark.parametrize(
    ("width", "left_out", "left_later"),
    [
        (
            60,
            ["SERVICE", "PROTO", "CONNS", "OUT", "IN", "CONNS", "PACKETS", "%"],
            ["SERVICE", "CONNS", "REFUSED", "UNREPLIED", "%", "LAST (UTC)", "CONNS/S", "FAILED/S"],
        ),
        (
            80,
            ["PROTO", "CONNS", "OUT", "IN", "PACKETS"],
            ["SERVICE", "CONNS", "LAST (UTC)", "CONNS/S"],
        ),
        (120, [], []),
        (200, [], []),
    ],
)
def test_a_table_is_as_wide_as_its_screen_and_names_can_be_read(
    recording: ctk.Recording, width: int, left_out: list[str], left_later: list[str]
) -> None:
    screens = Screens(recording, width)
    assert screens.flows == (SHOWN / f"query-{width}.txt").read_text("utf-8")
    assert screens.top == (SHOWN / f"top-{width}.txt").read_text("utf-8")
    assert screens.failures == (SHOWN / f"failures-{width}.txt").read_text("utf-8")
    assert screens.diff == (SHOWN / f"diff-{width}.txt").read_text("utf-8")
    assert (screens.left, screens.left_later) == (left_out, left_later)
    every = f"{screens.flows}{screens.top}{screens.failures}{screens.diff}"
    assert max(map(len, every.splitlines())) <= width


def test_a_pipe_gets_whole_names(recording: ctk.Recording) -> None:
    screens = Screens(recording, None)
    names = [line.split("  ")[1].strip() for line in screens.flows.splitlines()]
    assert names[1] == f"load/{CLIENT.name}"
    assert screens.left == []


def test_what_does_not_fit_even_so_is_written_as_blocks(recording: ctk.Recording) -> None:
    out = io.BytesIO()
    columns = [f"column_{i}" for i in range(12)]
    output = Output(format="table", screen=Screen(width=60))
    assert tables.rows(columns, [tuple(range(12)), ("a" * 70,) * 12], output, out) == 2
    lines = out.getvalue().decode().splitlines()
    assert lines[:2] == ["column_0   0", "column_1   1"]
    assert (lines[12], lines[13], len(lines)) == ("", f"column_0   {'a' * 70}", 25)


def test_every_form_of_the_same_rows(recording: ctk.Recording) -> None:
    def written(form: tables.Format, *columns: str, titled: bool = True) -> str:
        out = io.BytesIO()
        output = Output(format=form, columns=columns, titled=titled, screen=Screen(utc=True))
        tables.flows(recording.flows(last=2), output, out)
        return out.getvalue().decode()

    some = ("time", "source", "failed", "out", "bytes_in")
    assert written("table", *some) == (
        "TIME (UTC)           SOURCE      FAILED    OUT       IN\n"
        "2024-11-25 18:47:25  n1               0      ?        ?\n"
        "2024-11-25 18:47:26  shop/web-1       0  900 B  1.2 KiB\n"
    )
    assert written("table", *some, titled=False) == (
        "2024-11-25 18:47:25  n1          0      ?        ?\n"
        "2024-11-25 18:47:26  shop/web-1  0  900 B  1.2 KiB\n"
    )
    assert written("vertical", *some) == (
        "time       2024-11-25 18:47:25 UTC\n"
        "source     n1\n"
        "failed     0\n"
        "bytes_out  ?\n"
        "bytes_in   ?\n"
        "\n"
        "time       2024-11-25 18:47:26 UTC\n"
        "source     shop/web-1\n"
        "failed     0\n"
        "bytes_out  900 B\n"
        "bytes_in   1.2 KiB\n"
    )
    assert written("markdown", *some) == (
        "| TIME (UTC) | SOURCE | FAILED | OUT | IN |\n"
        "| --- | --- | ---: | ---: | ---: |\n"
        "| 2024-11-25 18:47:25 | n1 | 0 | ? | ? |\n"
        "| 2024-11-25 18:47:26 | shop/web-1 | 0 | 900 B | 1.2 KiB |\n"
    )
    assert written("csv", *some) == (
        "time,source,failed,bytes_out,bytes_in\n"
        "2024-11-25T18:47:25.852716307Z,n1,0,,\n"
        "2024-11-25T18:47:26.852716307Z,shop/web-1,0,900,1200\n"
    )
    assert written("csv", "src", "dst_port", titled=False) == "10.244.0.1,8080\n10.244.0.5,30080\n"
    assert written("name") == f"n1\tshop/{SERVER.name}\nshop/web-1\tshop/{SERVER.name}\n"
    assert written("vertical").startswith("started_at         2024-11-25 18:47:25 UTC\nended_at ")
    heads, first, _ = written("wide").splitlines()
    assert heads.split()[:6] == ["TIME", "(UTC)", "LASTED", "NODE", "SOURCE", "SRC"]
    assert first.split()[2:6] == ["1s", "n1", "n1", "10.244.0.1"]


def test_markdown_has_the_columns_of_a_table(invoke: Invoke, long_names: Path) -> None:
    for command in ("query", "top"):
        table, markdown = (
            invoke(command, long_names, "-o", form).stdout.splitlines()[0]
            for form in ("table", "markdown")
        )
        assert markdown.replace("|", " ").split() == table.split()


def test_markdown_shows_markup_as_it_is() -> None:
    out = io.BytesIO()
    tables.rows(("a|b",), [("<b>_x_</b>|`\x1b",)], Output(format="markdown"), out)
    assert out.getvalue() == b"| a\\|b |\n| --- |\n| \\<b\\>\\_x\\_\\</b\\>\\|\\`\\\\x1b |\n"


def test_a_column_that_is_not_there_names_the_nearest(invoke: Invoke, long_names: Path) -> None:
    for command in ("query", "top"):
        result = invoke(command, long_names, "--columns", "byts")
        assert (result.exit_code, result.stdout, result.stderr) == (
            2,
            "",
            "Error: 'byts' is not a column\nTry: --columns bytes\n",
        )
    assert invoke("query", long_names, "--columns", "nope").stderr == (
        "Error: 'nope' is not a column\nTry: --columns time,lasted,node,source,src,src_workload,"
        "destination,nat_dst, and the keys of -o jsonl\n"
    )


@pytest.mark.parametrize(
    ("zone", "title", "times"),
    [
        ("Europe/Berlin", "TIME (+01:00)", ["2024-11-25 19:47:25", "2024-11-25 19:47:26"]),
        ("Asia/Kathmandu", "TIME (+05:45)", ["2024-11-26 00:32:25", "2024-11-26 00:32:26"]),
        ("America/St_Johns", "TIME (-03:30)", ["2024-11-25 15:17:25", "2024-11-25 15:17:26"]),
        ("UTC", "TIME (UTC)", ["2024-11-25 18:47:25", "2024-11-25 18:47:26"]),
    ],
)
def test_times_are_those_of_the_zone_that_is_set(
    long_names: Path, zone: str, title: str, times: list[str]
) -> None:
    command = [sys.executable, "-m", "ctk", "query", long_names, "--last", "2"]
    environment = os.environ | {"TZ": zone}
    shown = subprocess.check_output([*command, "--columns", "time"], env=environment, text=True)
    assert shown.splitlines() == [title, *times]
    shown = subprocess.check_output(
        [*command, "--columns", "time", "--utc"], env=environment, text=True
    )
    assert shown.splitlines()[0] == "TIME (UTC)"
    shown = subprocess.check_output(
        [*command, "--columns", "time", "-o", "csv"], env=environment, text=True
    )
    assert shown.splitlines()[1] == "2024-11-25T18:47:25.852716307Z"


def test_a_time_of_the_other_half_of_the_year_has_its_own_offset() -> None:
    code = (
        "from ctk.render.cells import Clock\n"
        "clock = Clock(utc=False)\n"
        "july, november = 1720000000 * 10**9, 1732560442 * 10**9\n"
        "zone = clock.zone(november)\n"
        "print(zone, clock.spell(november, zone), clock.spell(july, zone), sep='|')\n"
    )
    environment = os.environ | {"TZ": "Europe/Berlin"}
    shown = subprocess.check_output([sys.executable, "-c", code], env=environment, text=True)
    assert shown == "+01:00|2024-11-25 19:47:22|2024-07-03 11:46:40+02:00\n"


def on_a_terminal(
    *words: object, columns: int = 80, lines: int = 24, **environment: str
) -> tuple[str, int]:
    """Run ctk with a terminal for its output, and give what was shown and the exit code."""
    shown, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    unset = {"COLUMNS", "LINES", "NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "PAGER", "CTK_PAGER"}
    inherited = {name: value for name, value in os.environ.items() if name not in unset}
    with subprocess.Popen(
        [sys.executable, "-m", "ctk", *map(str, words)],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env=inherited | {"TERM": "xterm", "TZ": "UTC"} | environment,
    ) as process:
        os.close(terminal)
        text = b""
        with suppress(OSError), os.fdopen(shown, "rb", buffering=0) as file:  # its end is an EIO
            while some := file.read(1 << 16):
                text += some
    return text.decode().replace("\r\n", "\n"), process.returncode


def test_failures_stand_out_where_colour_is_wanted(long_names: Path) -> None:
    words = ("query", long_names, "--columns", "failed", "--first", "2")
    plain = "FAILED\n     0\n     7\n"
    coloured = "\x1b[1mFAILED\x1b[0m\n     0\n\x1b[31m     7\x1b[0m\n"
    assert on_a_terminal(*words) == (coloured, 0)
    assert on_a_terminal(*words, NO_COLOR="1") == (plain, 0)
    assert on_a_terminal(*words, NO_COLOR="") == (coloured, 0)
    assert on_a_terminal(*words, CLICOLOR="0") == (plain, 0)
    assert on_a_terminal(*words, TERM="dumb") == (plain, 0)
    piped = [sys.executable, "-m", "ctk", *map(str, words)]
    for environment, shown in (
        ({}, plain),
        ({"CLICOLOR_FORCE": "1"}, coloured),
        ({"CLICOLOR_FORCE": "1", "NO_COLOR": "1"}, plain),
    ):
        found = subprocess.check_output(piped, env=os.environ | environment, text=True)
        assert found == shown


def test_a_table_that_is_longer_than_the_screen_is_paged(long_names: Path) -> None:
    words = ("query", long_names, "--columns", "failed")
    pager = "sed s/^/paged:/"
    whole = "FAILED\n     0\n     7\n     3\n     0\n     0\n"
    paged = "".join(f"paged:{line}\n" for line in whole.splitlines())
    settings = {"NO_COLOR": "1", "CTK_PAGER": pager}
    assert on_a_terminal(*words, lines=6, **settings) == (paged, 0)
    assert on_a_terminal(*words, lines=7, **settings) == (whole, 0)
    assert on_a_terminal(*words, "--no-pager", lines=6, **settings) == (whole, 0)
    assert on_a_terminal(*words, lines=6, NO_COLOR="1", PAGER=pager) == (paged, 0)
    assert on_a_terminal(*words, lines=6, NO_COLOR="1", PAGER=pager, CTK_PAGER="") == (whole, 0)
    # One that is not there, or is left at once, costs nothing.
    assert on_a_terminal(*words, lines=6, NO_COLOR="1", PAGER="no-such-pager") == (whole, 0)
    assert on_a_terminal(*words, lines=6, NO_COLOR="1", PAGER="head -n 2") == (whole[:14], 0)
    piped = [sys.executable, "-m", "ctk", *map(str, words)]
    assert subprocess.check_output(piped, env=os.environ | settings, text=True) == whole


def test_what_was_left_out_is_said_below_the_table(long_names: Path) -> None:
    shown, code = on_a_terminal("top", long_names, "--limit", "1", NO_COLOR="1", columns=60)
    *_, total, said, goes_on = shown.splitlines()
    assert (total.split()[0], code) == ("total", 0)
    assert said == "too narrow for CONNS, PACKETS, %: -o wide or -o vertical has"
    assert goes_on == "all"


def shown(words: str, width: int, *, locale: str = "C.UTF-8") -> list[str]:
    """Run a command on a terminal of this width, without colour; give its lines."""
    said, code = on_a_terminal(
        *words.split(), "--no-pager", columns=width, lines=50, LC_ALL=locale, NO_COLOR="1"
    )
    assert code == 0, said
    return said.replace("\r", "").splitlines()


def test_who_could_not_reach_what_since_when_stays_longest(long_names: Path) -> None:
    """
    Where a backend tells what was dialled, its service goes; at 60 columns one count is of both.

    The note below is folded between words, and nowhere within what is typed.
    """
    head, *rows, said, goes_on = shown(f"failures {long_names}", 60)
    assert head.split("  ")[-2:] == ["FAILED", "SINCE (UTC)"]
    assert [row.split()[-3:] for row in rows] == [
        ["7", "11-25", "18:47:23"],
        ["3", "11-25", "18:47:24"],
    ]
    assert f"{said}\n{goes_on}" == (
        "too narrow for SERVICE, CONNS, REFUSED, UNREPLIED, %, LAST\n"
        "(UTC): -o wide or -o vertical has all"
    )
    assert shown(f"top {long_names} --by node --last 1", 42)[-2:] == [
        "too narrow for PACKETS: -o wide or",
        "-o vertical has all",
    ]


def test_numbers_of_changes_are_never_cut() -> None:
    heads = [Head("change"), Head("src", "name"), Head("port", "whole"), Head("bytes", "whole")]
    rows = [("changed", f"load/{LONG}aaaaa", "30080/tcp", "506.0 KiB → 235.0 KiB")]
    for width in (50, 54, 60):
        out = io.BytesIO()
        layout.table(heads, rows, Screen(width=width), out)
        *_, port, moved = out.getvalue().decode().splitlines()[1].split("  ")
        assert (port, moved) == ("30080/tcp", "506.0 KiB → 235.0 KiB")


ASCII = """\
SOURCE                  DESTINATION             CONNS  FAILED    BYTES  EACH 10s
load/checko~aaaa-xbqtz  shop/checko~bbbb-m7nrk     19       7  4.9 MiB  #_
"""


def test_a_terminal_of_ascii_gets_no_other_sign(long_names: Path) -> None:
    lines = shown(f"top {long_names} --spark --limit 1", 80, locale="C")
    assert lines[:2] == ASCII.splitlines()


def test_what_a_file_holds_fits_its_screen(shop: Path) -> None:
    with connect.writer(shop) as conn:
        conn.execute("UPDATE recording SET source = ?", (f"/captures/{'long/' * 20}x.gz",))
    lines = shown(f"info {shop}", 60)
    assert max(map(len, lines)) <= 60
    assert [line for line in lines if "lost" in line or "…" in line] == [
        "            /captures/long/long/long…ng/long/long/long/x.gz:",
        "            40 events, 1,204 lost",
        "gaps        2 gaps: 1,204 events lost, recorder down for 3s",
    ]
