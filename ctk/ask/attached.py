"""Connections that read more than one file: for SQL that joins them."""

import os
import re
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from ctk.ask.connection import Connect, temporary_writes
from ctk.errors import UsageError
from ctk.store.meanings import COLUMNS
from ctk.store.source import Source, any_source

_MOST = 10  # SQLite's own limit, unless it was built with another
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_HINT = "--attach teams teams.db, then: ... join teams.owner using (namespace)"


def attaching(connect: Connect, files: Mapping[str, str | os.PathLike[str]]) -> Connect:
    """Give what opens a connection that reads other SQLite files, too, by name."""
    for name in files:
        if not _NAME.fullmatch(name) or name.lower() in ("main", "temp"):
            raise UsageError(f"{name!r} is not a name to attach a file by", hint=_HINT)
    if len({name.lower() for name in files}) < len(files):
        raise UsageError("two files are attached by one name", hint=_HINT)
    sources = {name: any_source(Path(path)) for name, path in files.items()}

    def opened() -> AbstractContextManager[sqlite3.Connection]:
        return _attached(connect, sources)

    return opened


def uniting(connect: Connect, others: Sequence[Source], sql: str) -> Connect:
    """
    Give what opens a connection whose views are those of several ctk files together.

    They are for one question: columns that it does not name are NULL, since SQLite makes all
    columns of united views for each row that is summed up (8 s instead of 0.4 s for 2,000,000).
    """
    sources = {f"file{number}": source for number, source in enumerate(others, 2)}
    named = _names(sql)

    @contextmanager
    def opened() -> Iterator[sqlite3.Connection]:
        with _attached(connect, sources) as conn:
            with temporary_writes(conn):
                for view, columns in COLUMNS.items():
                    chosen = ", ".join(
                        column if named is None or column in named else f"NULL AS {column}"
                        for column in columns
                    )
                    each = " UNION ALL ".join(
                        f"SELECT {chosen} FROM {schema}.{view}" for schema in ("main", *sources)
                    )
                    conn.execute(f"CREATE TEMP VIEW {view} AS {each}")
            yield conn

    return opened


def _names(sql: str) -> set[str] | None:
    """Give every word that could be a column's name; None where any column may be asked for."""
    counted = re.sub(r"\(\s*\*\s*\)", "", sql.lower())  # count(*) asks for none
    if "*" in counted or re.search(r"\bnatural\b", counted):
        return None
    return set(re.findall(r"\w+", counted))


@contextmanager
def _attached(connect: Connect, sources: Mapping[str, Source]) -> Iterator[sqlite3.Connection]:
    with connect() as conn:
        already = len(conn.execute("PRAGMA database_list").fetchall()) - 1
        if already + len(sources) > _MOST:
            raise UsageError(
                f"SQL reads at most {_MOST + 1} files at once", hint="ask some of them at a time"
            )
        for name, source in sources.items():
            source.attach(conn, name)
        yield conn
