"""A question in SQL: one statement, read-only, with limits of time and memory."""

import math
import re
import sqlite3
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import ExitStack
from itertools import islice
from threading import Lock, Timer
from typing import TYPE_CHECKING, NamedTuple

from ctk.ask.connection import Connect
from ctk.ask.functions import FUNCTIONS, add_functions
from ctk.ask.moments import Reference
from ctk.errors import CtkError, StoreError, UsageError
from ctk.model import Filters
from ctk.timespan import FOREVER_NS

if TYPE_CHECKING:
    from ctk.ask.caveats import Caveat

# Virtual machine steps between looks at the clock: some 10 ms.
_STEPS = 100_000
# Rows that are read ahead. An answer of fewer holds nothing of the file once it is there.
_BATCH = 1_000
_BATCH_BYTES = 16 * 1024 * 1024  # of text in them, lest a thousand long texts fill the memory
_LONGEST_BYTES = 64 * 1024 * 1024  # of one value: group_concat() of a whole file is a mistake

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
_READ_ONLY_HINT = "a question only reads: SELECT, WITH or EXPLAIN"

_TEXTS = ("started_at", "ended_at", "committed_at", "valid_from", "valid_to")
_READ_AS_TIME = re.compile(rf"\bdatetime\s*\(\s*(?:\w+\.)?(?:{'|'.join(_TEXTS)})\b", re.IGNORECASE)

_EVER = Filters()

SqlValue = str | int | float | bytes | None


class SqlTerms(NamedTuple):
    """
    What a question in SQL is asked under.

    `memory_bytes` is a limit of the whole process, which can only be made smaller afterwards.
    """

    reference: Callable[[], Reference]  # what ago() counts from
    limit_s: float = 30.0
    memory_bytes: int | None = None
    span: Filters = _EVER
    caveats: "tuple[Caveat, ...]" = ()  # of the files
    explain: bool = False  # say how it would be answered


class _SqlBound(dict[str, SqlValue]):
    """The values that a statement takes by name, and which of them it took."""

    def __init__(self, given: Mapping[str, SqlValue], terms: SqlTerms) -> None:
        super().__init__(
            {
                "since_ns": -FOREVER_NS if terms.span.since_ns is None else terms.span.since_ns,
                "until_ns": FOREVER_NS if terms.span.until_ns is None else terms.span.until_ns,
                **given,
            }
        )
        self._explain = terms.explain
        self._unused = set(given)
        self._unused |= {
            name for name in ("since_ns", "until_ns") if getattr(terms.span, name) is not None
        }

    def __getitem__(self, name: str) -> SqlValue:
        self._unused.discard(name)
        return self.get(name) if self._explain else super().__getitem__(name)

    def check(self) -> None:
        """Refuse what was given and not taken: it would seem to matter, and does not."""
        for name in sorted(self._unused):
            side = {"since_ns": ">=", "until_ns": "<"}.get(name)
            hint = f"where started_ns {side} :{name}" if side else f"where src = :{name}"
            raise UsageError(f"the SQL has no :{name}", hint=hint)


class SqlAnswer(Iterator[tuple[SqlValue, ...]]):
    """
    The rows of an answer, as they come, and the names of their columns.

    While there are more rows than were read ahead, the file is held as of one moment, which keeps
    a recorder from emptying its -wal. That ends with the time limit, however slowly it is read:
    the next row is then an error.
    """

    def __init__(
        self, connect: Connect, sql: str, params: Mapping[str, SqlValue], terms: SqlTerms
    ) -> None:
        """Run a statement that cannot write, attach or load, within the limits of `terms`."""
        self._connect = connect
        self._sql = sql
        self._terms = terms
        self._deadline_s = time.monotonic() + terms.limit_s
        self._refused: list[str] = []
        self._failed: list[CtkError] = []  # what functions of ours said
        self._counted_from: Reference | None = None
        self._called: set[str] = set()
        self._columns: set[str] = set()  # that the statement itself names
        self._lock = Lock()  # of what follows, against the timer's thread
        self._opened = ExitStack()
        self._timer: Timer | None = None
        self._open = True
        try:
            conn = self._opened.enter_context(connect())
            conn.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LONGEST_BYTES)
            if terms.memory_bytes is not None:
                conn.execute(f"PRAGMA hard_heap_limit = {terms.memory_bytes}")
            add_functions(conn, self._now_ns, self._failed.append)
            conn.set_authorizer(self._authorize)
            conn.set_progress_handler(self._is_late, _STEPS)
            self._cursor = conn.cursor()
            # Closed first: SQLite keeps a connection open for a statement that is half read.
            self._opened.callback(self._cursor.close)
            bound = _SqlBound(params, terms)
            try:
                self._cursor.execute(_explain(sql) if terms.explain else sql, bound)
            except (sqlite3.Error, sqlite3.Warning, MemoryError) as error:
                raise self._explained(error) from error
            bound.check()
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

    @property
    def caveats(self) -> "tuple[Caveat, ...]":
        """
        What is known to be wrong with the answer.

        That is what was lost in the span that was given, and times that compare wrongly; of what
        else the rows lack nothing is known, since SQL may ask for anything.
        """
        from ctk.ask.caveats import CountedFromEnd, TextTimes, caveats_of

        found: list[Caveat] = []
        if self._terms.span != _EVER:
            with self._connect() as conn:
                found += caveats_of(conn, self._terms.span)
        counted = self._counted_from
        if counted is not None and counted.is_end and self._terms.span.counted_from_ns is None:
            found.append(CountedFromEnd(counted.at_ns))
        found += self._terms.caveats
        texts = [name for name in _TEXTS if name in self._columns]
        if texts and not any(name.endswith("_ns") for name in self._columns):
            if "datetime" in self._called and not _READ_AS_TIME.search(self._sql):
                found.append(TextTimes(texts[0], "datetime"))
            found += [TextTimes(texts[0], name) for name in FUNCTIONS if name in self._called]
        return tuple(found)

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
        batch = []
        left_bytes = _BATCH_BYTES
        try:
            for row in islice(self._cursor, _BATCH):
                batch.append(row)
                for value in row:
                    if isinstance(value, str | bytes):
                        left_bytes -= len(value)
                if left_bytes < 0:
                    break
        except (sqlite3.Error, MemoryError) as error:
            raise self._explained(error) from error
        if len(batch) < _BATCH and left_bytes >= 0:
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

    def _now_ns(self) -> int:
        if self._counted_from is None:
            self._counted_from = self._terms.reference()
        return self._counted_from.at_ns

    def _authorize(
        self,
        action: int,
        first: str | None,
        second: str | None,
        _database: str | None,
        view: str | None,
    ) -> int:
        if view is None and action == sqlite3.SQLITE_FUNCTION:
            self._called.add(second or "")
        if view is None and action == sqlite3.SQLITE_READ:
            self._columns.add(second or "")
        if action in _ALLOWED and second != "load_extension":
            return sqlite3.SQLITE_OK
        if action == sqlite3.SQLITE_PRAGMA and first in _PRAGMAS:
            return sqlite3.SQLITE_OK
        self._refused.append(first or "")
        return sqlite3.SQLITE_DENY

    def _too_long(self, what: str) -> UsageError:
        return UsageError(
            f"{what} {self._terms.limit_s:g} s", hint="ask for less, or give --timeout 5m"
        )

    def _explained(self, error: Exception) -> BaseException:
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_INTERRUPT:
            if not self._is_late():
                return KeyboardInterrupt()  # it came while SQLite asked whether to go on
            return self._too_long("the SQL took longer than")
        if self._failed:
            return self._failed[0]
        if self._refused or "readonly" in str(error):
            return UsageError("the SQL may only read", hint=_READ_ONLY_HINT)
        return _in_words(error)


def _in_words(error: Exception) -> CtkError:
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    if isinstance(error, MemoryError):
        return UsageError(
            "the SQL took more memory than it may", hint="ask for less, or give --memory 1GiB"
        )
    if code == sqlite3.SQLITE_TOOBIG:
        longest = f"{_LONGEST_BYTES // 1024 // 1024} MiB"
        return UsageError(f"a value in the SQL is longer than {longest}", hint="ask for less")
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_BUSY):
        return StoreError(f"the file could not be read: {error}")
    hint = _names(str(error))
    if "binding" in str(error) or "did not supply" in str(error):
        hint = "give each :name in the SQL its value with -p name value"
    if "one statement" in str(error):
        hint = "ask them one after another"
    return UsageError(f"bad SQL: {error}", hint=hint)


def _names(message: str) -> str:
    """Give what there is to ask, or what is spelled nearly like what there is not."""
    from difflib import get_close_matches

    from ctk.store.meanings import COLUMNS, VIEWS

    if match := re.search(r"no such column: (?:\w+\.)?(\w+)", message):
        columns = dict.fromkeys(column for view in COLUMNS.values() for column in view)
        near = " ".join(get_close_matches(match[1], columns, 1))
        return f"{near}, say; `ctk schema` lists the columns" if near else "`ctk schema` lists them"
    *views, last = VIEWS
    return f"the views are {', '.join(views)} and {last}"


def _explain(sql: str) -> str:
    asked = re.match(r"\s*EXPLAIN\b", sql, re.IGNORECASE)
    return sql if asked else f"EXPLAIN QUERY PLAN {sql}"


def _apart(names: Iterable[str]) -> tuple[str, ...]:
    """Columns of one name are told apart, as sqlite-utils does it: a, a_2."""
    apart: dict[str, None] = {}
    for name in names:
        number, new = 2, name
        while new in apart:
            number, new = number + 1, f"{name}_{number}"
        apart[new] = None
    return tuple(apart)
