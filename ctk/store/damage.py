"""
Damage: where an answer fails over what is in a file, the error says so.

SQLite keeps in a column whatever it was given (https://www.sqlite.org/flexible.html), and a file
may come from anywhere. To look at every value would double the time of an answer, so that is done
only where one failed: is it the file's fault, or a defect of ctk?
"""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from ctk.errors import CtkError, StoreError

HINT = "copy it again from where it was made, or record to another file"

Open = Callable[[], AbstractContextManager[sqlite3.Connection]]


@contextmanager
def blaming(path: Path, opened: Open) -> Iterator[None]:
    """Where what is done with the file at `path` fails over a value in it, let the error say so."""
    try:
        yield
    except Exception as error:
        if found := damage(path, opened, error):
            raise found from error
        raise


def damage(path: Path, opened: Open, error: BaseException | None) -> StoreError | None:
    """Give what to say of a file over whose content this happened; None where it may be whole."""
    if not isinstance(error, Exception) or isinstance(error, CtkError | OSError):
        return None
    if isinstance(error, sqlite3.Error) and not isinstance(
        error, sqlite3.IntegrityError | sqlite3.ProgrammingError
    ):
        return None  # it has a sentence of its own
    from ctk.store.columncheck import first_wrong

    try:
        with opened() as conn:
            found = first_wrong(conn)
    except (sqlite3.Error, CtkError):
        return None
    return StoreError(f"{path} is damaged: {found}", hint=HINT) if found else None
