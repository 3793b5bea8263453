"""
Joins the kernel, the cluster and the file: `run` is the arrow

    source -> decode -> connections -> aggregate -> (endpoints) -> write -> rollup

One thread does all of it. What the API server says arrives on a queue that its own threads fill,
and is taken in between two batches.
"""

import gc
import logging
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import NamedTuple, Protocol

from ctk.conntrack.aggregate import (
    EVERYTHING,
    Aggregation,
    Aggregator,
    Window,
)
from ctk.conntrack.capture import CaptureWriter
from ctk.conntrack.connections import Census, Connections, Group
from ctk.conntrack.decode import Decoder
from ctk.errors import DiskFullError
from ctk.kube.endpoints import Endpoints
from ctk.kube.objects import Change
from ctk.model import (
    AnyEdge,
    Datagrams,
    Edge,
    Endpoint,
    EventCounts,
    FlowRow,
    FlowTuple,
    Gap,
    HistoryChange,
    LoneEvent,
)
from ctk.record import host
from ctk.record.attribution import ends_of, has_ports, rows_of, rows_of_events
from ctk.store.connect import path_of
from ctk.store.write import Writer
from ctk.timespan import SECOND

log = logging.getLogger("ctk")

_CLOCK_STEP_NS = SECOND
_HEARTBEAT_NS = 60 * SECOND  # a file with nothing to say still tells how far it goes
_MANY_CHANGES = 1_000  # of history: they are written without waiting for the window's end
_MOST_CHANGES = 200_000  # of history that wait for room on the disk
_OWNERS_KEPT_NS = 600 * SECOND  # after their end: nothing asks about connections that old
_MOST_LIVE = 1_000_000  # past it a dump comes at once, to tell which of them ended untold
_LAST_MAINTAIN_S = 30.0
_MAINTAIN_S = 0.2  # after a window, for folding and pruning; the socket's buffer holds seconds


class Stream(Protocol):
    """Where events come from: the kernel or a capture file."""

    started_ns: int

    @property
    def local_addresses(self) -> frozenset[str]: ...

    @property
    def malformed(self) -> int: ...

    def gaps(self) -> list[Gap]: ...

    def dump_soon(self) -> None: ...

    def __iter__(self) -> Iterator[Datagrams]: ...


class Status(NamedTuple):
    """What a person wants to see of a running recording."""

    events: int
    flows: int
    live: int
    gaps: int
    file_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to record, and how."""

    node: str
    source: str  # "kernel", or the capture's path
    local_addresses: frozenset[str]
    live: bool  # the clock and the counters are this host's, now
    cluster: bool  # an API server is followed, so what is unknown may yet be known
    window_ns: int = 10 * SECOND
    aggregation: Aggregation = "ports"
    wanted: Callable[[FlowTuple], bool] | None = None
    retain: Mapping[str, int] = field(default_factory=dict)  # ns by level
    max_bytes: int | None = None
    settings: Mapping[str, object] = field(default_factory=dict)  # as they stand in `recordings`


@dataclass(frozen=True, slots=True, kw_only=True)
class Listening:
    """Who else is told, as it happens."""

    rows: Callable[[Iterable[tuple[FlowRow, Edge]]], None] | None = None
    pods: Callable[[Endpoint], None] = lambda pod: None
    status: Callable[[Status], None] = lambda status: None
    capture: CaptureWriter | None = None


def run(
    conn: sqlite3.Connection,
    stream: Stream,
    plan: Plan,
    changes: "SimpleQueue[Change]",
    listening: Listening,
) -> None:
    """Record until the stream ends; then finish the window, fold, and close the recording."""
    # What events are made of holds no cycles; looking for some in a large table of connections
    # took a quarter of the time (1.6 us an event with the default thresholds, 1.2 with these).
    gc.set_threshold(200_000, 20, 100)
    host.give_memory_back()
    recorder = _Recorder(conn, stream, plan, listening)
    for batch in stream:
        if listening.capture is not None and (batch.lengths or batch.dumped):
            listening.capture.write(batch, stream.local_addresses)
        recorder.learn(_waiting(changes))
        if batch.dumped:
            recorder.take_dumped(batch)
        else:
            recorder.take(batch)
    recorder.learn(_waiting(changes))
    recorder.finish()


class _Recorder:
    def __init__(
        self, conn: sqlite3.Connection, stream: Stream, plan: Plan, listening: Listening
    ) -> None:
        self._conn, self._stream, self._plan, self._listening = conn, stream, plan, listening
        self.now_ns = started_ns = stream.started_ns
        self._decoder = Decoder()
        self._connections = Connections(plan.wanted)
        self._aggregator = Aggregator(
            self._connections, window_ns=plan.window_ns, aggregation=plan.aggregation
        )
        self._endpoints = Endpoints(plan.node, plan.local_addresses, started_ns, kube=plan.cluster)
        self._writer = Writer(
            conn,
            node=plan.node,
            source=plan.source,
            settings=plan.settings,
            started_ns=started_ns,
            boot_id=host.boot_id() if plan.live else None,
            edges_held=self._aggregator.edges_held,
        )
        self._path = path_of(conn)
        self._gaps: list[Gap] = []
        self._gap_count = 0
        self._lost = 0
        self._malformed = 0
        self._flows = 0
        self._changes: list[HistoryChange] = []
        self._committed_ns = started_ns
        self._told_ns = 0
        self._full: Gap | None = None
        self._in_census = False
        self._clock_ns = host.clock_offset_ns()
        self._aggregator.census = self._take_up()
        self._commit([], {}, started_ns)

    def _take_up(self) -> Census:
        """Go on from what the recording before this one left; say how to count the first dump."""
        started_ns, previous = self._stream.started_ns, self._writer.previous
        if previous is None or not self._plan.live:
            # What older connections moved before is not of this recording.
            return Census(whole_from_ns=started_ns, undated_whole=False)
        if previous.boot_id != host.boot_id():
            return Census(whole_from_ns=previous.committed_ns, undated_whole=True)
        if previous.ended_ns is None:
            # After a crash the table of the kernel is all there is: what an older connection has
            # moved was counted up to the last commit, and the rest is in the gap.
            return Census(
                whole_from_ns=previous.committed_ns, undated_whole=False, count_older=False
            )
        kept = self._writer.load_connections()
        self._connections.restore(kept, by_port=self._plan.aggregation == "connections")
        return Census(whole_from_ns=previous.ended_ns, undated_whole=True)

    def learn(self, changes: Iterable[Change]) -> None:
        """Take in what the API server said."""
        learned = False
        for change in changes:
            self._endpoints.apply(change)
            learned = True
        if learned:
            for pod in self._endpoints.pods_added():
                self._listening.pods(pod)
            # Who owns an address may have changed: connections from here on are asked about anew.
            self._aggregator.cut()
        if self._endpoints.untold >= _MANY_CHANGES:
            # Thousands come at the start: they are not to make the first window a long one.
            self._commit([], {}, self._committed_ns)

    def take_dumped(self, batch: Datagrams) -> None:
        """Count what live connections moved; an empty batch ends the dump."""
        if not self._aggregator.behind:
            self.take(batch._replace(lengths=()))
        if not self._in_census:
            self._in_census = True
            self._connections.begin_census()
        if batch.lengths:
            self._aggregator.add_census(self._decoder.read(batch))
            return
        self._connections.end_census()
        self._in_census = False
        # What a later dump finds began since, whether or not its event was lost.
        self._aggregator.census = EVERYTHING

    def take(self, batch: Datagrams) -> None:
        """Count a batch of events, and write the windows that are over."""
        self.now_ns = batch.at_ns
        if self._plan.live:
            self._watch_clock(batch.at_ns)
        events = self._decoder.read(batch) if batch.lengths else []
        for window in self._aggregator.add(events, batch.at_ns):
            self._write(window, min(window.ended_ns, batch.at_ns))
        if not 0 <= batch.at_ns - self._told_ns < SECOND:
            self._tell(batch.at_ns)

    def finish(self) -> None:
        """Write what is open, fold all that is folded so far, and keep the live connections."""
        for window in self._aggregator.close():
            self._write(window, self.now_ns)
        self._endpoints.finish(self.now_ns)
        self._commit([], {}, self.now_ns)
        for group in self._connections.live.values():
            if group.edge is None:
                self._edge(group)
        self._maintain(self.now_ns, _LAST_MAINTAIN_S)
        self._writer.finish(self.now_ns, self._connections.export() if self._plan.live else ())
        self._tell(self.now_ns)

    def _write(self, window: Window, committed_ns: int) -> None:
        rows, events = rows_of(window, self._edge, self._plan.aggregation)
        self._flows += len(rows) + sum(map(len, events.values()))
        if self._commit(rows, events, committed_ns):
            self._let_go(window)
        if self._listening.rows is not None:
            told = [*rows, *rows_of_events(events)]
            whole = self._writer.whole_edges([row.edge for row in told])
            self._listening.rows(zip(told, whole, strict=True))
        self._endpoints.expire(committed_ns - _OWNERS_KEPT_NS)
        # The open window may still add rows that start in it: it is folded with the next.
        self._maintain(window.started_ns, _MAINTAIN_S)

    def _commit(
        self,
        rows: Sequence[FlowRow],
        events: Mapping[AnyEdge, Sequence[LoneEvent]],
        committed_ns: int,
    ) -> bool:
        """
        Write a window; where the disk is full go on without it, and say so later.

        False where it was not written.
        """
        self._changes += self._endpoints.drain()
        gaps = [*self._gaps, *self._new_gaps(committed_ns)]
        if self._full is not None:
            self._full = self._full._replace(ended_ns=committed_ns)
        try:
            self._writer.window(
                rows,
                events=events,
                gaps=[*gaps, self._full] if self._full else gaps,
                changes=self._changes,
                committed_ns=committed_ns,
                counters=EventCounts(self._aggregator.events, self._lost, self._malformed),
            )
        except DiskFullError as error:
            if self._full is None:
                log.warning("%s; recording goes on, and what is lost is counted", error.message)
                self._full = Gap("disk full", self._committed_ns, committed_ns, 0)
            lost = sum(row.new_events + row.update_events + row.destroy_events for row in rows)
            lost += sum(map(len, events.values()))
            self._full = self._full._replace(
                ended_ns=committed_ns, lost=(self._full.lost or 0) + lost
            )
            self._gaps = gaps
            del self._changes[:-_MOST_CHANGES]
            return False
        if self._full is not None:
            log.warning("there is room again: %s events were not written", self._full.lost)
            self._gap_count += 1
        self._full = None
        self._gaps, self._changes = [], []
        self._committed_ns = committed_ns
        return True

    def _let_go(self, window: Window) -> None:
        """Keep the ids of edges that are in the file now: 300 bytes less a live connection."""
        for totals in window.totals:
            totals.group.edge = self._short(totals.group.edge)

    def _short(self, edge: AnyEdge) -> AnyEdge:
        """The id of an edge that is in the file, unless only the edge says that it has no ports."""
        if isinstance(edge, int) or not has_ports(edge):
            return edge
        return self._writer.edge_ids.get(edge, edge)

    def _new_gaps(self, at_ns: int) -> list[Gap]:
        gaps = self._stream.gaps() + self._endpoints.gaps()
        malformed = self._decoder.malformed + self._connections.malformed + self._stream.malformed
        if malformed > self._malformed:
            lost = malformed - self._malformed
            gaps.append(Gap("malformed", min(self._committed_ns, at_ns), at_ns, lost))
            self._malformed = malformed
        for gap in gaps:
            self._gap_count += 1
            if gap.kind == "events lost":
                self._lost += gap.lost or 0
                log.warning("%s events were lost: the socket's buffer was full", gap.lost)
        return gaps

    def _watch_clock(self, at_ns: int) -> None:
        """A step of the wall clock is a gap: times before and after it do not compare."""
        offset_ns = host.clock_offset_ns()
        step_ns = offset_ns - self._clock_ns
        self._clock_ns = offset_ns
        if abs(step_ns) >= _CLOCK_STEP_NS:
            before_ns = at_ns - step_ns
            detail = f"the clock went {step_ns / SECOND:+.3f} s"
            log.warning("%s", detail)
            self._gap_count += 1
            self._gaps.append(
                Gap("clock step", min(before_ns, at_ns), max(before_ns, at_ns), None, detail)
            )

    def _maintain(self, now_ns: int, seconds: float) -> None:
        """Fold and prune for so long; what is left waits for the next window."""
        until = time.monotonic() + seconds
        try:
            for _ in self._writer.maintain(now_ns, self._plan.retain, self._plan.max_bytes):
                if time.monotonic() > until:
                    break
        except DiskFullError:
            pass  # nothing is lost: the next window says so where it is

    def _tell(self, at_ns: int) -> None:
        self._told_ns = at_ns
        whole_ns = self._aggregator.whole_ns(at_ns)
        due = whole_ns - self._committed_ns >= _HEARTBEAT_NS or at_ns < self._committed_ns
        if self._plan.live and due:
            self._commit([], {}, whole_ns)
        if len(self._connections.live) > _MOST_LIVE:
            self._stream.dump_soon()
        self._listening.status(
            Status(
                self._aggregator.events,
                self._flows,
                len(self._connections.live),
                self._gap_count,
                _size(self._path),
            )
        )

    def _edge(self, group: Group) -> AnyEdge:
        """Ask who a group belonged to; once, for its flow is not needed any more then."""
        flow = group.flow
        if flow is None:
            raise RuntimeError("a group without a flow has an edge")
        if flow.tuple is not None:
            flow.ends, flow.tuple = ends_of(flow.tuple), None
        # Rows merge by it, so it is the id wherever a row may have come with the id.
        edge = self._short(self._endpoints.edge(*(*flow.ends, group.began_ns)))
        group.edge, group.flow = edge, None
        return edge


def _waiting(changes: "SimpleQueue[Change]") -> Iterator[Change]:
    """What is on the queue now, at most a thousand: events wait meanwhile."""
    for _ in range(1000):
        try:
            yield changes.get_nowait()
        except Empty:
            return


def _size(path: Path) -> int:
    total = 0
    for name in (path, Path(f"{path}-wal")):
        try:
            total += name.stat().st_size
        except OSError:
            continue
    return total
