"""What a clean stop keeps of live connections, while there is time."""

import time
from collections.abc import Iterator

from ctk.conntrack.connections import Connections
from ctk.conntrack.groups import Group
from ctk.model.kept import LiveConnections
from ctk.record.attribution import Attribution


class NoTimeLeftError(Exception):
    """A stop is to be over before all that lives is kept."""


def living(
    connections: Connections, attribution: Attribution, until_s: float
) -> Iterator[LiveConnections]:
    """
    Yield what the next recording of this boot is to go on with.

    NoTimeLeftError past `until_s` on the monotonic clock.
    """

    def hurry() -> None:
        if time.monotonic() > until_s:
            raise NoTimeLeftError

    def ask(group: Group) -> None:
        hurry()
        attribution.edge_id(group)

    for some in connections.export(ask):
        hurry()
        yield some
