"""
What the flows of one edge have in common, read once for many of them.

Joining the tables of names to each flow takes 25 µs a flow; flows of one edge are many.
"""

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, TypeVar

from ctk.ask.connection import data_version
from ctk.errors import StoreError
from ctk.store.columns import EDGE_KEYS, FLOW_COLUMNS, JOINS

EdgeValues = Sequence[Any]  # what EDGE_KEYS name
T = TypeVar("T")

MOST_EDGES = 16_384  # edges that are kept: some 15 MB of them as lines of JSON
_OF_EDGE = ", ".join(FLOW_COLUMNS[key].sql for key in EDGE_KEYS)
_SELECT = (
    f"SELECT edge.id, {_OF_EDGE} FROM json_each(?) AS wanted"
    f" CROSS JOIN edge ON edge.id = wanted.value {' '.join(JOINS.values())}"
)


class Edges(Generic[T]):
    """What `of_edge` makes of the edges of the rows that are read, by the edge's id."""

    def __init__(self, conn: sqlite3.Connection, of_edge: Callable[[EdgeValues], T]) -> None:
        self.known: dict[int, T] = {}
        self._conn = conn
        self._of_edge = of_edge
        self._read_at = -1  # the state of the file that they are of

    def learn(self, rows: Iterable[Sequence[Any]]) -> None:
        """Know the edges of these rows as they are now: who was unknown may have a name since."""
        version = data_version(self._conn)
        if version != self._read_at or len(self.known) > MOST_EDGES:
            self._read_at, self.known = version, {}
        wanted = {row[2] for row in rows}.difference(self.known)
        if not wanted:
            return
        for edge_id, *values in self._conn.execute(_SELECT, (str(list(wanted)),)):
            self.known[edge_id] = self._of_edge(values)
        if not wanted <= self.known.keys():
            raise StoreError(
                "the file is damaged: who some of its flows are of is missing",
                hint="copy what can be read with `sqlite3 FILE .recover`",
            )
