"""
A series as a picture of text: bytes, connections and failures over time, as wide as its screen.

A column is a step, or several columns are; the highest is the most of any step. A step of which
nothing is known is hatched, and one that a gap makes too small has a mark below it.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from ctk.render.cells import UNKNOWN, Clock, scaled
from ctk.render.layout import Screen
from ctk.timespan import DAY, MINUTE, format_age

if TYPE_CHECKING:
    from ctk.ask.series import Series, SeriesRow

_LEAST_WIDTH, _WIDTH, _MOST_WIDTH = 60, 80, 200
_ROWS = 4  # of a chart
_SCALE = len("1,023.9 KiB")
_WIDEST_STEP = 6
_RED, _YELLOW, _BOLD, _PLAIN = "\x1b[31m", "\x1b[33m", "\x1b[1m", "\x1b[0m"


class Marks(NamedTuple):
    """What a picture is drawn with: levels from nothing to a whole cell, and the other signs."""

    levels: str
    unknown: str  # fills a column of which nothing is known
    gap: str  # below a column that is perhaps too small
    edge: str  # of the scale
    corner: str
    line: str
    tick: str


BLOCKS = Marks(" ▁▂▃▄▅▆▇█", "░", "!", "│", "└", "─", "┬")
ASCII = Marks(" .:#", "?", "!", "|", "+", "-", "+")


Spell = Callable[[int | None], str]
PictureColumn = Sequence["SeriesRow"]  # one step, or as many as a column stands for


def steps_that_fit(screen: Screen) -> int:
    """Give how many steps have a column of their own."""
    return _width(screen) - _SCALE - 2


def _width(screen: Screen) -> int:
    return min(max(screen.width or _WIDTH, _LEAST_WIDTH), _MOST_WIDTH)


def timeline(found: "Series", screen: Screen, out: BinaryIO, *, plain: bool = False) -> None:
    """Write the picture of a series without keys; `plain` is in ASCII."""
    lines = _Picture(found, screen, ASCII if plain else BLOCKS).lines() if found.rows else ()
    out.write("".join(f"{line}\n" for line in lines).encode())


class _Picture:
    def __init__(self, found: "Series", screen: Screen, marks: Marks) -> None:
        self._rows, self._step_ns = found.rows, found.step_ns
        self._screen, self._marks = screen, marks
        self._clock = Clock(utc=screen.utc)
        self._zone = self._clock.zone(found.rows[0].started_ns)
        self._room = steps_that_fit(screen)
        self._columns = self._cut()

    def lines(self) -> Iterator[str]:
        yield from self._span()
        charts: tuple[tuple[str, str, Spell, str], ...] = (
            ("bytes", "bytes", scaled, ""),
            ("connections", "connections", _counted, ""),
            ("failures", "failed", _counted, _RED),
        )
        for title, count, spelled, paint in charts:
            yield ""
            yield from self._chart(title, count, spelled, paint)
        yield from self._axis()
        yield from self._gaps()

    def _cut(self) -> list[PictureColumn]:
        """Give the steps behind each column: several columns have the same, or one has several."""
        rows, room, steps = self._rows, self._room, len(self._rows)
        if steps <= room:
            wide = min(room // steps, _WIDEST_STEP)
            return [[row] for row in rows for _ in range(wide)]
        return [rows[at * steps // room : (at + 1) * steps // room] for at in range(room)]

    def _span(self) -> Iterator[str]:
        began = self._clock.spell(self._rows[0].started_ns, self._zone)
        ended = self._clock.spell(self._rows[-1].started_ns + self._step_ns, self._zone)
        if began[:_DAY] == ended[:_DAY]:
            ended = ended[_DAY:].lstrip()
        span = f"{began} to {ended} ({self._zone})"
        each = f"steps of {format_age(self._step_ns)}"
        if len(self._rows) > self._room:
            each += ", the most of several in a column"
        both = f"{span}, {each}"
        yield from [both] if len(both) <= _width(self._screen) else [span, each]

    def _chart(self, title: str, count: str, spelled: Spell, paint: str) -> Iterator[str]:
        """Yield a chart, from its title to its lowest row."""
        title = self._painted(title, _BOLD)
        known = _known(self._rows, count)
        if not known:
            yield f"{title}: {self._why_none(count)}"
            return
        most, each = max(known), format_age(self._step_ns)
        if not most and all(row.counts is not None for row in self._rows):
            yield f"{title}: 0"
            return
        yield f"{title}: {spelled(sum(known))}, at most {spelled(most)} in {each}"
        heights = [self._height(column, count, most) for column in self._columns]
        levels, unknown = self._marks.levels, self._marks.unknown
        full = len(levels) - 1
        for row in reversed(range(_ROWS)):
            line = "".join(
                unknown if height is None else levels[min(max(height - row * full, 0), full)]
                for height in heights
            ).rstrip()
            scale = {_ROWS - 1: spelled(most) if most else "", 0: "0"}.get(row, "")
            yield f"{scale:>{_SCALE}} {self._marks.edge}{self._painted(line, paint)}".rstrip()

    def _why_none(self, count: str) -> str:
        """Say why nothing of a count is known."""
        if not any(row.recorded_ns for row in self._rows):
            return "not recorded"
        return "not measured" if count == "bytes" else "not known"

    def _height(self, column: PictureColumn, count: str, most: int) -> int | None:
        """Give the levels of a column, its highest step's; what is there is seen, however small."""
        known = _known(column, count)
        if not known:
            return None
        full = _ROWS * (len(self._marks.levels) - 1)
        return max(round(max(known) / most * full), 1) if max(known) else 0

    def _axis(self) -> Iterator[str]:
        """Yield the line below the charts, and its times."""
        times, ticks = "", ""
        for at, column in enumerate(self._columns):
            if at and (at < len(times) + 2 or column[0] is self._columns[at - 1][0]):
                continue
            text = self._moment(column[0].started_ns)
            if at + len(text) <= self._room:
                times = f"{times:<{at}}{text}"
                ticks = f"{ticks:{self._marks.line}<{at}}{self._marks.tick}"
        line = f"{ticks:{self._marks.line}<{len(self._columns)}}"
        yield f"{'':{_SCALE}} {self._marks.corner}{line}"
        yield f"{'':{_SCALE}}  {times}"

    def _moment(self, at_ns: int) -> str:
        """Write a time no finer than steps are."""
        text = self._clock.spell(at_ns, self._zone)[: len("2026-11-24 08:00:40")]
        lasts_ns = len(self._rows) * self._step_ns
        if self._step_ns >= DAY:
            return text[:_DAY]
        if lasts_ns > DAY:
            return text[len("2026-") : -len(":40")]
        return text[_DAY + 1 :] if self._step_ns < MINUTE else text[_DAY + 1 : -len(":40")]

    def _gaps(self) -> Iterator[str]:
        """Yield what of the picture is unsure; nothing where nothing is."""
        unsure = "".join(
            self._marks.gap if any(row.counts and not row.is_whole for row in column) else " "
            for column in self._columns
        ).rstrip()
        told = []
        if unsure:
            yield f"{'gaps':>{_SCALE}}  {self._painted(unsure, _YELLOW)}"
            told.append(f"{self._marks.gap} perhaps more: a gap is in it")
        if unknown := [row for row in self._rows if row.counts is None]:
            recorded = any(row.recorded_ns for row in unknown)
            told.append(f"{self._marks.unknown} {'not known' if recorded else 'not recorded'}")
        if told:
            yield f"{'':{_SCALE}}  {self._painted(', '.join(told), _YELLOW)}"

    def _painted(self, text: str, paint: str) -> str:
        return f"{paint}{text}{_PLAIN}" if paint and text.strip() and self._screen.colour else text


_DAY = len("2026-11-24")


def _known(rows: PictureColumn, count: str) -> list[int]:
    """Give what is known of a count, each step's."""
    each = [getattr(row.counts, count) for row in rows if row.counts is not None]
    return [value for value in each if value is not None]


def _counted(count: int | None) -> str:
    return UNKNOWN if count is None else f"{count:,}"
