"""What an event, or an entry that a dump lists, tells of a connection's counters and its end."""

from collections.abc import Callable
from operator import itemgetter
from typing import Final

from ctk.conntrack.decode import (
    DESTROY,
    IPS_SEEN_REPLY,
    TCP_CONNTRACK_CLOSE,
    TCP_CONNTRACK_TIME_WAIT,
    EventTuple,
)
from ctk.conntrack.groups import Counters

# Places in an event (a test holds them against decode.Event).
WHAT: Final = 0
ORIG: Final = 1
PORT: Final = 2
REPLY: Final = 3
ZONE: Final = 4
ID: Final = 5
AT: Final = 6
STATUS: Final = 7
TCP_STATE: Final = 8
OUTCOME: Final = slice(7, 9)  # the two before: what `failure` looks at
Outcome = tuple[int | None, int | None]
START: Final = 13
# Its four counters as they stand, in the order of Counters; no slower than a slice in place.
four_of: Callable[[EventTuple], tuple[int | None, int | None, int | None, int | None]] = itemgetter(
    slice(9, 13)
)
NO_FAILURE: Final = (False, False)
_OVER = frozenset((TCP_CONNTRACK_TIME_WAIT, TCP_CONNTRACK_CLOSE))


def counters_of(event: EventTuple) -> Counters | None:
    """Return its four counters, None where acct is off; the kernel sends all or none."""
    packets_out, bytes_out, packets_in, bytes_in = four_of(event)
    if packets_out is None or bytes_out is None or packets_in is None or bytes_in is None:
        return None
    return Counters(packets_out, bytes_out, packets_in, bytes_in)


def is_over(event: EventTuple) -> bool:
    """Say whether the connection ended, or lives on for late packets only."""
    return event[WHAT] == DESTROY or event[TCP_STATE] in _OVER


def failure(event: EventTuple) -> tuple[bool, bool]:
    """Say whether a connection that ended was refused, and whether it got no reply."""
    status, tcp_state = event[STATUS], event[TCP_STATE]
    if status is not None and status & IPS_SEEN_REPLY:
        return NO_FAILURE
    # A refused connection ends at once in state CLOSE: reset before it was established.
    refused = tcp_state == TCP_CONNTRACK_CLOSE
    return refused, not refused and status is not None
