"""Where an output file goes: what is there is replaced by what is whole, or written straight."""

import errno
import os
import stat
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple, Self

from ctk.errors import StoreError, UsageError


class Place(NamedTuple):
    """
    What a path names.

    A regular file, or none yet, is to be `seen_whole` only: it is replaced in one step, so that
    who fails leaves the old one. A device, a pipe or a socket is written straight, and stays. Of a
    link it is what the link points to, and the link stays.
    """

    path: Path
    seen_whole: bool
    old_bytes: int

    @classmethod
    def of(cls, path: Path) -> Self:
        """Look what is there. Raises as `write_private` does."""
        if is_no_file(path):
            return cls(path, seen_whole=False, old_bytes=0)  # /dev/stdout: its target has no name
        try:
            path = path.resolve() if path.is_symlink() else path
            old_bytes = path.stat().st_size if path.is_file() else 0
        except RuntimeError:  # of Python before 3.13
            raise cannot_write(path, OSError(errno.ELOOP, os.strerror(errno.ELOOP))) from None
        except OSError as error:
            raise cannot_write(path, error) from error
        return cls(path, seen_whole=True, old_bytes=old_bytes)

    @property
    def replaced(self) -> str | None:
        """What to say when something else is there now; None where nothing was lost."""
        if not self.old_bytes:
            return None
        return f"{self.path} was replaced: {self.old_bytes:,} bytes were there"


def is_no_file(path: Path) -> bool:
    """Say whether a device, a pipe or a folder is there: it has no place to be renamed to."""
    try:
        return not stat.S_ISREG(path.stat().st_mode)
    except OSError:  # there is none, or who writes it says what is wrong
        return False


def write_private(path: Path, content: bytes) -> str | None:
    """
    Write all of a file that its owner alone may read, and return what to say of an older one.

    Raises UsageError where its directory or its name is wrong, else StoreError.
    """
    place = Place.of(path)
    try:
        if place.seen_whole:
            _replace(place.path, content)
        else:
            with place.path.open("wb") as out:
                out.write(content)
    except BrokenPipeError:
        raise  # who read it went away
    except OSError as error:
        raise cannot_write(path, error) from error
    return place.replaced


def _replace(path: Path, content: bytes) -> None:
    made, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    part = Path(name)
    try:
        with os.fdopen(made, "wb") as out:
            out.write(content)
            out.flush()
            os.fsync(made)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def forget_output() -> None:
    """Let what standard output still holds go nowhere: it failed, or nobody waits for it."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def cannot_write(path: Path, error: OSError) -> StoreError | UsageError:
    """Give the sentence for a file that cannot be made; a mistyped path is asked so."""
    mistyped = isinstance(error, FileNotFoundError | NotADirectoryError | IsADirectoryError)
    if mistyped or error.errno in (errno.ELOOP, errno.ENAMETOOLONG):
        return UsageError(f"{path} cannot be written: {error.strerror}", hint="check its directory")
    return StoreError(
        f"{path} cannot be written: {error.strerror}", hint="check its directory and its disk"
    )
