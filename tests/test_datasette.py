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


# As `datasette node.db --metadata FILE --get PATH` does; to start it for each takes 2 s.
_GET = """
import json, sys
from click.testing import CliRunner
from datasette.cli import cli
get = [*sys.argv[1:4], "--get"]
got = {path: CliRunner().invoke(cli, [*get, path], catch_exceptions=False) for path in sys.argv[4:]}
assert not any(each.exit_code for each in got.values()), got
print(json.dumps({path: each.stdout for path, each in got.items()}))
"""
_PATHS = (
    "/",
    "/node/flows?_size=1",
    "/node/flows.json?_shape=array&_size=2",
    *(f"/node/{name}.json?_shape=array" for name in QUERIES),
)


@pytest.fixture(scope="module")
def shown(shop_made: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Give the pages as text."""
    node = shutil.copy(shop_made, tmp_path_factory.mktemp("datasette") / "node.db")
    command = [sys.executable, "-c", _GET, node, "--metadata", FILE, *_PATHS]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return {path: re.sub(r"<[^>]*>", "", page) for path, page in json.loads(done.stdout).items()}


def test_its_first_page_shows_views_first(shown: dict[str, str]) -> None:
    first = shown["/"]
    assert re.search(r"0 rows in 0 tables\s*\d+ rows in \d+ hidden tables,\s+12 views", first)
    assert re.search(r"flows,\s+flows_1m,\s+flows_1h", first)


def test_a_view_is_shown_with_its_meaning(shown: dict[str, str]) -> None:
    flows = shown["/node/flows?_size=1"]
    assert VIEWS["flows"] in flows
    assert COLUMNS["flows"]["refused"] in flows
    rows = json.loads(shown["/node/flows.json?_shape=array&_size=2"])
    assert [row["connections"] for row in rows] == [1, 1]  # the newest first


@pytest.mark.parametrize("name", QUERIES)
def test_its_ready_questions_are_answered(shown: dict[str, str], name: str) -> None:
    assert json.loads(shown[f"/node/{name}.json?_shape=array"])
