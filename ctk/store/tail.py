"""
The tail of a bucket: edges with an external or unknown side, past the biggest that a level keeps.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any

from ctk.store import folded
from ctk.store.columns import EdgeRow
from ctk.store.folded import FoldedCount
from ctk.store.sums import COLUMNS, SUMS, adding, transaction
from ctk.timespan import FOREVER_NS

FoldedCounts = dict[int, FoldedCount]  # of addresses, by edge

_KEYS = len(EdgeRow._fields)
_SIDES = ("src", "dialled", "backend")
_KINDS_FOLDED = ", ".join(f"'{kind}'" for kind in folded.ENDPOINT_IDS)
_WHENS = " ".join(f"WHEN '{kind}' THEN {found}" for kind, found in folded.ENDPOINT_IDS.items())
# The three sides as they are to be: the edge's own, or one that stands for many.
_CREATE_TAIL = (
    "CREATE TEMP TABLE IF NOT EXISTS tail (edge_id INTEGER PRIMARY KEY, src_id, dialled_id,"
    " backend_id)"
)
_FILL_TAIL = f"""
    INSERT INTO temp.tail
    SELECT edge_id, {", ".join(f"CASE {side}.kind {_WHENS} ELSE {side}_id END" for side in _SIDES)}
    FROM temp.bucket
    JOIN edge ON edge.id = edge_id
    {" ".join(f"JOIN endpoint AS {side} ON {side}.id = {side}_id" for side in _SIDES)}
    WHERE edge_id > ? AND edge_id <= ? AND edge_id > 0
        AND ({" OR ".join(f"{side}.kind IN ({_KINDS_FOLDED})" for side in _SIDES)})
"""
_LAST_OF_SLICE = (
    "SELECT MAX(edge_id) FROM"
    " (SELECT edge_id FROM temp.bucket WHERE edge_id > ? ORDER BY edge_id LIMIT ?)"
)
# Sorting for a LIMIT holds no more rows than that.
_SPARE_BIGGEST = """
    DELETE FROM temp.tail WHERE edge_id IN (
        SELECT edge_id FROM temp.tail JOIN temp.bucket USING (edge_id)
        ORDER BY COALESCE(bytes_out, 0) + COALESCE(bytes_in, 0) DESC, connections DESC, edge_id
        LIMIT ?
    )
"""
_OTHER_KEY = {
    **{column: f"edge.{column}" for column in EdgeRow._fields},
    **{f"{side}_id": f"tail.{side}_id" for side in _SIDES},
    "nat_src": "CASE WHEN tail.src_id > 0 THEN edge.nat_src END",
    "nat_dst_port": "CASE WHEN tail.backend_id > 0 THEN edge.nat_dst_port END",
    "failed": "CASE WHEN bucket.unreplied + bucket.refused > 0 THEN 1 END",
}
_SRC = "CASE WHEN tail.src_id < 0 THEN src.packed END"
_DST = (
    "CASE WHEN tail.dialled_id < 0 THEN dialled.packed"
    " WHEN tail.backend_id < 0 THEN backend.packed END"
)
# SQLite holds what it sorts for a GROUP BY in memory: all of 250,000 edges took 17 MB.
_TAIL_AT_ONCE = 10_000
_TAIL_NOW = "SELECT edge_id FROM temp.tail ORDER BY edge_id LIMIT ?"
_SUM_TAIL = f"""
    SELECT {", ".join(_OTHER_KEY.values())}, {SUMS}, distinct_count({_SRC}), distinct_count({_DST})
    FROM (SELECT * FROM temp.tail ORDER BY edge_id LIMIT ?) AS tail
    JOIN temp.bucket AS bucket ON bucket.edge_id = tail.edge_id
    JOIN edge ON edge.id = tail.edge_id
    {" ".join(f"JOIN endpoint AS {side} ON {side}.id = edge.{side}_id" for side in _SIDES)}
    GROUP BY {", ".join(map(str, range(1, _KEYS + 1)))}
"""


_FILL_PORTS = """
    INSERT INTO temp.tail
    SELECT edge_id, src_id, dialled_id, backend_id FROM temp.bucket JOIN edge ON edge.id = edge_id
    WHERE edge_id < 0 AND dst_port IS NOT NULL
"""
_WITHOUT_PORTS = ", ".join(
    "NULL" if column in ("dst_port", "nat_dst_port") else f"edge.{column}"
    for column in EdgeRow._fields
)
_PORTS_NOW = f"""
    SELECT bucket.edge_id, {_WITHOUT_PORTS}, {COLUMNS} FROM ({_TAIL_NOW}) AS tail
    JOIN temp.bucket AS bucket USING (edge_id) JOIN edge ON edge.id = bucket.edge_id
"""


def fold_tail(conn: sqlite3.Connection, peers: int, counts: FoldedCounts) -> Iterator[None]:
    """
    Of the bucket's edges with an external or unknown side, fold those past the biggest `peers`.

    Their sums stay, by what they still tell apart, as what a window folds does: the side that is
    known, and the port that was dialled. Those with failures stand apart. How many addresses they
    had is added to `counts`. Where that leaves more than `peers` edges that stand for many, as a
    scan of all ports does, the biggest are told apart by port, and all others are not.
    """
    (edges,) = conn.execute("SELECT COUNT(*) FROM temp.bucket").fetchone()
    if edges <= peers:
        return
    conn.execute(_CREATE_TAIL)
    conn.execute("DELETE FROM temp.tail")
    after_id, last_id = -FOREVER_NS, -FOREVER_NS
    while last_id is not None:
        conn.execute(_FILL_TAIL, (after_id, last_id))
        yield
        after_id = last_id
        (last_id,) = conn.execute(_LAST_OF_SLICE, (after_id, _TAIL_AT_ONCE)).fetchone()
    conn.execute(_SPARE_BIGGEST, (peers,))
    yield
    ids: dict[EdgeRow, int] = {}
    while others := conn.execute(_SUM_TAIL, (_TAIL_AT_ONCE,)).fetchall():
        keys = [EdgeRow._make(other[:_KEYS]) for other in others]
        _replace_tail(conn, ids, keys, [other[_KEYS:-2] for other in others])
        for key, other in zip(keys, others, strict=True):
            edge_id = ids[key]
            count = FoldedCount(edge_id, 0, *map(folded.read, other[-2:]))
            counts[edge_id] = folded.plus(counts.get(edge_id), count)
        yield
    (others,) = conn.execute("SELECT COUNT(*) FROM temp.bucket WHERE edge_id < 0").fetchone()
    if others > peers:
        yield from _fold_ports(conn, peers, counts)


def _fold_ports(conn: sqlite3.Connection, peers: int, counts: FoldedCounts) -> Iterator[None]:
    """Of edges that stand for many, leave the ports out past the biggest `peers`."""
    conn.execute("DELETE FROM temp.tail")
    conn.execute(_FILL_PORTS)
    conn.execute(_SPARE_BIGGEST, (peers,))
    yield
    ids: dict[EdgeRow, int] = {}
    while rows := conn.execute(_PORTS_NOW, (_TAIL_AT_ONCE,)).fetchall():
        keys = [EdgeRow._make(row[1 : 1 + _KEYS]) for row in rows]
        _replace_tail(conn, ids, keys, [row[1 + _KEYS :] for row in rows])
        for key, row in zip(keys, rows, strict=True):
            count = counts.pop(row[0], None)
            if count is not None:
                into = ids[key]
                counts[into] = folded.plus(counts.get(into), count._replace(edge_id=into))
        yield


def _replace_tail(
    conn: sqlite3.Connection,
    ids: dict[EdgeRow, int],
    keys: Sequence[EdgeRow],
    sums: Sequence[tuple[Any, ...]],
) -> None:
    """Put sums under the edges that `keys` tell in the place of the tail's next; enter new ids."""
    with transaction(conn):
        for key in keys:
            if key not in ids:
                ids[key] = folded.other_edge(conn, key)
    conn.execute(f"DELETE FROM temp.bucket WHERE edge_id IN ({_TAIL_NOW})", (_TAIL_AT_ONCE,))
    conn.execute(f"DELETE FROM temp.tail WHERE edge_id IN ({_TAIL_NOW})", (_TAIL_AT_ONCE,))
    conn.executemany(
        adding("temp.bucket", "edge_id"),
        [(ids[key], *each) for key, each in zip(keys, sums, strict=True)],
    )
