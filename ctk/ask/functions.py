"""The functions that SQL may call beside SQLite's own: times as the flags take them."""

import sqlite3
from collections.abc import Callable

from ctk.errors import CtkError, UsageError
from ctk.timespan import is_relative, parse_age, parse_time

# Each gives nanoseconds since the epoch, to compare with started_ns.
FUNCTIONS = {
    "ago": "that long before now: ago('1h')",
    "ns": "a time in nanoseconds: ns('2024-11-25T18:47:22Z')",
}


def add_functions(
    conn: sqlite3.Connection, now: Callable[[], int], failed: Callable[[CtkError], None]
) -> None:
    """
    Let SQL on this connection call FUNCTIONS; NULL stays NULL.

    `now` is asked only where a time counts from it. SQLite says of a function only that it failed,
    so `failed` is told why before.
    """

    def told(ask: Callable[[object], int]) -> Callable[[object], int | None]:
        def call(value: object) -> int | None:
            try:
                return None if value is None else ask(value)
            except CtkError as error:
                failed(error)
                raise

        return call

    def ago(value: object) -> int:
        return now() - parse_age(str(value))

    def ns(value: object) -> int:
        if isinstance(value, int):
            return value
        if not isinstance(value, str):
            raise UsageError(f"ns({value!r}) is no time", hint="ns('2024-11-25T18:47:22Z')")
        return parse_time(value, now() if is_relative(value) else 0)

    for name, function in (("ago", ago), ("ns", ns)):
        # What gives the same every time is asked once, and may be the bound of a primary key.
        conn.create_function(name, 1, told(function), deterministic=True)
