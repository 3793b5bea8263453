"""Rows to lines for programs: JSON, CSV and TSV, with every value as it is."""

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from ctk.store.columns import JSON_KEYS

# Columns of the views that hold JSON as text.
_STORED_JSON = (*JSON_KEYS, "labels", "addresses", "ports", "settings")


def encoder(form: str, columns: Sequence[str]) -> Callable[[Sequence[Any]], bytes]:
    """Give the function that makes one line, without its end, of a row of these columns."""
    if form == "csv":
        return _csv_encoder()
    if form == "tsv":
        return _tsv_line
    from orjson import OPT_NON_STR_KEYS, dumps

    stored = [column for column in columns if column in _STORED_JSON]

    def json_line(row: Sequence[Any]) -> bytes:
        named = dict(zip(columns, row, strict=True))
        for column in stored:
            named[column] = _stored_json(named[column])
        try:
            return harmless(dumps(named, default=_as_text))
        except TypeError:  # Keys of a map in an answer of ClickHouse may be no text.
            return harmless(dumps(named, default=_as_text, option=OPT_NON_STR_KEYS))

    return json_line


_LATE_CONTROLS = re.compile(b"\x7f|\xc2[\x80-\x9f]")


def harmless(line: bytes) -> bytes:
    """Escape what JSON may hold as it is, and some terminals obey: U+007F to U+009F."""
    if b"\xc2" not in line and b"\x7f" not in line:
        return line
    return _LATE_CONTROLS.sub(lambda found: b"\\u00%02x" % found[0][-1], line)


@lru_cache(maxsize=10_000)
def _stored_json(value: object) -> object:
    """Give JSON text that was stored as what is put in as it is; SQL may name other things so."""
    from orjson import Fragment, JSONDecodeError, loads

    try:
        return Fragment(value) if isinstance(value, str) and loads(value) is not None else value
    except JSONDecodeError:
        return value


def header(form: str, columns: Sequence[str]) -> bytes:
    """Give the line before the first: CSV's names of columns, and of the other forms nothing."""
    return _csv_encoder()(columns) + b"\n" if form == "csv" else b""


class _Echo:
    """What csv writes to: it gives each line back."""

    def write(self, text: str) -> str:
        return text


# What would end a cell or a row is written as in a string.
TSV = str.maketrans({"\t": "\\t", "\n": "\\n", "\r": "\\r", "\\": "\\\\"})


def _csv_encoder() -> Callable[[Sequence[Any]], bytes]:
    import csv

    writer = csv.writer(_Echo(), lineterminator="")

    def csv_line(row: Sequence[Any]) -> bytes:
        line: Any = writer.writerow(plain(value) for value in row)
        return str(line).encode()

    return csv_line


def _tsv_line(row: Sequence[Any]) -> bytes:
    cells = ["" if value is None else str(plain(value)) for value in row]
    line = "\t".join(cells)
    if line.count("\t") >= len(cells) or any(mark in line for mark in "\n\r\\"):
        line = "\t".join(cell.translate(TSV) for cell in cells)
    return line.encode()


def plain(value: object) -> object:
    """Give a value of one cell: bytes as hex, and what holds several as JSON."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, (list, tuple, dict)):
        from orjson import OPT_NON_STR_KEYS, dumps

        return dumps(value, default=_as_text, option=OPT_NON_STR_KEYS).decode()
    return value


def _as_text(value: object) -> str:
    """Write what JSON has nothing for: a decimal number, an address."""
    return value.hex() if isinstance(value, bytes) else str(value)
