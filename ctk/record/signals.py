"""How a recording is told to stop, and to open its log anew."""

import logging
import math
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ctk.record.progressline import ENDED
from ctk.timespan import SECOND

log = logging.getLogger("ctk")

# A pod has 30 s after SIGTERM; what is not done in this time waits for the next start.
STOP_S = 20.0
# `timeout` and others signal a process and then its group: two signals within this time are one.
_ONE_SIGNAL_S = 1.0
_LOOK_S = 0.2  # between two looks for a signal


class Stop:
    """
    Tells whether to stop, and how long that may take.

    The first SIGINT, SIGTERM or SIGHUP asks for it, or `max_time_ns` that have passed, or `ask`. A
    later signal ends the process at once. With `hangup_reopens`, SIGHUP is counted in `hangups`
    instead, for who writes a log. A SIGHUP that is ignored at the start (`nohup`) stays ignored.
    `signals` is how many have asked.
    """

    def __init__(self, max_time_ns: int | None, *, hangup_reopens: bool = False) -> None:
        self.hangups = self.signals = 0
        self._hangup_reopens = hangup_reopens
        self._at_s = math.inf if max_time_ns is None else time.monotonic() + max_time_ns / SECOND
        self._first_signal_s = math.inf

    def __call__(self) -> bool:
        return time.monotonic() >= self._at_s

    def ask(self) -> None:
        self._at_s = min(self._at_s, time.monotonic())

    @contextmanager
    def lingering(self, db: Path) -> Iterator[None]:
        """Let the process end with its recording, which is in here."""
        yield

    @property
    def asked_s(self) -> float:
        """When it was asked for, on the monotonic clock, or will be; inf where nobody did."""
        return self._at_s

    def left_s(self) -> float:
        """Return how many of the 20 seconds since the first ask are left; inf before it."""
        now_s = time.monotonic()
        return max(0.0, self._at_s + STOP_S - now_s) if now_s >= self._at_s else math.inf

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """
        Take the process's signals meanwhile; in its main thread only.

        Where one of them asked to stop they stay taken: the process is about to end well, and the
        same signal may still come a second time.
        """
        taken = {signal.SIGINT: self._stop, signal.SIGTERM: self._stop}
        if self._hangup_reopens:
            taken[signal.SIGHUP] = self._hang_up
        elif signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
            taken[signal.SIGHUP] = self._stop
        before = {number: signal.signal(number, handler) for number, handler in taken.items()}
        try:
            yield
        finally:
            if self._first_signal_s == math.inf:
                for number, handler in before.items():
                    signal.signal(number, handler)

    def _stop(self, number: int, frame: object) -> None:
        self.ask()
        now_s = time.monotonic()
        if not self.signals:
            self.signals = 1
        elif now_s > self._first_signal_s + _ONE_SIGNAL_S:
            self.signals += 1
            self._again(number)
        self._first_signal_s = min(self._first_signal_s, now_s)

    def _again(self, number: int) -> None:
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)

    def _hang_up(self, number: int, frame: object) -> None:
        self.hangups += 1


class LingeringStop(Stop):
    """
    Keeps the process when the recording is over: its file can be fetched from the container.

    SIGINT ends the recording only; while the file is being closed it may come again. SIGTERM and
    SIGHUP end the process, too, as does any signal once the recording is over.
    """

    def __init__(self, max_time_ns: int | None, *, hangup_reopens: bool = False) -> None:
        super().__init__(max_time_ns, hangup_reopens=hangup_reopens)
        self._is_over = self._leaves = False

    @contextmanager
    def lingering(self, db: Path) -> Iterator[None]:
        """Say how the recording in here ended, and wait, unless it failed before it made a file."""
        try:
            yield
        except Exception as error:
            if db.exists():
                log.error("%s: %s", ENDED, getattr(error, "message", error))
                self._linger()
            raise
        log.info(ENDED)
        self._linger()

    def _linger(self) -> None:
        self._is_over = True
        while not self._leaves:
            time.sleep(_LOOK_S)

    def _stop(self, number: int, frame: object) -> None:
        self.ask()
        self._leaves = self._leaves or self._is_over or number != signal.SIGINT
