"""
Flows as lines, a page of them at a time.

What flows of one edge have in common is encoded once, as a template with places for what its rows
differ in, and SQLite writes the counts, which end a line. So a row takes a third of the time that a
record takes which is encoded by itself.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from operator import itemgetter
from typing import Any, Literal, Protocol

from ctk.ask.edges import EdgeValues
from ctk.ask.flows import record_of
from ctk.ask.pages import STARTED, TEXT_KEYS, Row, RowText
from ctk.render.encode import encoder
from ctk.store.columns import EDGE_KEYS, FLOW_COLUMNS, FLOW_KEYS, FlowRecord
from ctk.timespan import MINUTE, SECOND, format_time, minute_text

TimeUnit = Literal["ns", "us", "rfc3339"]


class Encoder(Protocol):
    """
    Makes lines of flows, with their ends, one of each row of a page.

    A line is empty where the form leaves that flow out. `header` comes before the first line.
    It takes rows as `text`, or else as values.
    """

    @property
    def text(self) -> RowText | None: ...

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
    text = None

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
# The pieces before a line's start and end, these as numbers, its source port, and what follows it.
Template = tuple[bytes, bytes, bytes, bytes, bytes, bytes]


class Templates:
    """Makes lines of JSON, CSV or TSV, with the keys of a flow in their order."""

    def __init__(self, form: Literal["jsonl", "json", "csv", "tsv"], time: TimeUnit) -> None:
        self._is_json = form in ("json", "jsonl")
        keys = [key for key in (in_unit(key, time) for key in FLOW_KEYS) if key]
        self._keys = [key for key in keys if key not in TEXT_KEYS]
        self._encode = encoder("jsonl" if self._is_json else form, self._keys)
        self._unit = time
        self._marks = {key: self._mark(key) for key in self._keys if key not in EDGE_KEYS}
        # Every line of an array but the first has a comma before it.
        self._before, end = (b",\n", "") if form == "json" else (b"", "\n")
        self._is_first = form == "json"
        self.header = b"" if self._is_json else self._encode(keys) + b"\n"
        self._comma = b"\t" if form == "tsv" else b","
        if self._is_json:
            named = ",".join(f'"{key}":%s' for key in TEXT_KEYS)
            self.text = RowText(f"{named}}}{end}", "null")
        else:
            self.text = RowText(self._comma.decode().join(["%s"] * len(TEXT_KEYS)) + end, "")
        # Most pieces are names, which the templates of all edges share.
        self._shared = {piece: piece for piece in self._pieces_of((None,) * len(EDGE_KEYS))}

    def end(self) -> bytes:
        """End an array, one without flows too."""
        if not self._before:
            return b""
        return b"[]\n" if self._is_first else b"]\n"

    def of_edge(self, values: EdgeValues) -> Template | list[Any]:
        """Give the template of an edge; where it cannot have one, its values."""
        pieces = self._pieces_of(values)
        if len(pieces) != len(self._marks) + 1:
            return list(values)
        if self._unit == "rfc3339":
            pieces[2:2] = b"", b""
        to_start, to_end, to_start_ns, to_end_ns, to_port, rest = (
            self._shared.get(piece, piece) for piece in pieces
        )
        return to_start, to_end, to_start_ns, to_end_ns, to_port, rest

    def lines(self, rows: Sequence[Row], edges: Mapping[int, Template | list[Any]]) -> list[bytes]:
        made = self._lines(rows, edges)
        if self._is_first:
            made[0] = b"[" + made[0].removeprefix(self._before)
            self._is_first = False
        return made

    def _lines(self, rows: Sequence[Row], edges: Mapping[int, Template | list[Any]]) -> list[bytes]:
        # The last nine digits of a time are its fraction, but in and before the first second.
        if min(map(_started, rows)) < SECOND:
            return [self._by_itself(row, edges[row[2]]) for row in rows]
        of_minute, in_us, without = _OF_MINUTE, self._unit == "us", self._unit == "rfc3339"
        minute, low_ns, high_ns = b"", 0, 0  # of the row before, which most share
        null = self.text.null.encode()
        join = b"".join
        made = []
        for row in rows:
            _, _, edge_id, start_ns, end_ns, port, text = row
            template = edges[edge_id]
            if type(template) is list:
                made.append(self._by_itself(row, template))
                continue
            to_start, to_end, to_start_ns, to_end_ns, to_port, rest = template
            if not low_ns <= start_ns < high_ns:
                low_ns = start_ns - start_ns % MINUTE
                high_ns = low_ns + MINUTE
                minute = minute_text(low_ns // MINUTE).encode()
            ended, second = minute, (end_ns - low_ns) // SECOND
            if not low_ns <= end_ns < high_ns:
                ended, second = minute_text(end_ns // MINUTE).encode(), end_ns % MINUTE // SECOND
            start, end = b"%d" % start_ns, b"%d" % end_ns
            from_port = null if port is None else b"%d" % port
            started, to_second = of_minute[(start_ns - low_ns) // SECOND], of_minute[second]
            of_start, of_end = start[-9:], end[-9:]
            if in_us:
                start, end = start[:-3], end[:-3]
            elif without:
                start = end = b""
            made.append(
                join(
                    (
                        to_start, minute, started, of_start, to_end, ended, to_second, of_end,
                        to_start_ns, start, to_end_ns, end, to_port, from_port, rest, text,
                    )
                )
            )  # fmt: skip
        return made

    def _by_itself(self, row: Row, edge: Template | list[Any]) -> bytes:
        """Make a line where a time is odd, or its edge has no template."""
        _, _, _, start_ns, end_ns, port, text = row
        started, ended = format_time(start_ns), format_time(end_ns)
        numbers = [ns // 1000 if self._unit == "us" else ns for ns in (start_ns, end_ns)]
        if self._unit == "rfc3339":
            numbers = []
        if isinstance(edge, list):
            named = dict(zip(EDGE_KEYS, edge, strict=True))
            named |= dict(zip(self._marks, (started, ended, *numbers, port), strict=True))
            line: bytes = self._head(named) + text
            return line
        start, end = [b"%d" % number for number in numbers] or [b"", b""]
        from_port = self.text.null.encode() if port is None else b"%d" % port
        places = (started[:-1].encode(), ended[:-1].encode(), start, end, from_port, text)
        return b"".join(chain.from_iterable(zip(edge, places, strict=True)))

    def _pieces_of(self, values: EdgeValues) -> list[bytes]:
        return self._head(self._marks | dict(zip(EDGE_KEYS, values, strict=True))).split(b"\0")

    def _head(self, named: Mapping[str, Any]) -> bytes:
        """Make a line up to the counts."""
        line = self._encode([named[key] for key in self._keys])
        return self._before + (line[:-1] if self._is_json else line) + self._comma

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
