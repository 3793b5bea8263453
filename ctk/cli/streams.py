"""Standard streams that are closed, or of which a write may take a part only."""

import io
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TextIO


def open_what_is_closed() -> None:
    """Open a standard stream that is closed (`>&-`), lest a file opened later take its place."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            # The kernel gives the lowest free descriptor, which is that of the closed stream.
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode))


def take_all_where_they_do_not(takes_all: Callable[[TextIO], bool]) -> None:
    """
    Have all written of what goes to a stream that would take a part, and not a word of the rest.

    These are pipes that do not block, as some programs hand them on (the pipe stays as it is: who
    shares it may rely on that), and all streams under PYTHONUNBUFFERED, which have no buffer.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if not takes_all(stream):
            waiting = io.TextIOWrapper(
                io.BufferedWriter(_Waiting(stream.fileno(), "wb", closefd=False)),
                encoding=stream.encoding,
                errors=stream.errors,
                line_buffering=stream.line_buffering or stream.write_through,
            )
            setattr(sys, name, waiting)


def try_to_flush() -> None:
    """Write what is still to be written, unless whoever reads it stands still."""
    from ctk.cli.interrupt import ending
    from ctk.render.place import forget_output

    with suppress(KeyboardInterrupt, OSError), ending():
        sys.stdout.flush()
    forget_output()


class _Waiting(io.FileIO):
    """A file whose every write gets some of its bytes out."""

    def write(self, some: Any, /) -> int:
        while True:
            written: int | None = super().write(some)
            if written is not None:
                return written
            import select

            poll = select.poll()
            poll.register(self.fileno(), select.POLLOUT)
            poll.poll()
