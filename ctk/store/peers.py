"""
Peers: a client, the server it dialled and the port, by names that outlive pods and addresses.

Several edges may be of one peer: each pod of a workload has its own. An edge knows when it was
first seen. Where one is thrown away, that time goes on under the hash of its peer's names, in 20
bytes; so a peer that comes back after years is not taken for a new one.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

# Of these there may be millions, as a scan has them: so many are remembered, and no more than
# make up such a part of the file.
STRANGERS = ("external", "unknown")
MOST_STRANGERS = 50_000
_BYTES, _PART = 20, 1 / 16

# Over the tables of columns.JOINS.
CLIENT = "COALESCE(src.namespace || '/' || COALESCE(src.workload, src.name), src.name, src.address)"
SERVER = (
    "COALESCE(edge.service, backend.namespace || '/' || COALESCE(backend.workload, backend.name),"
    " backend.name, backend.address)"
)


class Peer(NamedTuple):
    """Who talked to whom: workloads, services, nodes, or addresses where nothing else is known."""

    client: str
    server: str
    dst_port: int | None
    proto: str


def peer_id(peer: Peer) -> int:
    """Return the id under which a peer is remembered: a hash of its names, signed as SQLite's."""
    from hashlib import blake2b  # 3 ms to import: readers use the names above only

    digest = blake2b("\0".join(map(str, peer)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


_OF_EDGES = f"""
    SELECT {CLIENT}, {SERVER}, edge.dst_port, edge.proto, edge.first_ns,
        {" OR ".join(f"{side}.kind IN {STRANGERS}" for side in ("src", "backend"))}
    FROM json_each(?) CROSS JOIN edge ON edge.id = json_each.value
    JOIN endpoint AS src ON src.id = edge.src_id
    JOIN endpoint AS backend ON backend.id = edge.backend_id
    WHERE edge.id > 0 AND edge.first_ns IS NOT NULL
"""


def first_seen(conn: sqlite3.Connection, edge_ids: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Yield the id and the first time of the peers of these edges, as far as there is room."""
    room = most_strangers(conn) - count(conn)
    ids = f"[{','.join(map(str, edge_ids))}]"
    for *names, first_ns, is_stranger in conn.execute(_OF_EDGES, (ids,)):
        room -= is_stranger
        if not is_stranger or room >= 0:
            yield peer_id(Peer._make(names)), first_ns


def most_strangers(conn: sqlite3.Connection) -> int:
    """Return past how many peers one with an external or unknown side is left out."""
    (file_bytes,) = conn.execute(
        "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size"
    ).fetchone()
    return min(MOST_STRANGERS, int(file_bytes * _PART / _BYTES))


def count(conn: sqlite3.Connection) -> int:
    """Return how many peers are remembered whose edges are gone."""
    return int(conn.execute("SELECT COUNT(*) FROM peer").fetchone()[0])


def remember(conn: sqlite3.Connection, seen: Iterable[tuple[int, int]]) -> None:
    """Keep when peers were first seen, each the earliest time."""
    conn.executemany(
        "INSERT INTO peer(id, first_ns) VALUES (?, ?)"
        " ON CONFLICT DO UPDATE SET first_ns = MIN(first_ns, excluded.first_ns)",
        seen,
    )


def remembered(conn: sqlite3.Connection, peers: Iterable[Peer]) -> Mapping[Peer, int]:
    """Return when peers were first seen, of those that are remembered without an edge."""
    found = {}
    for peer in peers:
        sql = "SELECT first_ns FROM peer WHERE id = ?"
        row = conn.execute(sql, (peer_id(peer),)).fetchone()
        if row is not None:
            found[peer] = row[0]
    return found
