"""
Flows folded to minutes, hours and days, and what is too old thrown away.

LEVELS is a table, finest first; each level is folded from the one before it. Two times say how
far a level is: every bucket before `folded_ns` is the exact sum of the finer level, and
everything before `pruned_ns` is gone.
"""

import sqlite3
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ctk.model import COUNT_KEYS

S = 10**9
DAY_NS = 86_400 * S


class Level(NamedTuple):
    name: str
    table: str
    width_ns: int  # of a bucket; 0 where rows keep their own time
    keep_ns: int  # how long rows stay, unless --retain says otherwise


LEVELS: tuple[Level, ...] = (
    Level("flow", "flow", 0, DAY_NS),
    Level("1m", "flow_1m", 60 * S, 7 * DAY_NS),
    Level("1h", "flow_1h", 3600 * S, 90 * DAY_NS),
    Level("1d", "flow_1d", DAY_NS, 2 * 365 * DAY_NS),
)


class Marks(NamedTuple):
    """How far a level is; None where nothing was folded or pruned yet."""

    folded_ns: int | None
    pruned_ns: int | None


def marks(conn: sqlite3.Connection) -> dict[str, Marks]:
    return {
        name: Marks(folded_ns, pruned_ns)
        for name, folded_ns, pruned_ns in conn.execute(
            "SELECT name, folded_ns, pruned_ns FROM level"
        )
    }


def bucket_ns(at_ns: int, level: Level) -> int:
    """The start of the bucket that holds `at_ns`."""
    return at_ns - at_ns % level.width_ns if level.width_ns else at_ns


_COLUMNS = ", ".join(COUNT_KEYS)
_MEASURED = COUNT_KEYS.index("bytes_out")  # from here on NULL is "not measured"
_ADDED = ", ".join(
    f"{key} = {key} + excluded.{key}"
    if i < _MEASURED
    else f"{key} = COALESCE({key} + excluded.{key}, {key}, excluded.{key})"
    for i, key in enumerate(COUNT_KEYS)
)


def add_late(
    conn: sqlite3.Connection,
    now: Mapping[str, Marks],
    started_ns: int,
    edge_id: int,
    counts: Sequence[int | None],
) -> bool:
    """
    Add a row to every finished bucket that holds its time, so that all sums stay equal.

    True where the row itself is to be stored: not where flows that old have been pruned.
    """
    values = ",".join("?" * len(COUNT_KEYS))
    for level in LEVELS[1:]:
        mark = now[level.name]
        start_ns = bucket_ns(started_ns, level)
        finished = mark.folded_ns is not None and start_ns < mark.folded_ns
        if finished and start_ns >= (mark.pruned_ns or 0):
            conn.execute(
                f"INSERT INTO {level.table}(started_ns, edge_id, {_COLUMNS})"
                f" VALUES (?, ?, {values})"
                f" ON CONFLICT(started_ns, edge_id) DO UPDATE SET {_ADDED}",
                (start_ns, edge_id, *counts),
            )
    return started_ns >= (now["flow"].pruned_ns or 0)
