"""
Joins the kernel, the cluster and the file: `run` is the arrow

    source -> decode -> connections -> aggregate -> attribution -> write -> rollup

One thread does all of it. What the API server says arrives on a queue that its own threads fill,
and is taken in between two batches.
"""

import gc
import logging
import sqlite3
import time
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import chain
from queue import Empty, SimpleQueue

from ctk.conntrack.aggregate import Aggregator, Window
from ctk.conntrack.connections import Connections
from ctk.conntrack.decode import Decoder
from ctk.conntrack.strangers import Strangers
from ctk.kube.endpoints import Endpoints
from ctk.kube.objects import Change
from ctk.model import Datagrams
from ctk.model.history import HistoryChange
from ctk.record import host, keep, takeup
from ctk.record.attribution import Attribution
from ctk.record.commit import Committer
from ctk.record.gaps import GapLedger
from ctk.record.idle import IdleWatch
from ctk.record.plan import EventStream, Listening, Plan
from ctk.record.pressure import TableWatch
from ctk.record.telling import Telling
from ctk.store.connect import path_of
from ctk.store.write import Writer
from ctk.timespan import SECOND

log = logging.getLogger("ctk")

_HEARTBEAT_NS = 30 * SECOND  # a file with nothing to say still tells how far it goes
_MANY_CHANGES = 1_000  # of history: they are written without waiting for the window's end
_MOST_LIVE = 1_000_000  # past it a dump comes at once, to tell which of them ended untold
# When recording stops: folding may take so long, and leaves so much of the 20 s of a stop for what
# lives; that leaves the last of it for closing the file. On two cores that do much else, a node's
# 120,000 connections took 4 s, and the file with the end of the process 5 s.
_FOLD_S, _KEEP_S, _CLOSE_S = 10.0, 9.0, 4.0


def run(
    conn: sqlite3.Connection,
    stream: EventStream,
    plan: Plan,
    changes: "SimpleQueue[Change]",
    listening: Listening,
) -> None:
    """
    Record until the stream ends; then finish the window, fold, and close the recording.

    Whatever ends it otherwise, the open window is written first, as far as the file takes it.
    """
    # What events are made of holds no cycles; looking for some in a large table of connections
    # took a quarter of the time (1.6 us an event with the default thresholds, 1.2 with these).
    gc.set_threshold(200_000, 20, 100)
    host.give_memory_back()
    host.end_without_collecting()
    recorder = Recorder(conn, stream, plan, listening)
    try:
        for batch in stream:
            if listening.capture is not None and (batch.lengths or batch.dumped):
                listening.capture.write(batch, stream.local_addresses)
            recorder.learn(_waiting(changes))
            recorder.take(batch)
        recorder.learn(_waiting(changes))
    except BaseException:
        recorder.save()
        raise
    recorder.finish()


class Recorder:
    """One recording: what was taken from the stream, and what of it is in the file."""

    def __init__(
        self, conn: sqlite3.Connection, stream: EventStream, plan: Plan, listening: Listening
    ) -> None:
        self._stream, self._plan, self._listening = stream, plan, listening
        self._now_ns = started_ns = stream.started_ns
        self._writer = Writer(
            conn,
            node=plan.node,
            cluster=plan.cluster_name,
            source=plan.source,
            settings=plan.settings,
            started_ns=started_ns,
            boot_id=host.boot_id() if plan.live else None,
            edges_held=self._edges_held,
            max_bytes=plan.max_bytes,
        )
        self._decoder = Decoder()
        self._local_addresses = stream.local_addresses
        self._endpoints = Endpoints(plan.node, self._local_addresses, started_ns, kube=plan.cluster)
        self._connections = Connections(plan.wanted, self._strangers())
        self._aggregator = Aggregator(
            self._connections,
            takeup.connections(self._writer, self._connections, plan, started_ns),
            window_ns=plan.window_ns,
            aggregation=plan.aggregation,
        )
        takeup.names(self._writer, self._endpoints, plan)
        writer = self._writer
        self._attribution = Attribution(
            self._endpoints, writer.edge_id, writer.read_edges, writer.earlier_edge_id
        )
        self._ledger = GapLedger(host.clock_offset_ns())
        if writer.was_down:
            self._ledger.count_written("recorder down")
        self._committer = Committer(writer, self._attribution, self._ledger, plan, started_ns)
        if listening.metrics is not None:
            self._committer.recorded = listening.metrics.recorded
        self._table = TableWatch(self._connections, self._attribution, started_ns, live=plan.live)
        self._idle = IdleWatch(self._connections, writer, started_ns)
        self._dumped_ns = started_ns  # when counters were last looked at
        self._told_ns = 0
        self._in_dump = False
        self._telling = Telling(
            listening,
            path_of(conn),
            started_ns,
            aggregator=self._aggregator,
            committer=self._committer,
            ledger=self._ledger,
            endpoints=self._endpoints,
            table=self._table,
        )
        if plan.live:
            self._telling.begins(plan.node, writer.previous if writer.was_down else None)
        self._commit(started_ns)

    def _strangers(self) -> Strangers | None:
        peers, kind_of = self._plan.peers, self._endpoints.stranger_kind
        if peers is None:
            return None
        return Strangers(kind_of, most=peers, may_be_named=self._plan.cluster)

    # The stream.

    def learn(self, changes: Iterable[Change]) -> None:
        """Take in what the API server said."""
        learned = False
        for change in changes:
            self._endpoints.apply(change)
            learned = True
        if learned:
            for pod in self._endpoints.pods_added():
                self._listening.pods(pod)
            self._ask_anew()
        if self._endpoints.untold >= _MANY_CHANGES:
            # Thousands come at the start: they are not to make the first window a long one.
            self._commit(self._committer.committed_ns)

    def take(self, batch: Datagrams) -> None:
        """Count a batch of events, or of entries that a dump listed; an empty one is a tick."""
        if batch.dumped:
            self._take_dumped(batch)
        else:
            self._take_events(batch)
        committer = self._committer
        if not committer.prepares:
            committer.go_on()
        elif committer.go_on_preparing():
            self._commit(committer.committed_ns)

    def _take_events(self, batch: Datagrams) -> None:
        self._now_ns = at_ns = batch.at_ns
        if self._plan.live:
            self._ledger.watch_clock(host.clock_offset_ns(), at_ns)
        parts = self._decoder.parts(batch) if batch.lengths else []
        for window in self._aggregator.add_parts(parts, at_ns):
            self._write(window, min(window.ended_ns, at_ns))
        if not 0 <= at_ns - self._told_ns < SECOND:
            self._every_second(at_ns)

    def _take_dumped(self, batch: Datagrams) -> None:
        """Count what live connections moved; an empty batch ends the dump."""
        if not self._aggregator.behind:
            self._take_events(batch._replace(dumped=False, lengths=()))
        if not self._in_dump:
            self._in_dump = True
            self._connections.begin_dump()
            self._table.begin_dump(batch.at_ns)
            self._look_at_interfaces()
        if batch.lengths:
            self._table.listed(self._aggregator.add_dump(self._decoder.read(batch)))
            return
        self._aggregator.end_dump(batch.at_ns)
        self._table.end_dump(batch.at_ns)
        self._in_dump = False
        self._count_resets(batch.at_ns)
        self._dumped_ns = batch.at_ns

    def _look_at_interfaces(self) -> None:
        """Take in this host's addresses: a CNI makes interfaces after the recorder has started."""
        found = self._stream.local_addresses
        if found != self._local_addresses:
            self._local_addresses = found
            self._endpoints.set_local_addresses(found)
            self._ask_anew()

    def _ask_anew(self) -> None:
        """Ask again about all connections from here on: who owns an address may have changed."""
        self._attribution.changed()
        self._aggregator.regroup()

    def _every_second(self, at_ns: int) -> None:
        self._told_ns = at_ns
        whole_ns, committed_ns = self._aggregator.whole_ns(at_ns), self._committer.committed_ns
        due = whole_ns - committed_ns >= _HEARTBEAT_NS or at_ns < committed_ns
        if self._committer.prepares:
            pass  # the commit that it is for takes all
        elif self._plan.live and due and not self._committer.waits:
            self._commit(whole_ns)
        elif self._committer.waits or (self._plan.live and self._endpoints.untold):
            # What the API server said is not to be lost to a kill: the next start builds on it.
            self._commit(committed_ns)
        if len(self._connections.live) > _MOST_LIVE:
            self._stream.dump_soon()
        self._idle.tick(at_ns)
        self._table.tick(at_ns)
        self._telling.status()

    # The file.

    def _write(self, window: Window, committed_ns: int) -> None:
        """Write a window that is over, tell its rows, and look after the file."""
        told = self._committer.told(window) if self._listening.rows is not None else []
        committer = self._committer
        # Where it waits for a lock it is tried once a second. A window before it is written now.
        due, prepares = not committer.waits, committer.prepares
        committer.add([window], committed_ns)
        if prepares or (due and not committer.begin_preparing()):
            self._commit(committed_ns)
        if self._listening.rows is not None:
            self._listening.rows(told)
        self._endpoints.expire(committed_ns - takeup.OWNERS_KEPT_NS)
        # The open window may still add rows that start in it: it is folded with the next.
        self._committer.maintain(window.started_ns)

    def _commit(self, at_ns: int) -> bool:
        self._collect_gaps(at_ns)
        events, looks = self._aggregator.events, self._table.looks
        began_s, metrics = time.perf_counter(), self._listening.metrics
        done = self._committer.commit(at_ns, self._learned(at_ns), events, looks)
        if metrics is not None:
            metrics.timed(time.perf_counter() - began_s)
        if done:
            self._table.written()
        if done and self._endpoints.has_names:
            self._listening.ready(self._committer.committed_ns)
        return done

    def _learned(self, at_ns: int) -> list[HistoryChange]:
        return [*self._endpoints.drain(), *self._endpoints.told(at_ns)]

    def _collect_gaps(self, at_ns: int) -> None:
        self._ledger.add(self._stream.gaps())
        self._ledger.add(self._endpoints.gaps())
        malformed = self._decoder.malformed + self._connections.malformed + self._stream.malformed
        self._ledger.count_malformed(malformed, self._committer.committed_ns, at_ns)
        self._count_resets(at_ns)

    def _count_resets(self, at_ns: int) -> None:
        self._ledger.count_resets(self._aggregator.counters_reset, self._dumped_ns, at_ns)

    def _edges_held(self) -> set[int]:
        """Return the ids of edges that connections go on to use; no cached answer holds one."""
        # 16,384 strangers' edges and endpoints would be 3 MB, whatever --max-size allows.
        self._attribution.changed()
        plan = self._plan
        if plan.max_bytes is not None and plan.peers is not None:
            self._aggregator.fold_oldest(plan.peers)  # nor what lives: there may be a million
        groups = chain(self._aggregator.groups(), self._committer.groups())
        return {group.edge_id for group in groups if group.edge_id is not None}

    def finish(self) -> None:
        """
        Write what is open, fold what there is time for, and keep the live connections.

        Where a stop that was asked for has no time left to keep all of them, or --max-size no room,
        the recording has no end: the next one goes on as after a crash, which counts none of them
        again.
        """
        now_s, left_s = time.monotonic(), self._plan.left_s()
        fold_until_s = now_s + min(_FOLD_S, left_s - _KEEP_S)
        until_s = now_s + min(_FOLD_S + _KEEP_S, left_s) - _CLOSE_S
        for window in self._aggregator.close():
            self._write(window, self._now_ns)
        self._endpoints.finish(self._now_ns)
        self._table.finish(self._now_ns)
        if self._commit(self._now_ns):
            self._idle.finish(self._now_ns)
        kept = partial(
            keep.living, self._connections, self._attribution, until_s, self._writer.room_bytes
        )
        try:
            self._committer.close(
                self._now_ns, fold_until_s, until_s, kept if self._plan.live else tuple
            )
        except keep.NotKeptError as error:
            log.warning("%s was left to keep what lives: the next recording goes on without", error)
        self._telling.status()
        if self._plan.live:
            self._telling.ended()

    def save(self) -> None:
        """Write what is in memory as far as the file takes it; the recording has no end then."""
        try:
            self._committer.add(self._aggregator.close(), self._now_ns)
            self._collect_gaps(self._now_ns)
            self._committer.save(self._now_ns, self._learned(self._now_ns), self._aggregator.events)
        except Exception:
            # What ended the recording is raised by who calls this; it may have broken this, too.
            log.exception("the last window is not in the file")


def _waiting(changes: "SimpleQueue[Change]") -> Iterator[Change]:
    """Yield what is on the queue now, at most a thousand: events wait meanwhile."""
    for _ in range(1000):
        try:
            yield changes.get_nowait()
        except Empty:
            return
