"""
What a file has besides where nodes were merged into it (ctk/fleet): what does not count, and why.

The tables of flows hold what counts, so that every question is answered as of any other file. The
rows of observers who defer to another are kept apart, in tables of the same columns, where they
were to be kept.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple, get_args

from ctk.store.levels import LEVELS

# "left out": what another node counts. "unrecorded": counted, though a node that did not record may
# have made it of a connection that counts already.
Why = Literal["left out", "unrecorded"]
WHYS: tuple[Why, ...] = get_args(Why)


class Aside(NamedTuple):
    """What one node saw that does not count, or may count twice."""

    recorder_id: int
    why: Why
    rows: int
    connections: int
    bytes_out: int | None
    bytes_in: int | None


def in_words(asides: Iterable[Aside]) -> Iterator[str]:
    """Say what does not count, and what may count twice, a line each."""
    sums: dict[str, int] = {}
    for each in asides:
        sums[each.why] = sums.get(each.why, 0) + each.connections
    if count := sums.get("left out"):
        yield f"{count:,} connections that another node counts are left out"
    if count := sums.get("unrecorded"):
        yield (f"{count:,} connections from where no node was recorded may count twice")


def aside_of(table: str) -> str:
    """Give the table that keeps what does not count, of a table of flows."""
    return f"{table}_aside"


def make(conn: sqlite3.Connection, *, aside: bool) -> None:
    """Make the tables of a merged file; those of what does not count where it is to be kept."""
    conn.execute(
        """
        CREATE TABLE merged (
            recorder_id INTEGER NOT NULL REFERENCES recorder(id),
            why TEXT NOT NULL,
            rows INTEGER NOT NULL,
            connections INTEGER NOT NULL,
            bytes_out INTEGER,
            bytes_in INTEGER,
            PRIMARY KEY (recorder_id, why)
        ) WITHOUT ROWID
        """
    )
    conn.execute("CREATE TABLE merge_note (id INTEGER PRIMARY KEY, text TEXT NOT NULL)")
    for level in LEVELS if aside else ():
        (sql,) = conn.execute(
            "SELECT sql FROM sqlite_master WHERE name = ?", (level.table,)
        ).fetchone()
        conn.execute(sql.replace(level.table, aside_of(level.table), 1))


def write(conn: sqlite3.Connection, asides: Iterable[Aside], notes: Iterable[str]) -> None:
    """Write what does not count, and what is to be said of the merge."""
    conn.executemany("INSERT INTO merged VALUES (?, ?, ?, ?, ?, ?)", asides)
    conn.executemany("INSERT INTO merge_note(text) VALUES (?)", [(note,) for note in notes])


def is_merged(conn: sqlite3.Connection) -> bool:
    """Say whether nodes were merged into a file."""
    return _has(conn, "merged")


def keeps_aside(conn: sqlite3.Connection) -> bool:
    """Say whether a file keeps what does not count."""
    return _has(conn, aside_of(LEVELS[0].table))


def read(conn: sqlite3.Connection) -> tuple[Sequence[Aside], Sequence[str]]:
    """Read what does not count, by node, and what is to be said of the merge."""
    if not is_merged(conn):
        return (), ()
    asides = conn.execute(f"SELECT {', '.join(Aside._fields)} FROM merged")
    notes = conn.execute("SELECT text FROM merge_note ORDER BY id")
    return tuple(map(Aside._make, asides)), tuple(text for (text,) in notes)


def _has(conn: sqlite3.Connection, table: str) -> bool:
    asked = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?"
    return conn.execute(asked, (table,)).fetchone() is not None
