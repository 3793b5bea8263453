"""Flows as they are written: those that are in the file, then those of each commit."""

import time
from collections.abc import Callable, Iterator

from ctk.ask.flows import Flows
from ctk.ask.pages import Position
from ctk.model import Filters
from ctk.store.columns import FlowRecord

EVERY_S = 0.5  # between two looks at the file: a stat of it and its -wal


class Follow(Iterator[FlowRecord]):
    """
    The flows that fit, each once, for as long as somebody asks for the next one.

    Those of a commit are given in the order of time, but first those of it that were written late.
    `wait` is given seconds to wait, and returns True to end.
    """

    def __init__(
        self,
        ask: Callable[[Filters, Position | None], Flows],
        state: Callable[[], object],
        filters: Filters,
        after: Position | None = None,
        wait: Callable[[float], bool] | None = None,
    ) -> None:
        """Follow what `ask` answers, anew whenever `state`, which is cheap, has changed."""
        self._ask = ask
        self._state = state
        self._filters = filters
        self._after = after
        self._wait = wait or _sleep
        self._records = self._read()

    def __iter__(self) -> "Follow":
        return self

    def __next__(self) -> FlowRecord:
        return next(self._records)

    def rounds(self) -> Iterator[Flows]:
        """Give the flows there are, then those of some commits: each round is read to its end."""
        filters, after = self._filters, self._after
        while True:
            state = self._state()
            flows = self._ask(filters, after)
            yield flows
            after = flows.position
            filters = filters._replace(last=None)  # only those before are limited to some
            while not self._wait(EVERY_S):
                if self._state() != state:
                    break
            else:
                return

    def _read(self) -> Iterator[FlowRecord]:
        for flows in self.rounds():
            yield from flows


def _sleep(seconds: float) -> bool:
    time.sleep(seconds)
    return False
