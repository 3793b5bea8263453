"""What ends a command that has no end: questions that are asked between two steps, not in one."""

import errno
import os
import select
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import TextIO

_STILL_S = 1.0  # a reader that is only slow has taken some by then


@contextmanager
def interrupts(pipe: Path | None = None) -> Iterator[threading.Event]:
    """
    Set the event at the first Ctrl-C or SIGTERM: what is being written ends well.

    Where standard output is not read, or the `pipe` that is written, it ends as at any other
    Ctrl-C.
    """
    asked = threading.Event()

    def ask(number: int, frame: FrameType | None) -> None:
        asked.set()
        for each, handler in before.items():
            signal.signal(each, handler)
        ends.enter_context(ending(pipe))

    if threading.current_thread() is not threading.main_thread():
        yield asked  # a signal is the main thread's
        return
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    for each in before:
        signal.signal(each, ask)
    with ExitStack() as ends:
        try:
            yield asked
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)


@contextmanager
def ending(pipe: Path | None = None) -> Iterator[None]:
    """Raise KeyboardInterrupt when standard output, or the pipe, has no room after a second."""

    def look(number: int, frame: FrameType | None) -> None:
        if not (_has_room(sys.stdout) and (pipe is None or _is_read(pipe))):
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, look)
    signal.setitimer(signal.ITIMER_REAL, _STILL_S, _STILL_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _is_read(pipe: Path) -> bool:
    """Say whether a pipe has room, and somebody to read it: else to open it waits, too."""
    try:
        opened = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        return error.errno != errno.ENXIO
    try:
        return _has_room(opened)
    finally:
        os.close(opened)


def _has_room(stream: TextIO | int) -> bool:
    poll = select.poll()
    poll.register(stream, select.POLLOUT)
    return bool(poll.poll(0))


def nobody_reads(stream: TextIO) -> bool:
    """Say whether the reader of a pipe went away: else that shows with the next line only."""
    poll = select.poll()
    poll.register(stream, 0)  # errors are always told
    return bool(poll.poll(0))
