"""A file of lines that is put aside when it is full, or old."""

import errno
import io
import math
import os
import stat
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from ctk.errors import StoreError
from ctk.render.compress import SUFFIXES, Packer, lines_in
from ctk.render.compressing import CompressingThread, private
from ctk.render.place import cannot_write, is_no_file


class RotatingFile:
    """
    Lines appended to PATH, whole ones only.

    Where a line would make PATH longer than `max_bytes`, or its first one is older than
    `max_age_s`, PATH becomes PATH.1, what was PATH.1 becomes PATH.2, and so on; the newest `keep`
    of them are kept (None: all), and `on_removed` is told how many lines went with another. Each
    step is a rename, so a crash loses nothing that was written; a device or a pipe stays.
    With `compress`, a thread turns PATH.1 into PATH.1.gz, and removes PATH.1 when that is whole.

    With `packer`, lines are compressed before they are written, a megabyte of them at a time, or
    what there is at a `flush`. FILE.gz becomes FILE.1.gz then.

    A write that fails leaves nothing of its line, and the next one tries again: to put PATH aside,
    to open it, to append.

    A new file may be read by its owner only. Where the owner changed that, the next one is like
    the one before. With `whole`, nobody sees PATH before it is: it is PATH.part until `finish`.
    `on_size` is told the size of PATH before PATH is put aside, and 0 after. `note` is told, once
    until one succeeds, that a compression failed, and the file is left uncompressed; without a
    `note` the next write that puts PATH aside, or `close`, raises it.

    `lines` counts those that are in a file since this one was opened, `began_s` is when PATH was
    begun, by the wall clock.
    """

    def __init__(
        self,
        path: Path,
        *,
        max_bytes: int | None = None,
        max_age_s: float = math.inf,
        keep: int | None = None,
        compress: bool = False,
        packer: Packer | None = None,
        header: bytes = b"",
        start_bytes: int | None = None,
        began_s: float | None = None,
        whole: bool = False,
        on_size: Callable[[int], None] | None = None,
        on_removed: Callable[[int], None] | None = None,
        note: Callable[[str], None] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """
        Open PATH at its end, or cut it off at `start_bytes`.

        Raises UsageError where its directory or its name is wrong, else StoreError.
        """
        self.path = path
        self.max_bytes = max_bytes
        self.max_age_s = max_age_s
        self.keep = keep
        self.compress = compress
        self.header = header
        if packer is not None and header:
            packer.add(header)
            self.header = packer.packed()
        self.size = 0
        self.lines = 0
        self._header_lines = header.count(b"\n")
        self._packer = packer
        self._written = path.with_name(f"{path.name}.part") if whole else path
        self._on_size = on_size or (lambda size: None)
        self._on_removed = on_removed
        self._note = note
        self._clock = clock
        self._file: io.FileIO | None = None
        self._mode: int | None = None  # of the file before, for the one that is made next
        self._compression: CompressingThread | None = None
        self._failure_is_told = False
        if is_no_file(path):  # it has no other place to be
            self.max_bytes, self.max_age_s = None, math.inf
        try:
            if whole and path.exists():
                self._mode = stat.S_IMODE(path.stat().st_mode)
            file = self._opened()
            if start_bytes is not None and self.size > start_bytes:
                file.truncate(start_bytes)
                self.size = start_bytes
            self.began_s = clock() if began_s is None or not self.size else began_s
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
        self.write_lines((line + b"\n",))

    def write_lines(self, lines: Sequence[bytes]) -> None:
        """Append lines, given with their ends. Raises StoreError."""
        if self._packer is None:
            self._write(lines)
            return
        for line in lines:
            self._packer.add(line)
            if self._packer.is_full:
                self._write_packed(self._packer)

    def flush(self) -> None:
        """Write what waits to be compressed, and put PATH aside where it is old."""
        if self._packer is not None and self._packer.lines:
            self._write_packed(self._packer)
        elif self._is_old():
            self._write(())

    def sync(self) -> None:
        """Flush, and have it on the disk. Raises StoreError."""
        self.flush()
        try:
            os.fsync(self._opened().fileno())
        except OSError as error:
            if error.errno != errno.EINVAL:  # no file on a disk: a pipe, a terminal
                raise self._failed("written", error.strerror) from error

    def finish(self) -> None:
        """Give the file its name, where it was to be seen whole only. Raises StoreError."""
        self.sync()
        if self._written != self.path:
            self._close_file()
            try:
                self._written.rename(self.path)
            except OSError as error:
                raise self._failed("written", error.strerror) from error

    def give_up(self) -> None:
        """Remove what nobody was to see before it was whole."""
        if self._written != self.path:
            self._close_file()
            self._written.unlink(missing_ok=True)

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

    def _write(self, lines: Sequence[bytes], packed: int = 1) -> None:
        """Write lines, or one piece that holds `packed` of them."""
        try:
            at = 0
            while True:
                file = self._opened()
                count = 0 if self._is_old() else self._fitting(lines, at)
                if not count and self.size > len(self.header) and (lines or self._is_old()):
                    file = self._put_aside(file)
                    count = self._fitting(lines, at)
                some = lines[at : at + max(count, 1)]
                self._begin(file)
                self._append(file, b"".join(some))
                self.lines += len(some) * packed
                at += len(some)
                if at >= len(lines):
                    return
        except OSError as error:
            raise self._failed("written", error.strerror) from error

    def _write_packed(self, packer: Packer) -> None:
        count = packer.lines
        self._write((packer.packed(),), count)

    def _fitting(self, lines: Sequence[bytes], at: int) -> int:
        """Return how many lines from there on PATH has room for."""
        if self.max_bytes is None:
            return len(lines) - at
        room = self.max_bytes - max(self.size, len(self.header))
        count = 0
        for line in lines[at:] if at else lines:
            room -= len(line)
            if room < 0:
                break
            count += 1
        return count

    def _is_old(self) -> bool:
        if math.isinf(self.max_age_s):
            return False
        return self.size > len(self.header) and self._clock() - self.began_s >= self.max_age_s

    def _opened(self) -> io.FileIO:
        """Return the open file; it has no buffer, so who follows PATH sees each line at once."""
        if self._file is None:
            is_new = not self._written.exists()
            self._file = io.FileIO(self._written, "ab", opener=private)
            # A pipe has no place to be at.
            self.size = self._file.tell() if self._file.seekable() else 0
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
        if self.keep == 0:
            self._removing(self._written)
            file.truncate(0)
            self.size = 0
        elif self._is_at_path(file):
            try:
                self._shift()
                self._written.rename(self._aside(1))
            except OSError as error:
                where = Path(error.filename2 or error.filename).name
                raise self._failed("put aside", f"{where}: {error.strerror}") from error
            self._mode = _mode_of(file)
            self._close_file()
            if self.compress:
                self._compression = CompressingThread(self._aside(1), self._compressed)
        else:  # another program has put it aside
            self._close_file()
        file = self._opened()
        self.began_s = self._clock()
        self._on_size(self.size)
        return file

    def _is_at_path(self, file: io.FileIO) -> bool:
        try:
            return os.path.samestat(os.fstat(file.fileno()), self._written.stat())
        except FileNotFoundError:
            return False

    def _shift(self) -> None:
        """Make the number 1 free: files move up to the first free number, or the last one goes."""
        free = 1
        while self._of_number(free) and free != self.keep:
            free += 1
        for aside in self._of_number(free):
            self._removing(aside)
            aside.unlink()
        for number in range(free - 1, 0, -1):
            for aside in self._of_number(number):
                aside.rename(self._aside(number + 1, aside.suffix if aside.suffix == ".gz" else ""))

    def _removing(self, aside: Path) -> None:
        if self._on_removed is not None:
            self._on_removed(lines_in(aside) - self._header_lines)

    def _of_number(self, number: int) -> list[Path]:
        found = dict.fromkeys(self._aside(number, suffix) for suffix in ("", ".gz"))
        for aside in found:
            if aside.is_dir():  # it is not ours to move
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(aside))
        return [aside for aside in found if aside.exists()]

    def _aside(self, number: int, suffix: str = "") -> Path:
        if self._packer is not None and self.path.suffix in SUFFIXES:
            return self.path.with_name(f"{self.path.stem}.{number}{self.path.suffix}")
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


def _mode_of(file: io.FileIO) -> int:
    return stat.S_IMODE(os.fstat(file.fileno()).st_mode)
