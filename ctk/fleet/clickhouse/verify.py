"""
What was shipped of a file against what is there: batch by batch, then day by day.

What two batches have is taken out of the later. A batch that is not there as it was sent is taken
out and sent anew, as long as the file has its rows. Hours and days that are not what their minutes
say are made anew. Then the sums of a day in ClickHouse are those of the file, from whichever of its
tables hold that day.
"""

import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ctk.ask.connection import one_moment
from ctk.ask.spans import Piece, cover, held
from ctk.fleet.clickhouse import levels, told
from ctk.fleet.clickhouse.client import Client
from ctk.fleet.clickhouse.cut import START, BatchSums, ShippedPosition, read
from ctk.fleet.clickhouse.ship import Shipper, batch_told, take_out
from ctk.fleet.clickhouse.state import Batch
from ctk.store.columns import COUNT_KEYS
from ctk.store.rollup import floor
from ctk.timespan import DAY, MINUTE, format_time

_SUMS = ", ".join(f"sum({key})" for key in COUNT_KEYS)
_NOTHING = BatchSums(0, 0, 0, 0)
_IN_DAY = " AND started_ns >= ? AND started_ns < ?"


@dataclass(slots=True)
class Verified:
    """What was compared, what was repaired, and what could not be."""

    batches: int = 0
    days: int = 0
    repaired: int = 0
    wrong: list[str] = field(default_factory=list)


def verify(shipper: Shipper, client: Client) -> Verified:
    """Compare what was shipped with what is there, and repair it."""
    shipper.greet(client)
    shipper.send_open(client)
    found = Verified()
    keep_days, state = shipper.keep_days, shipper.state

    def is_kept(batch: Batch) -> bool:
        return keep_days is None or (batch.day + keep_days) * DAY > time.time_ns()

    batches = _expected(shipper, client)
    _take_out_twice(shipper, client, list(filter(is_kept, batches)), found)
    if found.repaired:
        batches = _expected(shipper, client)
    expected = {each.batch: each for each in batches}
    there = _there(client, state.recording)
    for batch in filter(is_kept, expected.values()):
        found.batches += 1
        if there.get(batch.batch, _NOTHING) != batch.sums:
            _repair(shipper, client, batch, there.get(batch.batch), found)
    nobodys = there.keys() - expected.keys()
    take_out(client, state.recording, nobodys)
    found.repaired += len(nobodys)
    days = sorted({each.day for each in expected.values()})
    found.repaired += levels.repair(client, state.recording, days)
    _compare_days(shipper, client, list(expected.values()), days, found)
    return found


def _expected(shipper: Shipper, client: Client) -> Sequence[Batch]:
    """
    Give what was shipped, by number: what is known here, and what copies told.

    Copies that were shipped at once may have cut a number otherwise, and who cut less may have gone
    on where the other ended: that which goes furthest holds.
    """
    found: dict[int, Batch] = {}
    told_of = map(batch_told, told.batches(client, shipper.state.recording))
    for batch in (*shipper.state.batches(), *told_of):
        have = found.get(batch.batch)
        if have is None or batch.span.until > have.span.until:
            found[batch.batch] = batch
    return sorted(found.values())


def _take_out_twice(
    shipper: Shipper, client: Client, batches: Sequence[Batch], found: Verified
) -> None:
    """
    Take out batches of which others have the rows.

    A file is shipped from a position on, so each begins where those before it end, or later. One
    that does not, and goes further, goes with all after it, and their rows are shipped again.
    """
    end = START
    for i, batch in enumerate(batches):
        since, until = batch.span.since, batch.span.until
        if since.is_after(end):
            end = until
        elif not batch.rows:
            continue
        elif end.is_after(until):
            _empty(shipper, client, [batch], end, shipper.state.position)
            found.repaired += 1
        else:
            rest = [each for each in batches[i:] if each.rows]
            if all(read(shipper.conn, each.span).sums() == each.sums for each in rest):
                _empty(shipper, client, rest, end, end)
                shipper.ship(client)
                found.repaired += len(rest)
            else:
                found.wrong.append(
                    f"batch {batch.batch} has rows that others have, too, and {shipper.db.name} has"
                    " pruned what is to be sent instead: verify a copy of it that has not"
                )
            return


def _empty(
    shipper: Shipper,
    client: Client,
    batches: Sequence[Batch],
    end: ShippedPosition,
    position: ShippedPosition,
) -> None:
    """Take batches out; killed at any step, the next one finds what is left to do."""
    recording = shipper.state.recording
    emptied = {each.batch: each.emptied(end) for each in batches}
    for row in told.batches(client, recording):
        if row["batch"] in emptied:
            shipper.tell(client, emptied[row["batch"]], row["shipper"])
    shipper.state.take_back(emptied.values(), position)
    take_out(client, recording, emptied)


def _there(client: Client, recording: str) -> Mapping[int, BatchSums]:
    found = client.query(
        "SELECT batch, count(), sum(connections), ifNull(sum(bytes_out), 0),"
        " ifNull(sum(bytes_in), 0) FROM flows_1m WHERE recording = {recording:String}"
        " GROUP BY batch",
        {"recording": recording},
    )
    return {row[0]: BatchSums._make(row[1:]) for row in found.rows}


def _repair(
    shipper: Shipper, client: Client, batch: Batch, there: BatchSums | None, found: Verified
) -> None:
    """Send a batch anew, from the rows that the file has of it."""
    if not batch.rows:
        take_out(client, shipper.state.recording, [batch.batch])
        found.repaired += 1
        return
    rows = read(shipper.conn, batch.span)
    if rows.sums() != batch.sums:
        count = 0 if there is None else there.rows
        found.wrong.append(
            f"batch {batch.batch} has {count:,} of {batch.rows:,} rows, and"
            f" {shipper.db.name} has pruned what is missing"
        )
        return
    shipper.state.fix(batch, rows)
    shipper.anew(client, batch)
    shipper.send_open(client)
    found.repaired += 1


def _compare_days(
    shipper: Shipper,
    client: Client,
    batches: Sequence[Batch],
    days: Sequence[int],
    found: Verified,
) -> None:
    state, conn = shipper.state, shipper.conn
    began_ns = [each.from_ns for each in batches if each.rows]
    if not began_ns:
        return
    first_ns = floor(min(began_ns), MINUTE)
    skipped = state.skipped()
    position = state.position
    with one_moment(conn):
        in_file = {
            day: sums
            for day in days
            if not any(
                since_ns < (day + 1) * DAY and until_ns > day * DAY
                for since_ns, until_ns in skipped
            )
            and (sums := _of_file(conn, max(day * DAY, first_ns), (day + 1) * DAY, position))
        }
    there = _days_there(client, state.recording)
    for day, sums in in_file.items():
        found.days += 1
        if there.get(day) != sums:
            mine, its = (
                dict(zip(COUNT_KEYS, each, strict=True))
                for each in (sums, there.get(day, (0,) * len(sums)))
            )
            differs = next(key for key in COUNT_KEYS if mine[key] != its[key])
            found.wrong.append(
                f"{format_time(day * DAY)[:10]}: {differs} are {mine[differs]:,} in"
                f" {shipper.db.name}, and {its[differs]:,} there"
            )


def _days_there(client: Client, recording: str) -> Mapping[int, Sequence[int]]:
    found = client.query(
        f"SELECT toRelativeDayNum(day), {_SUMS} FROM flows_1d"
        " WHERE recording = {recording:String} GROUP BY 1",
        {"recording": recording},
    )
    return {row[0]: [value or 0 for value in row[1:]] for row in found.rows}


def _of_file(
    conn: sqlite3.Connection, since_ns: int, until_ns: int, position: ShippedPosition
) -> Sequence[int] | None:
    """Sum up what a file has of a span up to a position; None where it cannot tell any more."""
    until_ns = min(until_ns, position.at_ns)
    pieces = cover(held(conn), since_ns, until_ns)
    if not pieces or pieces[0].since_ns < since_ns or pieces[-1].until_ns > until_ns:
        return None
    sums = [0] * len(COUNT_KEYS)
    for sign, rows in _parts(conn, pieces, since_ns, until_ns, position):
        sums = [mine + sign * (its or 0) for mine, its in zip(sums, rows, strict=True)]
    return sums


def _parts(
    conn: sqlite3.Connection,
    pieces: Sequence[Piece],
    since_ns: int,
    until_ns: int,
    position: ShippedPosition,
) -> Iterator[tuple[int, Sequence[int | None]]]:
    for table, from_ns, to_ns in pieces:
        sql = f"SELECT {_SUMS} FROM {table} WHERE started_ns >= ? AND started_ns < ?"
        yield 1, conn.execute(sql, (from_ns, to_ns)).fetchone()
    # What was written late since is in these tables, and not shipped yet.
    sql = (
        f"SELECT {_SUMS} FROM flow WHERE (started_ns, n) IN"
        f" (SELECT started_ns, n FROM late_flow WHERE id > ?) {_IN_DAY}"
    )
    yield -1, conn.execute(sql, (position.late_id, since_ns, until_ns)).fetchone()
