"""The live table on a terminal, and as a stream where there is none."""

import curses
import os
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from signal import SIGINT, SIGTERM, default_int_handler, signal
from typing import TYPE_CHECKING

from ctk.ask.caveats import HasGaps
from ctk.ask.sums import Counts, Value
from ctk.render.cells import ascii_only, takes_ascii_only
from ctk.report.livetable import Look, Seen, Style, press, screen
from ctk.timespan import format_age

if TYPE_CHECKING:
    from ctk.ask.recording import Recording

_MOST_ROWS = 500  # more do not help who looks
_MOST_FLOWS = 200
_KEYS: Mapping[int, str] = {
    curses.KEY_UP: "up",
    curses.KEY_DOWN: "down",
    curses.KEY_PPAGE: "pgup",
    curses.KEY_NPAGE: "pgdn",
    curses.KEY_ENTER: "enter",
    curses.KEY_BACKSPACE: "backspace",
    10: "enter",
    13: "enter",
    27: "esc",
    127: "backspace",
    8: "backspace",
}


class Asking:
    """Asks the same question again and again, and keeps the answer before the last."""

    def __init__(self, recording: "Recording", clock: Callable[[], float] = time.monotonic) -> None:
        self._recording = recording
        self._clock = clock
        self._seen: Seen | None = None
        self._asked_s = 0.0
        self._question: object = None

    def ask(self, look: Look) -> Seen:
        """Give the answer of now."""
        question = (look.by, look.filters)
        if look.flows and self._seen is not None:
            return self._flows(look, self._seen)
        sort = look.sort or None
        top = self._recording.top(look.filters, by=look.by, sort=sort, limit=_MOST_ROWS)
        now_s = self._clock()
        earlier: Mapping[tuple[Value, ...], Counts] = {}
        apart_s = 0.0
        if self._seen is not None and question == self._question:
            earlier = {row.keys: row.counts for row in self._seen.top.rows}
            apart_s = now_s - self._asked_s
        gaps = [each.text for each in top.caveats if isinstance(each, HasGaps)]
        others = [each.text for each in top.caveats if not isinstance(each, HasGaps)]
        self._seen = Seen(
            top=top,
            earlier=earlier,
            apart_s=apart_s,
            title=self._title(f"{top.groups:,} rows"),
            notes=(*gaps, *others),
        )
        self._question, self._asked_s = question, now_s
        return self._seen

    def _flows(self, look: Look, seen: Seen) -> Seen:
        """Give the newest flows beside the last answer, which stays what rates are told from."""
        newest = look.filters._replace(first=None, last=_MOST_FLOWS)
        flows = self._recording.flows(newest)
        records = tuple(flows)[::-1]
        count = "1 flow" if len(records) == 1 else f"{len(records):,} flows"
        held = f"the last {count}" if len(records) == _MOST_FLOWS else count
        notes = tuple(each.text for each in flows.caveats)
        return replace(seen, flows=records, title=self._title(held), notes=notes)

    def _title(self, held: str) -> str:
        committed_ns, _ = self._recording.committed()
        age = format_age(max(time.time_ns() - committed_ns, 0)) if committed_ns else "never"
        name = self._recording.path.name
        return f"{name}  {held}  written {age} ago" if committed_ns else f"{name}  empty"


def watch(recording: "Recording", look: Look, every_s: float) -> None:
    """Show the table until `q`, SIGINT or SIGTERM; the terminal is left as it was."""
    signal(SIGTERM, default_int_handler)
    signal(SIGINT, default_int_handler)
    # One that was exported once says nothing of this terminal: lines would wrap.
    for name in ("COLUMNS", "LINES"):
        os.environ.pop(name, None)
    with suppress(KeyboardInterrupt):
        curses.wrapper(_run, Asking(recording), look, every_s)


def _run(window: "curses.window", asking: Asking, look: Look, every_s: float) -> None:
    styles, as_ascii = _styles(), takes_ascii_only(sys.stdout.encoding)
    curses.set_escdelay(25)
    window.keypad(True)
    seen = asking.ask(look)
    due_s = time.monotonic() + every_s
    while True:
        rows, columns = window.getmaxyx()
        window.erase()
        # The last column of the last row can't be written without scrolling.
        for at, line in enumerate(screen(look, seen, columns - 1, rows)):
            text = ascii_only(line.text) if as_ascii else line.text
            window.addnstr(at, 0, text, columns - 1, styles[line.style])
        window.refresh()
        window.timeout(max(int((due_s - time.monotonic()) * 1000), 0))
        pressed = _key(window)
        question = (look.by, look.filters, look.sort, look.flows)
        if pressed is not None:
            after = press(look, pressed, seen, max(rows - 6, 1))
            if after is None:
                return
            look = after
        if (look.by, look.filters, look.sort, look.flows) != question or (
            time.monotonic() >= due_s and not look.paused
        ):
            seen = asking.ask(look)
        if time.monotonic() >= due_s:
            due_s = time.monotonic() + every_s


def _key(window: "curses.window") -> str | None:
    try:
        pressed = window.get_wch()
    except curses.error:
        return None  # nothing was pressed in time
    if isinstance(pressed, int):
        return _KEYS.get(pressed)
    return _KEYS.get(ord(pressed), pressed)


def _styles() -> dict[Style, int]:
    red = 0
    if curses.has_colors():
        curses.use_default_colors()
        curses.init_pair(1, curses.COLOR_RED, -1)
        red = curses.color_pair(1)
    return {
        "head": curses.A_BOLD,
        "plain": 0,
        "selected": curses.A_REVERSE,
        "quiet": curses.A_DIM,
        "bad": red,
    }


def stream(
    recording: "Recording", look: Look, every_s: float, show: Callable[[Seen], None]
) -> None:
    """Without a terminal: show an answer every so often, until SIGINT or SIGTERM."""
    signal(SIGTERM, default_int_handler)
    asking = Asking(recording)
    with suppress(KeyboardInterrupt):
        while True:
            show(asking.ask(look))
            sys.stdout.flush()
            time.sleep(every_s)
