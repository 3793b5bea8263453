"""Pages that are read ahead: all of them, in order, no more than two, and errors in their place."""

import signal
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import closing
from itertools import islice

import pytest

from ctk.ask.readahead import read_ahead
from ctk.errors import StoreError

MANY = 40


class Source:
    """Pages that are numbers; it counts those that were read, and says whether it was closed."""

    def __init__(self, fails_at: int = MANY) -> None:
        self.read = 0
        self.is_closed = False
        self.threads: set[str] = set()
        self._fails_at = fails_at

    def pages(self) -> Generator[int, None, None]:
        try:
            for page in range(MANY):
                if page == self._fails_at:
                    raise StoreError("the file is damaged", hint="none")
                self.read += 1
                self.threads.add(threading.current_thread().name)
                yield page
        finally:
            self.is_closed = True


def ahead_threads() -> Iterator[threading.Thread]:
    return (thread for thread in threading.enumerate() if thread.name == "read ahead")


def test_all_pages_come_in_order() -> None:
    source = Source()
    assert list(read_ahead(source.pages())) == list(range(MANY))
    assert source.is_closed
    assert source.threads == {"MainThread", "read ahead"}
    assert not list(ahead_threads())


def test_few_pages_need_no_thread() -> None:
    source = Source()
    with closing(read_ahead(source.pages())) as pages:
        assert list(islice(pages, 3)) == [0, 1, 2]
    assert (source.threads, source.read) == ({"MainThread"}, 3)


def test_who_stands_still_lets_two_pages_be_read() -> None:
    source = Source()
    with closing(read_ahead(source.pages())) as pages:
        assert list(islice(pages, 20)) == list(range(20))
        until_s = time.monotonic() + 5
        while source.read < 22 and time.monotonic() < until_s:
            time.sleep(0.001)
        time.sleep(0.01)
        assert source.read == 22
    assert source.is_closed
    assert not list(ahead_threads())


@pytest.mark.parametrize("at", [2, 20])  # before there is a thread, and in it
def test_an_error_comes_in_its_place(at: int) -> None:
    found = []
    with pytest.raises(StoreError, match="damaged"):  # noqa: PT012 - what came before it counts
        for page in read_ahead(Source(at).pages()):
            found.append(page)
    assert found == list(range(at))


def test_without_a_thread_it_reads_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refused)
    assert list(read_ahead(Source().pages())) == list(range(MANY))


def test_a_second_ctrl_c_waits_for_the_page_that_is_read() -> None:
    is_read, go_on = threading.Event(), threading.Event()
    source = Source()

    def slow() -> Generator[int, None, None]:
        for page in source.pages():
            if page == 10:
                is_read.set()
                go_on.wait(5)
            yield page

    def interrupt() -> None:
        is_read.wait(5)
        for _ in range(3):
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            time.sleep(0.02)
        go_on.set()

    ctrl_c = threading.Thread(target=interrupt)
    ctrl_c.start()
    with pytest.raises(KeyboardInterrupt):
        list(read_ahead(slow()))
    ctrl_c.join()
    assert not list(ahead_threads())
