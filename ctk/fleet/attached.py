"""The files of a merge, attached to the connection that writes: some at a time, by their number."""

import sqlite3
from collections.abc import Sequence

from ctk.fleet.inputs import Input

_MOST = 8  # SQLite attaches ten, unless it was built with another limit


class Attached:
    """Attaches a file when it is asked for, and lets go of the one that was asked for first."""

    def __init__(self, conn: sqlite3.Connection, inputs: Sequence[Input]) -> None:
        self._conn = conn
        self._inputs = inputs
        self._names: dict[int, str] = {}

    def __getitem__(self, file: int) -> str:
        """Give the name of a file's schema; those of up to seven others go on to be valid."""
        if file not in self._names:
            if len(self._names) == _MOST:
                self._let_go(next(iter(self._names)))
            name = f"f{file}"
            self._inputs[file].source.attach(self._conn, name)
            self._names[file] = name
        return self._names[file]

    def close(self) -> None:
        """Let go of all."""
        for file in list(self._names):
            self._let_go(file)

    def _let_go(self, file: int) -> None:
        self._conn.execute(f'DETACH "{self._names.pop(file)}"')
