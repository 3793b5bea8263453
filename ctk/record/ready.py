"""
A file that says that a recording is well, for a probe that starts no Python.

    find PATH -mmin -1
"""

import logging
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from ctk.errors import UsageError

log = logging.getLogger("ctk")


class ReadyFile:
    """
    An empty file whose mtime is up to when everything is in DB.

    It is made when there are names, where a cluster is asked for them, and removed at the end. One
    that a killed recorder left is removed at the start.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._failed = False

    def __enter__(self) -> Self:
        path = self._path
        try:
            if path.is_symlink() or (path.exists() and not (path.is_file() and _is_empty(path))):
                raise UsageError(
                    f"--ready-file {path} is there, and not an empty file", hint="name another"
                )
            self._touch(0)  # whether it can be written
            path.unlink()
        except OSError as error:
            raise UsageError(
                f"--ready-file {path} cannot be written: {error.strerror}",
                hint="name a place that can be, such as /tmp/ready",
            ) from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self._path.unlink(missing_ok=True)
        except OSError as failed:
            log.warning("%s is left behind: %s", self._path, failed.strerror)

    def committed(self, until_ns: int) -> None:
        """Say that everything up to then is in DB."""
        try:
            self._touch(until_ns)
        except OSError as error:
            if not self._failed:
                log.warning("%s cannot be written: %s", self._path, error.strerror)
            self._failed = True
        else:
            self._failed = False

    def _touch(self, at_ns: int) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        file = os.open(self._path, flags, 0o644)
        try:
            os.utime(file, ns=(at_ns, at_ns))
        finally:
            os.close(file)


def _is_empty(path: Path) -> bool:
    return path.stat().st_size == 0
