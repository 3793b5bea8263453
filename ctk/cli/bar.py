"""Bars on the terminal that say how far a long answer is."""

import shutil
import sys
import threading
import time
from typing import Self

import click

_EVERY_S = 0.2
_QUICK_S = 1.0
_CLEAR = "\r\x1b[K"  # the start of the line, and nothing on it


class Bar:
    """One line on stderr that is written over, and gone at the end; nothing where nobody looks."""

    def __init__(self, *, shown: bool) -> None:
        self._shown = shown and sys.stderr.isatty()
        self._began_s = time.monotonic()
        # What is over in a moment needs no bar.
        self._next_s = self._began_s + 2 * _EVERY_S

    def show(self, part: float, count: int) -> None:
        """Say that so many flows, `part` of the time they are of, are done."""
        now_s = time.monotonic()
        if not self._shown or now_s < self._next_s:
            return
        self._next_s = now_s + _EVERY_S
        passed_s = now_s - self._began_s
        left = f", {passed_s * (1 - part) / part:,.0f}s left" if part > 0 else ""
        _draw(part, f"{count:,} flows, {count / passed_s:,.0f}/s{left}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._shown:
            click.echo(_CLEAR, err=True, nl=False)


class Stages:
    """
    A bar of what is done in stages: which it is at, and for how long it has been at work.

    A thread draws it, since a stage may be one long question to SQLite.
    """

    def __init__(self, after_s: float = _QUICK_S) -> None:
        self._after_s = after_s
        self._part, self._doing = 0.0, ""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def at(self, part: float, doing: str) -> None:
        """Say that `part` of all is done, and what comes next."""
        self._part, self._doing = part, doing

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        began_s = time.monotonic()
        if self._over.wait(self._after_s):
            return
        while not self._over.wait(_EVERY_S):
            _draw(self._part, f"{self._doing}, {time.monotonic() - began_s:,.0f}s")
        click.echo(_CLEAR, err=True, nl=False)


def _draw(part: float, said: str) -> None:
    text = f" {part:4.0%} {said}"
    width = shutil.get_terminal_size().columns - 1
    room = min(40, width - len(text) - 2)
    done = round(part * room)
    bar = f"[{'#' * done}{'.' * (room - done)}]" if room > 0 else ""
    click.echo(f"{_CLEAR}{(bar + text)[:width]}", err=True, nl=False)
