"""
Endpoints and edges: values in, row ids out.

Ids are given out here, since there is only one writer, and the rows follow in batches. A value
that is already in the file, from before a restart, keeps its row.
"""

import json
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Set
from operator import attrgetter
from typing import Any, NamedTuple

from ctk.model import (
    OTHER,
    Closed,
    Completed,
    Edge,
    Endpoint,
    HistoryChange,
    ObjectClosed,
    ObjectRecord,
    ServiceFound,
    packed,
)
from ctk.store import bulk, folded, history
from ctk.store.bloom import BloomFilter
from ctk.store.columns import EDGE_OWN, EDGE_SIDES, ENDPOINT_IDENTITY, EdgeRow, edge_path
from ctk.store.history import OPEN_THEN, compact
from ctk.store.values import ENDPOINT_FIELDS, edge_of, endpoint_of

_OTHERS = {OTHER[kind]: row_id for kind, row_id in folded.ENDPOINT_IDS.items()}
_OTHER_ENDPOINTS = {row_id: endpoint for endpoint, row_id in _OTHERS.items()}
_NO_NAMES = [None] * (len(ENDPOINT_IDENTITY) - 1)
CACHED = 2**15  # ids remembered of each kind; past it the older half is looked up again

_VALID = ("valid_from_ns", "valid_to_ns", "end_inferred")
_ENDPOINT = bulk.plain("endpoint", ("id", "address", "packed", *ENDPOINT_IDENTITY, *_VALID))
# Most endpoints are external and have no names: five bound values cost half of fourteen.
_NAMELESS = bulk.plain("endpoint", ("id", "address", "packed", "kind", "valid_from_ns"))
_EDGE = bulk.plain("edge", ("id", *EdgeRow._fields, "first_ns"))
_ENDPOINTS_BY_ID = (
    f"SELECT id, {', '.join(ENDPOINT_FIELDS)} FROM endpoint"
    " WHERE id IN (SELECT value FROM json_each(?))"
)
_EDGES_BY_ID = (
    f"SELECT id, {', '.join(EdgeRow._fields)} FROM edge"
    " WHERE id IN (SELECT value FROM json_each(?))"
)
_COMPLETE = (
    f"UPDATE endpoint SET {', '.join(f'{name} = ?' for name in (*ENDPOINT_IDENTITY, *_VALID))}"
    " WHERE id = ?"
)
_REOPEN = "UPDATE endpoint SET valid_to_ns = NULL, end_inferred = 0 WHERE id = ?"
_SAME_ENDPOINT = " AND ".join(["packed = ?", *(f"{name} IS ?" for name in ENDPOINT_IDENTITY)])
_SAME_EDGE = f"SELECT id FROM edge WHERE {' AND '.join(f'{name} IS ?' for name in EdgeRow._fields)}"
own_columns = attrgetter(*map(edge_path, EDGE_OWN))
_all_but_labels = attrgetter(*ENDPOINT_IDENTITY[:-1])


class _End(NamedTuple):
    """When an endpoint's interval ended."""

    at_ns: int | None = None
    inferred: bool = False


_OPEN = _End()


class Identities:
    """
    What the file knows by id. Nothing is written before `flush`, and `rolled_back` undoes a window.

    `closed_ns` is when the last recording's knowledge ended: what was open then was closed at
    that moment, and is opened again where it is seen unchanged.
    """

    def __init__(
        self,
        conn: sqlite3.Connection,
        recorder_id: int,
        closed_ns: int | None,
        edges_held: Callable[[], Set[int]],
    ) -> None:
        self.conn = conn
        self._edges_held = edges_held
        self._held: Set[int] | None = None  # asked for once while nothing else goes on
        self.recorder_id = recorder_id
        self.began = False  # whether the recording is in the file
        self.closed_ns = closed_ns
        self.edges: dict[Edge, int] = {}
        self._endpoints: dict[Endpoint, int] = {}
        self._completed: dict[Endpoint, int] = {}  # explained, but still held by connections
        self._ended: dict[Endpoint, _End] = {}
        self._next_endpoint = _next_id(conn, "endpoint")
        self._next_edge = _next_id(conn, "edge")
        self._last_other: int | None = None  # edge that stands for many; rollups make some, too
        # What the file may have, though its id is not remembered.
        self._addresses = BloomFilter(
            found for (found,) in conn.execute("SELECT packed FROM endpoint")
        )
        self._talks = BloomFilter(conn.execute("SELECT src_id, dialled_id, dst_port FROM edge"))
        self._forgotten_edges: set[int] = set()
        self._forgotten_endpoints: set[int] = set()
        self._new_endpoints: list[Endpoint] = []
        self._new_edges: list[Edge] = []
        self._reopened: list[tuple[int]] = []  # rows of endpoints that go on
        self._endpoint_rows: list[tuple[object, ...]] = []
        self._nameless_rows: list[tuple[object, ...]] = []
        self._edge_rows: list[tuple[object, ...]] = []

    def endpoint_id(self, endpoint: Endpoint) -> int:
        found = self._endpoints.get(endpoint)
        return self._find_or_add(endpoint) if found is None else found

    def edge_id(self, edge: Edge) -> int:
        """Return the id of an edge: of its row, or of the one that `flush` will write."""
        found = self.edges.get(edge)
        if found is not None:
            return found
        dialled, backend = edge.dialled, edge.backend
        src_id = self.endpoint_id(edge.src)
        dialled_id = self.endpoint_id(dialled)
        backend_id = dialled_id if backend is dialled else self.endpoint_id(backend)
        row = (src_id, dialled_id, backend_id, self.recorder_id, *own_columns(edge))
        talk = (src_id, dialled_id, edge.flow.dst_port)
        is_other = min(src_id, dialled_id, backend_id) < 0
        if is_other or talk in self._talks:
            match = self.conn.execute(_SAME_EDGE, row).fetchone()
            if match and match[0] not in self._forgotten_edges:
                found = int(match[0])
        if found is None:
            found = self._next_id(is_other=is_other)
            self._edge_rows.append((found, *row))
            self._talks.add(talk)
        self.edges[edge] = found
        self._new_edges.append(edge)
        return found

    def _next_id(self, *, is_other: bool) -> int:
        if is_other:
            last = self._last_other
            self._last_other = folded.next_edge_id(self.conn) if last is None else last - 1
            return self._last_other
        self._next_edge += 1
        return self._next_edge - 1

    def read_edges(self, ids: Iterable[int]) -> dict[int, Edge]:
        """Make edges again from their rows, to which they go on to belong, ended or not."""
        asked = self.conn.execute(_EDGES_BY_ID, (json.dumps(list(ids)),))
        rows = {found: EdgeRow._make(row) for found, *row in asked}
        sides = {
            side for row in rows.values() for side in (row.src_id, row.dialled_id, row.backend_id)
        }
        asked = self.conn.execute(_ENDPOINTS_BY_ID, (json.dumps(list(sides)),))
        endpoints = {
            found: _OTHER_ENDPOINTS.get(found) or endpoint_of(columns) for found, *columns in asked
        }
        edges = {
            found: edge_of(
                row, endpoints[row.src_id], endpoints[row.dialled_id], endpoints[row.backend_id]
            )
            for found, row in rows.items()
        }
        self._endpoints.update(
            (endpoint, found) for found, endpoint in endpoints.items() if found > 0
        )
        self.edges.update((edge, found) for found, edge in edges.items())
        return edges

    def is_forgotten(self, edge_id: int) -> bool:
        """Whether that edge's row is about to be thrown away."""
        return edge_id in self._forgotten_edges

    def begin_forgetting(self) -> None:
        """Ask anew which edges are held: 0.14 s for a million connections."""
        self._held = None

    def forget(self, table: str, ids: set[int]) -> None:
        """
        Use none of these rows again: they are about to be thrown away.

        Edges that connections hold are taken out of `ids`, and endpoints of edges to come.

        Rows of explained endpoints stay: only they know that what was unknown no longer is.
        """
        if table == "edge":
            if self._held is None:
                self._held = self._edges_held()
            ids.difference_update(self._held)
            self._forgotten_edges = ids
            self.edges = {edge: found for edge, found in self.edges.items() if found not in ids}
        else:
            ids.difference_update(self._completed.values())
            # Edges that were given ids, and have no rows yet.
            ids.difference_update(*(row[1 : 1 + EDGE_SIDES] for row in self._edge_rows))
            self._forgotten_endpoints = ids
            self._endpoints = {
                endpoint: found for endpoint, found in self._endpoints.items() if found not in ids
            }

    @property
    def has_new_edges(self) -> bool:
        """Whether edges were given ids, and have no rows yet."""
        return bool(self._edge_rows)

    def flush(self, first_ns: Mapping[Any, int] | None = None) -> None:
        """Write the rows that were given ids; `first_ns` is when edges were first seen."""
        self.conn.executemany(_REOPEN, self._reopened)
        bulk.run(self.conn, _ENDPOINT, self._endpoint_rows)
        bulk.run(self.conn, _NAMELESS, self._nameless_rows)
        if self._last_other is not None:
            folded.make_endpoints(self.conn)
        seen = first_ns or {}
        bulk.run(self.conn, _EDGE, [(*row, seen.get(row[0])) for row in self._edge_rows])
        self._reopened.clear()
        self._endpoint_rows.clear()
        self._nameless_rows.clear()
        self._edge_rows.clear()

    def committed(self) -> None:
        """The window is committed."""
        self._last_other = None
        self._new_endpoints.clear()
        self._new_edges.clear()

    def trim(self) -> None:
        """Forget some ids where there are many; between windows."""
        if len(self.edges) > CACHED:
            self.edges = dict(list(self.edges.items())[-CACHED // 2 :])
        if len(self._endpoints) > CACHED:
            self._endpoints = dict(list(self._endpoints.items())[-CACHED // 2 :]) | self._completed
        for bounded in (self._completed, self._ended):
            while len(bounded) > CACHED // 4:
                del bounded[next(iter(bounded))]

    def rolled_back(self) -> None:
        """The window was rolled back: its ids were never given out."""
        self._reopened.clear()
        self._endpoint_rows.clear()
        self._nameless_rows.clear()
        self._edge_rows.clear()
        for endpoint in self._new_endpoints:
            self._endpoints.pop(endpoint, None)
            self._completed.pop(endpoint, None)
        for edge in self._new_edges:
            self.edges.pop(edge, None)
        self._new_endpoints.clear()
        self._new_edges.clear()
        self._next_endpoint = _next_id(self.conn, "endpoint")
        self._next_edge = _next_id(self.conn, "edge")
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
                    self._name_service(change)
                case Completed(unknown, known):
                    self._complete(unknown, known)
                case Closed(endpoint, valid_to_ns, inferred):
                    self._ended[endpoint] = _End(valid_to_ns, inferred)
                    self.conn.execute(
                        f"UPDATE endpoint SET valid_to_ns = ?, end_inferred = ?"
                        f" WHERE {_SAME_ENDPOINT} AND (valid_to_ns IS NULL OR {OPEN_THEN}"
                        " OR end_inferred AND valid_to_ns >= ?)"
                        " AND valid_from_ns = IFNULL(?, valid_from_ns)",
                        (
                            *(valid_to_ns, inferred, *_identity(endpoint)),
                            *(self.closed_ns, valid_to_ns),
                            endpoint.valid_from_ns if endpoint.kind == "unknown" else None,
                        ),
                    )
                case ObjectRecord():
                    history.record(self.conn, change, self.closed_ns)
                case ObjectClosed():
                    history.close(self.conn, change, self.closed_ns)

    def _name_service(self, found: ServiceFound) -> None:
        """Name the service of all edges to what was dialled, those of earlier windows included."""
        dialled = found.dialled
        same = self.conn.execute(
            f"SELECT id FROM endpoint WHERE {_SAME_ENDPOINT} AND valid_from_ns = IFNULL(?,"
            " valid_from_ns)",
            (*_identity(dialled), dialled.valid_from_ns if _is_apart(dialled) else None),
        )
        ids = {found_id for (found_id,) in same}
        if dialled in self._endpoints:
            ids.add(self._endpoints[dialled])
        self.conn.executemany(
            "UPDATE edge SET service = ?, service_via = ?"
            " WHERE dialled_id = ? AND proto = ? AND dst_port IS ? AND service IS NULL",
            [(found.service, found.via, one, found.proto, found.port) for one in sorted(ids)],
        )

    def close_open(self, at_ns: int) -> None:
        """
        End every interval that a former recording left open: what came after is not known.

        A pod that was gone by then may have its address for its grace period, or the next pod has
        it: what is asked of that time is decided anew.
        """
        gone_ns = (
            "SELECT IIF(MAX(valid_to_ns IS NULL), NULL, MAX(IFNULL(sure_until_ns, valid_to_ns)))"
            " FROM pod WHERE pod.uid = endpoint.uid"
        )
        self.conn.execute(
            "UPDATE endpoint SET end_inferred = 1,"
            f" valid_to_ns = MAX(valid_from_ns, MIN(:at_ns, IFNULL(({gone_ns}), :at_ns)))"
            " WHERE valid_to_ns IS NULL AND uid IS NOT NULL",
            {"at_ns": at_ns},
        )
        history.close_open(self.conn, at_ns)

    def _find_or_add(self, endpoint: Endpoint) -> int:
        if endpoint in _OTHERS:
            return _OTHERS[endpoint]
        identity = _identity(endpoint)
        found = self._search_endpoint(endpoint, identity)
        if found is None:
            found = self._next_endpoint
            self._next_endpoint += 1
            self._addresses.add(identity[0])
            begin, end = endpoint.valid_from_ns, self._ended.get(endpoint)
            address, kind, *names = identity
            if end is None and names == _NO_NAMES:
                self._nameless_rows.append((found, endpoint.address, address, kind, begin))
            else:
                row = (found, endpoint.address, *identity, begin, *(end or _OPEN))
                self._endpoint_rows.append(row)
        self._endpoints[endpoint] = found
        self._new_endpoints.append(endpoint)
        return found

    def _search_endpoint(
        self, endpoint: Endpoint, identity: tuple[object, ...], *, ended: bool = False
    ) -> int | None:
        if identity[0] not in self._addresses:
            return None
        match = self.conn.execute(
            f"SELECT id, valid_to_ns FROM endpoint WHERE {_SAME_ENDPOINT}"
            f" AND (? OR valid_to_ns IS NULL OR {OPEN_THEN}) AND valid_from_ns = IFNULL(?,"
            " valid_from_ns) ORDER BY valid_from_ns DESC LIMIT 1",
            (
                *(*identity, ended, self.closed_ns),
                endpoint.valid_from_ns if _is_apart(endpoint) else None,
            ),
        ).fetchone()
        if match is None:
            return None
        found, valid_to_ns = match
        if found in self._forgotten_endpoints:
            return None
        # Before this recording has begun in the file, what is open in it is yet to be closed.
        if valid_to_ns is not None or not self.began:
            self._reopened.append((found,))
        return int(found)

    def _complete(self, unknown: Endpoint, known: Endpoint) -> None:
        found = self._endpoints.get(unknown)
        if found is None:
            found = self._search_endpoint(unknown, _identity(unknown), ended=True)
        if found is None:
            # No flow points to it yet; one of a connection that began before may still come.
            found = self.endpoint_id(known)
        else:
            valid = (known.valid_from_ns, *self._ended.get(known, _OPEN))
            self.conn.execute(_COMPLETE, (*_identity(known)[1:], *valid, found))
            if known not in self._endpoints:
                self._endpoints[known] = found
                self._new_endpoints.append(known)
        self._endpoints[unknown] = self._completed[unknown] = found
        self._new_endpoints.append(unknown)
        self.flush()


def _is_apart(endpoint: Endpoint) -> bool:
    """
    Whether each span of an address is a row of its own.

    What is unknown, or a pod for want of better knowledge, may be completed in place: of two such
    spans one must not become what the other turns out to be.
    """
    return endpoint.kind in ("pod", "unknown")


def _identity(endpoint: Endpoint) -> tuple[object, ...]:
    """Give the address as `endpoint.packed` holds it, and then ENDPOINT_IDENTITY."""
    labels = compact(endpoint.labels) if endpoint.labels else None
    return (packed(endpoint.address), *_all_but_labels(endpoint), labels)


def _next_id(conn: sqlite3.Connection, table: str) -> int:
    (last,) = conn.execute(f"SELECT MAX(id) FROM {table}").fetchone()
    return int(last or 0) + 1
