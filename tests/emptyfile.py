"""A new file in memory, made once: its migrations take 40 ms, a copy of what they made 1 ms."""

import sqlite3
from contextlib import closing
from functools import cache

from ctk.migrations.migrations import migrations
from sqlite_utils import Database


def new() -> sqlite3.Connection:
    conn = sqlite3.connect(":memory:", isolation_level=None)
    conn.deserialize(_migrated())
    return conn


@cache
def _migrated() -> bytes:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as conn:
        migrations.apply(Database(conn))
        return conn.serialize()
