"""Filters and rankings against the same asked of the rows one by one, and how SQLite answers."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from fnmatch import fnmatchcase
from ipaddress import ip_address, ip_network
from itertools import product
from typing import Any

import orjson
import pytest
from ctk.migrations.migrations import migrations
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlite_utils import Database

from ctk.ask import flows as read
from ctk.ask import spans
from ctk.ask import top as rank
from ctk.ask.selectors import edge_condition
from ctk.errors import UsageError
from ctk.model import Edge, Endpoint, EventCounts, Filters, FlowRow, Side, Term
from ctk.store import prune, rollup
from ctk.store.columns import FlowRecord
from ctk.store.rollup import LEVELS
from ctk.store.write import Writer
from ctk.timespan import DAY, HOUR, MINUTE, SECOND

START = 1_700_006_400 * SECOND  # 2023-11-15T00:00:00Z
SMALL = tuple(level._replace(peers=2) for level in LEVELS)  # "other" after two


def _pod(i: int, namespace: str, name: str, workload: str, **labels: str) -> Endpoint:
    return Endpoint(
        address=f"10.244.{i}.5",
        kind="pod",
        valid_from_ns=0,
        namespace=namespace,
        name=name,
        workload=workload,
        workload_kind="Deployment",
        node=f"n{i % 2}",
        labels=labels,
    )


WEB1 = _pod(1, "shop", "web-1", "web", app="web", tier="front")
WEB2 = _pod(2, "shop", "web-2", "web", app="web", tier="back")
DB = _pod(3, "shop", "db-0", "db", app="db")
OTHER_WEB = _pod(4, "blog", "web-1", "web")
NODE = Endpoint(address="10.0.0.1", kind="node", valid_from_ns=0, name="n1", node="n1")
SERVICE = Endpoint(
    address="10.96.0.7", kind="service", valid_from_ns=0, namespace="shop", name="db"
)
EXTERNAL = [Endpoint(address=f"203.0.113.{i}", kind="external", valid_from_ns=0) for i in range(5)]
V6 = Endpoint(address="2001:db8::9", kind="unknown", valid_from_ns=0)

EDGES = [
    Edge("tcp", 0, WEB1, SERVICE, 5432, None, DB, 15432, "shop/db", "address"),
    Edge("tcp", 0, WEB2, SERVICE, 5432, None, DB, 15432, "shop/db", "address"),
    Edge("tcp", 0, OTHER_WEB, SERVICE, 5432, None, SERVICE, None, "shop/db", "address"),
    Edge("tcp", 0, EXTERNAL[0], NODE, 30080, "10.0.0.1", WEB1, 8080, "blog/web", "address"),
    Edge("udp", 0, WEB1, V6, 53, None, V6, None, None, None),
    Edge("icmp", 0, V6, NODE, None, None, NODE, None, None, None),
    Edge("132", 7, DB, OTHER_WEB, 80, None, OTHER_WEB, None, "blog/web", "endpoint"),
    *(Edge("tcp", 0, WEB2, peer, 443, None, peer, None, None, None) for peer in EXTERNAL),
]


def _new() -> sqlite3.Connection:
    conn = sqlite3.connect(":memory:", isolation_level=None)
    migrations.apply(Database(conn))
    return conn


def _write(conn: sqlite3.Connection, rows: list[FlowRow]) -> None:
    writer = Writer(conn, node="n1", source="kernel", settings={}, started_ns=START, boot_id=None)
    writer.window(rows, committed_ns=START, counters=EventCounts())


def _finish(steps: Iterator[None]) -> None:
    for _ in steps:
        pass


COUNT = st.integers(0, 3)
MOVED = st.one_of(st.none(), st.integers(0, 10**6))
TIMES = st.one_of(st.integers(0, 3 * DAY), st.integers(0, 3 * 24 * 60).map(lambda i: i * MINUTE))
ROW = st.builds(
    lambda edge, at, lasted, port, counts, moved: FlowRow(
        edge, START + at, START + at + lasted, port, *counts, *moved
    ),
    st.sampled_from(EDGES),
    TIMES,
    st.integers(0, 10 * SECOND),
    st.sampled_from([None, 53, 40_000]),
    st.tuples(*[COUNT] * 6),
    st.tuples(*[MOVED] * 4),
)
ROWS = st.lists(ROW, max_size=60)

Test = Callable[[FlowRecord, str, Side], bool]


def _sides(record: FlowRecord, side: Side, column: str) -> list[Any]:
    named = record._asdict()
    sides = {"from": ["src"], "to": ["dst"], "any": ["src", "dst"]}[side]
    return [named[f"{prefix}_{column}"] for prefix in sides]


def _like(pattern: str, text: str | None) -> bool:
    return text is not None and fnmatchcase(text, pattern)


def _named(pattern: str, namespace: str | None, name: str | None) -> bool:
    wanted, slash, own = pattern.rpartition("/")
    return _like(own, name) and (not slash or _like(wanted, namespace))


def _owner(column: str) -> Test:
    def test(record: FlowRecord, value: str, side: Side) -> bool:
        found = zip(
            _sides(record, side, "namespace"),
            _sides(record, side, column),
            _sides(record, side, "kind"),
            strict=True,
        )
        return any(
            _named(value, namespace, name) and (column != "name" or kind == "pod")
            for namespace, name, kind in found
        )

    return test


def _ip(record: FlowRecord, value: str, side: Side) -> bool:
    addresses = [record.src] if side != "to" else []
    if side != "from":
        addresses += [record.dst, record.nat_dst or record.dst]
    return any(ip_address(address) in ip_network(value) for address in addresses)


def _port(record: FlowRecord, value: str, side: Side) -> bool:
    if side == "from":
        return record.src_port == int(value)
    return int(value) in (record.dst_port, record.nat_dst_port)


SELECTORS: dict[str, Callable[[dict[str, str]], bool]] = {
    "app=web": lambda labels: labels.get("app") == "web",
    "app==web,tier": lambda labels: labels.get("app") == "web" and "tier" in labels,
    "app!=web": lambda labels: labels.get("app") != "web",
    "tier in (front, back)": lambda labels: labels.get("tier") in ("front", "back"),
    "tier notin (front)": lambda labels: labels.get("tier") != "front",
    "!tier, app": lambda labels: "tier" not in labels and "app" in labels,
}


def _label(record: FlowRecord, value: str, side: Side) -> bool:
    found = zip(_sides(record, side, "kind"), _sides(record, side, "labels"), strict=True)
    return any(
        kind in ("pod", "node", "service") and SELECTORS[value](orjson.loads(labels or "{}"))
        for kind, labels in found
    )


FITS: dict[str, tuple[Test, list[str], list[Side]]] = {
    "namespace": (
        lambda record, value, side: any(
            _like(value, found) for found in _sides(record, side, "namespace")
        ),
        ["shop", "blog", "s*", "none"],
        ["any", "from", "to"],
    ),
    "pod": (_owner("name"), ["web-1", "shop/web-1", "shop/web-*", "db"], ["any", "from", "to"]),
    "workload": (_owner("workload"), ["web", "blog/web", "d*"], ["any", "from", "to"]),
    "service": (
        lambda record, value, _: (
            record.service is not None and _named(value, *record.service.split("/"))
        ),
        ["db", "shop/db", "*/web", "shop/web"],
        ["any", "to"],
    ),
    "label": (_label, list(SELECTORS), ["any", "from", "to"]),
    "node": (
        lambda record, value, side: value in _sides(record, side, "node"),
        ["n0", "n1"],
        ["any", "from", "to"],
    ),
    "kind": (
        lambda record, value, side: value in _sides(record, side, "kind"),
        ["pod", "node", "service", "external", "unknown"],
        ["any", "from", "to"],
    ),
    "ip": (
        _ip,
        ["10.96.0.7", "10.244.0.0/16", "203.0.113.2", "203.0.113.0/30", "2001:db8::/32", "::/0"],
        ["any", "from", "to"],
    ),
    "port": (_port, ["53", "443", "8080", "5432"], ["any", "from", "to"]),
    "protocol": (
        lambda record, value, _: record.proto == ("sctp" if value == "x" else value),
        ["tcp", "udp", "icmp"],
        ["any"],
    ),
    "failed": (lambda record, *_: record.unreplied > 0 or record.refused > 0, [], ["any"]),
}


@st.composite
def _terms(draw: st.DrawFn, *, edges_only: bool = False) -> tuple[Term, ...]:
    terms = []
    for _ in range(draw(st.integers(0, 3))):
        field = draw(st.sampled_from([name for name in FITS if name != "failed" or not edges_only]))
        _, values, sides = FITS[field]
        if edges_only and field == "port":
            sides = ["any", "to"]
        chosen = draw(st.lists(st.sampled_from(values), min_size=1, max_size=2)) if values else []
        side = draw(st.sampled_from(sides))
        terms.append(Term(field, side, tuple(chosen), draw(st.booleans())))  # type: ignore[arg-type]
    return tuple(terms)


def _fits(record: FlowRecord, filters: Filters) -> bool:
    if filters.since_ns is not None and record.started_ns < filters.since_ns:
        return False
    if filters.until_ns is not None and record.started_ns >= filters.until_ns:
        return False
    for term in filters.terms:
        test = FITS[term.field][0]
        found = any(test(record, value, term.side) for value in term.values or ("",))
        if found == term.negated:
            return False
    return True


MOMENT = st.one_of(st.none(), st.integers(-HOUR, 3 * DAY + HOUR).map(lambda ns: START + ns))
FOLDED = st.one_of(st.none(), st.integers(0, 4 * DAY))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(ROWS, _terms(), MOMENT, MOMENT, st.sampled_from([None, 0, 1, 3]), st.booleans(), FOLDED)
def test_flows_are_those_that_fit_when_asked_one_by_one(
    rows: list[FlowRow],
    terms: tuple[Term, ...],
    since_ns: int | None,
    until_ns: int | None,
    count: int | None,
    newest: bool,
    folded: int | None,
) -> None:
    conn = _new()
    _write(conn, rows)
    if folded is not None:
        _finish(rollup.fold(conn, START + folded, SMALL))
    filters = Filters(since_ns=since_ns, until_ns=until_ns, terms=terms)
    everything = list(read.flows(conn, Filters()))
    shown = conn.execute("SELECT * FROM flows").fetchall()
    assert sorted(map(repr, map(tuple, everything))) == sorted(map(repr, shown))
    expected = [record for record in everything if _fits(record, filters)]
    if count is not None:
        filters = replace(filters, **{"last" if newest else "first": count})
        expected = (
            expected[len(expected) - min(count, len(expected)) :] if newest else expected[:count]
        )
    assert list(read.flows(conn, filters)) == expected
    conn.close()


def test_flows_are_found_where_only_a_coarser_level_is_pruned() -> None:
    conn = _new()
    rows = [
        FlowRow(EDGES[0], START + i * MINUTE, START + i * MINUTE, None, *(1,) * 10)
        for i in range(0, 300, 7)
    ]
    _write(conn, rows)
    _finish(rollup.fold(conn, START + 4 * HOUR))
    pruned_ns = START + 2 * HOUR + 30 * MINUTE
    for table, name in (("flow_1m", "1m"), ("flow_1h", "1h")):
        conn.execute(f"DELETE FROM {table} WHERE started_ns < ?", (pruned_ns,))
        conn.execute("UPDATE level SET pruned_ns = ? WHERE name = ?", (pruned_ns, name))
    everything = list(read.flows(conn, Filters()))
    assert list(read.flows(conn, Filters(terms=(Term("pod", "any", ("web-1",)),)))) == everything
    ranked = rank.top(conn, Filters(since_ns=START + 1), ("proto",))
    assert (ranked.rows, ranked.widened) == ([("tcp", 42, 126, 84, 84, 84)], None)
    conn.close()


EVERY_TERM = [
    Term(field, side, (value,) if value else (), negated)  # type: ignore[arg-type]
    for field, (_, values, sides) in FITS.items()
    for value in values or [""]
    for side in sides
    for negated in (False, True)
]


def test_each_filter_alone_fits_on_whatever_level_its_flows_are_found() -> None:
    conn = _new()
    failures = ((0, 0), (1, 0), (0, 1))
    rows = [
        FlowRow(edge, START + i * MINUTE, START + i * MINUTE, port, 1, 1, 0, 0, *failed, *(1,) * 4)
        for i, (edge, failed, port) in enumerate(product(EDGES, failures, (None, 53)))
    ]
    _write(conn, rows)
    everything = list(read.flows(conn, Filters()))
    for folded_ns in (0, 40 * MINUTE, HOUR, 2 * DAY):
        conn.execute("PRAGMA query_only = OFF")
        _finish(rollup.fold(conn, START + folded_ns, SMALL))
        for term in EVERY_TERM:
            filters = Filters(terms=(term,))
            expected = [record for record in everything if _fits(record, filters)]
            assert list(read.flows(conn, filters)) == expected, term
            assert list(read.flows(conn, replace(filters, last=2))) == expected[-2:], term
            assert list(read.flows(conn, replace(filters, first=2))) == expected[:2], term
    conn.close()


def _sum_up(records: list[FlowRecord], keys: tuple[str, ...]) -> dict[tuple[Any, ...], list[Any]]:
    groups: dict[tuple[Any, ...], list[Any]] = {}
    for record in records:
        named = record._asdict()
        sums = groups.setdefault(tuple(named[key] for key in keys), [0, 0, 0, None, None])
        sums[0] += record.connections
        sums[1] += record.new_events + record.update_events + record.destroy_events
        sums[2] += record.unreplied + record.refused
        for i, ways in (
            (3, (record.packets_out, record.packets_in)),
            (4, (record.bytes_out, record.bytes_in)),
        ):
            for moved in ways:
                if moved is not None:
                    sums[i] = moved + (sums[i] or 0)
    return groups


KEYS = st.lists(
    st.sampled_from([key for key in rank.KEYS if key not in ("source", "destination", "src_port")]),
    min_size=1,
    max_size=3,
    unique=True,
).map(tuple)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(ROWS, _terms(), MOMENT, MOMENT, KEYS, st.sampled_from([None, *rank.SORTS]), FOLDED)
def test_a_ranking_over_any_span_is_the_sum_of_the_finest_rows(
    rows: list[FlowRow],
    terms: tuple[Term, ...],
    since_ns: int | None,
    until_ns: int | None,
    keys: tuple[str, ...],
    sort: str | None,
    folded: int | None,
) -> None:
    conn = _new()
    _write(conn, rows)
    if folded is not None:
        _finish(rollup.fold(conn, START + folded))
    filters = Filters(since_ns=since_ns, until_ns=until_ns, terms=terms)
    groups = _sum_up(list(read.flows(conn, filters)), keys)
    ranked = rank.top(conn, filters, keys, sort, limit=1000)
    width = len(keys)
    assert {row[:width]: list(row[width:]) for row in ranked.rows} == groups
    assert ranked.groups == len(ranked.rows) == len(groups)
    at = width + rank.COUNTS.index(ranked.sort)
    order = [-1 if row[at] is None else row[at] for row in ranked.rows]
    assert order == sorted(order, reverse=True)
    assert ranked.widened is None
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
    conn = _new()
    _write(conn, rows)
    everything = list(read.flows(conn, Filters()))
    _finish(rollup.fold(conn, START + folded, SMALL if tail else LEVELS))
    retain = {level.name: age if i < pruned else 10 * DAY for i, level in enumerate(LEVELS)}
    _finish(prune.by_age(conn, START + 3 * DAY, retain, lambda table, ids: None))
    filters = Filters(since_ns=since_ns, until_ns=until_ns)
    ranked = rank.top(conn, filters, ("proto",))
    if ranked.widened:
        assert since_ns is None or ranked.widened[0] <= max(since_ns, START)
        filters = Filters(since_ns=ranked.widened[0], until_ns=ranked.widened[1])
    expected = _sum_up([record for record in everything if _fits(record, filters)], ("proto",))
    assert {row[:1]: list(row[1:]) for row in ranked.rows} == expected
    conn.close()


def test_a_ranking_says_that_it_touches_what_was_folded_into_other() -> None:
    conn = _new()
    rows = [
        FlowRow(edge, START + i, START + i, None, *(1,) * 10) for i, edge in enumerate(EDGES[7:])
    ]
    later = FlowRow(EDGES[0], START + 3 * DAY, START + 3 * DAY, None, *(1,) * 10)
    _write(conn, [*rows, later])
    span = Filters(until_ns=START + 2 * DAY)
    assert not rank.top(conn, span, ("dst",)).folded
    _finish(rollup.fold(conn, START + 2 * DAY, SMALL))
    ranked = rank.top(conn, span, ("dst", "dst_port"))
    assert ranked.folded
    assert {row[:3] for row in ranked.rows} == {
        ("other", None, 3),
        ("203.0.113.0", 443, 1),
        ("203.0.113.1", 443, 1),
    }
    lost = replace(span, terms=(Term("ip", "any", ("203.0.113.4",)),))
    assert (rank.top(conn, lost, ("dst",)).rows, rank.top(conn, lost, ("dst",)).folded) == (
        [],
        True,
    )
    assert [flow.dst for flow in read.flows(conn, replace(lost, last=5))] == ["203.0.113.4"]
    conn.close()


@pytest.mark.parametrize(
    ("term", "message"),
    [
        (Term("ip", "any", ("10.0.0.300",)), "'10.0.0.300' is neither an address nor a CIDR"),
        (Term("ip", "any", ("10.0.0.0/33",)), "'10.0.0.0/33' is neither an address nor a CIDR"),
        (Term("port", "any", ("http",)), "'http' is not a port"),
        (Term("port", "any", ("65536",)), "'65536' is not a port"),
        (Term("kind", "any", ("Pod",)), "'Pod' is not a kind of endpoint"),
        (Term("protocol", "any", ("tpc",)), "'tpc' is not a protocol"),
        *(
            (Term("label", "any", (text,)), f"{text!r} is not a label selector")
            for text in ("", "a=b=c", "a,", ",a", "a in b", "in (a", "a b", "a'=b", "a=b)")
        ),
    ],
)
def test_a_filter_that_makes_no_sense_is_refused(term: Term, message: str) -> None:
    with pytest.raises(UsageError) as error:
        edge_condition([term])
    assert error.value.message == message


@given(st.text())
def test_any_text_is_a_selector_or_an_error_of_the_user(text: str) -> None:
    with suppress(UsageError):
        edge_condition([Term("label", "any", (text,))])


@pytest.mark.parametrize(
    ("text", "proto"), [("6", "tcp"), ("TCP", "tcp"), ("99", "99"), ("58", "icmpv6")]
)
def test_a_protocol_goes_by_name_or_number(text: str, proto: str) -> None:
    condition = edge_condition([Term("protocol", "any", (text,))])
    assert condition is not None
    assert condition.values == (proto,)


def _held(**pruned_ns: int) -> list[spans.Held]:
    folded = {"flow": 2**63 - 1, "1m": 100 * HOUR, "1h": 100 * HOUR, "1d": 4 * DAY}
    return [
        spans.Held(
            level.name,
            level.table,
            level.width_ns or 1,
            folded[level.name],
            pruned_ns.get(f"l{level.name}", -1),
        )
        for level in LEVELS
    ]


@pytest.mark.parametrize(
    ("pruned", "span", "pieces"),
    [
        ({}, (5, 7), [("flow", 5, 7)]),
        ({}, (0, DAY), [("flow_1d", 0, DAY)]),
        (
            {},
            (HOUR - MINUTE - 1, 2 * DAY),
            [
                ("flow", HOUR - MINUTE - 1, HOUR - MINUTE),
                ("flow_1m", HOUR - MINUTE, HOUR),
                ("flow_1h", HOUR, DAY),
                ("flow_1d", DAY, 2 * DAY),
            ],
        ),
        (
            {},
            (4 * DAY, 101 * HOUR),
            [("flow_1h", 4 * DAY, 100 * HOUR), ("flow", 100 * HOUR, 101 * HOUR)],
        ),
        ({"lflow": 3 * DAY}, (5, 7), [("flow_1m", 0, MINUTE)]),
        (
            {"lflow": 3 * DAY, "l1m": 2 * DAY},
            (DAY + 1, 2 * DAY + 5),
            [("flow_1h", DAY, 2 * DAY), ("flow_1m", 2 * DAY, 2 * DAY + MINUTE)],
        ),
        # The level between is gone, but not the finest.
        ({"l1m": 3 * DAY}, (5, HOUR), [("flow", 5, HOUR)]),
        ({"lflow": 9, "l1m": 9, "l1h": 9}, (5, 7), [("flow_1d", 0, DAY)]),
        # Within the bucket in which rows start to be there.
        ({"lflow": 30}, (40, 50), [("flow", 40, 50)]),
        ({"lflow": 30}, (20, 50), [("flow_1m", 0, MINUTE)]),
        # Pruned at its start, not folded yet at its end.
        (
            {"lflow": 99 * HOUR},
            (99 * HOUR - 1, 101 * HOUR),
            [
                ("flow_1m", 99 * HOUR - MINUTE, 99 * HOUR),
                ("flow_1h", 99 * HOUR, 100 * HOUR),
                ("flow", 100 * HOUR, 101 * HOUR),
            ],
        ),
        ({}, (7, 7), []),
    ],
)
def test_a_span_is_cut_into_the_coarsest_pieces_that_answer_for_it(
    pruned: dict[str, int], span: tuple[int, int], pieces: list[tuple[str, int, int]]
) -> None:
    assert spans.cover(_held(**pruned), *span) == pieces


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
    conn = _new()
    _write(conn, [FlowRow(EDGES[0], START + i * HOUR, START, None, *(1,) * 10) for i in range(99)])
    _finish(rollup.fold(conn, START + 99 * HOUR))
    asked: list[str] = []
    conn.set_trace_callback(asked.append)
    if keys:
        rank.top(conn, filters, keys)
    else:
        list(read.flows(conn, filters))
    conn.set_trace_callback(None)
    selects = [sql for sql in asked if "SELECT" in sql and "CREATE" not in sql]
    conn.execute("PRAGMA query_only = OFF")
    for table in ("possible", "fitting"):  # they went with their transaction
        conn.execute(f"CREATE TEMP TABLE {table} (id INTEGER PRIMARY KEY)")
    plan = [step[3] for sql in selects for step in conn.execute(f"EXPLAIN QUERY PLAN {sql}")]
    flow_steps = {step for step in plan if step.split()[1] in ("f", "flow", "flow_1m", "flow_1h")}
    assert flow_steps
    assert not [step for step in flow_steps if step.startswith("SCAN")]
    conn.close()
