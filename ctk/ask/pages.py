"""
Rows of flows, a page at a time.

Each page is read in a transaction of its own, and none is open while the rows of a page are
handed out: a reader that stands still (`| less`) does not keep the recorder from emptying its
-wal. What is read is fixed at the start: up to the last row that is in the file then, without
those that are written later for a time before it. What is pruned before it is read is missed, and
said so.
"""

import re
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, Generic, NamedTuple, TypeVar

from ctk.ask.connection import add_folded_edges, choose_edges, data_version, one_moment
from ctk.ask.edges import Edges, EdgeValues
from ctk.ask.selectors import (
    Condition,
    all_of,
    both,
    bucket_condition,
    edge_condition,
    folded_condition,
    row_condition,
)
from ctk.ask.spans import held, holding
from ctk.model import Filters
from ctk.store.columns import FLOW_COLUMNS, FOLDED_KEYS, ROW_KEYS, flow_sql
from ctk.timespan import FOREVER_NS

# With this many edges or fewer each is looked up in a bucket; with more, the bucket is read.
_FEW_EDGES = 2_000

# Some 3 ms. Of larger ones the rows, and what is made of them, leave the processor's caches.
PAGE_ROWS = 500
_PAGE_S = 0.1  # a page that finds fewer rows ends after this time, between two buckets

_SQL = {key: sql for key, sql in flow_sql().items() if key in ROW_KEYS}
# Of a file without edges that stand for many: to ask each row takes a third of its reading.
_PLAIN_SQL = _SQL | dict.fromkeys(FOLDED_KEYS, "NULL")
_IN_SPAN = "(f.started_ns, f.n) > (?, ?) AND (f.started_ns, f.n) < (?, ?)"
_NOT_LATER = "(f.started_ns, f.n) NOT IN (SELECT started_ns, n FROM late_flow WHERE id > ?)"

# The id in late_flow where the row was found there, its number, its edge, and what ROW_KEYS name;
# as text: when it started and ended, its source port, and what TEXT_KEYS name as one text.
Row = Sequence[Any]
STARTED, ENDED = (3 + ROW_KEYS.index(key) for key in ("started_ns", "ended_ns"))
_Key = tuple[int, int]  # started_ns and n, the primary key of `flow`


TEXT_KEYS = tuple(key for key in ROW_KEYS if key not in ("started_ns", "ended_ns", "src_port"))


class RowText(NamedTuple):
    """What SQLite writes of a row: `format` has a %s for each value of TEXT_KEYS."""

    format: str
    null: str

    def of(self, values: Iterable[object]) -> bytes:
        """Write values of TEXT_KEYS, as SQLite does; a file may have what is no number there."""
        told = (value if isinstance(value, int) else self.null for value in values)
        return (self.format % tuple(told)).encode()


class Position(NamedTuple):
    """Where a reader of flows stopped: at the last one it had, by time and among the late ones."""

    started_ns: int
    number: int  # tells flows of one nanosecond apart
    late_id: int  # in late_flow, which lists flows written after flows that start later


BEFORE_ALL = Position(-1, 0, 0)

T = TypeVar("T")


class Pages(Generic[T]):
    """
    The rows that fit, oldest first, from a connection that is this question's own.

    With `after`, only those that an earlier reader, which stopped there, has not had: first what
    was written late for a time before it. `pruned_ns` is up to when flows were pruned at the
    start; `missed` is a span that was pruned later, and before it was read. A page comes with what
    `of_edge` makes of the edge of each row. Rows as `text` take half the time, for who writes it.
    """

    def __init__(
        self,
        conn: sqlite3.Connection,
        filters: Filters,
        after: Position | None,
        of_edge: Callable[[EdgeValues], T],
        page_rows: int = PAGE_ROWS,
        *,
        text: RowText | None = None,
    ) -> None:
        self._conn = conn
        # Read once and in order, pages gain nothing from being mapped, and count as memory.
        conn.execute("PRAGMA mmap_size = 0")
        self._edges = Edges(conn, of_edge)
        self._page_rows = page_rows
        self._text = text
        self._filters = filters
        self._after = after
        self.missed: tuple[int, int] | None = None
        with one_moment(conn):
            self.pruned_ns = held(conn)[0].pruned_ns
            self.late_id = _newest_late_id(conn)
            (oldest_ns,) = conn.execute("SELECT MIN(started_ns) FROM flow").fetchone()
            (newest_ns,) = conn.execute("SELECT MAX(started_ns) FROM flow").fetchone()
            (newest,) = conn.execute(
                "SELECT MAX(n) FROM flow WHERE started_ns = ?", (newest_ns,)
            ).fetchone()
            self._choose_edges()
        # Rows are read from behind the first key to before the second.
        self._at: _Key = _before(filters.since_ns, -FOREVER_NS)
        self._end: _Key = _before(filters.until_ns, FOREVER_NS)
        if after is not None:
            self._at = max(self._at, after[:2])
        if newest is None:
            self._end = self._at
        else:
            self._at = max(self._at, _before(oldest_ns))
            self._end = min(self._end, (newest_ns, newest + 1))
        self._since_ns = self._at[0]
        end_ns, number = self._end
        self._until_ns = end_ns if number < 0 else end_ns + 1

    @property
    def part(self) -> float:
        """How much of the span is read, from 0 to 1."""
        whole_ns = self._until_ns - self._since_ns
        return min((self._at[0] - self._since_ns) / whole_ns, 1.0) if whole_ns > 0 else 1.0

    def read(self) -> Iterator[tuple[Sequence[Row], Mapping[int, T]]]:
        """Yield the rows, each once, with what is known of their edges by the edge's id."""
        left = self._filters.first
        if self._after is not None:
            for page in self._late_pages(self._after, left):
                yield page, self._edges.known
                left = None if left is None else left - len(page)
        if self._filters.last is not None:
            last = self._last_rows(self._filters.last)
            for at in range(0, len(last), self._page_rows):
                page = last[at : at + self._page_rows]
                with one_moment(self._conn):
                    self._edges.learn(page)
                yield page, self._edges.known
            return
        while self._at < self._end and left != 0:
            with one_moment(self._conn):
                page = self._page(self._size(left))
                self._edges.learn(page)
            yield page, self._edges.known
            left = None if left is None else left - len(page)

    def position(self, row: Row) -> Position:
        """Give where a reader is that stops at this row."""
        late_id, number = row[:2]
        if late_id is None or self._after is None:
            return Position(row[STARTED], number, self.late_id)
        return self._after._replace(late_id=late_id)

    def _size(self, left: int | None) -> int:
        return self._page_rows if left is None else min(left, self._page_rows)

    def _choose_edges(self) -> None:
        """Find the edges that fit, and what a bucket's row must be where some of theirs may be."""
        terms = self._filters.terms
        self._conditions: list[str] = []
        if fits := edge_condition(terms):
            choose_edges(self._conn, "fitting", fits)
            self._conditions.append("f.edge_id IN (SELECT id FROM temp.fitting)")
        row = row_condition(terms)
        self._values: Sequence[object] = ()
        if row is not None:
            self._conditions.append(row.sql)
            self._values = row.values
        in_bucket = [fits] if (fits := bucket_condition(terms)) else []
        self._possible = folded_condition(terms)
        if self._possible is not None:
            few = choose_edges(self._conn, "possible", self._possible) <= _FEW_EDGES
            # The plus keeps the edge out of the primary key's lookup.
            possible = f"{'' if few else '+'}edge_id IN (SELECT id FROM temp.possible)"
            in_bucket.insert(0, Condition(possible))
        self._in_bucket = all_of(in_bucket) if in_bucket else None
        self._data_version = data_version(self._conn)

    def _late_pages(self, after: Position, left: int | None) -> Iterator[list[Row]]:
        sql = f"""
            SELECT late_flow.id, f.n, f.edge_id, {_of_row(_SQL, self._text)} FROM late_flow
            CROSS JOIN flow AS f ON f.started_ns = late_flow.started_ns AND f.n = late_flow.n
            WHERE late_flow.id > ? AND late_flow.id <= ?
                AND {both([_IN_SPAN, *self._conditions])}
            ORDER BY late_flow.id LIMIT ?
        """
        since = _before(self._filters.since_ns, -FOREVER_NS)
        until = _before(self._filters.until_ns, FOREVER_NS)
        behind = min(until, (after.started_ns, after.number + 1))
        late_id = after.late_id
        while left != 0:
            size = self._size(left)
            bound = (late_id, self.late_id, *since, *behind, *self._values, size)
            with one_moment(self._conn):
                page = self._conn.execute(sql, bound).fetchall()
                self._edges.learn(page)
            yield page
            if len(page) < size:
                return
            late_id, *_ = page[-1]
            left = None if left is None else left - size

    def _last_rows(self, count: int) -> list[Row]:
        """Read the last rows, newest first, and give them oldest first."""
        found: list[Row] = []
        with one_moment(self._conn):
            for start, end in self._parts(newest_first=True):
                if len(found) == count:
                    break
                found += self._read(start, end, count - len(found), newest_first=True)
        return found[::-1]

    def _page(self, size: int) -> list[Row]:
        self._skip_what_was_pruned()
        page: list[Row] = []
        began_s = time.monotonic()
        for start, end in self._parts():
            page += self._read(start, end, size - len(page))
            if len(page) == size:
                self._at = page[-1][STARTED], page[-1][1]
                return page
            self._at = end
            if time.monotonic() - began_s > _PAGE_S:
                return page
        self._at = self._end
        return page

    def _skip_what_was_pruned(self) -> None:
        pruned_ns = held(self._conn)[0].pruned_ns
        if pruned_ns > self.pruned_ns and self._at[0] < pruned_ns:
            since_ns = self._at[0] if self.missed is None else self.missed[0]
            self.missed = since_ns, min(pruned_ns, self._until_ns)
            self._at = _before(pruned_ns)

    def _parts(self, *, newest_first: bool = False) -> Iterator[tuple[_Key, _Key]]:
        """Yield the parts of what is to be read in which rows may fit."""
        if self._at >= self._end:
            return
        if self._in_bucket is None:
            yield self._at, self._end
            return
        if self._possible is not None and self._data_version != data_version(self._conn):
            self._data_version = data_version(self._conn)
            add_folded_edges(self._conn, "possible", self._possible)
        span = self._at[0], self._until_ns
        levels = held(self._conn)
        for start_ns, end_ns in holding(
            self._conn, levels, span, self._in_bucket, newest_first=newest_first
        ):
            yield max(self._at, _before(start_ns)), min(self._end, _before(end_ns))

    def _read(self, start: _Key, end: _Key, limit: int, *, newest_first: bool = False) -> list[Row]:
        conditions = [_IN_SPAN, *self._conditions]
        bound = [*start, *end, *self._values]
        if _newest_late_id(self._conn) > self.late_id:
            conditions.append(_NOT_LATER)
            bound.append(self.late_id)
        order = "DESC" if newest_first else "ASC"
        asked = "SELECT EXISTS (SELECT 1 FROM edge WHERE id < 0)"
        sql = _SQL if self._conn.execute(asked).fetchone()[0] else _PLAIN_SQL
        of_row = _of_row(sql, self._text)
        return self._conn.execute(
            f"SELECT NULL, f.n, f.edge_id, {of_row} FROM flow AS f WHERE {both(conditions)}"
            f" ORDER BY f.started_ns {order}, f.n {order} LIMIT ?",
            (*bound, limit),
        ).fetchall()


def _of_row(sql: Mapping[str, str], text: RowText | None) -> str:
    if text is None:
        return ", ".join(sql.values())
    # Whatever is in a file, numbers are written: it may come from anywhere.
    numbers = {key: f"IFNULL(CAST({sql[key]} AS INTEGER), '{text.null}')" for key in TEXT_KEYS}
    whole = f"printf('{text.format}', {', '.join(numbers.values())})"
    # Where all was measured, nothing need be asked of each value: a seventh of the time.
    known = [key for key in TEXT_KEYS if sql[key] != "NULL"]
    places = ["%d" if key in known else text.null for key in TEXT_KEYS]
    parts = re.split("%[ds]", text.format)
    quick = "".join(chain.from_iterable(zip(parts, [*places, ""], strict=True)))
    measured = " + ".join(sql[key] for key in known if FLOW_COLUMNS[key].measured)
    folded = [f"{sql[key]} IS NOT NULL" for key in known if key in FOLDED_KEYS]
    return (
        f"{sql['started_ns']}, {sql['ended_ns']}, CAST({sql['src_port']} AS INTEGER), CAST(CASE"
        f" WHEN {' AND '.join([f'({measured}) IS NOT NULL', *folded])}"
        f" THEN printf('{quick}', {', '.join(sql[key] for key in known)})"
        f" ELSE {whole} END AS BLOB)"
    )


def _before(at_ns: int | None, otherwise_ns: int = 0) -> _Key:
    """Give a key that is smaller than those of all rows that start then, and of no other."""
    return (otherwise_ns if at_ns is None else at_ns, -1)


def _newest_late_id(conn: sqlite3.Connection) -> int:
    (late_id,) = conn.execute("SELECT COALESCE(MAX(id), 0) FROM late_flow").fetchone()
    return int(late_id)
