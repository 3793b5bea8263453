"""SQL that sums up the counts of flows, and the transaction that it is written in."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from ctk.store.columns import COUNT_KEYS, MEASURED_KEYS

COLUMNS = ", ".join(COUNT_KEYS)
SUMS = ", ".join(f"SUM({key})" for key in COUNT_KEYS)
# NULL is "not measured". It is asked for first: a row that has none of these takes a fifth less.
ADDED = ", ".join(
    f"{key} = CASE WHEN excluded.{key} IS NULL THEN {key}"
    f" ELSE IFNULL({key} + excluded.{key}, excluded.{key}) END"
    if key in MEASURED_KEYS
    else f"{key} = {key} + excluded.{key}"
    for key in COUNT_KEYS
)


def adding(table: str, key: str) -> str:
    """SQL to add counts to the row with this key, or to make it."""
    bound = ", ".join("?" * (key.count(",") + 1 + len(COUNT_KEYS)))
    return (
        f"INSERT INTO {table}({key}, {COLUMNS}) VALUES ({bound})"
        f" ON CONFLICT({key}) DO UPDATE SET {ADDED}"
    )


@contextmanager
def transaction(conn: sqlite3.Connection) -> Iterator[None]:
    conn.execute("BEGIN IMMEDIATE")
    try:
        yield
        conn.execute("COMMIT")
    except BaseException:
        if conn.in_transaction:
            conn.execute("ROLLBACK")
        raise
