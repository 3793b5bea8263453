"""
All that the nodes of a merged file saw: with the rows of those who defer to another.

A connection that two of them saw counts twice. The tables are put together under their own names,
for one connection, so that every question is asked as of any other file.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from ctk.ask.connection import temporary_writes
from ctk.errors import UsageError
from ctk.store.levels import LEVELS
from ctk.store.merged import aside_of, is_merged, keeps_aside
from ctk.store.source import Source
from ctk.store.views import views


class AllObservers:
    """A source whose tables of flows have the rows of all observers."""

    def __init__(self, source: Source) -> None:
        """Refuse a merged file that keeps only what counts; a file of one node has all it saw."""
        with source.reader() as conn:
            if is_merged(conn) and not keeps_aside(conn):
                raise UsageError(
                    "only what counts was kept when the nodes were merged",
                    hint="merge with --all-observers",
                )
            self._aside = keeps_aside(conn)
        self._source = source

    @contextmanager
    def reader(self) -> Iterator[sqlite3.Connection]:
        """Open a connection that sees all rows."""
        with self._source.reader() as conn:
            if self._aside:
                with temporary_writes(conn):
                    for level in LEVELS:
                        name = level.table
                        conn.execute(
                            f"CREATE TEMP VIEW {name} AS SELECT * FROM main.{name}"
                            f" UNION ALL SELECT * FROM main.{aside_of(name)}"
                        )
                    for name, select in views().items():
                        conn.execute(f"CREATE TEMP VIEW {name} AS {select}")
            yield conn

    def attach(self, conn: sqlite3.Connection, name: str) -> None:
        """Attach the file as it is: what another connection sees of it is what counts."""
        self._source.attach(conn, name)
