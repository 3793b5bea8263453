"""What `ctk record` says while it runs, and how it is told to stop."""

import logging
import math
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from ctk.errors import CtkError

if TYPE_CHECKING:
    from ctk.record.loop import Status
    from ctk.render.rotate import RotatingFile

log = logging.getLogger("ctk")

_ONE_SIGNAL_S = 1.0
_CLEAR = "\r\x1b[K"  # the line that is written over makes room for one that stays


class Progress:
    """One line that is written over on a terminal; a log line a minute elsewhere."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._every_s = 1.0 if self._terminal else 60.0
        self._told_s = time.monotonic()
        self._events = 0
        self._shown = False
        logging.basicConfig(
            level=logging.INFO,
            format=f"{_CLEAR}%(message)s"
            if self._terminal
            else "%(asctime)s %(levelname)s %(message)s",
        )

    def show(self, status: "Status") -> None:
        passed_s = time.monotonic() - self._told_s
        if passed_s < self._every_s:
            return
        rate = (status.events - self._events) / passed_s
        self._told_s += passed_s
        self._events = status.events
        line = (
            f"{rate:,.0f} events/s, {status.flows:,} flows, {status.live:,} live connections,"
            f" {status.gaps:,} gaps, {status.file_bytes / 2**20:,.1f} MiB"
        )
        if self._terminal:
            # One that wraps could not be written over.
            width = shutil.get_terminal_size().columns - 1
            click.echo(f"{_CLEAR}{line[:width]}", err=True, nl=False)
            self._shown = True
        else:
            log.info("%s", line)

    def clear(self) -> None:
        """Make room for a line that stays."""
        if self._shown:
            click.echo(_CLEAR, err=True, nl=False)
            self._shown = False

    def end(self) -> None:
        """Leave the line as it is."""
        if self._shown:
            click.echo(err=True)


class Stop:
    """
    Tells whether to stop: a first signal asks, a later one ends at once.

    `timeout` and others signal a process and its whole group: what comes twice is one signal.
    """

    def __init__(self, max_time_ns: int | None) -> None:
        self._deadline = None if max_time_ns is None else time.monotonic_ns() + max_time_ns
        self._asked = False
        self._asked_s = math.inf

    def __call__(self) -> bool:
        late = self._deadline is not None and time.monotonic_ns() >= self._deadline
        return self._asked or late

    def ask(self) -> None:
        self._asked = True

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        def ask(number: int, frame: object) -> None:
            self.ask()
            now_s = time.monotonic()
            if now_s > self._asked_s + _ONE_SIGNAL_S:
                signal.signal(number, signal.SIG_DFL)
                signal.raise_signal(number)
            self._asked_s = min(self._asked_s, now_s)

        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class Printer:
    """Standard output. When its reader goes away (`| head`), recording ends as by Ctrl-C."""

    def __init__(self, stop: Stop, progress: Progress) -> None:
        self._stop = stop
        self._progress = progress
        self._gone: BrokenPipeError | None = None

    def line(self, text: str | bytes) -> None:
        if self._gone is not None:
            return
        self._progress.clear()
        try:
            click.echo(text)
        except BrokenPipeError as error:
            self._gone = error
            self._stop.ask()

    def end(self) -> None:
        if self._gone is not None:
            raise self._gone


class LogLines:
    """A log file. While its disk is full lines are left out, and counted; recording goes on."""

    def __init__(self, file: "RotatingFile") -> None:
        self._file = file
        self._missed = 0

    def write(self, line: bytes) -> None:
        try:
            self._file.write(line)
        except CtkError as error:
            if not self._missed:
                log.warning("%s: its lines are left out, recording goes on", error.message)
            self._missed += 1
            return
        if self._missed:
            log.warning("%s is written again: %s lines are left out", self._file.path, self._missed)
            self._missed = 0
