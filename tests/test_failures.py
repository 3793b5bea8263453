"""What failed, and since when, against the flows one by one."""

from typing import Any

import pytest
from emptyfile import new
from hypothesis import given
from hypothesis import strategies as st
from questions import EDGES, FOLDED, MOMENT, ROWS, START, finish, fits, flows, terms, write

from ctk.ask.caveats import SeenTo
from ctk.ask.failures import Failure, failures
from ctk.errors import UsageError
from ctk.model import Filters, FlowRow, Term
from ctk.store import prune, rollup
from ctk.store.columns import FlowRecord
from ctk.store.orphans import Orphans
from ctk.timespan import DAY, MINUTE, SECOND

Group = tuple[Any, ...]


def key_of(flow: FlowRecord) -> Group:
    def named(namespace: str | None, *names: str | None) -> str:
        name = next(name for name in names if name is not None)
        return f"{namespace}/{name}" if namespace else name

    client = named(flow.src_namespace, flow.src_workload, flow.src_name, flow.src)
    backend = named(flow.dst_namespace, flow.dst_name, flow.nat_dst or flow.dst)
    return client, flow.service, backend, flow.dst_port, flow.proto


def _by_hand(records: list[FlowRecord]) -> dict[Group, list[int]]:
    """Sum up connections, refused and unreplied, and when the first and the last of them was."""
    found: dict[Group, list[int]] = {}
    for flow in records:
        sums = found.setdefault(key_of(flow), [0, 0, 0, 2**62, -(2**62)])
        sums[0] += flow.connections
        sums[1] += flow.refused
        sums[2] += flow.unreplied
        if flow.refused or flow.unreplied:
            sums[3] = min(sums[3], flow.started_ns)
            sums[4] = max(sums[4], flow.ended_ns)
    return {key: sums for key, sums in found.items() if sums[1] or sums[2]}


def _group(row: Failure) -> Group:
    return row.client, row.service, row.backend, row.port, row.proto


@given(ROWS, terms(edges_only=True), MOMENT, MOMENT, FOLDED)
def test_what_failed_is_what_the_flows_say_and_since_when(
    rows: list[FlowRow],
    terms: tuple[Term, ...],
    since_ns: int | None,
    until_ns: int | None,
    folded: int | None,
) -> None:
    conn = new()
    write(conn, rows)
    if folded is not None:
        finish(rollup.fold(conn, START + folded))
    filters = Filters(since_ns=since_ns, until_ns=until_ns, terms=terms)
    answer = failures(conn, filters)
    expected = _by_hand([flow for flow in flows(conn) if fits(flow, filters)])
    found = {
        _group(row): [row.counts.connections, row.counts.refused, row.counts.unreplied]
        for row in answer.rows
    }
    assert found == {key: sums[:3] for key, sums in expected.items()}
    assert {_group(row): row.first_ns for row in answer.rows} == {
        key: sums[3] for key, sums in expected.items()
    }
    # The last row with a failure; one that began before it may end later.
    assert all(row.last_ns <= expected[_group(row)][4] for row in answer.rows)
    assert (answer.refused, answer.unreplied) == tuple(
        sum(sums[at] for sums in expected.values()) for at in (1, 2)
    )
    for row in answer.rows:
        failed, attempts = row.counts.failed, row.counts.connections
        assert row.share == (failed / attempts if failed <= attempts else None)
    assert [row.counts.failed for row in answer.rows] == sorted(
        (row.counts.failed for row in answer.rows), reverse=True
    )
    conn.close()


@given(ROWS, st.integers(0, 4 * DAY), st.tuples(*[st.integers(0, 3 * DAY)] * 3))
def test_where_rows_were_pruned_the_first_failure_is_in_the_bucket_that_is_told(
    rows: list[FlowRow], folded: int, ages_ns: tuple[int, int, int]
) -> None:
    conn = new()
    write(conn, rows)
    expected = _by_hand(list(flows(conn)))
    finish(rollup.fold(conn, START + folded))
    retain = dict(zip(("flow", "1m", "1h"), ages_ns, strict=True)) | {"1d": 10 * DAY}
    finish(prune.by_age(conn, START + 3 * DAY, retain, Orphans(conn, lambda table, ids: None)))
    answer = failures(conn, Filters())
    assert {_group(row) for row in answer.rows} == set(expected)
    for row in answer.rows:
        first_ns = expected[_group(row)][3]
        assert row.first_ns <= first_ns < row.first_ns + row.exact_to_ns
        if row.exact_to_ns > MINUTE:
            assert any(isinstance(caveat, SeenTo) for caveat in answer.caveats)
    conn.close()


def _row(i: int, at_s: int, connections: int, unreplied: int = 0, refused: int = 0) -> FlowRow:
    at_ns = START + at_s * SECOND
    counts = (connections, connections, 0, connections, unreplied, refused)
    return FlowRow(EDGES[i], at_ns, at_ns + SECOND, None, *counts, 1, 1, 1, 1)


def test_a_backend_that_alone_fails_stands_out() -> None:
    from questions import OTHER_WEB, SERVICE, WEB1, WEB2, edge

    conn = new()
    backends = [
        edge("tcp", 0, WEB1, SERVICE, 80, None, backend, 8080, "shop/db", "address")
        for backend in (WEB2, OTHER_WEB)
    ]
    rows = [_row(0, 0, 5), *(_row(0, i, 3)._replace(edge_id=one) for i, one in enumerate(backends))]
    write(conn, [*rows, _row(0, 9, 0, refused=2)._replace(edge_id=backends[1])])
    [row] = failures(conn, Filters()).rows
    assert (row.backend, row.failing, row.backends, row.stands_out) == ("blog/web-1", 1, 2, True)
    assert (row.counts.refused, row.counts.unreplied, row.share) == (2, 0, 2 / 3)
    conn.close()


def test_without_a_service_nothing_is_said_of_other_backends() -> None:
    conn = new()
    write(conn, [_row(7, 0, 2, unreplied=1)])
    [row] = failures(conn, Filters()).rows
    assert (row.service, row.backends, row.failing, row.stands_out) == (None, None, None, False)
    conn.close()


def test_refused_and_unreplied_can_be_asked_for_alone_and_attempts_are_still_all() -> None:
    conn = new()
    write(conn, [_row(0, 0, 8), _row(0, 5, 0, refused=2), _row(7, 0, 4, unreplied=1)])
    by_term = {
        field: [(row.backend, row.counts.connections) for row in failures(conn, asked).rows]
        for field in ("failed", "refused", "unreplied")
        for asked in [Filters(terms=(Term(field, "any", ()),))]  # type: ignore[arg-type]
    }
    refused, unreplied = ("shop/db-0", 8), ("203.0.113.0", 4)
    assert by_term["failed"] == [refused, unreplied]
    assert (by_term["refused"], by_term["unreplied"]) == ([refused], [unreplied])
    conn.close()


def test_the_limit_is_of_rows_and_the_sums_are_of_all() -> None:
    conn = new()
    write(conn, [_row(i, 0, 2, refused=i + 1) for i in range(3)])
    answer = failures(conn, Filters(), 1)
    assert [row.counts.refused for row in answer.rows] == [3]
    assert (answer.found, answer.refused) == (2, 6)
    conn.close()


def test_so_many_flows_are_not_so_many_failures() -> None:
    conn = new()
    with pytest.raises(UsageError) as error:
        failures(conn, Filters(last=5))
    assert error.value.message == "first and last cut flows, not failures"
    conn.close()
