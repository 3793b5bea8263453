"""Every view and column is explained once: by `ctk schema`, in the file and to Datasette."""

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import Result

import ctk
from ctk.store.meanings import COLUMNS, VIEWS, comments, type_of
from ctk.store.views import views

Invoke = Callable[..., Result]


def test_every_view_and_column_has_a_sentence(shop: Path) -> None:
    assert list(VIEWS) == list(COLUMNS)
    assert set(VIEWS) == set(views())
    with closing(sqlite3.connect(shop)) as conn:
        for view, columns in COLUMNS.items():
            found = conn.execute("SELECT name, lower(type) FROM pragma_table_info(?)", (view,))
            made = dict(found.fetchall())
            assert list(made) == list(columns), view
            for column, kind in made.items():
                assert kind in ("", type_of(view, column)), (view, column)
    for text in [*VIEWS.values(), *(text for each in COLUMNS.values() for text in each.values())]:
        assert text[-1] in ".'", text
        assert "\n" not in text


def test_a_file_explains_itself(shop: Path) -> None:
    with closing(sqlite3.connect(shop)) as conn:
        made = dict(conn.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'view'"))
    for view, sql in made.items():
        assert sql.startswith(f"CREATE VIEW {view} AS\n{comments(view)}"), view
    assert f"\n-- refused: {COLUMNS['flows']['refused']}\n" in made["flows"]


def test_schema_lists_views_columns_and_what_they_mean(invoke: Invoke, shop: Path) -> None:
    alone = invoke("schema", "-o", "jsonl")
    assert (alone.exit_code, alone.stderr) == (0, "")
    rows = [json.loads(line) for line in alone.stdout.splitlines()]
    assert rows[0] == {
        "view": "flows",
        "column": "started_at",
        "type": "text",
        "meaning": COLUMNS["flows"]["started_at"],
    }
    assert len(rows) == sum(map(len, COLUMNS.values()))
    assert invoke("schema", shop, "-o", "jsonl").stdout == alone.stdout
    with ctk.open(shop) as recording:
        assert [each._asdict() for each in recording.schema()] == rows


def test_views_that_others_added_are_listed_without_a_meaning(invoke: Invoke, shop: Path) -> None:
    with closing(sqlite3.connect(shop)) as conn:
        conn.execute('CREATE VIEW "\x1b[31mmine" AS SELECT 1 AS "a\x1bb"')
        conn.commit()
    shown = invoke("schema", shop).stdout
    assert shown.endswith("\n\n\\x1b[31mmine\n  a\\x1bb\n\n")
    assert "\x1b" not in shown


@pytest.mark.parametrize("width", [60, 80, 120])
def test_it_fits_the_terminal(invoke: Invoke, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    lines = invoke("schema").stdout.splitlines()
    assert max(map(len, lines)) <= width
    assert lines[0] == "flows"
    assert [line for line in lines if line and line[0] != " "] == list(VIEWS)


def test_a_column_that_is_not_there_is_told_with_one_that_is(invoke: Invoke, shop: Path) -> None:
    result = invoke("query", shop, "SELECT source_name FROM flows")
    assert (result.exit_code, result.stderr) == (
        2,
        "Error: bad SQL: no such column: source_name\n"
        "Try: src_name, say; `ctk schema` lists the columns\n",
    )
