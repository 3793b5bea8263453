"""A thread that compresses a file that was put aside, while its followers are written."""

import gzip
import math
import os
import stat
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from ctk.errors import StoreError

_CHUNK_BYTES = 1 << 20  # a compression that is to stop does so after one of them


class CompressingThread:
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
            open(part, "wb", opener=private) as opened,
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


def private(path: str, flags: int) -> int:
    """Open for a file that its owner alone may read, until he says otherwise."""
    return os.open(path, flags, 0o600)
