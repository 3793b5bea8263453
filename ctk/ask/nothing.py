"""
Why nothing fits: what was asked for and is not in the file, with what is there and spelled alike.

It is asked only where an answer is empty, so it may look at every name.
"""

import re
import sqlite3
from collections.abc import Iterator
from difflib import get_close_matches

from ctk.ask.caveats import NothingFits, nothing_recorded
from ctk.ask.coverage import coverage_of, extent_of
from ctk.ask.keywords import flags_of
from ctk.ask.names import has_names, names_of
from ctk.ask.pages import STARTED, Pages
from ctk.ask.selectors import edge_condition, row_condition
from ctk.ask.spans import exact_extent, held
from ctk.model import Field, Filters, Term
from ctk.timespan import SECOND, format_age, format_time

_WILD = r"[*?]"
_SHOWN = 3  # of the names that are there
_SIDES = {"any": "", "from": " from", "to": " to"}


def why_nothing(conn: sqlite3.Connection, filters: Filters) -> Iterator[NothingFits]:
    """Say why no flow fits, as far as the file tells; not where nothing was recorded at all."""
    if not list(nothing_recorded(conn)):
        yield NothingFits(tuple(_reasons(conn, filters)))


def _reasons(conn: sqlite3.Connection, filters: Filters) -> Iterator[str]:
    whole = exact_extent(conn, held(conn))
    if whole is None:
        return
    if 0 in (filters.first, filters.last):
        yield "0 were asked for, as first or last"
        return
    recorded = extent_of(conn)
    rows_end_ns = whole[1]
    whole = whole[0], recorded[1] if recorded else rows_end_ns
    beside = outside(filters, *whole, rows_end_ns)
    if beside:
        yield beside
        return
    if filters.since_ns is not None or filters.until_ns is not None:
        since_ns = whole[0] if filters.since_ns is None else filters.since_ns
        until_ns = whole[1] if filters.until_ns is None else filters.until_ns
        if not coverage_of(conn).recorded_ns(since_ns, until_ns):
            yield "nothing was recorded then"
            return
    missing = [reason for term in filters.terms for reason in _missing(conn, term)]
    yield from missing
    if missing or not filters.terms:
        return
    if (filters.since_ns or filters.until_ns) is not None:
        yield from _elsewhen(conn, filters)
    else:
        yield from _together(conn, filters)


def outside(filters: Filters, first_ns: int, end_ns: int, rows_end_ns: int) -> str | None:
    """Say that a span ends before all flows, or begins behind them; None where it does not."""
    since_ns, until_ns = filters.since_ns, filters.until_ns
    if since_ns is not None and since_ns >= end_ns:
        before = format_age(since_ns - end_ns)
        return f"the file ends {_short(end_ns)}, {before} before what was asked for"
    if since_ns is not None and since_ns >= rows_end_ns:
        return f"there is none after {_short(rows_end_ns)}"
    if until_ns is not None and until_ns <= first_ns:
        after = format_age(first_ns - until_ns)
        return f"the file begins {_short(first_ns)}, {after} after what was asked for"
    return None


def _missing(conn: sqlite3.Connection, term: Term) -> Iterator[str]:
    """Yield what of a term is not in the file at all, or not on that side."""
    if term.negated:
        return
    for value in term.values:
        alone = term._replace(values=(value,))
        if edge_condition([alone]) is None or _is_there(conn, alone):
            continue
        if term.side != "any" and _is_there(conn, alone._replace(side="any")):
            yield f"nothing went{_SIDES[term.side]} {_said(term.field, value)}"
            continue
        near = _near(value, names_of(conn, term.field))
        yield f"no {_said(term.field, value)} in this file{f' ({near})' if near else ''}"


def _is_there(conn: sqlite3.Connection, term: Term) -> bool:
    fits = edge_condition([term])
    assert fits is not None
    sql = f"SELECT EXISTS (SELECT 1 FROM edge WHERE {fits.sql})"
    return bool(conn.execute(sql, fits.values).fetchone()[0])


def _said(field: Field, value: str) -> str:
    if has_names(field):
        return f"{field} {'like' if re.search(_WILD, value) else 'named'} {value}"
    if field == "kind":
        return f"endpoints of kind {value}"
    return {"ip": "address"}.get(field, field) + f" {value}"


def _near(value: str, known: list[str]) -> str:
    """Give the names that are nearest to one, or all where they are few."""
    known = [name for name in known if name.isprintable()]  # the file may come from anywhere
    if re.search(_WILD, value) or not known:
        return ""
    own = {name if "/" in value else name.rpartition("/")[2]: name for name in known}
    # The same name in another namespace is nearer than another name in this one.
    near = [name for name in known if name.rpartition("/")[2] == value.rpartition("/")[2]]
    near += [own[one] for one in get_close_matches(value, own, _SHOWN) if own[one] not in near]
    if not near and len(own) <= _SHOWN:
        near = list(own.values())
    return ", ".join(sorted(near[:_SHOWN]))


def _together(conn: sqlite3.Connection, filters: Filters) -> Iterator[str]:
    """Say what leaves none of flows that are there; of any time, so names alone are looked at."""
    of_row = tuple(term for term in filters.terms if row_condition([term]) is not None)
    of_edge = [term for term in filters.terms if term not in of_row]
    fits = edge_condition(of_edge)
    there = fits is None or conn.execute(
        f"SELECT EXISTS (SELECT 1 FROM edge WHERE {fits.sql})", fits.values
    ).fetchone() == (1,)
    if not there and len(of_edge) > 1:
        yield "no flow is of all of these together"
    elif there and of_edge and of_row:
        yield f"there are some without {flags_of(Filters(terms=of_row))}"


def _elsewhen(conn: sqlite3.Connection, filters: Filters) -> Iterator[str]:
    """Say when the last flow was that fits but for its time."""
    if any(term.field == "port" and term.side == "from" for term in filters.terms):
        return  # no rollup tells where those are: every flow would be read
    ever = filters._replace(since_ns=None, until_ns=None, first=None, last=1)
    for rows, _ in Pages(conn, ever, None, tuple).read():
        for row in rows:
            yield f"the last flow that fits began {_short(row[STARTED])}"


def _short(time_ns: int) -> str:
    return format_time(time_ns // SECOND * SECOND).replace(".000000000", "")
