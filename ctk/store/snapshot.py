"""A consistent copy of a file that is being written: one file, with nothing beside it."""

import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from ctk.errors import StoreError, UsageError
from ctk.store import connect
from ctk.store.lock import locked
from ctk.store.plain import plain

_CHUNK_BYTES = 1 << 20
_PAGES = 1_000  # copied in a step: 4 MB, some milliseconds


def snapshot(db: Path, out: Path, progress: Callable[[int, int], None]) -> None:
    """
    Copy `db` to `out`, which must not be there yet; `progress` gets pages done and in all.

    Holds one view of the file from first to last, so a recorder neither waits nor makes the copy
    start again. The copy has no free pages, and nothing of live connections. `out` appears when it
    is whole, readable by its owner only.
    """
    if out.exists() or out.is_symlink():
        raise UsageError(f"{out} is there already", hint="name another file, or remove it")
    with connect.reader(db, older=True) as source:
        try:
            made, name = tempfile.mkstemp(prefix=f".{out.name}.", dir=out.parent)
        except FileNotFoundError:
            raise UsageError(f"there is no directory {out.parent}") from None
        except OSError as error:
            raise StoreError(f"{out} cannot be made: {error.strerror}") from error
        os.close(made)
        part = Path(name)
        try:
            with connect.explained(out):
                _copy(source, part, progress)
            _publish(part, out)
        finally:
            for left in (part, part.with_name(part.name + "-journal")):
                left.unlink(missing_ok=True)


def stream(db: Path, progress: Callable[[int, int], None], *, ended: bool) -> Iterator[bytes]:
    """
    Yield a file that has all of `db` as of one moment.

    It is a snapshot in a temporary folder; or what is there, where its recording has `ended`: a
    disk that is full has no room for a copy.
    """
    if ended:
        with connect.reader(db, older=True):
            pass  # it is a file of ctk
        with locked(db):
            yield from plain(db)
        return
    with tempfile.TemporaryDirectory(prefix="ctk-") as directory:
        whole = Path(directory) / "snapshot.db"
        snapshot(db, whole, progress)
        with whole.open("rb") as file:
            yield from iter(lambda: file.read(_CHUNK_BYTES), b"")


def _copy(source: sqlite3.Connection, part: Path, progress: Callable[[int, int], None]) -> None:
    target = sqlite3.connect(part, isolation_level=None)
    try:
        source.execute("BEGIN")
        source.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()  # the view is taken here
        source.backup(
            target, pages=_PAGES, progress=lambda _, left, total: progress(total - left, total)
        )
        source.execute("COMMIT")
        # The copied header may say WAL; a reader of that would leave files beside the copy.
        target.execute("PRAGMA journal_mode = DELETE")
        # The copy has no name yet: if this fails half-way it is removed.
        target.execute("PRAGMA journal_mode = OFF")
        # Only the next recording on this host could use them.
        target.execute("DELETE FROM connection")
        # A row without columns comes for each page; `execute` stops at the first of them.
        target.executescript("PRAGMA incremental_vacuum")
    finally:
        target.close()


def _publish(part: Path, out: Path) -> None:
    """Give the whole copy its name, unless somebody took the name meanwhile."""
    with part.open("rb") as whole:
        os.fsync(whole.fileno())
    try:
        os.link(part, out)
    except FileExistsError:
        raise UsageError(
            f"{out} is there already", hint="name another file, or remove it"
        ) from None
    except OSError as error:  # a file system without hard links
        if out.exists():
            raise StoreError(f"{out} cannot be made: {error.strerror}") from error
        part.rename(out)
