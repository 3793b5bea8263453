"""
List and watch: what the API server says, as changes on a queue, from one thread a resource.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from queue import SimpleQueue
from urllib.parse import urlencode

from ctk.kube.api import Api, BrokenError, Patience, RefusedError, items
from ctk.kube.credentials import SERVICE_ACCOUNT, Credentials, InCluster, Kubeconfig
from ctk.kube.follower import PATHS, Follower, missing_rule
from ctk.kube.objects import RESOURCES, Change, Node, Resource
from ctk.kube.parse import read

_STOP_S = 0.9


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
            Follower(
                resource,
                api,
                only_node if resource == "pods" else None,
                self._patience,
                self._stopping,
            )
            for resource in RESOURCES
        ]

    def start(self, queue: "SimpleQueue[Change]", pods_version: str | None = None) -> None:
        """
        Begin to put changes on `queue`, from one thread a resource.

        `pods_version` is where an earlier watch of pods ended: what happened since comes first, as
        far as the server still has it.
        """
        for follower in self._followers:
            follower.start(queue, pods_version if follower.resource == "pods" else None)

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
    for resource, path in PATHS.items():
        try:
            for query in ("limit=1", "watch=1&timeoutSeconds=1"):
                api.get(f"{path}?{query}", patience.list, compressed=False).close()
        except RefusedError as error:
            denied = error.answer.code == 403
            found[resource] = missing_rule(resource) if denied else str(error)
        except BrokenError as error:
            found[resource] = str(error)
    return found


def nodes(kubeconfig: Path | None, context: str | None, name: str | None = None) -> Iterator[Node]:
    """Yield all nodes, or the one of that name, as their text arrives; nothing more on an error."""
    patience = Patience(connect=5.0, list=10.0)
    api = Api(_credentials(kubeconfig, context), patience)
    chosen = {} if name is None else {"fieldSelector": f"metadata.name={name}"}
    query = urlencode({"resourceVersion": "0", **chosen})
    with (
        suppress(BrokenError, RefusedError, ValueError),
        closing(api.get(f"{PATHS['nodes']}?{query}", patience.list, compressed=True)) as answer,
    ):
        for raw in items(iter(lambda: api.read(answer), b""), {}):
            found = read("nodes", raw)
            assert isinstance(found, Node)
            yield found


def _credentials(
    kubeconfig: Path | None, context: str | None, service_account: Path = SERVICE_ACCOUNT
) -> Callable[[], Credentials]:
    def read_now() -> Credentials:
        if kubeconfig is None:
            return InCluster(service_account)
        return Kubeconfig(kubeconfig, context)

    return read_now
