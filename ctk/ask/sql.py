"""A question in SQL: one statement, read-only, with a time limit."""

import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ctk.errors import StoreError, UsageError

# Virtual machine steps between looks at the clock: some 10 ms.
_STEPS = 100_000

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


def ask(
    conn: sqlite3.Connection, sql: str, params: Mapping[str, str | int | float], limit_s: float
) -> tuple[Sequence[str], Iterator[tuple[Any, ...]]]:
    """
    Run a statement and give the names of its columns and its rows, as they come.

    It cannot write, attach or load, and ends with an error after `limit_s` seconds.
    """
    deadline = time.monotonic() + limit_s
    refused: list[str] = []

    def authorize(action: int, first: str | None, second: str | None, *_: str | None) -> int:
        if action in _ALLOWED and second != "load_extension":
            return sqlite3.SQLITE_OK
        if action == sqlite3.SQLITE_PRAGMA and first in _PRAGMAS:
            return sqlite3.SQLITE_OK
        refused.append(first or "")
        return sqlite3.SQLITE_DENY

    conn.set_authorizer(authorize)
    conn.set_progress_handler(lambda: time.monotonic() > deadline, _STEPS)
    try:
        cursor = conn.execute(sql, params)
    except (sqlite3.Error, sqlite3.Warning) as error:
        raise _explained(error, bool(refused), limit_s, deadline) from error
    if cursor.description is None:
        raise UsageError("the SQL has no answer", hint=_READ_ONLY_HINT)
    names = _apart(column[0] for column in cursor.description)
    return names, _rows(cursor, limit_s, deadline)


def _apart(names: Iterable[str]) -> list[str]:
    """Columns of one name are told apart, as sqlite-utils does it: a, a_2."""
    apart: dict[str, None] = {}
    for name in names:
        number, new = 2, name
        while new in apart:
            number, new = number + 1, f"{name}_{number}"
        apart[new] = None
    return list(apart)


def _rows(cursor: sqlite3.Cursor, limit_s: float, deadline: float) -> Iterator[tuple[Any, ...]]:
    try:
        for row in cursor:  # noqa: UP028 - `yield from` would close it, after its connection
            yield row
    except sqlite3.Error as error:
        raise _explained(error, False, limit_s, deadline) from error


def _explained(error: Exception, refused: bool, limit_s: float, deadline: float) -> BaseException:
    if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_INTERRUPT:
        if time.monotonic() <= deadline:
            return KeyboardInterrupt()  # it came while SQLite asked whether to go on
        return UsageError(
            f"the SQL took longer than {limit_s:g} s", hint="ask for less, or give --timeout 5m"
        )
    if refused or "readonly" in str(error):
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
