"""What a clean stop keeps of live connections for the next recording."""

from typing import NamedTuple


class Sides(NamedTuple):
    """Which sides of an edge stand for many."""

    src: bool
    dialled: bool
    backend: bool


class LiveConnections(NamedTuple):
    """
    Connections of one flow that go on after a clean stop, and what of each is counted already.

    Packed, eight bytes a number in this host's order: there may be millions, and only this boot
    of this host can use them.
    """

    flow: bytes  # 8 of them, a hash of the flow's tuples; where folded, 8 a connection
    began_ns: int
    edge_id: int
    has_ports: bool  # whether its protocol has ports
    keys: bytes  # one a connection: CTA_ID << 16 | source port
    # Five a connection: packets and bytes out, packets and bytes in, when it last moved any.
    counters: bytes | None
    folded: Sides | None = None  # which of the edge's sides stand for many, where some do
    # Of an edge that stands for itself: who dialled, what was dialled and who answered, where that
    # is a stranger.
    strangers: tuple[str | None, str | None, str | None] = (None, None, None)
