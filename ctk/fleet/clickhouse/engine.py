"""
chDB's engine, asked directly.

`import chdb` starts an engine in memory to ask for its version, and imports pyarrow; the client
that asks by it, clickhouse-connect, asks for a thousand settings first. Together that is three
times what a question takes, so questions go to the library that is below. To ship, blocks of
columns are written by the client (client.py).
"""

import importlib.util
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from ctk.fleet.clickhouse.values import bound, has_floats, is_cut, of_binary, of_json, quoted

_NAME = "chdb._chdb"
_SETTINGS = (
    "output_format_json_quote_64bit_integers = 0, output_format_json_quote_64bit_floats = 0,"
    " output_format_json_quote_denormals = 1, output_format_json_quote_decimals = 1,"
    " output_format_decimal_trailing_zeros = 1, output_format_json_validate_utf8 = 1,"
    " date_time_output_format = 'iso', session_timezone = 'UTC',"
    " output_format_binary_write_json_as_string = 1"
)


_NOTHING = b'{"meta":[],"data":[]}'
_open: list[str] = []  # folders


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
        _open.append(self._folder)

    def query(
        self, sql: str, parameters: Mapping[str, object], settings: Mapping[str, object]
    ) -> Found:
        """Ask; `{name:Type}` in SQL is bound to a parameter. No word in it ends `settings`."""
        values = dict(bound(parameters))
        told = orjson.loads(self._asked(settings, sql, values, "JSONCompact") or _NOTHING)
        kinds, rows = [each["type"] for each in told["meta"]], told["data"]
        for at, kind in enumerate(kinds):
            if has_floats(kind) and any(is_cut(row[at]) for row in rows):
                return self._as_they_are(settings, sql, values)
        for at, read in enumerate(map(of_json, kinds)):
            if read is not None:
                for row in rows:
                    row[at] = read(row[at])
        return Found([each["name"] for each in told["meta"]], rows)

    def close(self) -> None:
        """Let go of the folder."""
        with self._turn:
            self._conn.close()
            _open.remove(self._folder)

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

    def _as_they_are(
        self, settings: Mapping[str, object], sql: str, values: Mapping[str, str]
    ) -> Found:
        """Ask again, for floats of which text lacks a digit."""
        answer = self._asked(settings, sql, values, "RowBinaryWithNamesAndTypes")
        try:
            return Found(*of_binary(answer))
        except LookupError as error:
            raise EngineError(
                f"beside a value of type {error.args[0]}, a float beyond 1e100 cannot be read"
            ) from None

    def _asked(
        self, settings: Mapping[str, object], sql: str, values: Mapping[str, str], form: str
    ) -> bytes:
        return (
            self._ask_by(settings, sql, values, form) if settings else self._ask(sql, values, form)
        )

    def _ask(self, sql: str, values: Mapping[str, str], form: str) -> bytes:
        with self._turn:
            try:
                found: bytes = self._conn.query(sql, form, params=values).bytes()
            except RuntimeError as error:
                # What a statement had answered before it failed comes before the next answer.
                renewed = self._opened()
                self._conn.close()
                self._conn = renewed
                raise EngineError(str(error)) from error
            return found

    def _ask_by(
        self, settings: Mapping[str, object], sql: str, values: Mapping[str, str], form: str
    ) -> bytes:
        """Ask by a connection that has these settings, so that nothing in SQL changes them."""
        with self._turn:
            conn = self._opened(settings)
            try:
                found: bytes = conn.query(sql, form, params=values).bytes()
                return found
            except RuntimeError as error:
                raise EngineError(str(error)) from error
            finally:
                conn.close()


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
    with uninterrupted():
        made = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(made)
    connect: Callable[..., Any] = made.connect
    # `import chdb` asks an engine in memory for its version, and a process has one engine only.
    made.__dict__["connect"] = lambda *where: connect(*(where or _open[-1:]))
    sys.modules[_NAME] = made
    return made


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Have Ctrl-C wait for the end of a block: what loads a library calls it an ImportError."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _settings(settings: Mapping[str, object], before: str = "") -> str:
    return before * bool(settings) + ", ".join(
        f"{_checked(name)} = {quoted(str(value))}" for name, value in settings.items()
    )


def _checked(name: str) -> str:
    if not (name.isidentifier() and name.isascii()):
        raise EngineError(f"{name!r} is not the name of a setting")
    return name
