"""Which live connections move nothing: seen by dumps, kept in the file, in few bytes."""

from pathlib import Path

import pytest
from edges import edge
from test_aggregate import ONCE, TWICE, Recording
from test_pipeline import ask, record, tick
from wire import ICMP, SECOND, Connection, batch

import ctk
from ctk.conntrack import idle
from ctk.conntrack.idle import IDLE_NS, IdleLook
from ctk.errors import UsageError
from ctk.model import Datagrams, Endpoint, EventCounts, IdleConnections
from ctk.store import connect
from ctk.store.live import IdleRow, idle_rows
from ctk.store.snapshot import snapshot
from ctk.store.write import Writer
from ctk.timespan import MINUTE

T = 1_000_000 * SECOND
A, B, C = (Connection(port=port, ct_id=port) for port in (1, 2, 3))
PING = Connection(proto=ICMP, port=4, ct_id=4)


def _look(recording: Recording, at_ns: int) -> IdleConnections:
    for group in recording.connections.live.values():
        group.edge_id = group.edge_id or 7
    look = IdleLook(recording.connections, at_ns)
    for _ in look.slices():
        pass
    return look.found()


def test_what_no_dump_saw_move_for_five_minutes_is_idle() -> None:
    recording = Recording()
    recording.events(A.new(T), B.new(T), PING.new(T), at_ns=T)
    recording.dump(A.listed(ONCE), B.listed(ONCE), PING.listed(ONCE), at_ns=T + 5 * SECOND)
    at_ns = T + 5 * SECOND + IDLE_NS
    recording.dump(A.listed(ONCE), B.listed(TWICE), PING.listed(ONCE), at_ns=at_ns - SECOND)
    assert _look(recording, at_ns - 1).by_edge == {}
    moved = sum(ONCE[1::2])
    assert _look(recording, at_ns) == IdleConnections(
        at_ns=at_ns,
        by_edge={7: [(1, T, T + 5 * SECOND, moved), (0, T, T + 5 * SECOND, moved)]},
        more=0,
        unmeasured=0,
    )
    recording.events(A.destroy(at_ns + 1), at_ns=at_ns + 1)
    assert len(_look(recording, at_ns + 2).by_edge[7]) == 1


def test_what_is_not_counted_is_not_called_idle() -> None:
    recording = Recording()
    recording.events(A.new(T), at_ns=T)
    recording.dump(A.listed(), at_ns=T + SECOND)
    found = _look(recording, T + IDLE_NS)
    assert (found.by_edge, found.unmeasured) == ({}, 1)
    assert _look(recording, T + IDLE_NS - 1).unmeasured == 0


def test_of_too_many_the_oldest_are_kept_and_the_others_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(idle, "MOST_IDLE", 2)
    monkeypatch.setattr(idle, "_AT_ONCE", 1)
    recording = Recording()
    for i, one in enumerate((A, B, C)):
        recording.events(one.new(T + i * SECOND), at_ns=T + i * SECOND)
    recording.dump(C.listed(ONCE), A.listed(ONCE), B.listed(ONCE), at_ns=T + 9 * SECOND)
    found = _look(recording, T + MINUTE + IDLE_NS)
    assert ([one[0] for one in found.by_edge[7]], found.more) == ([1, 2], 1)


def test_a_restart_does_not_make_an_idle_connection_a_lively_one() -> None:
    before = Recording()
    before.events(A.new(T), at_ns=T)
    before.dump(A.listed(ONCE), at_ns=T + SECOND)
    for group in before.connections.live.values():
        group.edge_id = 7
    after = Recording()
    after.connections.restore(list(before.connections.export()), by_port=False)
    after.dump(A.listed(ONCE), at_ns=T + IDLE_NS)
    found = _look(after, T + SECOND + IDLE_NS)
    assert found.by_edge == {7: [(1, T, T + SECOND, sum(ONCE[1::2]))]}


def _dump(at_ns: int, *listed: bytes) -> list[Datagrams]:
    return [batch(*listed, at_ns=at_ns, dumped=True), batch(at_ns=at_ns, dumped=True)]


def _stored(db: Path) -> tuple[object, ...]:
    [(at_ns, more, unmeasured)] = ask(
        db, "SELECT idle_ns, idle_more, idle_unmeasured FROM recording"
    )
    kept = [
        (src, *row)
        for src, packed in ask(
            db,
            "SELECT address, connections FROM idle JOIN edge ON edge.id = edge_id"
            " JOIN endpoint ON endpoint.id = src_id",
        )
        for row in idle_rows(packed)
    ]
    return at_ns, more, unmeasured, kept


def test_a_file_says_which_are_idle_while_it_is_written_and_at_its_end(tmp_path: Path) -> None:
    db = tmp_path / "node.db"
    other = Connection(src="10.0.0.9", port=9, ct_id=9)
    began = [tick(T), batch(A.new(T), other.new(T), at_ns=T), *_dump(T, A.listed(ONCE))]
    seen = []

    def steps() -> list[Datagrams]:
        yield from began
        yield from _dump(T + SECOND, A.listed(ONCE), other.listed(ONCE))
        yield tick(T + 20 * SECOND)
        yield from _dump(T + IDLE_NS, A.listed(ONCE), other.listed(TWICE))
        for s in range(5):
            yield tick(T + IDLE_NS + s * SECOND)
        seen.append(_stored(db))
        yield tick(T + 2 * IDLE_NS)

    record(db, steps())
    is_idle = (A.src, 1, T, T, sum(ONCE[1::2]))
    assert seen == [(T + IDLE_NS, 0, 0, [is_idle])]
    assert _stored(db) == (
        T + 2 * IDLE_NS,
        0,
        0,
        [is_idle, ("10.0.0.9", 9, T, T + IDLE_NS, sum(TWICE[1::2]))],
    )


def test_an_idle_connection_takes_at_most_40_bytes_of_the_file(tmp_path: Path) -> None:
    """The worst case: each is of an edge of its own."""
    db, n = tmp_path / "node.db", 10_000
    with connect.writer(db) as conn:
        writer = Writer(conn, node="n1", source="k", settings={}, started_ns=T, boot_id=None)
        here = Endpoint(address="10.0.0.1", kind="node", valid_from_ns=0, name="n1")
        peers = [
            Endpoint(address=f"8.8.{i >> 8}.{i & 255}", kind="external", valid_from_ns=0)
            for i in range(n)
        ]
        ids = [
            writer.edge_id(edge("tcp", 0, here, one, 443, None, one, None, None, None))
            for one in peers
        ]
        writer.window((), committed_ns=T, counters=EventCounts())
        look = IdleConnections(
            at_ns=T, by_edge={one: [(40_000, T, T, 2**40)] for one in ids}, more=0, unmeasured=0
        )
        writer.keep_idle(look)
        (used,) = conn.execute("SELECT SUM(pgsize) FROM dbstat WHERE name = 'idle'").fetchone()
        assert used / n <= 40
        # The next look takes the place of this one.
        writer.keep_idle(IdleConnections(at_ns=T + 1, by_edge={}, more=3, unmeasured=2))
        assert conn.execute("SELECT COUNT(*) FROM idle").fetchone() == (0,)


def test_what_is_kept_is_read_as_it_was(tmp_path: Path) -> None:
    db = tmp_path / "node.db"
    one = [(40_000, T, T + 1, 2**60), (0, 0, 0, 0)]
    with connect.writer(db) as conn:
        writer = Writer(conn, node="n1", source="k", settings={}, started_ns=T, boot_id=None)
        here = Endpoint(address="10.0.0.1", kind="node", valid_from_ns=0, name="n1")
        found = writer.edge_id(edge("udp", 0, here, here, 53, None, here, None, None, None))
        writer.window((), committed_ns=T, counters=EventCounts())
        gone = {found + 1: [(1, T, T, 1)]}
        writer.keep_idle(
            IdleConnections(at_ns=T, by_edge={found: one} | gone, more=0, unmeasured=0)
        )
    [(edge_id, packed)] = ask(db, "SELECT edge_id, connections FROM idle")
    assert (edge_id, list(idle_rows(packed))) == (found, [IdleRow(*each) for each in one])


# What is asked of them.

HERE = Endpoint(
    address="10.0.0.1", kind="pod", valid_from_ns=0, namespace="shop", name="web-1", node="n1"
)
THERE = Endpoint(address="203.0.113.9", kind="external", valid_from_ns=0)


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """A file with two idle connections of one edge and one of another, and of one no look."""
    db = tmp_path / "two.db"
    with connect.writer(db) as conn:
        writer = Writer(conn, node="n1", source="k", settings={}, started_ns=T, boot_id=None)
        to = writer.edge_id(edge("tcp", 0, HERE, THERE, 443, None, THERE, None, None, None))
        back = writer.edge_id(edge("icmp", 0, THERE, HERE, None, None, HERE, None, None, None))
        writer.window((), committed_ns=T, counters=EventCounts())
        at_ns = T + 60 * MINUTE
        by_edge = {
            to: [(40_001, T, at_ns - 6 * MINUTE, 10), (40_002, T + 1, at_ns - 20 * MINUTE, 20)],
            back: [(0, T + 2, at_ns - 7 * MINUTE, 30)],
        }
        writer.keep_idle(IdleConnections(at_ns=at_ns, by_edge=by_edge, more=3, unmeasured=4))
    return db


def _asked(db: Path, **asked: object) -> list[tuple[object, ...]]:
    with ctk.open(db) as recording:
        found = recording.idle(**asked)
        return [(one.source, one.src_port, one.idle_ns // MINUTE) for one in found.rows]


def test_the_longest_idle_come_first(two: Path) -> None:
    rows = [("shop/web-1", 40_002, 20), ("203.0.113.9", None, 7), ("shop/web-1", 40_001, 6)]
    assert _asked(two) == rows
    assert _asked(two, min_idle="7m") == rows[:2]
    assert _asked(two, from_pod="web-1", min_idle=8 * MINUTE) == rows[:1]
    assert _asked(two, from_port=40_001) == rows[2:]
    assert _asked(two, not_from_port=40_001) == rows[:2]
    assert _asked(two, since=T + 1) == rows[:2]
    assert _asked(two, until=T + 1) == rows[2:]
    assert _asked(two, kind="node") == []


def test_it_is_said_as_of_when_and_what_is_not_known(two: Path) -> None:
    with ctk.open(two) as recording:
        found = recording.idle()
    assert found.as_of_ns == T + 60 * MINUTE
    assert [caveat.text for caveat in found.caveats] == [
        "4 connections may be idle, too: the kernel does not count what they move"
        " (net.netfilter.nf_conntrack_acct)",
        "3 more were idle: the file keeps the oldest",
    ]


def test_a_file_in_which_nobody_looked_says_so(shop: Path) -> None:
    with ctk.open(shop) as recording:
        found = recording.idle()
    assert (found.rows, found.as_of_ns) == ((), None)
    assert [caveat.text for caveat in found.caveats] == [
        "no recorder has looked for idle connections yet: it does every 5m, and at its end"
    ]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"min_idle": "4m"}, "connections idle for less than 5m are not in the file"),
        ({"failed": True}, "--failed is of flows, not of live connections"),
        ({"last": 3}, "first and last cut flows, not connections"),
    ],
)
def test_what_is_not_known_of_live_connections_is_refused(
    two: Path, asked: dict[str, object], message: str
) -> None:
    with ctk.open(two) as recording, pytest.raises(UsageError) as error:
        recording.idle(**asked)
    assert error.value.message == message


def test_a_snapshot_keeps_what_was_idle(two: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    snapshot(two, copy, lambda done, total: None)
    assert _asked(copy) == _asked(two)
