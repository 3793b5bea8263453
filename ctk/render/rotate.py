"""A file of lines that is put aside when it is full."""

import errno
import gzip
import io
import math
import os
import stat
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from ctk.errors import StoreError, UsageError

_CHUNK_BYTES = 1 << 20  # a compression that is to stop does so after one of them


class RotatingFile:
    """
    Lines appended to PATH, whole ones only.

    Where a line would make PATH longer than `max_bytes`, PATH becomes PATH.1, what was PATH.1
    becomes PATH.2, and so on; the newest `keep` of them are kept. Each step is a rename, so a
    crash loses nothing that was written. With `compress`, a thread turns PATH.1 into PATH.1.gz,
    and removes PATH.1 when that is whole.

    A write that fails leaves nothing of its line, and the next one tries again: to put PATH aside,
    to open it, to append.

    A new file may be read by its owner only. Where the owner changed that, the next one is like
    the one before. `on_size` is told the size of PATH before PATH is put aside, and 0 after.
    `note` is told, once until one succeeds, that a compression failed, and the file is left
    uncompressed; without a `note` the next write that puts PATH aside, or `close`, raises it.
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
        note: Callable[[str], None] | None = None,
    ) -> None:
        """
        Open PATH at its end, or cut it off at `start_bytes`.

        Raises UsageError where its directory or its name is wrong, else StoreError.
        """
        self.path = path
        self.max_bytes = max_bytes
        self.keep = keep
        self.compress = compress
        self.header = header
        self.size = 0
        self._on_size = on_size or (lambda size: None)
        self._note = note
        self._file: io.FileIO | None = None
        self._mode: int | None = None  # of the file before, for the one that is made next
        self._compression: _Compression | None = None
        self._failure_is_told = False
        try:
            file = self._opened()
            if start_bytes is not None and self.size > start_bytes:
                file.truncate(start_bytes)
                self.size = start_bytes
            self._begin(file)
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
        try:
            self.close()
        except StoreError:
            if error is None:
                raise

    def write(self, line: bytes) -> None:
        """Append a line, given without its end. Raises StoreError."""
        try:
            file = self._opened()
            full = self.max_bytes is not None and self.size + len(line) + 1 > self.max_bytes
            if full and self.size > len(self.header):
                file = self._put_aside(file)
            self._begin(file)
            self._append(file, line + b"\n")
        except OSError as error:
            raise self._failed("written", error.strerror) from error

    def reopen(self) -> None:
        """Go on in a new PATH, since another program has renamed this one. Raises StoreError."""
        try:
            if self._file is not None:
                self._mode = _mode_of(self._file)
                self._close_file()
            self._begin(self._opened())
        except OSError as error:
            raise self._failed("opened", error.strerror) from error

    def close(self, wait_s: float = math.inf) -> None:
        """
        Close the file, and wait up to `wait_s` for a compression that runs.

        One that takes longer is given up: the file stays uncompressed.
        """
        self._close_file()
        if self._compression is not None:
            self._compression.end(wait_s)
        self._check_compression()

    def _opened(self) -> io.FileIO:
        """Return the open file; it has no buffer, so who follows PATH sees each line at once."""
        if self._file is None:
            is_new = not self.path.exists()
            self._file = io.FileIO(self.path, "ab", opener=_private)
            self.size = self._file.tell()
            mode = self._mode
            if is_new and mode is not None and mode != _mode_of(self._file):
                os.fchmod(self._file.fileno(), mode)
        return self._file

    def _close_file(self) -> None:
        if self._file is not None:
            file, self._file = self._file, None
            with suppress(OSError):  # what was written was written without a buffer
                file.close()

    def _begin(self, file: io.FileIO) -> None:
        if self.header and not self.size:
            self._append(file, self.header)

    def _append(self, file: io.FileIO, line: bytes) -> None:
        written = 0
        try:
            while written < len(line):
                written += file.write(line[written:])
        except OSError:
            if written:  # a disk that is filling up takes a part, then fails
                with suppress(OSError):
                    file.truncate(self.size)
            raise
        self.size += len(line)

    def _put_aside(self, file: io.FileIO) -> io.FileIO:
        os.fsync(file.fileno())
        if self._compression is not None:
            self._compression.end()
        self._check_compression()
        self._on_size(self.size)
        if not self.keep:
            file.truncate(0)
            self.size = 0
        elif self._is_at_path(file):
            try:
                self._shift()
                self.path.rename(self._aside(1))
            except OSError as error:
                where = Path(error.filename2 or error.filename).name
                raise self._failed("put aside", f"{where}: {error.strerror}") from error
            self._mode = _mode_of(file)
            self._close_file()
            if self.compress:
                self._compression = _Compression(self._aside(1), self._compressed)
        else:  # another program has put it aside
            self._close_file()
        file = self._opened()
        self._on_size(self.size)
        return file

    def _is_at_path(self, file: io.FileIO) -> bool:
        try:
            return os.path.samestat(os.fstat(file.fileno()), self.path.stat())
        except FileNotFoundError:
            return False

    def _shift(self) -> None:
        """Make the number 1 free: files move up to the first free number, or the last one goes."""
        free = next((n for n in range(1, self.keep + 1) if not self._of_number(n)), None)
        if free is None:
            free = self.keep
            for aside in self._of_number(free):
                aside.unlink()
        for number in range(free - 1, 0, -1):
            for aside in self._of_number(number):
                aside.rename(self._aside(number + 1, aside.suffix if aside.suffix == ".gz" else ""))

    def _of_number(self, number: int) -> list[Path]:
        found = [self._aside(number, suffix) for suffix in ("", ".gz")]
        for aside in found:
            if aside.is_dir():  # it is not ours to move
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(aside))
        return [aside for aside in found if aside.exists()]

    def _aside(self, number: int, suffix: str = "") -> Path:
        return self.path.with_name(f"{self.path.name}.{number}{suffix}")

    def _compressed(self, failure: StoreError | None) -> None:
        """Take the end of a compression, in its thread."""
        if failure is not None and self._note is not None and not self._failure_is_told:
            self._note(f"{failure.message}: it stays uncompressed")
        self._failure_is_told = failure is not None

    def _check_compression(self) -> None:
        compression, self._compression = self._compression, None
        if compression is not None and compression.failure is not None and self._note is None:
            raise compression.failure

    def _failed(self, what: str, why: str | None) -> StoreError:
        return StoreError(
            f"{self.path} cannot be {what}: {why}",
            hint="check its directory and its disk",
        )


class _Compression:
    """A thread that makes FILE.gz of FILE; `failure` says why it could not."""

    def __init__(self, path: Path, on_end: Callable[[StoreError | None], None]) -> None:
        self.failure: StoreError | None = None
        self._path = path
        self._on_end = on_end
        self._is_to_stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"compress {path.name}")
        try:
            self._thread.start()
        except RuntimeError as error:  # the limit of processes is reached
            self._fail(str(error))

    def end(self, wait_s: float = math.inf) -> None:
        """Wait until it is done, at most `wait_s`; then make it stop."""
        if self._thread.ident is not None:
            self._thread.join(None if math.isinf(wait_s) else wait_s)
            self._is_to_stop.set()
            self._thread.join()

    def _run(self) -> None:
        whole = self._path.with_name(f"{self._path.name}.gz")
        part = whole.with_name(f"{whole.name}.part")
        try:
            if self._write(part):
                part.rename(whole)
                self._path.unlink()
                self._on_end(None)
            else:
                part.unlink()
        except OSError as error:
            with suppress(OSError):
                part.unlink(missing_ok=True)
            self._fail(error.strerror or str(error))

    def _write(self, part: Path) -> bool:
        """Compress all of it, and return True, or stop."""
        with (
            self._path.open("rb") as plain,
            open(part, "wb", opener=_private) as opened,
            gzip.GzipFile(self._path.name, "wb", compresslevel=6, fileobj=opened) as packed,
        ):
            os.fchmod(opened.fileno(), stat.S_IMODE(os.fstat(plain.fileno()).st_mode))
            while chunk := plain.read(_CHUNK_BYTES):
                if self._is_to_stop.is_set():
                    return False
                packed.write(chunk)
        return True

    def _fail(self, why: str) -> None:
        self.failure = StoreError(
            f"{self._path} cannot be compressed: {why}", hint="check its directory and its disk"
        )
        self._on_end(self.failure)


def _private(path: str, flags: int) -> int:
    """Open for a file that its owner alone may read, until he says otherwise."""
    return os.open(path, flags, 0o600)


def _mode_of(file: io.FileIO) -> int:
    return stat.S_IMODE(os.fstat(file.fileno()).st_mode)


def cannot_write(path: Path, error: OSError) -> StoreError | UsageError:
    """Give the sentence for a file of lines that cannot be made; a mistyped path is asked so."""
    if isinstance(error, FileNotFoundError | NotADirectoryError | IsADirectoryError):
        return UsageError(f"{path} cannot be written: {error.strerror}", hint="check its directory")
    return StoreError(
        f"{path} cannot be written: {error.strerror}", hint="check its directory and its disk"
    )
