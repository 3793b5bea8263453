"""Watching, against a server that behaves like the API and misbehaves like it."""

import json
import logging
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import pytest
from apiserver import CLUSTER_UID, ApiServer, Fault, Request

from ctk.errors import KubeError, UsageError
from ctk.kube.api import Patience
from ctk.kube.endpoints import Endpoints
from ctk.kube.objects import (
    RESOURCES,
    Applied,
    Bookmarked,
    Change,
    Deleted,
    Listed,
    Lost,
    Missed,
    Recovered,
)
from ctk.kube.watch import Watch
from ctk.model.history import ClusterFound

KUBE = Path(__file__).parent.parent / "fixtures" / "kube"
LISTS = [
    KUBE / name
    for name in (
        "pods.page1.json",
        "pods.page2.json",
        "services.json",
        "endpointslices.json",
        "nodes.json",
    )
]
QUICK = Patience(connect=1.0, list=1.0, silence=1.2, watch=60.0, retry=0.01, most=0.05, denied=0.05)


@pytest.fixture
def api() -> Iterator[ApiServer]:
    server = ApiServer(bookmark_s=0.2)
    server.load(LISTS)
    with server:
        yield server


class Watching:
    """A watch, and what it put on its queue."""

    def __init__(self, kubeconfig: Path | None, **options: Any) -> None:
        self.queue: SimpleQueue[Change] = SimpleQueue()
        self.taken: list[Change] = []
        self.pending: list[Change] = []
        self.watch = Watch(kubeconfig, patience=QUICK, **options)

    def __enter__(self) -> "Watching":
        self.watch.start(self.queue)
        return self

    def __exit__(self, *_: object) -> None:
        self.watch.stop()

    def until(self, kind: type, resource: str = "pods", *, name: str = "") -> Change:
        """
        The next change of this kind, of this resource or of the object of this name.

        Those of others stay where they are: resources are watched side by side.
        """
        until = time.monotonic() + 5
        while time.monotonic() < until:
            for change in self.pending:
                if isinstance(change, Applied | Deleted):
                    matches = getattr(change.object, "name", "") == name
                elif isinstance(change, Bookmarked | ClusterFound | Missed):
                    matches = False
                else:
                    matches = change.resource == resource
                if isinstance(change, kind) and matches:
                    self.pending.remove(change)
                    return change
            self._take(0.2)
        told = [(type(each).__name__, str(each)[:99]) for each in self.pending]
        raise AssertionError(f"no {kind.__name__} of {name or resource} in {told}")

    def cluster(self) -> ClusterFound:
        """The cluster's identity, when it is told."""
        until = time.monotonic() + 5
        while time.monotonic() < until:
            for change in self.taken:
                if isinstance(change, ClusterFound):
                    return change
            self._take(0.2)
        raise AssertionError("the cluster did not say which it is")

    def settle(self, api: ApiServer) -> None:
        """Wait until all is listed and watched."""
        for resource in RESOURCES:
            self.until(Listed, resource)
        until = time.monotonic() + 5
        while time.monotonic() < until and not all(watches(api, each) for each in RESOURCES):
            time.sleep(0.01)

    def is_let_in_again(self, api: ApiServer) -> None:
        """Break the streams: credentials are old, and read again without anything being lost."""
        time.sleep(1.1)  # so that the streams have lasted
        asked = len(api.requests)
        api.cut()
        until = time.monotonic() + 5
        while time.monotonic() < until and not any(
            each.resource == "pods" and each.status == 200 for each in api.requests[asked:]
        ):
            time.sleep(0.01)
        api.put(pod("new"))
        self.until(Applied, name="new")
        assert self.losses() == []
        assert 401 in [each.status for each in api.requests[asked:]]

    def losses(self, seconds: float = 0.0) -> list[Lost]:
        """Every loss told by then."""
        until = time.monotonic() + seconds
        while time.monotonic() < until or not self.queue.empty():
            self._take(0.02)
        return [each for each in self.taken if isinstance(each, Lost)]

    def _take(self, seconds: float) -> None:
        with suppress(Empty):
            self.pending.append(self.queue.get(timeout=seconds))
            self.taken.append(self.pending[-1])


@pytest.fixture
def watching(api: ApiServer, tmp_path: Path) -> Iterator[Watching]:
    with Watching(api.kubeconfig(tmp_path / "kubeconfig")) as each:
        yield each


def pod(name: str, address: str = "", node: str = "kl-control-plane") -> dict[str, object]:
    status = {"phase": "Running", "podIPs": [{"ip": address}]} if address else {"phase": "Pending"}
    return {
        "kind": "Pod",
        "metadata": {"namespace": "load", "name": name},
        "spec": {"nodeName": node},
        "status": status,
    }


def mounted(api: ApiServer, path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What kubelet gives a pod: a service account, and where the server is."""
    account = path / "serviceaccount"
    account.mkdir(exist_ok=True)
    (account / "token").write_text(api.token or "")
    (account / "ca.crt").write_bytes(api.authority)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(api.port))
    return account


def watches(api: ApiServer, resource: str = "pods") -> list[Request]:
    return [each for each in api.requests if each.resource == resource and each.watching]


def lists(api: ApiServer, resource: str = "pods") -> list[Request]:
    return [each for each in api.requests if each.resource == resource and not each.watching]


def test_everything_is_listed_from_the_cache_and_then_watched(
    api: ApiServer, watching: Watching
) -> None:
    listed = watching.until(Listed)
    assert isinstance(listed, Listed)
    assert sorted(each.name for each in listed.objects if hasattr(each, "name")) == [
        "client-0",
        "client-1",
        "coredns-5d78c9869d-ccccc",
        "kube-apiserver-kl-control-plane",
        "web-7c65d6cfc9-aaaaa",
        "web-7c65d6cfc9-bbbbb",
    ]
    api.put(pod("new", "10.244.0.99"))
    seen = watching.until(Applied, name="new")
    assert isinstance(seen, Applied)
    api.delete(pod("new"))
    watching.until(Deleted, name="new")
    assert lists(api)[0].query == {"limit": "500", "resourceVersion": "0"}
    assert watches(api)[0].query["resourceVersion"] == "13"
    assert watches(api)[0].query["allowWatchBookmarks"] == "true"


def test_a_long_list_comes_in_pages(tmp_path: Path) -> None:
    api = ApiServer()
    for i in range(1200):
        api.put(pod(f"pod-{i}", f"10.1.{i // 250}.{i % 250 + 1}"))
    with api, Watching(api.kubeconfig(tmp_path / "kubeconfig")) as watching:
        listed = watching.until(Listed)
        assert isinstance(listed, Listed)
        assert len({each.uid for each in listed.objects}) == 1200
        tokens = ["continue" in each.query for each in lists(api)]
        assert tokens == [False, True, True]
        # A server refuses a token together with a version.
        assert all("resourceVersion" not in each.query for each in lists(api)[1:])


def test_a_server_that_ignores_the_limit_of_a_cached_list_is_read_all_the_same(
    tmp_path: Path,
) -> None:
    api = ApiServer()
    api.pages_from_cache = False
    for i in range(1200):
        api.put(pod(f"pod-{i}", f"10.1.{i // 250}.{i % 250 + 1}"))
    with api, Watching(api.kubeconfig(tmp_path / "kubeconfig")) as watching:
        listed = watching.until(Listed)
        assert isinstance(listed, Listed)
        assert (len(listed.objects), len(lists(api))) == (1200, 1)


def test_a_stream_that_breaks_is_taken_up_at_the_last_bookmark(
    api: ApiServer, watching: Watching
) -> None:
    watching.settle(api)
    for i in range(3):
        api.put(pod(f"new-{i}"))
    api.compact()
    api.put(pod("newest"))
    watching.until(Applied, name="newest")
    time.sleep(1.1)  # a bookmark comes to each resource; a stream has lasted
    api.cut()
    time.sleep(0.3)
    api.put(pod("after"))
    watching.until(Applied, name="after")
    assert [each.query["resourceVersion"] for each in watches(api, "endpointslices")] == [
        "13",
        "18",
    ]
    assert watching.losses() == []


def pods_version(listed: Change) -> str:
    assert isinstance(listed, Listed)
    assert listed.version is not None
    return listed.version


def test_what_happened_since_an_earlier_watch_comes_before_the_list(
    api: ApiServer, tmp_path: Path
) -> None:
    """A pod that came and went meanwhile is in no list."""
    kubeconfig = api.kubeconfig(tmp_path / "kubeconfig")
    with Watching(kubeconfig) as watching:
        version = pods_version(watching.until(Listed))
    api.put(pod("between"))
    api.delete(pod("between"))
    api.put(pod("left"))
    again = Watching(kubeconfig)
    again.watch.start(again.queue, version)
    try:
        listed = again.until(Listed)
    finally:
        again.watch.stop()
    assert isinstance(listed, Listed)
    [missed] = [each for each in again.taken if isinstance(each, Missed)]
    assert [(type(each), each.object.name) for each in missed.changes] == [
        (Applied, "between"),
        (Deleted, "between"),
        (Applied, "left"),
    ]
    assert missed.whole
    assert again.taken.index(missed) < again.taken.index(listed)
    assert "left" in [each.name for each in listed.objects]


def test_where_the_server_has_forgotten_what_happened_there_is_the_list_alone(
    api: ApiServer, tmp_path: Path
) -> None:
    api.put(pod("between"))
    api.compact()
    watching = Watching(api.kubeconfig(tmp_path / "kubeconfig"))
    watching.watch.start(watching.queue, "1")
    try:
        watching.until(Listed)
    finally:
        watching.watch.stop()
    [missed] = [each for each in watching.taken if isinstance(each, Missed)]
    assert (missed.changes, missed.whole) == ((), False)
    assert watching.losses() == []


@pytest.mark.parametrize(
    "fault",
    [Fault(status=410), Fault(gone_inside=True)],
    ids=["as an HTTP status", "as an ERROR event inside a 200 stream"],
)
def test_an_expired_version_is_listed_again_and_told_as_stale(fault: Fault, tmp_path: Path) -> None:
    api = ApiServer()
    api.load(LISTS)
    api.fail(fault, "pods", watching=True)
    with api, Watching(api.kubeconfig(tmp_path / "kubeconfig")) as watching:
        watching.until(Listed)
        lost = watching.until(Lost)
        again = watching.until(Listed)
        stale = watching.until(Recovered)
        assert isinstance(lost, Lost)
        assert isinstance(again, Listed)
        why = "the version that was watched has expired"
        assert stale == Recovered("pods", lost.at_ns, again.at_ns, why)
        api.put(pod("new"))
        watching.until(Applied, name="new")


def test_an_expired_continue_token_begins_the_list_again(tmp_path: Path) -> None:
    api = ApiServer()
    for i in range(600):
        api.put(pod(f"pod-{i}"))
    with api, Watching(api.kubeconfig(tmp_path / "kubeconfig")) as watching:
        api.fail(Fault(status=410), "pods", watching=False)
        listed = watching.until(Listed)
        assert isinstance(listed, Listed)
        assert len(listed.objects) == 600


@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=500),
        Fault(status=429, retry_after=0),
        Fault(half=True),
        Fault(hang=True),
    ],
    ids=["500", "429", "half a list", "a list that hangs"],
)
def test_a_list_that_fails_is_asked_for_again(fault: Fault, tmp_path: Path) -> None:
    api = ApiServer()
    api.load(LISTS)
    api.fail(fault, "pods", watching=False)
    with api, Watching(api.kubeconfig(tmp_path / "kubeconfig")) as watching:
        lost = watching.until(Lost)
        listed = watching.until(Listed)
        stale = watching.until(Recovered)
        assert isinstance(lost, Lost)
        assert isinstance(listed, Listed)
        assert isinstance(stale, Recovered)
        assert (stale.from_ns, stale.to_ns) == (lost.at_ns, listed.at_ns)
        assert len(listed.objects) == 6


@pytest.mark.parametrize(
    "fault",
    [Fault(status=500), Fault(status=429, retry_after=0), Fault(half=True), Fault(hang=True)],
    ids=["500", "429", "half a line", "a stream that hangs"],
)
def test_a_watch_that_fails_once_misses_nothing(fault: Fault, tmp_path: Path) -> None:
    api = ApiServer()
    api.load(LISTS)
    api.fail(fault, "pods", watching=True)
    with api, Watching(api.kubeconfig(tmp_path / "kubeconfig")) as watching:
        watching.until(Listed)
        api.put(pod("new"))
        watching.until(Applied, name="new")
        assert len(lists(api)) == 1
        assert watching.losses() == []


def test_a_server_asks_for_time_and_gets_it(tmp_path: Path) -> None:
    api = ApiServer()
    api.load(LISTS)
    api.fail(Fault(status=429, retry_after=1), "pods", watching=False)
    began = time.monotonic()
    with api, Watching(api.kubeconfig(tmp_path / "kubeconfig")) as watching:
        watching.until(Listed)
    assert time.monotonic() - began >= 1.0


def test_a_forbidden_resource_costs_only_itself_and_names_the_missing_rule(
    api: ApiServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    api.denied.add("endpointslices")
    with Watching(api.kubeconfig(tmp_path / "kubeconfig")) as watching:
        for resource in ("pods", "services", "nodes"):
            watching.until(Listed, resource)
        lost = watching.losses(0.3)
        assert [(each.resource, each.denied) for each in lost] == [("endpointslices", True)]
        assert [
            each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING
        ] == [
            "endpointslices: forbidden: needs get, list and watch on endpointslices of apiGroup "
            '"discovery.k8s.io"; their names are left out'
        ]
        api.denied.clear()
        watching.until(Listed, "endpointslices")
        watching.until(Recovered, "endpointslices")


def test_a_token_that_was_replaced_is_read_again(tmp_path: Path) -> None:
    api = ApiServer(token="old", bookmark_s=0.2)
    api.load(LISTS)
    with api:
        kubeconfig = api.kubeconfig(tmp_path / "kubeconfig")
        with Watching(kubeconfig) as watching:
            watching.settle(api)
            api.token = "new"
            api.kubeconfig(kubeconfig)
            watching.is_let_in_again(api)


def test_an_api_that_is_down_for_a_while_is_one_warning_and_a_stale_span(
    api: ApiServer, watching: Watching, caplog: pytest.LogCaptureFixture
) -> None:
    watching.settle(api)
    down_ns = time.time_ns()
    api.stop()
    lost = watching.until(Lost)
    api.put(pod("meanwhile", "10.244.0.50"))
    api.delete({"kind": "Pod", "metadata": {"namespace": "load", "name": "client-1"}})
    api.compact()
    api.start()
    listed = watching.until(Listed)
    stale = watching.until(Recovered)
    assert isinstance(lost, Lost)
    assert isinstance(listed, Listed)
    assert isinstance(stale, Recovered)
    assert down_ns <= stale.from_ns == lost.at_ns < down_ns + 500_000_000
    assert stale.to_ns == listed.at_ns
    names = {getattr(each, "name", "") for each in listed.objects}
    assert "meanwhile" in names
    assert "client-1" not in names
    warnings = [each for each in caplog.records if each.levelno >= logging.WARNING]
    assert len(warnings) == 1
    assert "recording goes on, names follow" in warnings[0].getMessage()


def test_an_api_that_is_down_at_the_start_is_stale_from_the_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    api = ApiServer()
    api.load(LISTS)
    api.start()
    api.stop()
    began_ns = time.time_ns()
    with Watching(api.kubeconfig(tmp_path / "kubeconfig")) as watching:
        watching.until(Lost)
        with api:
            watching.until(Listed)
            stale = watching.until(Recovered)
            assert isinstance(stale, Recovered)
            assert began_ns <= stale.from_ns < began_ns + 500_000_000
            assert stale.why == "Connection refused"


def test_an_untrusted_certificate_is_refused_in_plain_words(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    api = ApiServer(tls=True)
    api.load(LISTS)
    with api:
        with Watching(api.kubeconfig(tmp_path / "kubeconfig", trusted=False)) as watching:
            lost = watching.until(Lost)
            assert isinstance(lost, Lost)
            assert lost.why == (
                "its certificate is not trusted (unable to get local issuer certificate); mend "
                "certificate-authority in the kubeconfig, or set insecure-skip-tls-verify there"
            )
        assert api.requests == []


@pytest.mark.parametrize("insecure", [False, True], ids=["trusted", "not verified, as told"])
def test_tls_that_the_kubeconfig_allows_is_watched(insecure: bool, tmp_path: Path) -> None:
    api = ApiServer(tls=True, token="secret")
    api.load(LISTS)
    with api, Watching(api.kubeconfig(tmp_path / "kubeconfig", insecure=insecure)) as watching:
        watching.until(Listed)
        api.put(pod("new"))
        watching.until(Applied, name="new")


def test_a_client_certificate_is_shown(tmp_path: Path) -> None:
    api = ApiServer(mutual=True)
    api.load(LISTS)
    with api, Watching(api.kubeconfig(tmp_path / "kubeconfig")) as watching:
        watching.until(Listed)


def test_inside_a_cluster_the_token_that_is_mounted_is_read_again_when_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = ApiServer(tls=True, token="old", bookmark_s=0.2)
    api.load(LISTS)
    with api:
        account = mounted(api, tmp_path, monkeypatch)
        with Watching(None, service_account=account) as watching:
            watching.settle(api)
            assert watching.watch.cluster_name is None
            api.token = "new"
            (account / "token").write_text("new\n")
            watching.is_let_in_again(api)


def test_inside_a_cluster_nothing_of_the_kubernetes_package_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = ApiServer(tls=True, token="secret")
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from ctk.kube.watch import Watch\n"
        "Watch(service_account=Path(sys.argv[1]))\n"
        "print(sorted({'kubernetes', 'yaml', 'urllib3'} & sys.modules.keys()))\n"
    )
    with api:
        account = mounted(api, tmp_path, monkeypatch)
        ran = subprocess.run(
            [sys.executable, "-c", program, str(account)],
            check=True,
            capture_output=True,
            text=True,
        )
    assert ran.stdout == "['urllib3']\n"


@pytest.mark.parametrize("missing", ["token", "ca.crt"])
def test_without_what_kubelet_mounts_it_is_not_inside_a_cluster(
    missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = mounted(ApiServer(tls=True, token="secret"), tmp_path, monkeypatch)
    (account / missing).unlink()
    with pytest.raises(KubeError, match="this is not inside a cluster"):
        Watch(service_account=account)


def test_inside_a_cluster_an_untrusted_certificate_speaks_of_no_kubeconfig(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = ApiServer(tls=True, token="secret")
    with api:
        account = mounted(api, tmp_path, monkeypatch)
        (account / "ca.crt").write_bytes(ApiServer(tls=True).authority)
        with Watching(None, service_account=account) as watching:
            lost = watching.until(Lost)
            assert isinstance(lost, Lost)
            assert lost.why.startswith("its certificate is not trusted (")
            hint = f"; {account / 'ca.crt'} must hold the authority that signed it"
            assert lost.why.endswith(hint)


@pytest.mark.parametrize("inside", [True, False], ids=["inside a cluster", "with a kubeconfig"])
def test_an_authority_without_key_usage_is_trusted_as_go_does(
    inside: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python 3.13's default context asks for keyUsage; this sets what it sets."""
    default = ssl.create_default_context

    def strict(*args: Any, **more: Any) -> ssl.SSLContext:
        context = default(*args, **more)
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        return context

    monkeypatch.setattr(ssl, "create_default_context", strict)
    api = ApiServer(tls=True, token="secret")
    api.load(LISTS)
    with api:
        account = mounted(api, tmp_path, monkeypatch)
        context = ssl.create_default_context(cafile=account / "ca.crt")
        with (
            socket.create_connection(("127.0.0.1", api.port)) as plain,
            pytest.raises(ssl.SSLCertVerificationError, match="key usage"),
        ):
            context.wrap_socket(plain, server_hostname="127.0.0.1")
        kubeconfig = None if inside else api.kubeconfig(tmp_path / "kubeconfig")
        with Watching(kubeconfig, service_account=account) as watching:
            watching.until(Listed)


def test_the_name_of_the_server_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    api = ApiServer(tls=True, token="secret")
    with api:
        account = mounted(api, tmp_path, monkeypatch)
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "localhost")
        with Watching(None, service_account=account) as watching:
            lost = watching.until(Lost)
            assert isinstance(lost, Lost)
            assert "Hostname mismatch" in lost.why


def test_requests_go_through_the_proxy_that_the_kubeconfig_names(tmp_path: Path) -> None:
    api, proxy = ApiServer(), ApiServer()
    proxy.load(LISTS)
    with api, proxy:
        kubeconfig = api.kubeconfig(tmp_path / "kubeconfig")
        config = json.loads(kubeconfig.read_text())
        config["clusters"][0]["cluster"]["proxy-url"] = proxy.url
        kubeconfig.write_text(json.dumps(config))
        with Watching(kubeconfig) as watching:
            watching.until(Listed)
        assert api.requests == []


def test_a_cluster_says_which_it_is(api: ApiServer, watching: Watching) -> None:
    assert watching.watch.cluster_name == "test"
    assert watching.cluster() == ClusterFound(CLUSTER_UID)
    endpoints = Endpoints("n1", [], 0, kube=True)
    endpoints.apply(ClusterFound(CLUSTER_UID))
    assert endpoints.drain() == [ClusterFound(CLUSTER_UID)]


def test_a_cluster_that_may_not_be_asked_which_it_is_is_watched_all_the_same(
    api: ApiServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="ctk.kube")
    api.denied.add("namespaces")
    with Watching(api.kubeconfig(tmp_path / "kubeconfig")) as watching:
        watching.settle(api)
        assert watching.losses(0.3) == []
    told = [each.getMessage() for each in caplog.records if "identity" in each.getMessage()]
    assert len(told) == 1
    assert caplog.records[0].levelno == logging.DEBUG
    assert [each for each in watching.taken if isinstance(each, ClusterFound)] == []


def test_a_clusters_identity_is_asked_for_again_when_it_could_not_be_told(
    api: ApiServer, tmp_path: Path
) -> None:
    api.fail(Fault(status=500), "namespaces")
    with Watching(api.kubeconfig(tmp_path / "kubeconfig")) as watching:
        watching.settle(api)
        time.sleep(1.1)  # so that the streams have lasted
        api.cut()
        assert watching.cluster() == ClusterFound(CLUSTER_UID)


def test_credentials_may_come_from_a_program(tmp_path: Path) -> None:
    api = ApiServer(token="made")
    api.load(LISTS)
    credential = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "kind": "ExecCredential",
        "status": {"token": "made"},
    }
    program = tmp_path / "credential"
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{json.dumps(credential)}\nEND\n")
    program.chmod(0o700)
    with api:
        kubeconfig = api.kubeconfig(tmp_path / "kubeconfig")
        config = json.loads(kubeconfig.read_text())
        config["users"][0]["user"] = {
            "exec": {"apiVersion": credential["apiVersion"], "command": str(program)}
        }
        kubeconfig.write_text(json.dumps(config))
        with Watching(kubeconfig) as watching:
            watching.until(Listed)


def test_a_server_too_old_for_a_resource_costs_only_it(
    api: ApiServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(100):
        api.fail(Fault(status=404), "endpointslices")
    with Watching(api.kubeconfig(tmp_path / "kubeconfig")) as watching:
        watching.until(Listed)
        lost = watching.until(Lost, "endpointslices")
        assert isinstance(lost, Lost)
        assert (lost.denied, lost.why) == (True, "the server does not have it")


def test_only_this_nodes_pods_are_asked_for(api: ApiServer, tmp_path: Path) -> None:
    api.put(pod("elsewhere", "10.244.1.1", "other"))
    with Watching(api.kubeconfig(tmp_path / "kubeconfig"), only_node="kl-control-plane") as each:
        listed = each.until(Listed)
        assert isinstance(listed, Listed)
        assert len(listed.objects) == 6
        each.until(Listed, "services")
        time.sleep(0.1)
        assert {query.query.get("fieldSelector") for query in lists(api) + watches(api)} == {
            "spec.nodeName=kl-control-plane"
        }
        assert "fieldSelector" not in lists(api, "services")[0].query


def test_an_object_that_is_none_costs_only_itself(
    api: ApiServer, watching: Watching, caplog: pytest.LogCaptureFixture
) -> None:
    watching.until(Listed)
    api.put({**pod("odd"), "status": "not a mapping"})
    api.put(pod("even"))
    watching.until(Applied, name="even")
    assert "one object could not be read" in caplog.text


@pytest.mark.parametrize("state", ["watching", "hanging", "away"])
def test_stop_takes_less_than_a_second(state: str, tmp_path: Path) -> None:
    api = ApiServer()
    api.load(LISTS)
    with api:
        if state == "hanging":
            for _ in range(4):
                api.fail(Fault(hang=True))
        with Watching(api.kubeconfig(tmp_path / "kubeconfig")) as watching:
            if state == "watching":
                watching.until(Listed)
            if state == "away":
                watching.until(Listed)
                api.stop()
            time.sleep(0.1)
            began = time.monotonic()
            watching.watch.stop()
            assert time.monotonic() - began < 1.0
            assert not any(f.thread.is_alive() for f in watching.watch._followers)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "No configuration found"),
        ("a: [\n", "it is no YAML, at line 2"),
        ("[]", "no kubeconfig"),
        ("{}", "Invalid kube-config file. Expected key current-context"),
        ("current-context: x\ncontexts: []\nclusters: []\n", "Expected object with name x"),
    ],
    ids=["no such file", "not YAML", "a list", "an empty one", "an unknown context"],
)
def test_a_bad_kubeconfig_is_one_line(text: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "kubeconfig"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UsageError) as raised:
        Watch(path)
    assert raised.value.message.startswith(f"{path}: ")
    assert message in raised.value.message
    assert "\n" not in raised.value.message
    assert raised.value.hint == f"check it with: kubectl --kubeconfig {path} config view"


def test_outside_a_cluster_a_kubeconfig_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(KubeError) as raised:
        Watch()
    assert raised.value.message == "this is not inside a cluster"
    assert raised.value.hint == "give --kubeconfig, --objects or --no-kube"
