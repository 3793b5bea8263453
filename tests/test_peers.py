"""When a peer was first seen outlives its rows, its edges and the recorder."""

import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice

import pytest
from edges import edge, with_ids
from emptyfile import new
from hypothesis import given
from hypothesis import strategies as st

from ctk.model import COUNTS_NEW, Edge, Endpoint, EventCounts, FlowRow
from ctk.model.lone import LoneEvents
from ctk.store import peers, prune, rollup
from ctk.store.levels import LEVELS
from ctk.store.peers import CLIENT, SERVER, Peer, peer_id
from ctk.store.write import Writer
from ctk.timespan import DAY, SECOND

T = 1_700_006_400 * SECOND
NOTHING_KEPT = {level.name: 0 for level in LEVELS}
WEB = Endpoint(
    address="10.0.0.1", kind="pod", valid_from_ns=0, namespace="shop", name="web-1", workload="web"
)
WEB2 = replace(WEB, address="10.0.0.2", name="web-2")
DB = replace(WEB, address="10.0.0.3", name="db-0", workload="db")
STRANGER = Endpoint(address="203.0.113.9", kind="external", valid_from_ns=0)


def _edge(src: Endpoint, dst: Endpoint, port: int = 5432) -> Edge:
    return edge("tcp", 0, src, dst, port, None, dst, None, None, None)


EDGES = [_edge(WEB, DB), _edge(WEB2, DB), _edge(DB, WEB), _edge(WEB, STRANGER, 443)]


@pytest.fixture
def conn() -> Iterator[sqlite3.Connection]:
    opened = new()
    yield opened
    opened.close()


def _writer(conn: sqlite3.Connection) -> Writer:
    return Writer(conn, node="n1", source="kernel", settings={}, started_ns=T, boot_id=None)


def _row(edge: Edge, at_ns: int) -> FlowRow:
    return FlowRow(edge, at_ns, at_ns, None, *(1,) * 10)  # type: ignore[arg-type]


def _write(writer: Writer, *rows: FlowRow) -> None:
    writer.window(with_ids(writer, rows), committed_ns=T, counters=EventCounts())


def _first(conn: sqlite3.Connection) -> dict[Peer, int]:
    """Say when each peer was first seen, by all that the file knows."""
    found: dict[Peer, int] = {}
    for *names, first_ns in conn.execute(
        f"SELECT {CLIENT}, {SERVER}, dst_port, proto, first_ns FROM edge"
        " JOIN endpoint AS src ON src.id = src_id JOIN endpoint AS backend ON backend.id ="
        " backend_id WHERE edge.id > 0"
    ):
        peer = Peer._make(names)
        found[peer] = min(first_ns, found.get(peer, first_ns))
    everybody = [Peer(*names) for names in PEERS.values()]
    for peer, first_ns in peers.remembered(conn, everybody).items():
        found[peer] = min(first_ns, found.get(peer, first_ns))
    return found


PEERS = {
    EDGES[0]: ("shop/web", "shop/db", 5432, "tcp"),
    EDGES[1]: ("shop/web", "shop/db", 5432, "tcp"),
    EDGES[2]: ("shop/db", "shop/web", 5432, "tcp"),
    EDGES[3]: ("shop/web", "203.0.113.9", 443, "tcp"),
}


def test_an_edge_begins_with_its_first_row_whatever_comes_later(conn: sqlite3.Connection) -> None:
    writer = _writer(conn)
    _write(writer, _row(EDGES[0], T + 5), _row(EDGES[0], T + 3), _row(EDGES[2], T + 9))
    _write(writer, _row(EDGES[0], T + 70), _row(EDGES[3], T + 80))
    assert conn.execute("SELECT first_ns FROM edge ORDER BY id").fetchall() == [
        (T + 3,),
        (T + 9,),
        (T + 80,),
    ]


def test_an_edge_of_lone_events_begins_with_the_first_of_them(conn: sqlite3.Connection) -> None:
    writer = _writer(conn)
    first = writer.edge_id(EDGES[0])
    events = LoneEvents([(T + 8, first, 40_000, COUNTS_NEW), (T + 9, first, 2, COUNTS_NEW)])
    rows = with_ids(writer, [_row(EDGES[2], T + 4)])
    writer.window(rows, events=events, committed_ns=T, counters=EventCounts())
    assert conn.execute("SELECT first_ns FROM edge ORDER BY id").fetchall() == [(T + 8,), (T + 4,)]


_steps = st.lists(
    st.one_of(
        st.tuples(
            st.just("write"),
            st.lists(
                st.builds(
                    lambda edge, day, at: _row(edge, T + day * DAY + at),
                    st.sampled_from(EDGES),
                    st.integers(0, 3),
                    st.integers(0, DAY - 1),
                ),
                max_size=6,
            ),
        ),
        st.tuples(st.just("prune"), st.integers(0, 5), st.integers(1, 1000)),
        st.tuples(st.just("restart")),
    ),
    max_size=12,
)


@given(_steps)
def test_the_first_time_outlives_rows_edges_and_restarts(steps: list[tuple[object, ...]]) -> None:
    conn = new()
    writer = _writer(conn)
    newest_ns = T  # rows that come late do not make an edge older
    expected: dict[Peer, int] = {}
    for step in steps:
        match step:
            case ("write", list(rows)):
                rows = [row for row in rows if row.started_ns >= newest_ns]
                _write(writer, *rows)
                for row in rows:
                    peer = Peer(*PEERS[row.edge_id])
                    expected[peer] = min(row.started_ns, expected.get(peer, row.started_ns))
                    newest_ns = max(newest_ns, row.started_ns)
            case ("prune", int(days), int(some)):
                until_ns = T + days * DAY
                list(rollup.fold(conn, until_ns))
                list(islice(prune.by_age(conn, until_ns, NOTHING_KEPT, writer._orphans), some))
            case ("restart",):
                writer = _writer(conn)
        assert _first(conn) == expected
    conn.close()


@pytest.fixture
def forget(conn: sqlite3.Connection) -> Callable[[Writer], None]:
    def run(writer: Writer) -> None:
        list(rollup.fold(conn, T + 9 * DAY))
        list(prune.by_age(conn, T + 9 * DAY, NOTHING_KEPT, writer._orphans))
        assert conn.execute("SELECT COUNT(*) FROM edge").fetchone() == (0,)

    return run


def test_of_strangers_so_many_are_remembered_and_all_others(
    conn: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch, forget: Callable[[Writer], None]
) -> None:
    monkeypatch.setattr(peers, "MOST_STRANGERS", 3)
    writer = _writer(conn)
    strangers = [replace(STRANGER, address=f"203.0.113.{i}") for i in range(9)]
    _write(writer, *(_row(_edge(WEB, one), T + i) for i, one in enumerate(strangers)))
    _write(writer, *(_row(_edge(WEB, DB, port), T + port) for port in range(20, 30)))
    forget(writer)
    assert peers.count(conn) == 3 + 10
    known = [Peer("shop/web", "shop/db", port, "tcp") for port in range(20, 30)]
    assert len(peers.remembered(conn, known)) == 10
    # What is remembered is never pushed out by what is not.
    _write(writer, _row(_edge(DB, strangers[8]), T + DAY))
    forget(writer)
    assert peers.count(conn) == 13


def test_what_is_remembered_of_strangers_is_a_small_part_of_the_file(
    conn: sqlite3.Connection,
) -> None:
    (pages,) = conn.execute("PRAGMA page_count").fetchone()
    assert 0 < peers.most_strangers(conn) * 20 <= pages * 4096 / 16


def test_the_hash_of_a_peer_never_changes() -> None:
    """It stands in files: that of another release is the same."""
    assert peer_id(Peer("shop/web", "shop/db", 5432, "tcp")) == HASHED
    assert peer_id(Peer("shop/web", "shop/db", None, "tcp")) != HASHED


HASHED = 3688470095948164217
