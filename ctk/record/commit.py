"""
From windows that are over to the file: what is tried again, what is given up, what is counted.

A window that cannot be written never ends a recording. Where the disk is full it is given up and
counted, since a full disk may stay full; where another process holds the lock it waits, within a
bound, and is tried again once a second.
"""

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from ctk.conntrack.aggregate import Window
from ctk.conntrack.counting import Aggregation
from ctk.conntrack.groups import Group
from ctk.errors import DiskFullError, FileBusyError, StoreError
from ctk.model import GapKind
from ctk.model.history import HistoryChange
from ctk.model.kept import LiveConnections
from ctk.model.lone import LoneEvents
from ctk.model.tableuse import TableLook
from ctk.record.attribution import Attribution
from ctk.record.gaps import GapLedger
from ctk.record.plan import Plan
from ctk.record.rows import Rows, ToldRow, events_of, rows_of, size_of, started_in
from ctk.store.write import Writer

log = logging.getLogger("ctk")

_MOST_CHANGES = 200_000  # of history that wait for room on the disk
_MOST_WAITING = 100_000  # rows and lone events that wait for the lock on the file: some 30 MB
# Totals of a window whose edges are written at once. 10,000 strangers nobody has seen before take
# 0.2 s and more, most of it for who they are.
_AT_ONCE, _PREPARED_AT_ONCE = 2_000, 250
_SLICE_S = 0.05  # of folding and pruning, between two reads of the socket; its buffer holds 0.8 s
_SAVE_S = 3.0  # for the last window, where something else ended the recording


class Committer:
    """
    Writes what is over, with what was learned and lost since the last commit.

    `committed_ns` is up to when the file has everything.
    """

    def __init__(
        self, writer: Writer, attribution: Attribution, ledger: GapLedger, plan: Plan, at_ns: int
    ) -> None:
        self.committed_ns = at_ns
        self.flows = 0  # rows in the file
        self.recorded: Callable[[Iterable[Rows]], None] = lambda rows: (
            None
        )  # is given the rows of each commit
        self._writer, self._attribution, self._ledger = writer, attribution, ledger
        self._aggregation: Aggregation = plan.aggregation
        self._retain, self._live = plan.retain, plan.live
        self._steps: Iterator[None] | None = None  # folding and pruning that is under way
        self._settled_ns: int | None = None  # the next round folds up to then
        self._resting_until_s = 0.0  # no folding before then (monotonic clock)
        self._thinned = 0  # gaps of kind "thinned" that the ledger counted
        self._windows: list[Window] = []  # over, and not in the file yet
        self._preparing: Iterator[None] | None = None  # the edges of those windows
        self._changes: list[HistoryChange] = []
        self._asked_ns = at_ns  # the last try was to commit up to then
        self._events = 0  # counted since the recording began

    @property
    def waits(self) -> bool:
        """Whether windows wait to be tried again."""
        return bool(self._windows)

    @property
    def prepares(self) -> bool:
        """Whether edges of windows that are over are written ahead of them, in slices."""
        return self._preparing is not None

    @property
    def _is_locked(self) -> bool:
        gap = self._ledger.unwritten
        return gap is not None and gap.kind == "file locked"

    def groups(self) -> list[Group]:
        """Return the groups of the windows that wait."""
        return [totals.group for window in self._windows for totals in window.totals]

    def told(self, window: Window) -> list[ToldRow]:
        """Return a window's rows with their edges, for who follows the recording."""
        rows = self._rows(window)
        edges = self._attribution.edges(row.edge_id for row in rows.each())
        return [
            ToldRow(row, edges[row.edge_id], rows.addresses.get(row.edge_id)) for row in rows.each()
        ]

    def add(self, windows: Sequence[Window], until_ns: int) -> None:
        """Take windows that are over; the next commit writes them, and goes at least so far."""
        self._windows += windows
        self._asked_ns = max(self._asked_ns, until_ns)

    def begin_preparing(self) -> bool:
        """Begin to write the edges of what waits, where they are many; say whether they are."""
        if self._live and sum(len(window.totals) for window in self._windows) > _AT_ONCE:
            self._preparing = self._prepared()
        return self.prepares

    def go_on_preparing(self) -> bool:
        """Go on for a slice at most; say whether a commit is due."""
        steps = self._preparing
        if steps is None or time.monotonic() < self._resting_until_s:
            return False
        began_s = now_s = time.monotonic()
        try:
            for _ in steps:
                now_s = time.monotonic()
                if now_s - began_s > _SLICE_S:
                    self._resting_until_s = now_s + min(now_s - began_s, _SLICE_S)
                    return False
        except (DiskFullError, FileBusyError):
            # The commit that follows fails likewise, and reports it.
            self._attribution.rolled_back(self.groups())
        self._preparing = None
        return True

    def _prepared(self) -> Iterator[None]:
        for window in self._windows:
            for first in range(0, len(window.totals), _PREPARED_AT_ONCE):
                begins: dict[int, int] = {}
                for totals in window.totals[first : first + _PREPARED_AT_ONCE]:
                    edge_id = self._attribution.edge_id(totals.group)
                    at_ns = started_in(totals, window)
                    begins[edge_id] = min(at_ns, begins.get(edge_id, at_ns))
                self._writer.write_edges(begins)
                yield

    def commit(
        self,
        at_ns: int,
        changes: Sequence[HistoryChange],
        events: int,
        looks: Callable[[], Sequence[TableLook]] = tuple,
    ) -> bool:
        """
        Write all that waits. Return whether it is in the file up to `at_ns`.

        `events` is how many the recording has counted. `looks` is asked when all groups that are
        written have edges. Windows that are written take the commit up
        to their end, whatever `at_ns` says: a kill is not to have them counted again.
        """
        at_ns = max(at_ns, self._asked_ns) if self._windows else at_ns
        self._asked_ns, self._events = at_ns, events
        self._preparing = None  # what is left of it is done here
        self._changes += changes
        rows = [self._rows(window) for window in self._windows]
        events_apart = LoneEvents[int]()
        for some in rows:
            events_apart.take(some.events)
        groups = self.groups()
        try:
            self._writer.window(
                [row for some in rows for row in some.rows],
                events=events_apart,
                addresses=[each for some in rows for each in some.folded()],
                gaps=self._ledger.to_write(at_ns),
                changes=self._changes,
                looks=looks(),
                committed_ns=at_ns,
                counters=self._ledger.event_counts(events),
            )
        except (DiskFullError, FileBusyError) as error:
            self._attribution.rolled_back(groups)
            self._not_written(error, at_ns)
            return False
        self._attribution.committed(groups)
        self.flows += sum(map(len, rows))
        self.recorded(rows)
        self._ledger.written()
        self._windows.clear()
        self._changes.clear()
        self.committed_ns = at_ns
        return True

    def maintain(self, now_ns: int) -> None:
        """
        Begin to fold and prune; of a recording that is live, for no longer than a slice.

        What an earlier call left comes first. Every row that starts before `now_ns` is committed,
        or comes late.
        """
        self._settled_ns = now_ns
        self._maintain(time.monotonic() + _SLICE_S if self._live else math.inf)

    def go_on(self) -> None:
        """
        Go on with what `maintain` left, for a slice at most.

        Events are read in between for as long as a slice took.
        """
        if self._steps is not None and time.monotonic() >= self._resting_until_s:
            self._maintain(time.monotonic() + _SLICE_S)

    def _maintain(self, until_s: float) -> None:
        """Fold and prune up to a time on the monotonic clock, if that long is needed."""
        if self._windows:
            return  # another process holds the lock: each step would wait for it
        began_s = time.monotonic()
        try:
            while self._has_step():
                if time.monotonic() > until_s:
                    break
        except (DiskFullError, FileBusyError) as error:
            # Nothing is lost by it. Where a window cannot be written either, that is reported.
            self._steps = None
            log.debug("folding and pruning wait: %s", error.message)
        now_s = time.monotonic()
        self._resting_until_s = now_s + min(now_s - began_s, _SLICE_S)
        if self._writer.thinned > self._thinned:
            self._ledger.count += self._writer.thinned - self._thinned
            self._thinned = self._writer.thinned
            log.warning("rows come faster than --max-size keeps them: they are folded early")

    def _has_step(self) -> bool:
        """Do the next step; False where all is done that was asked for."""
        while True:
            if self._steps is None:
                if self._settled_ns is None:
                    return False
                self._steps = self._writer.maintain(self._settled_ns, self._retain)
                self._settled_ns = None
            for _ in self._steps:
                return True
            self._steps = None

    def close(
        self,
        now_ns: int,
        fold_until_s: float,
        until_s: float,
        kept: Callable[[], Iterable[LiveConnections]],
    ) -> None:
        """
        End the recording, by `until_s` on the monotonic clock: write, fold, keep what lives.

        What is not folded by `fold_until_s` is folded by the next recording. Raises what kept
        something out of the file.
        """
        while self._is_locked and time.monotonic() < until_s:
            time.sleep(0.1)
            self.commit(now_ns, (), self._events)
        unwritten = self._ledger.unwritten
        if unwritten is not None:
            self._leave_word(now_ns, now_ns)
            lost = (unwritten.lost or 0) + sum(map(events_of, self._windows))
            raise StoreError(
                f"{lost} events were not written: {unwritten.kind}",
                hint="close the program that holds the file" if self._is_locked else "make room",
            )
        while True:
            try:
                self._end(now_ns, fold_until_s, kept())
                return
            except DiskFullError as error:
                self._ledger.failed("disk full", error.message, now_ns, now_ns, 0)
                self._leave_word(now_ns, now_ns)
                raise
            except FileBusyError:
                if time.monotonic() > until_s:
                    raise

    def save(self, now_ns: int, changes: Sequence[HistoryChange], events: int) -> None:
        """Write what is in memory as far as the file takes it; the recording has no end then."""
        until_s = time.monotonic() + _SAVE_S
        while not self.commit(now_ns, changes, events):
            changes = ()
            if not self._windows or time.monotonic() > until_s:
                lost = sum(map(events_of, self._windows))
                log.warning("%s events of the last windows are not in the file", lost)
                return

    def _rows(self, window: Window) -> Rows:
        return rows_of(window, self._attribution.edge_id, self._aggregation)

    def _not_written(self, error: StoreError, at_ns: int) -> None:
        """Keep what may be written later, within bounds; count what is given up."""
        full = isinstance(error, DiskFullError)
        most = 0 if full else _MOST_WAITING
        given_up: list[Window] = []
        while sum(map(size_of, self._windows)) > most:
            given_up.append(self._windows.pop(0))
        del self._changes[:-_MOST_CHANGES]
        kind: GapKind = "disk full" if full else "file locked"
        lost = sum(map(events_of, given_up))
        self._ledger.failed(kind, error.message, self.committed_ns, at_ns, lost)
        if full:
            self._leave_word(at_ns)

    def _leave_word(self, at_ns: int, ended_ns: int | None = None) -> None:
        """Write that the disk is full, with what the file keeps in reserve for that."""
        gap = self._ledger.unwritten
        if gap is not None and gap.kind == "disk full":
            counts = self._ledger.event_counts(self._events)
            self._writer.in_reserve(gap, at_ns, counts, ended_ns)

    def _end(self, now_ns: int, fold_until_s: float, kept: Iterable[LiveConnections]) -> None:
        self._settled_ns = now_ns
        self._maintain(fold_until_s)
        for _ in self._writer.fold_open():
            if time.monotonic() > fold_until_s:
                break
        self._writer.finish(now_ns, kept)
