"""What questions are asked of: a file, or the copy of a file that an older ctk wrote."""

import sqlite3
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from ctk.errors import UsageError
from ctk.store import connect


class Source(Protocol):
    """Where connections that only read come from."""

    def reader(self) -> AbstractContextManager[sqlite3.Connection]:
        """Open a connection."""

    def attach(self, conn: sqlite3.Connection, name: str) -> None:
        """Let the connection of another source read this one, too, under that name."""


class File:
    """A SQLite file as it is."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def reader(self) -> AbstractContextManager[sqlite3.Connection]:
        """Open a connection, as `connect.reader` does."""
        return connect.reader(self._path)

    def attach(self, conn: sqlite3.Connection, name: str) -> None:
        """Let another connection read this file, too, under that name."""
        connect.attach(conn, name, self._path)


def source(path: Path, in_memory_bytes: int | None = None) -> Source:
    """
    Give the source of a ctk file of any schema that is known here; else a UsageError.

    The copy of an older file is in memory where that is no larger, or than is usual.
    """
    try:
        with connect.reader(path):
            return File(path)
    except connect.OlderSchemaError:
        pass
    # It needs the migrations: 90 ms that no other file costs.
    from ctk.store.older import Older

    return Older(path) if in_memory_bytes is None else Older(path, in_memory_bytes)


def any_source(path: Path) -> Source:
    """Give the source of any SQLite file, a ctk file or not."""
    try:
        return source(path)
    except UsageError:
        return File(path)
