"""A question in SQL: one statement, read-only, with a time limit."""

import math
import sqlite3
import time
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import ExitStack
from threading import Lock, Timer

from ctk.ask.connection import Connect
from ctk.errors import StoreError, UsageError

# Virtual machine steps between looks at the clock: some 10 ms.
_STEPS = 100_000
# Rows that are read ahead. An answer of fewer holds nothing of the file once it is there.
_BATCH = 1_000

_ALLOWED = {
    sqlite3.SQLITE_SELECT,
    sqlite3.SQLITE_READ,
    sqlite3.SQLITE_FUNCTION,
    sqlite3.SQLITE_RECURSIVE,
}
# What describes the file and changes nothing.
_PRAGMAS = {
    "database_list",
    "freelist_count",
    "index_info",
    "index_list",
    "integrity_check",
    "page_count",
    "page_size",
    "quick_check",
    "table_info",
    "table_list",
    "table_xinfo",
    "user_version",
}
_VIEWS = (
    "flows, flows_1m, flows_1h, flows_1d, pods, services, endpoints, nodes, gaps and recordings"
)
_READ_ONLY_HINT = "a question only reads: SELECT, WITH or EXPLAIN"

SqlValue = str | int | float | bytes | None


class SqlAnswer(Iterator[tuple[SqlValue, ...]]):
    """
    The rows of an answer, as they come, and the names of their columns.

    While there are more rows than were read ahead, the file is held as of one moment, which keeps
    a recorder from emptying its -wal. That ends with the time limit, however slowly it is read:
    the next row is then an error.
    """

    caveats: tuple[()] = ()  # what the rows lack is not known: SQL may ask for anything

    def __init__(
        self, connect: Connect, sql: str, params: Mapping[str, SqlValue], limit_s: float
    ) -> None:
        """Run a statement that cannot write, attach or load, for at most `limit_s` seconds."""
        self._limit_s = limit_s
        self._deadline_s = time.monotonic() + limit_s
        self._refused: list[str] = []
        self._lock = Lock()  # of what follows, against the timer's thread
        self._opened = ExitStack()
        self._timer: Timer | None = None
        self._open = True
        try:
            conn = self._opened.enter_context(connect())
            conn.set_authorizer(self._authorize)
            conn.set_progress_handler(self._is_late, _STEPS)
            self._cursor = conn.cursor()
            # Closed first: SQLite keeps a connection open for a statement that is half read.
            self._opened.callback(self._cursor.close)
            try:
                self._cursor.execute(sql, params)
            except (sqlite3.Error, sqlite3.Warning) as error:
                raise self._explained(error) from error
            if self._cursor.description is None:
                raise UsageError("the SQL has no answer", hint=_READ_ONLY_HINT)
            self.columns = _apart(column[0] for column in self._cursor.description)
            self._batch = self._read_ahead()
        except BaseException:
            self._end()
            raise
        self._rows = self._each()

    def __iter__(self) -> "SqlAnswer":
        return self

    def __next__(self) -> tuple[SqlValue, ...]:
        return next(self._rows)

    def records(self) -> Iterator[dict[str, SqlValue]]:
        """Yield each row as a dict, for a data frame."""
        return (dict(zip(self.columns, row, strict=True)) for row in self)

    def close(self) -> None:
        """Let go of the file: there are no more rows."""
        with self._lock:
            self._end()
        self._rows.close()

    def _each(self) -> Generator[tuple[SqlValue, ...], None, None]:
        try:
            while self._batch:
                yield from self._batch
                with self._lock:
                    self._batch = self._read_ahead()
        finally:
            with self._lock:
                self._end()

    def _read_ahead(self) -> list[tuple[SqlValue, ...]]:
        if not self._open:
            if self._is_late():
                raise self._too_long("the answer to the SQL was not read to its end in")
            return []
        try:
            batch = self._cursor.fetchmany(_BATCH)
        except sqlite3.Error as error:
            raise self._explained(error) from error
        if len(batch) < _BATCH:
            self._end()
            self._deadline_s = math.inf  # all of it was read in time
        elif self._timer is None:
            self._timer = Timer(max(0, self._deadline_s - time.monotonic()), self._give_up)
            self._timer.daemon = True
            self._timer.start()
        return batch

    def _give_up(self) -> None:
        with self._lock:
            self._end()

    def _end(self) -> None:
        self._open = False
        if self._timer is not None:
            self._timer.cancel()
        self._opened.close()

    def _is_late(self) -> bool:
        return time.monotonic() >= self._deadline_s

    def _authorize(self, action: int, first: str | None, second: str | None, *_: str | None) -> int:
        if action in _ALLOWED and second != "load_extension":
            return sqlite3.SQLITE_OK
        if action == sqlite3.SQLITE_PRAGMA and first in _PRAGMAS:
            return sqlite3.SQLITE_OK
        self._refused.append(first or "")
        return sqlite3.SQLITE_DENY

    def _too_long(self, what: str) -> UsageError:
        return UsageError(f"{what} {self._limit_s:g} s", hint="ask for less, or give --timeout 5m")

    def _explained(self, error: Exception) -> BaseException:
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_INTERRUPT:
            if not self._is_late():
                return KeyboardInterrupt()  # it came while SQLite asked whether to go on
            return self._too_long("the SQL took longer than")
        if self._refused or "readonly" in str(error):
            return UsageError("the SQL may only read", hint=_READ_ONLY_HINT)
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_BUSY):
            return StoreError(f"the file could not be read: {error}")
        hint = f"the views are {_VIEWS}"
        if "binding" in str(error) or "did not supply" in str(error):
            hint = "give each :name in the SQL its value with -p name value"
        if "one statement" in str(error):
            hint = "ask them one after another"
        return UsageError(f"bad SQL: {error}", hint=hint)


def _apart(names: Iterable[str]) -> tuple[str, ...]:
    """Columns of one name are told apart, as sqlite-utils does it: a, a_2."""
    apart: dict[str, None] = {}
    for name in names:
        number, new = 2, name
        while new in apart:
            number, new = number + 1, f"{name}_{number}"
        apart[new] = None
    return tuple(apart)
