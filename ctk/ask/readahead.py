"""Pages that are read in a thread, while what was read before them is made use of."""

import threading
from collections.abc import Generator, Iterator
from itertools import islice
from queue import SimpleQueue
from typing import TypeVar

T = TypeVar("T")

_BEFORE_PAGES = 4  # who asks for less has no thread
_AHEAD_PAGES = 2


def read_ahead(pages: Generator[T, None, None]) -> Generator[T, None, None]:
    """
    Yield what `pages` yields, which reads on meanwhile, at most two pages ahead.

    It gains where reading is not Python's: a query that gives one row. An error comes in its
    place. `pages` is closed, and its thread ended, when this is.
    """
    try:
        yield from islice(pages, _BEFORE_PAGES)
        yield from _in_thread(pages)
    finally:
        pages.close()


def _in_thread(pages: Iterator[T]) -> Iterator[T]:
    found: SimpleQueue[T | _End] = SimpleQueue()
    room = threading.Semaphore(_AHEAD_PAGES - 1)
    is_to_stop, has_ended = threading.Event(), threading.Event()

    def run() -> None:
        error: BaseException | None = None
        try:
            for page in pages:
                found.put(page)
                room.acquire()
                if is_to_stop.is_set():
                    break
        except BaseException as caught:  # noqa: BLE001 - raised where it is waited for
            error = caught
        found.put(_End(error))
        has_ended.set()

    # Daemon: who leaves the generator open can end all the same.
    thread = threading.Thread(target=run, name="read ahead", daemon=True)
    try:
        thread.start()
    except RuntimeError:  # the limit of processes is reached
        yield from pages
        return
    try:
        while not isinstance(page := found.get(), _End):
            room.release()
            yield page
        if page.error is not None:
            raise page.error
    finally:
        is_to_stop.set()
        room.release()
        _wait(has_ended)
        thread.join()


def _wait(has_ended: threading.Event) -> None:
    """Wait for a page to be read, at a second Ctrl-C too: nobody else may touch what is read."""
    interrupted: KeyboardInterrupt | None = None
    while not has_ended.is_set():  # of a join that was interrupted Python 3.11 says that it ended
        try:
            has_ended.wait()
        except KeyboardInterrupt as error:
            interrupted = error
    if interrupted is not None:
        raise interrupted


class _End:
    """What comes behind the last page."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error
