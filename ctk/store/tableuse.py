"""How full the kernel's table was and who held its entries, as they are kept and thrown away."""

import sqlite3
from collections.abc import Generator, Iterator, Mapping, Sequence

from ctk.model.tableuse import Holder, TableCounters, TableLook, TableUse
from ctk.store.levels import LEVELS
from ctk.store.sums import transaction

_LOOK = ("at_ns", "recording_id", "entries", "peak", "most", *TableCounters._fields)
_KEEP_LOOK = f"INSERT OR REPLACE INTO table_look VALUES ({', '.join('?' * len(_LOOK))})"
_KEEP_HELD = "INSERT OR REPLACE INTO held VALUES (?, ?, ?, ?, ?)"
_FIND = "SELECT id FROM holder WHERE " + " AND ".join(f"{name} IS ?" for name in Holder._fields)
_ENTER = (
    f"INSERT INTO holder({', '.join(Holder._fields)})"
    f" VALUES ({', '.join('?' * len(Holder._fields))})"
)

_ROWS = 10_000  # deleted in one transaction: some 20 ms
# Of --max-size that `held` may take, at some 40 bytes a row; a day has 150,000 rows at most.
_PART, _ROW_BYTES = 0.05, 40


def keep(conn: sqlite3.Connection, recording_id: int, looks: Sequence[TableLook]) -> None:
    """Write looks, in the transaction of a window."""
    for look in looks:
        if isinstance(look, TableUse):
            counters = look.counters or (None,) * len(TableCounters._fields)
            values = (look.at_ns, recording_id, look.entries, look.peak, look.most, *counters)
            conn.execute(_KEEP_LOOK, values)
        else:
            rows = [
                (look.at_ns, recording_id, _holder_id(conn, holder), state, entries)
                for (holder, state), entries in look.entries.items()
            ]
            conn.executemany(_KEEP_HELD, rows)


def prune(
    conn: sqlite3.Connection, now_ns: int, retain: Mapping[str, int], max_bytes: int | None
) -> Iterator[None]:
    """
    Throw away looks as old as minutes are thrown away, and holders as old as flows, in steps.

    With `max_bytes`, the oldest holders also where there are too many.
    """
    keep_ns = {level.name: retain.get(level.name, level.keep_ns) for level in LEVELS}
    yield from _before(conn, "table_look", now_ns - keep_ns["1m"])
    until_ns = now_ns - keep_ns["flow"]
    if max_bytes is not None:
        most = int(max_bytes * _PART / _ROW_BYTES)
        sql = "SELECT at_ns + 1 FROM held ORDER BY at_ns DESC LIMIT 1 OFFSET ?"
        for (past_ns,) in conn.execute(sql, (most,)).fetchall():
            until_ns = max(until_ns, past_ns)
    if (yield from _before(conn, "held", until_ns)):
        with transaction(conn):
            conn.execute("DELETE FROM holder WHERE id NOT IN (SELECT holder_id FROM held)")
        yield


def _before(conn: sqlite3.Connection, table: str, until_ns: int) -> Generator[None, None, bool]:
    """Delete the rows of a table before a time; False where there are none."""
    found = False
    while True:
        oldest = conn.execute(
            f"SELECT at_ns FROM {table} WHERE at_ns < ? ORDER BY at_ns LIMIT 1 OFFSET ?",
            (until_ns, _ROWS),
        ).fetchone()
        some_ns = until_ns if oldest is None else oldest[0]
        if not conn.execute(
            f"SELECT EXISTS (SELECT 1 FROM {table} WHERE at_ns < ?)", (some_ns,)
        ).fetchone()[0]:
            return found
        with transaction(conn):
            conn.execute(f"DELETE FROM {table} WHERE at_ns < ?", (some_ns,))
        found = True
        yield


def _holder_id(conn: sqlite3.Connection, holder: Holder) -> int:
    found = conn.execute(_FIND, holder).fetchone()
    if found is not None:
        return int(found[0])
    return conn.execute(_ENTER, holder).lastrowid or 0
