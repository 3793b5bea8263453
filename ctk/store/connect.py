"""
Opening a ctk file: `writer` for the one recorder, `reader` for everybody else.

A file says what it is before anything is asked of it: the application id in its header and the
names of the migrations that made it. A reader compares them with SCHEMA, so it needs no
migration library and never changes a file.
"""

import os
import sqlite3
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from functools import partial
from pathlib import Path

from ctk.errors import DiskFullError, FileBusyError, StoreError, UsageError
from ctk.store.absent import MAKES, instead_of
from ctk.store.damage import HINT, blaming
from ctk.store.lock import is_written, locked

APPLICATION_ID = 0x63746B31  # "ctk1"

# The migrations this ctk knows, oldest first (tests hold them against migrations.py).
SCHEMA: tuple[str, ...] = (
    "m001_recordings",
    "m002_identities",
    "m003_flows",
    "m004_live_connections",
    "m005_views",
    "m006_late_flows",
    "m007_clusters",
    "m008_folded",
    "m010_peers_and_idle",
    "m011_meanings",
    "m012_times_of_pods",
    "m013_table_use",
)

PAGE_BYTES = 4096
_WRITER_KIB, _READER_KIB = 8 * 1024, 16 * 1024  # of pages; a window needs no more
_MAPPED_BYTES = 2**34
_BUSY_MS = 5_000
_PLAIN_TRIES, _PLAIN_WAIT_S = 20, 0.05  # a question of a reader is over by then
_WRITER_BUSY_MS = 250  # events wait in the socket's buffer meanwhile; the window is tried again
WAL_BYTES = 4 * 1024 * 1024  # copied into the file at this size: no slower than with 16 MB
_ANOTHER = "record to another file"
ROOM_HINT = "make room, or set --max-size and --retain"
_FULL_BYTES = 256 * 1024  # with less room than this a failed write is a full disk

_FAILURES = {
    sqlite3.SQLITE_READONLY: ("cannot be written", "is its file system read-only?"),
    sqlite3.SQLITE_CORRUPT: ("is damaged", "keep it for a look, and record to a new file"),
    sqlite3.SQLITE_CANTOPEN: ("cannot be opened", "check who may read it and its directory"),
}


@contextmanager
def writer(path: Path) -> Iterator[sqlite3.Connection]:
    """
    The only connection that writes: autocommit, WAL, with the newest schema.

    Leaves one plain file, with nothing beside it, which any SQLite tool opens anywhere.

    Makes the file, readable by its owner only, where there is none; migrates an older one.
    Refuses a second writer, and whatever is not a ctk file, before a byte is changed.
    """
    path = Path(os.path.realpath(path))  # Path.resolve() fails where links go round
    with blaming(path, partial(_opened, path)), explained(path, _ANOTHER), locked(path):
        if path.is_dir():
            raise UsageError(f"{path} is a directory", hint="name a file in it")
        if path.exists() and not path.is_file():  # a device is not to get a file's mode
            raise UsageError(f"{path} is no file", hint="name one that is, or is to be")
        made = _make_private(path)
        conn = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            # To begin WAL, every reader must have ended its question.
            conn.execute(f"PRAGMA busy_timeout = {_BUSY_MS}")
            fresh = _check(conn, path, migrates=True)
            if fresh:
                with suppress(PermissionError):  # an empty file of somebody else's stays theirs
                    path.chmod(0o600)
                # Both are fixed once the first page is written.
                conn.execute(f"PRAGMA page_size = {PAGE_BYTES}")
                conn.execute("PRAGMA auto_vacuum = INCREMENTAL")
            migrate(conn)
            conn.execute("PRAGMA journal_mode = WAL")
            # A power cut may cost the last windows, never the file: WAL is synced before it is
            # copied into the file.
            conn.execute("PRAGMA synchronous = NORMAL")
            conn.execute(f"PRAGMA cache_size = -{_WRITER_KIB}")
            conn.execute("PRAGMA temp_store = MEMORY")
            conn.execute(f"PRAGMA busy_timeout = {_WRITER_BUSY_MS}")
            limit_wal(conn, WAL_BYTES)
            made = False
            try:
                yield conn
            finally:
                _make_plain(conn)
        finally:
            conn.close()
            if made:
                path.unlink(missing_ok=True)


class OlderSchemaError(UsageError):
    """An older ctk wrote the file: what is asked of it is asked of a copy (older.py)."""


@contextmanager
def reader(path: Path, *, older: bool = False) -> Iterator[sqlite3.Connection]:
    """
    A connection that cannot write, beside a running recorder or on a copied file.

    Never makes a file. Works in a directory that cannot be written to. A file of an older schema
    is an OlderSchemaError, unless it is taken as it is with `older`.
    """
    if not path.exists():
        raise UsageError(f"there is no file {path}", hint=instead_of(str(path)))
    if path.is_dir():
        raise UsageError(f"{path} is a directory", hint="name the file in it")
    if not path.is_file():  # to open a pipe would wait for who writes it
        raise UsageError(f"{path} is no file", hint="copy what it gives into one")
    with blaming(path, partial(_opened, path)), explained(path):
        conn = _open_to_read(path.resolve())
        try:
            conn.execute(f"PRAGMA busy_timeout = {_BUSY_MS}")
            _wait_until_made(conn, path)
            _check(conn, path, migrates=False, older=older)
            tune_reader(conn)
            yield conn
        finally:
            conn.close()


def _wait_until_made(conn: sqlite3.Connection, path: Path) -> None:
    """Wait for a recorder that has just begun: for a moment its file is empty."""
    until_s = time.monotonic() + _BUSY_MS / 1000
    while not conn.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone():
        if not is_written(path) or time.monotonic() > until_s:
            return
        time.sleep(_PLAIN_WAIT_S)


def tune_reader(conn: sqlite3.Connection) -> None:
    """Make a connection one that cannot write, and reads fast."""
    conn.execute("PRAGMA query_only = ON")
    # The views of a file that was made to harm call no function that could.
    conn.execute("PRAGMA trusted_schema = OFF")
    conn.execute(f"PRAGMA cache_size = -{_READER_KIB}")
    # Counting ten million rows took 0.9 s with pages copied, 0.01 s where they lie.
    conn.execute(f"PRAGMA mmap_size = {_MAPPED_BYTES}")


def _make_plain(conn: sqlite3.Connection) -> None:
    """
    Copy the -wal into the file and remove it.

    While another program reads, or where the disk is full, it stays: the next writer does it.
    """
    for _ in range(_PLAIN_TRIES):
        try:
            conn.execute("PRAGMA journal_mode = DELETE").fetchone()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                return
        except sqlite3.Error:
            return
        else:
            return
        time.sleep(_PLAIN_WAIT_S)


def path_of(conn: sqlite3.Connection) -> Path:
    """Return where the file is; a name need not be UTF-8, which a column of text must be."""
    asked = "SELECT CAST(file AS BLOB) FROM pragma_database_list WHERE name = 'main'"
    return Path(os.fsdecode(conn.execute(asked).fetchone()[0]))


def limit_wal(conn: sqlite3.Connection, limit_bytes: int) -> None:
    """Copy the -wal into the file when it is this big, and cut it back to this."""
    conn.execute(f"PRAGMA wal_autocheckpoint = {limit_bytes // PAGE_BYTES}").fetchall()
    conn.execute(f"PRAGMA journal_size_limit = {limit_bytes}").fetchall()


def empty_wal(conn: sqlite3.Connection) -> bool:
    """Copy all of the -wal into the file and cut it off; False while a reader needs it."""
    conn.execute("PRAGMA busy_timeout = 0")
    try:
        busy: int = conn.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
    finally:
        conn.execute(f"PRAGMA busy_timeout = {_WRITER_BUSY_MS}")
    return not busy


def failure(error: sqlite3.Error, path: Path, instead: str = MAKES) -> StoreError | UsageError:
    """The sentence for what SQLite reports about the file at `path`; `instead` of no ctk file."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_NOTADB:
        return UsageError(f"{path} is not a ctk file", hint=instead)
    if code == sqlite3.SQLITE_FULL or (code == sqlite3.SQLITE_IOERR and _full(path)):
        return DiskFullError(f"no room left to write {path}", hint=ROOM_HINT)
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return FileBusyError(
            f"{path} is locked by another program", hint="close that one and try again"
        )
    if str(error) == "integer overflow":
        return StoreError(f"{path} is damaged: its counts have no sum", hint=HINT)
    what, hint = _FAILURES.get(code, (f"failed: {error}", None))
    return StoreError(f"{path} {what}", hint=hint)


@contextmanager
def explained(path: Path, instead: str = MAKES) -> Iterator[None]:
    """Turn what SQLite reports about the file at `path` into a sentence; our own bugs stay bugs."""
    try:
        yield
    except (sqlite3.ProgrammingError, sqlite3.IntegrityError):
        raise
    except sqlite3.DatabaseError as error:
        raise failure(error, path, instead) from error


def _full(path: Path) -> bool:
    try:
        room = os.statvfs(path.parent)
    except OSError:
        return False
    return room.f_bavail * room.f_frsize < _FULL_BYTES


def _make_private(path: Path) -> bool:
    """Make an empty file of mode 0600; False where there is one. SQLite's -wal takes its mode."""
    try:
        made = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return False
    except OSError as error:
        raise StoreError(f"{path} cannot be made: {error.strerror}") from error
    os.fchmod(made, 0o600)  # whatever the umask
    os.close(made)
    return True


def _open_to_read(path: Path) -> sqlite3.Connection:
    problem: sqlite3.Error | None = None
    for uri, exclusive in _ways_to_read(path):
        conn = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
        try:
            _look_into(conn, "main", exclusive)
        except sqlite3.Error as error:
            conn.close()
            problem = _another_way(error, problem)
        else:
            return conn
    assert problem is not None
    raise problem


def _opened(path: Path) -> AbstractContextManager[sqlite3.Connection]:
    return closing(_open_to_read(path.resolve()))


def attach(conn: sqlite3.Connection, name: str, path: Path) -> None:
    """Let a connection of a reader read a second SQLite file, under that name."""
    if not path.exists():
        raise UsageError(f"there is no file {path}", hint="name a SQLite file")
    with explained(path):
        problem: sqlite3.Error | None = None
        for uri, exclusive in _ways_to_read(path.resolve()):
            try:
                conn.execute(f'ATTACH ? AS "{name}"', (uri,))
                _look_into(conn, name, exclusive)
            except sqlite3.Error as error:
                problem = _another_way(error, problem)
                if any(name == each for _, each, _ in conn.execute("PRAGMA database_list")):
                    conn.execute(f'DETACH "{name}"')
            else:
                return
        assert problem is not None
        raise problem


def _ways_to_read(path: Path) -> Sequence[tuple[str, bool]]:
    """
    Read-only, and without making what WAL needs beside the file, where nobody writes it.

    Without a -wal nothing can be missed: the file is whole. With one, SQLite is told not to lock
    (the True), and keeps the index of the -wal in its own memory. Both are the second way, too,
    where the folder cannot be written to, or its disk is full.
    """
    wal, shm = (path.with_name(path.name + suffix) for suffix in ("-wal", "-shm"))
    ways = [(f"{path.as_uri()}?mode=ro", False)]
    if wal.exists() and wal.stat().st_size > 0:
        ways.append((f"{path.as_uri()}?mode=ro&vfs=unix-none", True))
        if not shm.exists() and not is_written(path):
            ways.reverse()
    else:
        ways.append((f"{path.as_uri()}?mode=ro&immutable=1", False))
        if not is_written(path) and _says_wal(path):
            ways.reverse()
    return ways


def _look_into(conn: sqlite3.Connection, schema: str, exclusive: bool) -> None:
    if exclusive:
        conn.execute(f'PRAGMA "{schema}".locking_mode = EXCLUSIVE')
    conn.execute(f'SELECT count(*) FROM "{schema}".sqlite_master').fetchone()


def _another_way(error: sqlite3.Error, before: sqlite3.Error | None) -> sqlite3.Error:
    """Give what to tell of the first way where there may be another; else raise."""
    if isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode & 0xFF in (
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_IOERR,  # a -shm has no room on a disk that is full
    ):
        return before or error
    raise error


def _says_wal(path: Path) -> bool:
    """
    Whether the header says WAL: https://www.sqlite.org/fileformat2.html, offsets 18 and 19.

    Not to be asked of a file that is written: closing it drops the locks of this process on it.
    """
    with path.open("rb") as file:
        return file.read(20)[18:] == b"\2\2"


def _check(conn: sqlite3.Connection, path: Path, *, migrates: bool, older: bool = False) -> bool:
    """Refuse what is not a ctk file of a schema known here; True for a file still empty."""
    (identity,) = conn.execute("PRAGMA application_id").fetchone()
    tables = {name for (name,) in conn.execute("SELECT name FROM sqlite_master")}
    # A creation that was cut short leaves no more than the table of migrations.
    if identity == 0 and migrates and not any("_sqlite_migrations" not in t for t in tables):
        return not tables
    if identity != APPLICATION_ID or "_sqlite_migrations" not in tables:
        what = "not a ctk file" if identity or tables else "empty"
        raise UsageError(f"{path} is {what}", hint=_ANOTHER if migrates else MAKES)
    applied = {
        name
        for (name,) in conn.execute(
            "SELECT name FROM _sqlite_migrations WHERE migration_set = 'ctk'"
        )
    }
    unknown = applied.difference(SCHEMA)
    if unknown:
        raise UsageError(
            f"{path} was written by a newer ctk (it has {max(unknown)})", hint="update this ctk"
        )
    if migrates and "merged" in tables:
        raise UsageError(f"{path} was merged of the files of several nodes", hint=_ANOTHER)
    missing = [name for name in SCHEMA if name not in applied]
    if missing and not (migrates or older):
        raise OlderSchemaError(f"{path} was written by an older ctk (it lacks {missing[0]})")
    return False


def migrate(conn: sqlite3.Connection) -> None:
    """Apply the migrations that a file lacks, all or none."""
    applied: set[str] = set()
    if conn.execute("SELECT 1 FROM sqlite_master WHERE name = '_sqlite_migrations'").fetchone():
        applied.update(
            name
            for (name,) in conn.execute(
                "SELECT name FROM _sqlite_migrations WHERE migration_set = 'ctk'"
            )
        )
    if applied.issuperset(SCHEMA):
        return
    # 90 ms to import, so only where there is something to do.
    with _hidden("pandas", "numpy"):
        from sqlite_utils import Database

        from ctk.migrations.migrations import migrations

    # One transaction: a file is brought up to date whole, with one wait for the disk, not thirteen.
    db = Database(conn)
    with db.atomic():
        migrations.apply(db)


@contextmanager
def _hidden(*names: str) -> Iterator[None]:
    """
    Let no import find these modules.

    sqlite-utils imports pandas and numpy where they are, for values that ctk never binds: 75 MB of
    a recorder's memory, and a second.
    """
    hidden = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type] # None is an ImportError
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]
