"""What an answer says of addresses that are not told apart."""

import sqlite3
from collections.abc import Iterator, Sequence
from itertools import islice

from ctk.ask.caveats import Folded
from ctk.ask.connection import choose_edges
from ctk.ask.selectors import both, edge_condition, row_condition
from ctk.ask.spans import Piece
from ctk.ask.sums import hides
from ctk.model import Filters
from ctk.store.levels import LEVELS

_MOST_ROWS = 300  # that are merged, 0.3 ms each: past it the answer is a lower bound
_LEVELS = {level.table: level.name for level in LEVELS}


def folded_of(
    conn: sqlite3.Connection, pieces: Sequence[Piece], filters: Filters, *, shown: bool | None
) -> Iterator[Folded]:
    """
    Yield what to say of rows that fit and stand for many, or that may hide some that fit.

    `shown`: the answer has such rows, where it would tell what is behind them apart; None where
    that is to be found out. Without, they change nothing. An older file does not count how many
    they stand for, nor does what was shipped, over several rows.
    """
    if shown is False:
        if hides(conn, pieces, filters):
            yield Folded()
        return
    from ctk.model.distinct import Distinct

    conditions = ["folded.level = ? AND folded.started_ns >= ? AND folded.started_ns < ?"]
    bound: tuple[object, ...] = ()
    if fits := edge_condition(filters.terms):
        choose_edges(conn, "folded_fitting", fits)
        conditions.append("folded.edge_id IN (SELECT id FROM temp.folded_fitting)")
    if row := row_condition(filters.terms):
        conditions.append(row.sql)
        bound = row.values
    counted = _rows(conn, pieces, both(conditions), bound)
    addresses = Distinct()
    try:
        for counts in islice(counted, _MOST_ROWS):
            shown = True
            for packed in filter(None, counts):
                addresses.merge(Distinct.unpack(packed))
    except ValueError:
        yield Folded()  # a file that came from elsewhere, and is broken
        return
    if len(addresses):
        yield Folded(len(addresses), addresses.is_exact, next(counted, None) is not None)
    elif shown or hides(conn, pieces, filters):
        yield Folded()


def _rows(
    conn: sqlite3.Connection,
    pieces: Sequence[Piece],
    condition: str,
    bound: tuple[object, ...],
) -> Iterator[tuple[bytes | None, bytes | None]]:
    for piece in pieces:
        yield from conn.execute(
            "SELECT src_counted, dst_counted FROM folded"
            f" CROSS JOIN {piece.table} AS f ON f.started_ns = folded.started_ns"
            f" AND f.edge_id = folded.edge_id WHERE {condition}",
            (_LEVELS[piece.table], piece.since_ns, piece.until_ns, *bound),
        )
