"""
A file's rows, shipped to ClickHouse so that each counts once, whatever breaks.

    cut a batch -> fix it beside the file -> send it -> tell that it is there -> move on

Only what was sent and not answered is open. It is asked for by its number: all of it is there, or
nothing, since a batch is one block of one partition. It is sent again by the same token, which
ClickHouse does not insert twice; and hours and days, which are made of it, are compared.
"""

import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import date
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

from ctk.errors import StoreError, UsageError
from ctk.fleet.clickhouse import levels, tables, told
from ctk.fleet.clickhouse.client import Client
from ctk.fleet.clickhouse.cut import BATCH_ROWS, cut, settled_ns
from ctk.fleet.clickhouse.state import Batch, State, batch_of, opened, path_of
from ctk.store import merged
from ctk.store.lock import is_written, locked
from ctk.store.source import source
from ctk.timespan import DAY, MINUTE

_NAMES_AGAIN_NS = 10 * MINUTE  # between two looks at all endpoints, for what changed
_BATCHES_KEPT_NS = 60 * DAY
_EPOCH = date(1970, 1, 1).toordinal()


class ShipReport(NamedTuple):
    """What was shipped."""

    batches: int = 0
    rows: int = 0
    resent: int = 0  # batches whose answer had not come

    def plus(self, other: "ShipReport") -> "ShipReport":
        return ShipReport._make(map(sum, zip(self, other, strict=True)))


class Shipper:
    """Ships one file to one target. Every step may be its last: the next one finds out."""

    def __init__(
        self, db: Path, conn: sqlite3.Connection, state: State, most: int = BATCH_ROWS
    ) -> None:
        self.db = db
        self.conn = conn
        self.state = state
        self.notes: list[str] = []
        self._most = most
        self._names_ns = 0
        self._greeted = False
        self._late_pruned = 0  # and not noted yet
        self.keep_days: int | None = None  # of minutes, there

    def ship(
        self,
        client: Client,
        progress: Callable[[float, int], None] = lambda part, rows: None,
        stop: Callable[[], bool] = lambda: False,
    ) -> ShipReport:
        """Ship what there is, until `stop`; `progress` gets how much of it, and rows, are done."""
        state = self.state
        self.greet(client)
        now_ns = time.time_ns()
        shipped = ShipReport()
        again = now_ns - self._names_ns >= _NAMES_AGAIN_NS
        told.tell_names(self.conn, client, state, all_of_them=again)
        if again:
            self._names_ns = now_ns
            state.forget_old(now_ns - _BATCHES_KEPT_NS)
        began_ns: int | None = None
        too_old = 0
        while not stop():
            batch = state.open_batch()
            if batch is None and not self._cut():
                break
            batch = batch or state.open_batch()
            if batch is None:
                continue
            shipped = shipped.plus(self._send(client, batch))
            if self.keep_days is not None and (batch.day + self.keep_days) * DAY <= now_ns:
                too_old += batch.rows
            began_ns = batch.from_ns if began_ns is None else began_ns
            whole_ns = settled_ns(self.conn, written=is_written(self.db)) - began_ns
            part = (batch.until_ns - began_ns) / whole_ns if whole_ns > 0 else 1.0
            progress(min(max(part, 0.0), 1.0), shipped.rows)
        told.tell_recordings(self.conn, client, state, state.position)
        if self._late_pruned:
            self.notes.append(f"{told.late_pruned_said(self._late_pruned)}: --verify compares")
            self._late_pruned = 0
        if too_old:
            self.notes.append(
                f"{too_old:,} of these rows are older than the {self.keep_days} days that minutes"
                " are kept there: ctk ship --init --retain"
            )
        return shipped

    def send_open(self, client: Client) -> None:
        """Send what is fixed and not known to be there."""
        batch = self.state.open_batch()
        if batch is not None:
            self._send(client, batch)

    def _cut(self) -> bool:
        """Fix the next batch; False where there is nothing to ship."""
        position = self.state.position
        written = is_written(self.db)
        found = cut(self.conn, position, written=written, most=self._most)
        if found is None:
            return False
        if found.skipped is not None:
            self.state.skip(found.skipped)
            self.notes.append(
                "rows were pruned before they could be shipped: `ctk info` tells the gap"
            )
        self._late_pruned += found.late_pruned
        if not found.rows.rows:
            self.state.move(found.span.until, found.late_pruned)
            return found.span.until != position
        batch = batch_of(self.state.last_batch + 1, found.span, found.rows)
        self.state.fix(batch, found.rows, found.late_pruned)
        return True

    def _send(self, client: Client, batch: Batch) -> ShipReport:
        """Send a batch that is fixed, or find out that it is there."""
        state, rows = self.state, self.state.rows(batch.batch)
        there = 0
        if batch.tries:
            there = count_of(client, state.recording, batch)
            if there not in (0, batch.rows):
                # It was taken in pieces, which one block is not: all of it goes, and comes anew.
                batch = self.anew(client, batch)
                there = 0
        if not there:
            state.trying(batch.batch)
            client.insert(
                "flows_1m",
                tables.FLOWS_1M,
                rows.columns(state.recording, batch.batch),
                tables.settings_of(batch.token(state.recording)),
            )
        if batch.tries:
            levels.repair(client, state.recording, [batch.day])
        self.tell(client, batch)
        state.done(batch)
        return ShipReport(1, batch.rows, 1 if batch.tries else 0)

    def anew(self, client: Client, batch: Batch) -> Batch:
        """Take a batch out, so that it can be sent by another token."""
        state, rows = self.state, self.state.rows(batch.batch)
        batch = batch._replace(repairs=time.time_ns(), tries=batch.tries or 1)
        state.fix(batch, rows)
        take_out(client, state.recording, [batch.batch])
        return batch

    def tell(self, client: Client, batch: Batch, shipper: str | None = None) -> None:
        """Tell that a batch is there, by whom it was shipped."""
        columns = dict(tables.TOLD["batches"][0]) | {"told_ns": "Int64"}
        recording = self.state.recording
        (node,) = self.conn.execute("SELECT node FROM recorder ORDER BY id DESC").fetchone()
        row = (
            *(recording, batch.batch, shipper or self.state.shipper, node, batch.day, batch.level),
            *(batch.from_ns, batch.until_ns, batch.late_from, batch.late_until),
            *batch.sums,
            time.time_ns(),
        )
        client.insert("batches", columns, [[value] for value in row], {"async_insert": 0})

    def greet(self, client: Client) -> None:
        """
        Go on where ClickHouse says: a copy of this file may have been shipped further.

        So may this one, where what was written beside it is older, or gone.
        """
        state = self.state
        last = state.last_batch
        first = not self._greeted
        if first:
            self.keep_days = tables.check(client)["flows_1m"]
        known = list(told.batches(client, state.recording, 0 if first else last))
        if first:
            self._note_copies(known)
        newer = [batch_told(each) for each in known if each["batch"] > last]
        open_batch = state.open_batch()
        is_sent_now = open_batch is not None and open_batch.batch > last
        if open_batch is not None and is_sent_now and newer:
            # It is there, or a copy sent another by its number: what is left is cut anew.
            state.forget(open_batch.batch)
            is_sent_now = False
        newest = max((each.batch for each in newer), default=last)
        is_alone = first and not is_sent_now
        whole = max((each["batch"] for each in known if each["rows"]), default=0)
        # Whoever sent these had not told how far they go, and whoever knew is gone.
        untold = self._batches_after(client, whole) if is_alone else []
        newest = max([newest, *untold])
        state.adopt(newer, newest, [batch_told(each).span.until for each in known])
        if is_alone and newest > whole:
            self._take_out_untold(client, newest, untold)
        self._greeted = True

    def _note_copies(self, known: Sequence[Mapping[str, Any]]) -> None:
        shippers = Counter(each["batch"] for each in known if each["rows"])
        if twice := [batch for batch, by in shippers.items() if by > 1]:
            self.notes.append(
                f"two copies of {self.db.name} were shipped at once, {len(twice)} batches of them:"
                " `ctk ship --verify` repairs what was shipped twice"
            )

    def _take_out_untold(self, client: Client, newest: int, untold: Collection[int]) -> None:
        """Take out what nobody told of; killed at any step, the next one does it again."""
        recording = self.state.recording
        # First of all their numbers are said to be used: ClickHouse knows the tokens of what is
        # gone, and would not insert the same rows by the same number again.
        none = Batch(newest, "flow", *(0,) * (len(Batch._fields) - 2))
        self.tell(client, none.emptied(self.state.position))
        take_out(client, recording, untold)
        days = client.query(
            " UNION DISTINCT ".join(
                f"SELECT toRelativeDayNum({level.column}) FROM {level.table}"
                " WHERE recording = {recording:String}"
                for level in tables.LEVELS
            ),
            {"recording": recording},
        )
        levels.repair(client, recording, [int(day) for (day,) in days.rows])

    def _batches_after(self, client: Client, batch: int) -> list[int]:
        """Give the numbers of what is there and comes after a batch."""
        found = client.query(
            "SELECT DISTINCT batch FROM flows_1m WHERE recording = {recording:String}"
            " AND batch > {batch:UInt32}",
            {"recording": self.state.recording, "batch": batch},
        )
        return [int(row[0]) for row in found.rows]


def count_of(client: Client, recording: str, batch: Batch) -> int:
    """Count the rows of a batch that are there."""
    found = client.query(
        "SELECT count() FROM flows_1m WHERE recording = {recording:String}"
        " AND batch = {batch:UInt32} AND toDate(minute) = toDate({day:UInt16})",
        {"recording": recording, "batch": batch.batch, "day": batch.day},
    )
    return int(found.rows[0][0])


def take_out(client: Client, recording: str, batches: Collection[int]) -> None:
    """Take batches out of minutes, hours and days."""
    if not batches:
        return
    parameters = {"recording": recording, "batches": sorted(batches)}
    of_them = "recording = {recording:String} AND batch IN {batches:Array(UInt32)}"
    found = client.query(
        f"SELECT DISTINCT toRelativeDayNum(minute) FROM flows_1m WHERE {of_them}", parameters
    )
    client.command(
        f"ALTER TABLE flows_1m DELETE WHERE {of_them}", parameters, {"mutations_sync": 2}
    )
    levels.repair(client, recording, [int(day) for (day,) in found.rows])


def recording_of(conn: sqlite3.Connection) -> str | None:
    """
    Give what a file is called in ClickHouse: by its first recording; None before there is one.

    All snapshots of a file have the same first recording, and no other file has it.
    """
    found = conn.execute(
        "SELECT node, boot_id, started_ns FROM recording JOIN recorder"
        " ON recorder.id = recorder_id ORDER BY recording.id LIMIT 1"
    ).fetchone()
    if found is None:
        return None
    return blake2b(repr(tuple(found)).encode(), digest_size=8).hexdigest()


@contextmanager
def shipper_of(
    db: Path, target: str, folder: Path | None = None, most: int = BATCH_ROWS
) -> Iterator[Shipper]:
    """Open a file to be shipped, by nobody else meanwhile."""
    with ExitStack() as stack:
        conn = stack.enter_context(source(db, in_memory_bytes=0).reader())
        if merged.is_merged(conn):
            raise UsageError(
                f"{db} is merged: what counts is told in ClickHouse when it is asked",
                hint="ship the nodes' own files",
            )
        conn.execute("PRAGMA mmap_size = 0")  # each row is read once
        recording = recording_of(conn)
        if recording is None:
            raise StoreError(f"{db} holds no recording yet")
        path = path_of(db.resolve(), folder)
        stack.enter_context(locked(path, called=db, doing="shipped", hint="wait for that"))
        yield Shipper(db, conn, stack.enter_context(opened(path, target, recording)), most)


def batch_told(row: Mapping[str, Any]) -> Batch:
    """Give a batch as ClickHouse was told of it."""
    day = row["day"]
    return Batch(
        **{name: row[name] for name in Batch._fields if name in row and name != "day"},
        day=(day.toordinal() - _EPOCH),
    )
