"""Opening: one writer, readers that change nothing, and one sentence for whatever is wrong."""

import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from sqlite_utils import Database

from ctk.errors import CtkError, DiskFullError, FileBusyError, StoreError, UsageError
from ctk.store import connect
from ctk.store.lock import locked

NODE = "INSERT INTO recorder(id, node) VALUES (1, 'n1')"


@pytest.fixture
def db(tmp_path: Path) -> Path:
    path = tmp_path / "node.db"
    with connect.writer(path) as conn:
        conn.execute(NODE)
    return path


def _nodes(path: Path) -> list[tuple[object, ...]]:
    with connect.reader(path) as conn:
        return conn.execute("SELECT node FROM recorder").fetchall()


def test_a_reader_waits_for_a_recorder_that_is_making_the_file(db: Path, tmp_path: Path) -> None:
    """Asked in that moment, `ctk query` said that it was not a ctk file."""
    made = tmp_path / "made.db"

    def make() -> None:
        with closing(sqlite3.connect(db)) as old, closing(sqlite3.connect(made)) as new:
            old.backup(new)

    with locked(made):
        made.touch()
        later = threading.Timer(0.2, make)
        later.start()
        assert _nodes(made) == [("n1",)]
        later.join()


def _problem(path: Path, *, write: bool = False) -> tuple[type[CtkError], str, str | None, int]:
    with pytest.raises(CtkError) as caught, (connect.writer if write else connect.reader)(path):
        pass
    error = caught.value
    return type(error), error.message, error.hint, error.exit_code


def test_a_new_file_and_what_lies_beside_it_are_its_owners_only(tmp_path: Path) -> None:
    path = tmp_path / "node.db"
    before = os.umask(0)
    try:
        with connect.writer(path) as conn:
            conn.execute(NODE)
            modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in tmp_path.iterdir()}
    finally:
        os.umask(before)
    assert modes == dict.fromkeys(("node.db", "node.db-wal", "node.db-shm", "node.db.lock"), 384)
    assert [p.name for p in tmp_path.iterdir()] == ["node.db"]


def _beside(path: Path) -> list[str]:
    return sorted(p.name for p in path.parent.iterdir())


def test_a_writer_leaves_one_plain_file(db: Path) -> None:
    """Its header says so, so that any SQLite opens it where nothing can be written."""
    assert _beside(db) == ["node.db"]
    assert db.read_bytes()[18:20] == b"\1\1"


def _plain_rows(path: Path, question: str) -> list[object]:
    return sqlite3.connect(path).execute(question).fetchall()


def _sqlite_utils_rows(path: Path, question: str) -> list[object]:
    return [tuple(row.values()) for row in Database(path).query(question)]


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to become a user without rights")
@pytest.mark.parametrize("rows_of", [_plain_rows, _sqlite_utils_rows])
def test_another_user_asks_a_copy_in_a_read_only_place_with_any_tool(
    db: Path, rows_of: Callable[[Path, str], list[object]]
) -> None:
    db.chmod(0o444)
    for parent in (*db.parents[1:3], db.parent):
        parent.chmod(0o555 if parent == db.parent else 0o755)
    child = os.fork()
    if not child:
        os.setuid(65534)
        os._exit(0 if rows_of(db, "SELECT node FROM recorder") == [("n1",)] else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert _beside(db) == ["node.db"]


def test_while_somebody_reads_the_wal_stays_until_the_next_stop(
    db: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connect, "_PLAIN_WAIT_S", 0)
    with connect.writer(db) as conn:
        conn.execute("UPDATE recorder SET node = 'newest'")
        reading = subprocess.Popen(
            [sys.executable, "-c", READS_ON, db], stdout=subprocess.PIPE, stdin=subprocess.PIPE
        )
        assert reading.stdout is not None
        reading.stdout.readline()
    assert _beside(db) == ["node.db", "node.db-shm", "node.db-wal"]
    assert reading.communicate(b"on\n")[0] == b"[('newest',)]\n"
    with connect.writer(db):
        pass
    assert _beside(db) == ["node.db"]
    assert _nodes(db) == [("newest",)]


READS_ON = """
import pathlib, sys
from ctk.store import connect
with connect.reader(pathlib.Path(sys.argv[1])) as conn:
    conn.execute("BEGIN")
    conn.execute("SELECT * FROM recorder").fetchall()
    print("reading", flush=True)
    sys.stdin.readline()
    print(conn.execute("SELECT node FROM recorder").fetchall(), flush=True)
"""


@pytest.mark.parametrize("left", ["node.db", "node.db-wal", "node.db-shm"])
def test_a_reader_leaves_nothing_beside_a_file_that_nobody_writes(
    db: Path, tmp_path: Path, left: str
) -> None:
    """Of a file in WAL mode: alone, with its -wal, or with all that a killed recorder leaves."""
    folder = tmp_path / "copy"
    folder.mkdir()
    with connect.writer(db) as conn:
        conn.execute("UPDATE recorder SET node = 'newest'")
        if left == "node.db":
            conn.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        names = {
            "node.db": ["node.db"],
            "node.db-wal": ["node.db", "node.db-wal"],
            "node.db-shm": ["node.db", "node.db-shm", "node.db-wal"],
        }[left]
        for name in names:
            shutil.copy(tmp_path / name, folder / name)
    assert _nodes(folder / "node.db") == [("newest",)]
    assert _beside(folder / "node.db") == names


def test_a_second_writer_is_told_who_the_first_is(db: Path) -> None:
    with connect.writer(db):
        assert _problem(db, write=True) == (
            StoreError,
            f"{db} is being recorded to by process {os.getpid()}",
            "stop that recorder, or record to another file",
            1,
        )
    with connect.writer(db):
        pass


def test_a_lock_file_that_was_left_behind_is_no_obstacle(db: Path) -> None:
    script = (
        "import os, sys, pathlib; from ctk.store import connect\n"
        "with connect.writer(pathlib.Path(sys.argv[1])): os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", script, str(db)], check=False)
    assert db.with_name("node.db.lock").exists()
    with connect.writer(db) as conn:
        assert conn.execute("SELECT node FROM recorder").fetchall() == [("n1",)]


def test_readers_read_beside_the_writer(db: Path) -> None:
    with connect.writer(db) as conn:
        conn.execute("BEGIN IMMEDIATE")
        conn.execute("INSERT INTO recorder(id, node) VALUES (2, 'n2')")
        assert _nodes(db) == [("n1",)]
        conn.execute("COMMIT")
        assert _nodes(db) == [("n1",), ("n2",)]


def test_a_reader_cannot_write(db: Path) -> None:
    with (
        pytest.raises(StoreError, match="cannot be written"),
        connect.reader(db) as conn,
    ):
        conn.execute("DELETE FROM recorder")
    assert _nodes(db) == [("n1",)]


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to become a user without rights")
@pytest.mark.parametrize("with_wal", [False, True], ids=["whole", "beside-its-wal"])
def test_a_copy_in_a_directory_that_cannot_be_written_is_read(
    db: Path, tmp_path: Path, with_wal: bool
) -> None:
    folder = tmp_path / "copy"
    folder.mkdir()
    with connect.writer(db) as conn:
        conn.execute("UPDATE recorder SET node = 'newest'")
        if not with_wal:
            conn.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        for name in ("node.db", "node.db-wal"):
            if name == "node.db" or with_wal:
                shutil.copy(tmp_path / name, folder / name)
                (folder / name).chmod(0o444)
    folder.chmod(0o555)
    for parent in (tmp_path, *tmp_path.parents[:2]):
        parent.chmod(0o755)
    child = os.fork()
    if not child:
        os.setuid(65534)
        os._exit(0 if _nodes(folder / "node.db") == [("newest",)] else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert sorted(p.name for p in folder.iterdir()) == ["node.db", "node.db-wal"][: 1 + with_wal]


def test_no_file_is_made_by_a_mistyped_path(tmp_path: Path) -> None:
    path = tmp_path / "nodee.db"
    assert _problem(path) == (
        UsageError,
        f"there is no file {path}",
        "`ctk record` makes one",
        2,
    )
    assert list(tmp_path.iterdir()) == []


def test_an_empty_file_that_is_taken_over_becomes_private(tmp_path: Path) -> None:
    path = tmp_path / "node.db"
    path.touch(0o644)
    with connect.writer(path):
        assert path.stat().st_mode & 0o777 == 0o600
    assert path.stat().st_mode & 0o777 == 0o600


def test_what_is_no_ctk_file_is_refused_and_left_alone(tmp_path: Path) -> None:
    text, other, empty = tmp_path / "notes.txt", tmp_path / "other.db", tmp_path / "empty"
    text.write_text("not a database at all\n" * 100)
    sqlite3.connect(other).execute("CREATE TABLE t (a)").connection.close()
    empty.touch()
    before = {path: path.read_bytes() for path in (text, other)}
    for path in (text, other):
        for write in (False, True):
            assert _problem(path, write=write) == (
                UsageError,
                f"{path} is not a ctk file",
                "record to another file" if write else "`ctk record` makes one",
                2,
            )
    assert _problem(empty)[1] == f"{empty} is empty"
    assert _problem(tmp_path)[1:] == (f"{tmp_path} is a directory", "name the file in it", 2)
    assert _problem(tmp_path, write=True)[1:] == (
        f"{tmp_path} is a directory",
        "name a file in it",
        2,
    )
    missing = tmp_path / "nowhere" / "node.db"
    assert _problem(missing, write=True)[1:] == (f"there is no directory {missing.parent}", None, 2)
    assert _problem(Path("/proc/node.db"), write=True)[1:] == (
        "/proc/node.db cannot be written: /proc takes no new files",
        "check who may write there",
        1,
    )
    assert {path: path.read_bytes() for path in (text, other)} == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "notes.txt", "other.db"]


def test_an_empty_file_becomes_one_of_ours(tmp_path: Path) -> None:
    path = tmp_path / "mounted.db"
    path.touch()
    with connect.writer(path) as conn:
        conn.execute(NODE)
    assert _nodes(path) == [("n1",)]


def test_an_older_file_is_too_old_to_read_until_a_writer_had_it(db: Path) -> None:
    conn = sqlite3.connect(db)
    views = [name for (name,) in conn.execute("SELECT name FROM sqlite_master WHERE type = 'view'")]
    for view in views:
        conn.execute(f"DROP VIEW {view}")
    conn.execute("DELETE FROM _sqlite_migrations WHERE name = 'm005_views'")
    conn.commit()
    conn.close()
    assert _problem(db) == (
        connect.OlderSchemaError,
        f"{db} was written by an older ctk (it lacks m005_views)",
        None,
        2,
    )
    with connect.writer(db):
        pass
    assert _nodes(db) == [("n1",)]


def test_a_newer_file_is_refused_by_both(db: Path) -> None:
    conn = sqlite3.connect(db)
    conn.execute(
        "INSERT INTO _sqlite_migrations(migration_set, name, applied_at)"
        " VALUES ('ctk', 'm999_future', '')"
    )
    conn.commit()
    conn.close()
    for write in (False, True):
        assert _problem(db, write=write) == (
            UsageError,
            f"{db} was written by a newer ctk (it has m999_future)",
            "update this ctk",
            2,
        )


@pytest.mark.parametrize(
    ("code", "error", "message"),
    [
        (sqlite3.SQLITE_FULL, DiskFullError, "no room left to write node.db"),
        (sqlite3.SQLITE_READONLY_DBMOVED, StoreError, "node.db cannot be written"),
        (sqlite3.SQLITE_BUSY_SNAPSHOT, FileBusyError, "node.db is locked by another program"),
        (sqlite3.SQLITE_CORRUPT, StoreError, "node.db is damaged"),
        (sqlite3.SQLITE_IOERR_READ, StoreError, "node.db failed: bad luck"),
    ],
)
def test_what_sqlite_reports_becomes_a_sentence(
    code: int, error: type[StoreError], message: str
) -> None:
    reported = sqlite3.OperationalError("bad luck")
    reported.sqlite_errorcode = code
    told = connect.failure(reported, Path("node.db"))
    assert (type(told), told.message, told.exit_code) == (error, message, 1)


def test_reading_does_not_load_the_migration_library(db: Path) -> None:
    script = (
        "import sys, pathlib; from ctk.store import connect\n"
        "with connect.reader(pathlib.Path(sys.argv[1])): pass\n"
        "with connect.writer(pathlib.Path(sys.argv[1])): pass\n"
        "sys.exit('sqlite_utils' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script, str(db)], check=False).returncode == 0


def test_a_new_file_needs_no_pandas(tmp_path):
    """sqlite-utils imports it where it is: a recorder would hold 75 MB of it."""
    for name in ("pandas", "numpy"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit(__name__ + ' was imported')")
    program = (
        "import sys; from pathlib import Path; from ctk.store import connect\n"
        "with connect.writer(Path('node.db')): pass\n"
        "sys.exit('pandas' in sys.modules)"
    )
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    argv = [sys.executable, "-c", program]
    ran = subprocess.run(argv, cwd=tmp_path, env=environment, capture_output=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, b"")
