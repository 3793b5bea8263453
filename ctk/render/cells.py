"""
Values as people read them: a cell is text that is safe for a terminal, in the units of its kind.

One sign has one meaning: "-" is none, "?" is not known, and 0 is a count.
"""

import os
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Literal, NamedTuple
from unicodedata import category, east_asian_width

from ctk.render.encode import TSV, plain
from ctk.timespan import SECOND, format_age

CellKind = Literal[
    "text",  # any value as it is
    "name",  # text that may be shortened in the middle
    "number",  # any number as it is
    "count",
    "failures",  # a count that stands out where it is not 0
    "bytes",
    "share",  # in percent
    "rate",  # of a count, a second
    "bytes_rate",
    "time",  # nanoseconds since the epoch
    "age",  # nanoseconds
    "gap",  # text that stands out: something was lost
    "whole",  # text that is not shortened: a port, counts before and after
]

NONE, UNKNOWN = "-", "?"

# Kinds that stand at the right edge of their column.
NUMBERS = ("number", "count", "failures", "bytes", "share", "rate", "bytes_rate", "age")


class Head(NamedTuple):
    """
    A column as people see it; `key` is what `--columns` and programs call it.

    Where a line is too long for the screen, columns of the highest rank are left out first, before
    names are cut to where they are hard to read; those below 0 after that, and of rank 0 none.
    """

    key: str
    kind: CellKind = "text"
    rank: int = 0
    wide: bool = False  # shown only where all columns are
    title: str = ""

    @property
    def name(self) -> str:
        return self.title or self.key.upper().replace("_", " ")


# What would break a table, or tell a terminal what to do, is shown as what it is.
_CONTROLS = TSV | {i: f"\\x{i:02x}" for i in (*range(9), 11, 12, *range(14, 32), *range(127, 160))}
# What turns text around, so that a name reads as another, and what ends a line in some programs:
# https://www.unicode.org/reports/tr36/#Bidirectional_Text_Spoofing
_TURNING = (0x061C, 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A))
_CONTROLS |= {i: f"\\u{i:04x}" for i in _TURNING}


# In a line for programs that a terminal shows, as JSON writes it.
_SHOWN = {i: f"\\u{i:04x}" for i in _CONTROLS if i not in (9, 10, 92)}


def shown(line: bytes) -> bytes:
    """Give a line for programs as a terminal may show it; it stays JSON."""
    return line.decode().translate(_SHOWN).encode()


def safe(value: object) -> str:
    """Give a value as text that no terminal takes for a command."""
    return str(plain(value)).translate(_CONTROLS)


_TOLD = {i: spelled for i, spelled in _CONTROLS.items() if i not in (9, 10, 92)}


def told(text: str) -> str:
    """Give a sentence, with its lines, as one that no terminal takes for a command."""
    return text.translate(_TOLD)


# What a table draws beyond ASCII, where it can: an ellipsis, blocks, and what is not known.
_AS_ASCII = str.maketrans("…▁▂▃▄▅▆▇█·", "~_.:-=+*#?")


def ascii_only(text: str) -> str:
    """Write a text for a terminal that knows no more; other marks are shown by their number."""
    return text.translate(_AS_ASCII).encode("ascii", "backslashreplace").decode()


def takes_ascii_only(encoding: str | None) -> bool:
    """Say whether a terminal knows ASCII alone; a C that was asked for does."""
    if os.environ.get("LC_ALL") in ("C", "POSIX"):
        return True
    return (encoding or "utf-8").lower().replace("-", "") != "utf8"


class Clock:
    """Spells times in the local zone, which `TZ` names, or in UTC."""

    def __init__(self, *, utc: bool) -> None:
        self._utc = utc

    def zone(self, at_ns: int) -> str:
        """Name the zone at a time: "UTC", or its offset, which may change within a year."""
        return "UTC" if self._utc else _zone(at_ns // SECOND)

    def spell(self, at_ns: int, zone: str) -> str:
        """Write a time to the second; its offset follows where it is not that of `zone`."""
        text, own = _utc(at_ns // SECOND) if self._utc else _local(at_ns // SECOND)
        return text if own == zone else f"{text}{'+00:00' if own == 'UTC' else own}"


@lru_cache(maxsize=4096)
def _utc(at_s: int) -> tuple[str, str]:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(at_s)), "UTC"


@lru_cache(maxsize=4096)
def _local(at_s: int) -> tuple[str, str]:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at_s)), _zone(at_s)


def _zone(at_s: int) -> str:
    offset_s = time.localtime(at_s).tm_gmtoff
    if not offset_s:
        return "UTC"
    hours, minutes = divmod(abs(offset_s) // 60, 60)
    return f"{'-' if offset_s < 0 else '+'}{hours:02d}:{minutes:02d}"


def spell(kind: CellKind, value: object, clock: Clock, zone: str) -> str:
    """Give the cell of a value."""
    if value is None:
        return UNKNOWN if kind in _COUNTED else NONE
    if kind == "time" and isinstance(value, int):
        return clock.spell(value, zone)
    if kind in _SPELLED and isinstance(value, int | float):
        return _SPELLED[kind](value)
    return safe(value)


def _rate(value: float) -> str:
    """Write what happens in a second with three digits or all before the point: 0.012, 1,204."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value >= 0.001 or not value else "<0.001"


def scaled(size: float | None) -> str:
    """Write a number of bytes for people: 1,023 B, 12.3 KiB, 1.0 GiB."""
    if size is None:
        return UNKNOWN
    if size < 1024:
        return f"{size:.0f} B" if size >= 10 or size == int(size) else f"{size:.2g} B"
    amount = size / 1024
    units = ["EiB", "PiB", "TiB", "GiB", "MiB", "KiB"]
    unit = units.pop()
    while amount >= 1023.95 and units:  # where rounding would say 1024.0
        amount /= 1024
        unit = units.pop()
    return f"{amount:.1f} {unit}"


def _count(value: float) -> str:
    return f"{value:,}"


_SPELLED: dict[CellKind, Callable[[float], str]] = {
    "count": _count,
    "failures": _count,
    "bytes": scaled,
    "bytes_rate": lambda value: f"{scaled(value)}/s",
    "rate": _rate,
    "share": lambda value: f"{value:.1f}",
    "age": lambda value: format_age(int(value)),
}
# Kinds of which None says that they were not measured.
_COUNTED = tuple(_SPELLED)


def width(text: str) -> int:
    """Give how many columns of a terminal a text takes."""
    if text.isascii():
        return len(text)
    return sum(_width(mark) for mark in text)


def _width(mark: str) -> int:
    if category(mark) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if east_asian_width(mark) in "WF" else 1


def shorten(text: str, most: int) -> str:
    """
    Cut a text that is too wide in its middle.

    Names of pods begin with their workload and end with what tells them apart.
    """
    if width(text) <= most:
        return text
    head = tail = ""
    while True:
        longer = text[: len(head) + 1]
        if width(longer) + width(tail) + 1 > most:
            return f"{head}…{tail}"
        head = longer
        longer = text[-len(tail) - 1 :]
        if width(head) + width(longer) + 1 > most:
            return f"{head}…{tail}"
        tail = longer
