"""
Damage: where an answer fails over what is in a file, the error says so.

SQLite keeps in a column whatever it was given (https://www.sqlite.org/flexible.html), and a file
may come from anywhere. To look at every value would double the time of an answer, so that is done
only where one failed: is it the file's fault, or a defect of ctk?
"""

import sqlite3
import struct
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from ctk.errors import CtkError, StoreError

HINT = "copy it again from where it was made, or record to another file"

# What Python raises over a value: not how a command is left (click.Abort), nor a full disk.
_OVER_VALUES = (
    *(ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError),
    *(struct.error, sqlite3.IntegrityError, sqlite3.ProgrammingError),
)

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
    if not isinstance(error, _OVER_VALUES) or isinstance(error, OSError) or not _is_ours(error):
        return None
    from ctk.store.columncheck import first_wrong

    try:
        with opened() as conn:
            found = first_wrong(conn)
    except (sqlite3.Error, CtkError):
        return None
    return StoreError(f"{path} is damaged: {found}", hint=HINT) if found else None


def _is_ours(error: BaseException) -> bool:
    """Say whether ctk was at work: what else fails in a caller's block says nothing of the file."""
    trace = error.__traceback__
    while trace is not None:
        if str(trace.tb_frame.f_globals.get("__name__")).startswith("ctk."):
            return True
        trace = trace.tb_next
    return False
