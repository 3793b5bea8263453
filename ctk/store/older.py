"""
A file of an older schema, to be asked: a copy of it, brought up to date.

Readers know one schema, the newest, and change no file. So what an older ctk wrote is copied as it
is now, and migrated there: in memory, or in the folder for temporary files where it is large.
"""

import os
import sqlite3
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import count
from pathlib import Path

from ctk.errors import StoreError
from ctk.store import connect
from ctk.store.damage import blaming

_IN_MEMORY_BYTES = 256 * 1024 * 1024
_SHARED_MEMORY = (3, 36)  # the SQLite since which connections share a database in memory

_numbers = count(1)


class Older:
    """A copy of an older file with the newest schema, for as long as this is referred to."""

    def __init__(self, path: Path, in_memory_bytes: int = _IN_MEMORY_BYTES) -> None:
        """Copy and migrate: 0.1 s, and some 2 s for each GB."""
        self._path = path
        size_bytes = path.stat().st_size
        if size_bytes <= in_memory_bytes and sqlite3.sqlite_version_info >= _SHARED_MEMORY:
            self._uri = f"file:/ctk-{os.getpid()}-{next(_numbers)}?vfs=memdb"
        else:
            self._uri = f"{self._made(size_bytes).as_uri()}?mode=rw"
        # What is in memory goes with the last connection to it.
        self._kept = self._connect()
        with connect.reader(path, older=True) as source, connect.explained(path):
            # Not `backup`: its copy would say WAL where the file does, and memory has none.
            source.execute("PRAGMA query_only = OFF")  # it forbids this, too; the file is open ro
            source.execute("VACUUM INTO ?", (self._uri,))
            connect.migrate(self._kept)

    @contextmanager
    def reader(self) -> Iterator[sqlite3.Connection]:
        """Give a connection that cannot write, as `connect.reader` does."""
        with blaming(self._path, lambda: closing(self._connect())):
            conn = self._connect()
            try:
                connect.tune_reader(conn)
                yield conn
            finally:
                conn.close()

    def attach(self, conn: sqlite3.Connection, name: str) -> None:
        """Let another connection read the copy, under that name."""
        conn.execute(f'ATTACH ? AS "{name}"', (self._uri,))

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self._uri, uri=True, isolation_level=None, check_same_thread=False)

    def _made(self, size_bytes: int) -> Path:
        try:
            made, name = tempfile.mkstemp(prefix="ctk-", suffix=".db")
        except OSError as error:
            raise StoreError(
                f"an older file of {size_bytes:,} bytes needs a copy: {error.strerror}",
                hint="name a folder with room in TMPDIR",
            ) from error
        os.close(made)
        path = Path(name)
        weakref.finalize(self, path.unlink, missing_ok=True)
        return path
