"""
One transaction a window: who, what and what was lost become visible together, or not at all.

    with connect.writer(path) as conn:
        writer = Writer(conn, node="n1", source="kernel", settings={}, started_ns=..., boot_id=...)
        for live in writer.load_connections(): ...
        writer.window(rows, gaps=gaps, changes=changes, committed_ns=..., counters=...)
        writer.finish(ended_ns, connections)

The file is not touched before the first window is. A window that fails leaves the file as it
was, and may be given again.
"""

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from itertools import chain, islice
from math import inf
from pathlib import Path

from ctk.errors import DiskFullError, StoreError
from ctk.model import (
    Edge,
    EventCounts,
    FlowRow,
    FlowTuple,
    Gap,
    IdleConnections,
    Previous,
)
from ctk.model.history import ClusterFound, HistoryChange, KnownObject, KnownUnknown, PodsTold
from ctk.model.kept import LiveConnections
from ctk.model.lone import LoneEvents
from ctk.model.tableuse import TableLook
from ctk.store import earlier, history, live, prune, rollup, tableuse
from ctk.store.connect import ROOM_HINT, explained, failure, path_of
from ctk.store.flows import FlowTable
from ctk.store.folded import FoldedCount
from ctk.store.identities import Identities
from ctk.store.limit import SizeLimit
from ctk.store.orphans import Orphans
from ctk.store.recordings import RecordingRow
from ctk.store.reserve import LAST_BYTES, Reserve
from ctk.store.sums import transaction
from ctk.timespan import FOREVER_NS


class Writer:
    """The rows of one recording, by one node, in a file that `connect.writer` opened."""

    def __init__(
        self,
        conn: sqlite3.Connection,
        *,
        node: str,
        cluster: str | None = None,
        source: str,
        settings: Mapping[str, object],
        started_ns: int,
        boot_id: str | None,
        edges_held: Callable[[], Set[int]] = frozenset,
        max_bytes: int | None = None,
    ) -> None:
        self._conn = conn
        self._path = path_of(conn)
        self._levels, self._max_bytes = rollup.levels_within(max_bytes), max_bytes
        self._file = _file_identity(self._path)
        self._recording = RecordingRow(
            conn,
            node=node,
            cluster=cluster,
            source=source,
            settings=settings,
            started_ns=started_ns,
            boot_id=boot_id,
        )
        (told_ns, self._last_ns) = conn.execute(
            "SELECT MAX(told_ns), MAX(committed_ns) FROM recording"
        ).fetchone()
        self._identities = Identities(conn, self._recording.recorder_id, told_ns, edges_held)
        self._flows = FlowTable(conn, self._identities, self._levels)
        self._orphans = Orphans(conn, self._identities.forget)
        self.thinned = 0  # how many gaps say that rows were folded before their time
        self._limit: SizeLimit | None = None
        if max_bytes is not None:
            self._limit = SizeLimit(
                conn, max_bytes, self._orphans, self._levels, self._flows.folding, self._thin
            )
        self._reserve = Reserve(self._path, max_bytes)
        self._wrote_edges = False  # of the window to come
        # There may be connections that the last recording kept; a capture leaves them to the next.
        self._kept_before = boot_id is not None

    def write_edges(self, first_ns: Mapping[int, int]) -> None:
        """
        Write edges of the window to come, with when they were first seen, ahead of it.

        Many of them take long, and events can be read in between. After a kill nothing points to
        them, and the next sweep throws them away. It may raise what `window` raises: the ids that
        were not written yet are void then.
        """
        if self._recording.id is None or not self._identities.has_new_edges:
            return
        try:
            self._check_file()
            if not self._wrote_edges:
                self._make_room()
            self._fill_reserve()
            with self._transaction():
                self._identities.flush(first_ns)
        except BaseException:
            self._identities.rolled_back()
            raise
        self._wrote_edges = True
        self._identities.committed()

    def window(
        self,
        rows: Iterable[FlowRow],
        *,
        events: LoneEvents[int] | None = None,
        addresses: Sequence[FoldedCount] = (),
        gaps: Iterable[Gap] = (),
        changes: Sequence[HistoryChange] = (),
        looks: Sequence[TableLook] = (),
        committed_ns: int,
        counters: EventCounts,
    ) -> None:
        """
        Commit everything up to `committed_ns`, in any order.

        `events` is the cheap way in for rows of a single event without counters
        (`--aggregate none`), with the ids of their edges. A full disk is a DiskFullError, another's
        lock a FileBusyError: nothing of the window is kept then, here or in the file, and it may be
        given again. `addresses` is how many the rows have whose edges stand for many.
        """
        self._check_file()
        newest_ns = self._flows.newest_ns
        recording, lone = self._recording, events or LoneEvents()
        began = recording.id is None
        try:
            if not self._wrote_edges:
                self._make_room()
            self._fill_reserve()
            self._identities.trim()
            with self._transaction():
                if began:
                    self._begin()
                if self._limit is not None:
                    rows, lone, addresses = self._limit.fitting(rows, lone, addresses)
                self._flows.insert(rows, lone, addresses)
                self._identities.change(changes)
                for change in changes:
                    if isinstance(change, ClusterFound):
                        recording.found_cluster(change.uid)
                    elif isinstance(change, PodsTold):
                        recording.told(change)
                recording.insert_gaps(gaps)
                if recording.id is not None:
                    tableuse.keep(self._conn, recording.id, looks)
                recording.advance(committed_ns, counters)
        except BaseException:
            self._identities.rolled_back()
            self._wrote_edges = False
            self._flows.newest_ns = newest_ns
            if began:
                recording.id, self._identities.endpoints.began = None, False
            raise
        self._identities.committed()
        self._identities.begin_forgetting()
        recording.full = None
        self._wrote_edges = False
        if self._limit is not None:
            self._limit.after_window()

    def _check_file(self) -> None:
        if _file_identity(self._path) != self._file:
            raise StoreError(
                f"{self._path} was deleted or replaced while it was written",
                hint="start the recorder again; it makes a new file",
            )

    def _make_room(self) -> None:
        """Make room for a window, with all that is written for it."""
        if self._limit is not None:
            with explained(self._path):
                self._limit.before_window()

    def room_bytes(self) -> float:
        """Say how much may be written at once, in one transaction."""
        return inf if self._limit is None else self._limit.room_bytes()

    @property
    def previous(self) -> Previous | None:
        """The last recording of this node before this one."""
        return self._recording.previous

    @property
    def was_down(self) -> bool:
        """Whether a gap to that one comes first."""
        return self._recording.was_down

    def edge_id(self, edge: Edge) -> int:
        """
        Return the id of an edge's row, which stands in the file with the next window.

        If that window fails, the ids of edges that were not in the file before are void.
        """
        try:  # not `explained`, which takes 1 us: this is asked for each edge
            return self._identities.edge_id(edge)
        except sqlite3.OperationalError as error:
            raise failure(error, self._path) from error

    def earlier_edge_id(self, flow: FlowTuple, at_ns: int) -> int | None:
        """Return the id of this node's edge of these tuples whose endpoints were there then."""
        previous = self.previous
        if previous is None:
            return None
        with explained(self._path):
            found = earlier.edge_id(
                *(self._conn, self._identities.recorder_id, flow, at_ns, previous.started_ns),
                told=previous.told_ns is not None,
            )
        return None if found is None or self._identities.is_forgotten(found) else found

    def read_edges(self, ids: Iterable[int]) -> dict[int, Edge]:
        """Return the edges with these ids, as far as they are in the file."""
        with explained(self._path):
            return self._identities.read_edges(ids)

    def known_objects(self, since_ns: int) -> Iterator[KnownObject]:
        """
        What the file says of the pods and nodes that there were at some time from then on.

        To be read before the first window: that ends what the last recording left open.
        """
        with explained(self._path):
            yield from history.known_objects(self._conn, since_ns, self._identities.closed_ns)

    def unknown_endpoints(self, since_ns: int) -> list[KnownUnknown]:
        """Return the newest endpoints that were unknown when they began, from then on."""
        with explained(self._path):
            return earlier.provisional(self._conn, since_ns, self._last_ns)

    def maintain(self, now_ns: int, retain: Mapping[str, int]) -> Iterator[None]:
        """
        Fold what is whole and throw away what is too old or too much, in small transactions.

        Every row that starts before `now_ns` is in the file, or comes late. Each step holds the
        lock for well under 100 ms. The caller may write a window between any two, and may stop and
        start again.
        """
        limit = self._limit if self._recording.id is not None else None
        with explained(self._path):
            if limit is not None and limit.is_held:
                return
            self._fill_reserve()
            steps = chain(
                self._give_back_connections(),
                rollup.fold(self._conn, now_ns, self._levels, self._flows.folding),
                prune.by_age(self._conn, now_ns, retain, self._orphans),
                tableuse.prune(self._conn, now_ns, retain, self._max_bytes),
                # Not in the middle of a sweep: it counts on edges that a finished bucket has.
                self._flows.late.recap(),
                prune.spare(self._conn) if limit is None else limit.steps(now_ns),
            )
            for step in steps:
                self._fill_reserve()
                yield step
                if limit is not None and limit.is_held:
                    return

    def _give_back_connections(self) -> Iterator[None]:
        """Throw away what the last recording kept of live connections, once this one goes on."""
        if self._recording.id is not None and self._kept_before:
            yield from prune.connections(self._conn, self._recording.recorder_id)
            self._kept_before = False

    def fold_open(self) -> Iterator[None]:
        """
        Fold the buckets that are not over, in small transactions: the recording ends.

        In a file at rest every view adds up to the same then; the next recording opens them again.
        """
        with explained(self._path):
            for step in rollup.fold(self._conn, FOREVER_NS, self._levels):
                self._fill_reserve()
                yield step

    def finish(self, ended_ns: int, connections: Iterable[LiveConnections] = ()) -> None:
        """End the recording cleanly, keeping the connections that go on for the next one."""
        try:
            with self._transaction():
                if self._recording.id is None:
                    self._begin()
                if self._recording.boot_id is not None:
                    live.forget(self._conn, self._recording.recorder_id)
                connections = iter(connections)
                while some := list(islice(connections, live.AT_ONCE)):
                    self._identities.flush({each.edge_id: ended_ns for each in some})
                    live.keep(self._conn, some)
                self._recording.end(ended_ns)
        except BaseException:
            self._identities.rolled_back()
            raise
        self._identities.committed()

    def load_connections(self) -> Iterator[LiveConnections]:
        """
        What the last recording kept of connections that may still live.

        Only after a clean stop, in the same boot, and before the first window.
        """
        previous, boot_id = self.previous, self._recording.boot_id
        if previous is None or previous.ended_ns is None or boot_id is None:
            return
        if previous.boot_id != boot_id:
            return
        yield from live.load(self._conn, self._recording.recorder_id)

    def keep_idle(self, idle: IdleConnections) -> None:
        """Keep which live connections are idle, in place of those of an earlier look."""
        recording = self._recording
        if recording.id is not None:
            self._fill_reserve()
            with self._transaction():
                live.keep_idle(self._conn, recording.recorder_id, recording.id, idle)

    def in_reserve(
        self, gap: Gap, committed_ns: int, counters: EventCounts, ended_ns: int | None = None
    ) -> bool:
        """
        Write the gap of a disk that is full, with the room that was kept for it.

        To be called after a DiskFullError, as often as the gap grows: the first call adds it, and
        later ones bring its row up to date where it has grown to twice its length, for room is
        short. With `ended_ns` the recording ends. The window that is written when there is room
        again brings the same gap. False where not even this could be written.
        """
        recording, full = self._recording, self._recording.full
        if full is not None and ended_ns is None:
            grown = gap.ended_ns - gap.started_ns >= 2 * (full.ended_ns - gap.started_ns)
            if not grown or self._reserve.room_bytes() < 3 * LAST_BYTES:
                return True
        began = recording.id is None
        try:
            with self._transaction():
                if began:
                    self._begin()
                full = recording.insert_full(gap)
                recording.advance(committed_ns, counters)
                if ended_ns is not None:
                    recording.end(ended_ns)
        except StoreError:
            if began:
                recording.id, self._identities.endpoints.began = None, False
            return False
        recording.full = full
        return True

    def _thin(self, started_ns: int, ended_ns: int) -> None:
        self.thinned += self._recording.thin(started_ns, ended_ns)

    def _fill_reserve(self) -> None:
        if not self._reserve.fill_up():
            raise DiskFullError(f"no room left to write {self._path}", hint=ROOM_HINT)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with explained(self._path), transaction(self._conn):
            yield

    def _begin(self) -> None:
        """Write that this recording started, and open again what the last one ended."""
        self._recording.begin()
        self._identities.endpoints.began = True
        rollup.reopen(self._conn, self._recording.started_ns)
        if self._identities.closed_ns is not None:
            self._identities.endpoints.close_open(self._identities.closed_ns, self._last_ns)


def _file_identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
