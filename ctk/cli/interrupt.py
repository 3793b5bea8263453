"""What ends a command that has no end: questions that are asked between two steps, not in one."""

import select
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TextIO


@contextmanager
def interrupts() -> Iterator[threading.Event]:
    """Set the event at the first Ctrl-C or SIGTERM: what is being written ends well."""
    asked = threading.Event()

    def ask(number: int, frame: FrameType | None) -> None:
        asked.set()
        for each, handler in before.items():
            signal.signal(each, handler)

    if threading.current_thread() is not threading.main_thread():
        yield asked  # a signal is the main thread's
        return
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    for each in before:
        signal.signal(each, ask)
    try:
        yield asked
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def nobody_reads(stream: TextIO) -> bool:
    """Say whether the reader of a pipe went away: else that shows with the next line only."""
    poll = select.poll()
    poll.register(stream, 0)  # errors are always told
    return bool(poll.poll(0))
