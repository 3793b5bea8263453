"""What `ctk collect` says on stderr while it runs: a line a node, or log lines."""

import math
import shutil
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Self

import click

from ctk.render.cells import safe, scaled, shorten

if TYPE_CHECKING:
    from ctk.fleet.recorders import NodeRecorder

_CLEAR = "\r\x1b[K"  # the start of the line, and nothing on it
_TITLES = ("NODE", "STATE", "EVENTS/S", "FLOWS", "GAPS", "SIZE")
_LEFT = 2  # columns that begin at the left
_LOG_EVERY_S = 60.0
_DRAW_EVERY_S = 0.5


class NodeLines:
    """
    On a terminal, a table that is written over; elsewhere, a log line for each node that changes
    its state, and one for all a minute. Any thread may show and say.
    """

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._lines = 0  # that stand, and are written over
        self._states: dict[str, str] = {}
        self._doing = ""
        self._next_s = 0.0
        self._writing = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Leave room for what came of it."""
        self._wipe()

    def show(self, doing: str, recorders: Sequence["NodeRecorder"]) -> None:
        """Show how it goes."""
        with self._writing:
            if self._terminal:
                self._draw(doing, recorders)
            else:
                self._log(doing, recorders)

    def say(self, text: str) -> None:
        """Say something that stays, above the table."""
        with self._writing:
            if self._terminal:
                self._wipe()
                self._echo(f"{safe(text)}\n")
            else:
                self._echo(f"{_now()} WARNING {safe(text)}\n")
            self._next_s = 0.0

    def _draw(self, doing: str, recorders: Sequence["NodeRecorder"]) -> None:
        changed = doing.partition(",")[0] != self._doing
        now_s = time.monotonic()
        if now_s < self._next_s and not changed:
            return
        self._doing, self._next_s = doing.partition(",")[0], now_s + _DRAW_EVERY_S
        columns, rows = shutil.get_terminal_size()
        lines = list(_table(recorders, max(1, rows - 3), columns - 1))
        self._wipe()
        self._echo("".join(f"{line[: columns - 1]}\n" for line in (*lines, safe(doing))))
        self._lines = len(lines) + 1

    def _wipe(self) -> None:
        """Go back to where the table began, and clear it."""
        if self._lines:
            self._echo(f"\x1b[{self._lines}A\r\x1b[J")
            self._lines = 0

    def _log(self, doing: str, recorders: Sequence["NodeRecorder"]) -> None:
        for each in recorders:
            said = _state(each)
            if self._states.get(each.node) != said:
                self._states[each.node] = said
                self._echo(f"{_now()} INFO {each.node}: {said}\n")
        now_s = time.monotonic()
        if now_s >= self._next_s:
            self._next_s = now_s + _LOG_EVERY_S
            self._echo(f"{_now()} INFO {safe(doing)}: {_in_all(recorders)}\n")

    def _echo(self, text: str) -> None:
        try:
            click.echo(text, err=True, nl=False)
        except OSError:  # the terminal was hung up; what is under way ends well all the same
            self._next_s = math.inf


def _now() -> str:
    now_s = time.time()
    return (
        time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now_s)) + f".{int(now_s * 1e3) % 1000:03}Z"
    )


def _state(each: "NodeRecorder") -> str:
    why = each.why or (each.problem if each.state in ("ended", "kept") else "")
    return f"{each.state}: {safe(why)}" if why else each.state


def _in_all(recorders: Sequence["NodeRecorder"]) -> str:
    states = Counter(each.state for each in recorders)
    going = [each.going for each in recorders if each.going is not None]
    parts = [f"{count} {state}" for state, count in states.items()]
    if going:
        parts.append(f"{sum(each.events_s for each in going):,} events/s")
        parts.append(f"{sum(each.flows for each in going):,} flows")
        parts.append(f"{sum(each.gaps for each in going):,} gaps")
    return ", ".join(parts)


def _table(recorders: Sequence["NodeRecorder"], most: int, columns: int) -> Iterator[str]:
    """Yield a title and a line a node, as wide as their values; what has no room is counted."""
    shown = recorders if len(recorders) <= most else recorders[: most - 1]
    name_width = min(max(len("NODE"), *(len(each.node) for each in shown)), max(20, columns // 3))
    cells = [_TITLES, *(_cells(each, name_width) for each in shown)]
    widths = [max(len(row[at]) for row in cells) for at in range(len(_TITLES))]
    for row, each in zip(cells, (None, *shown), strict=True):
        line = "  ".join(
            f"{cell:<{width}}" if at < _LEFT else f"{cell:>{width}}"
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        why = each and (each.why or each.problem)
        if why:
            start = f"{row[0]:<{widths[0]}}  {row[1]}: "
            line = start + _cut(safe(why), max(1, columns - len(start)))
        yield line
    if len(shown) < len(recorders):
        left = Counter(each.state for each in recorders[len(shown) :])
        yield "and " + ", ".join(f"{count:,} {state}" for state, count in left.items())


def _cut(text: str, most: int) -> str:
    """Cut a sentence at its end, unlike a name."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _cells(each: "NodeRecorder", name_width: int) -> tuple[str, ...]:
    name = shorten(each.node, name_width)
    if each.state in ("fetching", "kept"):
        return (name, each.state, "", "", "", scaled(each.fetched_bytes))
    if each.going is None:
        return (name, each.state, "", "", "", "")
    going = each.going
    size = scaled(going.mib * 2**20)
    return (name, each.state, f"{going.events_s:,}", f"{going.flows:,}", f"{going.gaps:,}", size)
