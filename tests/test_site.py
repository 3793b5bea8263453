"""The documentation's site: its links lead somewhere, and it asks no other site for anything."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ctk.cli import COMMANDS

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build it as `make site` does; a link that leads nowhere fails that."""
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", out]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return out


def test_every_page_of_docs_is_in_it(site: Path) -> None:
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")}
    assert pages - {path.stem for path in site.glob("*.html")} == set()


def test_the_reference_has_every_command(site: Path) -> None:
    text = (site / "reference" / "commands.html").read_text()
    headings = re.findall(r'<h2 id="ctk-([a-z-]+)"', text)
    assert headings == list(COMMANDS)
    assert "flows_1m" in (site / "reference" / "schema.html").read_text()


def test_nothing_on_its_pages_comes_from_elsewhere(site: Path) -> None:
    loads = re.compile(
        r'<(?:script|img|iframe)[^>]* src="(https?:[^"]+)|<link[^>]* href="(https?:)'
    )
    assert [path.name for path in site.rglob("*.html") if loads.search(path.read_text())] == []
