"""Flows by filters, against the same asked of them one by one."""

from itertools import product

import pytest
from emptyfile import new
from hypothesis import given
from hypothesis import strategies as st
from questions import (
    EDGES,
    FITS,
    FOLDED,
    MOMENT,
    ROWS,
    SMALL,
    START,
    finish,
    fits,
    flows,
    terms,
    write,
)

from ctk.ask.sums import Counts
from ctk.ask.top import TopRow, top
from ctk.model import Filters, FlowRow, Term
from ctk.store import rollup
from ctk.timespan import DAY, HOUR, MINUTE


@given(
    ROWS,
    terms(),
    MOMENT,
    MOMENT,
    st.sampled_from([None, 0, 1, 3]),
    st.booleans(),
    FOLDED,
    st.sampled_from([1, 2, 1_000]),
)
def test_flows_are_those_that_fit_when_asked_one_by_one(
    rows: list[FlowRow],
    terms: tuple[Term, ...],
    since_ns: int | None,
    until_ns: int | None,
    count: int | None,
    newest: bool,
    folded: int | None,
    page_rows: int,
) -> None:
    conn = new()
    write(conn, rows)
    if folded is not None:
        finish(rollup.fold(conn, START + folded, SMALL))
    filters = Filters(since_ns=since_ns, until_ns=until_ns, terms=terms)
    everything = list(flows(conn))
    shown = conn.execute("SELECT * FROM flows").fetchall()
    assert sorted(map(repr, map(tuple, everything))) == sorted(map(repr, shown))
    expected = [record for record in everything if fits(record, filters)]
    if count is not None:
        filters = filters._replace(**{"last" if newest else "first": count})
        expected = (
            expected[len(expected) - min(count, len(expected)) :] if newest else expected[:count]
        )
    assert list(flows(conn, filters, page_rows)) == expected
    conn.close()


def test_flows_are_found_where_only_a_coarser_level_is_pruned() -> None:
    conn = new()
    rows = [
        FlowRow(EDGES[0], START + i * MINUTE, START + i * MINUTE, None, *(1,) * 10)
        for i in range(0, 300, 7)
    ]
    write(conn, rows)
    finish(rollup.fold(conn, START + 4 * HOUR))
    pruned_ns = START + 2 * HOUR + 30 * MINUTE
    for table, name in (("flow_1m", "1m"), ("flow_1h", "1h")):
        conn.execute(f"DELETE FROM {table} WHERE started_ns < ?", (pruned_ns,))
        conn.execute("UPDATE level SET pruned_ns = ? WHERE name = ?", (pruned_ns, name))
    everything = list(flows(conn))
    assert list(flows(conn, Filters(terms=(Term("pod", "any", ("web-1",)),)))) == everything
    ranked = top(conn, Filters(since_ns=START + 1), ("proto",))
    assert ranked.rows == (
        TopRow(("tcp",), Counts(42, 126, 84, 84, 84, 42, 42, 42, 42, None, None)),
    )
    assert ranked.caveats == ()
    conn.close()


EVERY_TERM = [
    Term(field, side, (value,) if value else (), negated)  # type: ignore[arg-type]
    for field, (_, values, sides) in FITS.items()
    for value in values or [""]
    for side in sides
    for negated in (False, True)
]


def test_each_filter_alone_fits_on_whatever_level_its_flows_are_found() -> None:
    conn = new()
    failures = ((0, 0), (1, 0), (0, 1))
    rows = [
        FlowRow(edge, START + i * MINUTE, START + i * MINUTE, port, 1, 1, 0, 0, *failed, *(1,) * 4)
        for i, (edge, failed, port) in enumerate(product(EDGES, failures, (None, 53)))
    ]
    write(conn, rows)
    everything = list(flows(conn))
    asked = [(term, Filters(terms=(term,))) for term in EVERY_TERM]
    fit = [[record for record in everything if fits(record, filters)] for _, filters in asked]
    for folded_ns in (0, HOUR, 2 * DAY):
        conn.execute("PRAGMA query_only = OFF")
        finish(rollup.fold(conn, START + folded_ns, SMALL))
        for (term, filters), expected in zip(asked, fit, strict=True):
            assert list(flows(conn, filters)) == expected, term
            assert list(flows(conn, filters._replace(last=2))) == expected[-2:], term
            assert list(flows(conn, filters._replace(first=2))) == expected[:2], term
    conn.close()


PLANS = [
    (Filters(last=50), ()),
    (Filters(first=50, since_ns=START), ()),
    *(
        (Filters(last=50, terms=(Term(field, "any", (value,)),)), ())  # type: ignore[arg-type]
        for field, value in (
            ("namespace", "shop"),
            ("pod", "shop/web-1"),
            ("workload", "web"),
            ("service", "shop/db"),
            ("label", "app=web"),
            ("node", "n1"),
            ("kind", "external"),
            ("ip", "203.0.113.0/24"),
            ("port", "443"),
            ("protocol", "udp"),
        )
    ),
    (Filters(last=50, terms=(Term("failed", "any", ()),)), ()),
    (Filters(), ("source", "destination")),
    (Filters(since_ns=START + 1), ("src_workload", "service")),
    (Filters(terms=(Term("pod", "any", ("web-1",)),)), ("dst_port",)),
]


@pytest.mark.parametrize(("filters", "keys"), PLANS)
def test_no_question_reads_all_flows(filters: Filters, keys: tuple[str, ...]) -> None:
    conn = new()
    write(conn, [FlowRow(EDGES[0], START + i * HOUR, START, None, *(1,) * 10) for i in range(99)])
    finish(rollup.fold(conn, START + 99 * HOUR))
    asked: list[str] = []
    conn.set_trace_callback(asked.append)
    if keys:
        top(conn, filters, keys)
    else:
        list(flows(conn, filters))
    conn.set_trace_callback(None)
    selects = [sql for sql in asked if "SELECT" in sql and "CREATE" not in sql]
    conn.execute("PRAGMA query_only = OFF")
    for table in ("possible", "fitting"):
        conn.execute(f"CREATE TEMP TABLE IF NOT EXISTS {table} (id INTEGER PRIMARY KEY)")
    plan = [step[3] for sql in selects for step in conn.execute(f"EXPLAIN QUERY PLAN {sql}")]
    flow_steps = {step for step in plan if step.split()[1] in ("f", "flow", "flow_1m", "flow_1h")}
    assert flow_steps
    assert not [step for step in flow_steps if step.startswith("SCAN")]
    conn.close()
