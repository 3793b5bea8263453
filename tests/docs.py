"""
Holds the documentation to what the commands in it print.

A fenced block of `console` has commands behind `$ ` and, below each, what it printed. All of a page
are run, in order, in an empty folder that has the fixtures and files to ask: the node that
README.md records as demo.db and node.db, a second one as other.db, that of shopnode.py as shop.db.
`--write` puts their output in place of what stands there. A block of `pycon` is examples of Python
as an interpreter shows them; those of one page are run one after another, behind its commands. What
a block of `sh` asks of ctk needs a cluster or root: its flags are those that there are. The
examples in the help are run like those of a page, and blocks of `python` as scripts.
"""

import doctest
import os
import re
import shlex
import subprocess
import sys
import tempfile
import textwrap
import traceback
from collections.abc import Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import click
from forkedctk import Forks

from ctk.cli import COMMANDS, main

ROOT = Path(__file__).parent.parent
PAGES = ("README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")))
OBJECTS = ("pods.page1", "pods.page2", "services", "endpointslices", "nodes")
NAMES = " ".join(f"--objects fixtures/kube/{name}.json" for name in OBJECTS)
RECORD = (
    f"ctk record demo.db --from-capture fixtures/captures/demo.ctkcap.gz {NAMES}",
    f"ctk record other.db --from-capture fixtures/captures/node.ctkcap.gz {NAMES}"
    " --node-name kl-worker",
)
_WIDTH = "120"


def blocks(language: str) -> re.Pattern[str]:
    return re.compile(rf"(?<=```{language}\n)(?:(?!```).*\n)*")


def prepare(folder: Path) -> None:
    """Put into a folder what the examples ask: the recorded node, by two names, and another."""
    (folder / "fixtures").symlink_to(ROOT / "fixtures")
    for command in RECORD:
        done = run(command, folder)
        assert done.returncode == 0, done.stdout
    (folder / "node.db").write_bytes((folder / "demo.db").read_bytes())
    done = run(f"{sys.executable} {ROOT}/tests/shopnode.py shop.db", folder)
    assert done.returncode == 0, done.stdout


def run(command: str, folder: Path, forks: Forks | None = None) -> subprocess.CompletedProcess[str]:
    """
    Run a line of shell as a reader of the page would; its output is what both streams got.

    What needs no shell is one of `forks` where there are such.
    """
    environment = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "COLUMNS": _WIDTH,
        "TZ": "UTC",
    }
    if forks is not None and (words := _without_shell(command)):
        return subprocess.CompletedProcess(command, *forks.run(words, folder, environment))
    return subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=60,
    )


def _without_shell(command: str) -> list[str]:
    """Give the words behind `ctk` where a shell would do nothing but take them apart."""
    words = shlex.split(command)
    quoted = "|".join((r"'[^']*'", r'"[^"$`\\]*"'))
    shell = re.search(r"[^\w\s./:,=@%+-]", re.sub(quoted, "", command)) or "=" in words[0]
    return words[1:] if words[0] == "ctk" and not shell else []


def commands(block: str) -> Iterator[str]:
    """Yield the commands of a block: each goes on while a quote is open or its line ends in \\."""
    lines = iter(block.splitlines())
    for line in lines:
        if not line.startswith("$ "):
            continue
        command = line[2:]
        while _is_open(command):
            command += f"\n{next(lines)}"
        yield command


def _is_open(command: str) -> bool:
    try:
        shlex.split(command)
    except ValueError:
        return True
    return command.endswith("\\")


def rewritten(text: str, folder: Path, forks: Forks | None = None) -> str:
    """Return a page with the output of every command in it made anew in a prepared folder."""

    def printed(match: re.Match[str]) -> str:
        shown = ""
        for command in commands(match[0]):
            for db in ("demo.db", "other.db"):  # as a reader does, who has none yet
                if command.startswith(f"ctk record {db}"):
                    (folder / db).unlink()
            output = run(command, folder, forks).stdout.splitlines()
            shown += f"$ {command}\n" + "".join(f"{line.rstrip()}\n" for line in output)
        return shown

    text = blocks("console").sub(printed, text)
    if "```pycon" not in text:
        return text
    # In a process of its own, whose folder is that of the page's files.
    examples = [sys.executable, __file__, "--examples"]
    return subprocess.run(
        examples, input=text, cwd=folder, stdout=subprocess.PIPE, text=True, check=True, timeout=60
    ).stdout


def with_examples_run(text: str) -> str:
    """Return a page with what its examples of Python give."""
    names: dict[str, object] = {"__name__": "__main__"}

    def run_examples(match: re.Match[str]) -> str:
        shown = []
        for example in doctest.DocTestParser().get_examples(match[0]):
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

    return blocks("pycon").sub(run_examples, text)


def asked_of_ctk(text: str) -> Iterator[tuple[str, list[str]]]:
    """Yield each command of ctk in a page's blocks of `sh`, and its flags."""
    for block in blocks("sh").findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            match = re.search(r"(?:^|[ (])ctk ([a-z]+)( .*)?$", line.partition(" #")[0])
            if match and match[1] in COMMANDS:
                yield match[1], re.findall(r"(?<= )--?[a-z][a-z-]*", match[2] or "")


def flags(command: str) -> set[str]:
    """Give the flags of a command of ctk."""
    context = click.Context(main)
    found = main.get_command(context, command)
    assert found is not None
    return {flag for param in found.get_params(context) for flag in param.opts}


def help_examples(command: str) -> list[str]:
    """Give the examples in the help of a command: its lines that begin with `ctk `."""
    found = main.get_command(click.Context(main), command)
    assert found is not None
    shown = found.get_help(click.Context(found, info_name=f"ctk {command}"))
    lines = iter(textwrap.dedent(shown).splitlines())
    examples = []
    for line in lines:
        if re.match(r"  ctk [a-z]", line):
            example = line.strip()
            while _is_open(example):
                example += f"\n{next(lines).strip()}"
            examples.append(example)
    return examples


def write() -> None:
    from datasettefile import FILE, metadata

    for page in PAGES:
        path = ROOT / page
        with tempfile.TemporaryDirectory() as name:
            prepare(Path(name))
            path.write_text(rewritten(path.read_text("utf-8"), Path(name)), "utf-8")
    FILE.write_text(metadata(), "utf-8")


if __name__ == "__main__":
    if sys.argv[1:] == ["--examples"]:
        sys.stdout.write(with_examples_run(sys.stdin.read()))
    elif sys.argv[1:] == ["--write"]:
        write()
    else:
        sys.exit("Usage: docs.py --write")
