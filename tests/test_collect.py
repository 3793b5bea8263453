"""
Recording on the nodes of a cluster from outside: files arrive whole, and nothing is left behind.

The nodes' kubelets really run `ctk record` (of a capture) and `ctk snapshot`.
"""

import json
import re
import signal
import socket
import socketserver
import stat
import threading
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from apiserver import ApiServer, Fault
from kubelets import Cluster, Kubelet, until

import ctk
from ctk.errors import CtkError
from ctk.fleet.collect import Collected, CollectOptions, Ending, collect
from ctk.fleet.recorders import NodeRecorder
from ctk.fleet.waits import Waits
from ctk.timespan import SECOND

ROOT = Path(__file__).parent.parent
CAPTURE = ("--from-capture", str(ROOT / "fixtures/captures/node.ctkcap.gz"), "--no-kube")
WAITS = Waits(
    retry_s=0.02,
    most_retry_s=0.1,
    first_s=0.2,
    away_s=0.5,
    cut_s=0.1,
    look_s=0.05,
    tick_s=0.02,
    gone_s=10,
    gone_look_s=0.02,
)
# A recorder in what it says, where the pod is what matters: it records, or it has ended.
RECORDS = (
    "sh",
    "-c",
    'echo "2026-11-24T08:00:00.000Z INFO 1 events/s, 2 flows, 3 live connections, 0 gaps, 4.0 MiB"'
    "; exec sleep 60",
)
ENDED = ("sh", "-c", 'echo "2026-11-24T08:00:00.000Z INFO recording has ended"; exec sleep 60')


class Heard:
    """What a person is told; `on` is called each time something is shown."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.doing: list[str] = []
        self.on: Callable[[str, Sequence[NodeRecorder]], None] = lambda doing, recorders: None
        self.on_say: Callable[[str], None] = lambda text: None

    def show(self, doing: str, recorders: Sequence[NodeRecorder]) -> None:
        self.doing.append(doing)
        self.on(doing, recorders)

    def say(self, text: str) -> None:
        self.said.append(text)
        self.on_say(text)


class Collecting:
    """A cluster of two nodes, and what is asked of it."""

    def __init__(self, folder: Path, shop: Path) -> None:
        self.shop = shop
        self.cluster = Cluster(folder / "nodes")
        self.folder = folder
        self.out = folder / "out"
        self.heard = Heard()
        self.options = CollectOptions(
            kubeconfig=folder / "kubeconfig",
            context=None,
            flags=("--kubeconfig", "k"),
            nodes=(),
            selector=None,
            image="ctk:test",
            pull_policy="IfNotPresent",
            for_ns=60 * SECOND,
            start_timeout_ns=10 * SECOND,
            max_bytes=64 << 20,
            out=self.out,
        )

    def run(self, stop: Ending | None = None, waits: Waits = WAITS, **options: object) -> Collected:
        self.cluster.kubeconfig(self.folder / "kubeconfig")
        asked = replace(self.options, **options)  # type: ignore[arg-type]
        return collect(asked, stop or Ending(None), self.heard, waits)

    def add(self, name: str, runs: Sequence[str], **options: Any) -> Kubelet:
        """Add a node that has recorded already."""
        kubelet = self.cluster.add_node(name, **options)
        kubelet.runs, kubelet.holds = runs, self.shop
        return kubelet

    def files(self) -> list[str]:
        return sorted(each.name for each in self.out.iterdir())


@pytest.fixture
def collecting(tmp_path: Path, shop: Path) -> Iterator[Collecting]:
    made = Collecting(tmp_path, shop)
    with made.cluster:
        yield made
    assert made.cluster.made() == []


def states(outcome: Collected) -> list[tuple[str, str, str]]:
    return [(each.node, each.state, each.why) for each in outcome.recorders]


def test_files_arrive_whole_and_nothing_is_left(collecting: Collecting) -> None:
    cluster = collecting.cluster
    for name in ("n1", "n2"):
        cluster.add_node(name, *CAPTURE)
    outcome = collecting.run()
    assert states(outcome) == [("n1", "kept", ""), ("n2", "kept", "")]
    assert (outcome.left, collecting.files()) == (None, ["n1.db", "n2.db"])
    assert cluster.spoken == ["v5.channel.k8s.io"] * 4
    for name in ("n1", "n2"):
        path = collecting.out / f"{name}.db"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        with ctk.open(path) as recording, ctk.open(cluster.folder / name / f"{name}.db") as there:
            flows = "select * from flows order by started_ns, src, dst"
            assert list(recording.sql(flows)) == list(there.sql(flows))
            assert {flow.node for flow in recording.flows()} == {name}


def test_an_older_server_speaks_v4(collecting: Collecting) -> None:
    collecting.cluster.protocols = ["v4.channel.k8s.io"]
    collecting.add("n1", ENDED)
    assert states(collecting.run()) == [("n1", "kept", "")]
    assert collecting.cluster.spoken == ["v4.channel.k8s.io"] * 2


def test_exec_goes_the_way_of_every_other_request(tmp_path: Path, shop: Path) -> None:
    """By TLS, with a client's certificate, a token and a proxy."""
    collecting = Collecting(tmp_path, shop)
    collecting.cluster = Cluster(tmp_path / "nodes", tls=True, mutual=True, token="secret")
    collecting.add("n1", ENDED)
    with collecting.cluster as cluster, Tunnel() as proxy:
        path = cluster.kubeconfig(tmp_path / "kubeconfig")
        config = json.loads(path.read_text())
        config["clusters"][0]["cluster"]["proxy-url"] = proxy.url
        config["users"][0]["user"]["token"] = "secret"
        path.write_text(json.dumps(config))
        outcome = collect(collecting.options, Ending(None), collecting.heard, WAITS)
        assert (states(outcome), cluster.made()) == ([("n1", "kept", "")], [])
        assert proxy.asked == {f"127.0.0.1:{cluster.port}"}


class Tunnel(socketserver.ThreadingTCPServer):
    """A proxy that knows CONNECT only."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Tunnelled)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.asked: set[str] = set()
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


class Tunnelled(socketserver.StreamRequestHandler):
    rbufsize = 0
    server: Tunnel

    def handle(self) -> None:
        method, target, _ = self.rfile.readline().decode().split()
        assert method == "CONNECT"
        self.server.asked.add(target)
        while self.rfile.readline().strip():
            pass
        host, _, port = target.partition(":")
        with socket.create_connection((host, int(port))) as there:
            self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
            back = threading.Thread(target=self.copy, args=(there, self.connection), daemon=True)
            back.start()
            self.copy(self.connection, there)
            back.join(10)

    def copy(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)


def test_ctrl_c_in_the_middle_keeps_what_there_is(collecting: Collecting) -> None:
    collecting.add("n1", RECORDS)
    collecting.add("n2", ()).waits = ("ContainerCreating", "")
    stop = Ending(None)

    def one_records(doing: str, recorders: Sequence[NodeRecorder]) -> None:
        if recorders[0].state == "recording":
            stop.ask()

    collecting.heard.on = one_records
    outcome = collecting.run(stop)
    assert states(outcome) == [
        ("n1", "kept", ""),
        ("n2", "failed", "it was ended before its pod had started"),
    ]
    assert collecting.files() == ["n1.db"]


def test_ctrl_c_before_anything_was_made_makes_nothing(collecting: Collecting) -> None:
    collecting.add("n1", RECORDS)
    stop = Ending(None)
    stop.ask()
    assert states(collecting.run(stop)) == [
        ("n1", "failed", "it was ended before its pod had started")
    ]
    assert (collecting.cluster.went, collecting.files()) == ([], [])


def failure(collecting: Collecting, **options: object) -> tuple[str, str | None]:
    with pytest.raises(CtkError) as caught:
        collecting.run(**options)  # type: ignore[arg-type]
    return caught.value.message, caught.value.hint


def test_an_image_that_is_missing_is_said_in_the_kubelets_words(collecting: Collecting) -> None:
    kubelet = collecting.cluster.add_node("n1")
    kubelet.waits = ("ImagePullBackOff", 'Back-off pulling image "ctk:test": not found')
    assert failure(collecting, start_timeout_ns=SECOND // 5) == (
        "no node records: n1: its pod did not start within 0.2s: ImagePullBackOff:"
        ' Back-off pulling image "ctk:test": not found',
        None,
    )
    kubelet.waits = ("ContainerCreating", "")
    collecting.cluster.warnings["n1"] = [
        {"reason": "FailedMount", "message": "no such volume", "lastTimestamp": f"2026-01-0{day}"}
        for day in (1, 2)
    ]
    assert failure(collecting, start_timeout_ns=SECOND // 5) == (
        "no node records: n1: its pod did not start within 0.2s: FailedMount: no such volume",
        None,
    )
    kubelet.waits = ("ErrImageNeverPull", "not present")
    assert failure(collecting) == ("no node records: n1: ErrImageNeverPull: not present", None)
    assert collecting.files() == []


@pytest.mark.parametrize(
    ("right", "message", "hint"),
    [
        (
            "create namespaces",
            'a namespace cannot be made: namespaces is forbidden: User "test" cannot create'
            ' resource "namespaces" at the cluster scope',
            "kubectl auth can-i create namespaces --all-namespaces",
        ),
        (
            "create clusterrolebindings",
            "a clusterrolebinding cannot be made: clusterrolebindings is forbidden: User"
            ' "test" cannot create resource "clusterrolebindings" at the cluster scope',
            "kubectl auth can-i create clusterrolebindings --all-namespaces",
        ),
        (
            "create pods",
            'no node records: n1: its pod is refused: pods is forbidden: User "test" cannot'
            ' create resource "pods" in the namespace "NAMESPACE"',
            None,
        ),
    ],
)
def test_the_right_that_is_missing_is_named(
    collecting: Collecting, right: str, message: str, hint: str | None
) -> None:
    collecting.cluster.add_node("n1")
    collecting.cluster.denied = {right}
    said, tried = failure(collecting)
    assert (re.sub("ctk-collect-[a-z0-9]{8}", "NAMESPACE", said), tried) == (message, hint)


def test_pods_that_may_not_be_listed_are_no_server_that_is_away(collecting: Collecting) -> None:
    collecting.add("n1", RECORDS)
    collecting.cluster.denied = {"list pods"}
    said, tried = failure(collecting)
    assert re.sub("ctk-collect-[a-z0-9]{8}", "NAMESPACE", said) == (
        'pods cannot be listed: pods is forbidden: User "test" cannot list resource "pods" in the'
        ' namespace "NAMESPACE"'
    )
    assert tried == "kubectl auth can-i list pods --all-namespaces"


def test_all_recorders_end_before_the_first_is_fetched(collecting: Collecting) -> None:
    """Three files come at a time; who waits for that is to record no longer than the others."""
    nodes = [f"n{number}" for number in range(4)]
    for node in nodes:
        collecting.add(node, ENDED)
    collecting.run()
    executed = collecting.cluster.executed
    for node in nodes:
        db = f"/var/lib/ctk/{node}.db"
        assert executed.index((node, f"ctk snapshot {db} --finish")) < len(nodes)
        assert executed.index((node, f"ctk snapshot {db} - --finish --digest")) >= len(nodes)
    spec = collecting.cluster.kubelets["n0"].pod["spec"]
    assert spec["activeDeadlineSeconds"] == 60 + 10 + 3600 + 4 * 60


def test_a_recorder_that_could_not_be_told_to_end_is_told_as_it_is_fetched(
    collecting: Collecting,
) -> None:
    collecting.add("n1", ENDED)
    collecting.cluster.fail(Fault(status=500), "pods/exec to end")
    assert states(collecting.run()) == [("n1", "kept", "")]


def test_a_node_that_is_silent_at_the_end_keeps_the_others_files_not(
    collecting: Collecting,
) -> None:
    for node in ("n1", "n2"):
        collecting.add(node, ENDED)
    collecting.cluster.fail(Fault(hang=True), "pods/exec to end")
    outcome = collecting.run(waits=replace(WAITS, answer_s=0.5))
    assert states(outcome) == [("n1", "kept", ""), ("n2", "kept", "")]


def test_a_server_that_is_away_at_the_start_is_given_up_soon(collecting: Collecting) -> None:
    collecting.add("n1", ENDED)
    collecting.cluster.kubeconfig(collecting.folder / "kubeconfig")
    ApiServer.stop(collecting.cluster)
    assert failure(collecting) == (
        "the API server has not answered for 0 s: Connection refused",
        "kubectl --kubeconfig k cluster-info",
    )
    assert (collecting.heard.said, collecting.heard.doing) == ([], [])


def test_a_signal_while_a_server_is_waited_for_is_obeyed_at_once(collecting: Collecting) -> None:
    """Something is made already: it is deleted."""
    cluster = collecting.cluster
    collecting.add("n1", ENDED)
    for _ in range(9):
        cluster.fail(Fault(status=503), "create clusterroles")
    stop = Ending(None)
    collecting.heard.on_say = lambda text: signal.raise_signal(signal.SIGINT)
    with stop.on_signals(), pytest.raises(CtkError) as caught:
        collecting.run(stop, waits=replace(WAITS, away_s=60))
    assert collecting.heard.said == [
        "the API server is waited for, 60 s at most: as the test wants"
    ]
    assert (caught.value.message, caught.value.exit_code) == (
        "it was interrupted while it waited for the API server",
        130,
    )
    assert cluster.went != []


def test_a_signal_while_an_answer_does_not_come_is_obeyed_at_once(collecting: Collecting) -> None:
    """Nothing is made yet, and nothing is asked any more."""
    collecting.add("n1", ENDED)
    collecting.cluster.fail(Fault(hang=True), "nodes")
    stop = Ending(None)
    timer = threading.Timer(0.2, signal.raise_signal, (signal.SIGINT,))
    timer.start()
    with stop.on_signals(), pytest.raises(CtkError) as caught:
        collecting.run(stop, waits=replace(WAITS, first_s=60))
    timer.join()
    assert (caught.value.message, caught.value.exit_code) == (
        "ended before anything was made",
        130,
    )
    assert collecting.cluster.made() == []


def test_pod_security_is_quoted(collecting: Collecting) -> None:
    collecting.cluster.add_node("n1")
    refusal = 'violates PodSecurity "restricted:latest": host namespaces (hostNetwork=true)'
    collecting.cluster.refuses_pods = refusal
    message = f'no node records: n1: its pod is refused: pods "n1" is forbidden: {refusal}'
    assert failure(collecting) == (message, None)


def test_a_node_that_there_is_not_is_asked_wrongly_and_makes_nothing(
    collecting: Collecting,
) -> None:
    collecting.cluster.add_node("n1")
    assert failure(collecting, nodes=("n11",)) == ("there is no node n11", "--nodes n1")
    assert failure(collecting, selector="pool=web") == (
        "no node fits",
        "kubectl get nodes --show-labels",
    )
    collecting.out.mkdir()
    (collecting.out / "n1.db").write_text("mine")
    assert failure(collecting) == (
        f"{collecting.out}/n1.db is there already",
        "name another folder, or remove it",
    )
    assert [each.resource for each in collecting.cluster.requests] == ["nodes"] * 3


def test_one_node_that_fails_does_not_lose_the_others(collecting: Collecting) -> None:
    cluster = collecting.cluster
    collecting.add("good", ENDED)
    cluster.add_node("away", ready=False)
    cluster.add_node("old").runs = ("sh", "-c", "echo Error: no such option --linger; exit 2")
    evicted, deleted = cluster.add_node("full"), cluster.add_node("gone")
    evicted.runs = deleted.runs = RECORDS
    done: set[str] = set()

    def somebody(doing: str, recorders: Sequence[NodeRecorder]) -> None:
        states = {each.node: each.state for each in recorders}
        if states["full"] == "recording" and not done & {"full"}:
            done.add("full")
            evicted.evict("The node was low on resource: ephemeral-storage.")
        if states["gone"] == "recording" and not done & {"gone"}:
            done.add("gone")
            cluster.delete(deleted.pod)
            deleted.kill()

    collecting.heard.on = somebody
    outcome = collecting.run()
    assert states(outcome) == [
        ("away", "failed", "it is not ready: KubeletNotReady: container runtime is down"),
        ("full", "failed", "Evicted: The node was low on resource: ephemeral-storage."),
        ("gone", "failed", "its pod was deleted by somebody else"),
        ("good", "kept", ""),
        ("old", "failed", "its recorder ended with exit code 2: no such option --linger"),
    ]
    assert collecting.files() == ["good.db"]


def test_a_transfer_that_breaks_is_begun_anew(collecting: Collecting) -> None:
    cluster = collecting.cluster
    collecting.add("n1", ENDED)
    cluster.fail(Fault(half=True), "pods/exec")
    cluster.fail(Fault(spoiled=True), "pods/exec")
    assert states(collecting.run()) == [("n1", "kept", "")]
    assert len(cluster.spoken) == 4
    assert collecting.files() == ["n1.db"]


def test_what_never_comes_whole_is_given_up(collecting: Collecting) -> None:
    cluster = collecting.cluster
    collecting.add("n1", ENDED)
    for _ in range(3):
        cluster.fail(Fault(spoiled=True), "pods/exec")
    ((_, state, why),) = states(collecting.run())
    assert state == "failed"
    assert re.fullmatch(r"its file did not come whole: ([0-9]+) of \1 bytes came, or others", why)
    assert collecting.files() == []


def test_lost_answers_and_a_server_in_trouble_cost_time_only(collecting: Collecting) -> None:
    cluster = collecting.cluster
    collecting.add("n1", ENDED)
    for resource in ("namespaces", "clusterroles", "clusterrolebindings", "pods"):
        cluster.fail(Fault(half=True), f"create {resource}")
    for resource in ("namespaces", "clusterroles", "clusterrolebindings"):
        cluster.fail(Fault(half=True), f"delete {resource}")
        cluster.fail(Fault(status=503), f"delete {resource}")
    cluster.fail(Fault(status=500), "list pods")
    cluster.fail(Fault(status=500), "pods/log")
    assert states(collecting.run()) == [("n1", "kept", "")]


def test_a_server_that_goes_away_while_it_is_recorded_costs_nothing(
    collecting: Collecting,
) -> None:
    cluster = collecting.cluster
    collecting.add("n1", RECORDS)
    stop, seen = Ending(None), []

    def away(doing: str, recorders: Sequence[NodeRecorder]) -> None:
        if doing.startswith("recording") and not seen:
            seen.append("stopped")
            ApiServer.stop(cluster)
        elif "is away" in doing and len(seen) == 1:
            seen.append(doing)
            cluster.start()
            stop.ask()

    collecting.heard.on = away
    outcome = collecting.run(stop, waits=replace(WAITS, away_s=20))
    assert re.search(
        r"; the API server is away: (Connection refused|the connection was cut)", seen[1]
    )
    assert states(outcome) == [("n1", "kept", "")]


def test_a_server_that_stays_away_leaves_what_it_says(collecting: Collecting) -> None:
    cluster = collecting.cluster
    collecting.add("n1", RECORDS)
    stop = Ending(None)

    def away(doing: str, recorders: Sequence[NodeRecorder]) -> None:
        if doing.startswith("recording"):
            ApiServer.stop(cluster)
            stop.ask()

    collecting.heard.on = away
    outcome = collecting.run(stop)
    assert outcome.left is not None
    (name,) = [each for each in cluster.made() if each.startswith("namespaces/")]
    name = name.removeprefix("namespaces/")
    expected = (f"namespace/{name}", f"clusterrole/{name}", f"clusterrolebinding/{name}")
    assert outcome.left.names == expected
    assert collecting.options.deleting(outcome.left) == (
        f"kubectl --kubeconfig k delete {' '.join(expected)}"
    )
    assert outcome.left.why.startswith("the API server has not answered for 0 s: ")
    # What was left runs no longer than a pod's deadline, and goes with its namespace.
    assert cluster.kubelets["n1"].pod["spec"]["activeDeadlineSeconds"] == 60 + 10 + 3600 + 60
    cluster.start()
    delete(cluster, name)


def delete(cluster: Cluster, namespace: str) -> None:
    """Delete a namespace as kubectl does."""
    request = urllib.request.Request(
        f"{cluster.url}/api/v1/namespaces/{namespace}", method="DELETE"
    )
    with urllib.request.urlopen(request) as answer:
        assert answer.status == 200
    until(lambda: cluster.made() == [], "the end of all that was made")


def test_what_may_not_be_deleted_is_named(collecting: Collecting) -> None:
    cluster = collecting.cluster
    collecting.add("n1", ENDED)
    cluster.denied = {"delete clusterroles"}
    outcome = collecting.run()
    # It goes with its namespace where there is a garbage collector, but nobody waits for that.
    assert outcome.left is not None
    assert [each.partition("/")[0] for each in outcome.left.names] == ["clusterrole"]
    assert "clusterroles is forbidden" in outcome.left.why
    assert states(outcome) == [("n1", "kept", "")]


def test_a_pod_on_a_node_that_died_does_not_keep_the_namespace(collecting: Collecting) -> None:
    collecting.add("n1", ENDED).dead = True
    outcome = collecting.run(waits=replace(WAITS, gone_s=1.5))
    assert (states(outcome), outcome.left) == ([("n1", "kept", "")], None)


def test_a_namespace_that_stays_is_named(collecting: Collecting) -> None:
    cluster = collecting.cluster
    collecting.add("n1", ENDED)
    cluster.deletes_after_s = None
    outcome = collecting.run(waits=replace(WAITS, gone_s=0.2))
    assert outcome.left is not None
    assert [each.partition("/")[0] for each in outcome.left.names] == ["namespace"]
    assert outcome.left.why == "it is still being deleted after 0 s"
    cluster.clear()


def test_two_at_a_time_do_not_meet(collecting: Collecting) -> None:
    collecting.add("n1", ENDED)
    collecting.add("n2", ENDED)
    outcomes: list[Collected] = []

    def other() -> None:
        outcomes.append(collecting.run(nodes=("n2",), out=collecting.folder / "other"))

    beside = threading.Thread(target=other)
    beside.start()
    outcomes.append(collecting.run(nodes=("n1",)))
    beside.join()
    assert sorted(each for outcome in outcomes for each in states(outcome)) == [
        ("n1", "kept", ""),
        ("n2", "kept", ""),
    ]
