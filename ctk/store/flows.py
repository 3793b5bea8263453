"""
The table of flows: rows appended by time, and the few that come out of order.

Appending fills pages, where inserting anywhere leaves them half full.
"""

import sqlite3
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import chain
from operator import itemgetter

from ctk.model import LONE_COUNTS, FlowRow, counts_of
from ctk.model.lone import LoneEvents
from ctk.store import bulk, folded, rollup
from ctk.store.columns import COUNT_KEYS, MEASURED_KEYS
from ctk.store.folded import FoldedCount
from ctk.store.identities import Identities
from ctk.store.late import LateRows, count_late, plus
from ctk.store.levels import Level, watermarks
from ctk.timespan import FOREVER_NS

_FLOW_COLUMNS = ("started_ns", "n", "edge_id", "lasted_ns", "src_port")
_FLOW = bulk.plain("flow", (*_FLOW_COLUMNS, *COUNT_KEYS))
# Five bound values instead of fifteen take half the time. What is not measured stays NULL.
_LONE_EVENT = bulk.insert(
    f"INSERT INTO flow({', '.join((*_FLOW_COLUMNS, *LONE_COUNTS))})"
    " SELECT column1, column2, column3, 0, column4,"
    f" {', '.join(f'(column5 >> {at}) & 1' for at in range(len(LONE_COUNTS)))} FROM (VALUES ",
    5,
    ")",
)
_LONE_COLUMNS = ("started_ns", "n", "edge_id", "src_port", "lasted_ns", *LONE_COUNTS)
_NEXT_N = "SELECT COALESCE(MAX(n) + 1, 0) FROM flow WHERE started_ns = ?"
_NOT_MEASURED = (None,) * len(MEASURED_KEYS)

_started_of_row = itemgetter(1)


class FlowTable:
    """Takes the rows of windows; `newest_ns` is the start of the newest row in the file."""

    def __init__(
        self, conn: sqlite3.Connection, identities: Identities, levels: Sequence[Level]
    ) -> None:
        self._conn = conn
        self._identities = identities
        self.folding = rollup.OpenBucket()
        self.late = LateRows(conn, levels, self.folding)
        (newest_ns,) = conn.execute("SELECT MAX(started_ns) FROM flow").fetchone()
        self.newest_ns: int = -FOREVER_NS if newest_ns is None else newest_ns

    def insert(
        self,
        rows: Iterable[FlowRow],
        events: LoneEvents[int],
        addresses: Sequence[FoldedCount] = (),
    ) -> None:
        """
        Insert rows, and lone events of edges, in any order, and the edges that are new.

        What starts in a bucket that is finished is added to it; flows of a time that was pruned
        stand in their buckets only.
        """
        ordered = sorted(rows, key=_started_of_row)
        lone = events.by_time()
        self._identities.flush(self._first_seen(ordered, lone))
        first_n = len(lone)
        starts = [row.started_ns for row in ordered[:1]] + lone.started_ns[:1]
        self.folding.inserted(min(starts, default=FOREVER_NS))

        by_level = watermarks(self._conn)
        settled_ns = rollup.settled_ns(by_level)
        settled, settled_lone = _split(ordered, lone, settled_ns)
        if settled or settled_lone:
            late = chain(ordered[:settled], rows_of(lone.part(0, settled_lone)))
            self.late.add(by_level, ((row.started_ns, row.edge_id, row.counts) for row in late))
        for count in _beside(ordered, addresses):
            if count.started_ns < settled_ns:
                count_late(self._conn, by_level, count)
            if count.started_ns >= (by_level["flow"].pruned_ns or -FOREVER_NS):
                folded.add(self._conn, "flow", [count])
        pruned, pruned_lone = _split(ordered, lone, by_level["flow"].pruned_ns or -FOREVER_NS)
        before, lone_before = _split(ordered, lone, self.newest_ns + 1)
        for row in chain(ordered[pruned:before], rows_of(lone.part(pruned_lone, lone_before))):
            self._insert_out_of_order(row)
        ordered = ordered[max(pruned, before) :]
        lone = lone.part(max(pruned_lone, lone_before))
        # Any number tells rows of one time apart; counting through is the cheapest.
        numbers = range(len(lone))
        columns = [lone.started_ns, numbers, lone.owners, lone.src_ports]
        kinds = set(lone.counts)
        if len(kinds) == 1:
            bulk.run_columns(self._conn, _alike(*kinds), columns)
        else:
            bulk.run_columns(self._conn, _LONE_EVENT, [*columns, lone.counts])
        bulk.run(self._conn, _FLOW, list(_numbered(ordered, first_n)))
        newest = [row.started_ns for row in ordered[-1:]] + lone.started_ns[-1:]
        self.newest_ns = max([self.newest_ns, *newest])

    def _first_seen(self, rows: Sequence[FlowRow], lone: LoneEvents[int]) -> Mapping[int, int]:
        """Give when the edges of these rows, oldest first, begin; nothing where none is new."""
        if not self._identities.has_new_edges:
            return {}
        first_ns = dict(zip(reversed(lone.owners), reversed(lone.started_ns), strict=True))
        for row in rows:
            if row.started_ns < first_ns.get(row.edge_id, FOREVER_NS):
                first_ns[row.edge_id] = row.started_ns
        return first_ns

    def _insert_out_of_order(self, row: FlowRow) -> None:
        """Insert a row where time has been before, and note it for those that read on by time."""
        started_ns = row.started_ns
        (n,) = self._conn.execute(_NEXT_N, (started_ns,)).fetchone()
        lasted_ns = row.ended_ns - started_ns
        values = (started_ns, n, row.edge_id, lasted_ns, row.src_port, *row.counts)
        self._conn.execute(_FLOW.one, values)
        self._conn.execute("INSERT INTO late_flow(started_ns, n) VALUES (?, ?)", (started_ns, n))


def merged(rows: Iterable[FlowRow], events: LoneEvents[int]) -> list[FlowRow]:
    """Sum up rows and lone events: one row an edge."""
    sums: dict[int, FlowRow] = {}
    for row in chain(rows, rows_of(events)):
        other = sums.get(row.edge_id)
        sums[row.edge_id] = row if other is None else sum_of(row, other)
    return list(sums.values())


def sum_of(one: FlowRow, other: FlowRow) -> FlowRow:
    """Add two rows of one edge; the port stays where both have the same."""
    return FlowRow._make(
        (
            one.edge_id,
            min(one.started_ns, other.started_ns),
            max(one.ended_ns, other.ended_ns),
            one.src_port if one.src_port == other.src_port else None,
            *plus(one.counts, other.counts),
        )
    )


def _beside(rows: Sequence[FlowRow], addresses: Sequence[FoldedCount]) -> Iterator[FoldedCount]:
    """Yield counts of addresses with the start of the row that they are of: rows may be merged."""
    starts: dict[int, list[int]] = {}
    for row in rows if addresses else ():
        if row.edge_id < 0:
            starts.setdefault(row.edge_id, []).append(row.started_ns)
    for count in addresses:
        first_ns, *others_ns = starts[count.edge_id]
        yield count if count.started_ns in others_ns else count._replace(started_ns=first_ns)


def _split(ordered: Sequence[FlowRow], lone: LoneEvents[int], at_ns: int) -> tuple[int, int]:
    """Give how many of the rows and of the lone events start before a time."""
    return (
        bisect_left(ordered, at_ns, key=_started_of_row),
        bisect_left(lone.started_ns, at_ns),
    )


def rows_of(lone: LoneEvents[int]) -> Iterator[FlowRow]:
    """Yield a row for each event."""
    for started_ns, edge_id, src_port, bits in lone:
        yield FlowRow._make(
            (edge_id, started_ns, started_ns, src_port, *counts_of(bits), *_NOT_MEASURED)
        )


@cache
def _alike(counts: int) -> bulk.Insert:
    """How to insert events that count as the same, as a flood's do: a tenth less for each."""
    before = f"INSERT INTO flow({', '.join(_LONE_COLUMNS)}) VALUES "
    return bulk.insert(before, 4, constants=(0, *counts_of(counts)))


def _numbered(rows: Sequence[FlowRow], first_n: int) -> Iterator[tuple[object, ...]]:
    """What _FLOW binds, told apart where they start at the same time."""
    n, last_ns = first_n, -FOREVER_NS
    for edge_id, started_ns, ended_ns, *rest in rows:
        n = n + 1 if started_ns == last_ns else first_n
        last_ns = started_ns
        yield (started_ns, n, edge_id, ended_ns - started_ns, *rest)
