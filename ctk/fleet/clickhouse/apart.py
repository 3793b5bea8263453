"""What is asked by a thread apart: who waits hears a signal, and may leave a call behind."""

import math
import threading
import time
from collections.abc import Callable
from typing import Any

from ctk.errors import CtkError

_LAST_S = 5.0  # for answers once it is to end: who stops a container kills it after 30
_LOOK_S = 0.2


class OverdueError(CtkError):
    """ClickHouse went on past the time that it was given: what was written may be there or not."""


class Apart:
    """
    Waits for calls, each in a thread of its own.

    Once `stop` says so there are five seconds for what is under way and for all that comes after.
    What hangs cannot be interrupted: it is left behind when the process ends.
    """

    def __init__(self, said: str, stop: Callable[[], bool] = lambda: False) -> None:
        self._said = said
        self._stop = stop
        self._end_s = math.inf
        self._lock = threading.Lock()
        self._calling = 0  # threads
        self._close: Callable[[], None] | None = None

    def call(self, ask: Callable[[], Any], limit_s: float | None = None) -> Any:
        """Give what `ask` gives, or raises; OverdueError where that takes too long."""
        found: list[Any] = []
        failed: list[BaseException] = []

        def run() -> None:
            try:
                found.append(ask())
            except BaseException as error:  # noqa: BLE001 - who waits raises it
                failed.append(error)
            with self._lock:
                self._calling -= 1
                close = None if self._calling else self._close
            if close is not None:
                close()

        calling = threading.Thread(target=run, name="ctk-sql", daemon=True)
        with self._lock:
            self._calling += 1
        calling.start()
        self._wait(calling, limit_s)
        if failed:
            raise failed[0]
        return found[0]

    def _wait(self, calling: threading.Thread, limit_s: float | None) -> None:
        end_s = math.inf if limit_s is None else time.monotonic() + limit_s
        while calling.is_alive():
            now_s = time.monotonic()
            if self._stop():
                self._end_s = min(self._end_s, now_s + _LAST_S)
            if (left_s := min(end_s, self._end_s) - now_s) <= 0:
                long = "time" if limit_s is None else f"{limit_s:g} s"
                raise OverdueError(f"{self._said} did not answer in {long}")
            calling.join(min(left_s, _LOOK_S))

    def close(self, close: Callable[[], None]) -> None:
        """Let go of what is asked; where a call hangs in it, when that ends."""
        with self._lock:
            if self._calling:
                self._close = close
                return
        close()
