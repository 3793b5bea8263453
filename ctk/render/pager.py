"""A pager, as git has one: only for what is longer than the screen."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, TYPE_CHECKING, BinaryIO, Protocol

if TYPE_CHECKING:
    import subprocess

_DEFAULT = "less"
# less quits where all fits after all, keeps colours, and leaves the text on the screen.
_OPTIONS = {"LESS": "FRX", "LV": "-c"}


class TableSink(Protocol):
    """What a table is written to."""

    def write(self, data: bytes, /) -> object:
        """Take these bytes."""


def chosen() -> str:
    """Give the pager that the environment names: CTK_PAGER, PAGER, or less; "" for none."""
    import shlex
    import shutil

    command = os.environ.get("CTK_PAGER", os.environ.get("PAGER", _DEFAULT)).strip()
    try:
        program = shlex.split(command)[:1]
    except ValueError:  # a quote that is not closed
        return ""
    return "" if program in ([], ["cat"]) or shutil.which(program[0]) is None else command


class _PagerRun:
    """Holds lines back until they are more than the screen has, then gives them to the pager."""

    def __init__(self, out: BinaryIO, pager: str, height: int) -> None:
        self._out, self._pager, self._height = out, pager, height
        self._held = bytearray()
        self._paging: subprocess.Popen[bytes] | None = None

    def write(self, data: bytes, /) -> None:
        if self._paging is not None:
            self._page(data)
            return
        self._held += data
        if self._held.count(b"\n") >= self._height:  # the prompt takes a line
            import signal
            import subprocess

            self._out.flush()
            # It may have options, and quotes: a shell takes it, as git has it.
            self._paging = subprocess.Popen(
                self._pager, shell=True, stdin=subprocess.PIPE, env=_OPTIONS | os.environ
            )
            # Ctrl-C is for the pager, which stops a search by it and goes on.
            self._interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)
            self._page(bytes(self._held))

    def _page(self, data: bytes) -> None:
        assert self._paging is not None
        to: IO[bytes] | None = self._paging.stdin
        with suppress(BrokenPipeError):  # it was left before the end
            if to is not None:
                to.write(data)

    def close(self) -> None:
        """Write what was held back, or wait until the pager is left."""
        if self._paging is None:
            self._out.write(self._held)
            return
        import signal

        with suppress(BrokenPipeError):
            self._paging.communicate()
        signal.signal(signal.SIGINT, self._interrupt)


@contextmanager
def paged(out: BinaryIO, pager: str, height: int | None) -> Iterator[TableSink]:
    """Give what to write to: what is longer than the screen goes through the pager."""
    if not pager or not height:
        yield out
        return
    pages = _PagerRun(out, pager, height)
    try:
        yield pages
    finally:
        pages.close()
