"""A recorder that lingers keeps its file at hand, and `snapshot --finish` has all that it saw."""

import fcntl
import hashlib
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from ctk.errors import StoreError
from ctk.record import progressline
from ctk.record.plan import Status
from ctk.store import lock, snapshot
from ctk.store.plain import plain

CTK = (sys.executable, "-m", "ctk")
CAPTURE = Path(__file__).parent.parent / "fixtures" / "captures" / "node.ctkcap.gz"
HOLDER = """
import sys, time
from pathlib import Path
from ctk.store.lock import locked
with locked(Path(sys.argv[1])):
    try:
        print("held", flush=True)
        time.sleep(60)
    except KeyboardInterrupt:
        pass
"""


@contextmanager
def started(*command: str) -> Iterator[subprocess.Popen[str]]:
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def test_a_recorder_lingers_until_its_file_was_fetched(tmp_path: Path) -> None:
    db = tmp_path / "node.db"
    options = ("--from-capture", str(CAPTURE), "--no-kube", "--linger", "--progress", "1s")
    with started(*CTK, "record", str(db), *options) as recorder:
        assert recorder.stderr is not None
        last = next(line for line in recorder.stderr if progressline.ENDED in line)
        assert last.split(" ", 1)[1] == f"INFO {progressline.ENDED}\n"
        copy = subprocess.run(
            [*CTK, "snapshot", str(db), "-", "--finish", "--digest"],
            capture_output=True,
            check=True,
        )
        assert recorder.poll() is None
        recorder.send_signal(signal.SIGTERM)
        assert recorder.wait(10) == 0
    assert copy.stdout == db.read_bytes()
    digest = hashlib.sha256(copy.stdout).hexdigest()
    assert copy.stderr.decode() == f"sha256 {digest}, {len(copy.stdout)} bytes\n"


def test_one_that_fails_before_there_is_a_file_ends_at_once(tmp_path: Path) -> None:
    done = subprocess.run(
        [*CTK, "record", str(tmp_path / "node.db"), "--from-capture", "none", "--linger"],
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )
    assert (done.returncode, list(tmp_path.iterdir())) == (2, [])


def test_finishing_ends_who_holds_the_lock(tmp_path: Path) -> None:
    db = tmp_path / "node.db"
    with started(sys.executable, "-c", HOLDER, str(db)) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        lock.end_recorder(db)
        assert holder.wait(10) == 0
    lock.end_recorder(db)  # nobody records: nothing to do


def test_finishing_makes_no_copy_where_none_is_named(tmp_path: Path, shop: Path) -> None:
    def finish(db: Path, *words: str) -> tuple[int, str]:
        command = [*CTK, "snapshot", str(db), "--finish", *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
        assert done.stdout == ""
        return done.returncode, done.stderr

    before = sorted(tmp_path.iterdir())
    with started(sys.executable, "-c", HOLDER, str(shop)) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert finish(shop) == (0, "")
        assert holder.wait(10) == 0
    assert sorted(tmp_path.iterdir()) == before
    code, said = finish(tmp_path / "none.db")
    assert (code, said.splitlines()[0]) == (2, f"Error: there is no file {tmp_path / 'none.db'}")
    assert finish(shop, "--digest") == (
        2,
        "Error: --digest is of a copy\nTry: ctk snapshot DB OUT --digest\n",
    )


def test_a_number_that_is_not_the_holders_is_never_signalled(tmp_path: Path) -> None:
    db = tmp_path / "node.db"
    with started("sleep", "60") as other, (tmp_path / "node.db.lock").open("w") as held:
        held.write(f"{other.pid}\n")
        held.flush()
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(StoreError, match="cannot be told to finish from here"):
            lock.end_recorder(db)
        assert other.poll() is None


def test_what_has_ended_goes_out_without_a_copy(
    shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot, "snapshot", None)
    out = tmp_path / "out.db"
    out.write_bytes(b"".join(snapshot.stream(shop, lambda *_: None, ended=True)))
    assert out.read_bytes() == shop.read_bytes()


@pytest.mark.parametrize("page_bytes", [512, 4096, 65536])
def test_a_wal_that_was_left_is_taken_in_without_room_for_a_copy(
    tmp_path: Path, page_bytes: int
) -> None:
    left, wal_path = tmp_path / "left.db", tmp_path / "node.db-wal"
    with closing(sqlite3.connect(tmp_path / "node.db", isolation_level=None)) as conn:
        conn.execute(f"PRAGMA page_size = {page_bytes}")
        conn.execute("PRAGMA journal_mode = WAL")
        conn.execute("PRAGMA wal_autocheckpoint = 0")
        conn.execute("CREATE TABLE row(id INTEGER PRIMARY KEY, text)")
        for some in range(3):
            conn.execute("INSERT INTO row(text) VALUES (randomblob(?))", (3 * page_bytes + some,))
            if some == 1:
                conn.execute("PRAGMA wal_checkpoint(RESTART)")  # what follows has other salts
        conn.execute("DELETE FROM row WHERE id = 2")
        conn.execute("PRAGMA cache_size = 1")  # what is not committed goes into the -wal, too
        conn.execute("BEGIN")
        size = wal_path.stat().st_size
        conn.execute("UPDATE row SET text = zeroblob(1000000)")
        assert wal_path.stat().st_size > size
        for suffix in ("", "-wal"):
            shutil.copy(f"{tmp_path}/node.db{suffix}", f"{left}{suffix}")
        conn.execute("ROLLBACK")
        expected = list(conn.execute("SELECT * FROM row"))
    with Path(f"{left}-wal").open("ab") as wal:
        wal.write(bytes(1000))  # room that was kept for more
    out = tmp_path / "out.db"
    out.write_bytes(b"".join(plain(left)))
    with closing(sqlite3.connect(f"file:{out}?mode=ro&immutable=1", uri=True)) as conn:
        assert conn.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert list(conn.execute("SELECT * FROM row")) == expected
        assert conn.execute("PRAGMA journal_mode").fetchone() == ("delete",)
        assert [row[0] for row in expected] == [1, 3]


def test_a_line_of_progress_is_read_back() -> None:
    status = Status(events=5, flows=1_234_567, live=89, gaps=1, file_bytes=3 << 20)
    line = progressline.written(status, 1_204.4)
    assert line == "1,204 events/s, 1,234,567 flows, 89 live connections, 1 gap, 3.0 MiB"
    assert progressline.read(line) == (1_204, 1_234_567, 89, 1, 3.0)
    assert progressline.read(line.replace("1 gap,", "12 gaps,")) == (1_204, 1_234_567, 89, 12, 3.0)
    assert progressline.read("a warning") is None
