"""The whole way: from messages, recorded or made, to what the file says."""

import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from itertools import pairwise
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest
from live.playednode import objects
from wire import SECOND, UDP, Connection, batch

from ctk.ask.top import top
from ctk.errors import StoreError
from ctk.kube.objects import Applied, Change, Listed, Pod
from ctk.model import Datagrams, Filters, Gap
from ctk.record import loop as recorder
from ctk.record.plan import Listening, Plan
from ctk.store import connect
from ctk.store.columns import COUNT_KEYS, FLOW_KEYS
from ctk.store.levels import LEVELS

CAPTURES = Path(__file__).parents[1] / "fixtures" / "captures"
SUMS = ", ".join(f"sum({key})" for key in COUNT_KEYS)
T = 1_000_000 * SECOND


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The played node's cluster, as kubectl prints it."""
    path = tmp_path_factory.mktemp("cluster") / "cluster.json"
    path.write_text(json.dumps(objects()), encoding="utf-8")
    return path


def ask(db: Path, sql: str, *values: object) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(f"file:{db}?mode=ro", uri=True)) as conn:
        return conn.execute(sql, values).fetchall()


# From recorded captures.


@pytest.mark.parametrize("name", ["node", "uncounted"])
def test_every_recorded_connection_stands_under_its_names(invoke, cluster, tmp_path, name):
    db = tmp_path / "node.db"
    capture = CAPTURES / f"{name}.ctkcap.gz"
    result = invoke("record", db, "--from-capture", capture, "--objects", cluster)
    assert (result.exit_code, result.stdout) == (0, "")
    talks = json.loads((CAPTURES / f"{name}.json").read_text(encoding="utf-8"))
    made = Counter({tuple(talk.values())[:10]: talk["connections"] for talk in talks})
    found: Counter[tuple[Any, ...]] = Counter()
    moved: dict[tuple[Any, ...], tuple[int, int]] = {}
    for *who, connections, sent, answered in ask(
        db,
        """
        SELECT proto, src, dst, dst_port, coalesce(nat_dst, dst),
            coalesce(nat_dst_port, dst_port),
            coalesce(src_namespace || '/' || src_name, src_name, ''),
            coalesce(dst_namespace || '/' || dst_name, dst_name, ''),
            service, service_via, sum(connections), sum(bytes_out), sum(bytes_in)
        FROM flows GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9, 10
        """,
    ):
        found[tuple(who)] = connections
        moved[tuple(who)] = (sent, answered)
    assert found == made
    for talk in talks:
        who, connections = tuple(talk.values())[:10], talk["connections"]
        if name == "uncounted":
            assert moved[who] == (None, None)
        else:
            assert moved[who][0] >= connections * talk["sent"]
            assert moved[who][1] >= connections * talk["answered"]
    [(new, all_connections, not_ended)] = ask(
        db,
        "SELECT sum(new_events), sum(connections), count(*) FILTER (WHERE ended_at IS NULL) "
        "FROM flows",
    )
    assert (new, all_connections, not_ended) == (made.total(), made.total(), 0)


KUBERNETES = {
    "cluster": None,
    "node": "kl-control-plane",
    "proto": "tcp",
    "ip_version": 4,
    "zone": 0,
    "src": "10.244.0.22",
    "src_port": 46706,
    "dst": "10.96.0.1",
    "dst_port": 443,
    "nat_src": None,
    "nat_dst": "172.18.0.2",
    "nat_dst_port": 6443,
    "src_kind": "pod",
    "src_namespace": "load",
    "src_name": "client-1",
    "src_workload": None,
    "src_workload_kind": None,
    "src_node": "kl-control-plane",
    "src_node_zone": None,
    "src_labels": '{"app":"client"}',
    "dst_kind": "node",
    "dst_namespace": None,
    "dst_name": "kl-control-plane",
    "dst_workload": None,
    "dst_workload_kind": None,
    "dst_node": "kl-control-plane",
    "dst_node_zone": None,
    "dst_labels": None,
    "service": "default/kubernetes",
    "service_via": "address",
    "connections": 1,
    "new_events": 1,
    "update_events": 5,
    "destroy_events": 1,
    "unreplied": 0,
    "refused": 0,
    "bytes_out": 568,
    "packets_out": 5,
    "bytes_in": 2268,
    "packets_in": 5,
}
POD = {
    "dst_kind": "pod",
    "dst_namespace": "shop",
    "dst_workload": "web",
    "dst_workload_kind": "Deployment",
    "dst_node": "kl-control-plane",
    "dst_labels": '{"app":"web","pod-template-hash":"7c65d6cfc9"}',
}
REFUSED = (
    KUBERNETES
    | POD
    | {
        "src": "10.244.0.21",
        "src_name": "client-0",
        "src_port": 33570,
        "dst": "10.244.0.11",
        "dst_name": "web-7c65d6cfc9-aaaaa",
        "dst_port": 9999,
        "nat_dst": None,
        "nat_dst_port": None,
        "service": None,
        "service_via": None,
        "update_events": 0,
        "refused": 1,
        "bytes_out": 60,
        "packets_out": 1,
        "bytes_in": 40,
        "packets_in": 1,
    }
)
UNANSWERED = REFUSED | {
    "src_port": 38642,
    "dst": "10.244.0.12",
    "dst_name": "web-7c65d6cfc9-bbbbb",
    "dst_port": 9998,
    "refused": 0,
    "unreplied": 1,
    "bytes_in": 0,
    "packets_in": 0,
}


@pytest.fixture(scope="module")
def recorded_once(invoke, cluster, tmp_path_factory) -> Path:
    """The capture of the known traffic as a file."""
    db: Path = tmp_path_factory.mktemp("recorded") / "node.db"
    capture = CAPTURES / "node.ctkcap.gz"
    assert invoke("record", db, "--from-capture", capture, "--objects", cluster).exit_code == 0
    return db


@pytest.fixture
def recorded(recorded_once, tmp_path) -> Path:
    """A copy of it that is of no other test."""
    return Path(shutil.copy(recorded_once, tmp_path))


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(KUBERNETES, id="a pod to the API server's service"),
        pytest.param(REFUSED, id="refused"),
        pytest.param(UNANSWERED, id="unanswered"),
    ],
)
def test_whole_rows(recorded, row):
    [found] = ask(recorded, "SELECT * FROM flows WHERE dst_port = ?", row["dst_port"])
    named = dict(zip(FLOW_KEYS, found, strict=True))
    assert named["started_ns"] <= named["ended_ns"]
    of_one = {"src_addresses": None, "dst_addresses": None}
    assert {key: named[key] for key in FLOW_KEYS[FLOW_KEYS.index("cluster") :]} == row | of_one


def _everything(path: Path) -> list[str]:
    with connect.reader(path) as conn:
        return list(conn.iterdump())


def test_a_capture_is_not_counted_twice(recorded, invoke, cluster):
    before = _everything(recorded)
    capture = CAPTURES / "node.ctkcap.gz"
    result = invoke("record", recorded, "--from-capture", capture, "--objects", cluster)
    assert (result.exit_code, result.stdout, result.stderr) == (
        2,
        "",
        f"Error: {recorded} already has what kl-control-plane did then\n"
        f"Try: record {capture} into another DB, for nothing is to be counted twice\n",
    )
    assert _everything(recorded) == before


def test_a_capture_of_another_node_goes_into_the_same_file_under_the_same_names(
    recorded, invoke, cluster
):
    once = ask(recorded, f"SELECT {SUMS} FROM flows")[0]
    named = ask(recorded, "SELECT count(*) FROM endpoint WHERE uid IS NOT NULL")
    words = ("--from-capture", CAPTURES / "node.ctkcap.gz", "--objects", cluster)
    assert invoke("record", recorded, *words, "--node-name", "other").exit_code == 0
    assert ask(recorded, f"SELECT {SUMS} FROM flows") == [tuple(2 * each for each in once)]
    assert ask(recorded, "SELECT count(*) FROM endpoint WHERE uid IS NOT NULL") == named
    assert ask(recorded, "SELECT node, count(*) FROM recordings GROUP BY node") == [
        ("kl-control-plane", 1),
        ("other", 1),
    ]
    assert ask(recorded, "SELECT * FROM gaps") == []
    assert_levels_agree(recorded)


def assert_levels_agree(db: Path) -> int:
    """Each bucket that is folded holds the sums of the finer level; give how many were."""
    folded = dict(ask(db, "SELECT name, folded_ns FROM level"))
    buckets = 0
    for finer, level in pairwise(LEVELS):
        if folded[level.name] is None:
            continue
        by_edge = f"started_ns / {level.width_ns} AS bucket, edge_id, {SUMS}"
        grouped = "WHERE started_ns < ? GROUP BY 1, 2 ORDER BY 1, 2"
        assert ask(db, f"SELECT {by_edge} FROM {level.table} {grouped}", folded[level.name]) == ask(
            db, f"SELECT {by_edge} FROM {finer.table} {grouped}", folded[level.name]
        )
        buckets += ask(db, f"SELECT count(DISTINCT started_ns) FROM {level.table}")[0][0]
    return buckets


@pytest.mark.parametrize("aggregate", ["ports", "connections", "none"])
def test_however_it_is_aggregated_the_file_has_the_same_sums(
    recorded, invoke, cluster, tmp_path, aggregate
):
    db = tmp_path / f"{aggregate}.db"
    capture = CAPTURES / "node.ctkcap.gz"
    words = ("--from-capture", capture, "--objects", cluster, "--aggregate", aggregate)
    assert invoke("record", db, *words).exit_code == 0
    by_who = (
        "SELECT src, dst, dst_port, nat_dst, service, proto, {} FROM flows GROUP BY 1,2,3,4,5,6"
    )
    assert ask(db, by_who.format(SUMS)) == ask(recorded, by_who.format(SUMS))
    without_port = ask(db, "SELECT DISTINCT proto FROM flows WHERE src_port IS NULL")
    assert without_port == (
        [("tcp",), ("udp",), ("icmp",)] if aggregate == "ports" else [("icmp",)]
    )
    assert assert_levels_agree(db) > 0


def test_every_protocol_and_zone_of_the_mixed_capture(invoke, tmp_path):
    db = tmp_path / "mixed.db"
    capture = CAPTURES / "mixed.ctkcap.gz"
    assert invoke("record", db, "--from-capture", capture, "--no-kube").exit_code == 0
    protos = {row[0] for row in ask(db, "SELECT DISTINCT proto FROM flows")}
    assert protos == {"tcp", "udp", "icmp", "icmpv6", "sctp", "dccp", "gre", "udplite", "253"}
    assert {row[0] for row in ask(db, "SELECT DISTINCT zone FROM flows")} == {0, 7, 9}
    # One is older than the recording, and was over when the first dump listed it.
    assert ask(db, "SELECT sum(connections) - sum(new_events) FROM flows") == [(0,)]
    assert ask(db, "SELECT * FROM gaps") == []


def test_the_demo_folds_into_minutes(invoke, cluster, tmp_path):
    db = tmp_path / "demo.db"
    capture = CAPTURES / "demo.ctkcap.gz"
    assert invoke("record", db, "--from-capture", capture, "--objects", cluster).exit_code == 0
    assert assert_levels_agree(db) > 0
    [(connections, new)] = ask(db, "SELECT sum(connections), sum(new_events) FROM flows")
    assert connections == new > 500


@pytest.mark.parametrize("aggregate", ["ports", "connections", "none"])
def test_what_is_printed_is_what_is_logged_and_what_is_in_the_file(
    invoke, cluster, tmp_path, aggregate
):
    db, log = tmp_path / "node.db", tmp_path / "node.log"
    words = ("--from-capture", CAPTURES / "node.ctkcap.gz", "--objects", cluster)
    result = invoke("record", db, *words, "--aggregate", aggregate, "--print", "--log", log)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    pods = [line for line in lines if line.startswith("Pod added: ")]
    assert pods[:2] == [
        "Pod added: web-7c65d6cfc9-aaaaa (10.244.0.11)",
        "Pod added: web-7c65d6cfc9-aaaaa (fd00:10:244::b)",
    ]
    assert len(pods) == 10
    flows = lines[10:]
    logged = log.read_text(encoding="utf-8").splitlines()
    assert [line.partition(" - ")[2] for line in flows] == logged
    # The log tells events: a row in which bytes moved and nothing else is not in it.
    events = "new_events + update_events + destroy_events"
    assert len(logged) == ask(db, f"SELECT count(*) FROM flows WHERE {events} > 0")[0][0]
    counts = [json.loads(line)["cnt"] for line in logged]
    assert sum(counts) == ask(db, f"SELECT sum({events}) FROM flows")[0][0]


def test_a_printed_line(invoke, cluster, tmp_path):
    words = ("--from-capture", CAPTURES / "node.ctkcap.gz", "--objects", cluster, "--print")
    result = invoke("record", tmp_path / "node.db", *words)
    [line] = [line for line in result.stdout.splitlines() if "10.96.0.1:443" in line]
    head, _, event = line.partition(" - ")
    assert head == "<tcp, Src: 10.244.0.22:46706, Dst: 10.96.0.1:443> (true)"
    told = json.loads(event)
    assert list(told.items())[1:] == [
        ("src", "10.244.0.22"),
        ("srcPort", 46706),
        ("srcNs", "load"),
        ("srcName", "load:client-1"),
        ("srcLbls", {"app": "client"}),
        ("dst", "10.96.0.1"),
        ("dstPort", 443),
        ("dstName", "kl-control-plane"),
        ("proto", "TCP"),
        ("new", True),
        ("update", True),
        ("cnt", 7),
        ("destroy", True),
        ("natDst", "172.18.0.2"),
        ("natDstPort", 6443),
        ("service", "default/kubernetes"),
        ("bytesOut", 568),
        ("packetsOut", 5),
        ("bytesIn", 2268),
        ("packetsIn", 5),
    ]


# From messages made here.


class Source:
    """Batches where the kernel would be; what its steps do between them happens in between."""

    malformed = 0
    local_addresses: frozenset[str] = frozenset()

    def __init__(self, steps: Iterable[Datagrams], *, started_ns: int = T) -> None:
        self.started_ns = started_ns
        self._steps = steps
        self.lost: list[Gap] = []

    def gaps(self) -> list[Gap]:
        lost, self.lost = self.lost, []
        return lost

    def __iter__(self) -> Iterator[Datagrams]:
        return iter(self._steps)


def record(
    db: Path,
    steps: Iterable[Datagrams],
    changes: "SimpleQueue[Change] | None" = None,
    *,
    prepare: Callable[[sqlite3.Connection], object] = lambda conn: None,
    started_ns: int = T,
    **plan: Any,
) -> None:
    planned = {"node": "n1", "source": "test", "live": False}
    planned |= {"cluster": changes is not None, **plan}
    with connect.writer(db) as conn:
        prepare(conn)
        recorder.run(
            conn,
            Source(steps, started_ns=started_ns),
            Plan(**planned),
            changes if changes is not None else SimpleQueue(),
            Listening(),
        )


def tick(at_ns: int) -> Datagrams:
    return batch(at_ns=at_ns)


def pod(name: str, started_ns: int, *addresses: str) -> Pod:
    return Pod(
        uid=f"uid-{name}",
        namespace="load",
        name=name,
        labels={},
        node="n1",
        workload=None,
        workload_kind=None,
        phase="Running",
        host_network=False,
        addresses=addresses,
        started_ns=started_ns,
        ended_ns=None,
    )


def listed(at_ns: int, *pods: Pod) -> list[Change]:
    return [
        Listed("pods", pods, at_ns),
        Listed("services", (), at_ns),
        Listed("nodes", (), at_ns),
        Listed("endpointslices", (), at_ns),
    ]


OPENED = Connection(src="10.244.0.21", dst="10.244.0.22", port=1)
MOVED = (3, 300, 2, 200)
NAMES = "SELECT src_name, dst_name, connections, destroy_events FROM flows ORDER BY started_ns"


def test_traffic_before_a_pods_address_is_known_stands_under_the_pod_afterwards(tmp_path):
    db = tmp_path / "late.db"
    changes: SimpleQueue[Change] = SimpleQueue()

    def steps() -> Iterator[Datagrams]:
        yield batch(OPENED.new(T + 1), at_ns=T + 2)
        yield tick(T + 11 * SECOND)
        assert ask(db, NAMES) == [(None, None, 1, 0)]
        for change in listed(T + 12 * SECOND, pod("a", T - SECOND, "10.244.0.21")):
            changes.put(change)
        yield tick(T + 12 * SECOND)
        changes.put(Applied(pod("b", T - SECOND, "10.244.0.22"), T + 13 * SECOND))
        yield batch(OPENED.destroy(T + 14 * SECOND, MOVED), at_ns=T + 14 * SECOND)

    record(db, steps(), changes)
    assert ask(db, NAMES) == [("a", "b", 1, 0), ("a", "b", 0, 1)]


def test_an_address_that_passes_to_another_pod_within_a_window_is_each_pods_in_its_time(tmp_path):
    db = tmp_path / "passed.db"
    changes: SimpleQueue[Change] = SimpleQueue()
    later = Connection(src="10.244.0.21", dst="10.244.0.22", port=2, ct_id=2)

    def steps() -> Iterator[Datagrams]:
        for change in listed(T, pod("first", T - SECOND, "10.244.0.21")):
            changes.put(change)
        yield batch(OPENED.new(T + 1), at_ns=T + 2)
        changes.put(Applied(pod("second", T + SECOND, "10.244.0.21"), T + 2 * SECOND))
        yield batch(later.new(T + 3 * SECOND), at_ns=T + 3 * SECOND)
        ends = (OPENED.destroy(T + 4 * SECOND), later.destroy(T + 4 * SECOND))
        yield batch(*ends, at_ns=T + 4 * SECOND)

    record(db, steps(), changes)
    assert ask(db, NAMES) == [("first", None, 1, 1), ("second", None, 1, 1)]


def test_an_end_two_minutes_later_is_the_first_pods_too(tmp_path):
    db = tmp_path / "later.db"
    changes: SimpleQueue[Change] = SimpleQueue()

    def steps() -> Iterator[Datagrams]:
        for change in listed(T, pod("first", T - SECOND, "10.244.0.21")):
            changes.put(change)
        yield batch(OPENED.new(T + 1), at_ns=T + 2)
        changes.put(Applied(pod("second", T + SECOND, "10.244.0.21"), T + 2 * SECOND))
        yield batch(OPENED.destroy(T + 120 * SECOND, MOVED), at_ns=T + 120 * SECOND)

    record(db, steps(), changes)
    assert ask(db, NAMES) == [("first", None, 1, 0), ("first", None, 0, 1)]


def test_two_pings_are_two_rows_with_connections_and_have_no_source_port(tmp_path):
    for aggregation, rows in (("ports", [(None, 2)]), ("connections", [(None, 1), (None, 1)])):
        db = tmp_path / f"{aggregation}.db"
        pings = [Connection(proto=1, port=n, ct_id=n, dst="10.0.0.1").new(T + n) for n in (1, 2)]
        record(db, [batch(*pings, at_ns=T + 5)], aggregation=aggregation)
        assert ask(db, "SELECT src_port, connections FROM flows") == rows


def test_what_is_malformed_is_a_gap(tmp_path):
    db = tmp_path / "malformed.db"
    record(db, [batch(OPENED.new(T + 1), b"\0" * 30, b"", at_ns=T + 2)])
    assert ask(db, "SELECT kind, lost, started_ns, ended_ns FROM gaps") == [
        ("malformed", 2, T, T + 2)
    ]
    assert ask(db, "SELECT events, malformed, lost FROM recordings") == [(1, 2, 0)]


def test_what_the_source_lost_is_a_gap_and_in_the_recordings_counts(tmp_path):
    db = tmp_path / "lost.db"
    lost = Gap("events lost", T + 1, T + 2, 1_204)
    source = Source([batch(OPENED.new(T + 1), at_ns=T + 2), tick(T + 10 * SECOND)])
    source.lost = [lost]
    with connect.writer(db) as conn:
        plan = Plan(node="n1", source="test", live=False, cluster=False)
        recorder.run(conn, source, plan, SimpleQueue(), Listening())
    assert ask(db, "SELECT kind, started_ns, ended_ns, lost FROM gaps") == [tuple(lost[:4])]
    assert ask(db, "SELECT lost FROM recordings") == [(1_204,)]


@pytest.mark.parametrize("step_s", [-3600, 3600])
def test_a_step_of_the_clock_is_a_gap_and_recording_goes_on(tmp_path, monkeypatch, step_s):
    db = tmp_path / "clock.db"
    clock = time.time_ns
    began_ns = clock()
    other = Connection(port=2, ct_id=2)

    def steps() -> Iterator[Datagrams]:
        now = clock()
        yield batch(OPENED.new(now), at_ns=now)
        monkeypatch.setattr(time, "time_ns", lambda: clock() + step_s * SECOND)
        now = time.time_ns()
        yield batch(OPENED.update(now), other.new(now), at_ns=now)

    record(db, steps(), live=True)
    [(kind, started_ns, ended_ns, detail)] = ask(
        db, "SELECT kind, started_ns, ended_ns, detail FROM gaps WHERE kind != 'recorder down'"
    )
    assert (kind, detail) == ("clock step", f"the clock went {step_s:+.3f} s")
    assert abs(ended_ns - started_ns - abs(step_s) * SECOND) < SECOND
    rows = ask(db, "SELECT started_ns - ?, connections FROM flows ORDER BY new_events", began_ns)
    assert [connections for _, connections in rows] == sorted(c for _, c in rows)
    assert sum(connections for _, connections in rows) == 2
    assert ask(db, "SELECT count(*) FROM flows WHERE ended_ns < started_ns") == [(0,)]
    assert max(abs(at_ns) for at_ns, _ in rows) < (abs(step_s) + 10) * SECOND


def test_two_hours_are_folded_and_pruned_right_at_every_step(tmp_path):
    db = tmp_path / "hours.db"
    minute = 60 * SECOND
    retain = {"flow": 10 * minute, "1m": 30 * minute}
    made: list[int] = []  # when each connection began

    def steps() -> Iterator[Datagrams]:
        chance = random.Random(2)
        for window in range(720):
            at_ns = T + window * 10 * SECOND
            new = []
            for n in range(chance.randrange(1, 8)):
                made.append(at_ns + n)
                one = Connection(port=1 + n, ct_id=len(made), dst_port=chance.choice((80, 443, 53)))
                new += [one.new(at_ns + n), one.destroy(at_ns + n, MOVED)]
            yield batch(*new, at_ns=at_ns + 9 * SECOND)
            if window % 30:
                continue
            yield tick(at_ns + 10 * SECOND)
            assert_right(at_ns)

    def assert_right(now_ns: int) -> None:
        with connect.reader(db) as conn:
            whole = top(conn, Filters(), ["dst_port"]).totals
            since_ns = max(T, now_ns - 25 * minute)
            since_ns -= since_ns % minute
            spanned = top(conn, Filters(since_ns=since_ns), ["dst_port"]).totals
            oldest = conn.execute("SELECT MIN(started_ns) FROM flow").fetchone()[0]
        assert (whole.connections, whole.bytes) == (len(made), 500 * len(made))
        assert spanned.connections == sum(at_ns >= since_ns for at_ns in made)
        assert oldest >= now_ns - 12 * minute

    record(db, steps(), retain=retain)
    assert len(made) > 2000


# A disk that is full.


def flood(windows: int, flows: int) -> Iterator[tuple[int, Datagrams]]:
    """As many new flows a window, each to an address and port of its own, all ended at once."""
    for window in range(windows):
        at_ns = T + window * 10 * SECOND
        messages = []
        for n in range(flows):
            one = Connection(
                proto=UDP,
                port=1 + n,
                ct_id=n,
                dst=f"198.51.{window}.{n}",
                dst_port=1 + (window * flows + n) % 60_000,
            )
            messages += [one.new(at_ns), one.destroy(at_ns, MOVED)]
        yield at_ns, batch(*messages, at_ns=at_ns)


class Limit:
    """SQLite's own limit of pages in place of a full disk."""

    def __init__(self, folder: Path) -> None:
        self.db = folder / "full.db"

    def prepare(self, conn: sqlite3.Connection) -> None:
        self._conn = conn

    def fill(self) -> None:
        self._conn.execute("PRAGMA max_page_count = 1")  # no less than there are

    def empty(self) -> None:
        self._conn.execute("PRAGMA max_page_count = 100000")


class Disk:
    """A file system of 16 MB, filled by a file beside the database."""

    def __init__(self, folder: Path) -> None:
        self.db = folder / "full.db"
        self._ballast = folder / "ballast"

    def prepare(self, conn: sqlite3.Connection) -> None:
        pass

    def fill(self) -> None:
        with self._ballast.open("wb", buffering=0) as file, suppress(OSError):
            while True:  # until there is no space left
                file.write(bytes(1 << 12))

    def empty(self) -> None:
        self._ballast.unlink()


@pytest.fixture(params=["a limit of pages", "a full tmpfs"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Limit | Disk]:
    if request.param == "a limit of pages":
        yield Limit(tmp_path)
        return
    if os.geteuid():
        pytest.skip("needs root, to mount a file system")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(tmp_path)], check=False
    )
    if mounted.returncode:
        pytest.skip("no file system can be mounted here")
    try:
        yield Disk(tmp_path)
    finally:
        subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)


def test_a_full_disk_is_survived_with_a_gap_and_bounded_memory(disk):
    blocks: list[int] = []

    def steps() -> Iterator[Datagrams]:
        for n, (at_ns, flows) in enumerate(flood(40, 200)):
            if n == 10:
                yield tick(at_ns)
                disk.fill()
            yield flows
            blocks.append(sys.getallocatedblocks())
            if n == 30:
                disk.empty()
        yield tick(T + 410 * SECOND)

    record(disk.db, steps(), prepare=disk.prepare)
    with closing(sqlite3.connect(disk.db)) as conn:
        assert conn.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    [(kind, started_ns, ended_ns, lost)] = ask(
        disk.db, "SELECT kind, started_ns, ended_ns, lost FROM gaps"
    )
    [(new, destroyed)] = ask(disk.db, "SELECT sum(new_events), sum(destroy_events) FROM flows")
    assert (kind, new + destroyed + lost) == ("disk full", 40 * 200 * 2)
    assert T + 100 * SECOND <= started_ns < ended_ns <= T + 310 * SECOND
    # A window or two may still fit into what is left of a page, or of the -wal.
    assert lost >= 15 * 200 * 2
    written = "SELECT count(*) FROM flows WHERE started_ns >= ? AND started_ns < ?"
    assert ask(disk.db, written, started_ns, ended_ns - 10 * SECOND) == [(0,)]
    assert ask(disk.db, written, T + 310 * SECOND, T + 400 * SECOND) == [(9 * 200,)]
    assert max(blocks[20:30]) < 1.5 * min(blocks[15:20])


def test_a_disk_that_stays_full_leaves_its_gap_and_the_end_and_is_an_error(disk):
    def steps() -> Iterator[Datagrams]:
        for n, (at_ns, flows) in enumerate(flood(40, 200)):
            if n == 10:
                yield tick(at_ns)
                disk.fill()
            yield flows
        # It is there before the end: a recorder that is killed now has left word, too.
        assert ask(disk.db, "SELECT DISTINCT kind FROM gaps") == [("disk full",)]

    with pytest.raises(StoreError):
        record(disk.db, steps(), prepare=disk.prepare)
    [(new, destroyed)] = ask(disk.db, "SELECT sum(new_events), sum(destroy_events) FROM flows")
    [(kinds, started_ns, ended_ns, lost)] = ask(
        disk.db,
        "SELECT group_concat(DISTINCT kind), min(started_ns), max(ended_ns), sum(lost) FROM gaps",
    )
    assert (new + destroyed + lost, lost >= 25 * 200 * 2) == (40 * 200 * 2, True)
    assert (kinds, started_ns >= T + 100 * SECOND) == ("disk full", True)
    assert ask(disk.db, "SELECT ended_ns FROM recordings") == [(ended_ns,)]
