"""Metrics: what Prometheus reads of a recording, who answers it, and what deploy/ makes of it."""

import json
import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import promql_parser
import pytest
import yaml
from click.testing import Result
from kubelets import until
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as text_format
from test_pipeline import Source, T, ask, listed
from wire import SECOND, Connection, batch

from ctk.errors import CtkError, UsageError
from ctk.kube.objects import Change, Lost, Resource
from ctk.model import Datagrams, Gap
from ctk.model.tableuse import TableCounters, TableUse
from ctk.record import loop
from ctk.record.exporter import Address, Exporter, MetricsAnswer, listen, parse_address
from ctk.record.exporterprocess import ExporterProcess
from ctk.record.metrics import Collector, Metrics, Numbers, renderer
from ctk.record.plan import Listening, Plan
from ctk.store import connect

Invoke = Callable[..., Result]

METRICS = Path(__file__).parent.parent / "deploy" / "metrics"
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def samples(families: Any) -> Samples:
    return {
        (each.name, tuple(sorted(each.labels.items()))): each.value
        for family in families
        for each in family.samples
    }


def recorded(db: Path) -> Collector:
    """Record a little, lose a little, and forbid a resource."""
    told: list[Numbers] = []
    one, other = Connection(port=1, ct_id=1), Connection(port=2, ct_id=2)

    def steps() -> Iterator[Datagrams]:
        yield batch(one.new(T), other.new(T), one.update(T), at_ns=T)
        source.lost.append(Gap("events lost", T, T + 1, 7))
        yield batch(one.destroy(T + 12 * SECOND), at_ns=T + 12 * SECOND)
        yield batch(at_ns=T + 40 * SECOND)
        seen.update(told[-1].watches)

    seen: dict[Resource, bool] = {}
    changes: SimpleQueue[Change] = SimpleQueue()
    for change in listed(T):
        changes.put(change)
    changes.put(Lost("nodes", T, "403", denied=True))
    source = Source(steps())
    plan = Plan(node="n1", source="test", live=False, cluster=True)
    with connect.writer(db) as conn:
        loop.run(conn, source, plan, changes, Listening(metrics=Metrics(told.append)))
    collector = Collector(db)
    collector.numbers = told[-1]._replace(watches=seen)  # as it was before the end
    return collector


def test_counters_are_the_files_and_both_formats_are_what_parsers_read(tmp_path: Path) -> None:
    db = tmp_path / "node.db"
    render = renderer(recorded(db))
    content_type, body = render("text/plain")
    assert content_type.startswith("text/plain; version=")
    found = samples(text_format(body.decode()))
    sums = "SELECT sum(new_events), sum(update_events), sum(destroy_events) FROM flows"
    by_type = [found["ctk_events_recorded_total", (("type", each),)] for each in TYPES]
    assert [tuple(by_type)] == ask(db, sums) == [(2, 1, 1)]
    assert ask(db, "SELECT events, lost FROM recordings") == [
        (found["ctk_events_received_total", ()], found["ctk_events_lost_total", ()])
    ]
    kinds = {labels[0][1]: n for (name, labels), n in found.items() if name == "ctk_gaps_total"}
    counted = dict(ask(db, "SELECT kind, count(*) FROM gaps GROUP BY 1"))
    assert {kind: n for kind, n in kinds.items() if n} | counted == counted
    assert kinds["events lost"] == 1
    up = {labels[0][1]: n for (name, labels), n in found.items() if name == "ctk_watch_up"}
    assert up == {"pods": 1, "services": 1, "endpointslices": 1, "nodes": 0}
    assert (
        found["ctk_commit_seconds_count", ()]
        == found["ctk_commit_seconds_bucket", (("le", "+Inf"),)]
    )
    assert found["ctk_commit_seconds_count", ()] >= 2
    assert found["ctk_file_bytes", ()] == db.stat().st_size
    for version in ("x", "1.0.0=2", ""):  # none that anybody has
        assert render(f"application/openmetrics-text;version={version}")[1]
    content_type, body = render("application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text; version=1.0.0")
    assert body.endswith(b"# EOF\n")
    age = ("ctk_window_age_seconds", ())
    again = samples(openmetrics(body.decode()))
    assert {**found, age: 0} == {**again, age: 0}


TYPES = ("new", "update", "destroy")


def test_the_kernels_table_is_there_as_far_as_it_is_known(tmp_path: Path) -> None:
    metrics = recorded(tmp_path / "node.db")
    assert metrics.numbers is not None
    assert not any(name.startswith("ctk_conntrack") for name in names(metrics))
    counters = TableCounters(*(0,) * 10)._replace(dropped=3, early_dropped=2, insert_failed=1)
    metrics.numbers = metrics.numbers._replace(use=TableUse(T, 90, 95, 100, counters))
    found = samples(text_format(renderer(metrics)("")[1].decode()))
    table = {key[0]: value for key, value in found.items() if key[0].startswith("ctk_conntrack")}
    assert table == {
        "ctk_conntrack_entries": 90,
        "ctk_conntrack_entries_limit": 100,
        "ctk_conntrack_insert_failed_total": 1,
        "ctk_conntrack_drop_total": 3,
        "ctk_conntrack_early_drop_total": 2,
    }


def names(metrics: Collector) -> set[str]:
    """The names of all samples that there are."""
    return {key[0] for key in samples(text_format(renderer(metrics)("")[1].decode()))}


# The server.


@pytest.fixture
def address() -> Address:
    with closing(socket.socket()) as sock:
        sock.bind(("127.0.0.1", 0))
        return Address("127.0.0.1", sock.getsockname()[1])


@contextmanager
def answering(address: Address, render: Callable[[str], MetricsAnswer]) -> Iterator[None]:
    """Run an exporter in a thread."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    exporter = Exporter(listen(address), theirs, lambda message: None, render)
    thread = threading.Thread(target=exporter.run)
    thread.start()
    try:
        yield
    finally:
        ours.close()
        thread.join(10)
        assert not thread.is_alive()


def asked(address: Address, request: bytes) -> tuple[str, bytes]:
    """The first line and the body of an answer."""
    with closing(socket.create_connection(address, timeout=10)) as sock:
        sock.sendall(request)
        answer = b"".join(iter(lambda: sock.recv(65536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    return head.decode().split("\r\n")[0], body


def test_it_answers_get_of_its_path_and_nothing_else(address: Address) -> None:
    accepts = []

    def render(accept: str) -> tuple[str, bytes]:
        accepts.append(accept)
        return "text/plain", b"x 1\n" * 300_000  # more than a socket's buffer takes

    with answering(address, render):
        whole = b"GET /metrics?a=b HTTP/1.1\r\nHost: x\r\nACCEPT: text/plain\r\n\r\n"
        assert asked(address, whole) == ("HTTP/1.1 200 OK", b"x 1\n" * 300_000)
        assert asked(address, b"GET / HTTP/1.0\r\n\r\n")[0] == "HTTP/1.1 404 Not Found"
        for method in (b"POST", b"HEAD", b"\xff\x00"):
            request = method + b" /metrics HTTP/1.1\r\n\r\n"
            assert asked(address, request)[0] == "HTTP/1.1 405 Method Not Allowed"
        with pytest.raises(CtkError) as error:
            listen(address)
        assert error.value.message == f"--metrics cannot listen on {address}: " + (
            "Address already in use"
        )
    assert accepts == ["text/plain"]
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(address, timeout=1)


@pytest.mark.parametrize("size", [9_000, 200_000])
def test_a_request_that_is_too_large_is_told_so(address: Address, size: int) -> None:
    with answering(address, lambda accept: ("text/plain", b"x 1\n")):
        request = b"GET /metrics HTTP/1.1\r\nX: " + b"x" * size + b"\r\n\r\n"
        assert asked(address, request) == (
            "HTTP/1.1 431 Request Header Fields Too Large",
            b"too large a request\n",
        )
        assert asked(address, b"GET /metrics HTTP/1.1\r\n\r\n")[1] == b"x 1\n"


def test_clients_that_say_nothing_keep_nobody_waiting(
    address: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ctk.record.exporter._MOST_S", 0.3)
    with answering(address, lambda accept: ("text/plain", b"x 1\n")):
        silent = [socket.create_connection(address, timeout=10) for _ in range(40)]
        try:
            assert asked(address, b"GET /metrics HTTP/1.1\r\n\r\n")[1] == b"x 1\n"
            for sock in silent:  # each is closed in its time
                with suppress(ConnectionResetError):
                    assert sock.recv(1) == b""
        finally:
            for sock in silent:
                sock.close()


@pytest.mark.parametrize("first", ["guest", "newcomer"])
def test_one_that_makes_room_in_the_round_in_which_it_asks_ends_nothing(
    address: Address, first: str
) -> None:
    """The house is full; its oldest and a newcomer are heard in one round."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    exporter = Exporter(listen(address), theirs, lambda _: None, lambda _: ("text/plain", b"x"))
    ask = b"GET /metrics HTTP/1.1\r\n\r\n"
    guests = []
    for _ in range(16):
        guests.append(socket.create_connection(address, timeout=10))
        assert exporter._round()
    if first == "guest":
        guests[0].sendall(ask)
    late = socket.create_connection(address, timeout=10)
    if first == "newcomer":
        guests[0].sendall(ask)
    with late:
        late.sendall(ask)
        for _ in range(2):
            assert exporter._round()
        assert late.recv(100).startswith(b"HTTP/1.1 200 OK")
        with suppress(ConnectionResetError):
            heard = b"HTTP/1.1 200" if first == "guest" else b""
            assert guests[0].recv(12) == heard
    for each in (*guests, ours):
        each.close()
    exporter.run()


def test_the_process_answers_what_it_was_told_and_ends_with_the_recorder(
    address: Address, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    numbers = recorded(tmp_path / "node.db").numbers
    caplog.clear()
    assert numbers is not None
    request = b"GET /metrics HTTP/1.1\r\n\r\n"
    with ExporterProcess(address, tmp_path / "node.db") as process:
        for received in range(2_000):  # more than wait in a socket
            process.tell(numbers._replace(received=received))
        until(lambda: b"received_total 0.0" not in asked(address, request)[1], "what was told")
        os.kill(process._pid, signal.SIGTERM)  # a signal to the group is the recorder's
        process.tell(numbers._replace(received=4_000))
        until(lambda: b"received_total 4000.0" in asked(address, request)[1], "what was told")
        found = {key[0] for key in samples(text_format(asked(address, request)[1].decode()))}
        assert {"ctk_events_recorded_total", "ctk_file_bytes"} <= found
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(address, timeout=1)
    with ExporterProcess(address, tmp_path / "node.db") as process:
        os.kill(process._pid, signal.SIGKILL)
        until(lambda: process.tell(numbers) or caplog.messages, "the warning")
        process.tell(numbers)
    assert caplog.messages == ["metrics are answered no more: their process has ended"]


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("9470", ("127.0.0.1", 9470)),
        ("0.0.0.0:9470", ("0.0.0.0", 9470)),
        ("[::]:1", ("::", 1)),
        ("[fd00::1]:65535", ("fd00::1", 65535)),
        ("fd00::1:9470", ("fd00::1", 9470)),  # as $(HOST_IP):9470 makes it in a pod
    ],
)
def test_an_address_is_read(text: str, address: tuple[str, int]) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize(
    "text", ["", "x", "0", "65536", "host:1", "::x:9470", "[::1]", ":9470", "1.2.3:1", "-1", "٣"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is no address to listen on"):
        parse_address(text)


def test_without_its_library_and_on_a_port_that_is_taken_it_is_one_line(
    invoke: Invoke, address: Address, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    capture = Path(__file__).parents[1] / "fixtures" / "captures" / "node.ctkcap.gz"
    db = tmp_path / "node.db"
    words = ("record", db, "--from-capture", capture, "--no-kube", "--metrics", address.port)
    with closing(socket.create_server(address)):
        result = invoke(*words)
        assert (result.exit_code, result.stderr.splitlines()) == (
            1,
            [
                f"Error: --metrics cannot listen on {address}: Address already in use",
                "Try: give it another port",
            ],
        )
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    result = invoke(*words)
    assert (result.exit_code, result.stderr.splitlines()) == (
        2,
        [
            "Error: --metrics needs prometheus-client, which is not installed here",
            "Try: pip install 'ctk[metrics]'",
        ],
    )
    assert not db.exists()


# What deploy/ makes of it.


def expressions() -> list[str]:
    """Every expression of the dashboard and the alerts, as Prometheus gets it."""
    dashboard = json.loads((METRICS / "dashboard.json").read_text())
    rules = yaml.safe_load((METRICS / "alerts.yaml").read_text())
    found = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    found += [rule["expr"] for group in rules["spec"]["groups"] for rule in group["rules"]]
    return [each.replace("$__rate_interval", "5m").replace("$node", ".+") for each in found]


def test_dashboard_and_alerts_parse_and_name_metrics_that_there_are(tmp_path: Path) -> None:
    metrics = recorded(tmp_path / "node.db")
    assert metrics.numbers is not None
    use = TableUse(T, 90, 95, 100, TableCounters(*(0,) * 10))
    metrics.numbers = metrics.numbers._replace(use=use)
    known = names(metrics)
    named: set[str] = set()
    for each in expressions():
        promql_parser.parse(each)
        named.update(re.findall(r"\bctk_\w+", each))
    assert named <= known
    assert {"ctk_conntrack_entries", "ctk_events_lost_total", "ctk_commit_seconds_bucket"} <= named
    dashboard = json.loads((METRICS / "dashboard.json").read_text())
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    with pytest.raises(ValueError, match="brackets"):
        promql_parser.parse("rate(ctk_events_lost_total[5m)")


def test_every_alert_says_what_and_what_to_do() -> None:
    rules = yaml.safe_load((METRICS / "alerts.yaml").read_text())
    for group in rules["spec"]["groups"]:
        for rule in group["rules"]:
            assert rule["labels"]["severity"] in ("warning", "critical")
            assert set(rule["annotations"]) == {"summary", "description"}
    monitor = yaml.safe_load((METRICS / "podmonitor.yaml").read_text())
    assert monitor["kind"] == "PodMonitor"
    assert monitor["spec"]["podMetricsEndpoints"][0]["path"] == "/metrics"


def test_before_anything_is_published_there_is_the_version_alone(tmp_path: Path) -> None:
    assert names(Collector(tmp_path / "none.db")) == {"ctk_build_info"}
