"""From time to time, and at the end: which live connections are idle, for the file."""

import logging
from collections.abc import Iterator

from ctk.conntrack.connections import Connections
from ctk.conntrack.idle import IDLE_NS, IdleLook
from ctk.errors import DiskFullError, FileBusyError
from ctk.store.write import Writer

log = logging.getLogger("ctk")


class IdleWatch:
    """Looks at live connections a slice a second, so that no look keeps events waiting."""

    def __init__(self, connections: Connections, writer: Writer, started_ns: int) -> None:
        self._connections, self._writer = connections, writer
        self._next_ns = started_ns + IDLE_NS
        self._look: IdleLook | None = None
        self._slices: Iterator[None] = iter(())

    def tick(self, at_ns: int) -> None:
        """Look at some connections where a look is due, and write what the whole look found."""
        if self._look is None:
            if at_ns < self._next_ns:
                return
            self._look = IdleLook(self._connections, at_ns)
            self._slices = self._look.slices()
            self._next_ns = at_ns + IDLE_NS
        for _ in self._slices:
            return
        self._write(self._look)
        self._look = None

    def finish(self, at_ns: int) -> None:
        """Look at all of them now, and write what was found."""
        look = IdleLook(self._connections, at_ns)
        look.at_once()
        self._write(look)

    def _write(self, look: IdleLook) -> None:
        try:
            self._writer.keep_idle(look.found())
        except (DiskFullError, FileBusyError) as error:
            # The file has what an earlier look found, and says as of when.
            log.debug("idle connections are not kept this time: %s", error.message)
