"""Sums over time, as a table, for programs, or a line of blocks for each group."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, BinaryIO

from ctk.ask.series import SERIES_COUNTS, SERIES_RATES, SERIES_TIMES, values
from ctk.render.cells import CellKind, Head
from ctk.render.tables import Output, answer
from ctk.timespan import format_age

if TYPE_CHECKING:
    from ctk.ask.series import Series, SeriesRow

_SHOWN = ("connections", "failed", "bytes")
_FAILURES = ("failed", "refused", "unreplied")
_BLOCKS = "▁▂▃▄▅▆▇█"
_NOT_KNOWN = "·"
_ALL = "all"  # the group of a series without keys


def series(found: "Series", output: Output, out: BinaryIO) -> None:
    """Write every step; one of which nothing is known has no counts."""
    if not (output.for_people or output.format == "name"):
        keys = (*SERIES_TIMES, *found.by, *SERIES_COUNTS, *SERIES_RATES)
        answer([Head(key) for key in keys], map(values, found.rows), output, out)
        return
    counts = [count for count in SERIES_COUNTS if count in (*_SHOWN, found.sort)]
    heads = [
        Head("time", "time"),
        *(Head(key, "name") for key in found.by),
        *(
            Head(count, _kind(count), int(count != found.sort), title=_title(count))
            for count in counts
        ),
        Head("per_s", _rate(found.sort), title="RATE" if _is_size(found.sort) else "/S"),
        Head("note", "gap"),
    ]
    lines = (
        (
            row.started_ns,
            *row.keys,
            *(None if row.counts is None else getattr(row.counts, count) for count in counts),
            row.per_s(found.sort),
            _note(row, found.step_ns),
        )
        for row in found.rows
    )
    answer(heads, lines, output, out)


def sparklines(found: "Series", output: Output, out: BinaryIO) -> None:
    """Write a line of blocks for each group: what sorts them by the second, up to their largest."""
    heads = [
        *(Head(key, "name") for key in found.by or ("flows",)),
        Head("series", "text", title=f"EACH {format_age(found.step_ns)}"),
        Head("total", _kind(found.sort), 1, title=_title(found.sort)),
        Head("most_per_s", _rate(found.sort), title="MOST/S"),
    ]
    answer(heads, _lines(found), output, out)


def drawn(found: "Series") -> dict[tuple[object, ...], str]:
    """Give the line of blocks of each group."""
    return {keys: blocks(*_rates(rows, found.sort)) for keys, rows in _groups(found).items()}


def _lines(found: "Series") -> Iterator[tuple[object, ...]]:
    for keys, rows in _groups(found).items():
        known = [None if row.counts is None else getattr(row.counts, found.sort) for row in rows]
        measured = [count for count in known if count is not None]
        rates, most = _rates(rows, found.sort)
        total = sum(measured) if measured else None
        yield (*(keys or (_ALL,)), blocks(rates, most), total, most)


def _groups(found: "Series") -> "dict[tuple[object, ...], list[SeriesRow]]":
    groups: dict[tuple[object, ...], list[SeriesRow]] = {}
    for row in found.rows:
        groups.setdefault(row.keys, []).append(row)
    return groups


def _rates(rows: "Sequence[SeriesRow]", sort: str) -> tuple[list[float | None], float | None]:
    rates = [row.per_s(sort) for row in rows]
    return rates, max((rate for rate in rates if rate is not None), default=None)


def blocks(rates: Sequence[float | None], most: float | None) -> str:
    """Draw rates: the lowest block is 0, the highest the most."""
    highest = len(_BLOCKS) - 1
    return "".join(
        _NOT_KNOWN
        if rate is None
        else _BLOCKS[0]
        if not rate or not most
        else _BLOCKS[max(1, round(rate / most * highest))]
        for rate in rates
    )


def _note(row: "SeriesRow", step_ns: int) -> str:
    if not row.recorded_ns:
        return "not recorded"
    notes = [] if row.is_whole else ["not known" if row.counts is None else "perhaps more"]
    if row.recorded_ns < step_ns:
        notes.append(f"recorded {format_age(row.recorded_ns)}")
    return ", ".join(notes)


def _is_size(count: str) -> bool:
    return count.startswith("bytes")


def _kind(count: str) -> CellKind:
    return "bytes" if _is_size(count) else "failures" if count in _FAILURES else "count"


def _rate(count: str) -> CellKind:
    return "bytes_rate" if _is_size(count) else "rate"


def _title(count: str) -> str:
    return {"connections": "CONNS", "bytes_out": "OUT", "bytes_in": "IN"}.get(count, "")
