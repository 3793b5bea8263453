"""
ctk as forks of one process, for who runs many of its commands.

To start Python and import what a command needs takes longer than most answers. A process of its
own, without threads or anything else of a test, has imported it, and forks for each command.
"""

import json
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NoReturn, Self


class Forks:
    """Where they are made; `run` gives the exit code, and what both streams got."""

    def __enter__(self) -> Self:
        pipe = subprocess.PIPE
        self._server = subprocess.Popen([sys.executable, __file__], stdin=pipe, stdout=pipe)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.communicate()

    def run(
        self, words: list[str], folder: Path, environment: Mapping[str, str]
    ) -> tuple[int, str]:
        """Run `ctk` with these words behind its name, without input."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        asked = json.dumps({"words": words, "folder": str(folder), "environment": {**environment}})
        self._server.stdin.write(f"{asked}\n".encode())
        self._server.stdin.flush()
        code, output = json.loads(self._server.stdout.readline())
        return code, output


def _serve() -> None:
    import click

    from ctk.cli import COMMANDS, main

    for name in COMMANDS:
        main.get_command(click.Context(main), name)
    for line in sys.stdin:
        with tempfile.TemporaryFile() as out:
            pid = os.fork()
            if pid == 0:
                _be_ctk(out, **json.loads(line))
            _, status = os.waitpid(pid, 0)
            out.seek(0)
            answer = (os.waitstatus_to_exitcode(status), out.read().decode())
        print(json.dumps(answer), flush=True)


def _be_ctk(out: IO[bytes], words: list[str], folder: str, environment: dict[str, str]) -> NoReturn:
    from ctk.cli import main

    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(out.fileno(), 1)
    os.dup2(out.fileno(), 2)
    os.chdir(folder)
    os.environ |= environment
    sys.argv = ["ctk", *words]
    code: Any = 1
    try:
        main()  # it ends the process, but where a thread is left
    except SystemExit as ended:
        code = ended.code
    except BaseException:  # noqa: BLE001 - shown as Python would
        traceback.print_exc()
    sys.stdout.flush()
    os._exit(code)


if __name__ == "__main__":
    _serve()
