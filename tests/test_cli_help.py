"""The help: what it costs, whether it fits, and the manual pages made from it."""

import re
import shutil
import subprocess
from collections.abc import Callable

import pytest
from click.testing import Result

from ctk.cli import COMMANDS, GROUPS

Invoke = Callable[..., Result]


@pytest.mark.parametrize("columns", [80, 200])
@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_all_help_fits_eighty_columns(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch, command: str, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    shown = invoke(*command.split(), "--help").stdout
    assert [line for line in shown.splitlines() if len(line) > 80] == []


def test_the_help_has_three_examples_and_every_command_in_a_group(invoke: Invoke) -> None:
    shown = invoke("--help").stdout
    assert shown.count("\n  ctk ") == 3
    for title, commands in GROUPS.items():
        group = shown.partition(f"\n{title}:\n")[2].partition("\n\n")[0]
        assert [line.split()[0] for line in group.splitlines() if line[2] != " "] == list(commands)


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_of_a_command_is_what_its_flag_shows(invoke: Invoke, command: str) -> None:
    assert invoke("help", *command.split()).stdout == invoke(*command.split(), "--help").stdout


def test_help_of_no_command_is_asked_wrongly(invoke: Invoke) -> None:
    result = invoke("help", "topp")
    assert (result.exit_code, result.stdout, result.stderr) == (
        2,
        "",
        "Error: No such command 'topp'\nTry: ctk top\n",
    )


def test_record_has_its_options_under_headings(invoke: Invoke) -> None:
    shown = invoke("record", "--help").stdout
    titles = [line for line in shown.splitlines() if line.endswith(":") and line[0] != " "]
    assert titles == [
        "Names:",
        "What is recorded:",
        "How it is kept:",
        "The kernel:",
        "Records as they come:",
        "How it is watched:",
        "Options:",
    ]


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_a_manual_page_has_all_that_the_help_says(invoke: Invoke, command: str) -> None:
    page = invoke("help", *command.split(), "--man").stdout
    # A line that begins so is taken for a request, and left out where there is none by that name.
    requests = {line.split()[0] for line in page.splitlines() if line[:1] in (".", "'")}
    assert requests <= {".TH", ".SH", ".PP", ".TP", ".B", ".nf", ".fi"}
    shown = _words(invoke(*command.split(), "--help").stdout.partition("\n\n")[2])
    groff = shutil.which("groff")
    if groff is None:
        said = page.replace("\\", "")
    else:
        done = subprocess.run(
            [groff, "-man", "-Tascii", "-P-c", "-ww", "-rHY=0"],
            input=page,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stderr == ""
        said = re.sub(".\b", "", done.stdout)  # bold is a letter struck twice
    # Headings are capitals there, and commands have their page's name.
    missing = [word for word in shown if word.strip(":").lower() not in said.lower()]
    assert missing == []


@pytest.mark.parametrize("command", ["diff", "failures", "idle", "new", "report"])
def test_what_a_command_refuses_is_not_in_its_help(invoke: Invoke, command: str) -> None:
    said = invoke(command, "--help").stdout
    assert "--last" not in said
    assert "--first" not in said
    assert "--since" in said


def _words(text: str) -> list[str]:
    # Help breaks words at their hyphens, and the short help of a command in a group of its own.
    return [word for word in text.split() if "-" not in word and not word.endswith("...")]
