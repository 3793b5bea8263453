"""Rankings over any span, against sums of the flows one by one."""

from typing import Any

from emptyfile import new
from hypothesis import given
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
    sum_up,
    terms,
    write,
)

import ctk
from ctk.ask.caveats import Folded, SeenTo, Widened
from ctk.ask.presets import EITHER_KEYS, SIDES, RankedSide
from ctk.ask.sums import COUNTS, NOTHING, SEEN, SORTS
from ctk.ask.top import Top, top
from ctk.model import Filters, FlowRow, Term
from ctk.store import prune, rollup
from ctk.store.columns import FlowRecord
from ctk.store.levels import LEVELS
from ctk.store.orphans import Orphans
from ctk.timespan import DAY

TIMES = COUNTS.index(SEEN[0])


def _seen_within(ranked: Top, groups: dict[tuple[Any, ...], list[Any]]) -> None:
    """Hold the times of groups against the true ones: buckets begin before and end after them."""
    [width_ns] = [c.width_ns for c in ranked.caveats if isinstance(c, SeenTo)] or [1]
    for row in ranked.rows:
        first_ns, last_ns = row.counts[TIMES:]
        assert 0 <= groups[row.keys][TIMES] - (first_ns or 0) < width_ns
        # A row may go on after the bucket in which it began.
        late_ns = (last_ns or 0) - groups[row.keys][TIMES + 1]
        assert late_ns <= (width_ns if width_ns > 1 else 0)


def _fewer_counts(fewer: Top, ranked: Top) -> None:
    """Where only some counts were asked for, they and the order are as in an answer with all."""
    assert (fewer.sort, fewer.groups) == (ranked.sort, ranked.groups)
    for row, whole in zip((*fewer.rows, fewer), (*ranked.rows[:3], ranked), strict=True):
        counted = row.totals if isinstance(row, Top) else row.counts
        of_all = whole.totals if isinstance(whole, Top) else whole.counts
        assert (counted.failed, counted.bytes) == (of_all.failed, of_all.bytes)
        assert isinstance(row, Top) or row.keys == whole.keys
    for row in fewer.rows:
        needed = {"connections", "failed", "bytes", SORTS[fewer.sort]}
        assert all(
            count is None for name, count in row.counts._asdict().items() if name not in needed
        )


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
    _fewer_counts(top(conn, filters, keys, sort, limit=3, counts=("failed", "bytes")), ranked)
    assert {row.keys: list(row.counts[:TIMES]) for row in ranked.rows} == {
        key: sums[:TIMES] for key, sums in groups.items()
    }
    _seen_within(ranked, groups)
    assert ranked.groups == len(ranked.rows) == len(groups)
    at = COUNTS.index(SORTS[ranked.sort])
    order = [-1 if row.counts[at] is None else row.counts[at] for row in ranked.rows]
    assert order == sorted(order, reverse=True)
    assert not [caveat for caveat in ranked.caveats if isinstance(caveat, Widened)]
    conn.close()


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
    ranked = top(conn, filters, ("proto",), seen=True)
    for caveat in ranked.caveats:
        if isinstance(caveat, Widened):
            assert since_ns is None or caveat.since_ns <= max(since_ns, START)
            filters = Filters(since_ns=caveat.since_ns, until_ns=caveat.until_ns)
    fitting = [record for record in everything if fits(record, filters)]
    expected = sum_up(fitting, ("proto",), seen=True)
    assert {row.keys: list(row.counts[:TIMES]) for row in ranked.rows} == {
        key: sums[:TIMES] for key, sums in expected.items()
    }
    _seen_within(ranked, expected)
    conn.close()


def _ends(key: str, record: FlowRecord) -> tuple[str | None, str | None]:
    """Give what a key of either side is for who opened a flow, and for who answered."""
    src, dst = (
        {
            "kind": getattr(record, f"{side}_kind"),
            "namespace": getattr(record, f"{side}_namespace"),
            "name": getattr(record, f"{side}_name"),
            "workload": getattr(record, f"{side}_workload"),
            "endpoint_node": getattr(record, f"{side}_node"),
            "endpoint_zone": getattr(record, f"{side}_node_zone"),
            "address": record.src if side == "src" else record.nat_dst or record.dst,
        }
        for side in ("src", "dst")
    )
    found = []
    for end in (src, dst):
        both = end["namespace"] is not None and {
            "pod": end["name"] if end["kind"] == "pod" else None,
            "workload": end["workload"],
        }.get(key)
        if key in ("pod", "workload"):
            found.append(f"{end['namespace']}/{both}" if both else None)
        elif key == "external_ip":
            found.append(end["address"] if end["kind"] == "external" else None)
        else:
            found.append(end[key])
    return found[0], found[1]


@given(
    ROWS,
    st.lists(st.sampled_from(EITHER_KEYS), min_size=1, max_size=2, unique=True),
    st.booleans(),
    st.sampled_from(SIDES),
    st.integers(1, 3),
    FOLDED,
)
def test_a_flow_counts_for_each_of_its_ends_and_once_for_the_whole(
    rows: list[FlowRow],
    either: list[str],
    by_proto: bool,
    side: RankedSide,
    limit: int,
    folded: int | None,
) -> None:
    conn = new()
    write(conn, rows)
    if folded is not None:
        finish(rollup.fold(conn, START + folded))
    keys = (*either, *(["proto"] if by_proto else []))
    groups: dict[tuple[object, ...], list[FlowRecord]] = {}
    whole = []
    for record in flows(conn):
        ends = list(zip(*(_ends(key, record) for key in either), strict=True))
        named = ends if side == "both" else [ends[side == "to"]]
        known = {end for end in named if None not in end}
        whole += [record] if known else []
        for end in known:
            groups.setdefault((*end, *([record.proto] if by_proto else [])), []).append(record)
    expected = {group: sum_up(found, ())[()] for group, found in groups.items()}
    ranked = top(conn, Filters(), keys, limit=100, side=side)
    assert {row.keys: list(row.counts) for row in ranked.rows} == expected
    assert list(ranked.totals) == sum_up(whole, ()).get((), list(NOTHING))
    # What a limit cuts is told, and with what is shown it is all groups.
    cut = top(conn, Filters(), keys, limit=limit, side=side)
    assert cut.others.connections == sum(row.counts.connections for row in ranked.rows[limit:])
    rest = [row.counts.bytes for row in ranked.rows[limit:] if row.counts.bytes is not None]
    assert cut.others.bytes == (sum(rest) if rest else None)
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
    assert Folded(3) in ranked.caveats
    assert {(*row.keys, row.counts.connections) for row in ranked.rows} == {
        ("other", 443, 3),
        ("203.0.113.0", 443, 1),
        ("203.0.113.1", 443, 1),
    }
    for keys in (("src",), ("src_workload", "dst_kind"), ("service",), ("namespace",)):
        assert Folded() not in top(conn, span, keys).caveats  # which it changes nothing of
    lost = span._replace(terms=(Term("ip", "any", ("203.0.113.4",)),))
    ranked = top(conn, lost, ("dst",))
    assert (ranked.rows, ranked.caveats) == ((), (Folded(),))
    assert [flow.dst for flow in flows(conn, lost._replace(last=5))] == ["203.0.113.4"]
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
