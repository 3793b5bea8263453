"""The flows that fit a question, oldest first."""

from collections.abc import Generator, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from functools import lru_cache

from ctk.ask.caveats import Caveat, PrunedMeanwhile, caveats_of, pruned_of_span
from ctk.ask.connection import Connect, one_moment
from ctk.ask.folded import folded_of
from ctk.ask.pages import PAGE_ROWS, Pages, Position, Row
from ctk.ask.spans import Piece
from ctk.model import Filters
from ctk.store.columns import FlowRecord
from ctk.timespan import FOREVER_NS, SECOND


class Flows(Iterator[FlowRecord]):
    """
    The flows that fit, oldest first: read as they are asked for, and once.

    They are those in the file when the first of them is asked for. Between two of them the file
    is not held: a recorder goes on, and what it prunes meanwhile is a caveat.
    """

    def __init__(
        self,
        connect: Connect,
        filters: Filters,
        after: Position | None = None,
        page_rows: int = PAGE_ROWS,
    ) -> None:
        """Ask for the flows that fit; with `after`, for those that a reader up to there had not."""
        self._page_rows = page_rows
        self._connect = connect
        self._filters = filters
        self._after = after
        self._pages: Pages | None = None
        self._row: Row | None = None
        self._reach: tuple[int, int] | None = None  # when the first and the last one started
        self._found_none = False  # though all were read
        self._records = self._read()

    def __iter__(self) -> "Flows":
        return self

    def __next__(self) -> FlowRecord:
        return next(self._records)

    def close(self) -> None:
        """End here: there are no more flows."""
        self._records.close()

    @property
    def position(self) -> Position | None:
        """Where a reader is that has had the flows given so far, for `after`; None at the start."""
        if self._pages is None or self._row is None:
            return self._after
        return self._pages.position(self._row)

    @property
    def caveats(self) -> tuple[Caveat, ...]:
        """
        What the flows lack: what was lost, and what was pruned.

        Before the first flow these are the caveats of the span that was asked for. After the last
        one they are complete: with what was pruned meanwhile, and of the span that was read where
        `first` or `last` cut it.
        """
        since_ns, until_ns = self._filters.since_ns, self._filters.until_ns
        if self._reach is not None and self._filters.last is not None:
            since_ns = self._reach[0]
        if self._reach is not None and self._filters.first is not None:
            until_ns = self._reach[1] + 1
        if self._after is not None:  # the reader before this one was told of what was before
            since_ns = max(self._after.started_ns, since_ns or 0)
        pages = self._pages
        pruned_ns = None if pages is None else pages.pruned_ns
        with self._connect() as conn, one_moment(conn):
            read = replace(self._filters, since_ns=since_ns, until_ns=until_ns)
            found = list(caveats_of(conn, read))
            found += pruned_of_span(conn, since_ns, until_ns, pruned_ns)
            span = (-FOREVER_NS if since_ns is None else since_ns, until_ns or FOREVER_NS)
            found += folded_of(conn, [Piece("flow", *span)], self._filters)
            if self._found_none and self._after is None:
                from ctk.ask.nothing import why_nothing

                found[:0] = why_nothing(conn, self._filters)
        if pages is not None and pages.missed is not None:
            found.append(PrunedMeanwhile(*pages.missed))
        return tuple(found)

    def _read(self) -> Generator[FlowRecord, None, None]:
        with self._connect() as conn:
            self._pages = Pages(conn, self._filters, self._after, self._page_rows)
            first_ns, last_ns = FOREVER_NS, -FOREVER_NS
            for row in self._pages.rows():
                _, _, started_ns, ended_ns, *rest = row
                # Only what was written late is out of order.
                first_ns = started_ns if started_ns < first_ns else first_ns
                last_ns = started_ns if started_ns > last_ns else last_ns
                self._row, self._reach = row, (first_ns, last_ns)
                yield FlowRecord(_text(started_ns), _text(ended_ns), started_ns, ended_ns, *rest)
            self._found_none = self._row is None


def _text(time_ns: int) -> str:
    seconds, fraction_ns = divmod(time_ns, SECOND)
    return f"{_second(seconds)}.{fraction_ns:09d}Z"


# Rows come in order, so most share their second with the one before.
@lru_cache(maxsize=64)
def _second(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}"
