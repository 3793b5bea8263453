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
from typing import Any

import pytest

import ctk
from ctk.model import Filters, Term
from ctk.render.cells import width
from ctk.report.livetable import Look, Seen, press, screen
from ctk.report.terminal import Asking

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


def test_enter_looks_into_a_row_and_escape_goes_back(seen: Seen) -> None:
    into = pressed(seen, "down", "enter")
    assert into.by == ("service", "dst_port")
    assert into.filters.terms == (
        Term("pod", "from", ("shop/web-1",), False),
        Term("pod", "to", ("shop/db-0",), False),
    )
    assert pressed(seen, "esc", look=into) == pressed(seen, "down")


def test_rates_are_of_the_time_between_two_looks(shop: Path) -> None:
    times = iter([0.0, 4.0])
    with ctk.open(shop) as recording:
        asking = Asking(recording, clock=lambda: next(times))
        first = asking.ask(LOOK)
        row = first.top.rows[0]
        grown = replace(row, counts=row.counts._replace(bytes=row.counts.bytes + 8_192))
        second = asking.ask(LOOK)
    second = replace(second, top=replace(second.top, rows=(grown, *second.top.rows[1:])))
    assert text_of(pressed(second, "c"), second)[4].endswith("0.0/s      0.0/s  2.0 KiB/s")
    assert text_of(LOOK, second)[4].endswith("+4.8 MiB")
    assert text_of(pressed(first, "c"), first)[4].endswith("?")


def test_what_a_file_says_is_no_command_to_a_terminal(seen: Seen) -> None:
    row = replace(seen.top.rows[0], keys=("\x1b[2J\x07", "b\nc"))
    hostile = replace(seen, top=replace(seen.top, rows=(row,)))
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
        (["--watch", "soon"], "Error: 'soon' is not an age\nTry: write it as 90s, 15m, 2h or 7d\n"),
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
