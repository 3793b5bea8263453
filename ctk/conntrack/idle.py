"""Which live connections move nothing: a look at all of them, in slices, between two batches."""

from collections.abc import Iterator

from ctk.conntrack.connections import Connections
from ctk.conntrack.groups import Group
from ctk.model import IdleConnections
from ctk.timespan import MINUTE

# A connection that is over stays in the kernel's table for less: 120 s in TIME_WAIT. So whatever
# has moved nothing for so long is one that goes on.
IDLE_NS = 5 * MINUTE
MOST_IDLE = 50_000  # in the file, at 40 bytes or less each
_AT_ONCE = 10_000  # looked at in a slice: some 5 ms

_PORT = (1 << 16) - 1


class IdleLook:
    """One look, as of `at_ns`; those found first are the oldest, since tables keep that order."""

    def __init__(self, connections: Connections, at_ns: int) -> None:
        self._connections = connections
        self._at_ns = at_ns
        self._by_edge: dict[int, list[tuple[int, int, int, int]]] = {}
        self._kept = self._more = self._unmeasured = 0

    def slices(self) -> Iterator[None]:
        """Yield after each slice; connections may come and go between two of them."""
        keys, group_of = list(self._connections.live), self._connections.live.get
        last_ns = self._at_ns - IDLE_NS
        for first in range(0, len(keys), _AT_ONCE):
            for key in keys[first : first + _AT_ONCE]:
                group = group_of(key)
                # Most began too late to be idle: no more is asked of them than this.
                if group is not None and group.began_ns <= last_ns:
                    self._look_at(key, group)
            yield

    def at_once(self) -> None:
        """Look at all of them, where none comes or goes meanwhile: in a fifth of the time."""
        last_ns = self._at_ns - IDLE_NS
        for key, group in self._connections.live.items():
            if group.began_ns <= last_ns:
                self._look_at(key, group)

    def found(self) -> IdleConnections:
        """Give what all slices found."""
        return IdleConnections(
            at_ns=self._at_ns, by_edge=self._by_edge, more=self._more, unmeasured=self._unmeasured
        )

    def _look_at(self, key: int, group: Group) -> None:
        group = group.into or group
        if group.edge_id is None:  # no window of it is in the file
            return
        moved = self._connections.moved(key)
        if moved is None:
            self._unmeasured += 1
            return
        counters, moved_ns = moved
        if moved_ns > self._at_ns - IDLE_NS:
            return
        if self._kept == MOST_IDLE:
            self._more += 1
            return
        self._kept += 1
        port = key & _PORT if group.has_ports else 0
        so_far = counters.bytes_out + counters.bytes_in
        self._by_edge.setdefault(group.edge_id, []).append((port, group.began_ns, moved_ns, so_far))
