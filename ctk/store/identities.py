"""
Edges and their endpoints: values in, row ids out.

Ids are given out here, since there is only one writer, and the rows follow in batches. A value
that is already in the file, from before a restart, keeps its row.
"""

import json
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Set
from operator import attrgetter
from typing import Any

from ctk.model import Edge
from ctk.model.history import (
    Closed,
    Completed,
    HistoryChange,
    ObjectClosed,
    ObjectRecord,
    ServiceFound,
)
from ctk.store import bulk, folded, history
from ctk.store.bloom import BloomFilter
from ctk.store.columns import EDGE_OWN, EDGE_SIDES, EdgeRow, edge_path
from ctk.store.endpointids import CACHED, EndpointIds, next_id
from ctk.store.values import edge_of

_EDGE = bulk.plain("edge", ("id", *EdgeRow._fields, "first_ns"))
_EDGES_BY_ID = (
    f"SELECT id, {', '.join(EdgeRow._fields)} FROM edge"
    " WHERE id IN (SELECT value FROM json_each(?))"
)
_SAME_EDGE = f"SELECT id FROM edge WHERE {' AND '.join(f'{name} IS ?' for name in EdgeRow._fields)}"
own_columns = attrgetter(*map(edge_path, EDGE_OWN))


class Identities:
    """
    What the file knows by id. Nothing is written before `flush`, and `rolled_back` undoes a window.

    `closed_ns` is when the last recording's knowledge ended.
    """

    def __init__(
        self,
        conn: sqlite3.Connection,
        recorder_id: int,
        closed_ns: int | None,
        edges_held: Callable[[], Set[int]],
    ) -> None:
        self._conn = conn
        self._edges_held = edges_held
        self._held: Set[int] | None = None  # asked for once while nothing else goes on
        self.recorder_id = recorder_id
        self.closed_ns = closed_ns
        self.endpoints = EndpointIds(conn, closed_ns)
        self._endpoint_id = self.endpoints.id_of
        self.edges: dict[Edge, int] = {}
        self._next = next_id(conn, "edge")
        self._last_other: int | None = None  # edge that stands for many; rollups make some, too
        # What the file may have, though its id is not remembered.
        self._talks = BloomFilter(conn.execute("SELECT src_id, dialled_id, dst_port FROM edge"))
        self._forgotten: set[int] = set()
        self._new: list[Edge] = []
        self._rows: list[tuple[object, ...]] = []

    def edge_id(self, edge: Edge) -> int:
        """Return the id of an edge: of its row, or of the one that `flush` will write."""
        found = self.edges.get(edge)
        if found is not None:
            return found
        dialled, backend = edge.dialled, edge.backend
        src_id = self._endpoint_id(edge.src)
        dialled_id = self._endpoint_id(dialled)
        backend_id = dialled_id if backend is dialled else self._endpoint_id(backend)
        row = (src_id, dialled_id, backend_id, self.recorder_id, *own_columns(edge))
        talk = (src_id, dialled_id, edge.flow.dst_port)
        is_other = min(src_id, dialled_id, backend_id) < 0
        if is_other or talk in self._talks:
            match = self._conn.execute(_SAME_EDGE, row).fetchone()
            if match and match[0] not in self._forgotten:
                found = int(match[0])
        if found is None:
            found = self._next_id(is_other=is_other)
            self._rows.append((found, *row))
            self._talks.add(talk)
        self.edges[edge] = found
        self._new.append(edge)
        return found

    def _next_id(self, *, is_other: bool) -> int:
        if is_other:
            last = self._last_other
            self._last_other = folded.next_edge_id(self._conn) if last is None else last - 1
            return self._last_other
        self._next += 1
        return self._next - 1

    def read_edges(self, ids: Iterable[int]) -> dict[int, Edge]:
        """Make edges again from their rows, to which they go on to belong, ended or not."""
        asked = self._conn.execute(_EDGES_BY_ID, (json.dumps(list(ids)),))
        rows = {found: EdgeRow._make(row) for found, *row in asked}
        endpoints = self.endpoints.read(
            {side for row in rows.values() for side in (row.src_id, row.dialled_id, row.backend_id)}
        )
        edges = {
            found: edge_of(
                row, endpoints[row.src_id], endpoints[row.dialled_id], endpoints[row.backend_id]
            )
            for found, row in rows.items()
        }
        self.edges.update((edge, found) for found, edge in edges.items())
        return edges

    def is_forgotten(self, edge_id: int) -> bool:
        """Whether that edge's row is about to be thrown away."""
        return edge_id in self._forgotten

    def begin_forgetting(self) -> None:
        """Ask anew which edges are held: 0.14 s for a million connections."""
        self._held = None

    def forget(self, table: str, ids: set[int]) -> None:
        """
        Use none of these rows again: they are about to be thrown away.

        Edges that connections hold are taken out of `ids`, and endpoints of edges to come.
        """
        if table == "edge":
            if self._held is None:
                self._held = self._edges_held()
            ids.difference_update(self._held)
            self._forgotten = ids
            self.edges = {edge: found for edge, found in self.edges.items() if found not in ids}
        else:
            # Edges that were given ids, and have no rows yet.
            ids.difference_update(*(row[1 : 1 + EDGE_SIDES] for row in self._rows))
            self.endpoints.forget(ids)

    @property
    def has_new_edges(self) -> bool:
        """Whether edges were given ids, and have no rows yet."""
        return bool(self._rows)

    def flush(self, first_ns: Mapping[Any, int] | None = None) -> None:
        """Write the rows that were given ids; `first_ns` is when edges were first seen."""
        self.endpoints.flush()
        if self._last_other is not None:
            folded.make_endpoints(self._conn)
        seen = first_ns or {}
        bulk.run(self._conn, _EDGE, [(*row, seen.get(row[0])) for row in self._rows])
        self._rows.clear()

    def committed(self) -> None:
        """The window is committed."""
        self._last_other = None
        self.endpoints.committed()
        self._new.clear()

    def trim(self) -> None:
        """Forget some ids where there are many; between windows."""
        if len(self.edges) > CACHED:
            self.edges = dict(list(self.edges.items())[-CACHED // 2 :])
        self.endpoints.trim()

    def rolled_back(self) -> None:
        """The window was rolled back: its ids were never given out."""
        self.endpoints.rolled_back()
        self._rows.clear()
        for edge in self._new:
            self.edges.pop(edge, None)
        self._new.clear()
        self._next = next_id(self._conn, "edge")
        self._last_other = None

    def change(self, changes: Iterable[HistoryChange]) -> None:
        """
        Store what was learned, in order.

        Comes after the window's own edges, so that an endpoint that was first used and ended in
        the same window is ended in the file too.
        """
        for change in changes:
            match change:
                case ServiceFound():
                    self.endpoints.name_service(change)
                case Completed(unknown, known):
                    self.endpoints.complete(unknown, known)
                    self.flush()
                case Closed():
                    self.endpoints.close(change)
                case ObjectRecord():
                    history.record(self._conn, change, self.closed_ns)
                case ObjectClosed():
                    history.close(self._conn, change, self.closed_ns)
