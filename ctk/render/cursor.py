"""Where a reader of flows stopped, kept in a small file of its own."""

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from ctk.errors import StoreError

_SUFFIX = ".cursor"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cursor:
    """Where a reader of flows stopped: the last one it had, in which file, and what it wrote."""

    recording: str  # the first one in the file, which tells the file from others
    started_ns: int
    number: int  # tells flows of one nanosecond apart
    output_bytes: int  # of the file the flows went to; 0 where it was none
    late_id: int = 0  # of those that were written after later ones
    filters: str = ""  # as flags: another export by this name must have the same
    form: str = ""  # as flags, too
    output_began_s: float | None = None  # when that file was begun

    @classmethod
    def load(cls, path: Path) -> Self | None:
        """Read what `save` wrote; None where nothing was saved yet."""
        try:
            return cls(**json.loads(path.read_bytes()))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as error:
            raise StoreError(
                f"the cursor {path} cannot be read: {error}", hint="remove it to start anew"
            ) from error

    def save(self, path: Path) -> None:
        """Replace the file as a whole, readable by its owner only."""
        part = path.with_name(f"{path.name}.part")
        try:
            descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "w") as file:
                json.dump(asdict(self), file)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
            _sync_directory(path.parent)
        except OSError as error:
            raise StoreError(
                f"the cursor {path} cannot be written: {error.strerror}",
                hint="it stands beside DB, or beside the FILE of --output",
            ) from error


def path_of(beside: Path, name: str) -> Path:
    """Give where the cursor of this name is kept: beside the file of flows, or of lines."""
    return beside.with_name(f"{beside.name}.{name}{_SUFFIX}")


def beside(path: Path) -> Iterator[tuple[str, Path]]:
    """Yield the name and the file of every cursor that is kept beside a file."""
    for found in sorted(path.parent.iterdir()):
        if found.name.startswith(f"{path.name}.") and found.name.endswith(_SUFFIX):
            yield found.name[len(path.name) + 1 : -len(_SUFFIX)], found


def _sync_directory(directory: Path) -> None:
    """Have on the disk what was renamed in it."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
