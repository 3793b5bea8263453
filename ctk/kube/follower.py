"""
One resource, listed and watched in a thread of its own.

It lists in pages from the server's cache, watches with bookmarks, goes on from the last version
when a stream ends, and lists again when that version has expired or the server was away.
"""

import logging
import random
import threading
import time
from collections.abc import Iterator, Mapping
from queue import SimpleQueue
from typing import Any
from urllib.parse import urlencode

import orjson

from ctk.kube.api import Api, BrokenError, CutError, Patience, Refusal, RefusedError, items
from ctk.kube.objects import (
    Applied,
    Bookmarked,
    Change,
    Deleted,
    KubeObject,
    Listed,
    Lost,
    Missed,
    Recovered,
    Resource,
)
from ctk.kube.parse import read
from ctk.model.history import ClusterFound

log = logging.getLogger("ctk.kube")

PATHS: Mapping[Resource, str] = {
    "pods": "/api/v1/pods",
    "services": "/api/v1/services",
    "endpointslices": "/apis/discovery.k8s.io/v1/endpointslices",
    "nodes": "/api/v1/nodes",
}
_CLUSTER_PATH = "/api/v1/namespaces/kube-system"  # its UID is the cluster's identity
_PAGE = 500
_LASTED_S = 1.0  # a stream that ends sooner has failed: a server that does so is not hurried


def missing_rule(resource: Resource) -> str:
    """Name the rule that a 403 asks for."""
    group = "discovery.k8s.io" if resource == "endpointslices" else ""
    return f'forbidden: needs get, list and watch on {resource} of apiGroup "{group}"'


class Follower:
    """Keeps one resource known."""

    def __init__(
        self,
        resource: Resource,
        api: Api,
        only_node: str | None,
        patience: Patience,
        stopping: threading.Event,
    ) -> None:
        self.resource = resource
        self._api = api
        self._only_node = only_node
        self._selector = {"fieldSelector": f"spec.nodeName={only_node}"} if only_node else {}
        # One of them asks which cluster this is.
        self._cluster_asked = resource != "nodes"
        self._patience = patience
        self._stopping = stopping
        self._version: str | None = None  # None: list first
        self._missed_from: str | None = None  # of pods: what happened since is asked for first
        self._lost: Lost | None = None
        self._heard_ns = time.time_ns()
        self._failures = 0  # in a row
        self._reloaded = False  # credentials, since they were last good
        self._response: Any = None
        self.thread = threading.Thread(target=self._run, name=resource, daemon=True)

    def start(self, queue: "SimpleQueue[Change]", version: str | None) -> None:
        self._queue, self._missed_from = queue, version
        self.thread.start()

    def interrupt(self) -> None:
        """Wake the thread from reading; any thread may call this."""
        response = self._response
        if response is not None:
            try:
                response.shutdown()
            except (OSError, RuntimeError, ValueError) as error:
                log.debug("%s: closed already: %s", self.resource, error)

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

    def _refused(self, answer: Refusal) -> float:
        """Decide what a refusal means; gives the seconds to wait."""
        if answer.code == 410:
            self._missed_from = self._version = None
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
            why = missing_rule(self.resource) if answer.code == 403 else unserved
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
        if self.resource == "pods":
            self._missed_from = self._version or self._missed_from
        self._version = None
        if self._lost is not None and self._lost.denied == denied:
            return
        at_ns = self._heard_ns if self._lost is None else self._lost.at_ns
        self._lost = Lost(self.resource, at_ns, why, denied)
        self._queue.put(self._lost)
        self._api.report_lost(self.resource, why, denied=denied)

    def _recover(self) -> None:
        if self._lost is not None:
            lost, self._lost = self._lost, None
            self._queue.put(Recovered(self.resource, lost.at_ns, self._heard_ns, lost.why))
            self._api.report_recovered(self.resource)

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
        version = self._version = meta.get("resourceVersion") or "0"
        if self._missed_from is not None:
            self._catch_up(self._missed_from, version)
            self._missed_from = None
        self._heard_ns = at_ns = time.time_ns()
        self._queue.put(Listed(self.resource, tuple(found), at_ns, self._only_node, version))

    def _catch_up(self, from_version: str, to_version: str) -> None:
        """
        Put what happened in between on the queue, as far as the server still has it.

        Who came and went meanwhile is in no list. A server keeps a minute of it at the least, and
        sends all of it at once; that it has is told by a bookmark, 2 s before the watch ends.
        """
        query = {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": from_version,
            "timeoutSeconds": "3",
            **self._selector,
        }
        missed: list[Applied | Deleted] = []
        whole = _reached(from_version, to_version)
        try:
            if not whole:
                with self._get(query, self._patience.silence) as response:
                    for line in self._lines(response):
                        change = self._change(line)
                        if change is None:
                            continue
                        whole = _reached(change.version, to_version)
                        is_past = whole and change.version != to_version
                        if isinstance(change, Applied | Deleted) and not is_past:
                            missed.append(change)
                        if whole:
                            break
        except (BrokenError, RefusedError) as error:
            log.debug("%s: not all that was missed is known: %s", self.resource, error)
        self._version = to_version
        self._queue.put(Missed(tuple(missed), time.time_ns(), whole))

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
                for line in self._lines(response):
                    change = self._change(line)
                    if change is not None:
                        self._queue.put(change)
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

    def _lines(self, response: Any) -> Iterator[bytes]:
        rest = b""
        for chunk in self._chunks(response):
            self._heard_ns = time.time_ns()
            *lines, rest = (rest + chunk).split(b"\n")
            for line in filter(bytes.strip, lines):
                yield line
                # Each a ns later: so the next recording takes them in in this order, too.
                self._heard_ns += 1
        if rest.strip():
            raise BrokenError("the stream ended in the middle of a line")

    def _change(self, line: bytes) -> Applied | Deleted | Bookmarked | None:
        """What an event of a stream says, which is known up to there then."""
        at_ns = self._heard_ns
        try:
            event = orjson.loads(line)
            kind, raw = event["type"], event["object"]
            if kind == "ERROR":
                raise RefusedError(
                    Refusal(int(raw.get("code") or 500), str(raw.get("message") or ""), 0.0)
                )
            version = raw["metadata"]["resourceVersion"]
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            self._version = None
            raise BrokenError(f"the stream holds what is no event: {error}") from error
        found: Applied | Deleted | Bookmarked | None = None
        if kind == "BOOKMARK" and self.resource == "pods":
            found = Bookmarked(at_ns, version)
        elif kind in ("ADDED", "MODIFIED", "DELETED"):
            change = Deleted if kind == "DELETED" else Applied
            for each in self._object(raw):
                found = change(each, at_ns, version)
        self._version = version
        return found

    def _object(self, raw: object) -> list[KubeObject]:
        """The object, or none where it isn't one: it costs its name only."""
        try:
            return [read(self.resource, raw)]
        except ValueError as error:
            log.warning("%s: one object could not be read: %s", self.resource, error)
            return []

    def _get(
        self, query: Mapping[str, str], read_s: float, *, compressed: bool = False
    ) -> "_Response":
        url = f"{PATHS[self.resource]}?{urlencode(query)}"
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


def _reached(version: str | None, other: str) -> bool:
    """Whether a version is no earlier than another: they are numbers wherever etcd gives them."""
    try:
        return int(version or "") >= int(other)
    except ValueError:
        return False


class _Response:
    """An open response that `interrupt` can reach, and that is closed in the end."""

    def __init__(self, follower: Follower, response: Any) -> None:
        self._follower, self._response = follower, response
        follower._response = response

    def __enter__(self) -> Any:
        return self._response

    def __exit__(self, *_: object) -> None:
        self._follower._response = None
        self._response.close()
