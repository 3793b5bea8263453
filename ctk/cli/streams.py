"""Standard streams that are closed, or that a write does not wait for."""

import io
import os
import select
import sys
from typing import Any


def open_what_is_closed() -> None:
    """Open a standard stream that is closed (`>&-`), lest a file opened later take its place."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            # The kernel gives the lowest free descriptor, which is that of the closed stream.
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode))


def wait_where_it_does_not() -> None:
    """
    Wait for the reader of a pipe that does not block, as some programs hand them on.

    Python's own streams cut off what has no room there, without a word. The pipe stays as it is:
    who shares it may rely on that.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if not os.get_blocking(stream.fileno()):
            waiting = io.TextIOWrapper(
                io.BufferedWriter(_Waiting(stream.fileno(), "wb", closefd=False)),
                encoding=stream.encoding,
                errors=stream.errors,
                line_buffering=stream.line_buffering,
                write_through=stream.write_through,
            )
            setattr(sys, name, waiting)


class _Waiting(io.FileIO):
    """A file whose every write gets some of its bytes out."""

    def write(self, some: Any, /) -> int:
        while True:
            written: int | None = super().write(some)
            if written is not None:
                return written
            poll = select.poll()
            poll.register(self.fileno(), select.POLLOUT)
            poll.poll()
