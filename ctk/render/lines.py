"""
Flows as lines, a page of them at a time.

What flows of one edge have in common is encoded once, as a template with places for what its rows
differ in, and SQLite makes the text of their numbers. So a row takes a third of the time that a
record takes which is encoded by itself.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from operator import itemgetter
from typing import Any, Literal, Protocol

from ctk.ask.edges import EdgeValues
from ctk.ask.flows import record_of
from ctk.ask.pages import ENDED, STARTED, Row
from ctk.render.encode import encoder
from ctk.store.columns import EDGE_KEYS, FLOW_COLUMNS, FLOW_KEYS, FlowRecord
from ctk.timespan import MINUTE, SECOND, minute_text

TimeUnit = Literal["ns", "us", "rfc3339"]


class Encoder(Protocol):
    """
    Makes lines of flows, with their ends, one of each row of a page.

    A line is empty where the form leaves that flow out. `header` comes before the first line.
    `takes_json` says which rows are taken.
    """

    takes_json: bool

    @property
    def header(self) -> bytes: ...

    def of_edge(self, values: EdgeValues) -> Any:
        """Give what `lines` is to be told of an edge."""

    def lines(self, rows: Sequence[Row], edges: Mapping[int, Any]) -> list[bytes]: ...

    def end(self) -> bytes:
        """Give what comes behind the last line, once."""


class Records:
    """Makes each line of a whole record; where that is empty, it has no end either."""

    header = b""
    takes_json = False

    def __init__(self, line: Callable[[FlowRecord], bytes]) -> None:
        self._line = line
        self.left_out = 0  # flows without a line

    def of_edge(self, values: EdgeValues) -> EdgeValues:
        return values

    def lines(self, rows: Sequence[Row], edges: Mapping[int, EdgeValues]) -> list[bytes]:
        made = (self._line(record_of(row, edges[row[2]])) for row in rows)
        lines = [line and line + b"\n" for line in made]
        self.left_out += lines.count(b"")
        return lines

    def end(self) -> bytes:
        return b""


# JSON never has it. In CSV, a name may: its flows are encoded one by one.
_MARK = "\0"
_started = itemgetter(STARTED)
_JSON = ENDED + 1
Template = list[bytes]  # pieces of a line: between two of them stands a value of the row


class Templates:
    """Makes lines of JSON, CSV or TSV, with the keys of a flow in their order."""

    takes_json = True

    def __init__(self, form: Literal["jsonl", "json", "csv", "tsv"], time: TimeUnit) -> None:
        self._is_json = form in ("json", "jsonl")
        self._keys = [key for key in (in_unit(key, time) for key in FLOW_KEYS) if key]
        self._encode = encoder("jsonl" if self._is_json else form, self._keys)
        self._unit = time
        self._marks = {key: self._mark(key) for key in self._keys if key not in EDGE_KEYS}
        # Every line of an array but the first has a comma before it.
        self._before, self._end = (b",\n", b"") if form == "json" else (b"", b"\n")
        self._is_first = form == "json"
        self.header = b"" if self._is_json else self._encode(self._keys) + b"\n"
        # Most pieces are names of counts, which the templates of all edges share.
        self._shared = {piece: piece for piece in self._pieces_of((None,) * len(EDGE_KEYS))}

    def end(self) -> bytes:
        """End an array, one without flows too."""
        if not self._before:
            return b""
        return b"[]\n" if self._is_first else b"]\n"

    def of_edge(self, values: EdgeValues) -> Template | tuple[Any, ...]:
        """Give the template of an edge; where it cannot have one, its values."""
        pieces = self._pieces_of(values)
        if len(pieces) != len(self._marks) + 1:
            return tuple(values)
        return [self._shared.get(piece, piece) for piece in pieces]

    def lines(
        self, rows: Sequence[Row], edges: Mapping[int, Template | tuple[Any, ...]]
    ) -> list[bytes]:
        made = self._lines(rows, edges)
        if self._is_first:
            made[0] = b"[" + made[0].removeprefix(self._before)
            self._is_first = False
        return made

    def _lines(
        self, rows: Sequence[Row], edges: Mapping[int, Template | tuple[Any, ...]]
    ) -> list[bytes]:
        # The last nine digits of a time are its fraction, but in and before the first second.
        if min(map(_started, rows)) < SECOND:
            return [self._by_itself(row, edges[row[2]]) for row in rows]
        is_json, unit, of_minute = self._is_json, self._unit, _OF_MINUTE
        minute, low_ns, high_ns = b"", 0, 0  # of the row before, which most share
        line = [b""] * (2 * len(self._marks) + 1)
        made = []
        for row in rows:
            _, _, edge_id, start_ns, end_ns, text = row
            template = edges[edge_id]
            if type(template) is tuple:
                made.append(self._by_itself(row, template))
                continue
            if not low_ns <= start_ns < high_ns:
                low_ns = start_ns - start_ns % MINUTE
                high_ns = low_ns + MINUTE
                minute = minute_text(low_ns // MINUTE).encode()
            started = minute + of_minute[(start_ns - low_ns) // SECOND]
            if low_ns <= end_ns < high_ns:
                ended = minute + of_minute[(end_ns - low_ns) // SECOND]
            else:
                ended = _up_to_second(end_ns)
            values = (text if is_json else text.replace(b"null", b""))[1:-1].split(b",")
            start, end = values[:2]
            if unit == "us":
                values[:2] = start[:-3], end[:-3]
            elif unit == "rfc3339":
                del values[:2]
            line[::2] = template
            line[1::2] = started + start[-9:], ended + end[-9:], *values
            made.append(b"".join(line))
        return made

    def _by_itself(self, row: Row, edge: Template | tuple[Any, ...]) -> bytes:
        """Make a line where a time is odd, or its edge has no template."""
        from orjson import loads

        blank = (None,) * len(EDGE_KEYS)
        of_edge = edge if isinstance(edge, tuple) else blank
        record = record_of((*row[:STARTED], *loads(row[_JSON])), of_edge)
        values = {key: self._value(record, key) for key in self._keys}
        if isinstance(edge, tuple):
            return self._before + self._encode(list(values.values())) + self._end
        null = b"null" if self._is_json else b""
        texts = [null if values[key] is None else str(values[key]).encode() for key in self._marks]
        places = [text.removesuffix(b"Z") for text in texts]
        return b"".join(chain.from_iterable(zip(edge, [*places, b""], strict=True)))

    def _pieces_of(self, values: EdgeValues) -> list[bytes]:
        named = self._marks | dict(zip(EDGE_KEYS, values, strict=True))
        line = self._encode([named[key] for key in self._keys])
        return (self._before + line + self._end).split(b"\0")

    def _value(self, record: FlowRecord, key: str) -> Any:
        if key.endswith("_us"):
            return getattr(record, key.replace("_us", "_ns")) // 1000
        return getattr(record, key)

    def _mark(self, key: str) -> Any:
        """Give what stands in a template for a value of the row: of a text, for all but its Z."""
        from orjson import Fragment

        is_text = key in FLOW_COLUMNS and FLOW_COLUMNS[key].time_of is not None
        mark = f"{_MARK}Z" if is_text else _MARK
        if not self._is_json:
            return mark
        return Fragment(f'"{mark}"' if is_text else mark)


def in_unit(key: str, time: TimeUnit) -> str | None:
    """Give the name that a key has where times are numbers of this unit, or none at all."""
    if key not in ("started_ns", "ended_ns"):
        return key
    return None if time == "rfc3339" else key.replace("_ns", f"_{time}")


_OF_MINUTE = [b"%02d." % second for second in range(60)]


def _up_to_second(time_ns: int) -> bytes:
    minute, in_minute_ns = divmod(time_ns, MINUTE)
    return minute_text(minute).encode() + _OF_MINUTE[in_minute_ns // SECOND]
