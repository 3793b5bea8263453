"""A file of lines that is put aside when it is full."""

import gzip
import io
import os
import shutil
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from ctk.errors import StoreError, UsageError


class RotatingFile:
    """
    Lines appended to PATH; past `max_bytes` it becomes PATH.1, what was PATH.1 becomes PATH.2,
    and of those only `keep` are kept.

    It is readable by its owner only, and where he changed that, so is the next one as he likes it.

    A line is never cut in two. Every step is a rename, so a crash loses nothing that was written;
    compression (PATH.1.gz) runs beside the writing and replaces a file only when it is whole.
    `on_size` is told the size of PATH before it is put aside, and 0 after.
    """

    def __init__(
        self,
        path: Path,
        *,
        max_bytes: int | None = None,
        keep: int = 5,
        compress: bool = False,
        header: bytes = b"",
        start_bytes: int | None = None,
        on_size: Callable[[int], None] | None = None,
    ) -> None:
        """Go on at the end of PATH, or, cutting off what is behind it, at `start_bytes`."""
        self.path = path
        self.max_bytes = max_bytes
        self.keep = keep
        self.compress = compress
        self.header = header
        self._on_size = on_size
        self._compressing: threading.Thread | None = None
        try:
            # Without a buffer: a line that is written is seen by who follows the file.
            self._file = io.FileIO(path, "ab", opener=_private)
            self.size = self._file.tell()
            if start_bytes is not None and self.size > start_bytes:
                self._file.truncate(start_bytes)
                self.size = start_bytes
            self._begin()
        except OSError as error:
            raise cannot_write(path, error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()

    def write(self, line: bytes) -> None:
        """Append a line, given without its end."""
        full = self.max_bytes is not None and self.size + len(line) + 1 > self.max_bytes
        try:
            if full and self.size > len(self.header):
                self._put_aside()
            self._append(line + b"\n")
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def close(self) -> None:
        """Close the file, and wait for a compression that runs."""
        self._file.close()
        if self._compressing is not None:
            self._compressing.join()

    def _begin(self) -> None:
        if self.header and not self.size:
            self._append(self.header)

    def _append(self, line: bytes) -> None:
        written = 0
        try:
            while written < len(line):
                written += self._file.write(line[written:])
        except OSError:
            if written:  # a disk that is filling up takes a part, then fails
                self._file.truncate(self.size)
                self._file.seek(self.size)
            raise
        self.size += len(line)

    def _put_aside(self) -> None:
        os.fsync(self._file.fileno())
        mode = stat.S_IMODE(os.fstat(self._file.fileno()).st_mode)
        if self._compressing is not None:
            self._compressing.join()
        if self._on_size is not None:
            self._on_size(self.size)
        self._file.close()
        if self.keep:
            self._shift()
            self.path.replace(self._aside(1))
        self._file = io.FileIO(self.path, "wb", opener=_private)
        os.fchmod(self._file.fileno(), mode)
        self.size = 0
        if self._on_size is not None:
            self._on_size(0)
        self._begin()
        if self.compress and self.keep:
            self._compressing = threading.Thread(target=_compress, args=(self._aside(1),))
            self._compressing.start()

    def _shift(self) -> None:
        for number in range(self.keep, 0, -1):
            for suffix in ("", ".gz"):
                aside = self._aside(number, suffix)
                if number == self.keep:
                    aside.unlink(missing_ok=True)
                elif aside.exists():
                    aside.replace(self._aside(number + 1, suffix))

    def _aside(self, number: int, suffix: str = "") -> Path:
        return self.path.with_name(f"{self.path.name}.{number}{suffix}")


def _private(path: str, flags: int) -> int:
    """Open for a file that its owner alone may read, until he says otherwise."""
    return os.open(path, flags, 0o600)


def _compress(path: Path) -> None:
    whole = path.with_name(f"{path.name}.gz")
    part = whole.with_name(f"{whole.name}.part")
    with (
        path.open("rb") as read,
        open(part, "wb", opener=_private) as opened,
        gzip.GzipFile(path.name, "wb", compresslevel=6, fileobj=opened) as write,
    ):
        os.fchmod(opened.fileno(), stat.S_IMODE(os.fstat(read.fileno()).st_mode))
        shutil.copyfileobj(read, write, 1 << 20)
    part.replace(whole)
    path.unlink()


def cannot_write(path: Path, error: OSError) -> StoreError | UsageError:
    """Give the sentence for a file of lines that cannot be written; a mistyped path is asked so."""
    if isinstance(error, FileNotFoundError | NotADirectoryError | IsADirectoryError):
        return UsageError(f"{path} cannot be written: {error.strerror}", hint="check its directory")
    return StoreError(
        f"{path} cannot be written: {error.strerror}", hint="check its directory and its disk"
    )
