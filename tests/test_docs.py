"""What the documentation shows is what the commands print."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import docs


@pytest.mark.parametrize("page", docs.PAGES)
def test_every_output_in_the_documentation_is_what_its_command_prints(tmp_path, page):
    (tmp_path / "fixtures").symlink_to(docs.ROOT / "fixtures")
    text = (docs.ROOT / page).read_text("utf-8")
    assert "```console" in text
    assert docs.rewritten(text, tmp_path) == text
