"""The spans in which something was lost or unknown, as the file has them."""

import sqlite3
from collections.abc import Iterable
from typing import NamedTuple

from ctk.timespan import format_age

_IN_WORDS = {"thinned": "thinned to coarser sums"}


class StoredGap(NamedTuple):
    """A row of the view `gaps`. `lost` is in events, None where it is not known."""

    started_at: str
    ended_at: str
    started_ns: int
    ended_ns: int
    node: str
    kind: str
    lost: int | None
    detail: str | None


def gaps_of(
    conn: sqlite3.Connection, since_ns: int | None = None, until_ns: int | None = None
) -> tuple[StoredGap, ...]:
    """Give the gaps that touch a span, oldest first."""
    found = conn.execute(
        f"SELECT {', '.join(StoredGap._fields)} FROM gaps"
        " WHERE (:until IS NULL OR started_ns < :until) AND (:since IS NULL OR ended_ns >= :since)"
        " ORDER BY started_ns, ended_ns",
        {"since": since_ns, "until": until_ns},
    )
    return tuple(map(StoredGap._make, found))


def gaps_in_words(found: Iterable[StoredGap], where: str = "") -> str | None:
    """Sum gaps up in a line: "2 gaps: 1,204 events lost"; None for none."""
    count = 0
    lost = 0
    lasted_ns: dict[str, int] = {}
    for gap in found:
        count += 1
        if gap.lost is None:
            lasted_ns[gap.kind] = lasted_ns.get(gap.kind, 0) + gap.ended_ns - gap.started_ns
        lost += gap.lost or 0
    if not count:
        return None
    parts = [f"{lost:,} events lost"] if lost else []
    for kind, ns in lasted_ns.items():
        words = _IN_WORDS.get(kind, kind)
        parts.append(f"{words} for {format_age(ns)}" if ns else words)
    return f"{count:,} gap{'' if count == 1 else 's'}{where}: {', '.join(parts)}"
