"""The live table: what keys do, what a screen shows, and that a terminal is left as it was."""

import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from dataclasses import replace
from fcntl import ioctl
from pathlib import Path
from shutil import which
from typing import Any

import pytest
from edges import with_ids
from sample import AT, WEB_TO_CLIENT, WEB_TO_DB

import ctk
from ctk.ask.presets import expanded
from ctk.model import EventCounts, Filters, FlowRow, Term
from ctk.render.cells import width
from ctk.report.livetable import Look, Seen, ordered, press, screen
from ctk.report.terminal import Asking
from ctk.store import connect
from ctk.store.write import Writer

LOOK = Look(by=("source", "destination"), filters=Filters())


@pytest.fixture
def seen(shop: Path) -> Seen:
    with ctk.open(shop) as recording:
        top = recording.top(by=LOOK.by, limit=None)
    return Seen(top=top, title="shop.db  6 rows")


def text_of(look: Look, seen: Seen, columns: int = 80, rows: int = 12) -> list[str]:
    return [line.text.rstrip() for line in screen(look, seen, columns, rows)]


def pressed(seen: Seen, *keys: str, look: Look = LOOK) -> Look:
    for key in keys:
        after = press(look, key, seen, 5)
        assert after is not None
        look = after
    return look


def test_a_screen_of_80_columns(seen: Seen) -> None:
    assert text_of(LOOK, seen) == [
        "shop.db  6 rows",
        "by source,destination  totals",
        "SOURCE       DESTINATION                             CONNS     FAILED     BYTESv",
        "203.0.113.9  shop/web-1                                  2          0    4.8 MiB",
        "shop/web-1   shop/db-0                                   4          0   64.1 KiB",
        "shop/db-0    2001:db8::9                                 5          5      700 B",
        "shop/web-1   203.0.113.9                                 4          4      400 B",
        "shop/web-1   10.9.9.9                                    1          0      168 B",
        "n1           kube-system/cored…7c65d6cfc9-sq2br          1          0          ?",
        "q leave  ? help  Enter into  Esc back  / filter  < > sort",
    ]


@pytest.mark.parametrize("columns", [20, 40, 60, 80, 120, 200])
@pytest.mark.parametrize("rows", [3, 6, 24])
def test_nothing_is_wider_or_longer_than_the_screen(seen: Seen, columns: int, rows: int) -> None:
    for look in (LOOK, pressed(seen, "?"), pressed(seen, "/", "x"), pressed(seen, "down", "down")):
        lines = text_of(look, replace(seen, notes=("a" * 300,)), columns, rows)
        assert len(lines) <= rows
        assert max(map(width, lines)) <= columns


def test_keys_choose_what_is_sorted_by_and_how(seen: Seen) -> None:
    assert pressed(seen, ">").sort == "bytes_out"
    assert pressed(seen, "<", "<").sort == "connections"
    first = [line.split()[:2] for line in text_of(pressed(seen, "r"), seen)[3:5]]
    # What was not measured stays last, whatever the order.
    assert first == [["shop/web-1", "10.9.9.9"], ["shop/web-1", "203.0.113.9"]]


def test_a_filter_is_typed_in_the_command_lines_words(seen: Seen) -> None:
    look = pressed(seen, "/", *"namespace shop not port 53", "enter")
    assert look.filters.terms == (
        Term("namespace", "any", ("shop",), False),
        Term("port", "any", ("53",), True),
    )
    assert text_of(look, seen)[1].endswith("totals  --namespace shop --not --port 53")
    assert pressed(seen, "esc", look=look).filters.terms == ()
    wrong = pressed(seen, "/", *"pood x", "enter")
    assert text_of(wrong, seen)[1].startswith("'pood' is not a filter; try ")
    wrong = pressed(seen, "/", *"--faild", "enter")
    assert text_of(wrong, seen)[1].startswith("'faild' is not a filter; try ")


@pytest.mark.parametrize(
    ("word", "flags"),
    [
        ("web", "--pod *web*"),
        ("53", "--port 53"),
        ("10.9.0.0/16", "--ip 10.9.0.0/16"),
        ("fd00::1", "--ip fd00::1"),
        ("FD00::1", "--ip FD00::1"),
        ("failed", "--failed"),
    ],
)
def test_a_word_alone_is_looked_for(seen: Seen, word: str, flags: str) -> None:
    assert text_of(pressed(seen, "/", *word, "enter"), seen)[1].endswith(f"totals  {flags}")


def test_enter_looks_into_a_row_and_escape_goes_back(seen: Seen) -> None:
    into = pressed(seen, "down", "enter")
    assert into.by == ("dst_port", "proto")  # the pair is the same in all of these
    assert into.filters.terms == (
        Term("pod", "from", ("shop/web-1",), False),
        Term("pod", "to", ("shop/db-0",), False),
    )
    assert pressed(seen, "esc", look=into) == pressed(seen, "down")


@pytest.mark.parametrize(
    "preset", ["pods", "services", "workloads", "namespaces", "external", "ports", "pairs"]
)
def test_a_row_leads_to_its_peers_and_these_to_their_flows(shop: Path, preset: str) -> None:
    """Nothing is let in on the way: what the rows of each level count is the same."""
    with ctk.open(shop) as recording:
        asking = Asking(recording)
        look = Look(by=expanded([preset]), filters=Filters())
        row = ordered(look, asking.ask(look))[0][1]
        peers = pressed(asking.ask(look), "enter", look=look)
        seen = asking.ask(peers)
        assert seen.top.totals.connections == row.connections
        peer = ordered(peers, seen)[0][1]
        flows = pressed(seen, "enter", look=peers)
        seen = asking.ask(flows)
    assert flows.flows
    assert sum(flow.connections for flow in seen.flows) == peer.connections
    assert [flow.started_ns for flow in seen.flows] == sorted(
        (flow.started_ns for flow in seen.flows), reverse=True
    )
    shown = text_of(flows, replace(seen, notes=()), 120)
    assert shown[1].startswith("flows, the newest first")
    head, *lines = shown[2:-1]
    assert head.split()[:3] == ["TIME", "(UTC)", "SOURCE"]
    assert len(lines) == len(seen.flows)
    assert pressed(seen, "enter", look=flows) == flows
    assert pressed(seen, "esc", "esc", look=flows) == look


def test_a_row_of_no_service_is_looked_into(shop: Path) -> None:
    by = ("dst_workload", "service")
    with ctk.open(shop) as recording:
        asking = Asking(recording)
        look = Look(by=by, filters=Filters())
        seen = asking.ask(look)
        rows = ordered(look, seen)
        assert (None, None) in [keys for keys, _ in rows]
        for at, (_, counts) in enumerate(rows):
            into = pressed(seen, "enter", look=replace(look, chosen=at))
            assert asking.ask(into).top.totals == counts


def test_what_a_narrow_screen_cuts_ends_in_an_ellipsis(seen: Seen) -> None:
    noted = replace(seen, notes=("events were lost in a span of the recording: 3",))
    assert text_of(LOOK, noted, 40)[1] == "events were lost in a span of the recor…"
    shown = text_of(replace(LOOK, helping=True), seen, 40, 20)
    assert any(
        line.startswith("           or by the flags of") and line.endswith("…") for line in shown
    )


def test_a_row_that_no_filter_tells_says_so(seen: Seen) -> None:
    rows = (seen.top.rows[0]._replace(keys=("other", "shop/web-1")),)
    others = replace(seen, top=seen.top._replace(rows=rows))
    look = pressed(others, "enter")
    assert look.by == LOOK.by
    assert "cannot be looked into" in text_of(look, others)[1]
    assert pressed(others, "down", look=look).wrong == ""


def test_where_no_bytes_were_counted_connections_come_first(tmp_path: Path) -> None:
    path = tmp_path / "unmeasured.db"
    with connect.writer(path) as conn:
        writer = Writer(conn, node="n1", source="k", settings={}, started_ns=AT, boot_id=None)
        rows = [
            FlowRow(edge, AT, AT, None, count, count, 0, 0, 0, 0, None, None, None, None)
            for edge, count in ((WEB_TO_CLIENT, 1), (WEB_TO_DB, 9))
        ]
        writer.window(with_ids(writer, rows), committed_ns=AT, counters=EventCounts())
    with ctk.open(path) as recording:
        seen = Asking(recording).ask(LOOK)
    assert "CONNSv" in text_of(LOOK, seen)[2]
    assert [counts.connections for _, counts in ordered(LOOK, seen)] == [9, 1]
    assert pressed(seen, ">").sort == "failed"


def test_rates_are_of_the_time_between_two_looks(shop: Path) -> None:
    times = iter([0.0, 4.0])
    with ctk.open(shop) as recording:
        asking = Asking(recording, clock=lambda: next(times))
        first = asking.ask(LOOK)
        row = first.top.rows[0]
        grown = row._replace(counts=row.counts._replace(bytes=row.counts.bytes + 8_192))
        second = asking.ask(LOOK)
    second = replace(second, top=second.top._replace(rows=(grown, *second.top.rows[1:])))
    assert text_of(pressed(second, "c"), second)[4].endswith("0.0/s      0.0/s  2.0 KiB/s")
    assert text_of(LOOK, second)[4].endswith("+4.8 MiB")
    assert text_of(pressed(first, "c"), first)[4].endswith("?")


def test_what_a_file_says_is_no_command_to_a_terminal(seen: Seen) -> None:
    row = seen.top.rows[0]._replace(keys=("\x1b[2J\x07", "b\nc"))
    hostile = replace(seen, top=seen.top._replace(rows=(row,)))
    for line in text_of(LOOK, hostile):
        assert line.isprintable(), line


class Terminal:
    """`ctk top --watch` in a terminal of its own."""

    def __init__(self, db: Path, columns: int) -> None:
        words = [sys.executable, "-m", "ctk", "top", str(db), "--watch", "1s"]
        self.ours, theirs = pty.openpty()
        ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 20, columns, 0, 0))
        self.before = termios.tcgetattr(theirs)
        env = os.environ | {"TERM": "xterm-256color"}
        streams: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), theirs)
        self.process = subprocess.Popen(words, env=env, start_new_session=True, **streams)
        self.theirs = theirs
        self.said = b""

    def wait_for(self, text: bytes, seconds: float = 30) -> None:
        until = time.monotonic() + seconds
        while text not in self.said:
            assert time.monotonic() < until, (text, self.said[-2_000:])
            if select.select([self.ours], [], [], 0.2)[0]:
                self.said += os.read(self.ours, 65_536)

    def type(self, keys: bytes) -> None:
        self.said = b""
        os.write(self.ours, keys)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.ours)
        os.close(self.theirs)


@pytest.mark.parametrize(("end", "columns"), [("q", 60), ("Ctrl-C", 200), ("SIGTERM", 120)])
def test_a_terminal_is_left_as_it_was(shop: Path, end: str, columns: int) -> None:
    terminal = Terminal(shop, columns)
    try:
        terminal.wait_for(b"q leave")
        terminal.type(b"?")
        terminal.wait_for(b"turn the order round")
        terminal.type(b"x")
        terminal.wait_for(b"BYTES")
        if end == "q":
            terminal.type(b"q")
        else:
            terminal.process.send_signal(signal.SIGINT if end == "Ctrl-C" else signal.SIGTERM)
        terminal.wait_for(b"\x1b[?1049l")  # the screen of before is back
        assert terminal.process.wait(10) == 0
        assert b"Traceback" not in terminal.said
        assert termios.tcgetattr(terminal.theirs) == terminal.before
    finally:
        terminal.close()


class Tmux:
    """`ctk top --watch` in a shell in tmux."""

    def __init__(self, socket: Path, db: Path, columns: int) -> None:
        self._socket = socket
        watch = f"{sys.executable} -m ctk top {db} --by pods --watch 1s"
        size = ("-x", str(columns), "-y", "16")
        self("new-session", "-d", *size, f"PS1='$ ' sh -i -c '{watch}; sh'")

    def __call__(self, *words: str) -> str:
        command = ["tmux", "-S", str(self._socket), "-f", os.devnull, *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def press(self, *keys: str) -> None:
        self("send-keys", *keys)

    def lines(self, text: str) -> list[str]:
        """Wait for a text on the screen."""
        until = time.monotonic() + 30
        while text not in (shown := self("capture-pane", "-p")):
            assert time.monotonic() < until, shown
            time.sleep(0.05)
        return shown.splitlines()


def test_in_tmux_keys_work_and_nothing_wraps(shop: Path, tmp_path: Path) -> None:
    if which("tmux") is None:
        pytest.skip("tmux is not here: `make tools` brings it")
    terminals = {width: Tmux(tmp_path / str(width), shop, width) for width in (60, 80, 120, 200)}
    try:
        for columns, tmux in terminals.items():
            first = tmux.lines("q leave")
            assert first[2] == "by pod  totals"
            assert [line.split()[0] for line in first[3:5]] == ["POD", "shop/web-1"]
            tmux.press("Enter")
            tmux.lines("by source,destination,dst_port")
            tmux.press("Enter")
            assert "SOURCE" in tmux.lines("flows, the newest first")[3]
            tmux.press("Escape")
            tmux.lines("by source,")
            lines = tmux.lines("q leave")
            assert max(map(len, lines)) < columns
            assert [line.split()[0] for line in lines[3:5]] == ["SOURCE", "203.0.113.9"]
            tmux.press("C-c")
            tmux.lines("$")
            # The screen of before is back, and takes a command.
            tmux.press("echo all $((6*7)) well", "Enter")
            left = tmux.lines("all 42 well")
            assert not any("q leave" in line or "Traceback" in line for line in left)
    finally:
        for tmux in terminals.values():
            tmux("kill-server")


def test_without_a_terminal_a_table_a_look(shop: Path) -> None:
    words = [sys.executable, "-m", "ctk", "top", str(shop), "--watch", "1s", "-o", "jsonl"]
    with subprocess.Popen([*words, "--by", "proto"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(6)]
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
    assert lines[:3] == lines[3:]
    assert lines[0].startswith('{"proto":"tcp"')


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["--watch", "soon"],
            "Error: 'soon' is not a duration\nTry: write it as 90s, 15m, 2h or 7d\n",
        ),
        (["--watch", "0"], "Error: '0' is too short to look\nTry: --watch 2s\n"),
        (
            ["--watch", "--by", "pods", "--by", "ports"],
            "Error: --watch shows one list\nTry: give --by once\n",
        ),
        (
            ["--watch", "--limit", "3"],
            "Error: --watch shows all rows, of both sides, in totals\n"
            "Try: leave --rate, --side and --limit out; in it, c shows rates\n",
        ),
        (
            ["--watch", "--sort", "last_seen"],
            "Error: --watch cannot sort by last_seen\nTry: leave --watch out\n",
        ),
    ],
)
def test_what_can_not_be_watched(
    shop: Path, invoke: Callable[..., Any], words: list[str], said: str
) -> None:
    result = invoke("top", shop, *words)
    assert (result.exit_code, result.stderr) == (2, said)
