"""A snapshot is one whole, private file, taken while the recorder goes on."""

import os
import pty
import shutil
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ctk.errors import CtkError, DiskFullError
from ctk.store import connect
from ctk.store import snapshot as module
from ctk.store.snapshot import snapshot

ROWS = 20_000
ADD = "INSERT INTO recorder(id, node) VALUES (?, ?)"


@pytest.fixture
def db(tmp_path: Path) -> Path:
    return tmp_path / "node.db"


@pytest.fixture
def conn(db: Path) -> Iterator[sqlite3.Connection]:
    with connect.writer(db) as opened:
        opened.execute("BEGIN")
        opened.executemany(
            "INSERT INTO recorder(id, node) VALUES (?, ?)",
            [(i, f"node-{i:032}") for i in range(ROWS)],
        )
        opened.execute("COMMIT")
        yield opened


def test_it_is_one_consistent_file_while_writing_goes_on(
    db: Path, conn: sqlite3.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PAGES", 50)
    out = tmp_path / "copy" / "snap.db"
    out.parent.mkdir()
    told: list[tuple[int, int]] = []

    def write_on(done: int, total: int) -> None:
        told.append((done, total))
        conn.execute(
            "INSERT INTO recorder(id, node) VALUES (?, ?)", (ROWS + len(told), f"new-{len(told)}")
        )
        conn.execute("DELETE FROM recorder WHERE id = ?", (len(told),))

    snapshot(db, out, write_on)
    assert [p.name for p in out.parent.iterdir()] == ["snap.db"]
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert len(told) > 5
    assert told == sorted(told)
    assert told[-1][0] == told[-1][1]
    with connect.reader(out) as copy:
        assert copy.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert copy.execute("SELECT COUNT(*), MIN(id), MAX(id) FROM recorder").fetchone() == (
            ROWS,
            0,
            ROWS - 1,
        )
    assert [p.name for p in out.parent.iterdir()] == ["snap.db"]


def test_it_has_no_free_pages_and_nothing_of_live_connections(
    db: Path, conn: sqlite3.Connection, tmp_path: Path
) -> None:
    out, before = tmp_path / "snap.db", tmp_path / "before.db"
    snapshot(db, before, lambda *_: None)
    conn.execute("INSERT INTO connection VALUES (x'', 0, 1, zeroblob(2000000), NULL)")
    conn.execute("DELETE FROM recorder WHERE id % 2")
    snapshot(db, out, lambda *_: None)
    with connect.reader(out) as copy:
        assert copy.execute("SELECT COUNT(*) FROM connection").fetchone() == (0,)
        assert copy.execute("PRAGMA freelist_count").fetchone() == (0,)
        assert copy.execute("PRAGMA journal_mode").fetchone() == ("delete",)
        assert copy.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert out.stat().st_size <= before.stat().st_size
    assert conn.execute("SELECT COUNT(*) FROM connection").fetchone() == (1,)


def _problem(db: Path, out: Path) -> tuple[str, int]:
    with pytest.raises(CtkError) as caught:
        snapshot(db, out, lambda *_: None)
    return caught.value.message, caught.value.exit_code


def test_it_overwrites_nothing(db: Path, conn: sqlite3.Connection, tmp_path: Path) -> None:
    out = tmp_path / "taken.db"
    out.write_text("mine")
    assert _problem(db, out) == (f"{out} is there already", 2)
    assert out.read_text() == "mine"


def test_a_name_that_is_taken_meanwhile_stays_taken(
    db: Path, conn: sqlite3.Connection, tmp_path: Path
) -> None:
    out = tmp_path / "copy" / "taken.db"
    out.parent.mkdir()
    with pytest.raises(CtkError, match="is there already"):
        snapshot(db, out, lambda *_: out.write_text("mine") and None)
    assert [(p.name, p.read_text()) for p in out.parent.iterdir()] == [("taken.db", "mine")]


def test_what_is_asked_wrongly_makes_nothing(
    db: Path, conn: sqlite3.Connection, tmp_path: Path
) -> None:
    missing = tmp_path / "nowhere" / "snap.db"
    assert _problem(db, missing) == (f"there is no directory {missing.parent}", 2)
    assert _problem(tmp_path / "none.db", tmp_path / "snap.db") == (
        f"there is no file {tmp_path / 'none.db'}",
        2,
    )
    assert not (tmp_path / "snap.db").exists()


@pytest.mark.skipif(not shutil.which("mount"), reason="no mount")
def test_a_full_disk_leaves_nothing_behind(
    db: Path, conn: sqlite3.Connection, small_disk: Path
) -> None:
    with pytest.raises(DiskFullError, match="no room left"):
        snapshot(db, small_disk / "snap.db", lambda *_: None)
    assert list(small_disk.iterdir()) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    import subprocess

    disk = tmp_path / "small"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("only root may mount a small disk")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_copy_can_go_through_a_pipe(db: Path, conn: sqlite3.Connection, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ctk", "snapshot", str(db), "-"]
    copy = tmp_path / "copy.db"
    copy.write_bytes(subprocess.check_output(command, cwd=tmp_path))
    with connect.reader(copy) as copied:
        assert copied.execute("SELECT COUNT(*) FROM recorder").fetchone() == (ROWS,)
    assert not (tmp_path / "-").exists()
    shown, terminal = pty.openpty()
    refused = subprocess.run(
        command, stdout=terminal, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(terminal)
    os.close(shown)
    assert (refused.returncode, refused.stderr) == (
        2,
        "Error: a terminal cannot show a file of SQLite\nTry: ctk snapshot DB - > OUT\n",
    )
