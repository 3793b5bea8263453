"""The flows that fit a question, oldest first."""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Any, TypeVar

from ctk.ask.caveats import Caveat, PrunedMeanwhile, caveats_of, pruned_of_span
from ctk.ask.connection import Connect, one_moment
from ctk.ask.edges import EdgeValues
from ctk.ask.folded import folded_of
from ctk.ask.pages import ENDED, PAGE_ROWS, STARTED, Pages, Position, Row, RowText
from ctk.ask.spans import Piece
from ctk.model import Filters
from ctk.store.columns import EDGE_KEYS, FLOW_KEYS, ROW_KEYS, FlowRecord
from ctk.timespan import FOREVER_NS, format_time

T = TypeVar("T")
FlowPage = tuple[Sequence[Row], Mapping[int, T]]  # rows, and what is known of their edges


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
        self._pages: Pages[Any] | None = None
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
    def part(self) -> float:
        """How much of the span is read, from 0 to 1, by time."""
        return self._pages.part if self._pages is not None else 0.0

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
            read = self._filters._replace(since_ns=since_ns, until_ns=until_ns)
            found = list(caveats_of(conn, read))
            found += pruned_of_span(conn, since_ns, until_ns, pruned_ns)
            span = (-FOREVER_NS if since_ns is None else since_ns, until_ns or FOREVER_NS)
            found += folded_of(conn, [Piece("flow", *span)], self._filters, shown=None)
            if self._found_none and self._after is None:
                from ctk.ask.nothing import why_nothing

                found[:0] = why_nothing(conn, self._filters)
        if pages is not None and pages.missed is not None:
            found.append(PrunedMeanwhile(*pages.missed))
        return tuple(found)

    def pages(
        self, of_edge: Callable[[EdgeValues], T], *, text: RowText | None = None
    ) -> Iterator[FlowPage[T]]:
        """
        Give the flows that are left as rows, many at a time, in place of records.

        With them comes what `of_edge` makes of what the flows of one edge have in common. For
        `position` and `caveats` a page counts as given when the next one is asked for.
        """
        return self._pages_of(of_edge, text=text)

    def position_of(self, row: Row) -> Position:
        """Give where a reader is that stops at this row, one of a page that was given."""
        assert self._pages is not None
        return self._pages.position(row)

    def _read(self) -> Generator[FlowRecord, None, None]:
        for rows, edges in self._pages_of(tuple):
            for row in rows:
                self._row = row
                yield record_of(row, edges[row[2]])

    def _pages_of(
        self, of_edge: Callable[[EdgeValues], T], *, text: RowText | None = None
    ) -> Iterator[FlowPage[T]]:
        with self._connect() as conn:
            pages = Pages(conn, self._filters, self._after, of_edge, self._page_rows, text=text)
            self._pages = pages
            first_ns, last_ns = FOREVER_NS, -FOREVER_NS
            for rows, edges in pages.read():
                if not rows:
                    continue
                started_ns = list(map(_started, rows))  # only what was written late is not in order
                first_ns, last_ns = min(first_ns, *started_ns), max(last_ns, *started_ns)
                self._reach = first_ns, last_ns
                yield rows, edges
                self._row = rows[-1]
            self._found_none = last_ns < first_ns


_started = itemgetter(STARTED)
_PLACES = ("started_at", "ended_at", *ROW_KEYS, *EDGE_KEYS)
_in_order = itemgetter(*(_PLACES.index(key) for key in FLOW_KEYS))


def record_of(row: Row, edge: EdgeValues) -> FlowRecord:
    """Give a row of a page, and what its edge says, as a record."""
    started_at, ended_at = format_time(row[STARTED]), format_time(row[ENDED])
    return FlowRecord._make(_in_order((started_at, ended_at, *row[3:], *edge)))
