"""
Where the cells of a table stand: as wide as its screen, and no narrower than it can be read.

Text may be shortened in the middle, down to `_READABLE`; where that is not enough, the columns of
the highest rank are left out, then text is shortened further, and what is too wide even so is
written as blocks. Without a screen lines are as long as they are.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any, NamedTuple

from ctk.render.cells import NUMBERS, Clock, Head, ascii_only, safe, shorten, spell, width
from ctk.render.pager import TableSink

TableRow = Sequence[Any]

# How many rows of a table are laid out together.
BATCH = 1_000
# A name of this many characters still shows whose it is and which: with ease, as one that is known,
# barely, and not always.
_READABLE, _KNOWN, _NARROW, _NARROWEST = 20, 15, 10, 7
_GAP = "  "
_EMPTY = 99  # the rank of a column without a value
_DATE = len("2026-")  # what a time loses where lines are too long: its year
_TIME = len("2026-11-24 08:00:40")

_BOLD, _RED, _YELLOW, _PLAIN = "\x1b[1m", "\x1b[31m", "\x1b[33m", "\x1b[0m"


class Screen(NamedTuple):
    """What a table is for. By default that is a pipe: lines of any length, and no colour."""

    width: int | None = None
    height: int | None = None
    colour: bool = False
    pager: str = ""  # the command; "" for none
    utc: bool = False
    ascii: bool = False
    # What is told of the columns that were left out, below the table.
    left_out: Callable[[Sequence[str]], None] = lambda titles: None

    def unbounded(self) -> "Screen":
        """Give the same without edges: what is too long for it is wrapped by the terminal."""
        return self._replace(width=None)


class _TableColumn:
    __slots__ = ("head", "short_time", "title", "width", "zone")

    def __init__(self, head: Head, title: str, zone: str, width: int) -> None:
        self.head = head
        self.title = title
        self.zone = zone
        self.width = width
        self.short_time = False

    def cell(self, text: str) -> str:
        if self.short_time and len(text) >= _TIME:
            text = text[_DATE:]
        return self.fitted(text)

    def fitted(self, text: str) -> str:
        text = shorten(text, self.width)
        pad = " " * (self.width - width(text))
        return f"{pad}{text}" if self.head.kind in NUMBERS else f"{text}{pad}"


def _columns(
    heads: Sequence[Head],
    titles: Sequence[str],
    zones: Sequence[str],
    widths: Sequence[int],
    rows: Sequence[TableRow],
) -> list[_TableColumn]:
    """Give the columns of a table; one with nothing in it is left out first, where it may be."""
    found = []
    for i, (head, title, zone, size) in enumerate(zip(heads, titles, zones, widths, strict=True)):
        is_empty = head.rank and rows and all(row[i] is None for row in rows)
        ranked = head._replace(rank=_EMPTY) if is_empty else head
        found.append(_TableColumn(ranked, title, zone, size))
    return found


def table(
    heads: Sequence[Head],
    rows: Iterable[TableRow],
    screen: Screen,
    out: TableSink,
    *,
    titled: bool = True,
) -> tuple[int, list[str]]:
    """
    Write a table a batch at a time, so that any number of rows can be written.

    Give their number, and the titles of the columns that were left out.
    """
    clock = Clock(utc=screen.utc)
    remaining = iter(rows)
    batch = list(islice(remaining, BATCH))
    zones, titles = _headed(heads, batch, clock)
    texts = list(_texts(heads, zones, clock, batch))
    natural = _widest(titles if titled else [""] * len(heads), texts)
    columns = _columns(heads, titles, zones, natural, batch)
    shown = list(range(len(heads)))
    if screen.width is not None:
        shown = _fit(columns, screen.width)
        if _sum(columns[i].width for i in shown) > screen.width and len(shown) > 1:
            return blocks(heads, chain(batch, remaining), screen, out), []
    if titled:
        line = _GAP.join(columns[i].fitted(titles[i]) for i in shown).rstrip()
        out.write(_encoded(f"{_painted(line, _BOLD, screen)}\n", screen))
    written = 0
    while texts:
        lines = []
        for row, cells in zip(batch, texts, strict=True):
            parts = [
                _painted(columns[i].cell(cells[i]), _paint(heads[i], row[i]), screen) for i in shown
            ]
            lines.append(_GAP.join(parts).rstrip() + "\n")
        out.write(_encoded("".join(lines), screen))
        written += len(batch)
        batch = list(islice(remaining, BATCH))
        texts = list(_texts(heads, zones, clock, batch))
        if screen.width is None and texts:
            # Columns grow from batch to batch, and never shrink.
            for column, size in zip(columns, _widest(titles, texts), strict=True):
                column.width = max(column.width, size)
    return written, [titles[i] for i in range(len(heads)) if i not in shown]


def shown_of(heads: Sequence[Head], rows: Sequence[TableRow], screen: Screen) -> list[Head]:
    """Give the columns of a table that its screen has room for."""
    if screen.width is None:
        return list(heads)
    clock = Clock(utc=screen.utc)
    zones, titles = _headed(heads, rows, clock)
    natural = _widest(titles, list(_texts(heads, zones, clock, rows)))
    columns = _columns(heads, titles, zones, natural, rows)
    return [heads[i] for i in _fit(columns, screen.width)]


def spare_width(heads: Sequence[Head], rows: Sequence[TableRow], screen: Screen) -> int:
    """Give how wide a further column of a table may be; 0 where the table fills its screen."""
    if screen.width is None:
        return 0
    clock = Clock(utc=screen.utc)
    zones, titles = _headed(heads, rows, clock)
    natural = _widest(titles, list(_texts(heads, zones, clock, rows)))
    return max(screen.width - _sum(natural) - len(_GAP), 0)


def blocks(heads: Sequence[Head], rows: Iterable[TableRow], screen: Screen, out: TableSink) -> int:
    """Write a line for each value, and an empty one between rows."""
    clock = Clock(utc=screen.utc)
    longest = max(width(head.key) for head in heads)
    written = 0
    for row in rows:
        lines = ["" if written else None]
        for head, value in zip(heads, row, strict=True):
            zone = clock.zone(value) if head.kind == "time" and value is not None else ""
            text = spell(head.kind, value, clock, zone) + (f" {zone}" if zone else "")
            pad = " " * (longest - width(head.key))
            text = _painted(text, _paint(head, value), screen)
            lines.append(f"{safe(head.key)}{pad}  {text}".rstrip())
        out.write(_encoded("".join(f"{line}\n" for line in lines if line is not None), screen))
        written += 1
    return written


_MARKS = str.maketrans({mark: f"\\{mark}" for mark in "\\`*_{}[]<>&|~!#"})


def markdown(
    heads: Sequence[Head], rows: Iterable[TableRow], screen: Screen, out: TableSink
) -> int:
    """Write a table as GitHub reads it; what would be markup there is shown as it is."""
    clock = Clock(utc=screen.utc)
    remaining = iter(rows)
    batch = list(islice(remaining, BATCH))
    zones, titles = _headed(heads, batch, clock)
    rule = ["---:" if head.kind in NUMBERS else "---" for head in heads]
    out.write(f"{_piped(title.translate(_MARKS) for title in titles)}{_piped(rule)}".encode())
    written = 0
    while batch:
        for cells in _texts(heads, zones, clock, batch):
            out.write(_piped(cell.translate(_MARKS) for cell in cells).encode())
        written += len(batch)
        batch = list(islice(remaining, BATCH))
    return written


def _piped(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |\n"


def _headed(
    heads: Sequence[Head], rows: Sequence[TableRow], clock: Clock
) -> tuple[list[str], list[str]]:
    """Give each column's zone, and its title with it."""
    zones = [_zone(head, rows, i, clock) for i, head in enumerate(heads)]
    titles = [
        f"{head.name} ({zone})" if zone else head.name
        for head, zone in zip(heads, zones, strict=True)
    ]
    return zones, titles


def _zone(head: Head, rows: Sequence[TableRow], at: int, clock: Clock) -> str:
    """Name the zone of the first time in a column of times; "" for any other column."""
    if head.kind != "time":
        return ""
    first = next((row[at] for row in rows if row[at] is not None), None)
    return "" if first is None else clock.zone(first)


def _texts(
    heads: Sequence[Head], zones: Sequence[str], clock: Clock, rows: Iterable[TableRow]
) -> Iterator[list[str]]:
    kinds = [head.kind for head in heads]
    for row in rows:
        yield [
            spell(kind, value, clock, zone)
            for kind, value, zone in zip(kinds, row, zones, strict=True)
        ]


def _widest(titles: Sequence[str], texts: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(width, column)) for column in zip(titles, *texts, strict=True)]


def _fit(columns: Sequence[_TableColumn], most: int) -> list[int]:
    """Shorten columns until their lines fit; give those that are shown."""
    every = list(range(len(columns)))
    if _sum(columns[i].width for i in every) <= most:
        return every
    for column in columns:
        if column.head.kind == "time" and column.width >= _TIME:
            column.short_time = True
            column.width = max(column.width - _DATE, len(column.title))
    # What the table is about is shown as long as names can be told apart, the rest as long as they
    # can be read.
    shown = [i for i in every if not columns[i].head.rank]
    for i in sorted(every, key=lambda i: (columns[i].head.rank > 0, abs(columns[i].head.rank))):
        rank, kind = columns[i].head.rank, columns[i].head.kind
        # A further name makes all of them shorter: it is here while they are known.
        least = _cut(columns, _READABLE if rank > 0 else _KNOWN if kind == "name" else _NARROW)
        if rank and _sum(least[j] for j in (*shown, i)) <= most:
            shown.append(i)
    shown.sort()
    least = _cut(columns, _READABLE)
    for narrower in (_NARROW, _NARROWEST):
        if _sum(least[i] for i in shown) > most:
            least = _cut(columns, narrower)
    # What is left goes to the narrowest of those that want more.
    spare = most - _sum(least[i] for i in shown)
    while spare > 0 and (wanting := [i for i in shown if least[i] < columns[i].width]):
        least[min(wanting, key=lambda i: least[i])] += 1
        spare -= 1
    for column, size in zip(columns, least, strict=True):
        column.width = size
    return shown


def _cut(columns: Sequence[_TableColumn], most: int) -> list[int]:
    """Give how wide columns are where names have no more than this."""
    return [
        min(column.width, most) if column.head.kind in ("name", "text") else column.width
        for column in columns
    ]


def _sum(widths: Iterable[int]) -> int:
    """Give the length of a line of such columns."""
    return sum(size + len(_GAP) for size in widths) - len(_GAP)


def _paint(head: Head, value: object) -> str:
    if head.kind == "failures" and value:
        return _RED
    return _YELLOW if head.kind == "gap" else ""


def _encoded(text: str, screen: Screen) -> bytes:
    return (ascii_only(text) if screen.ascii else text).encode()


def _painted(text: str, paint: str, screen: Screen) -> str:
    return f"{paint}{text}{_PLAIN}" if paint and screen.colour else text
