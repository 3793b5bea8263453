"""The kernel's table: how full it was, who held it, what was refused; and that it adds up."""

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue

import pytest
from click.testing import Result
from test_doctor import HEALTHY
from test_pipeline import T, ask, listed, pod, record, tick
from wire import (
    CLOSE,
    SECOND,
    SYN_SENT,
    TIME_WAIT,
    UDP,
    Connection,
    attribute,
    batch,
    message,
    number,
)

import ctk
from ctk.ask.pressure import NodePressure
from ctk.conntrack import alike, statistics
from ctk.doctor.findings import judge
from ctk.kube.objects import Change
from ctk.model import Datagrams, EventCounts, FlowTuple
from ctk.model.tableuse import LEFT_OUT, OTHER_HOLDERS, Held, Holder, TableCounters, TableUse
from ctk.record import holders
from ctk.store import connect, tableuse
from ctk.store.write import Writer
from ctk.timespan import DAY, MINUTE

Invoke = Callable[..., Result]

LISTED = "SELECT at_ns, SUM(entries) FROM holders GROUP BY 1 ORDER BY 1"
WEB = Holder("tcp", "pod", "load/client", "shop/web", "pod", "shop/web", 80)
DNS = Holder("udp", "pod", "load/client", "kube-system/kube-dns", "pod", "kube-system/coredns", 53)


# What the kernel counts.


def test_a_processors_counters_are_read_by_their_attributes() -> None:
    told = [number(2, "I", 5), number(9, "I", 3), number(10, "I", 1 << 31), attribute(99, b"later")]
    answer = bytearray(message(0, *told))
    answer[18:20] = (7).to_bytes(2, "big")  # the resource id of nfgenmsg is the processor's number
    assert statistics.of_message(bytes(answer)) == (
        7,
        TableCounters(5, 0, 0, 3, 1 << 31, 0, 0, 0, 0, 0),
    )


def test_counters_go_on_past_their_32_bits() -> None:
    zero = TableCounters(*(0,) * 10)
    before = {0: zero._replace(found=(1 << 32) - 2), 1: zero._replace(found=10)}
    now = {0: zero._replace(found=3), 1: zero._replace(found=11), 2: zero._replace(found=4)}
    assert statistics.grown(before, now).found == 5 + 1 + 4
    assert statistics.total(now).found == 18
    assert statistics.grown({}, {}) == zero


# Who holds it.


def test_holders_add_up_to_all_that_a_dump_listed(tmp_path: Path) -> None:
    db = tmp_path / "node.db"
    client = pod("client", 1, "10.244.0.21")
    many = [Connection(port=n, ct_id=n, dst="10.244.0.99") for n in range(1, 8)]
    icmp = Connection(proto=UDP, src="1.2.3.4", port=9, ct_id=9, dst="10.244.0.21", dst_port=53)

    def steps() -> Iterator[Datagrams]:
        yield batch(*(each.new(T) for each in many[:5]), at_ns=T)
        some = [each.listed() for each in many[:3]]
        over = [each.listed(state=TIME_WAIT) for each in many[3:]]  # two of them were never heard
        yield batch(*some, at_ns=T + SECOND, dumped=True)
        yield batch(*over, icmp.listed(), at_ns=T + SECOND, dumped=True)
        yield batch(at_ns=T + SECOND, dumped=True)
        yield tick(T + 30 * SECOND)

    changes: SimpleQueue[Change] = SimpleQueue()
    for change in listed(T, client):
        changes.put(change)
    record(db, steps(), changes)
    assert ask(db, LISTED) == [(T + SECOND, 8)]
    found = "SELECT client_kind, client, port, state, entries FROM holders ORDER BY 1, 4"
    assert ask(db, found) == [
        ("external", None, 53, "REPLIED", 1),
        ("pod", "load/client", 80, "ESTABLISHED", 3),
        ("pod", "load/client", 80, "TIME_WAIT", 4),
    ]
    assert ask(db, "SELECT entries, peak, most, dropped FROM pressure") == [(8, 8, None, None)]


@pytest.mark.parametrize("few", [1, 1_000])
def test_folded_strangers_that_a_dump_lists_are_held_as_they_are_one_by_one(
    few: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of them ended while the dump ran, and one was heard of by the dump alone."""
    monkeypatch.setattr(alike, "FEW", few)
    db, web = tmp_path / "node.db", "10.244.0.21"
    clients = [Connection(src=f"8.0.0.{n}", port=n, dst=web, ct_id=n) for n in range(1, 80)]

    def steps() -> Iterator[Datagrams]:
        yield batch(*(each.new(T) for each in clients[:20]), at_ns=T)
        yield batch(*(each.new(T) for each in clients[20:78]), at_ns=T)
        some = [each.listed(state=CLOSE if each.port % 2 else SYN_SENT) for each in clients]
        yield batch(*some[:30], at_ns=T + SECOND, dumped=True)
        yield batch(clients[77].destroy(T + SECOND), at_ns=T + SECOND)
        yield batch(*some[30:], at_ns=T + SECOND, dumped=True)
        yield batch(at_ns=T + SECOND, dumped=True)
        yield tick(T + 30 * SECOND)

    changes: SimpleQueue[Change] = SimpleQueue()
    for change in listed(T, pod("web", 1, web)):
        changes.put(change)
    record(db, steps(), changes, peers=5)
    found = "SELECT client_kind, port, state, SUM(entries) FROM holders GROUP BY 1, 2, 3"
    assert ask(db, found) == [
        ("external", 80, "CLOSE", 40),
        ("external", 80, "SYN_SENT", 38),
        ("left out", None, "SYN_SENT", 1),
    ]


def test_past_the_most_holders_the_small_ones_are_other_and_it_still_adds_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    db = tmp_path / "node.db"
    sums = [(most, summed) for (_, summed), most in zip(holders._SUMS, (3, 1, 0), strict=True)]
    monkeypatch.setattr(holders, "_SUMS", sums)
    held = [
        Connection(port=n, ct_id=100 * to + n, dst_port=to)
        for to in range(1, 9)
        for n in range(1, to + 1)
    ]
    ended = Connection(port=9, ct_id=9_999, dst_port=3)

    def wanted(flow: FlowTuple) -> bool:
        return flow.dst_port != 8

    def steps() -> Iterator[Datagrams]:
        yield batch(*(each.new(T) for each in held), ended.new(T), at_ns=T)
        yield batch(*(each.listed(state=CLOSE) for each in held), at_ns=T + 1, dumped=True)
        yield batch(ended.destroy(T + 2), at_ns=T + 2)
        yield batch(ended.listed(), at_ns=T + 3, dumped=True)
        yield batch(at_ns=T + 3, dumped=True)
        yield tick(T + 30 * SECOND)

    record(db, steps(), wanted=wanted)
    found = "SELECT client_kind, port, state, entries FROM holders ORDER BY entries DESC, 1"
    assert ask(db, found) == [
        ("unknown", None, "CLOSE", 1 + 2 + 3 + 4),
        ("left out", None, "CLOSE", 8),
        ("unknown", 7, "CLOSE", 7),
        ("unknown", 6, "CLOSE", 6),
        ("unknown", 5, "CLOSE", 5),
        ("left out", None, "ESTABLISHED", 1),
    ]
    assert ask(db, LISTED) == [(T + 3, len(held) + 1)]


def test_a_dump_a_minute_is_looked_at_and_more_in_the_first_minute(tmp_path: Path) -> None:
    db = tmp_path / "node.db"
    one = Connection()
    at_s = [1, 5, 12, 25, 65, 100, 130, 200]

    def steps() -> Iterator[Datagrams]:
        yield batch(one.new(T), at_ns=T)
        for each in at_s:
            yield batch(one.listed(), at_ns=T + each * SECOND, dumped=True)
            yield batch(at_ns=T + each * SECOND, dumped=True)

    record(db, steps())
    assert [(at_ns - T) // SECOND for at_ns, _ in ask(db, LISTED)] == [1, 12, 25, 100, 200]


def test_what_waits_for_a_lock_is_written_once_it_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connect, "_WRITER_BUSY_MS", 10)
    db = tmp_path / "node.db"
    one = Connection()

    def steps() -> Iterator[Datagrams]:
        yield batch(one.new(T), at_ns=T)
        with closing(sqlite3.connect(db)) as other:
            other.execute("BEGIN IMMEDIATE")
            yield batch(one.listed(), at_ns=T + SECOND, dumped=True)
            yield batch(at_ns=T + SECOND, dumped=True)
            yield batch(one.update(T + 11 * SECOND), at_ns=T + 11 * SECOND)
            other.rollback()
        yield tick(T + 30 * SECOND)

    record(db, steps())
    assert ask(db, LISTED) == [(T + SECOND, 1)]


# How it is kept, and asked.


def counters(**some: int) -> TableCounters:
    return TableCounters(*(0,) * 10)._replace(**some)


@pytest.fixture
def full(tmp_path: Path) -> Path:
    """A file of a node whose table was 92 % full for a minute."""
    path = tmp_path / "full.db"
    looks = [
        TableUse(T, 100, 100, 4000, None),
        TableUse(T + MINUTE, 3600, 3680, 4000, counters(dropped=5, insert_failed=1)),
        TableUse(T + 2 * MINUTE, 200, 3600, 4000, counters(dropped=2, early_dropped=7)),
        Held(T, {(WEB, "ESTABLISHED"): 90, (DNS, "REPLIED"): 10}),
        Held(
            T + MINUTE,
            {
                (WEB, "TIME_WAIT"): 3000,
                (WEB, "ESTABLISHED"): 90,
                (DNS, "REPLIED"): 400,
                (OTHER_HOLDERS, "REPLIED"): 100,
            },
        ),
        Held(T + 2 * MINUTE, {(WEB, "ESTABLISHED"): 190, (LEFT_OUT, "ASSURED"): 10}),
    ]
    with connect.writer(path) as conn:
        writer = Writer(conn, node="n1", source="kernel", settings={}, started_ns=T, boot_id=None)
        end_ns = T + 3 * MINUTE
        writer.window([], looks=looks, committed_ns=end_ns, counters=EventCounts(0, 0))
        writer.finish(end_ns)
    return path


def test_a_person_sees_use_over_time_and_who_held_it_at_its_peak(
    invoke: Invoke, full: Path
) -> None:
    result = invoke("pressure", full)
    assert (result.exit_code, result.stdout) == (
        0,
        "NODE  ENTRIES OVER TIME   PEAK     OF     %  PEAK AT (UTC)        DROPPED"
        "  EARLY DROPPED  INSERT FAILED\n"
        "n1    ▂██                3,680  4,000  92.0  1970-01-12 13:47:40        7"
        "              7              1\n"
        "\n"
        "CLIENT       SERVICE               STATE        AT PEAK      %  AT END\n"
        "load/client  shop/web              TIME_WAIT      3,000   83.6       0\n"
        "load/client  kube-system/kube-dns  REPLIED          400   11.1       0\n"
        "other        -                     REPLIED          100    2.8       0\n"
        "load/client  shop/web              ESTABLISHED       90    2.5     190\n"
        "left out     -                     ASSURED            0    0.0      10\n"
        "total        -                     -              3,590  100.0     200\n",
    )
    assert result.stderr == (
        "at peak: the fullest dump, as of 1970-01-12T13:47:40Z;"
        " at end: the last dump, as of 1970-01-12T13:48:40Z\n"
        "the fullest dump listed 3,590 entries, 90 fewer than the peak: a dump is of one moment,"
        " a peak of each second\n"
        "the table of n1 was 92% full at 1970-01-12T13:47:40Z: 3,680 of 4,000 entries\n"
    )
    assert invoke("pressure", full, "--limit", "2").stdout.splitlines()[-3:] == [
        "load/client  kube-system/kube-dns  REPLIED        400   11.1       0",
        "others (3)   -                     -              190    5.3     200",
        "total        -                     -            3,590  100.0     200",
    ]
    assert invoke("pressure", full, "--by", "state", "--limit", "1", "-o", "csv").stdout == (
        "state,at_peak,at_end\nTIME_WAIT,3000,0\n"
    )


def test_info_says_how_full_the_table_was(invoke: Invoke, full: Path) -> None:
    found = json.loads(invoke("info", full, "-o", "json").stdout)
    with ctk.open(full) as recording:
        [held] = recording.describe().pressure
    assert found["pressure"] == [held._asdict()]
    assert found["pressure"] == [
        {
            "node": "n1",
            "looks": 3,
            "peak_ns": T + MINUTE,
            "peak": 3680,
            "most": 4000,
            "share": 0.92,
            "entries": 200,
            "insert_failed": 1,
            "dropped": 7,
            "early_dropped": 7,
        }
    ]
    assert "conntrack   at most 3,680 of 4,000 (92%) entries, " in invoke("info", full).stdout


@pytest.mark.parametrize("words", [["info", "-o"], ["pressure", "-o"], ["report", "--format"]])
def test_json_objects_have_no_control_that_a_terminal_would_obey(
    invoke: Invoke, full: Path, words: list[str]
) -> None:
    with closing(sqlite3.connect(full)) as conn, conn:
        conn.execute("UPDATE recorder SET node = 'n' || char(155)")
    command, flag = words
    result = invoke(command, full, flag, "json")
    assert (result.exit_code, "\u009b" in result.stdout) == (0, False)
    assert '"n\\u009b"' in result.stdout


def test_a_program_gets_all_of_it_and_a_span_has_its_own_peak(invoke: Invoke, full: Path) -> None:
    until = "1970-01-12T13:47:00Z"
    found = json.loads(invoke("pressure", full, "--until", until, "-o", "json").stdout)
    assert found["nodes"] == [
        {
            "node": "n1",
            "looks": 1,
            "peak_ns": T,
            "peak": 100,
            "most": 4000,
            "share": 0.025,
            "entries": 100,
            "insert_failed": None,
            "dropped": None,
            "early_dropped": None,
            "peak_at": "1970-01-12T13:46:40.000000000Z",
        }
    ]
    assert found["holders"][0] == {
        "client": "load/client",
        "service": "shop/web",
        "state": "ESTABLISHED",
        "at_peak": 90,
        "at_end": 90,
    }
    with ctk.open(full) as recording:
        everything = recording.pressure(by=["node", "port"])
    assert [each.keys for each in everything.holders] == [("n1", 80), ("n1", 53), ("n1", None)]
    assert sum(each.at_peak for each in everything.holders) == 3590
    wrong = invoke("pressure", full, "--by", "pod")
    assert (wrong.exit_code, wrong.stderr.splitlines()[0]) == (
        2,
        "Error: 'pod' is no key of a holder",
    )


def test_a_file_without_looks_says_so(invoke: Invoke, shop: Path) -> None:
    assert "no recorder has looked at the table then" in invoke("pressure", shop).stderr


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        (0, "nobody held entries then: the table was empty at each look\n"),
        (
            5,
            "who held entries then is not in the file: it is counted once a minute, in a dump, and"
            " kept as long as flows are\n",
        ),
    ],
)
def test_why_nobody_holds_entries_is_said(
    invoke: Invoke, tmp_path: Path, entries: int, said: str
) -> None:
    """Instead of a table that has titles alone."""
    path = tmp_path / "node.db"
    with connect.writer(path) as conn:
        writer = Writer(conn, node="n1", source="k", settings={}, started_ns=T, boot_id=None)
        looks = [TableUse(T, entries, entries, 100, None)]
        writer.window([], looks=looks, committed_ns=T + MINUTE, counters=EventCounts(0, 0))
        writer.finish(T + MINUTE)
    result = invoke("pressure", path)
    assert (result.exit_code, result.stdout.count("\n"), result.stderr) == (0, 2, said)
    assert json.loads(invoke("pressure", path, "-o", "json").stdout)["holders"] == []


def test_info_and_the_doctor_warn_of_a_table_that_was_nearly_full(
    invoke: Invoke, full: Path
) -> None:
    warning = "the table of n1 was 92% full at 1970-01-12T13:47:40Z: 3,680 of 4,000 entries"
    result = invoke("info", full)
    assert (
        "conntrack   at most 3,680 of 4,000 (92%) entries, 1970-01-12 13:47:40\n" in result.stdout
    )
    assert result.stderr == f"{warning}\n"
    told = json.loads(invoke("doctor", full, "--no-kube", "--listen", "0", "-o", "json").stdout)
    assert [
        (each["status"], each["found"]) for each in told if each["check"] == "table before"
    ] == [("warning", warning)]
    less = NodePressure("n1", 1, T, 100, 4000, 0.79, 100, 0, 0, 0)
    seen = replace(HEALTHY, pressure=(less,))
    assert "table before" not in {each.check for each in judge(seen)}


def test_looks_go_with_the_minutes_and_holders_with_the_flows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tableuse, "_ROWS", 2)
    path = tmp_path / "old.db"
    with connect.writer(path) as conn:
        writer = Writer(conn, node="n1", source="k", settings={}, started_ns=T, boot_id=None)
        for n in range(10):
            at_ns = T + n * DAY
            old = Holder("tcp", "pod", f"load/{n}", None, "external", None, 80)
            looks = [TableUse(at_ns, 1, 1, None, None), Held(at_ns, {(old, "CLOSE"): 1})]
            writer.window([], looks=looks, committed_ns=at_ns, counters=EventCounts(0, 0))

        def kept() -> tuple[int, int, int]:
            for _ in writer.maintain(T + 10 * DAY, {"flow": 3 * DAY}):
                pass
            return conn.execute(
                "SELECT (SELECT COUNT(*) FROM pressure), (SELECT COUNT(*) FROM holders),"
                " (SELECT COUNT(*) FROM holder)"
            ).fetchone()

        assert kept() == (7, 3, 3)
        monkeypatch.setattr(tableuse, "_PART", 40 / (1 << 20))
        for _ in tableuse.prune(conn, T + 10 * DAY, {"flow": 3 * DAY}, 1 << 20):
            pass
        assert conn.execute("SELECT COUNT(*) FROM held").fetchone() == (1,)


def test_asking_who_holds_gives_out_no_edge(tmp_path: Path) -> None:
    """What a dump lists and no row counts makes no edge in the file."""
    db = tmp_path / "node.db"
    over = Connection()

    def steps() -> Iterator[Datagrams]:
        yield batch(over.listed(state=TIME_WAIT), at_ns=T, dumped=True)
        yield batch(at_ns=T, dumped=True)
        yield tick(T + 30 * SECOND)

    record(db, steps())
    found = "SELECT client_kind, state, entries FROM holders"
    assert ask(db, found) == [("unknown", "TIME_WAIT", 1)]
    assert ask(db, "SELECT COUNT(*) FROM edge") == [(0,)]
