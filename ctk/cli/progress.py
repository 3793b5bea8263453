"""What `ctk record` says on stderr while it runs."""

import logging
import math
import shutil
import sys
import time
from typing import TYPE_CHECKING, Self

import click

from ctk.record import progressline
from ctk.timespan import SECOND

if TYPE_CHECKING:
    from ctk.record.plan import Status

log = logging.getLogger("ctk")

_CLEAR = "\r\x1b[K"  # the start of the line, and nothing on it


class Progress:
    """
    Says how a recording goes: one line that is written over on a terminal, a log line a minute
    elsewhere, or each `every_ns`. It sets up logging, so that log lines and that line don't mix.
    """

    def __init__(self, every_ns: int | None = None) -> None:
        self._terminal = sys.stderr.isatty()
        self._every_s = 1.0 if self._terminal else 60.0
        if every_ns is not None:
            self._every_s = every_ns / SECOND
        self._told_s = time.monotonic()
        self._events = 0
        self._shown = False
        self._status: Status | None = None
        logging.basicConfig(
            level=logging.INFO,
            format=f"{_CLEAR}%(message)s"
            if self._terminal
            else "%(asctime)s.%(msecs)03dZ %(levelname)s %(message)s",
            datefmt="%Y-%m-%dT%H:%M:%S",
        )
        logging.Formatter.converter = time.gmtime  # as all times of ctk

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the line as it is."""
        if self._shown:
            self._echo("\n")

    def show(self, status: "Status") -> None:
        self._status = status
        passed_s = time.monotonic() - self._told_s
        if passed_s < self._every_s:
            return
        rate = (status.events - self._events) / passed_s
        self._told_s += passed_s
        self._events = status.events
        line = progressline.written(status, rate)
        if self._terminal:
            # A line that wraps could not be written over.
            width = shutil.get_terminal_size().columns - 1
            self._echo(f"{_CLEAR}{line[:width]}")
            self._shown = True
        else:
            log.info("%s", line)

    def ended(self) -> None:
        """Say what a capture came to, which may be read before any other line is due."""
        if self._status is not None:
            self.clear()
            self._echo(f"{progressline.ended(self._status)}\n")

    def clear(self) -> None:
        """Make room for a line that stays."""
        if self._shown:
            self._echo(_CLEAR)
            self._shown = False

    def told(self, text: str) -> None:
        """Say to a log what the line on a terminal tells by being there."""
        if not self._terminal:
            log.info("%s", text)

    def _echo(self, text: str) -> None:
        try:
            click.echo(text, err=True, nl=False)
        except OSError:  # the terminal was hung up, which ends a recording in its own way, or not
            self._every_s = math.inf
