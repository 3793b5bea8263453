"""
PATH-ship: what was shipped of a file, to which target, and the batch that is on its way.

A batch is here, rows and all, before it is sent, so that what is sent again is the same, though
the recorder may have pruned it meanwhile. It is a SQLite file: what is written here is there after
a crash, or not at all.
"""

import os
import secrets
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import orjson

from ctk.errors import StoreError, UsageError
from ctk.fleet.clickhouse.cut import START, BatchRows, BatchSpan, BatchSums, ShippedPosition
from ctk.store.sums import transaction
from ctk.timespan import DAY

_REMOVE = "remove it: shipping goes on where ClickHouse says"
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)

_VERSION = 1
_TABLES = """
    CREATE TABLE shipping (
        target TEXT PRIMARY KEY, -- and what the file is called there
        shipper TEXT NOT NULL, -- tells this file from copies of what it is beside
        batch INTEGER NOT NULL, -- the last one that is there as a whole
        at_ns INTEGER NOT NULL,
        late_id INTEGER NOT NULL
    );
    CREATE TABLE batch (
        target TEXT NOT NULL,
        batch INTEGER NOT NULL,
        level TEXT NOT NULL,
        from_ns INTEGER NOT NULL,
        until_ns INTEGER NOT NULL,
        late_from INTEGER NOT NULL,
        late_until INTEGER NOT NULL,
        day INTEGER NOT NULL,
        rows INTEGER NOT NULL,
        connections INTEGER NOT NULL,
        bytes_out INTEGER NOT NULL,
        bytes_in INTEGER NOT NULL,
        tries INTEGER NOT NULL DEFAULT 0,
        repairs INTEGER NOT NULL DEFAULT 0, -- when it was: a token is never used for other rows
        packed BLOB, -- the rows, until it is known that they are there
        PRIMARY KEY (target, batch)
    );
    CREATE TABLE told (
        target TEXT NOT NULL,
        kind TEXT NOT NULL,
        id INTEGER NOT NULL,
        digest INTEGER NOT NULL,
        PRIMARY KEY (target, kind, id)
    ) WITHOUT ROWID;
    CREATE TABLE skipped (
        id INTEGER PRIMARY KEY,
        target TEXT NOT NULL,
        from_ns INTEGER NOT NULL,
        until_ns INTEGER NOT NULL
    );
"""
# Files of before it have none.
_LATE_PRUNED = """
    CREATE TABLE IF NOT EXISTS late_pruned (
        id INTEGER PRIMARY KEY,
        target TEXT NOT NULL,
        at_ns INTEGER NOT NULL, -- up to where the file was shipped when it was found
        flows INTEGER NOT NULL
    )
"""
_BATCH = (
    "batch, level, from_ns, until_ns, late_from, late_until, day, rows, connections, bytes_out,"
    " bytes_in, tries, repairs"
)


class Batch(NamedTuple):
    """A batch as it was fixed: the first column is its number, from 1 on."""

    batch: int
    level: str
    from_ns: int
    until_ns: int
    late_from: int
    late_until: int
    day: int
    rows: int
    connections: int
    bytes_out: int
    bytes_in: int
    tries: int = 0
    repairs: int = 0

    @property
    def span(self) -> BatchSpan:
        since = ShippedPosition(self.from_ns, self.late_from)
        return BatchSpan(self.level, since, ShippedPosition(self.until_ns, self.late_until))

    @property
    def sums(self) -> BatchSums:
        return BatchSums(self.rows, self.connections, self.bytes_out, self.bytes_in)

    def emptied(self, at: ShippedPosition) -> "Batch":
        """Give what is told of a batch that was taken out: its number is not used again."""
        return self._replace(
            from_ns=at.at_ns,
            until_ns=at.at_ns,
            late_from=at.late_id,
            late_until=at.late_id,
            **BatchSums(0, 0, 0, 0)._asdict(),
        )

    def token(self, recording: str) -> str:
        """
        Give what tells ClickHouse that a block is this one.

        Copies of a file that are shipped at once may cut a batch otherwise: what it holds is told,
        too, so that theirs is not taken for it.
        """
        held = blake2b(repr((self.span, self.sums)).encode(), digest_size=8).hexdigest()
        again = f"/{self.repairs}" if self.repairs else ""
        return f"{recording}/{self.batch}/{held}{again}"


def batch_of(number: int, span: BatchSpan, rows: BatchRows) -> Batch:
    """Make a batch of what was cut."""
    since, until = span.since, span.until
    return Batch(
        number,
        span.level,
        since.at_ns,
        until.at_ns,
        since.late_id,
        until.late_id,
        rows.day(),
        *rows.sums(),
    )


class State:
    """What was shipped of one file to one target; every change is on the disk when it is made."""

    def __init__(self, conn: sqlite3.Connection, target: str, recording: str) -> None:
        self._conn = conn
        # A file that was removed, and recorded to anew, is another one by the same name.
        self._target = f"{target} {recording}"
        self.recording = recording
        conn.execute(
            "INSERT OR IGNORE INTO shipping VALUES (?, ?, 0, ?, ?)",
            (self._target, secrets.token_hex(8), *START),
        )
        (self.shipper,) = conn.execute(
            "SELECT shipper FROM shipping WHERE target = ?", (self._target,)
        ).fetchone()

    @property
    def position(self) -> ShippedPosition:
        return ShippedPosition._make(
            self._asked("SELECT at_ns, late_id FROM shipping WHERE target = ?")
        )

    @property
    def last_batch(self) -> int:
        """The number of the last batch that is there as a whole, 0 before the first."""
        return int(self._asked("SELECT batch FROM shipping WHERE target = ?")[0])

    def open_batch(self) -> Batch | None:
        """Give the batch of which it is not known yet that it is there."""
        found = self._conn.execute(
            f"SELECT {_BATCH} FROM batch WHERE target = ? AND packed IS NOT NULL", (self._target,)
        ).fetchone()
        return None if found is None else Batch._make(found)

    def batches(self) -> Iterator[Batch]:
        """Give all batches that are there, oldest first."""
        return map(
            Batch._make,
            self._conn.execute(
                f"SELECT {_BATCH} FROM batch WHERE target = ? AND packed IS NULL ORDER BY batch",
                (self._target,),
            ).fetchall(),
        )

    def skipped(self) -> Sequence[tuple[int, int]]:
        """Give the spans that were not shipped."""
        return self._conn.execute(
            "SELECT from_ns, until_ns FROM skipped WHERE target = ?", (self._target,)
        ).fetchall()

    def late_pruned(self) -> Sequence[tuple[int, int]]:
        """Give how many flows, at most, were pruned that came late for a time before another."""
        return self._conn.execute(
            "SELECT at_ns, SUM(flows) FROM late_pruned WHERE target = ? GROUP BY at_ns",
            (self._target,),
        ).fetchall()

    def rows(self, batch: int) -> BatchRows:
        """Give the rows of an open batch."""
        (packed,) = self._conn.execute(
            "SELECT packed FROM batch WHERE target = ? AND batch = ?", (self._target, batch)
        ).fetchone()
        edges, rows = orjson.loads(zlib.decompress(packed))
        return BatchRows(rows, {each[0]: each[1:] for each in edges})

    def fix(self, batch: Batch, rows: BatchRows, late_pruned: int = 0) -> None:
        """Fix a batch before it is sent; one that is sent anew has its rows again."""
        edges = [[edge_id, *values] for edge_id, values in rows.edges.items()]
        packed = zlib.compress(orjson.dumps([edges, rows.rows]), 1)
        marks = ", ".join("?" * (len(batch) + 2))
        with transaction(self._conn):
            self._conn.execute(
                f"INSERT OR REPLACE INTO batch (target, {_BATCH}, packed) VALUES ({marks})",
                (self._target, *batch, packed),
            )
            self._lose_late(late_pruned)

    def trying(self, batch: int) -> None:
        """Write that a batch is sent now."""
        with transaction(self._conn):
            self._conn.execute(
                "UPDATE batch SET tries = tries + 1 WHERE target = ? AND batch = ?",
                (self._target, batch),
            )

    def done(self, batch: Batch) -> None:
        """Write that a batch is there as a whole."""
        with transaction(self._conn):
            self._conn.execute(
                "UPDATE batch SET packed = NULL WHERE target = ? AND batch = ?",
                (self._target, batch.batch),
            )
            if batch.batch > self.last_batch:
                self._move(batch.batch, batch.span.until)

    def move(self, position: ShippedPosition, late_pruned: int = 0) -> None:
        """Move the position on, where there is nothing to ship."""
        with transaction(self._conn):
            self._lose_late(late_pruned)
            self._move(self.last_batch, position)

    def skip(self, span: tuple[int, int]) -> None:
        """Write that nothing of a span is left to be shipped."""
        with transaction(self._conn):
            self._conn.execute(
                "INSERT INTO skipped(target, from_ns, until_ns) VALUES (?, ?, ?)",
                (self._target, *span),
            )
            _, late_id = self.position
            self._move(self.last_batch, ShippedPosition(span[1], late_id))

    def adopt(
        self, batches: Sequence[Batch], last: int, reached: Iterable[ShippedPosition] = ()
    ) -> None:
        """
        Go on where batches that are there end; the next is numbered after `last`.

        So far others have `reached` by numbers that this one has, too.
        """
        ends = [self.position, *(each.span.until for each in batches), *reached]
        end = ShippedPosition(*map(max, *ends, ends[0]))
        if not batches and (last, end) == (self.last_batch, self.position):
            return
        with transaction(self._conn):
            self._replace(batches)
            self._move(last, end)

    def take_back(self, batches: Iterable[Batch], position: ShippedPosition) -> None:
        """Write what batches are now; what comes after `position` is to be shipped again."""
        with transaction(self._conn):
            self._replace(batches)
            self._move(self.last_batch, position)

    def forget(self, batch: int) -> None:
        """Throw away an open batch."""
        with transaction(self._conn):
            self._conn.execute(
                "DELETE FROM batch WHERE target = ? AND batch = ?", (self._target, batch)
            )

    def changed(self, kind: str, digests: Mapping[int, int]) -> Sequence[int]:
        """Give which of these are not told yet, or otherwise, by their ids."""
        known = dict(
            self._conn.execute(
                "SELECT told.id, digest FROM json_each(?) AS asked"
                " CROSS JOIN told ON told.id = asked.value"
                " WHERE target = ? AND kind = ?",
                (orjson.dumps(list(digests)).decode(), self._target, kind),
            )
        )
        return [each for each, digest in digests.items() if known.get(each) != digest]

    def told(self, kind: str, digests: Mapping[int, int]) -> None:
        """Write what is told now."""
        with transaction(self._conn):
            self._conn.executemany(
                "INSERT OR REPLACE INTO told VALUES (?, ?, ?, ?)",
                [(self._target, kind, *each) for each in digests.items()],
            )

    def last_told(self, kind: str) -> int:
        """Give the greatest id that is told."""
        asked = "SELECT IFNULL(MAX(id), 0) FROM told WHERE target = ? AND kind = ?"
        return int(self._conn.execute(asked, (self._target, kind)).fetchone()[0])

    def forget_old(self, before_ns: int) -> None:
        """Forget of batches whose day is long past all but that they were."""
        with transaction(self._conn):
            self._conn.execute(
                "DELETE FROM batch WHERE target = ? AND packed IS NULL AND day < ?",
                (self._target, before_ns // DAY),
            )

    def _replace(self, batches: Iterable[Batch]) -> None:
        for each in batches:
            self._conn.execute(
                f"INSERT OR REPLACE INTO batch (target, {_BATCH}, packed)"
                f" VALUES ({', '.join('?' * (len(each) + 1))}, NULL)",
                (self._target, *each),
            )

    def _lose_late(self, flows: int) -> None:
        if flows:
            self._conn.execute(
                "INSERT INTO late_pruned(target, at_ns, flows) VALUES (?, ?, ?)",
                (self._target, self.position.at_ns, flows),
            )

    def _move(self, batch: int, position: ShippedPosition) -> None:
        self._conn.execute(
            "UPDATE shipping SET batch = ?, at_ns = ?, late_id = ? WHERE target = ?",
            (batch, *position, self._target),
        )

    def _asked(self, sql: str) -> Sequence[int]:
        found: Sequence[int] = self._conn.execute(sql, (self._target,)).fetchone()
        return found


def path_of(db: Path, folder: Path | None) -> Path:
    """Give where the state of a file is: beside it, or in a folder."""
    return (folder or db.parent) / f"{db.name}-ship"


def _is_whole(conn: sqlite3.Connection) -> bool:
    try:
        conn.execute("EXPLAIN SELECT 1 FROM shipping, batch, told, skipped")
        return bool(conn.execute("PRAGMA quick_check(1)").fetchone() == ("ok",))
    except sqlite3.OperationalError as error:
        return error.sqlite_errorcode != sqlite3.SQLITE_ERROR  # a table is missing
    except sqlite3.DatabaseError:
        return False


@contextmanager
def opened(path: Path, target: str, recording: str) -> Iterator[State]:
    """Open the state of a file for one target, which is made where there is none."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        conn = sqlite3.connect(path, isolation_level=None)
    except OSError as error:
        raise UsageError(
            f"{path} cannot be written: {error.strerror}",
            hint="--state FOLDER names one that can be written to",
        ) from error
    try:
        conn.execute("PRAGMA synchronous = FULL")
        conn.execute("PRAGMA secure_delete = OFF")
        (version,) = conn.execute("PRAGMA user_version").fetchone()
        if version == 0:
            conn.executescript(f"BEGIN;{_TABLES}PRAGMA user_version = {_VERSION};COMMIT;")
        elif version != _VERSION:
            raise UsageError(f"{path} is of another version of ctk", hint=_REMOVE)
        conn.execute(_LATE_PRUNED)
        yield State(conn, target, recording)
    except (sqlite3.Error, zlib.error, orjson.JSONDecodeError) as error:
        if not _is_whole(conn) or not isinstance(error, sqlite3.Error):
            raise StoreError(f"{path} is damaged", hint=_REMOVE) from error
        if getattr(error, "sqlite_errorcode", 0) in _DAMAGED:
            raise  # It is the file that is shipped.
        raise StoreError(f"{path}: {error}") from error
    finally:
        conn.close()
