"""A question in ClickHouse's own SQL: one statement that only reads, within limits."""

import re
from collections.abc import Iterator, Mapping

from ctk.ask.caveats import Caveat
from ctk.ask.sql import SqlAnswer, SqlValue
from ctk.errors import CtkError, UsageError
from ctk.fleet.clickhouse.apart import OverdueError
from ctk.fleet.clickhouse.client import AwayError, Client
from ctk.fleet.clickhouse.statement import HINT, check
from ctk.model import Filters
from ctk.timespan import FOREVER_NS

_MOST_ROWS = 1_000_000  # of an answer: all of it is held here
_GRACE_S = 5  # that ClickHouse has to say itself that it took too long
_HINT = "SELECT ... FROM flows_1m; ctk ship --to TARGET --init --ddl prints the tables"


class ShippedSql(SqlAnswer):
    """The rows of an answer, all of which are there, and the names of their columns."""

    def __init__(
        self,
        client: Client,
        text: str,
        given: Mapping[str, SqlValue],
        span: Filters,
        *,
        limit_s: float,
        memory_bytes: int | None,
        caveats: tuple[Caveat, ...],
    ) -> None:
        """Run a statement that only reads; what is given must stand in it as {name:Type}."""
        _check_text(text, *given.values())
        check(client, text)
        ends = {"since_ns": span.since_ns, "until_ns": span.until_ns}
        for name in (*given, *(name for name, end in ends.items() if end is not None)):
            if not _is_bound(name, text):
                kind = "Int64" if name in ends else "String"
                raise UsageError(
                    f"the SQL has no {{{name}:{kind}}}", hint="ClickHouse binds {name:Type}"
                )
        bound: dict[str, SqlValue] = {
            "since_ns": -FOREVER_NS if span.since_ns is None else span.since_ns,
            "until_ns": FOREVER_NS if span.until_ns is None else span.until_ns,
            **given,
        }
        # Where nothing is bound the client is told of nothing, or % would be a sign to it.
        bound = {name: value for name, value in bound.items() if _is_bound(name, text)}
        # 1: nothing is written, no file, address or other server is read, no setting is changed.
        settings: dict[str, object] = {
            "readonly": 1,
            "max_execution_time": limit_s,
            "max_result_rows": _MOST_ROWS,
            "session_timezone": "UTC",  # whatever a server's is
        }
        if memory_bytes is not None:
            settings["max_memory_usage"] = memory_bytes
        try:
            found = client.query_within(limit_s + _GRACE_S, text, bound, settings)
        except CtkError as error:
            raise _explained(error, limit_s) from error
        self.columns = tuple(found.names)
        self._caveats = caveats
        self._found: Iterator[tuple[SqlValue, ...]] = iter(map(tuple, found.rows))

    def __next__(self) -> tuple[SqlValue, ...]:
        return next(self._found)

    @property
    def caveats(self) -> tuple[Caveat, ...]:
        """What was lost in the span that was given; of what else rows lack nothing is known."""
        return self._caveats

    def close(self) -> None:
        """Let go of the rows: there are no more."""
        self._found = iter(())


def _check_text(*given: SqlValue) -> None:
    for text in given:
        try:
            str(text).encode()
        except UnicodeEncodeError:
            said = str(text)[:80].encode(errors="surrogateescape").decode(errors="replace")
            raise UsageError(
                f"{said!r} is not UTF-8", hint="write what is not as unhex('ff')"
            ) from None


def _is_bound(name: str, text: str) -> bool:
    return re.search(rf"\{{\s*{re.escape(name)}\s*:", text) is not None


def _explained(error: CtkError, limit_s: float) -> CtkError:
    said = error.message
    if "readonly mode" in said:
        return UsageError("the SQL may only read", hint=HINT)
    if "Timeout exceeded" in said:
        return UsageError(
            f"the SQL took longer than {limit_s:g} s", hint="ask for less, or give --timeout 5m"
        )
    if "memory limit" in said.lower():
        return UsageError(
            "the SQL took more memory than it may", hint="ask for less, or give --memory 1GiB"
        )
    if isinstance(error, (AwayError, OverdueError)):
        return error
    # What else it says is the statement, and the settings.
    said = re.sub(r" SETTINGS readonly = .*", "", said)
    what = re.split(r" in scope |\. Expected one of: ", said.partition(": ")[2], flags=re.I)[0]
    return UsageError(f"bad SQL: {what or said}", hint=_HINT)
