"""Names on a played node, from an API server that comes, goes and tells late."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from apiserver import ApiServer, Json
from playednode import CLIENT, CLIENT_1, KUBE, NODE, NODE_NAME, PODS, WEB_A, PlayedNode, inside, udp
from recording import CTK, listening, rows, until

pytestmark = pytest.mark.live

LISTS = [KUBE / f"{name}.json" for name in ("services", "endpointslices", "nodes")]
OTHER = PODS[CLIENT_1][0]
NAMES = """
SELECT dst_port, src_kind || ' ' || coalesce(src_name, ''),
    dst_kind || ' ' || coalesce(dst_name, ''), sum(connections)
FROM flows WHERE proto = 'udp' GROUP BY 1, 2, 3 ORDER BY 1
"""


def pod(name: str, address: str = "", phase: str = "", **spec: object) -> Json:
    """A pod of this node, as `kubectl apply` and a kubelet would make it."""
    return {
        "kind": "Pod",
        "metadata": {"namespace": "load", "name": name, "labels": {"app": name}},
        "spec": {"nodeName": NODE_NAME, **spec},
        "status": {
            "phase": phase or ("Running" if address else "Pending"),
            **({"podIPs": [{"ip": address}]} if address else {}),
        },
    }


class Cluster:
    """The API server in the node's namespace, and connections that are known by their port."""

    def __init__(self, play: PlayedNode) -> None:
        self.play = play
        self.api = ApiServer(bookmark_s=0.5)
        self.api.load(LISTS)
        self.api.put(pod("other", OTHER))

    def start(self) -> None:
        with inside(self.play.node):
            self.api.start()

    def dial(self, port: int, source: str = CLIENT, to: str = OTHER) -> None:
        """A new connection: one datagram, which nobody answers."""
        namespace = self.play.node if source == "node" else self.play.pods[source]
        with inside(namespace), udp(namespace, "0.0.0.0", 0) as sock:
            sock.sendto(b"x", (to, port))

    def watched(self, since: int = 0) -> bool:
        """Whether every resource has been listed and is watched, by requests since that one."""
        made = self.api.requests[since:]
        return len({each.resource for each in made if each.watching and each.status == 200}) >= 4


@contextmanager
def recording(cluster: Cluster, db: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """Record with names from the API server, in windows of a second: some come before names do."""
    kubeconfig = cluster.api.kubeconfig(db.with_suffix(".kubeconfig"))
    command = (*CTK, "record", str(db), "--kubeconfig", str(kubeconfig), "--window", "1s")
    with listening(
        cluster.play,
        *command,
        "--node-name",
        NODE_NAME,
        *options,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONWARNINGS": "error"},
    ) as process:
        yield process
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
    assert (process.returncode, "Traceback" in said) == (0, False), said


@pytest.fixture
def cluster(play: PlayedNode) -> Iterator[Cluster]:
    played = Cluster(play)
    yield played
    played.api.stop()


def test_an_address_that_passes_from_pod_to_pod_is_each_ones_in_its_time(
    cluster: Cluster, tmp_path: Path
) -> None:
    db, address = tmp_path / "node.db", PODS[CLIENT][0]
    cluster.start()
    cluster.api.put(pod("job-1", address))
    with recording(cluster, db):
        until(cluster.watched, "the watches")
        cluster.dial(1001)
        cluster.api.put(pod("job-1", address, "Succeeded"))  # and keeps its podIP
        cluster.api.put(pod("job-2"))
        time.sleep(0.3)
        cluster.dial(1002)
        time.sleep(2.5)  # the window is written, and only then the address is told
        cluster.api.put(pod("job-2", address))
        time.sleep(0.3)
        cluster.dial(1003)
        cluster.api.delete(pod("job-1"))
        time.sleep(0.3)
        cluster.dial(1004)
        cluster.api.delete(pod("job-2"))
        time.sleep(0.3)
        cluster.dial(1005)  # its object is gone, but nobody else has the address: it serves on
        time.sleep(1.2)
        cluster.api.put(pod("job-3", address))
        time.sleep(0.3)
        cluster.dial(1006)
        time.sleep(1.2)
    assert rows(db, NAMES) == [
        (1001, "pod job-1", "pod other", 1),
        (1002, "pod job-2", "pod other", 1),
        (1003, "pod job-2", "pod other", 1),
        (1004, "pod job-2", "pod other", 1),
        (1005, "pod job-2", "pod other", 1),
        (1006, "pod job-3", "pod other", 1),
    ]
    assert rows(db, "SELECT kind FROM gaps") == []
    ended = "SELECT DISTINCT name FROM pods WHERE valid_to_ns IS NOT NULL"
    assert {name for (name,) in rows(db, ended)} >= {"job-1", "job-2"}


def test_an_api_that_is_away_costs_no_event_and_names_are_right_before_and_after(
    cluster: Cluster, tmp_path: Path
) -> None:
    db, address = tmp_path / "node.db", PODS[CLIENT][0]
    cluster.start()
    cluster.api.put(pod("before", address))
    with recording(cluster, db):
        until(cluster.watched, "the watches")
        cluster.dial(1001)
        time.sleep(1.5)
        cluster.api.stop()
        cluster.api.delete(pod("before"))
        time.sleep(1.5)
        cluster.api.put(pod("after"))
        # The API's times have whole seconds: in that of its start either may have had the address.
        time.sleep(1.2)
        cluster.dial(1002)  # the pod that has the address now was never heard of
        cluster.api.put(pod("after", address))
        cluster.api.compact()
        time.sleep(1.5)
        asked = len(cluster.api.requests)
        cluster.start()
        # Each resource has waited a time of its own.
        until(lambda: cluster.watched(asked), "the watches", 30)
        cluster.dial(1003)
        time.sleep(1.2)
    assert rows(db, NAMES) == [
        (1001, "pod before", "pod other", 1),
        (1002, "pod after", "pod other", 1),
        (1003, "pod after", "pod other", 1),
    ]
    ((kind, seconds),) = rows(db, "SELECT kind, (ended_ns - started_ns) / 1e9 FROM gaps")
    assert kind == "metadata stale"
    assert 3 < float(str(seconds)) < 20


def test_an_api_that_is_away_at_the_start_gives_its_names_later(
    cluster: Cluster, tmp_path: Path
) -> None:
    db, address = tmp_path / "node.db", PODS[CLIENT][0]
    cluster.api.put(pod("client", address))
    cluster.api.put(pod("proxy", NODE, hostNetwork=True))
    cluster.start()
    cluster.api.stop()
    ready = tmp_path / "ready"
    probe = ("find", str(ready), "-mmin", "-1")

    def is_ready() -> bool:
        return subprocess.run(probe, capture_output=True, check=False).stdout != b""

    with recording(cluster, db, "--ready-file", str(ready)):
        time.sleep(1)
        cluster.dial(1001)
        cluster.dial(1002, "node")
        cluster.dial(53, to="10.96.0.10")
        cluster.dial(1003, WEB_A, NODE)
        time.sleep(2.5)
        assert not is_ready()  # windows are written, but nothing has a name
        cluster.start()
        until(cluster.watched, "the watches")
        until(is_ready, "names in the file")
        time.sleep(1.5)
    assert not ready.exists()
    # Host-network traffic is the node's. WEB_A is no pod that the API tells of.
    assert rows(db, NAMES) == [
        (53, "pod client", "unknown ", 1),
        (1001, "pod client", "pod other", 1),
        (1002, f"node {NODE_NAME}", "pod other", 1),
        (1003, "unknown ", f"node {NODE_NAME}", 1),
    ]
    service = "SELECT DISTINCT service, service_via FROM flows WHERE dst_port = 53"
    assert rows(db, service) == [("kube-system/kube-dns", "address")]
    assert rows(db, "SELECT kind FROM gaps") == [("metadata stale",)]
