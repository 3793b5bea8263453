"""The running recorder where something goes wrong: a lock, a defect, a stop with little time."""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from queue import SimpleQueue

import pytest
from test_pipeline import NAMES, OPENED, Source, T, ask, listed, pod, record, tick
from wire import SECOND, Connection, batch

from ctk.errors import StoreError
from ctk.kube.objects import Applied, Change
from ctk.model import Datagrams, Gap
from ctk.record import commit, loop
from ctk.record.gaps import GapLedger
from ctk.record.plan import Listening, Plan
from ctk.store import connect, rollup
from ctk.timespan import format_age


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connect, "_WRITER_BUSY_MS", 10)


def opened(n: int) -> Datagrams:
    """The n-th window: one connection begins."""
    at_ns = T + n * 10 * SECOND
    return batch(Connection(port=n + 1, ct_id=n + 1).new(at_ns), at_ns=at_ns)


COUNTED = "SELECT sum(connections), count(*) FROM flows"
GAPS = "SELECT kind, started_ns, ended_ns, lost FROM gaps ORDER BY started_ns"


def test_while_another_process_holds_the_lock_windows_wait_and_nothing_is_lost(tmp_path, caplog):
    db = tmp_path / "node.db"

    def steps() -> Iterator[Datagrams]:
        yield opened(0)
        yield opened(1)
        with closing(sqlite3.connect(db)) as other:
            other.execute("BEGIN IMMEDIATE")
            for n in range(2, 6):
                yield opened(n)
            other.rollback()
        yield opened(6)
        yield opened(7)

    record(db, steps())
    assert (ask(db, COUNTED), ask(db, GAPS)) == ([(8, 8)], [])
    assert [each.getMessage() for each in caplog.records] == [
        f"{db} is locked by another program; recording goes on, and writes when it is free",
        "the file is written again: all of it",
    ]


def test_folding_and_pruning_go_on_between_reads_a_slice_each(tmp_path, monkeypatch):
    """With slices that are over after a step it takes some reads; with long ones none."""
    monkeypatch.setattr(rollup, "_READ_AT_ONCE", 1)

    def reads_until_folded(slice_s: float) -> int:
        monkeypatch.setattr(commit, "_SLICE_S", slice_s)
        db = tmp_path / f"{slice_s}.db"
        seen = []

        def steps() -> Iterator[Datagrams]:
            for n in range(10):
                yield opened(n)
            for i in range(40):
                yield tick(T + 100 * SECOND + i)
                seen.extend(ask(db, "SELECT folded_ns FROM level WHERE name = '1m'"))

        record(db, steps(), live=True)
        assert seen[-1] > (T,)
        return seen.index(seen[-1])

    assert reads_until_folded(60.0) == 0
    assert reads_until_folded(0.0) > 0


def test_what_waits_for_the_lock_is_bounded_and_what_is_given_up_is_a_gap(tmp_path, monkeypatch):
    db = tmp_path / "node.db"
    monkeypatch.setattr(commit, "_MOST_WAITING", 3)

    def steps() -> Iterator[Datagrams]:
        with closing(sqlite3.connect(db)) as other:
            other.execute("BEGIN IMMEDIATE")
            for n in range(8):
                yield opened(n)
            other.rollback()
        yield tick(T + 90 * SECOND)

    record(db, steps())
    assert ask(db, COUNTED) == [(4, 4)]
    assert ask(db, GAPS) == [("file locked", T, T + 80 * SECOND, 4)]


def test_a_lock_that_is_held_to_the_end_is_an_error_that_says_what_is_not_written(tmp_path):
    db = tmp_path / "node.db"
    with closing(sqlite3.connect(db, isolation_level=None)) as other:

        def steps() -> Iterator[Datagrams]:
            yield opened(0)
            other.execute("BEGIN IMMEDIATE")
            yield opened(1)

        with pytest.raises(StoreError) as error:
            record(db, steps(), left_s=lambda: 0.3)
        other.rollback()
    assert error.value.message == "2 events were not written: file locked"
    assert error.value.hint == "close the program that holds the file"


def test_a_lock_at_the_end_is_waited_for(tmp_path):
    db = tmp_path / "node.db"
    with closing(sqlite3.connect(db, isolation_level=None, check_same_thread=False)) as other:

        def steps() -> Iterator[Datagrams]:
            yield opened(0)
            other.execute("BEGIN IMMEDIATE")
            threading.Timer(0.5, other.rollback).start()

        record(db, steps())
    assert (ask(db, COUNTED), ask(db, GAPS)) == ([(1, 1)], [])
    assert ask(db, "SELECT ended_ns FROM recordings") == [(T,)]


def test_a_stop_without_time_to_keep_what_lives_counts_none_of_it_again(tmp_path, caplog):
    """All is written; the recording has no end, so the next one goes on as after a crash."""
    db = tmp_path / "node.db"
    first = Connection(port=1, ct_id=1)

    def again() -> Iterator[Datagrams]:
        for shown in (first.listed((1, 100, 1, 100), start_ns=T),), ():
            yield batch(*shown, at_ns=T + 20 * SECOND)._replace(dumped=True)

    record(db, iter([opened(0), tick(T + 11 * SECOND)]), live=True, left_s=lambda: 4.0)
    assert [each.getMessage() for each in caplog.records] == [
        "no time was left to keep what lives: the next recording goes on without"
    ]
    assert ask(db, "SELECT ended_ns FROM recordings") == [(None,)]
    record(db, again(), live=True, started_ns=T + 15 * SECOND)
    assert ask(db, COUNTED)[0][0] == 1


def test_what_was_written_after_a_lock_is_not_counted_again_after_a_kill(tmp_path):
    """A commit of what the API server said goes as far as the windows that it brings along."""
    db = tmp_path / "node.db"
    changes: SimpleQueue[Change] = SimpleQueue()

    def steps() -> Iterator[Datagrams]:
        yield opened(0)
        with closing(sqlite3.connect(db)) as other:
            other.execute("BEGIN IMMEDIATE")
            for n in range(1, 4):
                yield opened(n)
            other.rollback()
        for n in range(2_000):
            changes.put(Applied(pod(f"p{n}", T, f"10.244.{n >> 8}.{n & 255}"), T + 31 * SECOND))
        yield tick(T + 30 * SECOND + 1)
        raise KeyError("killed")

    with pytest.raises(KeyError):
        record(db, steps(), changes)
    [(last_ns,)] = ask(db, "SELECT max(ended_ns) FROM flows WHERE started_ns < ?", T + 30 * SECOND)
    assert ask(db, "SELECT committed_ns > ? FROM recordings", last_ns) == [(1,)]


def test_a_lock_and_then_a_full_disk_are_two_gaps():
    ledger = GapLedger(0)
    ledger.failed("file locked", "locked", 10, 20, 5)
    ledger.failed("disk full", "full", 10, 30, 7)
    assert ledger.to_write(40) == [Gap("file locked", 10, 20, 5), Gap("disk full", 10, 40, 7)]


def test_a_defect_in_our_own_code_costs_no_window(tmp_path):
    db = tmp_path / "node.db"

    def steps() -> Iterator[Datagrams]:
        yield opened(0)
        yield opened(1)
        raise KeyError("week three")

    with pytest.raises(KeyError, match="week three"):
        record(db, steps())
    assert ask(db, COUNTED) == [(2, 2)]
    assert ask(db, "SELECT ended_ns FROM recordings") == [(None,)]


def test_interfaces_that_come_later_are_this_node(tmp_path):
    """A CNI makes its bridge after the recorder has started: kubelet's probes come from it."""
    db = tmp_path / "node.db"
    probe = Connection(src="10.244.0.1", dst="10.244.0.9", dst_port=8080)

    def steps() -> Iterator[Datagrams]:
        yield batch(probe.new(T), at_ns=T)
        yield tick(T + 10 * SECOND)
        source.local_addresses = frozenset({"10.244.0.1"})
        yield batch(at_ns=T + 11 * SECOND)._replace(dumped=True)
        yield tick(T + 20 * SECOND)

    source = Source(steps())
    with connect.writer(db) as conn:
        plan = Plan(node="n1", source="test", live=False, cluster=True)
        loop.run(conn, source, plan, SimpleQueue(), Listening())
    assert ask(db, "SELECT src, src_kind, src_name FROM flows") == [("10.244.0.1", "node", "n1")]


def test_a_log_says_that_a_recording_begins_who_was_down_and_how_it_ended(tmp_path):
    db, said = tmp_path / "node.db", []
    plan = Plan(node="n1", source="kernel", live=True, cluster=False)
    for start_s in (0, 60):
        source = Source(iter([opened(start_s), opened(start_s + 1)]))
        source.started_ns = T + start_s * SECOND
        source.lost = [Gap("events lost", T, T + 1, 1_204)] if start_s else []
        with connect.writer(db) as conn:
            loop.run(conn, source, plan, SimpleQueue(), Listening(told=said.append))
    (last_ns,) = ask(db, "SELECT committed_ns FROM recordings ORDER BY id")[0]
    down = format_age(T + 60 * SECOND - last_ns)
    assert said == [
        f"recording into {db} on node n1",
        "ended: 2 events, 2 flows, 0 events lost",
        f"recording into {db} on node n1; recorder was down {down}",
        "ended: 2 events, 2 flows, 1,204 events lost",
    ]


def test_a_stop_with_no_time_left_leaves_folding_to_the_next_start(tmp_path):
    db = tmp_path / "node.db"
    record(db, iter([opened(0), opened(1)]), left_s=lambda: 0.0)
    assert ask(db, COUNTED) == [(2, 2)]
    assert ask(db, "SELECT count(*) FROM flows_1d") == [(0,)]
    record(db, iter([opened(90)]), started_ns=T + 900 * SECOND)
    assert ask(db, "SELECT sum(connections) FROM flows_1d") == [(3,)]


def test_counters_that_go_back_are_a_gap_since_the_dump_before(tmp_path):
    db = tmp_path / "node.db"

    def dump(counted: tuple[int, int, int, int], after_s: int) -> Iterator[Datagrams]:
        at_ns = T + after_s * SECOND
        yield batch(OPENED.listed(counted), at_ns=at_ns)._replace(dumped=True)
        yield batch(at_ns=at_ns)._replace(dumped=True)

    def steps() -> Iterator[Datagrams]:
        yield batch(OPENED.new(T), at_ns=T)
        yield from dump((10, 1_000, 10, 1_000), 5)
        yield from dump((1, 100, 1, 100), 15)
        yield tick(T + 30 * SECOND)

    record(db, steps())
    assert ask(db, GAPS) == [("counters reset", T + 5 * SECOND, T + 15 * SECOND, None)]
    assert ask(db, "SELECT sum(bytes_out) FROM flows") == [(1_100,)]


def test_a_pod_that_is_told_only_to_the_next_recording_names_what_the_last_one_saw(tmp_path):
    """The recorder was killed before the API server told it who had the address."""
    db = tmp_path / "node.db"
    changes: SimpleQueue[Change] = SimpleQueue()

    def killed() -> Iterator[Datagrams]:
        yield batch(OPENED.new(T + SECOND), at_ns=T + SECOND)
        yield tick(T + 11 * SECOND)
        raise KeyError("killed")

    def again() -> Iterator[Datagrams]:
        for change in listed(T + 31 * SECOND, pod("a", T - SECOND, "10.244.0.21")):
            changes.put(change)
        yield tick(T + 31 * SECOND)
        yield tick(T + 45 * SECOND)

    with pytest.raises(KeyError):
        record(db, killed(), SimpleQueue(), live=True)
    assert ask(db, NAMES) == [(None, None, 1, 0)]
    record(db, again(), changes, live=True, started_ns=T + 30 * SECOND)
    assert ask(db, NAMES) == [("a", None, 1, 0)]


def beside_a_newcomer(
    changes: "SimpleQueue[Change]", newcomer_ns: int, *, opened_ns: int
) -> Iterator[Datagrams]:
    """The address is another pod's by now; a dump lists a connection that was opened before."""
    for change in listed(T + 31 * SECOND, pod("c", newcomer_ns, "10.244.0.21")):
        changes.put(change)
    yield tick(T + 31 * SECOND)
    at_ns = T + 32 * SECOND
    shown = OPENED.listed((1, 100, 1, 100), start_ns=opened_ns)
    yield batch(shown, at_ns=at_ns)._replace(dumped=True)
    yield batch(at_ns=at_ns)._replace(dumped=True)


def test_what_an_earlier_recording_counted_goes_on_under_the_same_edge(tmp_path):
    """After a kill the address is another pod's; the old one's connection is still in the table."""
    db = tmp_path / "node.db"
    first: SimpleQueue[Change] = SimpleQueue()
    second: SimpleQueue[Change] = SimpleQueue()

    def killed() -> Iterator[Datagrams]:
        for change in listed(T, pod("a", T - SECOND, "10.244.0.21")):
            first.put(change)
        yield tick(T + SECOND)
        yield batch(OPENED.new(T + 5 * SECOND), at_ns=T + 5 * SECOND)
        yield tick(T + 11 * SECOND)
        raise KeyError("killed")

    def again() -> Iterator[Datagrams]:
        yield from beside_a_newcomer(second, T + 20 * SECOND, opened_ns=T + 5 * SECOND)
        yield batch(OPENED.destroy(T + 33 * SECOND, (2, 200, 2, 200)), at_ns=T + 33 * SECOND)

    with pytest.raises(KeyError):
        record(db, killed(), first, live=True)
    record(db, again(), second, live=True, started_ns=T + 30 * SECOND)
    assert ask(db, NAMES) == [("a", None, 1, 0), ("a", None, 0, 1)]
    assert ask(db, "SELECT count(*) FROM edge") == [(1,)]


def test_a_pod_that_died_while_nobody_recorded_is_known_from_the_file(tmp_path):
    """Its last connections are not the newcomer's, nor nobody's."""
    db = tmp_path / "node.db"
    first: SimpleQueue[Change] = SimpleQueue()
    second: SimpleQueue[Change] = SimpleQueue()

    def killed() -> Iterator[Datagrams]:
        for change in listed(T, pod("a", T - SECOND, "10.244.0.21")):
            first.put(change)
        yield tick(T + SECOND)
        yield tick(T + 11 * SECOND)
        raise KeyError("killed")

    with pytest.raises(KeyError):
        record(db, killed(), first, live=True)
    again = beside_a_newcomer(second, T + 24 * SECOND, opened_ns=T + 20 * SECOND)
    record(db, again, second, live=True, started_ns=T + 30 * SECOND)
    assert ask(db, NAMES) == [("a", None, 1, 0)]
