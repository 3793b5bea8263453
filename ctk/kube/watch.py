"""
List and watch: what the API server says, as changes on a queue.

One thread a resource: it lists in pages from the server's cache, watches with bookmarks, goes on
from the last version when a stream ends, and lists again when that version has expired or the
server was away.
"""

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from queue import SimpleQueue
from typing import Any
from urllib.parse import urlencode

import orjson

from ctk.kube.api import Answer, Api, BrokenError, CutError, Patience, RefusedError, items
from ctk.kube.credentials import SERVICE_ACCOUNT, Credentials, InCluster, Kubeconfig
from ctk.kube.objects import (
    RESOURCES,
    Applied,
    Change,
    Deleted,
    KubeObject,
    Listed,
    Lost,
    Recovered,
    Resource,
)
from ctk.kube.parse import read
from ctk.model import ClusterFound

log = logging.getLogger("ctk.kube")

_PATHS: Mapping[Resource, str] = {
    "pods": "/api/v1/pods",
    "services": "/api/v1/services",
    "endpointslices": "/apis/discovery.k8s.io/v1/endpointslices",
    "nodes": "/api/v1/nodes",
}
_CLUSTER_PATH = "/api/v1/namespaces/kube-system"  # its UID is the cluster's identity
_PAGE = 500
_STOP_S = 0.9
_LASTED_S = 1.0  # a stream that ends sooner has failed: a server that does so is not hurried


class Watch:
    """
    Follow everything in a cluster that owns or hides an address.

    Without `kubeconfig` it is the cluster this runs in, as the pod whose `service_account` is
    mounted. `only_node` leaves out other nodes' pods. `cluster_name` is what the kubeconfig calls
    the cluster, None inside one.
    """

    def __init__(
        self,
        kubeconfig: Path | None = None,
        context: str | None = None,
        *,
        only_node: str | None = None,
        patience: Patience | None = None,
        service_account: Path = SERVICE_ACCOUNT,
    ) -> None:
        self._patience = patience or Patience()
        self._stopping = threading.Event()
        api = Api(_credentials(kubeconfig, context, service_account), self._patience)
        self.cluster_name = api.cluster_name
        self._followers = [
            _Follower(
                resource,
                api,
                only_node if resource == "pods" else None,
                self._patience,
                self._stopping,
            )
            for resource in RESOURCES
        ]

    def start(self, queue: "SimpleQueue[Change]") -> None:
        """Begin to put changes on `queue`, from one thread a resource."""
        for follower in self._followers:
            follower.start(queue)

    def stop(self) -> None:
        """End within a second; a thread that still waits for a connection is left to it."""
        self._stopping.set()
        until = time.monotonic() + _STOP_S
        for follower in self._followers:
            while follower.thread.is_alive() and time.monotonic() < until:
                follower.interrupt()
                follower.thread.join(0.02)


def refusals(kubeconfig: Path | None, context: str | None) -> dict[Resource, str | None]:
    """Ask once for each resource, as a list and as a watch; tell why it was not given, or None."""
    patience = Patience(connect=5.0, list=10.0)
    api = Api(_credentials(kubeconfig, context), patience)
    found: dict[Resource, str | None] = dict.fromkeys(RESOURCES)
    for resource, path in _PATHS.items():
        try:
            for query in ("limit=1", "watch=1&timeoutSeconds=1"):
                api.get(f"{path}?{query}", patience.list, compressed=False).close()
        except RefusedError as error:
            denied = error.answer.code == 403
            found[resource] = _missing_rule(resource) if denied else str(error)
        except BrokenError as error:
            found[resource] = str(error)
    return found


def _credentials(
    kubeconfig: Path | None, context: str | None, service_account: Path = SERVICE_ACCOUNT
) -> Callable[[], Credentials]:
    def read_now() -> Credentials:
        if kubeconfig is None:
            return InCluster(service_account)
        return Kubeconfig(kubeconfig, context)

    return read_now


def _missing_rule(resource: Resource) -> str:
    group = "discovery.k8s.io" if resource == "endpointslices" else ""
    return f'forbidden: needs get, list and watch on {resource} of apiGroup "{group}"'


class _Follower:
    """Keeps one resource known."""

    def __init__(
        self,
        resource: Resource,
        api: Api,
        only_node: str | None,
        patience: Patience,
        stopping: threading.Event,
    ) -> None:
        self._resource = resource
        self._api = api
        self._only_node = only_node
        self._selector = {"fieldSelector": f"spec.nodeName={only_node}"} if only_node else {}
        # One of them asks which cluster this is.
        self._cluster_asked = resource != "nodes"
        self._patience = patience
        self._stopping = stopping
        self._version: str | None = None  # None: list first
        self._lost: Lost | None = None
        self._heard_ns = time.time_ns()
        self._failures = 0  # in a row
        self._reloaded = False  # credentials, since they were last good
        self._response: Any = None
        self.thread = threading.Thread(target=self._run, name=resource, daemon=True)

    def start(self, queue: "SimpleQueue[Change]") -> None:
        self._queue = queue
        self.thread.start()

    def interrupt(self) -> None:
        """Wake the thread from reading; any thread may call this."""
        response = self._response
        if response is not None:
            try:
                response.shutdown()
            except (OSError, RuntimeError, ValueError) as error:
                log.debug("%s: closed already: %s", self._resource, error)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                if self._version is None:
                    self._list()
                    self._recover()
                if not self._cluster_asked:
                    self._ask_for_cluster()
                self._watch()
                continue
            except RefusedError as error:
                self._failures += 1
                pause_s = self._refused(error.answer)
            except BrokenError as error:
                self._failures += 1
                pause_s = self._failed(str(error))
            self._stopping.wait(pause_s)

    def _refused(self, answer: Answer) -> float:
        """Decide what a refusal means; gives the seconds to wait."""
        if answer.code == 410:
            self._lose("the version that was watched has expired")
            return self._pause() if self._failures > 1 else 0.0
        if answer.code == 401:
            self._api.reload()
            if not self._reloaded:
                # Tokens expire: that is no failure if the next one is good.
                self._reloaded = True
                self._failures -= 1
                return 0.0
        if answer.code in (403, 404):
            unserved = "the server does not have it"
            why = _missing_rule(self._resource) if answer.code == 403 else unserved
            self._lose(why, denied=True)
            return self._patience.denied
        return max(answer.retry_after_s, self._failed(f"{answer.code} {answer.message}"))

    def _failed(self, why: str) -> float:
        """A stream that breaks off is taken up where it was; failing again is a loss."""
        if not self._stopping.is_set() and (self._failures > 1 or self._version is None):
            self._lose(why)
        return self._pause()

    def _pause(self) -> float:
        most = min(self._patience.retry * 2.0 ** min(self._failures - 1, 16), self._patience.most)
        return most * random.uniform(0.5, 1.0)

    def _lose(self, why: str, *, denied: bool = False) -> None:
        """What is known of the resource gets old from when it was last heard of."""
        self._version = None
        if self._lost is not None and self._lost.denied == denied:
            return
        at_ns = self._heard_ns if self._lost is None else self._lost.at_ns
        self._lost = Lost(self._resource, at_ns, why, denied)
        self._queue.put(self._lost)
        self._api.report_lost(self._resource, why, denied=denied)

    def _recover(self) -> None:
        if self._lost is not None:
            lost, self._lost = self._lost, None
            self._queue.put(Recovered(self._resource, lost.at_ns, self._heard_ns, lost.why))
            self._api.report_recovered(self._resource)

    def _list(self) -> None:
        """Put the whole resource on the queue as one change."""
        query = {"limit": str(_PAGE), "resourceVersion": "0", **self._selector}
        found: list[KubeObject] = []
        while True:
            page: dict[str, Any] = {}
            with self._get(query, self._patience.list, compressed=True) as response:
                for raw in items(self._chunks(response), page):
                    found.extend(self._object(raw))
            meta = page["metadata"]
            if not meta.get("continue"):
                break
            # A token stands for its version, and a server refuses both.
            query = {"limit": str(_PAGE), "continue": meta["continue"], **self._selector}
        self._version = meta.get("resourceVersion") or "0"
        self._heard_ns = time.time_ns()
        self._queue.put(Listed(self._resource, tuple(found), self._heard_ns, self._only_node))

    def _ask_for_cluster(self) -> None:
        """Put the cluster's identity on the queue; where it can't be told now, ask again later."""
        try:
            found = self._api.get_object(_CLUSTER_PATH, self._patience.list)
            uid = found["metadata"]["uid"]
            if not isinstance(uid, str):
                raise TypeError(f"{uid!r:.40} is not text")
            self._queue.put(ClusterFound(uid))
        except RefusedError as error:
            log.debug("the cluster's identity is left out: %s", error)
            self._cluster_asked = error.answer.code in (403, 404)
        except (BrokenError, KeyError, TypeError) as error:
            log.debug("the cluster's identity is left out for now: %s", error)
        else:
            self._cluster_asked = True

    def _watch(self) -> None:
        """Follow one stream to its end."""
        seconds = self._patience.watch * random.uniform(0.8, 1.2)
        query = {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._version or "0",
            "timeoutSeconds": str(max(1, int(seconds))),
            **self._selector,
        }
        with self._get(query, self._patience.silence) as response:
            opened_s = time.monotonic()
            try:
                self._stream(response)
                self._heard_ns = time.time_ns()
            except CutError:
                self._heard_ns = time.time_ns()
                raise
            finally:
                lasted_s = time.monotonic() - opened_s
                if lasted_s >= _LASTED_S:
                    self._failures = 0
        if lasted_s < _LASTED_S:
            raise BrokenError("the stream ended at once")

    def _stream(self, response: Any) -> None:
        rest = b""
        for chunk in self._chunks(response):
            self._heard_ns = time.time_ns()
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                if line.strip():
                    self._event(line)
        if rest.strip():
            raise BrokenError("the stream ended in the middle of a line")

    def _event(self, line: bytes) -> None:
        at_ns = self._heard_ns
        try:
            event = orjson.loads(line)
            kind, raw = event["type"], event["object"]
            if kind == "ERROR":
                raise RefusedError(
                    Answer(int(raw.get("code") or 500), str(raw.get("message") or ""), 0.0)
                )
            version = raw["metadata"]["resourceVersion"]
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            self._version = None
            raise BrokenError(f"the stream holds what is no event: {error}") from error
        if kind in ("ADDED", "MODIFIED", "DELETED"):
            change = Deleted if kind == "DELETED" else Applied
            for each in self._object(raw):
                self._queue.put(change(each, at_ns))
        self._version = version

    def _object(self, raw: object) -> list[KubeObject]:
        """The object, or none where it isn't one: it costs its name only."""
        try:
            return [read(self._resource, raw)]
        except ValueError as error:
            log.warning("%s: one object could not be read: %s", self._resource, error)
            return []

    def _get(
        self, query: Mapping[str, str], read_s: float, *, compressed: bool = False
    ) -> "_Response":
        url = f"{_PATHS[self._resource]}?{urlencode(query)}"
        response = self._api.get(url, read_s, compressed=compressed)
        self._reloaded = False
        return _Response(self, response)

    def _chunks(self, response: Any) -> Iterator[bytes]:
        while not self._stopping.is_set():
            chunk = self._api.read(response)
            if not chunk:
                return
            yield chunk
        raise BrokenError("stopped")


class _Response:
    """An open response that `interrupt` can reach, and that is closed in the end."""

    def __init__(self, follower: _Follower, response: Any) -> None:
        self._follower, self._response = follower, response
        follower._response = response

    def __enter__(self) -> Any:
        return self._response

    def __exit__(self, *_: object) -> None:
        self._follower._response = None
        self._response.close()
