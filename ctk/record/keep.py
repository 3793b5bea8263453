"""What a clean stop keeps of live connections, while there is time and room."""

import time
from collections.abc import Callable, Iterator

from ctk.conntrack.connections import Connections
from ctk.conntrack.groups import Group
from ctk.model.kept import LiveConnections
from ctk.record.attribution import Attribution

# What a row takes besides: 24, which is more than the rest where each flow has one connection.
_ROW_BYTES = 30


class NotKeptError(Exception):
    """A stop is to be over before all that lives is kept, or the file has no room for it."""


def living(
    connections: Connections,
    attribution: Attribution,
    until_s: float,
    room_bytes: Callable[[], float],
) -> Iterator[LiveConnections]:
    """
    Yield what the next recording of this boot is to go on with.

    NotKeptError past `until_s` on the monotonic clock, or past the room that the file has then.
    """

    def hurry() -> None:
        if time.monotonic() > until_s:
            raise NotKeptError("no time")

    def ask(group: Group) -> None:
        hurry()
        attribution.edge_id(group)

    left_bytes = room_bytes()
    for some in connections.export(ask):
        hurry()
        left_bytes -= _ROW_BYTES + len(some.flow) + len(some.keys) + len(some.counters or b"")
        if left_bytes < 0:
            raise NotKeptError("no room within --max-size")
        yield some
