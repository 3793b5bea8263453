"""A file is input: what is in it that its columns are not made for is one line, never a defect."""

import gzip
import signal
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import click
import pytest
from click.testing import Result

import ctk
from ctk.errors import StoreError
from ctk.store.columncheck import first_wrong
from ctk.store.connect import writer

Invoke = Callable[..., Result]
EVIL = "\x1b]0;x\x07"
TRY = "Try: copy it again from where it was made, or record to another file\n"


def spoil(path: Path, column: str, value: object) -> None:
    """Put a value into all of a column, which SQLite does not mind."""
    table, _, name = column.partition(".")
    with closing(sqlite3.connect(path, isolation_level=None)) as conn:
        conn.execute(f"UPDATE {table} SET {name} = ?", (value,))


@pytest.mark.parametrize(
    ("column", "value", "said", "words"),
    [
        ("level.pruned_ns", EVIL, "a time", "query DB"),
        ("flow.lasted_ns", 2**63 - 1, "a time", "query DB -o json"),
        ("flow.lasted_ns", 2**63 - 1, "a time", "export DB --format csv"),
        ("level.pruned_ns", "[]", "a time", "top DB"),
        ("level.folded_ns", EVIL, "a time", "series DB"),
        ("recording.committed_ns", EVIL, "a time", "info DB"),
        ("recording.settings", "[]", "a JSON object", "merge DB -o out.db"),
        ("level.pruned_ns", EVIL, "a time", "merge DB -o out.db"),
        ("level.folded_ns", EVIL, "a time", "record DB --no-kube --from-capture CAPTURE"),
        ("recording.idle_ns", EVIL, "a time", "idle DB"),
        ("flow.src_port", 2**50, "a port", "export DB --format ecs"),
    ],
)
def test_a_value_of_another_kind_is_told_in_a_line(
    shop: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch,
    column: str, value: object, said: str, words: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(shop.parent)
    capture = Path(__file__).parent.parent / "fixtures/captures/uncounted.ctkcap.gz"
    spoil(shop, column, value)
    places = {"DB": shop.name, "CAPTURE": capture}
    result = invoke(*(places.get(word, word) for word in words.split()))
    path = shop if words.startswith("record") else shop.name
    assert result.exit_code == 1
    assert result.stderr.endswith(f"Error: {path} is damaged: {column} is not {said}\n{TRY}")
    assert "\x1b" not in result.output


def test_a_level_that_is_not_told_of_is_damage(shop: Path, invoke: Invoke) -> None:
    with closing(sqlite3.connect(shop, isolation_level=None)) as conn:
        conn.execute("DELETE FROM level WHERE name = '1h'")
    result = invoke("top", shop)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == f"Error: {shop} is damaged: level lacks 1h\n{TRY}"


def test_counts_without_a_sum_are_damage(shop: Path, invoke: Invoke) -> None:
    spoil(shop, "flow.connections", 2**62)
    result = invoke("top", shop)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == f"Error: {shop} is damaged: its counts have no sum\n{TRY}"


def test_of_several_files_the_one_that_is_damaged_is_named(shop: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.db"
    other.write_bytes(shop.read_bytes())
    with closing(sqlite3.connect(other, isolation_level=None)) as conn:
        conn.execute("UPDATE recorder SET node = 'n2'")
    spoil(other, "level.pruned_ns", EVIL)
    with pytest.raises(StoreError, match=r"other\.db is damaged"), ctk.open([shop, other]) as both:
        both.top()


def test_an_error_over_a_whole_file_stays_what_it_is(shop: Path) -> None:
    with pytest.raises(ZeroDivisionError), ctk.open(shop) as recording:
        assert len(recording.top().rows) // 0


def test_counters_of_live_connections_are_no_damage(tmp_path: Path) -> None:
    older = Path(__file__).parent.parent / "fixtures/schema/m006.db.gz"
    (path := tmp_path / "m006.db").write_bytes(gzip.decompress(older.read_bytes()))
    with writer(path) as conn:
        counted = "SELECT length(counters) FROM connection WHERE counters IS NOT NULL"
        assert conn.execute(counted).fetchall() == [(40,)]
        assert first_wrong(conn) is None


@pytest.mark.parametrize("error", [click.Abort(), KeyError("x"), MemoryError(), OSError()])
def test_what_ends_a_block_otherwise_is_no_reason_to_search_the_file(
    shop: Path, error: Exception
) -> None:
    spoil(shop, "level.pruned_ns", EVIL)
    with pytest.raises(type(error)), ctk.open(shop):
        raise error


def test_ctrl_c_of_an_export_searches_no_file(
    shop: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("ctk.cli.bar.Bar.show", stop)
    spoil(shop, "recording.settings", "[]")
    result = invoke("export", shop, "--output", shop.with_name("flows.jsonl"))
    assert (result.exit_code, result.stderr) == (130, "")


TEXTS = (
    *("gap.kind", "gap.detail", "recording.source", "recording.version", "recorder.node"),
    *("endpoint.name", "endpoint.namespace", "endpoint.workload", "edge.service", "edge.proto"),
)


def test_no_text_of_a_file_tells_a_terminal_what_to_do(shop: Path, invoke: Invoke) -> None:
    for column in (*TEXTS, "endpoint.kind"):
        spoil(shop, column, f"{EVIL}\x9b2J\u202e\r")
    for words in (
        *("query", "query -o wide", "query -o vertical", "top", "failures", "diff --after 1m.."),
        *(
            "series",
            "timeline",
            "new",
            "balance",
            "idle",
            "info",
            "info --gaps",
            "export --cursor c",
        ),
    ):
        command, *flags = words.split()
        result = invoke(command, shop, *flags)
        said = result.stderr if command == "export" else result.output
        assert (result.exit_code, set(said) & set("\x1b\x07\x9b\u202e\r")) == (0, set()), words
    result = invoke("top", shop.with_name(f"{EVIL}.db"))
    assert result.stderr.startswith(f"Error: there is no file {shop.parent}/\\x1b]0;x\\x07.db\n")
