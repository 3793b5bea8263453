"""
The levels of a file: flows, and their sums by minute, hour and day.

LEVELS is a table, finest first; each level is folded from the one before it. Two watermarks say
how far a level is: every bucket before `folded_ns` is the exact sum of the finer level, and what
was before `pruned_ns` is gone.
"""

import sqlite3
from typing import NamedTuple

from ctk.timespan import DAY, HOUR, MINUTE


class Level(NamedTuple):
    name: str
    table: str
    width_ns: int  # of a bucket; 0 where rows keep their own time
    keep_ns: int  # how long rows stay, unless --retain says otherwise
    peers: int  # edges with an external side that a bucket keeps; the others become "other"


# So long after it was, who was behind an address is known, if ever.
SETTLED_NS = 2 * MINUTE

LEVELS: tuple[Level, ...] = (
    Level("flow", "flow", 0, DAY, 0),
    Level("1m", "flow_1m", MINUTE, 7 * DAY, 10_000),
    Level("1h", "flow_1h", HOUR, 90 * DAY, 2_000),
    Level("1d", "flow_1d", DAY, 730 * DAY, 1_000),
)


class Watermarks(NamedTuple):
    """How far a level is; None where nothing was folded or pruned yet."""

    folded_ns: int | None
    pruned_ns: int | None


def watermarks(conn: sqlite3.Connection) -> dict[str, Watermarks]:
    return {
        name: Watermarks(folded_ns, pruned_ns)
        for name, folded_ns, pruned_ns in conn.execute(
            "SELECT name, folded_ns, pruned_ns FROM level"
        )
    }
