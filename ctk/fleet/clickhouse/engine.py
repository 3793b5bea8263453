"""
chDB's engine, asked directly.

`import chdb` starts an engine in memory to ask for its version, and imports pyarrow; the client
that asks by it, clickhouse-connect, asks for a thousand settings first. Together that is three
times what a question takes, so questions go to the library that is below. To ship, blocks of
columns are written by the client (client.py).
"""

import importlib.util
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import orjson

_NAME = "chdb._chdb"
_SETTINGS = (
    "output_format_json_quote_64bit_integers = 0, output_format_json_quote_64bit_floats = 0,"
    " output_format_json_quote_denormals = 1, output_format_json_quote_decimals = 1,"
    " output_format_decimal_trailing_zeros = 1, output_format_json_validate_utf8 = 1,"
    " date_time_output_format = 'iso', session_timezone = 'UTC'"
)


class EngineError(Exception):
    """What the engine says of a statement."""


class Found(NamedTuple):
    """Rows, by the names that the client has for them."""

    column_names: Sequence[str]
    result_rows: Sequence[Sequence[Any]]


class Engine:
    """A folder that is open; threads take turns."""

    def __init__(self, folder: Path, database: str | None, settings: Mapping[str, object]) -> None:
        """Open a folder, as the one process that has it; an ImportError where chDB is not there."""
        self._turn = threading.Lock()
        self._folder = str(folder.resolve())
        self._first = [f"SET {_SETTINGS}{_settings(settings, ', ')}"]
        if database is not None:
            self._first.append(f"USE {database}")
        self._connect: Callable[[str], Any] = library().connect
        self._conn = self._opened()

    def query(
        self, sql: str, parameters: Mapping[str, object], settings: Mapping[str, object]
    ) -> Found:
        """Ask; `{name:Type}` in SQL is bound to a parameter. No word in it ends `settings`."""
        bound = {name: _bound(value) for name, value in parameters.items()}
        told = self._ask_by(settings, sql, bound) if settings else self._ask(sql, bound)
        readers = [_reader(each["type"]) for each in told["meta"]]
        rows = told["data"]
        for at, read in enumerate(readers):
            if read is not None:
                for row in rows:
                    row[at] = read(row[at])
        return Found([each["name"] for each in told["meta"]], rows)

    def close(self) -> None:
        """Let go of the folder."""
        with self._turn:
            self._conn.close()

    def _opened(self, settings: Mapping[str, object] | None = None) -> Any:
        first = [*self._first]
        if settings:  # readonly is the last that may be set
            first += [f"SET {_settings(settings)}"]
        try:
            conn = self._connect(self._folder)
            try:
                for sql in first:
                    conn.query(sql, "Null")
            except RuntimeError:
                conn.close()
                raise
        except RuntimeError as error:
            raise EngineError(str(error)) from error
        return conn

    def _ask(self, sql: str, bound: Mapping[str, str]) -> Any:
        with self._turn:
            try:
                found = self._conn.query(sql, "JSONCompact", params=bound)
            except RuntimeError as error:
                # What a statement had answered before it failed comes before the next answer.
                renewed = self._opened()
                self._conn.close()
                self._conn = renewed
                raise EngineError(str(error)) from error
            return _read(found)

    def _ask_by(self, settings: Mapping[str, object], sql: str, bound: Mapping[str, str]) -> Any:
        """Ask by a connection that has these settings, so that nothing in SQL changes them."""
        with self._turn:
            conn = self._opened(settings)
            try:
                return _read(conn.query(sql, "JSONCompact", params=bound))
            except RuntimeError as error:
                raise EngineError(str(error)) from error
            finally:
                conn.close()


def _read(found: Any) -> Any:
    return orjson.loads(found.bytes() or b'{"meta":[],"data":[]}')


def library() -> Any:
    """Give chDB's library without what `import chdb` does; an ImportError where there is none."""
    package = sys.modules.get("chdb")
    if package is not None:
        return package._chdb
    if _NAME in sys.modules:
        return sys.modules[_NAME]
    found = importlib.util.find_spec("chdb")
    folder = found and next(iter(found.submodule_search_locations or ()), None)
    if not folder:
        raise ImportError("No module named 'chdb'")
    spec = importlib.util.spec_from_file_location(_NAME, Path(folder) / "_chdb.abi3.so")
    if spec is None or spec.loader is None:
        raise ImportError("chdb has no library")
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    sys.modules[_NAME] = made
    return made


@contextmanager
def importable(folder: Path) -> Iterator[None]:
    """
    Let `import chdb` work while a folder may be open, in this block.

    It asks an engine in memory for its version, and a process can have one engine only.
    """
    made = sys.modules.get(_NAME)
    if made is None or "chdb" in sys.modules:
        yield
        return
    connect: Callable[..., Any] = made.connect
    made.__dict__["connect"] = lambda *_: connect(str(folder.resolve()))
    try:
        yield
    finally:
        made.__dict__["connect"] = connect


def _settings(settings: Mapping[str, object], before: str = "") -> str:
    return before * bool(settings) + ", ".join(
        f"{_checked(name)} = {_quoted(str(value))}" for name, value in settings.items()
    )


def _checked(name: str) -> str:
    if not (name.isidentifier() and name.isascii()):
        raise EngineError(f"{name!r} is not the name of a setting")
    return name


def _bound(value: object) -> str:
    """Write a value as the engine reads parameters."""
    if value is None:
        return "\\N"
    if isinstance(value, str):
        return _escaped(value)
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_nested(each) for each in value)}]"
    return str(value)


def _nested(value: object) -> str:
    if value is None:
        return "NULL"
    return _quoted(value) if isinstance(value, str) else str(value)


def _quoted(text: str) -> str:
    return f"'{_escaped(text)}'"


_ESCAPES = {"\\": "\\\\", "'": "\\'", "\b": "\\b", "\f": "\\f", "\r": "\\r", "\n": "\\n"}
_ESCAPES |= {"\t": "\\t", "\0": "\\0"}
_ESCAPED = str.maketrans(_ESCAPES)


def _escaped(text: str) -> str:
    return text.translate(_ESCAPED)


def _reader(kind: str) -> Callable[[Any], Any] | None:
    """Give what makes of JSON the value that the client gives for a type; None where JSON does."""
    for wrapper in ("LowCardinality(", "Nullable("):
        kind = kind.removeprefix(wrapper)
    name = kind.partition("(")[0].rstrip(")")
    read = _READERS.get(name)
    return None if read is None else lambda value: None if value is None else read(value)


_READERS: Mapping[str, Callable[[Any], Any]] = {
    "DateTime": datetime.fromisoformat,
    "DateTime64": datetime.fromisoformat,
    "Date": date.fromisoformat,
    "Date32": date.fromisoformat,
    "Decimal": Decimal,
    "Float32": float,
    "Float64": float,
}
