"""What a recording leaves to the next: whom it could not name, and since when it knew all pods."""

import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from edges import edge, with_ids

from ctk.model import Edge, Endpoint, EventCounts, FlowRow, Gap
from ctk.model.history import (
    Closed,
    Completed,
    HistoryChange,
    KnownUnknown,
    ObjectRecord,
    PodsTold,
    PodTimes,
)
from ctk.store import connect
from ctk.store.write import Writer
from ctk.timespan import SECOND as S

T = 1_732_560_442 * S
FAR = Endpoint(address="8.8.8.8", kind="external", valid_from_ns=T)
DB = Endpoint(address="10.244.0.4", kind="pod", valid_from_ns=T, name="db", uid="uid-db")
NOBODY = Endpoint(address="10.244.0.9", kind="unknown", valid_from_ns=T)
LATER = Endpoint(
    address="10.244.0.9", kind="pod", valid_from_ns=T + 8 * S, name="late", uid="uid-late"
)
ENDS = "SELECT name, valid_to_ns, end_inferred FROM endpoint WHERE address = ? ORDER BY id"


def _to(dialled: Endpoint, port: int = 80) -> Edge:
    return edge("tcp", 0, FAR, dialled, port, None, dialled, None, None, None)


@pytest.fixture
def conn(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    with connect.writer(tmp_path / "node.db") as opened:
        yield opened


def _writer(conn: sqlite3.Connection, started_ns: int = T) -> Writer:
    return Writer(
        conn, node="n1", source="kernel", settings={}, started_ns=started_ns, boot_id="boot-1"
    )


def _window(
    writer: Writer,
    committed_ns: int,
    edges: Iterable[Edge] = (),
    changes: Iterable[HistoryChange] = (),
    gaps: Iterable[Gap] = (),
) -> None:
    rows = [FlowRow(each, T, T, None, 1, 1, 0, 0, 0, 0, None, None, None, None) for each in edges]
    writer.window(
        with_ids(writer, rows),
        changes=[*changes, PodsTold(committed_ns)],
        gaps=gaps,
        committed_ns=committed_ns,
        counters=EventCounts(),
    )


def _pod(told_ns: int, watched_ns: int | None) -> ObjectRecord:
    return ObjectRecord(
        kind="pod",
        uid=f"uid-{told_ns}",
        namespace="shop",
        name="web",
        valid_from_ns=told_ns,
        addresses=("10.244.0.3",),
        labels={},
        times=PodTimes(told_ns, watched_ns, told_ns),
    )


def test_what_was_unknown_stood_for_nothing_after_its_recording(conn: sqlite3.Connection) -> None:
    """Two recordings later, too: that one of them had events says nothing of who was asked for."""
    _window(_writer(conn), T + 10 * S, [_to(NOBODY)])
    for started_ns in (T + 60 * S, T + 120 * S):
        writer = _writer(conn, started_ns)
        [given] = writer.unknown_endpoints(T)
        assert given._replace(endpoint=NOBODY) == KnownUnknown(NOBODY, T + 10 * S - 1)
        _window(writer, started_ns + 10 * S)


def test_where_pods_are_told_of_an_address_is_unknown_for_a_second(
    conn: sqlite3.Connection,
) -> None:
    """A pod that was told later may have had it from the next one on, and have no row yet."""
    _window(_writer(conn), T + 10 * S, [_to(NOBODY)])
    writer = _writer(conn, T + 60 * S)
    assert writer.earlier_edge_id(_to(NOBODY).flow, T + S - 1) is not None
    assert writer.earlier_edge_id(_to(NOBODY).flow, T + S) is None


def test_the_service_of_a_dialled_pod_is_not_told_by_later_dials(conn: sqlite3.Connection) -> None:
    """It may have backed another when they began."""
    service = _to(DB)._replace(service="shop/db", service_via="endpoint")
    writer = _writer(conn)
    row = FlowRow(writer.edge_id(service), T + 8 * S, T + 8 * S, None, *(0,) * 6, *(None,) * 4)
    writer.window([row], committed_ns=T + 10 * S, counters=EventCounts())
    writer = _writer(conn, T + 60 * S)
    assert writer.earlier_edge_id(service.flow, T + 7 * S) is None
    assert writer.earlier_edge_id(service.flow, T + 9 * S) is not None


def test_the_service_of_a_dialled_pod_is_that_of_its_own_row(conn: sqlite3.Connection) -> None:
    """It was dialled before a slice listed it, and while one of each of two services did."""
    writer = _writer(conn)
    services = (None, "shop/db", "shop/old")
    edges = [_to(DB)._replace(service=each, service_via=each and "endpoint") for each in services]
    ids = [writer.edge_id(each) for each in edges]
    begun_ns = [T + at * S for at in (2, 3, 4)]
    rows = [
        FlowRow(each, at_ns, at_ns, None, *(0,) * 6, *(None,) * 4)
        for each, at_ns in zip(ids, begun_ns, strict=True)
    ]
    writer.window(rows, committed_ns=T + 10 * S, counters=EventCounts())
    writer = _writer(conn, T + 60 * S)
    assert [writer.earlier_edge_id(edges[0].flow, at_ns) for at_ns in begun_ns] == ids
    assert writer.earlier_edge_id(edges[0].flow, T + 5 * S) == ids[0]


def test_what_is_dialled_later_does_not_take_a_service_away(conn: sqlite3.Connection) -> None:
    """A slice lists the pod no more when a later recording finds what was dialled before."""
    writer = _writer(conn)
    found = _to(DB)._replace(service="shop/db", service_via="endpoint")
    for each, at_ns in ((found, T + S), (_to(DB), T + 8 * S)):
        row = FlowRow(writer.edge_id(each), at_ns, at_ns, None, *(0,) * 6, *(None,) * 4)
        writer.window([row], committed_ns=at_ns + S, counters=EventCounts())
    first_id = writer.edge_id(found)
    writer = _writer(conn, T + 60 * S)
    assert writer.earlier_edge_id(found.flow, T + 7 * S) == first_id


def test_of_two_services_none_is_made_up(conn: sqlite3.Connection) -> None:
    writer = _writer(conn)
    edges = [
        _to(DB)._replace(service=each, service_via="endpoint") for each in ("shop/db", "shop/old")
    ]
    rows = [
        FlowRow(writer.edge_id(each), T + S, T + S, None, *(0,) * 6, *(None,) * 4) for each in edges
    ]
    writer.window(rows, committed_ns=T + 10 * S, counters=EventCounts())
    assert _writer(conn, T + 60 * S).earlier_edge_id(edges[0].flow, T + 5 * S) is None


def test_what_is_left_to_the_next_recording_says_up_to_when_it_stood(
    conn: sqlite3.Connection,
) -> None:
    writer = _writer(conn)
    _window(writer, T + 10 * S, [_to(NOBODY)], [Closed(NOBODY, T + 3 * S, inferred=True)])
    writer = _writer(conn, T + 60 * S)
    [given] = writer.unknown_endpoints(T)
    assert given == KnownUnknown(given.endpoint, T + 3 * S, undecided=True)
    known = replace(LATER, valid_from_ns=T)
    _window(
        writer,
        T + 70 * S,
        changes=[Closed(known, T + 4 * S), Completed(given.endpoint, known)],
    )
    assert conn.execute(ENDS, (NOBODY.address,)).fetchall() == [("late", T + 4 * S, 0)]


def test_what_a_killed_recording_had_decided_is_not_left_to_the_next(
    conn: sqlite3.Connection,
) -> None:
    writer = _writer(conn)
    _window(writer, T + 10 * S, [_to(NOBODY)], [Closed(NOBODY, T + S - 1, inferred=True)])
    _window(writer, T + 11 * S, changes=[Closed(NOBODY, T + S // 2 + 1)])
    writer = _writer(conn, T + 60 * S)
    [given] = writer.unknown_endpoints(T)
    assert given == KnownUnknown(given.endpoint, T + S // 2)


def test_each_row_of_a_pod_that_is_gone_ends_with_it(conn: sqlite3.Connection) -> None:
    """One of a single second, too, in which it was not sure that the address was its own."""
    writer = _writer(conn)
    _window(writer, T + 10 * S, [_to(DB)], [Closed(DB, T + 9 * S)])
    _window(writer, T + 11 * S, [_to(replace(DB, valid_from_ns=T + 8 * S))])
    assert conn.execute(ENDS, (DB.address,)).fetchall() == [("db", T + 9 * S, 0)] * 2


@pytest.mark.parametrize(
    ("changes", "gaps", "watched_ns"),
    [
        ([_pod(T + S, T)], [], T),
        ([_pod(T + S, T), _pod(T + 4 * S, T + 3 * S)], [], T + 3 * S),
        ([_pod(T + S, T)], [Gap("metadata stale", T + 2 * S, T + 3 * S)], None),
        ([_pod(T + 11 * S, T - 9 * S)], [], T - 9 * S),
        ([_pod(T - S, T - 9 * S)], [], None),
        ([], [], None),
    ],
    ids=[
        "told",
        "told later",
        "broken off since",
        "told past the last window",
        "told to an earlier recording",
        "not told",
    ],
)
def test_the_next_recording_knows_since_when_pods_were_watched(
    conn: sqlite3.Connection,
    changes: list[HistoryChange],
    gaps: list[Gap],
    watched_ns: int | None,
) -> None:
    _window(_writer(conn), T + 10 * S, (), changes, gaps)
    previous = _writer(conn, T + 60 * S).previous
    assert previous is not None
    assert (previous.told_ns, previous.watched_ns) == (T + 10 * S, watched_ns)
