"""
Endpoints: values in, row ids out; and what becomes of their rows when more is known of them.

Ids are given out here, since there is only one writer, and the rows follow in batches. A value
that is already in the file, from before a restart, keeps its row.
"""

import json
import sqlite3
from collections.abc import Iterable
from operator import attrgetter
from typing import Any, NamedTuple

from ctk.model import OTHER, Endpoint
from ctk.model.addresses import packed
from ctk.model.history import Closed, ServiceFound
from ctk.store import bulk, folded, history
from ctk.store.bloom import BloomFilter
from ctk.store.columns import ENDPOINT_IDENTITY
from ctk.store.history import OPEN_THEN, compact
from ctk.store.values import ENDPOINT_FIELDS, endpoint_of

_OTHERS = {OTHER[kind]: row_id for kind, row_id in folded.ENDPOINT_IDS.items()}
_OTHER_ENDPOINTS = {row_id: endpoint for endpoint, row_id in _OTHERS.items()}
_NO_NAMES = [None] * (len(ENDPOINT_IDENTITY) - 1)
CACHED = 2**15  # ids remembered; past it the older half is looked up again

_VALID = ("valid_from_ns", "valid_to_ns", "end_inferred")
_ENDPOINT = bulk.plain("endpoint", ("id", "address", "packed", *ENDPOINT_IDENTITY, *_VALID))
# Most endpoints are external and have no names: five bound values cost half of fourteen.
_NAMELESS = bulk.plain("endpoint", ("id", "address", "packed", "kind", "valid_from_ns"))
_BY_ID = (
    f"SELECT id, {', '.join(ENDPOINT_FIELDS)} FROM endpoint"
    " WHERE id IN (SELECT value FROM json_each(?))"
)
_COMPLETE = (
    f"UPDATE endpoint SET {', '.join(f'{name} = ?' for name in (*ENDPOINT_IDENTITY, *_VALID))}"
    " WHERE id = ?"
)
_CLOSE = "UPDATE endpoint SET valid_to_ns = ?, end_inferred = ? WHERE id = ?"
_REOPEN = "UPDATE endpoint SET valid_to_ns = NULL, end_inferred = 0 WHERE id = ?"
_SAME = " AND ".join(["packed = ?", *(f"{name} IS ?" for name in ENDPOINT_IDENTITY)])
_all_but_labels = attrgetter(*ENDPOINT_IDENTITY[:-1])


class _End(NamedTuple):
    """When an endpoint's interval ended."""

    at_ns: int | None = None
    inferred: bool = False


_OPEN = _End()


class EndpointIds:
    """
    The endpoints of the file by id. Nothing is written before `flush`, but for what is changed.

    `closed_ns` is when the last recording's knowledge ended: what was open then was closed at
    that moment, and is opened again where it is seen unchanged.
    """

    def __init__(self, conn: sqlite3.Connection, closed_ns: int | None) -> None:
        self._conn = conn
        self._closed_ns = closed_ns
        self.began = False  # whether the recording is in the file
        self._ids: dict[Endpoint, int] = {}
        self._completed: dict[Endpoint, int] = {}  # explained, but still held by connections
        self._ended: dict[object, _End] = {}  # by `_whose`
        self._next = next_id(conn, "endpoint")
        # What the file may have, though its id is not remembered.
        self._addresses = BloomFilter(
            found for (found,) in conn.execute("SELECT packed FROM endpoint")
        )
        self._forgotten: set[int] = set()
        self._new: list[Endpoint] = []
        self._reopened: list[tuple[int]] = []  # rows that go on
        self._rows: list[tuple[object, ...]] = []
        self._nameless_rows: list[tuple[object, ...]] = []

    def id_of(self, endpoint: Endpoint) -> int:
        found = self._ids.get(endpoint)
        return self._find_or_add(endpoint) if found is None else found

    def read(self, ids: Iterable[int]) -> dict[int, Endpoint]:
        """Make endpoints again from their rows, to which they go on to belong, ended or not."""
        asked = self._conn.execute(_BY_ID, (json.dumps(list(ids)),))
        endpoints = {
            found: _OTHER_ENDPOINTS.get(found) or endpoint_of(columns) for found, *columns in asked
        }
        self._ids.update((endpoint, found) for found, endpoint in endpoints.items() if found > 0)
        return endpoints

    def forget(self, ids: set[int]) -> None:
        """
        Use none of these rows again: they are about to be thrown away.

        Rows of explained endpoints stay: only they know that what was unknown no longer is.
        """
        ids.difference_update(self._completed.values())
        self._forgotten = ids
        self._ids = {endpoint: found for endpoint, found in self._ids.items() if found not in ids}

    def flush(self) -> None:
        """Write the rows that were given ids."""
        self._conn.executemany(_REOPEN, self._reopened)
        bulk.run(self._conn, _ENDPOINT, self._rows)
        bulk.run(self._conn, _NAMELESS, self._nameless_rows)
        self._drop_rows()

    def committed(self) -> None:
        """The window is committed."""
        self._new.clear()

    def trim(self) -> None:
        """Forget some ids where there are many; between windows."""
        if len(self._ids) > CACHED:
            self._ids = dict(list(self._ids.items())[-CACHED // 2 :]) | self._completed
        bounds: tuple[dict[Any, Any], ...] = (self._completed, self._ended)
        for bounded in bounds:
            while len(bounded) > CACHED // 4:
                del bounded[next(iter(bounded))]

    def rolled_back(self) -> None:
        """The window was rolled back: its ids were never given out."""
        self._drop_rows()
        for endpoint in self._new:
            self._ids.pop(endpoint, None)
            self._completed.pop(endpoint, None)
        self._new.clear()
        self._next = next_id(self._conn, "endpoint")

    def _drop_rows(self) -> None:
        self._reopened.clear()
        self._rows.clear()
        self._nameless_rows.clear()

    # What was learned of them.

    def close(self, change: Closed) -> None:
        """An endpoint's interval ended; one that is not in the file yet will stand so."""
        endpoint, valid_to_ns, inferred = change
        row_id = self._ids.get(endpoint) if endpoint.kind == "unknown" else None
        if row_id is not None and endpoint not in self._completed:
            # A scan of addresses that pods may have ends one for each: by the id that is quicker,
            # and what is remembered of pods' ends stays.
            self._conn.execute(_CLOSE, (valid_to_ns, inferred, row_id))
            return
        identity = _identity(endpoint)
        self._ended[_whose(endpoint, identity)] = _End(valid_to_ns, inferred)
        self._conn.execute(
            f"UPDATE endpoint SET valid_to_ns = ?, end_inferred = ?"
            f" WHERE {_SAME} AND (valid_to_ns IS NULL OR {OPEN_THEN}"
            " OR end_inferred AND valid_to_ns >= ? OR kind = 'unknown')"
            " AND valid_from_ns = IFNULL(?, valid_from_ns)",
            (
                *(valid_to_ns, inferred, *identity),
                *(self._closed_ns, valid_to_ns),
                endpoint.valid_from_ns if endpoint.kind == "unknown" else None,
            ),
        )

    def complete(self, unknown: Endpoint, known: Endpoint) -> None:
        """What was unknown turned out to be known: its row is completed in place."""
        found = self._ids.get(unknown)
        if found is None:
            found = self._search(unknown, _identity(unknown), ended=True)
        if found is None:
            # No flow points to it yet; one of a connection that began before may still come.
            found = self.id_of(known)
        else:
            identity = _identity(known)
            valid = (known.valid_from_ns, *self._end_of(known, identity))
            self._conn.execute(_COMPLETE, (*identity[1:], *valid, found))
            if known not in self._ids:
                self._ids[known] = found
                self._new.append(known)
        self._ids[unknown] = self._completed[unknown] = found
        self._new.append(unknown)

    def name_service(self, found: ServiceFound) -> None:
        """Name the service of all edges to what was dialled, those of earlier windows included."""
        dialled = found.dialled
        same = self._conn.execute(
            f"SELECT id FROM endpoint WHERE {_SAME} AND valid_from_ns = IFNULL(?, valid_from_ns)",
            (*_identity(dialled), dialled.valid_from_ns if _is_apart(dialled) else None),
        )
        ids = {found_id for (found_id,) in same}
        if dialled in self._ids:
            ids.add(self._ids[dialled])
        self._conn.executemany(
            "UPDATE edge SET service = ?, service_via = ?"
            " WHERE dialled_id = ? AND proto = ? AND dst_port IS ? AND service IS NULL",
            [(found.service, found.via, one, found.proto, found.port) for one in sorted(ids)],
        )

    def close_open(self, at_ns: int, last_ns: int) -> None:
        """
        End every interval that a former recording left open: what came after is not known.

        A pod that was gone at `at_ns` may have its address for its grace period, or the next pod
        has it: what is asked of that time is decided anew. What was unknown stands for nothing
        that began after `last_ns`.
        """
        gone_ns = (
            "SELECT IIF(MAX(valid_to_ns IS NULL), NULL, MAX(IFNULL(sure_until_ns, valid_to_ns)))"
            " FROM pod WHERE pod.uid = endpoint.uid"
        )
        self._conn.execute(
            "UPDATE endpoint SET end_inferred = uid IS NOT NULL, valid_to_ns = MAX(valid_from_ns,"
            f" IIF(uid IS NULL, :last_ns, MIN(:at_ns, IFNULL(({gone_ns}), :at_ns))))"
            " WHERE valid_to_ns IS NULL AND (uid IS NOT NULL OR kind = 'unknown' AND id > 0)",
            {"at_ns": at_ns, "last_ns": last_ns},
        )
        history.close_open(self._conn, at_ns)

    def _find_or_add(self, endpoint: Endpoint) -> int:
        if endpoint in _OTHERS:
            return _OTHERS[endpoint]
        identity = _identity(endpoint)
        found = self._search(endpoint, identity)
        if found is None:
            found = self._next
            self._next += 1
            self._addresses.add(identity[0])
            begin, end = endpoint.valid_from_ns, self._end_of(endpoint, identity)
            address, kind, *names = identity
            if end is _OPEN and names == _NO_NAMES:
                self._nameless_rows.append((found, endpoint.address, address, kind, begin))
            else:
                self._rows.append((found, endpoint.address, *identity, begin, *end))
        self._ids[endpoint] = found
        self._new.append(endpoint)
        return found

    def _end_of(self, endpoint: Endpoint, identity: tuple[object, ...]) -> _End:
        end = self._ended.get(_whose(endpoint, identity), _OPEN)
        # The same labels as before others are another span, which goes on.
        is_its = end.at_ns is None or end.at_ns >= endpoint.valid_from_ns
        return end if is_its else _OPEN

    def _search(
        self, endpoint: Endpoint, identity: tuple[object, ...], *, ended: bool = False
    ) -> int | None:
        """Find the row of an endpoint that is open, or was; `ended`: or of one that is over."""
        if identity[0] not in self._addresses:
            return None
        match = self._conn.execute(
            f"SELECT id, valid_to_ns FROM endpoint WHERE {_SAME}"
            f" AND (? OR valid_to_ns IS NULL OR {OPEN_THEN}) AND valid_from_ns = IFNULL(?,"
            " valid_from_ns) ORDER BY valid_from_ns DESC LIMIT 1",
            (
                *(*identity, ended, self._closed_ns),
                endpoint.valid_from_ns if _is_apart(endpoint) else None,
            ),
        ).fetchone()
        if match is None:
            return None
        found, valid_to_ns = match
        if found in self._forgotten:
            return None
        # Before this recording has begun in the file, what is open in it is yet to be closed.
        if not ended and (valid_to_ns is not None or not self.began):
            self._reopened.append((found,))
        return int(found)


def _is_apart(endpoint: Endpoint) -> bool:
    """
    Whether each span of an address is a row of its own.

    What is unknown, or a pod for want of better knowledge, may be completed in place: of two such
    spans one must not become what the other turns out to be.
    """
    return endpoint.kind in ("pod", "unknown")


def _whose(endpoint: Endpoint, identity: tuple[object, ...]) -> object:
    """
    By what the end of an endpoint is known.

    It is that of all rows of a pod at an address, of those of single seconds too.
    """
    return endpoint if endpoint.kind == "unknown" else identity


def _identity(endpoint: Endpoint) -> tuple[object, ...]:
    """Give the address as `endpoint.packed` holds it, and then ENDPOINT_IDENTITY."""
    labels = compact(endpoint.labels) if endpoint.labels else None
    return (packed(endpoint.address), *_all_but_labels(endpoint), labels)


def next_id(conn: sqlite3.Connection, table: str) -> int:
    """The first id that no row of a table has."""
    (last,) = conn.execute(f"SELECT MAX(id) FROM {table}").fetchone()
    return int(last or 0) + 1
