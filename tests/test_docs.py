"""What the documentation and the help show is what the commands do."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from forkedctk import Forks

import docs
from ctk.cli import COMMANDS

# These run until they are stopped, or need a node's kernel or a cluster: their flags are looked at.
_NOT_RUN = {"record", "collect", "serve", "doctor", "ship"}
_ENDLESS = re.compile(r" (?:-f|--follow|--watch)\b")


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recorded")
    docs.prepare(folder)
    return folder


@pytest.fixture
def folder(recorded: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(recorded, tmp_path / "page", symlinks=True))


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    with Forks() as made:
        yield made


@pytest.mark.parametrize("page", docs.PAGES)
def test_every_output_in_the_documentation_is_what_its_command_prints(
    folder: Path, forks: Forks, page: str
) -> None:
    text = (docs.ROOT / page).read_text("utf-8")
    assert docs.rewritten(text, folder, forks) == text


@pytest.mark.parametrize("page", docs.PAGES)
def test_what_a_page_asks_of_ctk_elsewhere_has_the_flags_that_there_are(page: str) -> None:
    for command, asked in docs.asked_of_ctk((docs.ROOT / page).read_text("utf-8")):
        assert set(asked) <= docs.flags(command), command


@pytest.mark.parametrize("page", docs.PAGES)
def test_scripts_in_the_documentation_run(folder: Path, page: str) -> None:
    for script in docs.blocks("python").findall((docs.ROOT / page).read_text("utf-8")):
        (folder / "script.py").write_text(script, "utf-8")
        done = docs.run("python script.py", folder)
        assert (done.returncode, "Traceback" in done.stdout) == (0, False), done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_the_examples_in_the_help_run(folder: Path, forks: Forks, command: str) -> None:
    for example in docs.help_examples(command):
        if command in _NOT_RUN:
            assert set(re.findall(r"(?<= )--?[a-z][a-z-]*", example)) <= docs.flags(command)
            continue
        endless = _ENDLESS.search(example)
        done = docs.run(f"timeout -s INT 3 {example}" if endless else example, folder, forks)
        assert "Error:" not in done.stdout, f"{example}\n{done.stdout}"
        assert done.returncode in ((124, 130, 0) if endless else (0,)), f"{example}\n{done.stdout}"


def test_commands_end_where_their_quotes_do() -> None:
    block = "$ a 'b\n  c'\nprinted\n$ d \\\n  e\nmore\n"
    assert list(docs.commands(block)) == ["a 'b\n  c'", "d \\\n  e"]
