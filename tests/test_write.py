"""A window in the file: whole or not at all, with rows that keep their ids over restarts."""

import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from edges import edge, packed, with_ids

from ctk.errors import DiskFullError, FileBusyError, StoreError
from ctk.model import (
    COUNTS_CONNECTION,
    COUNTS_DESTROY,
    COUNTS_NEW,
    COUNTS_REFUSED,
    COUNTS_UNREPLIED,
    COUNTS_UPDATE,
    Edge,
    Endpoint,
    EventCounts,
    FlowRow,
    Gap,
    Previous,
)
from ctk.model.history import (
    Closed,
    ClusterFound,
    Completed,
    ObjectClosed,
    ObjectRecord,
    PodsTold,
    PodTimes,
    ServiceFound,
)
from ctk.model.kept import LiveConnections
from ctk.model.lone import LoneEvents
from ctk.store import connect, endpointids, identities, recordings
from ctk.store.columns import FLOW_KEYS
from ctk.store.write import Writer
from ctk.timespan import DAY

T = 1_732_560_442_852_716_307
BEGUN = COUNTS_CONNECTION | COUNTS_NEW
S = 10**9

WEB = Endpoint(
    address="10.244.0.3",
    kind="pod",
    valid_from_ns=T,
    namespace="shop",
    name="web-7c65d6cfc9-sq2br",
    workload="web",
    workload_kind="Deployment",
    node="n1",
    labels={"tier": "front", "app": "web"},
    uid="uid-web",
)
SERVICE = Endpoint(
    address="10.96.0.10",
    kind="service",
    valid_from_ns=T,
    namespace="shop",
    name="db",
    uid="uid-db",
)
DB = Endpoint(
    address="10.244.0.4", kind="pod", valid_from_ns=T, namespace="shop", name="db-0", uid="uid-db-0"
)
DNS = Endpoint(address="2001:4860:4860::8888", kind="external", valid_from_ns=T)
NOBODY = Endpoint(address="10.244.0.9", kind="unknown", valid_from_ns=T)

TO_DB = edge("tcp", 0, WEB, SERVICE, 5432, None, DB, 15432, "shop/db", "address")
TO_DNS = edge("udp", 7, WEB, DNS, 53, "10.0.0.1", DNS, None, None, None)
TO_NOBODY = edge("tcp", 0, WEB, NOBODY, 80, None, NOBODY, None, None, None)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "node.db"


@pytest.fixture
def conn(path: Path) -> Iterator[sqlite3.Connection]:
    with connect.writer(path) as opened:
        yield opened


def _writer(
    conn: sqlite3.Connection,
    started_ns: int = T,
    boot_id: str | None = "boot-1",
    edges_held: Callable[[], set[int]] = set,
    cluster: str | None = None,
) -> Writer:
    return Writer(
        conn,
        node="n1",
        source="kernel",
        settings={"window": "10s"},
        started_ns=started_ns,
        boot_id=boot_id,
        edges_held=edges_held,
        cluster=cluster,
    )


def _row(edge: Edge, started_ns: int = T, connections: int = 1) -> FlowRow:
    return FlowRow(
        edge, started_ns, started_ns + S, None, connections, 1, 2, 1, 0, 0, 900, 9, None, None
    )


def _window(writer: Writer, *rows: FlowRow, **more: object) -> None:
    committed_ns = max((row.ended_ns for row in rows), default=T + S)
    defaults: dict[str, object] = {"committed_ns": committed_ns, "counters": EventCounts()}
    events = LoneEvents(
        (started_ns, writer.edge_id(each), port, counts)
        for each, under in more.pop("events", {}).items()
        for started_ns, port, counts in under
    )
    writer.window(with_ids(writer, rows), events=events, **(defaults | more))


def _all(conn: sqlite3.Connection, question: str) -> list[tuple[object, ...]]:
    return conn.execute(question).fetchall()


def test_a_row_reads_back_as_the_contract_says(conn: sqlite3.Connection) -> None:
    row = FlowRow(TO_DB, T, T + S, 40000, 1, 1, 2, 1, 0, 1, 900, 9, 0, None)
    _window(_writer(conn, cluster="shop-cluster"), row, changes=[_node()])
    [row] = _all(conn, "SELECT * FROM flows")
    assert dict(zip(FLOW_KEYS, row, strict=True)) == {
        "started_at": "2024-11-25T18:47:22.852716307Z",
        "ended_at": "2024-11-25T18:47:23.852716307Z",
        "started_ns": T,
        "ended_ns": T + S,
        "cluster": "shop-cluster",
        "node": "n1",
        "proto": "tcp",
        "ip_version": 4,
        "zone": 0,
        "src": "10.244.0.3",
        "src_port": 40000,
        "dst": "10.96.0.10",
        "dst_port": 5432,
        "nat_src": None,
        "nat_dst": "10.244.0.4",
        "nat_dst_port": 15432,
        "src_kind": "pod",
        "src_namespace": "shop",
        "src_name": "web-7c65d6cfc9-sq2br",
        "src_workload": "web",
        "src_workload_kind": "Deployment",
        "src_node": "n1",
        "src_node_zone": "eu-1a",
        "src_labels": '{"app":"web","tier":"front"}',
        "dst_kind": "pod",
        "dst_namespace": "shop",
        "dst_name": "db-0",
        "dst_workload": None,
        "dst_workload_kind": None,
        "dst_node": None,
        "dst_node_zone": None,
        "dst_labels": None,
        "service": "shop/db",
        "service_via": "address",
        "connections": 1,
        "new_events": 1,
        "update_events": 2,
        "destroy_events": 1,
        "unreplied": 0,
        "refused": 1,
        "bytes_out": 900,
        "packets_out": 9,
        "bytes_in": 0,
        "packets_in": None,
        "src_addresses": None,
        "dst_addresses": None,
    }


def test_what_was_dialled_itself_answers_without_nat(conn: sqlite3.Connection) -> None:
    _window(_writer(conn), _row(TO_DNS))
    assert _all(
        conn,
        "SELECT ip_version, zone, dst, nat_src, nat_dst, nat_dst_port, dst_kind, dst_labels"
        " FROM flows",
    ) == [(4, 7, "2001:4860:4860::8888", "10.0.0.1", None, None, "external", None)]


def test_lone_events_are_rows_like_any_other(conn: sqlite3.Connection) -> None:
    events = {
        TO_DB: [
            (T + 5, 40001, COUNTS_CONNECTION | COUNTS_NEW),
            (T + 5, 40002, COUNTS_UPDATE),
            (T + 7, None, COUNTS_DESTROY | COUNTS_UNREPLIED | COUNTS_REFUSED),
        ],
        TO_DNS: [(T + 5, 1, COUNTS_CONNECTION)],
    }
    writer = _writer(conn)
    _window(writer, _row(TO_DB, T + 5), events=events)
    _window(writer, events={TO_DNS: [(T, 2, COUNTS_NEW), (T + 9, 3, COUNTS_NEW)]})
    assert _all(
        conn,
        "SELECT started_ns, n, edge_id, src_port, connections, new_events, update_events,"
        " destroy_events, unreplied, refused, bytes_out, bytes_in FROM flow",
    ) == [
        (T, 0, 2, 2, 0, 1, 0, 0, 0, 0, None, None),
        (T + 5, 0, 1, 40001, 1, 1, 0, 0, 0, 0, None, None),
        (T + 5, 1, 1, 40002, 0, 0, 1, 0, 0, 0, None, None),
        (T + 5, 2, 2, 1, 1, 0, 0, 0, 0, 0, None, None),
        (T + 5, 4, 1, None, 1, 1, 2, 1, 0, 0, 900, None),
        (T + 7, 3, 1, None, 0, 0, 0, 1, 1, 1, None, None),
        (T + 9, 0, 2, 3, 0, 1, 0, 0, 0, 0, None, None),
    ]


@pytest.mark.parametrize("count", [1, 31, 32, 65])
def test_lone_events_that_count_as_the_same_are_rows_like_any_other(
    conn: sqlite3.Connection, count: int
) -> None:
    _window(_writer(conn), events={TO_DB: [(T + i // 3, i or None, BEGUN) for i in range(count)]})
    assert _all(
        conn,
        "SELECT started_ns, lasted_ns, edge_id, src_port, connections, new_events, update_events,"
        " destroy_events, unreplied, refused, bytes_out FROM flow",
    ) == [(T + i // 3, 0, 1, i or None, 1, 1, 0, 0, 0, 0, None) for i in range(count)]


def test_rows_come_in_any_order_and_at_the_same_time(conn: sqlite3.Connection) -> None:
    writer = _writer(conn)
    _window(writer, _row(TO_DB, T + 2, 1), _row(TO_DB, T, 2), _row(TO_DNS, T + 2, 3))
    _window(writer, _row(TO_DB, T + 2, 4), _row(TO_DB, T + 1, 5), _row(TO_DB, T + 3, 6))
    assert _all(conn, "SELECT started_ns - ?, n, connections FROM flow".replace("?", str(T))) == [
        (0, 0, 2),
        (1, 0, 5),
        (2, 0, 1),
        (2, 1, 3),
        (2, 2, 4),
        (3, 0, 6),
    ]


def test_identities_keep_their_rows_over_a_restart(path: Path) -> None:
    for started_ns in (T, T + 60 * S):
        with connect.writer(path) as conn:
            # The next recorder makes its own values of what it learns.
            copies = [
                Endpoint(**{name: getattr(endpoint, name) for name in Endpoint.__slots__})
                for endpoint in (WEB, SERVICE, DB)
            ]
            edge = TO_DB._replace(src=copies[0], dialled=copies[1], backend=copies[2])
            to_dns = TO_DNS._replace(src=copies[0])
            _window(_writer(conn, started_ns), _row(edge, started_ns), _row(to_dns, started_ns))
            assert _all(conn, "SELECT name, valid_to_ns FROM endpoint") == [
                ("web-7c65d6cfc9-sq2br", None),
                ("db", None),
                ("db-0", None),
                (None, None),
            ]
            assert _all(conn, "SELECT COUNT(*) FROM edge") == [(2,)]


def test_what_is_not_seen_again_after_a_restart_ended_with_the_last_commit(path: Path) -> None:
    with connect.writer(path) as conn:
        pods = [_pod("uid-web"), _pod("uid-db-0")]
        _window(_writer(conn), _row(TO_DB), changes=[*pods, PodsTold(T + S)])
    with connect.writer(path) as conn:
        writer = _writer(conn, T + 60 * S)
        _window(writer, changes=[_pod("uid-web", T + 60 * S)])
        assert _all(conn, "SELECT uid, valid_from_ns, valid_to_ns FROM pod") == [
            ("uid-web", T, None),
            ("uid-db-0", T, T + S),
        ]
        assert _all(conn, "SELECT name, valid_to_ns FROM endpoint") == [
            ("web-7c65d6cfc9-sq2br", None),
            ("db", T + S),
            ("db-0", T + S),
        ]


def test_an_evicted_identity_is_found_again(
    conn: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identities, "CACHED", 2)
    writer = _writer(conn)
    for i in range(5):
        _window(writer, *(_row(edge, T + i) for edge in (TO_DB, TO_DNS, TO_NOBODY)))
    assert _all(conn, "SELECT COUNT(*), COUNT(DISTINCT edge_id) FROM flow") == [(15, 3)]
    assert _all(conn, "SELECT COUNT(*) FROM endpoint") == [(5,)]


def test_an_unknown_endpoint_is_completed_in_place(conn: sqlite3.Connection) -> None:
    writer = _writer(conn)
    late = Endpoint(
        address="10.244.0.9", kind="pod", valid_from_ns=T - S, namespace="shop", name="late-0"
    )
    _window(writer, _row(TO_NOBODY))
    _window(writer, changes=[Completed(NOBODY, late)])
    named = TO_NOBODY._replace(dialled=late, backend=late)
    _window(writer, _row(TO_NOBODY, T + S), _row(named, T + 2 * S), changes=[Closed(late, T + 5)])
    assert _all(conn, "SELECT dst_kind, dst_name, COUNT(*) FROM flows GROUP BY 1, 2") == [
        ("pod", "late-0", 3)
    ]
    assert _all(conn, "SELECT name, valid_from_ns, valid_to_ns FROM endpoint") == [
        ("web-7c65d6cfc9-sq2br", T, None),
        ("late-0", T - S, T + 5),
    ]


def test_an_address_that_was_unknown_before_stays_so_when_a_later_span_is_explained(
    path: Path,
) -> None:
    with connect.writer(path) as conn:
        _window(_writer(conn), _row(TO_NOBODY))
    with connect.writer(path) as conn:
        writer, again = _writer(conn, T + 60 * S), replace(NOBODY, valid_from_ns=T + 60 * S)
        late = replace(DB, address=NOBODY.address, valid_from_ns=T + 50 * S)
        to_again = TO_NOBODY._replace(dialled=again, backend=again)
        _window(writer, _row(to_again, T + 60 * S))
        _window(writer, changes=[Completed(again, late)])
        assert _all(conn, "SELECT dst_kind, dst_name FROM flows ORDER BY started_ns") == [
            ("unknown", None),
            ("pod", "db-0"),
        ]


def test_completed_before_its_first_row_it_is_known_from_the_start(
    conn: sqlite3.Connection,
) -> None:
    writer = _writer(conn)
    _window(writer, changes=[Completed(NOBODY, DB)])
    _window(writer, _row(TO_NOBODY), _row(TO_DB))
    assert _all(conn, "SELECT dst_name FROM flows") == [("db-0",), ("db-0",)]
    assert _all(conn, "SELECT COUNT(*) FROM endpoint WHERE kind = 'unknown'") == [(0,)]


def test_an_endpoint_that_ended_before_its_first_row_is_ended(conn: sqlite3.Connection) -> None:
    writer = _writer(conn)
    _window(writer, changes=[Closed(DB, T + 1)])
    _window(writer, _row(TO_DB), changes=[Closed(WEB, T + 2)])
    assert _all(conn, "SELECT name, valid_to_ns FROM endpoint ORDER BY name") == [
        ("db", None),
        ("db-0", T + 1),
        ("web-7c65d6cfc9-sq2br", T + 2),
    ]


def _pod(uid: str, at_ns: int = T, **changed: object) -> ObjectRecord:
    address = next((e.address for e in (WEB, DB) if e.uid == uid), "10.244.0.77")
    fields: dict[str, object] = {
        "namespace": "shop",
        "name": uid.removeprefix("uid-"),
        "addresses": (address,),
        "labels": {"app": "web"},
        "phase": "Running",
    }
    return ObjectRecord(kind="pod", uid=uid, valid_from_ns=at_ns, **(fields | changed))  # type: ignore[arg-type]


def _node(zone: str = "eu-1a", at_ns: int = T) -> ObjectRecord:
    return ObjectRecord(
        kind="node",
        uid="uid-n1",
        namespace=None,
        name="n1",
        valid_from_ns=at_ns,
        addresses=("10.0.0.1",),
        labels={"topology.kubernetes.io/zone": zone},
    )


def test_objects_are_kept_as_they_changed(conn: sqlite3.Connection) -> None:
    writer = _writer(conn)
    service = ObjectRecord(
        kind="service",
        uid="uid-db",
        namespace="shop",
        name="db",
        valid_from_ns=T,
        addresses=("10.96.0.10",),
        labels={},
        type="ClusterIP",
        ports=("pg:5432/tcp",),
    )
    node = ObjectRecord(
        kind="node",
        uid="uid-n1",
        namespace=None,
        name="n1",
        valid_from_ns=T,
        addresses=("10.0.0.1", "fd00::1"),
        labels={"zone": "a"},
    )
    changes = [service, node, _pod("uid-1"), _pod("uid-1", T + S, labels={"app": "new"})]
    _window(writer, changes=changes)
    _window(writer, changes=[_pod("uid-1", T + 2 * S, labels={"app": "new"})])
    _window(writer, changes=[ObjectClosed("pod", "uid-1", T + 3 * S)])
    assert _all(
        conn, "SELECT name, labels, host_network, valid_from_ns, valid_to_ns FROM pods"
    ) == [
        ("1", '{"app":"web"}', 0, T, T + S),
        ("1", '{"app":"new"}', 0, T + S, T + 3 * S),
    ]
    assert _all(
        conn, "SELECT name, type, addresses, ports, valid_from, valid_to FROM services"
    ) == [
        (
            *("db", "ClusterIP", '["10.96.0.10"]', '["pg:5432/tcp"]'),
            *("2024-11-25T18:47:22.852716307Z", None),
        )
    ]
    assert _all(conn, "SELECT name, addresses, labels FROM nodes") == [
        ("n1", '["10.0.0.1","fd00::1"]', '{"zone":"a"}')
    ]


def test_what_the_file_knew_is_read_before_the_first_window(path: Path) -> None:
    first, relabelled = _pod("uid-1", host_network=True), _pod("uid-1", T + S, labels={"a": "b"})
    gone, old, node = _pod("uid-gone"), _pod("uid-old", T - 9 * S), _node()
    with connect.writer(path) as conn:
        changes = [first, relabelled, gone, old, node, _web_service()]
        ended = [ObjectClosed("pod", "uid-old", T - 5 * S), ObjectClosed("pod", "uid-gone", T + S)]
        changes += [*ended, PodsTold(T + 9 * S)]
        _window(_writer(conn), changes=changes, committed_ns=T + 10 * S)
    with connect.writer(path) as conn:
        writer = _writer(conn, T + 60 * S)
        known = list(writer.known_objects(since_ns=T))
        assert [(_fields(each.record), each.valid_to_ns) for each in known] == [
            (_fields(first), T + S),
            (_fields(gone), T + S),
            (_fields(relabelled), None),
            (_fields(node), None),
        ]
        _window(writer)
        assert [each.valid_to_ns for each in writer.known_objects(T)] == [T + S, T + S, None, None]


def test_the_next_recording_hears_what_this_one_decided_by(path: Path) -> None:
    """When a pod got its address and ran; up to when pods were known, and where a watch was."""
    times = PodTimes(T + 3, T, T - 9 * S, T - 5 * S, T - 4 * S)
    later = times._replace(told_ns=T + 9, watched_ns=None, networked_ns=None, ended_ns=T + S)
    pods = [_pod("uid-1", times=times), _pod("uid-2", times=times)]
    with connect.writer(path) as conn:
        writer = _writer(conn)
        _window(writer, changes=[*pods, PodsTold(T + 5, "41")])
        goes_on = replace(pods[0], times=later)
        gone = ObjectClosed("pod", "uid-2", T + 7, inferred=True, sure_until_ns=T + 6)
        _window(writer, changes=[goes_on, gone, PodsTold(T + 8, "42")])
    with connect.writer(path) as conn:
        assert recordings.pods_version(conn, "n1") == "42"
        assert recordings.pods_version(conn, "n2") is None
        writer = _writer(conn, T + 60 * S)
        assert writer.previous is not None
        assert writer.previous.told_ns == T + 8
        first, second = writer.known_objects(T)
        assert first.record.times == times._replace(ended_ns=T + S)
        assert (first.valid_to_ns, first.inferred) == (None, False)
        assert (second.valid_to_ns, second.inferred, second.sure_until_ns) == (T + 7, True, T + 6)
        _window(writer)  # nobody told this one of pods before it was killed
    with connect.writer(path) as conn:
        writer = _writer(conn, T + 90 * S)
        assert [each.valid_to_ns for each in writer.known_objects(T)] == [None, T + 7]
        assert recordings.pods_version(conn, "n1") == "42"


def _fields(record: ObjectRecord) -> dict[str, object]:
    return {name: getattr(record, name) for name in ObjectRecord.__slots__}


def _web_service() -> ObjectRecord:
    return ObjectRecord(
        kind="service",
        uid="uid-web",
        namespace="shop",
        name="web",
        valid_from_ns=T,
        addresses=("10.96.0.80",),
        labels={},
    )


def test_a_pod_that_was_gone_at_a_kill_is_nobodys_from_then_on(path: Path) -> None:
    """It was in its grace period: the next pod may have had its address already."""
    to_pod = edge("tcp", 0, WEB, DB, 15432, None, DB, None, None, None)
    with connect.writer(path) as conn:
        writer = _writer(conn)
        _window(writer, _row(to_pod), changes=[_pod("uid-web"), _pod("uid-db-0")])
        gone = ObjectClosed("pod", "uid-db-0", T + 30 * S, inferred=True, sure_until_ns=T + S)
        _window(writer, changes=[gone, PodsTold(T + 5 * S)], committed_ns=T + 5 * S)
    with connect.writer(path) as conn:
        writer = _writer(conn, T + 60 * S)
        _window(writer)
        assert _all(conn, "SELECT name, valid_to_ns FROM endpoints") == [
            ("web-7c65d6cfc9-sq2br", T + 5 * S),
            ("db-0", T + S),
        ]


def test_an_end_that_nobody_saw_is_said_to_be_inferred(path: Path) -> None:
    changes = [_pod("uid-1"), _pod("uid-2"), _pod("uid-3"), _node()]
    with connect.writer(path) as conn:
        writer = _writer(conn)
        _window(writer, _row(TO_DB), changes=changes)
        ends = [
            ObjectClosed("pod", "uid-1", T + S),
            ObjectClosed("pod", "uid-2", T + S, inferred=True),
            Closed(WEB, T + S, inferred=True),
            Closed(DB, T + S),
        ]
        _window(writer, changes=[*ends, PodsTold(T + S)])
        assert _all(conn, "SELECT name, valid_to_ns, end_inferred FROM pods") == [
            ("1", T + S, 0),
            ("2", T + S, 1),
            ("3", None, 0),
        ]
        assert _all(conn, "SELECT name, valid_to_ns, end_inferred FROM endpoints") == [
            ("web-7c65d6cfc9-sq2br", T + S, 1),
            ("db", None, 0),
            ("db-0", T + S, 0),
        ]
    with connect.writer(path) as conn:
        writer = _writer(conn, T + 60 * S)
        _window(writer)
        ended = (T + S, 1)
        pods = "SELECT valid_to_ns, end_inferred FROM pods WHERE uid = 'uid-3'"
        assert _all(conn, pods) == [ended]
        assert _all(conn, "SELECT valid_to_ns, end_inferred FROM nodes") == [ended]
        _window(writer, changes=[ObjectClosed("pod", "uid-3", T + 30 * S, inferred=True)])
        assert _all(conn, pods) == [(T + 30 * S, 1)]
    with connect.writer(path) as conn:
        writer = _writer(conn, T + 90 * S)
        _window(writer, changes=[_pod("uid-3", T + 90 * S)])
        assert _all(conn, pods) == [(T + 30 * S, 1), (None, 0)]


def test_a_recording_carries_its_cluster(path: Path) -> None:
    """The name comes from the start, the uid when the cluster was asked; a node keeps both."""
    recordings = "SELECT cluster, cluster_uid, node, boot_id FROM recordings"
    with connect.writer(path) as conn:
        _window(_writer(conn), _row(TO_DB))
        assert _all(conn, "SELECT cluster, node FROM flows") == [(None, "n1")]
    with connect.writer(path) as conn:
        writer = _writer(conn, T + 60 * S, cluster="shop")
        assert writer.previous == Previous(T, T + S, None, "boot-1")
        _window(writer, _row(TO_DB, T + 60 * S))
        _window(writer, changes=[ClusterFound("uid-kube-system")])
        assert _all(conn, recordings) == [
            ("shop", None, "n1", "boot-1"),
            ("shop", "uid-kube-system", "n1", "boot-1"),
        ]
        # Flows of the time before its name was known are of the same node.
        assert _all(conn, "SELECT DISTINCT cluster, node FROM flows") == [("shop", "n1")]
    with connect.writer(path) as conn:
        _window(_writer(conn, T + 90 * S), _row(TO_DB, T + 90 * S))
    with connect.writer(path) as conn:
        _window(_writer(conn, T + 99 * S, cluster="other"), _row(TO_DB, T + 99 * S))
        assert [row[0] for row in _all(conn, recordings)] == ["shop", "shop", "shop", "other"]
        assert _all(conn, "SELECT cluster, COUNT(*) FROM gaps GROUP BY 1") == [
            ("other", 1),
            ("shop", 2),
        ]


def test_flows_carry_the_zone_of_the_nodes_they_were_on(conn: sqlite3.Connection) -> None:
    zones = "SELECT src_node, src_node_zone, dst_node_zone FROM flows"
    writer = _writer(conn)
    _window(writer, _row(TO_DB))
    assert _all(conn, zones) == [("n1", None, None)]
    _window(writer, changes=[_node("eu-1a")])
    assert _all(conn, zones) == [("n1", "eu-1a", None)]
    assert _all(conn, "SELECT zone FROM nodes") == [("eu-1a",)]
    assert _all(conn, "SELECT node, node_zone FROM endpoints WHERE kind = 'pod'") == [
        ("n1", "eu-1a"),
        (None, None),
    ]
    _window(writer, changes=[_node("eu-1b", T + S)])
    assert _all(conn, zones) == [("n1", "eu-1b", None)]


@pytest.mark.parametrize("let_go", [False, True], ids=["remembered", "let go"])
def test_a_service_found_late_is_that_of_all_edges_to_it(
    conn: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch, let_go: bool
) -> None:
    before = TO_DB._replace(service=None, service_via=None)
    other_port = before._replace(flow=before.flow._replace(dst_port=8080))
    elsewhere = before._replace(
        flow=before.flow._replace(src=packed(DB.address)),
        service="shop/mine",
        service_via="address",
        src=DB,
    )
    writer = _writer(conn)
    _window(writer, *(_row(edge) for edge in (before, other_port, elsewhere)))
    if let_go:
        for ids in (identities, endpointids):
            monkeypatch.setattr(ids, "CACHED", 1)
        _window(writer)
        _window(writer, changes=[Closed(SERVICE, T + S)])
    _window(writer, changes=[ServiceFound(SERVICE, "tcp", 5432, "shop/db", "address")])
    assert _all(conn, "SELECT src, dst_port, service, service_via FROM flows ORDER BY 1, 2") == [
        ("10.244.0.3", 5432, "shop/db", "address"),
        ("10.244.0.3", 8080, None, None),
        ("10.244.0.4", 5432, "shop/mine", "address"),
    ]


def test_a_service_is_that_of_edges_of_an_earlier_recording_too(path: Path) -> None:
    unnamed = replace(NOBODY, address=SERVICE.address)
    before = TO_DB._replace(dialled=unnamed, service=None, service_via=None)
    with connect.writer(path) as conn:
        _window(_writer(conn), _row(before))
    with connect.writer(path) as conn:
        given = (each.endpoint for each in _writer(conn, T + 60 * S).unknown_endpoints(T))
        [earlier] = [each for each in given if each.kind == "unknown"]
        found = ServiceFound(earlier, "tcp", 5432, "shop/db", "address")
        _window(_writer(conn, T + 60 * S), changes=[Completed(earlier, SERVICE), found])
        assert _all(conn, "SELECT service, service_via FROM flows") == [("shop/db", "address")]


def test_the_time_between_two_recordings_is_a_gap(path: Path) -> None:
    with connect.writer(path) as conn:
        lost = Gap("events lost", T, T + S, 1204)
        _window(_writer(conn), _row(TO_DB), gaps=[lost], counters=EventCounts(9, 1204, 1))
    with connect.writer(path) as conn:
        writer = _writer(conn, T + 60 * S)
        assert writer.previous == Previous(T, T + S, None, "boot-1")
        _window(writer, _row(TO_DB, T + 61 * S))
        writer.finish(T + 62 * S)
    with connect.writer(path) as conn:
        writer = _writer(conn, T + 90 * S)
        assert writer.previous == Previous(T + 60 * S, T + 62 * S, T + 62 * S, "boot-1")
        _window(writer, _row(TO_DB, T + 91 * S))
        assert _all(
            conn, "SELECT kind, started_ns, ended_ns, lost, recording_id, node FROM gaps"
        ) == [
            ("events lost", T, T + S, 1204, 1, "n1"),
            ("recorder down", T + S, T + 60 * S, None, 2, "n1"),
            ("recorder down", T + 62 * S, T + 90 * S, None, 3, "n1"),
        ]
        assert _all(conn, "SELECT id, ended_ns, events, lost, malformed FROM recordings") == [
            (1, None, 9, 1204, 1),
            (2, T + 62 * S, 0, 0, 0),
            (3, None, 0, 0, 0),
        ]


def test_nothing_is_written_before_the_first_window(conn: sqlite3.Connection) -> None:
    before = list(conn.iterdump())
    _writer(conn)
    assert list(conn.iterdump()) == before


LIVE = LiveConnections(bytes(8), T - S, 1, True, bytes(8), bytes(32))


def _recorded(path: Path, *, clean: bool = True) -> None:
    with connect.writer(path) as conn:
        writer = _writer(conn)
        _window(writer, _row(TO_DNS))
        if clean:
            writer.finish(T + 2 * S, [LIVE._replace(edge_id=writer.edge_id(TO_DB))])


def test_live_connections_go_on_after_a_clean_stop(path: Path) -> None:
    _recorded(path)
    with connect.writer(path) as conn:
        writer = _writer(conn, T + 9 * S)
        [live] = writer.load_connections()
        assert live._replace(edge_id=1) == LIVE
        edge = writer.read_edges([live.edge_id])[live.edge_id]
        assert (edge.src.labels, edge.dialled.name, edge.backend.name) == (WEB.labels, "db", "db-0")
        assert (edge.flow, edge.service, edge.service_via) == (TO_DB.flow, "shop/db", "address")
        assert writer.edge_id(edge) == live.edge_id
        _window(writer, _row(edge, T + 9 * S))
        assert _all(conn, "SELECT COUNT(*) FROM edge") == [(2,)]
    with connect.writer(path) as conn:
        assert list(_writer(conn, T + 20 * S).load_connections()) == []


def test_a_capture_between_two_live_recordings_takes_nothing_from_the_second(path: Path) -> None:
    """It has no boot, and says nothing of what lives in the kernel's table."""
    _recorded(path)
    with connect.writer(path) as conn:
        capture = _writer(conn, T + 4 * S, boot_id=None)
        _window(capture, _row(TO_DNS))
        for _ in capture.maintain(T + 4 * S, {}):
            pass
        capture.finish(T + 5 * S)
    with connect.writer(path) as conn:
        writer = _writer(conn, T + 9 * S)
        assert writer.previous is not None
        assert (writer.previous.boot_id, writer.previous.ended_ns) == ("boot-1", T + 2 * S)
        assert len(list(writer.load_connections())) == 1


def test_what_is_kept_says_whether_it_has_ports(path: Path) -> None:
    ping = TO_DNS._replace(flow=TO_DNS.flow._replace(proto="icmp", dst_port=None))
    with connect.writer(path) as conn:
        writer = _writer(conn)
        writer.finish(T + 2 * S, [LIVE._replace(edge_id=writer.edge_id(ping), has_ports=False)])
    with connect.writer(path) as conn:
        [live] = _writer(conn, T + 9 * S).load_connections()
        sides = (None, "external", "external")
        assert live._replace(edge_id=1) == LIVE._replace(has_ports=False, strangers=sides)


def test_an_id_is_the_same_before_and_after_its_row_is_written(conn: sqlite3.Connection) -> None:
    writer = _writer(conn)
    ids = [writer.edge_id(each) for each in (TO_DB, TO_DNS, TO_DB)]
    assert (ids[0] == ids[2] != ids[1], _all(conn, "SELECT id FROM edge")) == (True, [])
    _window(writer, _row(TO_DB), _row(TO_DNS))
    assert [writer.edge_id(each) for each in (TO_DB, TO_DNS, TO_DB)] == ids
    assert set(writer.read_edges(ids)) == set(ids)


@pytest.mark.parametrize("kept", [True, False])
def test_an_edge_is_kept_while_a_connection_holds_it(conn: sqlite3.Connection, kept: bool) -> None:
    held: set[int] = set()
    writer = _writer(conn, edges_held=lambda: held)
    _window(writer, _row(TO_DB), _row(TO_DNS, T + 3 * DAY))
    if kept:
        held.add(writer.edge_id(TO_DB))
    for _ in writer.maintain(T + 4 * DAY, dict.fromkeys(("flow", "1m", "1h", "1d"), 0)):
        pass
    names = _all(conn, "SELECT name FROM edge JOIN endpoint ON endpoint.id = backend_id")
    assert (("db-0",) in names) is kept


def test_kept_connections_outlive_a_start_that_wrote_nothing(path: Path) -> None:
    _recorded(path)
    for _ in range(2):
        with connect.writer(path) as conn:
            assert len(list(_writer(conn, T + 9 * S).load_connections())) == 1


@pytest.mark.parametrize(
    ("clean", "boot_id"),
    [(True, "boot-2"), (True, None), (False, "boot-1")],
    ids=["after a boot", "of no boot", "after a crash"],
)
def test_connections_are_not_taken_up(path: Path, clean: bool, boot_id: str | None) -> None:
    _recorded(path, clean=clean)
    with connect.writer(path) as conn:
        assert list(_writer(conn, T + 9 * S, boot_id).load_connections()) == []


def test_a_full_disk_costs_the_window_and_nothing_else(conn: sqlite3.Connection) -> None:
    writer = _writer(conn)
    _window(writer, _row(TO_DB))
    before = list(conn.iterdump())
    (pages,) = conn.execute("PRAGMA page_count").fetchone()
    conn.execute(f"PRAGMA max_page_count = {pages}")
    peers = [
        Endpoint(address=f"8.8.{i >> 8}.{i & 255}", kind="external", valid_from_ns=T)
        for i in range(2000)
    ]
    rows = [
        _row(TO_DNS._replace(dialled=peer, backend=peer), T + i) for i, peer in enumerate(peers)
    ]
    changes = [_pod("uid-1"), Completed(NOBODY, DB), Closed(WEB, T + S)]
    for _ in range(2):
        with pytest.raises(DiskFullError, match="no room left"):
            _window(writer, *rows, changes=changes)
        assert list(conn.iterdump()) == before
    conn.execute(f"PRAGMA max_page_count = {pages + 1000}")
    _window(writer, *rows, changes=changes)
    assert _all(conn, "SELECT COUNT(*), SUM(dst_kind = 'external') FROM flows") == [(2001, 2000)]


def test_a_locked_file_costs_nothing_and_the_window_may_be_given_again(
    path: Path, conn: sqlite3.Connection
) -> None:
    writer = _writer(conn)
    _window(writer, _row(TO_DB))
    conn.execute("PRAGMA busy_timeout = 10")
    before = list(conn.iterdump())
    changes = [_pod("uid-1"), Completed(NOBODY, DB), Closed(WEB, T + S)]
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    for _ in range(2):
        with pytest.raises(FileBusyError, match="is locked by another program"):
            _window(writer, _row(TO_DNS, T + S), _row(TO_NOBODY, T + S), changes=changes)
        with pytest.raises(FileBusyError):
            list(writer.maintain(T + DAY, {}))
        with pytest.raises(FileBusyError):
            writer.finish(T + 2 * S, [LIVE])
    assert list(conn.iterdump()) == before
    other.execute("ROLLBACK")
    other.close()
    _window(writer, _row(TO_DNS, T + S), _row(TO_NOBODY, T + S), changes=changes)
    list(writer.maintain(T + DAY, {}))
    writer.finish(T + 2 * S, [LIVE])
    for view in ("flows", "flows_1m", "flows_1h", "flows_1d"):
        assert _all(conn, f"SELECT SUM(connections) FROM {view}") == [(3,)]
    assert _all(conn, "SELECT dst_name FROM flows ORDER BY 1") == [(None,), ("db-0",), ("db-0",)]
    assert _all(conn, "SELECT COUNT(*) FROM connection") == [(1,)]


def test_what_was_kept_of_live_connections_is_given_back(path: Path) -> None:
    """200 rows of 40 kB, of which the next recording keeps one."""
    large = LIVE._replace(keys=bytes(8_000), counters=bytes(32_000))
    with connect.writer(path) as conn:
        writer = _writer(conn)
        _window(writer, _row(TO_DB))
        writer.finish(T + 2 * S, [large] * 200)
    kept_bytes = path.stat().st_size
    with connect.writer(path) as conn:
        writer = _writer(conn, T + 9 * S)
        assert len(list(writer.load_connections())) == 200
        for _ in writer.maintain(T + 9 * S, {}):
            pass
        assert len(list(writer.load_connections())) == 200
        _window(writer, _row(TO_DB, T + 9 * S))
        steps = list(writer.maintain(T + 9 * S, {}))
        assert len(steps) > 10
        assert _all(conn, "SELECT COUNT(*) FROM connection") == [(0,)]
        writer.finish(T + 12 * S, [LIVE])
        assert _all(conn, "SELECT COUNT(*) FROM connection") == [(1,)]
    assert path.stat().st_size < kept_bytes - 7_500_000


@pytest.mark.parametrize("replaced", [False, True])
def test_a_file_that_was_taken_away_ends_the_recording(path: Path, replaced: bool) -> None:
    with connect.writer(path) as conn:
        writer = _writer(conn)
        _window(writer, _row(TO_DB))
        path.unlink()
        if replaced:
            path.touch()
        with pytest.raises(StoreError, match="was deleted or replaced while it was written"):
            _window(writer, _row(TO_DB))


def test_a_file_at_rest_adds_up_in_every_view_and_goes_on(path: Path) -> None:
    views = ("flows", "flows_1m", "flows_1h", "flows_1d")
    # Connections, and the rows they are in; the second recording starts in the first one's minute.
    for first_s, last_s, connections, rows in (
        (0, 3, 4, (4, 1, 1, 1)),
        (20, 100, 85, (85, 3, 1, 1)),
    ):
        with connect.writer(path) as conn:
            writer = _writer(conn, started_ns=T + first_s * S)
            _window(writer, *(_row(TO_DB, T + at * S) for at in range(first_s, last_s + 1)))
            for _ in writer.maintain(T + last_s * S, {}):
                pass
            for _ in writer.fold_open():
                pass
            writer.finish(T + last_s * S)
            found = [
                _all(conn, f"SELECT SUM(connections), COUNT(*) FROM {view}")[0] for view in views
            ]
        assert found == [(connections, n) for n in rows]
