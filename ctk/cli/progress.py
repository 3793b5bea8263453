"""What `ctk record` says while it runs: one line on a terminal, log lines elsewhere."""

import logging
import sys
import time
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ctk.recorder import Status

log = logging.getLogger("ctk")


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
            format="%(message)s" if self._terminal else "%(asctime)s %(levelname)s %(message)s",
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
            click.echo(f"\r\x1b[K{line}", err=True, nl=False)
            self._shown = True
        else:
            log.info("%s", line)

    def end(self) -> None:
        """Leave the line as it is."""
        if self._shown:
            click.echo(err=True)
