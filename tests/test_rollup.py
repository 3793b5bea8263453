"""Folding and pruning keep every sum: laws over random histories, and the odd cases by hand."""

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice, pairwise

import pytest
from edges import edge, with_ids
from emptyfile import new
from hypothesis import given
from hypothesis import strategies as st

from ctk.model import LONE_COUNTS, Edge, Endpoint, EventCounts, FlowRow
from ctk.store import orphans, prune, rollup, tail
from ctk.store.columns import COUNT_KEYS
from ctk.store.levels import LEVELS, watermarks
from ctk.store.limit import SizeLimit
from ctk.store.write import Writer
from ctk.timespan import DAY, HOUR, MINUTE, SECOND

START = 1_700_006_400 * SECOND  # 2023-11-15T00:00:00Z
SMALL = tuple(level._replace(peers=2) for level in LEVELS)  # "other" after two


@pytest.fixture(scope="module", autouse=True)
def _slices_of_two() -> Iterator[None]:
    """Buckets are written, tails summed and orphans swept in slices: here of two rows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rollup, "_READ_AT_ONCE", 2)
        patch.setattr(rollup, "_COPIED_AT_ONCE", 2)
        patch.setattr(tail, "_TAIL_AT_ONCE", 2)
        patch.setattr(orphans, "_SCANNED", 2)
        patch.setattr(orphans, "_DELETED", 2)
        yield


NOTHING_KEPT = {level.name: 0 for level in LEVELS}

POD = Endpoint(address="10.0.0.1", kind="pod", valid_from_ns=0, namespace="shop", name="web")
PEERS = [
    Endpoint(address="10.0.0.2", kind="pod", valid_from_ns=0, namespace="shop", name="db"),
    *(Endpoint(address=f"8.8.8.{i}", kind="external", valid_from_ns=0) for i in range(4)),
    Endpoint(address="2001:db8::1", kind="unknown", valid_from_ns=0),
]
EDGES = [edge("tcp", 0, POD, peer, 443, None, peer, None, None, None) for peer in PEERS]
EDGES += [edge("udp", 0, peer, POD, 53, None, POD, None, None, None) for peer in PEERS]

Counts = tuple[int | None, ...]


@pytest.fixture
def conn() -> Iterator[sqlite3.Connection]:
    opened = new()
    yield opened
    opened.close()


def _writer(conn: sqlite3.Connection, held: Callable[[], set[int]] = set) -> Writer:
    return Writer(
        conn,
        node="n1",
        source="kernel",
        settings={},
        started_ns=START,
        boot_id="boot-1",
        edges_held=held,
    )


def _limit(conn: sqlite3.Connection, writer: Writer, max_bytes: int) -> SizeLimit:
    """A limit of that writer's file, which says what it thins."""
    return SizeLimit(conn, max_bytes, writer._orphans, LEVELS, writer._flows.folding, writer._thin)


def _row(at_ns: int, edge: Edge = EDGES[0], counts: Counts = (1,) * 10) -> FlowRow:
    return FlowRow(edge, at_ns, at_ns + SECOND, None, *counts)  # type: ignore[arg-type]


def _write(writer: Writer, rows: Sequence[FlowRow]) -> None:
    writer.window(with_ids(writer, rows), committed_ns=START, counters=EventCounts())


def _total(rows: Sequence[Counts]) -> Counts:
    """What SQL's SUM says: NULL where nothing was measured."""
    columns = zip(*rows, strict=True) if rows else [()] * len(COUNT_KEYS)
    measured = [[count for count in column if count is not None] for column in columns]
    return tuple(sum(column) if column else None for column in measured)


def _stored(conn: sqlite3.Connection, table: str, since_ns: int, until_ns: int) -> Counts:
    sums = ", ".join(f"SUM({key})" for key in COUNT_KEYS)
    row: Counts = conn.execute(
        f"SELECT {sums} FROM {table} WHERE started_ns >= ? AND started_ns < ?",
        (since_ns, until_ns),
    ).fetchone()
    return row


def _hold(conn: sqlite3.Connection, everything: Sequence[FlowRow]) -> None:
    """Every bucket a level answers for has the sums of every row that was ever written in it."""
    marks = watermarks(conn)
    for finer, level in pairwise(LEVELS):
        assert (marks[finer.name].pruned_ns or 0) <= (marks[level.name].folded_ns or 0)
    for level in LEVELS:
        folded_ns, pruned_ns = marks[level.name]
        until_ns = START + 10 * DAY if not level.width_ns else folded_ns or 0
        since_ns = pruned_ns or 0
        inside = [row for row in everything if since_ns <= row.started_ns < until_ns]
        for start_ns in {rollup.floor(row.started_ns, level.width_ns) for row in inside}:
            end_ns = start_ns + (level.width_ns or 1)
            expected = [r.counts for r in inside if start_ns <= r.started_ns < end_ns]
            assert _stored(conn, level.table, start_ns, end_ns) == _total(expected)
        assert _stored(conn, level.table, since_ns, until_ns) == _total(
            [row.counts for row in inside]
        )


_times = st.builds(
    lambda day, rest: START + day * DAY + rest,
    st.integers(0, 2),
    st.sampled_from([0, 1, MINUTE - 1, MINUTE, HOUR - 1, HOUR, HOUR + 5 * MINUTE, DAY - 1])
    | st.integers(0, DAY - 1),
)
_counts = st.tuples(
    *[st.integers(0, 3)] * len(LONE_COUNTS),
    *[st.none() | st.integers(0, 2**40)] * 4,
)
_rows = st.lists(st.builds(_row, _times, st.sampled_from(EDGES), _counts), max_size=12)
_steps = st.lists(
    st.one_of(
        st.tuples(st.just("write"), _rows),
        st.tuples(st.just("fold"), _times, st.integers(1, 5) | st.just(1000)),
        st.tuples(st.just("prune"), _times, st.integers(1, 5) | st.just(1000)),
        st.tuples(st.just("squeeze"), st.integers(1, 5) | st.just(1000)),
        st.tuples(st.just("restart")),
    ),
    max_size=12,
)


@given(_steps)
def test_sums_hold_whatever_is_written_folded_pruned_or_restarted(
    steps: list[tuple[object, ...]],
) -> None:
    conn = new()
    writer = _writer(conn)
    _write(writer, [])
    everything: list[FlowRow] = []
    for step in steps:
        match step:
            case ("write", list(rows)):
                _write(writer, rows)
                everything += rows
            case ("fold", int(until_ns), int(some)):
                list(islice(rollup.fold(conn, until_ns, SMALL), some))
            case ("prune", int(now_ns), int(some)):
                list(islice(prune.by_age(conn, now_ns, NOTHING_KEPT, writer._orphans), some))
            case ("squeeze", int(some)):
                list(islice(_limit(conn, writer, 1).steps(START + 9 * DAY), some))
            case ("restart",):
                writer = _writer(conn)
                _write(writer, [])
        _hold(conn, everything)
    for table, column in (
        *((level.table, "edge_id") for level in LEVELS),
        ("edge", "src_id"),
        ("edge", "dialled_id"),
        ("edge", "backend_id"),
    ):
        parent = "edge" if column == "edge_id" else "endpoint"
        assert (
            conn.execute(
                f"SELECT {column} FROM {table} WHERE {column} NOT IN (SELECT id FROM {parent})"
            ).fetchall()
            == []
        )
    conn.close()


def _pointed_to(conn: sqlite3.Connection, held: Iterable[int]) -> tuple[set[int], set[int]]:
    """The edges that rows, or connections, have; and the endpoints of these."""
    edges = set(held)
    for level in LEVELS:
        edges.update(row[0] for row in conn.execute(f"SELECT edge_id FROM {level.table}"))
    sides = conn.execute("SELECT id, src_id, dialled_id, backend_id FROM edge").fetchall()
    return edges, {side for row in sides if row[0] in edges for side in row[1:]}


def _stored_ids(conn: sqlite3.Connection) -> tuple[set[int], set[int]]:
    edges = {found for (found,) in conn.execute("SELECT id FROM edge")}
    return edges, {found for (found,) in conn.execute("SELECT id FROM endpoint WHERE id > 0")}


@given(st.lists(st.tuples(_rows, st.integers(0, 6)), min_size=1, max_size=8), st.booleans())
def test_a_sweep_in_slices_throws_away_no_more_and_no_less_than_one_at_once(
    windows: list[tuple[list[FlowRow], int]], prunes: bool
) -> None:
    """Between slices windows are written; what they use stays, and what nobody uses goes."""
    conn, held = new(), set[int]()
    writer = _writer(conn, lambda: held)
    _write(writer, [_row(START, edge) for edge in EDGES])
    held.add(writer.edge_id(EDGES[3]))
    list(rollup.fold(conn, START + 3 * DAY))
    if prunes:
        list(islice(prune.by_age(conn, START + 9 * DAY, NOTHING_KEPT, writer._orphans), 12))
    for level in LEVELS:
        conn.execute(f"DELETE FROM {level.table} WHERE edge_id % 2")
    unused = _stored_ids(conn)[0] - _pointed_to(conn, held)[0]
    for rows, slices in windows:
        list(islice(writer._orphans.sweep(), slices))
        _write(writer, rows)
        unused -= _pointed_to(conn, held)[0]
        edges, endpoints = _stored_ids(conn)
        assert _pointed_to(conn, held)[0] <= edges
        assert _pointed_to(conn, held)[1] <= endpoints
    list(writer._orphans.sweep())
    assert not unused & _stored_ids(conn)[0]
    assert not writer._orphans.due
    list(writer._orphans.sweep())
    assert _stored_ids(conn) == _pointed_to(conn, held)
    conn.close()


def test_no_step_of_a_sweep_reads_or_deletes_more_than_its_slice(
    conn: sqlite3.Connection,
) -> None:
    """60 flows of 60 edges that are gone: two rows a step."""
    writer = _writer(conn)
    peers = [Endpoint(address=f"8.9.0.{i}", kind="external", valid_from_ns=0) for i in range(60)]
    edges = [edge("tcp", 0, POD, peer, 443, None, peer, None, None, None) for peer in peers]
    _write(writer, [_row(START + i, one) for i, one in enumerate(edges)])
    conn.execute("DELETE FROM flow WHERE started_ns % 3")
    deleted = []
    before = conn.total_changes
    for _ in writer._orphans.sweep():
        deleted.append(conn.total_changes - before)
        before = conn.total_changes
    assert max(deleted) <= 3 * 2 * 2  # of a slice of edges, three endpoints each
    assert len(deleted) > 60
    assert _stored_ids(conn) == _pointed_to(conn, [])


def test_no_step_of_a_fold_reads_or_writes_more_than_its_slice(conn: sqlite3.Connection) -> None:
    """60 flows of 60 edges, all but two of them folded into "other": two rows a step."""
    writer = _writer(conn)
    peers = [Endpoint(address=f"8.9.0.{i}", kind="external", valid_from_ns=0) for i in range(60)]
    edges = [edge("tcp", 0, POD, peer, 443, None, peer, None, None, None) for peer in peers]
    _write(writer, [_row(START + i, one) for i, one in enumerate(edges)])
    changes = []
    before = conn.total_changes
    for _ in rollup.fold(conn, START + MINUTE, SMALL):
        changes.append(conn.total_changes - before)
        before = conn.total_changes
    assert len(changes) > 60
    assert max(changes) <= 20


def test_two_hours_fold_and_prune_right_at_any_ten_seconds(conn: sqlite3.Connection) -> None:
    writer = _writer(conn)
    everything: list[FlowRow] = []
    retain = {"flow": 10 * MINUTE, "1m": 30 * MINUTE}
    for window in range(720):
        at_ns = START + window * 10 * SECOND
        rows = [
            _row(at_ns + i * SECOND, EDGES[(window + i) % len(EDGES)], (1,) * 6 + (i, 1, None, 2))
            for i in range(3)
        ]
        if window % 50 == 49:  # the clock was stepped back
            rows.append(_row(at_ns - 20 * MINUTE))
        _write(writer, rows)
        everything += rows
        list(writer.maintain(at_ns + 10 * SECOND, retain))
        if window % 11 == 0:  # at each of a minute's six windows in turn
            _hold(conn, everything)
    _hold(conn, everything)
    now_ns = START + 2 * HOUR
    assert watermarks(conn) == {
        "flow": (None, now_ns - 10 * MINUTE),
        "1m": (now_ns, now_ns - HOUR),
        "1h": (now_ns, None),
        "1d": (START, None),  # the late row of a window before START
    }


def test_past_the_cap_the_smallest_external_edges_become_other(conn: sqlite3.Connection) -> None:
    writer = _writer(conn)
    rows = [
        _row(START + i, edge, (1, 2, 0, 1, 0, 0, 100 * (i + 1), 1, None, None))
        for i, edge in enumerate(EDGES[:6])
    ]
    rows.append(_row(START + 7, EDGES[5], (3, 0, 0, 0, 1, 0, None, None, None, None)))
    _write(writer, rows)
    list(rollup.fold(conn, START + MINUTE, SMALL))
    assert conn.execute(
        "SELECT src, ip_version, dst, dst_port, dst_kind, dst_name, connections, bytes_out"
        " FROM flows_1m ORDER BY dst_kind, dst"
    ).fetchall() == [
        ("10.0.0.1", 4, "8.8.8.3", 443, "external", None, 1, 500),
        ("10.0.0.1", 4, "other", 443, "external", None, 3, 200 + 300 + 400),
        ("10.0.0.1", 4, "10.0.0.2", 443, "pod", "db", 1, 100),
        ("10.0.0.1", 4, "2001:db8::1", 443, "unknown", None, 4, 600),
    ]


def test_a_late_row_is_in_its_bucket_beside_the_folded_ones(conn: sqlite3.Connection) -> None:
    writer = _writer(conn)
    _write(writer, [_row(START), _row(START + 2 * HOUR)])
    list(rollup.fold(conn, START + 2 * HOUR + MINUTE))
    _write(writer, [_row(START + SECOND), _row(START, EDGES[1], (5,) * 6 + (None,) * 4)])
    buckets = "SELECT started_ns, dst, connections, bytes_in FROM {} ORDER BY 1, 2"
    assert conn.execute(buckets.format("flows_1m")).fetchall() == [
        (START, "10.0.0.2", 2, 2),
        (START, "8.8.8.0", 5, None),
        (START + 2 * HOUR, "10.0.0.2", 1, 1),
    ]
    assert conn.execute(buckets.format("flows_1h")).fetchall() == [
        (START, "10.0.0.2", 2, 2),
        (START, "8.8.8.0", 5, None),
    ]
    assert conn.execute("SELECT started_ns, n FROM flow").fetchall() == [
        (START, 0),
        (START, 1),
        (START + SECOND, 0),
        (START + 2 * HOUR, 0),
    ]


def test_a_row_older_than_what_is_kept_counts_where_its_time_is_kept(
    conn: sqlite3.Connection,
) -> None:
    writer = _writer(conn)
    _write(writer, [_row(START), _row(START + 2 * HOUR)])
    list(writer.maintain(START + 3 * HOUR, {"flow": 10 * MINUTE}))
    _write(writer, [_row(START + 1)])
    assert conn.execute("SELECT started_ns FROM flow").fetchall() == []
    assert conn.execute("SELECT started_ns, connections FROM flow_1h").fetchall() == [
        (START, 2),
        (START + 2 * HOUR, 1),
    ]


def test_nothing_is_pruned_that_is_not_folded(conn: sqlite3.Connection) -> None:
    writer = _writer(conn)
    _write(writer, [_row(START)])
    assert list(prune.by_age(conn, START + 999 * DAY, NOTHING_KEPT, writer._orphans)) == []
    assert watermarks(conn) == {level.name: (None, None) for level in LEVELS}


def test_what_no_row_points_to_is_thrown_away_and_comes_back_when_used(
    conn: sqlite3.Connection,
) -> None:
    writer = _writer(conn)
    _write(writer, [_row(START, EDGES[1]), _row(START + 3 * DAY, EDGES[0])])
    list(writer.maintain(START + 3 * DAY + MINUTE, NOTHING_KEPT))
    assert conn.execute("SELECT address FROM endpoint").fetchall() == [
        ("10.0.0.1",),
        ("10.0.0.2",),
    ]
    _write(writer, [_row(START + 3 * DAY + HOUR, EDGES[1])])
    assert conn.execute("SELECT src, dst FROM flows").fetchall() == [("10.0.0.1", "8.8.8.0")]


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("write"), _rows),
            st.tuples(st.just("go on"), st.integers(1, 30)),
            st.tuples(st.just("begin"), _times),
        ),
        min_size=2,
        max_size=14,
    )
)
def test_windows_between_the_steps_of_a_fold_are_in_its_sums(
    steps: list[tuple[object, ...]],
) -> None:
    """A bucket that rows come for while it is summed up is not finished without them."""
    conn = new()
    writer = _writer(conn)
    everything: list[FlowRow] = []
    under_way: Iterator[None] = iter(())
    for step in steps:
        match step:
            case ("write", list(rows)):
                _write(writer, rows)
                everything += rows
            case ("begin", int(until_ns)):
                under_way = rollup.fold(conn, until_ns, SMALL, writer._flows.folding)
            case ("go on", int(some)):
                list(islice(under_way, some))
        _hold(conn, everything)
    conn.close()


def test_late_rows_past_the_cap_are_folded_too(
    conn: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than a minute keeps came late, each from an address of its own."""
    monkeypatch.setattr(rollup, "_READ_AT_ONCE", 5_000)
    monkeypatch.setattr(tail, "_TAIL_AT_ONCE", 5_000)
    writer = _writer(conn)
    _write(writer, [_row(START)])
    list(rollup.fold(conn, START + DAY))
    peers = [
        Endpoint(address=f"9.0.{i >> 8}.{i & 255}", kind="external", valid_from_ns=0)
        for i in range(LEVELS[1].peers + 100)
    ]
    rows = [
        _row(START + SECOND + i, edge("tcp", 0, peer, POD, 80, None, POD, None, None, None))
        for i, peer in enumerate(peers)
    ]
    _write(writer, rows)
    list(writer._flows.late.recap())
    assert writer._flows.late.added == {}
    for level in LEVELS[1:]:
        found = conn.execute(f"SELECT COUNT(*) FROM {level.table}").fetchone()
        assert found == (1 + level.peers + 1,)
        assert conn.execute(
            f"SELECT src, connections FROM flows_{level.name} WHERE src = 'other'"
        ).fetchall() == [("other", len(peers) - level.peers)]
    assert _stored(conn, "flow_1h", START, START + DAY) == _total([(1,) * 10] * (len(rows) + 1))
