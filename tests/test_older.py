"""Files of every released schema are asked like new ones, and stay as they are."""

import gzip
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

import pytest
from ctk.migrations.migrations import migrations
from sqlite_utils import Database

import ctk
from ctk.errors import StoreError
from ctk.store import connect
from ctk.store.columns import FLOW_KEYS
from ctk.store.older import Older

RELEASED = Path(__file__).parent.parent / "fixtures" / "schema"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    path = tmp_path / "old.db"
    path.write_bytes(gzip.decompress((RELEASED / "m006.db.gz").read_bytes()))
    return path


@pytest.mark.parametrize("last", connect.SCHEMA[5:])  # before m006 there was no release
def test_every_released_schema_is_read_and_left_as_it_is(tmp_path: Path, last: str) -> None:
    path = tmp_path / "old.db"
    following = connect.SCHEMA[connect.SCHEMA.index(last) + 1 :]
    with closing(sqlite3.connect(path)) as conn:
        migrations.apply(Database(conn), stop_before=following[:1])
        conn.execute(f"PRAGMA application_id = {connect.APPLICATION_ID}")
        conn.commit()
    before = path.read_bytes()
    with ctk.open(path) as recording:
        assert recording.sql("SELECT * FROM flows").columns == FLOW_KEYS
        assert list(recording.flows()) == []
        assert recording.top().groups == 0
        assert recording.describe().nodes == ()
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["old.db"]


@pytest.mark.parametrize("wal", [False, True], ids=["at rest", "being written"])
@pytest.mark.parametrize("in_memory_bytes", [0, 2**28], ids=["large", "small"])
def test_an_older_file_answers_as_its_newest_form_does(
    old: Path, in_memory_bytes: int, wal: bool, tmp_path: Path
) -> None:
    new = tmp_path / "new.db"
    new.write_bytes(old.read_bytes())
    with connect.writer(new):
        pass
    with closing(sqlite3.connect(old)) as other:
        if wal:
            other.execute("PRAGMA journal_mode = WAL")
            other.execute("UPDATE recorder SET node = node")
            other.commit()
        older = Older(old, in_memory_bytes)
        with connect.reader(new) as expected, older.reader() as first, older.reader() as second:
            for view in ("flows", "flows_1m", "endpoints", "pods", "nodes", "gaps", "recordings"):
                rows = expected.execute(f"SELECT * FROM {view}").fetchall()
                assert rows
                assert first.execute(f"SELECT * FROM {view}").fetchall() == rows
                assert second.execute(f"SELECT * FROM {view}").fetchall() == rows
            with pytest.raises(sqlite3.OperationalError, match="readonly"):
                first.execute("DELETE FROM flow")


def test_a_copy_on_disk_goes_with_the_one_who_asked(
    old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    older = Older(old, 0)
    assert len(list(tmp_path.glob("ctk-*.db"))) == 1
    del older
    assert list(tmp_path.glob("ctk-*")) == []
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    with pytest.raises(StoreError, match="needs a copy: No such file"):
        Older(old, 0)


def test_the_command_line_asks_an_older_file_without_a_word(invoke, old: Path) -> None:
    result = invoke("query", old, "--pod", "shop/web-1", "--first", "1", "-o", "jsonl")
    assert (result.exit_code, result.stderr) == (0, "")
    assert '"src_name":"web-1"' in result.stdout


def test_a_snapshot_of_an_older_file_is_an_older_file(invoke, old: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    assert invoke("snapshot", old, copy).exit_code == 0
    with ctk.open(old) as recording, ctk.open(copy) as copied:
        assert list(copied.flows()) == list(recording.flows())
    with pytest.raises(connect.OlderSchemaError), connect.reader(copy):
        pass
