"""
Holds the documentation to what the commands in it print.

A fenced block of `console` starts with `$ COMMAND`; what follows is what that command printed. All
of them are run in an empty folder that has the fixtures, those that record first; `--write` puts
their output in place of what stands there.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = ("README.md",)
_BLOCK = re.compile(r"(?<=```console\n)\$ (?P<command>(?:.*\\\n)*.+)\n(?P<output>(?:(?!```).*\n)*)")
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
    return _BLOCK.sub(lambda match: f"$ {match['command']}\n{printed[match['command']]}", text)


def write() -> None:
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "fixtures").symlink_to(ROOT / "fixtures")
        for page in PAGES:
            path = ROOT / page
            path.write_text(rewritten(path.read_text("utf-8"), Path(name)), "utf-8")


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit("Usage: docs.py --write")
    write()
