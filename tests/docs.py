"""
Holds the documentation to what the commands in it print.

A fenced block of `console` starts with `$ COMMAND`; what follows is what that command printed. All
of them are run in an empty folder that has the fixtures, those that record first; `--write` puts
their output in place of what stands there. A block of `pycon` is examples of Python as an
interpreter shows them; those of one page are run one after another, behind its commands.
"""

import doctest
import os
import re
import subprocess
import sys
import tempfile
import textwrap
import traceback
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = ("README.md", "docs/python.md")
_BLOCK = re.compile(r"(?<=```console\n)\$ (?P<command>(?:.*\\\n)*.+)\n(?P<output>(?:(?!```).*\n)*)")
_EXAMPLES = re.compile(r"(?<=```pycon\n)(?P<examples>(?:(?!```).*\n)*)")
_WIDTH = "120"


def rewritten(text: str, folder: Path) -> str:
    """Return a page with the output of every command in it made anew in `folder`."""
    printed: dict[str, str] = {}

    def run(command: str) -> None:
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=folder,
            env=os.environ
            | {
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                "COLUMNS": _WIDTH,
                "TZ": "UTC",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=60,
        )
        printed[command] = "".join(f"{line.rstrip()}\n" for line in done.stdout.splitlines())

    commands = [match["command"] for match in _BLOCK.finditer(text)]
    for command in sorted(commands, key=lambda one: not one.startswith("ctk record")):
        run(command)
    text = _BLOCK.sub(lambda match: f"$ {match['command']}\n{printed[match['command']]}", text)
    if not _EXAMPLES.search(text):
        return text
    # In a process of its own, whose folder is that of the page's files.
    examples = [sys.executable, __file__, "--examples"]
    return subprocess.run(
        examples, input=text, cwd=folder, stdout=subprocess.PIPE, text=True, check=True, timeout=60
    ).stdout


def with_examples_run(text: str) -> str:
    """Return a page with what its examples of Python give."""
    names: dict[str, object] = {"__name__": "__main__"}

    def run(match: re.Match[str]) -> str:
        shown = []
        for example in doctest.DocTestParser().get_examples(match["examples"]):
            first, *more = example.source.splitlines()
            shown += [f">>> {first}", *(f"... {line}".rstrip() for line in more)]
            with redirect_stdout(StringIO()) as printed:
                try:
                    exec(compile(example.source, "<page>", "single"), names)
                except Exception as error:  # noqa: BLE001 - what an interpreter shows
                    print("Traceback (most recent call last):\n    ...")
                    print("".join(traceback.format_exception_only(error)), end="")
            shown += [
                part
                for line in printed.getvalue().splitlines()
                for part in textwrap.wrap(line, 100, subsequent_indent="  ") or [""]
            ]
        return "".join(f"{line}\n" for line in shown)

    return _EXAMPLES.sub(run, text)


def write() -> None:
    for page in PAGES:
        path = ROOT / page
        with tempfile.TemporaryDirectory() as name:
            (Path(name) / "fixtures").symlink_to(ROOT / "fixtures")
            path.write_text(rewritten(path.read_text("utf-8"), Path(name)), "utf-8")


if __name__ == "__main__":
    if sys.argv[1:] == ["--examples"]:
        sys.stdout.write(with_examples_run(sys.stdin.read()))
    elif sys.argv[1:] == ["--write"]:
        write()
    else:
        sys.exit("Usage: docs.py --write")
