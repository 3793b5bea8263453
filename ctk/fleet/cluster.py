"""An API server that objects are made and deleted on: what is not answered is asked again."""

import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import quote, urlencode

from ctk.errors import KubeError
from ctk.fleet.manifests import Object
from ctk.fleet.waits import Waits
from ctk.kube.api import Api, BrokenError, Patience, RefusedError
from ctk.kube.credentials import Credentials, InCluster, Kubeconfig
from ctk.record.signals import Stop

T = TypeVar("T")

_PAGE = 500
_SAID = ("reason", "message")  # of an event
_CONFLICT, _NOT_FOUND = 409, 404
# Too many requests, and what a server or a proxy before it says of its own trouble.
_LATER = (429, 500, 502, 503, 504)

# Where the objects of a kind are, and what kubectl calls them.
NAMESPACES = "/api/v1/namespaces"
NODES = "/api/v1/nodes"
_RBAC = "/apis/rbac.authorization.k8s.io/v1"
ROLES = f"{_RBAC}/clusterroles"
BINDINGS = f"{_RBAC}/clusterrolebindings"


class ApiAwayError(KubeError):
    """The API server has not answered for as long as there is patience."""


class CutShortError(ApiAwayError):
    """A signal came while the API server was waited for."""

    exit_code = 130  # as a shell says of SIGINT

    def __init__(self) -> None:
        super().__init__("it was interrupted while it waited for the API server")


class Cluster:
    """
    One cluster.

    A call is asked again while the server is away or in trouble, for `patience_s` at most, or until
    a signal comes; then it is an AwayError. `tell` is told once what is waited for. What the server
    refuses is a RefusedError. What is looked at again and again is asked once: `pods` and `log`.
    """

    def __init__(
        self,
        kubeconfig: Path | None,
        context: str | None,
        waits: Waits,
        stop: Stop,
        tell: Callable[[str], None],
    ) -> None:
        def credentials() -> Credentials:
            return InCluster() if kubeconfig is None else Kubeconfig(kubeconfig, context)

        self._waits, self.retry_s = waits, waits.retry_s
        self._stop, self._tell = stop, tell
        self.patience_s, self.is_making = waits.first_s, False
        self._is_told = False
        self.api = Api(credentials, Patience(connect=waits.connect_s, list=waits.answer_s))
        self.name = self.api.cluster_name

    def get(self, path: str) -> Mapping[str, Any]:
        """Give one object."""
        return self._patiently(lambda: self.api.get_object(path, self._waits.answer_s))

    def nodes(self, selector: str | None) -> Iterator[Mapping[str, Any]]:
        """Give the nodes with these labels."""
        return self._list(self.get, NODES, {"labelSelector": selector} if selector else {})

    def pods(self, namespace: str) -> Iterator[Mapping[str, Any]]:
        """Give the pods of a namespace; asked once."""
        answer_s = self._waits.answer_s
        path = f"{NAMESPACES}/{namespace}/pods"
        return self._list(lambda url: self.api.get_object(url, answer_s), path, {})

    def last_warning(self, namespace: str, pod: str) -> str:
        """Say what last went wrong with a pod, of what stands in events only; asked once."""
        fields = f"involvedObject.name={pod},type=Warning"
        url = f"{NAMESPACES}/{namespace}/events?{urlencode({'fieldSelector': fields})}"
        found = self.api.get_object(url, self._waits.answer_s).get("items") or [{}]
        last = max(found, key=lambda each: each.get("lastTimestamp") or "")
        return ": ".join(" ".join(str(last[key]).split()) for key in _SAID if last.get(key))

    def _list(
        self, get: Callable[[str], Mapping[str, Any]], path: str, query: dict[str, str]
    ) -> Iterator[Mapping[str, Any]]:
        query["limit"] = str(_PAGE)
        while True:
            page = get(f"{path}?{urlencode(query)}")
            yield from page.get("items") or ()
            token = page.get("metadata", {}).get("continue")
            if not token:
                return
            query["continue"] = token

    def create(self, path: str, each: Object) -> None:
        """
        Make an object, unless it is there already.

        An answer that is lost leaves open whether it was made; the names are nobody else's.
        """
        try:
            self._patiently(lambda: self.api.write("POST", path, each, self._waits.answer_s))
        except RefusedError as error:
            if error.answer.code != _CONFLICT:
                raise

    def delete(
        self,
        path: str,
        *,
        grace_s: int | None = None,
        propagation: Literal["Background", "Foreground"] = "Background",
    ) -> None:
        """Delete an object; one that is not there is no error."""
        options: dict[str, Any] = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": propagation,
        }
        if grace_s is not None:
            options["gracePeriodSeconds"] = grace_s
        try:
            self._patiently(lambda: self.api.write("DELETE", path, options, self._waits.answer_s))
        except RefusedError as error:
            if error.answer.code not in (_NOT_FOUND, _CONFLICT):
                raise

    def log(self, pod: str, container: str, since: str | None) -> str:
        """Give what a container has written from a time on, a line's time before it; asked once."""
        query = {"container": container, "timestamps": "true", "limitBytes": str(1 << 20)}
        if since is None:
            query["tailLines"] = "1000"
        else:
            query["sinceTime"] = since
        text = self.api.get_text(f"{pod}/log?{urlencode(query)}", self._waits.answer_s)
        return text.decode("utf-8", "replace")

    def _patiently(self, ask: Callable[[], T]) -> T:
        """Ask until there is an answer, or patience ends."""
        until_s, wait_s, renewed = time.monotonic() + self.patience_s, self._waits.retry_s, False
        # Until something is made, what was signalled before counts, too: nothing is to be deleted.
        signals = self._stop.signals if self.is_making else 0
        while True:
            after_s = 0.0
            try:
                answer = self._interruptibly(ask, signals)
                self._is_told = False
                return answer
            except BrokenError as error:
                why = str(error)
            except RefusedError as error:
                code, why, after_s = error.answer
                if code == 401 and not renewed:  # a token has expired
                    renewed = True
                    self.api.reload()
                elif code not in _LATER:
                    raise
            wait_s = min(max(wait_s, after_s), self._waits.most_retry_s)
            if time.monotonic() + wait_s > until_s:
                raise ApiAwayError(
                    f"the API server has not answered for {self.patience_s:.0f} s: {why}"
                )
            if not self._is_told and self.is_making:
                self._is_told = True
                self._tell(f"the API server is waited for, {self.patience_s:.0f} s at most: {why}")
            self._sleep(wait_s, signals)
            wait_s *= 2

    def _interruptibly(self, ask: Callable[[], T], signals: int) -> T:
        """Ask in a thread: a signal is not to wait for a connection, nor for an answer."""
        answers: list[T] = []
        errors: list[BaseException] = []

        def run() -> None:
            try:
                answers.append(ask())
            except BaseException as error:  # noqa: BLE001 - raised again by who waits for it
                errors.append(error)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        until_s = math.inf
        while thread.is_alive():
            thread.join(self._waits.tick_s)
            if until_s == math.inf and self._stop.signals > signals:
                until_s = time.monotonic() + (self._waits.cut_s if self.is_making else 0)
            if thread.is_alive() and time.monotonic() >= until_s:
                raise CutShortError
        if errors:
            raise errors[0]
        return answers[0]

    def _sleep(self, wait_s: float, signals: int) -> None:
        until_s = time.monotonic() + wait_s
        while (left_s := until_s - time.monotonic()) > 0:
            if self._stop.signals > signals:
                raise CutShortError
            time.sleep(min(left_s, self._waits.tick_s))


def path_of_pod(namespace: str, name: str) -> str:
    """Where a pod is."""
    return f"{NAMESPACES}/{namespace}/pods/{quote(name)}"
