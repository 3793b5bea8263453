"""On a disk that is full and stays full, a recording still says so and ends."""

import random
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Event, Thread

import pytest
from edges import edge, with_ids

from ctk.errors import DiskFullError
from ctk.model import Endpoint, EventCounts, FlowRow, Gap
from ctk.store import connect
from ctk.store.reserve import RESERVE_BYTES, Reserve
from ctk.store.write import Writer
from ctk.timespan import SECOND

T = 1_732_560_440 * SECOND
WINDOW_NS = 10 * SECOND
COUNTS = (*(1,) * 6, *(None,) * 4)
POD = Endpoint(address="10.0.0.1", kind="pod", valid_from_ns=0, namespace="shop", name="web")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 8 MB, and on it a file `filler` of a program that takes every free block."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(place)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("only root may mount a small disk")
    yield place
    subprocess.run(["umount", str(place)], check=True)


class Filler:
    """Takes every free block of a disk, over and over, until it is left."""

    def __init__(self, disk: Path) -> None:
        self._file = disk / "filler"
        self._left = Event()
        self._thread = Thread(target=self._fill)

    def __enter__(self) -> "Filler":
        return self

    def start(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._left.set()
        self._thread.join()
        self._file.unlink()

    def _fill(self) -> None:
        with self._file.open("wb", buffering=0) as out:
            while not self._left.wait(0.002):
                try:
                    while not self._left.is_set():
                        out.write(bytes(4096))
                except OSError:
                    continue


def _writer(conn: sqlite3.Connection, started_ns: int = T) -> Writer:
    return Writer(
        conn, node="n1", source="kernel", settings={}, started_ns=started_ns, boot_id="boot-1"
    )


def _window(writer: Writer, number: int, rows: int, gaps: tuple[Gap, ...] = ()) -> None:
    """Write a window of rows, each to a peer that was not seen before."""
    at_ns = T + number * WINDOW_NS
    found = []
    for i in range(rows):
        address = f"8.{number % 250}.{i >> 8}.{i & 255}"
        peer = Endpoint(address=address, kind="external", valid_from_ns=0)
        to_peer = edge("tcp", 0, POD, peer, 443, None, peer, None, None, None)
        found.append(FlowRow(to_peer, at_ns + i, at_ns + i, None, *COUNTS))
    writer.window(
        with_ids(writer, found),
        gaps=gaps,
        committed_ns=at_ns + WINDOW_NS,
        counters=EventCounts(events=number),
    )


def _record_until_full(writer: Writer, filler: Filler, seed: int, first: int = 0) -> int:
    """Write windows of random sizes until not even the smallest fits; give its number."""
    sizes = random.Random(seed)
    begins = first + sizes.randint(1, 40)
    most = 1_000
    for number in range(first, 10_000):
        if number == begins:
            filler.start()
        rows = min(sizes.choice((1, 30, 300, 1_000)), most)
        try:
            _window(writer, number, rows)
            list(writer.maintain(T + number * WINDOW_NS, {}))
        except DiskFullError:
            if rows == 1:
                return number
            most = 1
    raise AssertionError("the disk is never full")


def _gap(since: int, until: int) -> Gap:
    lost = (until - since) * 100
    return Gap("disk full", T + since * WINDOW_NS, T + until * WINDOW_NS, lost)


def _stay_full(writer: Writer, first: int) -> list[Gap]:
    """Go on until sixty windows in a row were refused, as a recorder does; give all gaps."""
    gaps: list[Gap] = []
    since, number = None, first
    while since is None or number - since < 60:
        gap = _gap(number if since is None else since, number + 1)
        try:
            _window(writer, number, 1, gaps=() if since is None else (gap,))
            since, gaps = None, gaps if since is None else [*gaps, gap]
        except DiskFullError:
            since = number if since is None else since
            assert writer.in_reserve(gap, T + number * WINDOW_NS, EventCounts(number))
        number += 1
    return [*gaps, _gap(since, number)]


def _gaps(path: Path) -> list[Gap]:
    with connect.reader(path) as conn:
        return [
            Gap(*row)
            for row in conn.execute("SELECT kind, started_ns, ended_ns, lost, detail FROM gap")
        ]


@pytest.mark.parametrize("seed", range(4))
def test_a_disk_that_stays_full_leaves_its_gap_and_the_end(disk: Path, seed: int) -> None:
    path = disk / "node.db"
    with Filler(disk) as filler:
        with connect.writer(path) as conn:
            writer = _writer(conn)
            full = _record_until_full(writer, filler, seed)
            gaps = _stay_full(writer, full)
            ended_ns = gaps[-1].ended_ns
            assert writer.in_reserve(gaps[-1], ended_ns, EventCounts(99), ended_ns)
            (rows,) = conn.execute("SELECT COUNT(*) FROM flow").fetchone()
        # The disk is full when it is read, too.
        assert _gaps(path) == gaps
        with connect.reader(path) as conn:
            recording = "SELECT committed_ns, ended_ns, events FROM recordings"
            assert conn.execute(recording).fetchall() == [(ended_ns, ended_ns, 99)]
            assert conn.execute("SELECT COUNT(*) FROM flows").fetchone() == (rows,)
    with connect.writer(path) as conn:
        assert conn.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        _window(_writer(conn, T + 2_000 * WINDOW_NS), 2_000, 10)
    assert sorted(p.name for p in disk.iterdir()) == ["node.db"]


KILLED = """
import os, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_reserve import *
from test_reserve import _record_until_full, _stay_full, _writer
with Filler(Path({disk!r})) as filler, connect.writer(Path({disk!r}) / "node.db") as conn:
    writer = _writer(conn)
    full = _record_until_full(writer, filler, {seed})
    print(_stay_full(writer, full)[-1].started_ns, flush=True)
    os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("seed", range(2))
def test_a_recorder_that_is_killed_on_a_full_disk_has_left_its_gap(disk: Path, seed: int) -> None:
    """Its end is as far as the reserve went: the start of the next recording says the rest."""
    script = KILLED.format(tests=str(Path(__file__).parent), disk=str(disk), seed=seed)
    killed = subprocess.run(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    before = _gaps(disk / "node.db")
    full, until = ((at_ns - T) // WINDOW_NS for at_ns in before[-1][1:3])
    assert before[-1] == _gap(full, until)
    assert before[-1].started_ns == int(killed.stdout)
    assert until > full
    (disk / "filler").unlink()
    with connect.writer(disk / "node.db") as conn:
        writer = _writer(conn, T + 3_000 * WINDOW_NS)
        assert writer.previous is not None
        assert writer.previous.ended_ns is None
        _window(writer, 3_000, 10)
    after = _gaps(disk / "node.db")
    assert after[:-1] == before
    assert after[-1].kind == "recorder down"


def test_when_there_is_room_again_the_gap_is_one_row_and_the_reserve_is_filled_up(
    disk: Path,
) -> None:
    with connect.writer(disk / "node.db") as conn:
        writer = _writer(conn)
        last, told = 0, []
        for seed in range(2):
            with Filler(disk) as filler:
                full = _record_until_full(writer, filler, seed, last)
                told += _stay_full(writer, full)
            last = (told[-1].ended_ns - T) // WINDOW_NS
            _window(writer, last, 10, gaps=(told[-1],))
            assert _gaps(disk / "node.db") == told
            _window(writer, last + 1, 10)
            last += 2
            assert writer._reserve.room_bytes() > RESERVE_BYTES - 100_000


def test_the_reserve_is_behind_the_last_commit(tmp_path: Path) -> None:
    """What was rolled back, and what the -wal held the last time round, is room."""
    path = tmp_path / "node.db"
    with connect.writer(path) as conn:
        reserve = Reserve(path)
        assert reserve.fill_up()
        for _ in range(3):
            conn.execute("BEGIN")
            conn.execute(f"INSERT INTO endpoint VALUES (NULL,'','','',zeroblob(9000),{NULLS})")
            conn.execute("COMMIT")
            used = conn.execute("PRAGMA wal_checkpoint").fetchone()[1] * 4120 + 32
            size = (tmp_path / "node.db-wal").stat().st_size
            assert reserve.room_bytes() == size - used
            assert reserve.fill_up()
            assert reserve.room_bytes() >= RESERVE_BYTES


NULLS = "NULL," * 5 + "NULL,0,NULL,0"
