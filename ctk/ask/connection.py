"""
The connection of one question.

Every question has a connection of its own (opening one takes under 2 ms), so that its temporary
tables, its transaction and its limits are seen by no other question.
"""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from ctk.ask.selectors import Condition

# Opens a connection that only reads, and closes it.
Connect = Callable[[], AbstractContextManager[sqlite3.Connection]]


@contextmanager
def one_moment(conn: sqlite3.Connection) -> Iterator[None]:
    """
    Read the file as it is now, whatever is committed meanwhile.

    The recorder's -wal cannot be emptied before this ends. Temporary tables stay.
    """
    if conn.in_transaction:
        yield
        return
    conn.execute("BEGIN")
    try:
        yield
    finally:
        conn.execute("COMMIT")


def choose_edges(conn: sqlite3.Connection, name: str, condition: Condition) -> int:
    """Fill the temporary table `name` with the ids of the edges that fit; give their number."""
    with temporary_writes(conn):
        conn.execute(f"CREATE TEMP TABLE IF NOT EXISTS {name} (id INTEGER PRIMARY KEY)")
        conn.execute(f"DELETE FROM temp.{name}")
        sql = f"INSERT INTO temp.{name} SELECT id FROM edge WHERE {condition.sql}"
        return conn.execute(sql, condition.values).rowcount


def add_folded_edges(conn: sqlite3.Connection, name: str, condition: Condition) -> None:
    """Add to the temporary table `name` the edges that many were folded into meanwhile."""
    with temporary_writes(conn):
        sql = f"INSERT OR IGNORE INTO temp.{name} SELECT id FROM edge WHERE id < 0 AND "
        conn.execute(sql + condition.sql, condition.values)


@contextmanager
def temporary_writes(conn: sqlite3.Connection) -> Iterator[None]:
    # query_only forbids writing temporary tables too; the file itself is opened read-only.
    conn.execute("PRAGMA query_only = OFF")
    try:
        yield
    finally:
        conn.execute("PRAGMA query_only = ON")


def data_version(conn: sqlite3.Connection) -> int:
    """Give a number that changes with every commit of another connection."""
    return int(conn.execute("PRAGMA data_version").fetchone()[0])
