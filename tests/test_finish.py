"""A recorder that lingers keeps its file at hand, and `snapshot --finish` has all that it saw."""

import fcntl
import hashlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import ctk
from ctk.errors import StoreError
from ctk.record import progressline
from ctk.record.plan import Status
from ctk.store import lock, snapshot

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


def test_a_number_that_is_not_the_holders_is_never_signalled(tmp_path: Path) -> None:
    db = tmp_path / "node.db"
    with started("sleep", "60") as other, (tmp_path / "node.db.lock").open("w") as held:
        held.write(f"{other.pid}\n")
        held.flush()
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(StoreError, match="cannot be told to finish from here"):
            lock.end_recorder(db)
        assert other.poll() is None


def test_what_has_ended_goes_out_without_a_copy(shop: Path) -> None:
    with snapshot.one_file(shop, lambda *_: None, ended=True) as whole:
        assert whole == shop
    with snapshot.one_file(shop, lambda *_: None, ended=False) as whole:
        assert whole != shop
        with ctk.open(whole) as recording:
            assert recording.describe().nodes == ("n1",)
    assert not whole.exists()
    assert list(shop.parent.iterdir()) == [shop]


def test_a_line_of_progress_is_read_back() -> None:
    status = Status(events=5, flows=1_234_567, live=89, gaps=1, file_bytes=3 << 20)
    line = progressline.written(status, 1_204.4)
    assert line == "1,204 events/s, 1,234,567 flows, 89 live connections, 1 gaps, 3.0 MiB"
    assert progressline.read(line) == (1_204, 1_234_567, 89, 1, 3.0)
    assert progressline.read("a warning") is None
