"""What was made in a cluster, so that all of it is deleted, or named."""

import secrets
import string
import time
from typing import NamedTuple

from ctk.errors import KubeError
from ctk.fleet import manifests
from ctk.fleet.cluster import BINDINGS, NAMESPACES, ROLES, ApiAwayError, Cluster
from ctk.fleet.manifests import Object
from ctk.fleet.waits import Waits
from ctk.kube.api import BrokenError, RefusedError

_PREFIX = "ctk-collect-"
_LETTERS = string.ascii_lowercase + string.digits
_NOT_FOUND = 404


class Left(NamedTuple):
    """What could not be deleted: names as kubectl takes them (namespace/x), and why."""

    names: tuple[str, ...]
    why: str

    @property
    def said(self) -> str:
        """Say it in a sentence."""
        return f"left in the cluster: {', '.join(self.names)}: {self.why}"


class Made:
    """
    A temporary namespace and what is needed beside it.

    Its name is chosen here and not by the server (generateName): where the answer to its creation
    is lost, it is known what there may be. It has 41 random bits, so what has the name is ours.
    """

    def __init__(self, cluster: Cluster, waits: Waits) -> None:
        self._cluster, self._waits = cluster, waits
        self.namespace = _PREFIX + "".join(secrets.choice(_LETTERS) for _ in range(8))
        self._path = f"{NAMESPACES}/{self.namespace}"
        self._asked: list[str] = []  # kinds that there may be, in their order

    def make(self) -> None:
        """Make the namespace, the account and its rights; a KubeError names the right it lacks."""
        self._make("namespace", NAMESPACES, manifests.namespace(self.namespace))
        try:
            owner = self._cluster.get(self._path)
        except RefusedError as error:
            raise KubeError(
                f"the namespace cannot be looked at: {error.answer.message}",
                hint="kubectl auth can-i get namespaces",
            ) from error
        account = manifests.service_account(self.namespace)
        self._make("serviceaccount", f"{self._path}/serviceaccounts", account)
        self._make("clusterrole", ROLES, manifests.cluster_role(self.namespace, owner))
        binding = manifests.cluster_role_binding(self.namespace, owner)
        self._make("clusterrolebinding", BINDINGS, binding)

    def make_pod(self, pod: Object) -> None:
        """Make a pod in the namespace; a RefusedError tells what the server says against it."""
        self._cluster.create(f"{self._path}/pods", pod)

    def _make(self, kind: str, path: str, each: Object) -> None:
        self._asked.append(kind)
        try:
            self._cluster.create(path, each)
        except RefusedError as error:
            self._asked.remove(kind)
            raise KubeError(
                f"a {kind} cannot be made: {error.answer.message}",
                hint=f"kubectl auth can-i create {kind}s --all-namespaces",
            ) from error

    def left(self, why: str) -> Left | None:
        """Name what there may be."""
        # The account and the pods go with their namespace.
        names = [f"{kind}/{self.namespace}" for kind in self._asked if kind != "serviceaccount"]
        return Left(tuple(names), why) if names else None

    def delete(self) -> Left | None:
        """Delete all of it, and wait until it is gone; give what is left."""
        whys = []
        for kind, path in (
            ("clusterrolebinding", f"{BINDINGS}/{self.namespace}"),
            ("clusterrole", f"{ROLES}/{self.namespace}"),
            ("namespace", self._path),
        ):
            if kind not in self._asked:
                continue
            try:
                self._cluster.delete(path)
                if kind == "namespace":
                    self._wait_until_gone()
            except ApiAwayError as error:
                return self.left(error.message)
            except (RefusedError, BrokenError, KubeError) as error:
                whys.append(str(error))
                continue
            self._asked.remove(kind)
        return self.left("; ".join(whys))

    def _wait_until_gone(self) -> None:
        """Wait for the namespace's pods, which have half of the time to end by themselves."""
        began_s, forced = time.monotonic(), False
        while True:
            try:
                found = self._cluster.get(self._path)
            except RefusedError as error:
                if error.answer.code == _NOT_FOUND:
                    return
                raise
            passed_s = time.monotonic() - began_s
            if passed_s > self._waits.gone_s:
                raise KubeError(f"it is still being deleted after {passed_s:.0f} s{_why(found)}")
            if passed_s > self._waits.gone_s / 2 and not forced:
                forced = True
                self._force()
            time.sleep(self._waits.gone_look_s)

    def _force(self) -> None:
        """Give up pods whose node does not answer: their objects would stay as long as it."""
        for pod in self._cluster.pods(self.namespace):
            self._cluster.delete(f"{self._path}/pods/{pod['metadata']['name']}", grace_s=0)


def _why(namespace: Object) -> str:
    conditions = namespace.get("status", {}).get("conditions") or ()
    said = [each["message"] for each in conditions if each.get("status") == "True"]
    return f" ({'; '.join(said)})" if said else ""
