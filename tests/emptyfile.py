"""A new file, made once: its migrations take 40 ms, a copy of what they made 1 ms."""

import sqlite3
from contextlib import closing
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from ctk.migrations.migrations import migrations
from sqlite_utils import Database

from ctk.store import connect


def put(path: Path) -> None:
    """Make it as a writer does that is closed at once."""
    path.write_bytes(_closed())


def new() -> sqlite3.Connection:
    """Make it in memory."""
    conn = sqlite3.connect(":memory:", isolation_level=None)
    conn.deserialize(_migrated())
    return conn


@cache
def _closed() -> bytes:
    with TemporaryDirectory() as folder:
        path = Path(folder, "new.db")
        with connect.writer(path):
            pass
        return path.read_bytes()


@cache
def _migrated() -> bytes:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as conn:
        migrations.apply(Database(conn))
        return conn.serialize()
