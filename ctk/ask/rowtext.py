"""
Rows as text that SQLite writes, and a page of them.

What stands side by side in a line is a run. All runs of all rows of a page come as one value:
Python takes no step for a row or a value of it, and is free for other threads meanwhile.
"""

import re
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ctk.store.columns import FLOW_COLUMNS, FOLDED_KEYS, FlowRecord
from ctk.timespan import DAY, HOUR, MINUTE, SECOND, format_time

_END = "\x1f"  # of a run; what is written is numbers, times and what stands between them
_NO_TIME = b"\x1e"
_IN_RUN = re.compile("(%s)")


class Run(NamedTuple):
    """A part of a line: `format` has a %s for what each of the keys names."""

    format: str
    keys: tuple[str, ...]


class RowText(NamedTuple):
    """What SQLite writes of a row; a number of a time counts `unit_ns`."""

    runs: tuple[Run, ...]
    null: str
    unit_ns: int = 1

    def of(self, record: FlowRecord) -> bytes:
        """Write the runs of a record, as SQLite does of a row."""
        told = [
            run.format % tuple(self._told(record, key) for key in run.keys) for run in self.runs
        ]
        return _END.join([*told, f"{record.started_ns} 0 0", ""]).encode()

    def _told(self, record: FlowRecord, key: str) -> object:
        value = getattr(record, key)
        if key in ("started_ns", "ended_ns"):
            return value // self.unit_ns
        # A file may have what is no number there.
        return value if FLOW_COLUMNS[key].time_of or isinstance(value, int) else self.null

    def _sql(self, sql: Mapping[str, str], late_id: str) -> str:
        """
        Give the SQL of a row's runs, and where it is; ?1 to ?3 are bound to what `of_day` gives.

        Most rows are of that day, and everything was measured or nothing: with nothing else to be
        asked of each value it takes a third less time.
        """
        in_day = f"{sql['started_ns']} >= ?1 AND {sql['ended_ns']} < ?2"
        measured = [key for key in self._counts if FLOW_COLUMNS[key].measured]
        folded = [key for key in self._counts if key in FOLDED_KEYS and sql[key] != "NULL"]
        known = [f"({' + '.join(sql[key] for key in measured)}) IS NOT NULL"] if measured else []
        known += [f"{sql[key]} IS NOT NULL" for key in folded]
        unknown = f"COALESCE({', '.join(sql[key] for key in measured)}, NULL) IS NULL"
        # Whatever is in a file, numbers are written: it may come from anywhere.
        numbers = {key: f"IFNULL(CAST({sql[key]} AS INTEGER), '{self.null}')" for key in sql}
        cautious = {key: ("%s", numbers[key]) for key in self._counts}
        cautious |= {key: ("%s", _time(sql[_number(key)])) for key in self._times}
        cautious |= {key: ("%s", self._floored(numbers[key])) for key in self._numbers}
        port = {"src_port": ("%s", numbers["src_port"])}
        quick = {key: ("%d", sql[key]) for key in self._counts if sql[key] != "NULL"}
        quick |= {key: _time_of_day(sql[_number(key)]) for key in self._times}
        quick |= {key: ("%d", f"({sql[key]}) / {self.unit_ns}") for key in self._numbers}
        if self.unit_ns == 1:
            quick |= {key: ("%d", sql[key]) for key in self._numbers}
        cases = [
            f"WHEN {' AND '.join([in_day, *known])} THEN {self._printf(sql, quick | port, late_id)}"
        ]
        if measured and not folded:
            for key in measured:
                del quick[key]
            printf = self._printf(sql, quick | port, late_id)
            cases.append(f"WHEN {in_day} AND {unknown} THEN {printf}")
        whole = self._printf(sql, cautious | port, late_id)
        return f"CASE {' '.join(cases)} ELSE {whole} END"

    def read(
        self,
        conn: sqlite3.Connection,
        late_id: str,
        sql: Mapping[str, str],
        rest: str,
        bound: Sequence[object],
    ) -> "TextRows":
        """Read rows, as one value; `rest` is the SQL from its FROM on, with order and limit."""
        row = self._sql(sql, f"IFNULL({late_id}, 0)")
        edge_ids, rows = conn.execute(
            "SELECT group_concat(edge_id), CAST(group_concat(row, '') AS BLOB) FROM"
            f" (SELECT IFNULL(CAST(f.edge_id AS INTEGER), 0) AS edge_id, {row} AS row {rest})",
            bound,
        ).fetchone()
        if rows is None:
            return TextRows(self)
        if _NO_TIME in rows:
            raise ValueError("the time of a flow is none")
        return TextRows(self, map(int, edge_ids.split(",")), rows)

    @property
    def _keys(self) -> list[str]:
        return [key for run in self.runs for key in run.keys]

    @property
    def _times(self) -> list[str]:
        return [key for key in self._keys if FLOW_COLUMNS[key].time_of]

    @property
    def _numbers(self) -> list[str]:
        return [key for key in self._keys if key in ("started_ns", "ended_ns")]

    @property
    def _counts(self) -> list[str]:
        others = {*self._times, *self._numbers, "src_port"}
        return [key for key in self._keys if key not in others]

    def _floored(self, number: str) -> str:
        return number if self.unit_ns == 1 else _floor(number, self.unit_ns)

    def _printf(
        self, sql: Mapping[str, str], places: Mapping[str, tuple[str, str]], late_id: str
    ) -> str:
        """Give the SQL of the whole row; a key without a place is null."""
        text, values = "", []
        for run in self.runs:
            keys = iter(run.keys)
            for part in _IN_RUN.split(run.format):
                if part != "%s":
                    text += part.replace("%", "%%").replace("'", "''")
                elif (place := places.get(next(keys))) is None:
                    text += self.null
                else:
                    text += place[0]
                    values.append(place[1])
            text += _END
        values += [sql["started_ns"], "f.n", late_id]
        return f"printf('{text}%d %d %d{_END}', {', '.join(values)})"


def of_day(at_ns: int) -> tuple[int, int, str]:
    """Give the bounds of the day of a time, and its name; before 1970 none has an own one."""
    low_ns = at_ns - at_ns % DAY
    return (low_ns, low_ns + DAY, format_time(low_ns)[:11]) if at_ns >= 0 else (0, 0, "")


def _number(key: str) -> str:
    return str(FLOW_COLUMNS[key].time_of)


def _time_of_day(ns: str) -> tuple[str, str]:
    """Write a time of the day ?3, but for its Z: half the time that strftime takes."""
    hour, minute, second = (f"({ns}) / {unit}" for unit in (HOUR, MINUTE, SECOND))
    values = f"?3, {hour} % 24, {minute} % 60, {second} % 60, ({ns}) % {SECOND}"
    return "%s%02d:%02d:%02d.%09dZ", values


def _time(ns: str) -> str:
    """Write any time, as `format_time` does; of what is none, an end past 2262 say, a mark."""
    seconds = f"strftime('%Y-%m-%dT%H:%M:%S', {_floor(ns, SECOND)}, 'unixepoch')"
    time = f"{seconds} || printf('.%09dZ', {_over(ns, SECOND)})"
    return f"CASE typeof({ns}) WHEN 'integer' THEN {time} ELSE char({_NO_TIME[0]}) END"


def _over(number: str, unit: int) -> str:
    """Give what a number has over a multiple of the unit; SQLite's % is negative below 0."""
    return f"((({number}) % {unit} + {unit}) % {unit})"


def _floor(number: str, unit: int) -> str:
    return f"((({number}) - {_over(number, unit)}) / {unit})"


class TextRows(Sequence[Any]):
    """
    Rows as text: one by one they say where they are, `runs` says the rest.

    One row is its id in late_flow where it was found there, its number, its edge, and when it
    started.
    """

    def __init__(self, text: RowText, edge_ids: Iterable[int] = (), rows: bytes = b"") -> None:
        self.edge_ids = list(edge_ids)
        self._rows = [rows]
        self._width = len(text.runs) + 1

    def __len__(self) -> int:
        return len(self.edge_ids)

    def __getitem__(self, at: Any) -> Any:
        key = self._last() if at == -1 else self._columns()[-1][at]
        started_ns, number, late_id = map(int, key.split())
        return late_id or None, number, self.edge_ids[at], started_ns

    def extend(self, more: Sequence[Any]) -> None:
        """Add other rows as text, as a list does."""
        if isinstance(more, TextRows) and more:
            self.edge_ids += more.edge_ids
            self._rows += more._rows

    def runs(self) -> list[list[bytes]]:
        """Give, of each run, that of each row."""
        return self._columns()[:-1]

    def _last(self) -> bytes:
        return self._rows[-1].rsplit(_END.encode(), 2)[-2]

    def _columns(self) -> list[list[bytes]]:
        pieces = b"".join(self._rows).split(_END.encode())
        return [pieces[at : -1 : self._width] for at in range(self._width)]
