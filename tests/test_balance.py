"""How evenly a service's backends are used: shares that add up."""

import sqlite3

import pytest
from emptyfile import new
from hypothesis import given
from questions import OTHER_WEB, ROWS, SERVICE, START, WEB1, WEB2, edge, flows, write

from ctk.ask.balance import BY, Balance, balance
from ctk.ask.top import top
from ctk.model import Filters, FlowRow, Term


def _balance(conn: sqlite3.Connection, filters: Filters) -> Balance:
    return balance(top(conn, filters, BY, "connections", None))


def _row(backend: object, connections: int, moved: int | None = None, port: int = 8080) -> FlowRow:
    one = edge("tcp", 0, WEB1, SERVICE, 80, None, backend, port, "shop/db", "address")  # type: ignore[arg-type]
    counts = (connections, connections, 0, 0, 0, 0)
    return FlowRow(one, START, START, None, *counts, moved, None, None, None)


def test_a_share_is_to_an_even_one_and_the_skew_is_the_largest() -> None:
    conn = new()
    write(conn, [_row(WEB2, 6, 100), _row(OTHER_WEB, 1, 250), _row(WEB1, 2, 250)])
    [service] = _balance(conn, Filters()).services
    assert (service.service, service.port, service.proto) == ("shop/db", 8080, "tcp")
    assert [
        (each.backend, each.counts.connections, each.connections_to_even, each.bytes_to_even)
        for each in service.backends
    ] == [
        ("shop/web-2", 6, 2.0, 0.5),
        ("shop/web-1", 2, 2 / 3, 1.25),
        ("blog/web-1", 1, 1 / 3, 1.25),
    ]
    assert (service.connections_skew, service.bytes_skew) == (2.0, 1.25)
    conn.close()


def test_what_was_not_measured_has_no_share() -> None:
    conn = new()
    write(conn, [_row(WEB2, 0, 100), _row(OTHER_WEB, 0)])
    [service] = _balance(conn, Filters()).services
    assert (service.connections_skew, service.bytes_skew) == (None, None)
    conn.close()


def test_what_reached_no_backend_is_told_apart() -> None:
    conn = new()
    write(conn, [_row(WEB2, 6), _row(SERVICE, 4)])
    [answered] = [one for one in _balance(conn, Filters()).services if one.backends]
    assert answered.unanswered.connections == 4
    assert [each.connections_to_even for each in answered.backends] == [1.0]
    conn.close()


def test_the_service_is_a_filter_like_any_other() -> None:
    conn = new()
    write(conn, [_row(WEB2, 6)])
    for name, found in (("shop/db", 1), ("shop/web", 0)):
        term = Term("service", "any", (name,))
        assert len(_balance(conn, Filters(terms=(term,))).services) == found
    conn.close()


@given(ROWS)
def test_shares_are_1_on_average_and_counts_are_those_of_the_flows(rows: list[FlowRow]) -> None:
    conn = new()
    write(conn, rows)
    answer = _balance(conn, Filters())
    found: dict[str, int] = {}
    for one in answer.services:
        counts = [one.unanswered, *(each.counts for each in one.backends)]
        found[one.service] = found.get(one.service, 0) + sum(each.connections for each in counts)
        shares = [each.connections_to_even for each in one.backends]
        if shares and None not in shares:
            assert sum(share or 0 for share in shares) / len(shares) == pytest.approx(1)
            assert one.connections_skew == max(share or 0 for share in shares)
    expected: dict[str, int] = {}
    for flow in flows(conn):
        if flow.service is not None:
            expected[flow.service] = expected.get(flow.service, 0) + flow.connections
    assert found == expected
    conn.close()
