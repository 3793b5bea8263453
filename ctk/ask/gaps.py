"""The answer to which gaps there are: the spans in which something was lost or unknown."""

import sqlite3
from collections.abc import Iterator

from ctk.ask.caveats import Caveat, caveats_of
from ctk.ask.storedgaps import StoredGap, gaps_of
from ctk.model import Filters


class Gaps:
    """The gaps that touch a span, oldest first; `len` and iteration are of these."""

    def __init__(self, *, rows: tuple[StoredGap, ...], caveats: tuple[Caveat, ...]) -> None:
        self.rows = rows
        self.caveats = caveats

    def __iter__(self) -> Iterator[StoredGap]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Gaps):
            return NotImplemented
        return (self.rows, self.caveats) == (other.rows, other.caveats)

    def __hash__(self) -> int:
        return hash((self.rows, self.caveats))

    def __repr__(self) -> str:
        return f"Gaps(rows={self.rows!r}, caveats={self.caveats!r})"


def gaps(conn: sqlite3.Connection, span: Filters) -> Gaps:
    """Give the gaps that touch a span, oldest first."""
    found = gaps_of(conn, span.since_ns, span.until_ns)
    return Gaps(rows=found, caveats=tuple(caveats_of(conn, span, gaps=False)))
