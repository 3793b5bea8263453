"""Datasette shows a file with docs/datasette.json: views first, and what their columns mean."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from datasettefile import FILE, QUERIES, metadata

from ctk.store.meanings import COLUMNS, VIEWS


def test_its_metadata_is_what_ctk_says_of_a_file() -> None:
    assert FILE.read_text("utf-8") == metadata()


@pytest.fixture
def node(shop: Path) -> Path:
    return Path(shutil.move(shop, shop.with_name("node.db")))


def _get(file: Path, path: str) -> str:
    command = [sys.executable, "-m", "datasette", file, "--metadata", FILE, "--get", path]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return re.sub(r"<[^>]*>", "", done.stdout)


def test_its_first_page_shows_views_first(node: Path) -> None:
    shown = _get(node, "/")
    assert re.search(r"0 rows in 0 tables\s*\d+ rows in \d+ hidden tables,\s+12 views", shown)
    assert re.search(r"flows,\s+flows_1m,\s+flows_1h", shown)


def test_a_view_is_shown_with_its_meaning(node: Path) -> None:
    shown = _get(node, "/node/flows?_size=1")
    assert VIEWS["flows"] in shown
    assert COLUMNS["flows"]["refused"] in shown
    rows = json.loads(_get(node, "/node/flows.json?_shape=array&_size=2"))
    assert [row["connections"] for row in rows] == [1, 1]  # the newest first


@pytest.mark.parametrize("name", QUERIES)
def test_its_ready_questions_are_answered(node: Path, name: str) -> None:
    assert json.loads(_get(node, f"/node/{name}.json?_shape=array"))
