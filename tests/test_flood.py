"""A flood of strangers, from messages to what the file says: sums, addresses, restarts."""

import json
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from queue import SimpleQueue

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_pipeline import SUMS, T, ask, assert_levels_agree, listed, pod, record
from wire import CLOSE, CONFIRMED, SECOND, Connection, batch

import ctk
from ctk.ask.caveats import Folded
from ctk.errors import StoreError
from ctk.kube.endpoints import Endpoints
from ctk.kube.objects import Change
from ctk.kube.parse import read_objects
from ctk.model import Datagrams, Endpoint
from ctk.model.addresses import packed
from ctk.record import commit
from ctk.render import eventlog
from ctk.store import connect, rollup
from ctk.store.levels import LEVELS
from ctk.timespan import HOUR, MINUTE

WEB, DB = "10.244.0.21", "10.244.0.22"
ONE_EACH = (1, 40, 0, 0)


def changes() -> "SimpleQueue[Change]":
    told: SimpleQueue[Change] = SimpleQueue()
    for change in listed(T, pod("web", T - SECOND, WEB), pod("db", T - SECOND, DB)):
        told.put(change)
    return told


def client(n: int, dst: str = WEB, port: int = 80) -> Connection:
    return Connection(src=f"8.{n >> 16}.{n >> 8 & 255}.{n & 255}", dst=dst, dst_port=port, ct_id=n)


def scan(clients: int, *, windows: int = 3) -> Iterator[Datagrams]:
    """Each window other clients dial both pods; half of them are refused. Web dials out, too."""
    for window in range(windows):
        at_ns = T + window * 10 * SECOND
        messages = []
        for n in range(window * clients, (window + 1) * clients):
            one = client(n, WEB if n % 3 else DB)
            messages.append(one.new(at_ns))
            if n % 2:
                messages.append(one.destroy(at_ns, ONE_EACH, status=CONFIRMED, state=CLOSE))
            out = Connection(src=WEB, dst=f"9.9.{n >> 8}.{n & 255}", dst_port=443, ct_id=10**6 + n)
            messages.append(out.new(at_ns))
        inside = Connection(src=WEB, dst=DB, dst_port=5432, ct_id=9 * 10**6 + window)
        messages += [inside.new(at_ns), inside.destroy(at_ns, (5, 500, 5, 5_000))]
        yield batch(*messages, at_ns=at_ns)
    yield batch(at_ns=T + windows * 10 * SECOND)


@pytest.mark.parametrize("aggregation", ["ports", "connections", "none"])
def test_sums_of_all_that_is_known_are_those_without_folding(tmp_path, aggregation):
    by_known = (
        "SELECT CASE src_kind WHEN 'external' THEN '' ELSE src_name END,"
        " CASE dst_kind WHEN 'external' THEN '' ELSE dst_name END, dst_port, proto, node,"
        f" {SUMS} FROM {{}} GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3"
    )
    answers = []
    for peers in (None, 20, 0):
        db = tmp_path / f"{peers}.db"
        record(db, scan(200), changes(), peers=peers, aggregation=aggregation)
        assert len({ask(db, f"SELECT {SUMS} FROM {level.table}")[0] for level in LEVELS}) == 1
        answers.append([ask(db, by_known.format(f"flows{level}")) for level in ("", "_1m", "_1d")])
    assert answers[0] == answers[1] == answers[2]


def test_what_is_folded_says_how_many_addresses_it_stands_for_at_every_level(tmp_path):
    db = tmp_path / "node.db"
    record(db, scan(240, windows=2), changes(), peers=20)
    others = (
        "SELECT src, dst_name, dst, dst_port, src_addresses, dst_addresses, refused FROM {}"
        " WHERE 'other' IN (src, dst) ORDER BY 1, 2, 3, 7"
    )
    first = f"flows WHERE started_ns < {T + 10 * SECOND}"
    found = ask(db, others.format(first).replace("WHERE 'other'", "AND 'other'"))
    assert [row for row in found if row[6] or row[2] == "other"] == [
        (WEB, None, "other", 443, None, 240, 0),
        ("other", "db", DB, 80, 40, None, 40),
        ("other", "web", WEB, 80, 80, None, 80),
    ]
    for level in LEVELS[1:]:
        found = ask(db, others.format(level.table.replace("flow", "flows")))
        assert [row[:4] for row in found] == [
            (WEB, None, "other", 443),
            ("other", "db", DB, 80),
            ("other", "db", DB, 80),
            ("other", "web", WEB, 80),
            ("other", "web", WEB, 80),
        ]
        assert [row[6] for row in found] == [0, 0, 80, 0, 160]
        [(_, _, _, _, _, dialled, _), _, (*_, to_db, _, _), _, (*_, to_web, _, _)] = found
        assert (to_db, to_web) == (80, 160)
        assert abs(dialled - 480) < 0.07 * 480


def test_a_scan_of_all_ports_is_told_apart_by_port_up_to_a_bound(tmp_path, monkeypatch):
    """A minute keeps five ports, the busiest; all others are one row for those that failed."""
    small = tuple(level._replace(peers=5) for level in LEVELS)
    monkeypatch.setattr(rollup, "levels_within", lambda most: small)
    db, messages = tmp_path / "node.db", []
    for port in range(1, 31):
        for n in range(2 if port <= 5 else 1):
            one = client(port * 100 + n, WEB, port)
            messages += [one.new(T), one.destroy(T, ONE_EACH, status=CONFIRMED, state=CLOSE)]
    record(db, iter([batch(*messages, at_ns=T)]), changes(), peers=0)
    failed = "dst_port, SUM(refused), SUM(src_addresses) FROM flows_1m WHERE refused"
    assert ask(db, f"SELECT {failed} GROUP BY 1 ORDER BY 1") == [
        (None, 25, 25),
        *((port, 2, 2) for port in range(1, 6)),
    ]
    assert len({ask(db, f"SELECT {SUMS} FROM {level.table}")[0] for level in LEVELS}) == 1


def test_who_is_in_no_row_any_more_is_forgotten_once_a_day(tmp_path, monkeypatch):
    """Flows go after a day, and of most strangers no minute tells."""
    small = tuple(level._replace(peers=5) for level in LEVELS)
    monkeypatch.setattr(rollup, "levels_within", lambda most: small)
    db, later_ns = tmp_path / "node.db", T + 49 * HOUR
    begun, ended = [client(n).new(T) for n in range(50)], [client(n).destroy(T) for n in range(50)]
    later = [batch(client(n).new(later_ns), at_ns=later_ns + n * MINUTE) for n in range(3)]
    record(db, iter([batch(*begun, *ended, at_ns=T), *later]), changes())
    assert ask(db, "SELECT SUM(connections) FROM flows_1m WHERE src = 'other'") == [(45,)]
    [(edges,)] = ask(db, "SELECT COUNT(*) FROM edge WHERE id > 0")
    assert edges < 10


def test_answers_say_what_was_folded(invoke, tmp_path):
    db = tmp_path / "node.db"
    record(db, scan(40, windows=1), changes(), peers=5)
    said = "80 external addresses, each with little, are counted together as 'other'"
    for words in (("top", db), ("top", db, "--pod", "web"), ("query", db)):
        assert "counted together as 'other'" in invoke(*words).stderr
    with ctk.open(db) as recording:
        assert [caveat.text for caveat in recording.top().caveats] == [said]
        inside = recording.top(from_pod="load/web", to_pod="load/db")
        assert [caveat.text for caveat in inside.caveats] == []
        asked_for = recording.flows(ip="8.0.0.1")
        assert list(asked_for) == []
        assert any("as 'other'" in caveat.text for caveat in asked_for.caveats)
        rows = list(recording.flows())
    assert {(row.src_addresses, row.dst_addresses, row.ip_version) for row in rows} >= {
        (None, 40, 4),
        (None, None, 4),
    }


def test_rows_that_stand_for_many_are_told_where_nothing_says_for_how_many_together(tmp_path):
    """As of what was shipped: a number came along for each row, but not what it was counted by."""
    db = tmp_path / "node.db"
    record(db, scan(40, windows=1), changes(), peers=5)
    with closing(sqlite3.connect(db)) as conn, conn:
        conn.execute("UPDATE folded SET src_counted = NULL, dst_counted = NULL")
    with ctk.open(db) as recording:
        flows = recording.flows(last=3)
        assert any(row.src_addresses for row in flows)
        assert flows.caveats == (Folded(),)
        assert recording.flows(from_pod="load/web", to_pod="load/db").caveats == ()


def test_a_folded_row_in_the_event_log(invoke, tmp_path):
    db = tmp_path / "node.db"
    record(db, scan(40, windows=1), changes(), peers=5)
    [_, *lines] = sorted(invoke("export", db, "--format", "log").stdout.splitlines())
    folded = [json.loads(line) for line in lines if '"src":"other"' in line]
    assert folded
    for line in folded:
        assert list(line)[1] == "src"
        assert list(line)[-1] == "srcAddresses"
    with ctk.open(db) as recording:
        [row] = [row for row in recording.flows() if row.dst == "other"]
    assert eventlog.live_line(row).startswith(b"<tcp, Src: 10.244.0.21:")
    assert b"Dst: other:443> (true)" in eventlog.live_line(row)


def test_max_size_holds_where_strangers_live_on(tmp_path):
    """None of them is folded as it begins; what no row tells of any more is not kept for them."""
    db, allowed, sizes = tmp_path / "node.db", 2 << 20, []

    def steps() -> Iterator[Datagrams]:
        for window in range(20):
            at_ns = T + window * 10 * SECOND
            numbers = range(window * 1_000, (window + 1) * 1_000)
            yield batch(*(client(n).new(at_ns) for n in numbers), at_ns=at_ns)
            sizes.append(sum(each.stat().st_size for each in tmp_path.glob("node.db*")))
        yield batch(*(client(n).destroy(at_ns) for n in range(20_000)), at_ns=at_ns + 20 * SECOND)

    record(db, steps(), changes(), peers=1_000, max_bytes=allowed)
    assert max(sizes) <= 1.1 * allowed
    assert ask(db, "SELECT SUM(connections), SUM(destroy_events) FROM flows_1d") == [
        (20_000, 20_000)
    ]


def test_what_a_stop_keeps_of_what_lives_is_within_max_size(tmp_path, caplog):
    """Else the next recording goes on as after a crash, and counts none of them again."""
    db, allowed = tmp_path / "node.db", 1 << 20
    many = [client(n) for n in range(60_000)]

    def again() -> Iterator[Datagrams]:
        at_ns = T + 20 * SECOND
        listed_now = (each.listed(start_ns=T) for each in many[:100])
        yield batch(*listed_now, at_ns=at_ns, dumped=True)
        yield batch(at_ns=at_ns, dumped=True)

    begun = batch(*(each.new(T) for each in many), at_ns=T)
    record(
        db,
        iter([begun, batch(at_ns=T + 11 * SECOND)]),
        changes(),
        peers=0,
        max_bytes=allowed,
        live=True,
    )
    assert [each.getMessage() for each in caplog.records] == [
        "no room within --max-size was left to keep what lives: the next recording goes on without"
    ]
    assert db.stat().st_size <= allowed
    record(
        *(db, again(), changes()),
        peers=0, max_bytes=allowed, live=True, started_ns=T + 15 * SECOND,
    )  # fmt: skip
    assert ask(db, "SELECT SUM(connections) FROM flows") == [(60_000,)]


LEFT = [client(n) for n in range(60)]


def _begin(at_ns: int) -> Iterator[Datagrams]:
    yield batch(*(one.new(at_ns) for one in LEFT), at_ns=at_ns)
    yield batch(*(one.listed(ONE_EACH) for one in LEFT), at_ns=at_ns + SECOND, dumped=True)
    yield batch(at_ns=at_ns + SECOND, dumped=True)
    yield batch(at_ns=at_ns + 11 * SECOND)


def _end(at_ns: int) -> Iterator[Datagrams]:
    yield batch(*(one.listed((2, 80, 0, 0)) for one in LEFT), at_ns=at_ns, dumped=True)
    yield batch(at_ns=at_ns, dumped=True)
    yield batch(*(one.destroy(at_ns, (3, 120, 0, 0)) for one in LEFT), at_ns=at_ns + SECOND)
    yield batch(at_ns=at_ns + 20 * SECOND)


TOTALS = "SELECT SUM(connections), SUM(new_events), SUM(destroy_events), SUM(bytes_out) FROM flows"


def test_a_restart_in_a_flood_goes_on_under_the_same_rows(tmp_path):
    db = tmp_path / "node.db"
    record(db, _begin(T), changes(), peers=5, live=True)
    record(db, _end(T + 30 * SECOND), changes(), peers=5, live=True, started_ns=T + 25 * SECOND)
    assert ask(db, TOTALS) == [(60, 60, 60, 60 * 120)]
    assert ask(db, "SELECT COUNT(*) FROM edge") == [(1,)]
    assert ask(db, "SELECT src_addresses FROM flows") == [(60,)] * 2
    assert assert_levels_agree(db) > 0


def test_strangers_that_a_stop_kept_are_folded_as_others_are_once_they_are_listed(tmp_path):
    db = tmp_path / "node.db"
    record(db, _begin(T), changes(), peers=100, live=True)
    assert ask(db, "SELECT COUNT(*) FROM flows") == [(60,)]  # each by itself
    record(db, _end(T + 30 * SECOND), changes(), peers=5, live=True, started_ns=T + 25 * SECOND)
    assert ask(db, TOTALS) == [(60, 60, 60, 60 * 120)]
    since = "FROM flows WHERE started_ns > ? AND src"
    [(of_many,)] = ask(db, f"SELECT SUM(src_addresses) {since} = 'other'", T + 20 * SECOND)
    [(rows,)] = ask(db, f"SELECT COUNT(*) {since} <> 'other'", T + 20 * SECOND)
    assert (of_many + rows, rows <= 5) == (60, True)
    assert assert_levels_agree(db) > 0


def test_a_connection_of_a_pod_is_not_folded_where_its_address_is_a_strangers_now(tmp_path):
    """Its pod is gone since long, and so is not told of: the next recording sees a stranger."""
    db = tmp_path / "node.db"
    record(db, _begin(T), changes(), peers=100, live=True)
    with closing(sqlite3.connect(db)) as conn, conn:  # as if 8.0.0.7 had been a pod's
        conn.execute("UPDATE endpoint SET kind = 'pod' WHERE packed = ?", (packed("8.0.0.7"),))
    record(db, _end(T + 30 * SECOND), changes(), peers=5, live=True, started_ns=T + 25 * SECOND)
    later = "SELECT src, src_kind, SUM(bytes_out) FROM flows WHERE started_ns > ? GROUP BY 1, 2"
    found = ask(db, later, T + 20 * SECOND)
    assert ("8.0.0.7", "pod", 80) in found
    assert sum(moved for _, _, moved in found) == 60 * 80
    assert ask(db, TOTALS) == [(60, 60, 60, 60 * 120)]


def test_a_kill_in_a_flood_counts_no_connection_twice(tmp_path):
    """What moved since the last commit is in the gap; every connection and every end is counted."""
    db = tmp_path / "node.db"

    def killed() -> Iterator[Datagrams]:
        yield from _begin(T)
        os._exit(0)

    child = os.fork()
    if child == 0:
        record(db, killed(), changes(), peers=5, live=True)
    os.waitpid(child, 0)
    record(db, _end(T + 30 * SECOND), changes(), peers=5, live=True, started_ns=T + 25 * SECOND)
    [(connections, new, destroyed, moved)] = ask(db, TOTALS)
    assert (connections, new, destroyed) == (60, 60, 60)
    assert moved == 60 * 80  # without the 40 between the commit and the first dump after it
    assert assert_levels_agree(db) > 0


@pytest.fixture
def in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """The edges of more than ten totals are written five at a time, between two reads."""
    monkeypatch.setattr(commit, "_AT_ONCE", 10)
    monkeypatch.setattr(commit, "_PREPARED_AT_ONCE", 5)
    monkeypatch.setattr(commit, "_SLICE_S", 0.0)
    monkeypatch.setattr(connect, "_WRITER_BUSY_MS", 10)


def _strangers(look: Callable[[int], object] = lambda n: None) -> Iterator[Datagrams]:
    """A window that the recording begins with, one of 40 strangers, and reads in which they go."""
    yield batch(client(0).new(T), at_ns=T)
    at_ns = T + 10 * SECOND
    yield batch(*(client(n).new(at_ns + n) for n in range(1, 41)), at_ns=at_ns + 41)
    for n in range(20):
        yield batch(client(100 + n).new(at_ns + 10 * SECOND + n), at_ns=at_ns + 10 * SECOND + n)
        look(n)


def test_a_window_of_many_strangers_is_written_in_slices_and_is_the_same(
    tmp_path, request, monkeypatch
):
    whole = tmp_path / "whole.db"
    record(whole, _strangers(), changes(), live=True)
    request.getfixturevalue("in_slices")
    db, seen = tmp_path / "node.db", []

    def look(n: int) -> None:
        seen.append(*ask(db, "SELECT (SELECT COUNT(*) FROM edge), COUNT(*) FROM flow"))

    record(db, _strangers(look), changes(), live=True)
    edges, rows = zip(*seen, strict=True)
    # Edges come first, a few at a time; all rows at once.
    assert len(set(edges)) > 5
    assert set(rows) == {1, 41}
    both = [
        f"SELECT src, dst, dst_port, connections, started_ns FROM flows{n}" for n in ("", "_1m")
    ]
    both.append("SELECT packed, first_ns FROM edge JOIN endpoint ON endpoint.id = src_id")
    for asked in both:
        assert sorted(ask(db, asked)) == sorted(ask(whole, asked))


def test_a_kill_between_two_slices_counts_no_connection_twice(tmp_path, in_slices):
    db = tmp_path / "node.db"

    def die(n: int) -> None:
        if n == 3:
            os._exit(0)

    child = os.fork()
    if child == 0:
        record(db, _strangers(die), changes(), live=True)
    os.waitpid(child, 0)
    assert ask(db, "SELECT COUNT(*) FROM flow") == [(1,)]
    assert ask(db, "SELECT COUNT(*) FROM edge")[0][0] > 1
    at_ns = T + 30 * SECOND
    began = [T, *(T + 10 * SECOND + n for n in range(1, 41))]
    live = [client(n).listed(ONE_EACH, start_ns=at) for n, at in enumerate(began)]
    found = batch(*live, at_ns=at_ns, dumped=True)
    steps = [found, batch(at_ns=at_ns, dumped=True), batch(at_ns=T + 41 * SECOND)]
    record(db, steps, changes(), live=True, started_ns=T + 29 * SECOND)
    assert ask(db, TOTALS)[0][0] == 41
    assert assert_levels_agree(db) > 0


def test_a_lock_between_two_slices_makes_the_window_wait(tmp_path, in_slices):
    db = tmp_path / "node.db"
    other = sqlite3.connect(db, isolation_level=None)

    def look(n: int) -> None:
        if n == 2:
            other.execute("BEGIN IMMEDIATE")
        if n == 10:
            other.execute("ROLLBACK")

    record(db, _strangers(look), changes(), live=True)
    other.close()
    assert ask(db, "SELECT SUM(connections), COUNT(*) FROM flows") == [(61, 61)]
    assert ask(db, "SELECT COUNT(*) FROM gaps") == [(0,)]


@pytest.mark.parametrize("again", [True, False], ids=["room again", "full to the end"])
def test_a_disk_that_fills_between_two_slices_loses_nothing_silently(tmp_path, in_slices, again):
    """What is in the file and what its gap says are all events; edges without rows are no harm."""
    db, held, seen = tmp_path / "node.db", [], []
    at_ns, clients = T + 10 * SECOND, 600

    def steps() -> Iterator[Datagrams]:
        yield batch(client(0).new(T), at_ns=T)
        yield batch(*(client(n).new(at_ns + n) for n in range(1, clients)), at_ns=at_ns + clients)
        for n in range(60):
            late_ns = at_ns + 10 * SECOND + n
            yield batch(client(1_000 + n).new(late_ns), at_ns=late_ns)
            if n == 20:
                seen.extend(ask(db, "SELECT COUNT(*) FROM edge"))
                held[0].execute("PRAGMA max_page_count = 1")  # no less than there are
            if n == 50 and again:
                held[0].execute("PRAGMA max_page_count = 100000")
        if again:
            yield batch(client(2_000).new(at_ns + 25 * SECOND), at_ns=at_ns + 25 * SECOND)
            yield batch(at_ns=at_ns + 40 * SECOND)

    def recording() -> None:
        record(db, steps(), changes(), live=True, prepare=held.append)

    if again:
        recording()
    else:
        with pytest.raises(StoreError):
            recording()
    assert 20 < seen[0][0] < clients  # some slices went in before
    sent = clients + 60 + again
    [(counted,)] = ask(db, "SELECT SUM(new_events) FROM flows")
    lost = ask(db, "SELECT kind, lost FROM gaps")
    assert {kind for kind, _ in lost} == {"disk full"}
    assert counted + sum(each for _, each in lost) == sent
    assert ask(db, "SELECT events FROM recordings") == [(sent,)]
    if again:  # what came when there was room again
        assert ask(
            db, "SELECT SUM(connections) FROM flows WHERE started_ns > ?", at_ns + 21 * SECOND
        ) == [(1,)]
    assert ask(db, "PRAGMA integrity_check") == [("ok",)]


def test_a_file_that_was_recorded_before_keeps_every_stranger(tmp_path):
    """Those few that a window keeps are as they were."""
    db = tmp_path / "node.db"
    record(db, scan(5, windows=1), changes(), peers=20)
    assert ask(db, "SELECT COUNT(*) FROM flows WHERE 'other' IN (src, dst)") == [(0,)]
    assert ask(db, "SELECT COUNT(*) FROM folded") == [(0,)]


# Which address is a stranger's.

NETWORKS = ("8.8.8.", "10.244.0.", "10.244.1.", "10.0.0.", "127.0.0.", "192.168.1.", "192.0.0.",
            "198.51.100.", "203.0.113.", "100.64.0.", "172.16.0.", "169.254.1.", "224.0.0.",
            "2001:4860::", "2001:db8::", "2001:1::", "fd00:10:244::", "fe80::", "::", "64:ff9b::",
            "2002:1::", "3fff::")  # fmt: skip


@given(
    st.lists(st.tuples(st.sampled_from(NETWORKS), st.integers(0, 255)), min_size=1, max_size=8),
    st.booleans(),
    st.booleans(),
)
def test_a_strangers_kind_is_what_an_endpoint_for_it_would_be(asked, kube, synced):
    """None for whoever is known, and for the unknown while somebody may yet be told."""
    endpoints = Endpoints("n1", frozenset(["10.0.0.1"]), T, kube=kube)
    if synced:
        for change in listed(T, pod("web", T - SECOND, WEB), pod("db", T - SECOND, DB)):
            endpoints.apply(change)
    for network, n in asked:
        address = f"{network}{n:x}" if ":" in network else f"{network}{n}"
        endpoint: Endpoint = endpoints.at(address, T + SECOND)
        kind = endpoints.stranger_kind(packed(address))
        if endpoint.kind == "unknown" and kube and not synced:
            assert kind is None
        else:
            assert kind == (endpoint.kind if endpoint.kind in ("external", "unknown") else None)


def test_an_address_is_no_strangers_for_as_long_as_its_last_owner_is_remembered(tmp_path):
    objects = tmp_path / "objects.json"
    objects.write_text('{"apiVersion":"v1","kind":"List","items":[]}', encoding="utf-8")
    endpoints = Endpoints("n1", frozenset(), T, kube=True)
    for change in [*read_objects((objects,)), *listed(T, pod("web", T - SECOND, "8.8.8.8"))]:
        endpoints.apply(change)
    assert endpoints.stranger_kind(packed("8.8.8.8")) is None
    for change in listed(T + 60 * SECOND):
        endpoints.apply(change)
    for change in listed(T + 300 * SECOND):
        endpoints.apply(change)
    assert endpoints.stranger_kind(packed("8.8.8.8")) is None
    endpoints.expire(T + 900 * SECOND)
    assert endpoints.stranger_kind(packed("8.8.8.8")) == "external"
