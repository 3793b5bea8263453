"""
List and watch: what the API server says, as changes on a queue.

One thread a resource: it lists in pages from the server's cache, watches with bookmarks, goes on
from the last version when a stream ends, and lists again when that version has expired or the
server was away. JSON is read raw and object by object, so that a list of any size costs the
memory of one object: the typed client takes 70 KB a pod.

The only user of `kubernetes`, which knows kubeconfigs, credentials that rotate and TLS.
"""

import json
import logging
import random
import re
import threading
import time
from codecs import getincrementaldecoder
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple
from urllib.parse import urlencode

import orjson

from ctk.errors import KubeError
from ctk.kube.objects import (
    RESOURCES,
    Change,
    Gone,
    KubeObject,
    Listed,
    Lost,
    Resource,
    Seen,
    Stale,
    read,
)

log = logging.getLogger("ctk.kube")

_PATHS: Mapping[Resource, str] = {
    "pods": "/api/v1/pods",
    "services": "/api/v1/services",
    "endpointslices": "/apis/discovery.k8s.io/v1/endpointslices",
    "nodes": "/api/v1/nodes",
}
_PAGE = 500
_CHUNK_BYTES = 1 << 18
_STOP_S = 0.9
_LASTED_S = 1.0  # a stream that ends sooner has failed: a server that does so is not hurried


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long to wait for what, in seconds."""

    connect: float = 10.0
    list: float = 30.0  # without a byte
    # A server sends bookmarks about every minute, so a stream this silent hangs.
    silence: float = 90.0
    watch: float = 300.0  # the server ends a stream then; 20 % more or less, not all nodes at once
    retry: float = 0.5  # doubled with each failure, up to
    most: float = 15.0
    denied: float = 60.0


class _Answer(NamedTuple):
    """A refusal, in the words of its Status; `retry_after_s` is what the server asks for."""

    code: int
    message: str
    retry_after_s: float


class _RefusedError(Exception):
    """The API server answered, but not with what was asked for."""

    def __init__(self, answer: _Answer) -> None:
        super().__init__(f"{answer.code} {answer.message}")
        self.answer = answer


class _BrokenError(Exception):
    """No answer, or one that stopped halfway."""


class _CutError(_BrokenError):
    """The connection ended, and was whole until now: not so one that fell silent."""


class Watch:
    """
    Follow everything in a cluster that owns or hides an address.

    Without `kubeconfig` it is the cluster this runs in. `only_node` leaves out other nodes' pods.
    """

    def __init__(
        self,
        kubeconfig: Path | None = None,
        context: str | None = None,
        *,
        only_node: str | None = None,
        patience: Patience | None = None,
    ) -> None:
        self._patience = patience or Patience()
        self._stopping = threading.Event()
        api = _Api(kubeconfig, context, self._patience)
        selector = {"pods": {"fieldSelector": f"spec.nodeName={only_node}"}} if only_node else {}
        self._followers = [
            _Follower(resource, api, selector.get(resource, {}), self._patience, self._stopping)
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


class _Follower:
    """Keeps one resource known."""

    def __init__(
        self,
        resource: Resource,
        api: "_Api",
        selector: Mapping[str, str],
        patience: Patience,
        stopping: threading.Event,
    ) -> None:
        self._resource = resource
        self._api = api
        self._selector = selector
        self._patience = patience
        self._stopping = stopping
        self._version: str | None = None  # None: list first
        self._lost: Lost | None = None
        self._heard_ns = time.time_ns()
        self._failures = 0  # in a row
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
                    self._found()
                self._watch()
                continue
            except _RefusedError as error:
                self._failures += 1
                pause_s = self._refused(error.answer)
            except _BrokenError as error:
                self._failures += 1
                pause_s = self._failed(str(error))
            self._stopping.wait(pause_s)

    def _refused(self, answer: _Answer) -> float:
        """Decide what a refusal means; gives the seconds to wait."""
        resource = self._resource
        if answer.code == 410:
            self._lose("the version that was watched has expired")
            return self._pause() if self._failures > 1 else 0.0
        if answer.code == 401:
            self._api.reload()
            if self._failures == 1:
                return 0.0
        if answer.code == 403:
            group = "discovery.k8s.io" if resource == "endpointslices" else ""
            self._lose(
                f'forbidden: needs get, list and watch on {resource} of apiGroup "{group}"',
                denied=True,
            )
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
        self._api.complain(self._resource, why, denied=denied)

    def _found(self) -> None:
        if self._lost is not None:
            lost, self._lost = self._lost, None
            self._queue.put(Stale(self._resource, lost.at_ns, self._heard_ns, lost.why))
            self._api.rejoice(self._resource)

    def _list(self) -> None:
        """Put the whole resource on the queue as one change."""
        query = {"limit": str(_PAGE), "resourceVersion": "0", **self._selector}
        found: list[KubeObject] = []
        while True:
            page: dict[str, Any] = {}
            with self._get(query, self._patience.list, compressed=True) as response:
                for raw in _items(self._chunks(response), page):
                    found.extend(self._object(raw))
            meta = page.get("metadata") or {}
            if not meta.get("continue"):
                break
            # A token stands for its version, and a server refuses both.
            query = {"limit": str(_PAGE), "continue": meta["continue"], **self._selector}
        self._version = meta.get("resourceVersion") or "0"
        self._heard_ns = time.time_ns()
        self._queue.put(Listed(self._resource, tuple(found), self._heard_ns))

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
            except _CutError:
                self._heard_ns = time.time_ns()
                raise
            finally:
                lasted_s = time.monotonic() - opened_s
                if lasted_s >= _LASTED_S:
                    self._failures = 0
        if lasted_s < _LASTED_S:
            raise _BrokenError("the stream ended at once")

    def _stream(self, response: Any) -> None:
        rest = b""
        for chunk in self._chunks(response):
            self._heard_ns = time.time_ns()
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                if line.strip():
                    self._event(line)
        if rest.strip():
            raise _BrokenError("the stream ended in the middle of a line")

    def _event(self, line: bytes) -> None:
        at_ns = self._heard_ns
        try:
            event = orjson.loads(line)
            kind, raw = event["type"], event["object"]
            if kind == "ERROR":
                raise _RefusedError(
                    _Answer(int(raw.get("code") or 500), str(raw.get("message") or ""), 0.0)
                )
            version = raw["metadata"]["resourceVersion"]
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            self._version = None
            raise _BrokenError(f"the stream holds what is no event: {error}") from error
        if kind in ("ADDED", "MODIFIED", "DELETED"):
            change = Gone if kind == "DELETED" else Seen
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
        return _Response(self, self._api.get(url, read_s, compressed=compressed))

    def _chunks(self, response: Any) -> Iterator[bytes]:
        while not self._stopping.is_set():
            chunk = self._api.read(response)
            if not chunk:
                return
            yield chunk
        raise _BrokenError("stopped")


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


class _Api:
    """One server, its credentials, and what was last said about it in the log."""

    def __init__(self, kubeconfig: Path | None, context: str | None, patience: Patience) -> None:
        self._kubeconfig, self._context, self._patience = kubeconfig, context, patience
        self._lock = threading.Lock()
        self._away: set[Resource] = set()
        self._loaded_s = 0.0
        self._load()

    def get(self, url: str, read_s: float, *, compressed: bool) -> Any:
        """Open a response with status 200; anything else is a refusal."""
        from urllib3 import Timeout
        from urllib3.exceptions import HTTPError

        with self._lock:
            headers, host, pool = self._headers(), self._configuration.host, self._pool
        if compressed:
            headers["accept-encoding"] = "gzip"
        try:
            response = pool.request(
                "GET",
                host + url,
                headers=headers,
                preload_content=False,
                redirect=False,
                retries=False,
                timeout=Timeout(connect=self._patience.connect, read=read_s),
            )
            if response.status == 200:
                return response
            try:
                body = response.read(1 << 16)
            finally:
                response.close()
        except (HTTPError, OSError) as error:
            raise _BrokenError(_plainly(error)) from error
        raise _RefusedError(_answer(response.status, response.headers, body))

    def read(self, response: Any) -> bytes:
        """What has arrived, at least a byte; b"" at the end."""
        from urllib3.exceptions import HTTPError, ReadTimeoutError

        try:
            chunk: bytes = response.read1(_CHUNK_BYTES)
        except ReadTimeoutError as error:
            raise _BrokenError(_plainly(error)) from error
        except (HTTPError, OSError, ValueError) as error:
            raise _CutError(_plainly(error)) from error
        return chunk

    def reload(self) -> None:
        """Read credentials anew, unless another thread just did."""
        with self._lock:
            if time.monotonic() - self._loaded_s > self._patience.retry:
                try:
                    self._load()
                except KubeError as error:
                    log.warning("%s", error)

    def complain(self, resource: Resource, why: str, *, denied: bool) -> None:
        """Log a loss: a refused resource by itself, a server that is away once for all."""
        if denied:
            log.warning("%s: %s; their names are left out", resource, why)
            return
        with self._lock:
            first = not self._away
            self._away.add(resource)
        if first:
            log.warning("API server: %s; recording goes on, names follow", why)
        else:
            log.debug("%s: %s", resource, why)

    def rejoice(self, resource: Resource) -> None:
        """Log that a resource is known again, or all are."""
        with self._lock:
            self._away.discard(resource)
            all_known = not self._away
        log.log(
            logging.INFO if all_known else logging.DEBUG,
            "%s",
            "API server: names are up to date again" if all_known else f"{resource}: known again",
        )

    def _headers(self) -> dict[str, str]:
        from kubernetes.config import ConfigException

        headers = {"accept": "application/json", "user-agent": "ctk"}
        try:
            settings: Mapping[str, Any] = self._configuration.auth_settings()
        except (ConfigException, OSError) as error:
            raise _BrokenError(f"credentials could not be read: {error}") from error
        for setting in settings.values():
            if setting["in"] == "header" and setting["value"]:
                headers[setting["key"]] = setting["value"]
        return headers

    def _load(self) -> None:
        from kubernetes.client import Configuration
        from kubernetes.client.rest import RESTClientObject
        from kubernetes.config import (
            ConfigException,
            load_incluster_config,
            load_kube_config,
        )
        from yaml import YAMLError

        configuration = Configuration()
        configuration.connection_pool_maxsize = len(RESOURCES)
        try:
            if self._kubeconfig is None:
                load_incluster_config(configuration)
            else:
                load_kube_config(
                    str(self._kubeconfig), self._context, configuration, persist_config=False
                )
            pool = RESTClientObject(configuration).pool_manager
        except (ConfigException, OSError, ValueError, TypeError, YAMLError) as error:
            if self._kubeconfig is None:
                raise KubeError(
                    "this is not inside a cluster", hint="give --kubeconfig, --objects or --no-kube"
                ) from error
            text = "it is no kubeconfig" if isinstance(error, TypeError) else str(error)
            raise KubeError(
                f"{self._kubeconfig}: {' '.join(text.split())}",
                hint="check it with: kubectl --kubeconfig FILE config view",
            ) from error
        self._configuration, self._pool = configuration, pool
        self._loaded_s = time.monotonic()


def _answer(code: int, headers: Mapping[str, str], body: bytes) -> _Answer:
    try:
        message = str(orjson.loads(body)["message"])
    except (KeyError, TypeError, ValueError):
        message = "without a Status"
    after = headers.get("Retry-After", "")
    return _Answer(code, " ".join(message.split())[:200], float(after) if after.isdecimal() else 0)


def _plainly(error: Exception) -> str:
    """One line a person understands, from urllib3's nested ones."""
    text = " ".join(str(error).split())
    if "CERTIFICATE_VERIFY_FAILED" in text or "doesn't match" in text:
        cause = text.partition("verify failed: ")[2].partition(" (_ssl")[0] or text
        return (
            f"its certificate is not trusted ({cause}); mend certificate-authority in the "
            "kubeconfig, or set insecure-skip-tls-verify there"
        )
    if "IncompleteRead" in text:
        return "the connection was cut"
    # urllib3 begins with its pool's repr.
    return text.partition("): ")[2] or text or type(error).__name__


_ITEMS = re.compile(r'"items"\s*:\s*\[')
_BETWEEN = re.compile(r"[\s,]*")
_decode = json.JSONDecoder().raw_decode


def _items(chunks: Iterator[bytes], page: dict[str, Any]) -> Iterator[object]:
    """
    Each item of a list as its text arrives; the list without them is put into `page`.

    A list asked for with resourceVersion=0 comes whole, whatever its limit: at 10,000 pods that is
    100 MB of text, of which only a chunk and one object are held.
    """
    decoder = getincrementaldecoder("utf-8")()
    text, start = "", -1
    try:
        for chunk in chunks:
            text += decoder.decode(chunk)
            if start < 0:
                found = _ITEMS.search(text)
                if found is None:
                    continue
                head, text, start = text[: found.end()], text[found.end() :], 0
            while True:
                start = _skip(text, start)
                if start >= len(text) or text[start] == "]":
                    break
                try:
                    item, start = _decode(text, start)
                except ValueError:
                    break  # the rest of it comes with the next chunk
                yield item
            text, start = text[start:], 0
        page.update(json.loads(text if start < 0 else head + text))
    except (RecursionError, ValueError) as error:
        raise _BrokenError(f"the list ended halfway: {error}") from error


def _skip(text: str, start: int) -> int:
    between = _BETWEEN.match(text, start)
    return start if between is None else between.end()
