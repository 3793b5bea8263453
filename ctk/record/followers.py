"""Who is told the records of a recording as they are written: a log file, standard output."""

import errno
import logging
import sys
from collections.abc import Callable

from ctk.errors import CtkError
from ctk.model import Endpoint
from ctk.record.signals import Stop
from ctk.render import eventlog
from ctk.render.place import forget_output
from ctk.render.rotate import RotatingFile
from ctk.store.columns import FlowRecord

log = logging.getLogger("ctk")


class RecordLog:
    """
    Writes records to a log file.

    Where a line cannot be written, it and the rest of its window are left out, counted and told;
    the next window tries again. A hangup (SIGHUP) opens the file anew, for logrotate. With
    `accounting`, rows that tell no event have a line too.
    """

    def __init__(self, file: RotatingFile, stop: Stop, *, accounting: bool = False) -> None:
        self._file = file
        self._accounting = accounting
        self._stop = stop
        self._hangups = stop.hangups
        self._missing = 0
        self._is_down = False  # the log cannot be written, and that was reported
        self._skips = False  # no more of this window is written

    def begin_window(self) -> None:
        self._skips = False

    def write(self, record: FlowRecord) -> None:
        self.reopen_if_asked()
        if not self._accounting and not eventlog.events(record):
            return
        if not self._skips:
            try:
                self._file.write(eventlog.log_line(record))
            except CtkError as error:
                self._fail(error)
        if self._skips:
            self._missing += 1
        elif self._is_down:
            log.warning("%s is written again: %s", self._file.path, self._missing_lines())
            self._is_down, self._missing = False, 0

    def reopen_if_asked(self) -> None:
        """Open the file anew if there was a hangup since the last call."""
        if self._hangups != self._stop.hangups:
            self._hangups = self._stop.hangups
            try:
                self._file.reopen()
            except CtkError as error:
                self._fail(error)

    def end(self) -> None:
        """Close the file; a compression that runs has as long as the stop has."""
        self._file.close(wait_s=self._stop.left_s())
        if self._missing:
            log.warning("%s: %s", self._file.path, self._missing_lines())

    def _fail(self, error: CtkError) -> None:
        if not self._is_down:
            log.warning("%s: its lines are left out, recording goes on", error.message)
        self._is_down = self._skips = True

    def _missing_lines(self) -> str:
        return "1 line is missing" if self._missing == 1 else f"{self._missing:,} lines are missing"


class RecordPrinter:
    """
    Prints records and pods to standard output.

    When its reader goes away (`| head`, the end of a session), recording stops as by Ctrl-C.
    `make_room` is called before lines that stay are printed. With `accounting`, rows that tell no
    event have a line too.
    """

    def __init__(
        self, stop: Stop, make_room: Callable[[], None], *, accounting: bool = False
    ) -> None:
        self._stop = stop
        self._accounting = accounting
        self._make_room = make_room
        self._gone: OSError | None = None

    def begin_window(self) -> None:
        self._make_room()

    def write(self, record: FlowRecord) -> None:
        if self._accounting or eventlog.events(record):
            self._print(eventlog.live_line(record))

    def pod(self, pod: Endpoint) -> None:
        self._make_room()
        self._print(f"Pod added: {pod.name} ({pod.address})".encode())

    def end(self) -> None:
        """Raise BrokenPipeError where the pipe's reader went away."""
        if isinstance(self._gone, BrokenPipeError):
            raise self._gone

    def _print(self, line: bytes) -> None:
        if self._gone is not None:
            return
        try:
            sys.stdout.buffer.write(line + b"\n")
            sys.stdout.buffer.flush()
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EIO):  # EIO: a terminal that was hung up
                raise
            self._gone = error
            self._stop.ask()
            forget_output()  # what its buffer holds would fail again
