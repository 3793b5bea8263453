"""Rankings over any span, against sums of the flows one by one."""

from dataclasses import replace

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from questions import (
    EDGES,
    FOLDED,
    KEYS,
    MOMENT,
    ROWS,
    SMALL,
    START,
    finish,
    fits,
    flows,
    new,
    sum_up,
    terms,
    write,
)

import ctk
from ctk.ask.caveats import Folded, SeenTo, Widened
from ctk.ask.sums import COUNTS, SEEN, SORTS
from ctk.ask.top import top
from ctk.model import Filters, FlowRow, Term
from ctk.store import prune, rollup
from ctk.store.orphans import Orphans
from ctk.store.rollup import LEVELS
from ctk.timespan import DAY

TIMES = COUNTS.index(SEEN[0])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(ROWS, terms(), MOMENT, MOMENT, KEYS, st.sampled_from([None, *SORTS]), FOLDED)
def test_a_ranking_over_any_span_is_the_sum_of_the_finest_rows(
    rows: list[FlowRow],
    terms: tuple[Term, ...],
    since_ns: int | None,
    until_ns: int | None,
    keys: tuple[str, ...],
    sort: str | None,
    folded: int | None,
) -> None:
    conn = new()
    write(conn, rows)
    if folded is not None:
        finish(rollup.fold(conn, START + folded))
    filters = Filters(since_ns=since_ns, until_ns=until_ns, terms=terms)
    groups = sum_up(list(flows(conn, filters)), keys, seen=True)
    ranked = top(conn, filters, keys, sort, limit=1000, seen=True)
    assert {row.keys: list(row.counts[:TIMES]) for row in ranked.rows} == {
        key: sums[:TIMES] for key, sums in groups.items()
    }
    [width_ns] = [c.width_ns for c in ranked.caveats if isinstance(c, SeenTo)] or [1]
    for row in ranked.rows:  # a bucket begins before what it holds, and ends after it
        first_ns, last_ns = row.counts[TIMES:]
        assert 0 <= groups[row.keys][TIMES] - (first_ns or 0) < width_ns
        assert (
            0 <= (last_ns or 0) - groups[row.keys][TIMES + 1] <= (width_ns if width_ns > 1 else 0)
        )
    assert ranked.groups == len(ranked.rows) == len(groups)
    at = COUNTS.index(SORTS[ranked.sort])
    order = [-1 if row.counts[at] is None else row.counts[at] for row in ranked.rows]
    assert order == sorted(order, reverse=True)
    assert not [caveat for caveat in ranked.caveats if isinstance(caveat, Widened)]
    conn.close()


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    ROWS,
    MOMENT,
    MOMENT,
    st.integers(0, 4 * DAY),
    st.integers(0, 3),
    st.integers(0, 3 * DAY),
    st.booleans(),
)
def test_where_finer_rows_are_pruned_a_span_reaches_to_the_buckets_that_are_left(
    rows: list[FlowRow],
    since_ns: int | None,
    until_ns: int | None,
    folded: int,
    pruned: int,
    age: int,
    tail: bool,
) -> None:
    conn = new()
    write(conn, rows)
    everything = list(flows(conn))
    finish(rollup.fold(conn, START + folded, SMALL if tail else LEVELS))
    retain = {level.name: age if i < pruned else 10 * DAY for i, level in enumerate(LEVELS)}
    finish(prune.by_age(conn, START + 3 * DAY, retain, Orphans(conn, lambda table, ids: None)))
    filters = Filters(since_ns=since_ns, until_ns=until_ns)
    ranked = top(conn, filters, ("proto",))
    for caveat in ranked.caveats:
        if isinstance(caveat, Widened):
            assert since_ns is None or caveat.since_ns <= max(since_ns, START)
            filters = Filters(since_ns=caveat.since_ns, until_ns=caveat.until_ns)
    expected = sum_up([record for record in everything if fits(record, filters)], ("proto",))
    assert {row.keys: list(row.counts) for row in ranked.rows} == expected
    conn.close()


def test_a_ranking_says_that_it_touches_what_was_folded_into_other() -> None:
    conn = new()
    rows = [
        FlowRow(edge, START + i, START + i, None, *(1,) * 10) for i, edge in enumerate(EDGES[7:])
    ]
    later = FlowRow(EDGES[0], START + 3 * DAY, START + 3 * DAY, None, *(1,) * 10)
    write(conn, [*rows, later])
    span = Filters(until_ns=START + 2 * DAY)
    assert Folded() not in top(conn, span, ("dst",)).caveats
    finish(rollup.fold(conn, START + 2 * DAY, SMALL))
    ranked = top(conn, span, ("dst", "dst_port"))
    assert Folded() in ranked.caveats
    assert {(*row.keys, row.counts.connections) for row in ranked.rows} == {
        ("other", None, 3),
        ("203.0.113.0", 443, 1),
        ("203.0.113.1", 443, 1),
    }
    lost = replace(span, terms=(Term("ip", "any", ("203.0.113.4",)),))
    ranked = top(conn, lost, ("dst",))
    assert (ranked.rows, ranked.caveats) == ((), (Folded(),))
    assert [flow.dst for flow in flows(conn, replace(lost, last=5))] == ["203.0.113.4"]
    conn.close()


def test_a_ranking_joins_no_table_that_its_keys_do_not_need() -> None:
    conn = new()
    write(conn, [FlowRow(EDGES[0], START, START, None, *(1,) * 10)])
    asked: list[str] = []
    conn.set_trace_callback(asked.append)
    for keys, rows, joined in (
        (("service", "dst_port"), {("shop/db", 5432)}, 0),
        (("src_workload",), {("web",)}, 1),
        (("cluster", "node"), {("prod", "n1")}, 1),
        (("src_node_zone", "dst_node_zone"), {("b", "b")}, 4),
    ):
        asked.clear()
        assert {row.keys for row in top(conn, Filters(), keys).rows} == rows
        assert sum(sql.count("LEFT JOIN") for sql in asked if "moved" in sql) == joined
    conn.close()


def test_the_first_flows_of_a_span_without_any_add_up_to_nothing(shop):
    with ctk.open(shop) as recording:
        top = recording.top(since="2099-01-01", first=5)
    assert (top.rows, top.totals.connections) == ((), 0)
