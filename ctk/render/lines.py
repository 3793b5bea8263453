"""
Flows as lines, a page of them at a time.

What flows of one edge have in common is encoded once, and SQLite writes what its rows differ in. So
a row takes a third of the time that a record takes which is encoded by itself.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any, Literal, Protocol

from ctk.ask.edges import EdgeValues
from ctk.ask.flows import record_of
from ctk.ask.pages import Row
from ctk.ask.rowtext import RowText, Run, TextRows
from ctk.render.encode import encoder
from ctk.store.columns import EDGE_KEYS, FLOW_COLUMNS, FLOW_KEYS, FlowRecord

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


class Templates:
    """Makes lines of JSON, CSV or TSV, with the keys of a flow in their order."""

    def __init__(self, form: Literal["jsonl", "json", "csv", "tsv"], time: TimeUnit) -> None:
        self._is_json = form in ("json", "jsonl")
        self._comma = "\t" if form == "tsv" else ","
        keys = [key for key in FLOW_KEYS if in_unit(key, time)]
        names = [in_unit(key, time) or key for key in keys]
        # Rows and edges take turns in a line; a row begins it and ends it.
        turns = [list(run) for _, run in groupby(keys, EDGE_KEYS.__contains__)]
        of_rows = [self._format(run, time) for run in turns[::2]]
        self._of_edges = [
            (
                itemgetter(*map(EDGE_KEYS.index, run)),
                encoder("jsonl" if self._is_json else form, run),
            )
            for run in turns[1::2]
        ]
        encode = encoder("jsonl" if self._is_json else form, names)
        self.header = b"" if self._is_json else encode(names) + b"\n"
        # Every line of an array but the first has a comma before it.
        before, end = (
            (",\n{", "}") if form == "json" else ("{" * self._is_json, "}" * self._is_json)
        )
        self._is_first = form == "json"
        of_rows[0] = before + of_rows[0]
        of_rows[-1] = of_rows[-1].removesuffix(self._comma) + end + "\n" * (form != "json")
        runs = (Run(each, tuple(run)) for each, run in zip(of_rows, turns[::2], strict=True))
        null, unit_ns = "null" * self._is_json, 1000 if time == "us" else 1
        self.text = RowText(tuple(runs), null, unit_ns)
        self._before = b",\n" * (form == "json")

    def end(self) -> bytes:
        """End an array, one without flows too."""
        if not self._before:
            return b""
        return b"[]\n" if self._is_first else b"]\n"

    def of_edge(self, values: EdgeValues) -> tuple[bytes, ...]:
        """Give what the lines of an edge have between what their rows say."""
        comma = self._comma.encode()
        made = (encode(some(values)) for some, encode in self._of_edges)
        return tuple((line[1:-1] if self._is_json else line) + comma for line in made)

    def lines(self, rows: Sequence[Row], edges: Mapping[int, tuple[bytes, ...]]) -> list[bytes]:
        assert isinstance(rows, TextRows)
        first, *others = rows.runs()
        own = [edges[edge_id] for edge_id in rows.edge_ids]
        turns: list[Iterable[bytes]] = [first]
        for at, run in enumerate(others):
            turns += map(itemgetter(at), own), run
        made = list(map(b"".join, zip(*turns, strict=True)))
        if self._is_first:
            made[0] = b"[" + made[0].removeprefix(self._before)
            self._is_first = False
        return made

    def _format(self, keys: Sequence[str], time: TimeUnit) -> str:
        if not self._is_json:
            return f"%s{self._comma}" * len(keys)
        texts = {key: '"%s"' for key in keys if FLOW_COLUMNS[key].time_of}
        return "".join(f'"{in_unit(key, time)}":{texts.get(key, "%s")},' for key in keys)


def in_unit(key: str, time: TimeUnit) -> str | None:
    """Give the name that a key has where times are numbers of this unit, or none at all."""
    if key not in ("started_ns", "ended_ns"):
        return key
    return None if time == "rfc3339" else key.replace("_ns", f"_{time}")
