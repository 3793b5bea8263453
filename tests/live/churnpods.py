"""Pods as their kubelet has them, and the API server that tells of them."""

import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

from apiserver import ApiServer, Json
from playednode import NODE, NODE_NAME
from truth import UID, Life, Truth

WORKER = "kl-worker"
SERVICES = {
    "web": ("10.96.1.1", 80),
    "api": ("10.96.1.2", 80),
    "late": ("10.96.1.3", 80),  # a recorder hears of it some seconds after it is dialled
}
NODE_PORT = 30080
HTTP, DATAGRAMS, NOTHING = 8080, 5353, 9999
ADDRESSES = {NODE_NAME: 11, WORKER: 5}  # little more than pods that want one
PODS = {NODE_NAME: 9, WORKER: 4}
TIMEOUTS = {"tcp_timeout_time_wait": 20, "udp_timeout": 8, "udp_timeout_stream": 12}
WINDOW_S = 2
ANSWER_S = 0.9  # less than the second after which a SYN is sent again: that is when it began then


class TellingApi(ApiServer):
    """An API server that writes down when it told whom of a pod's address."""

    def __init__(self, truth: Truth) -> None:
        super().__init__(bookmark_s=2.0)
        self._truth = truth

    def page(self, resource: str, query: dict[str, str]) -> tuple[int, Json]:
        code, answer = super().page(resource, query)
        if resource == "pods" and code == 200:
            for each in answer["items"]:
                self._told(each)
        return code, answer

    def follow(
        self, resource: str, query: dict[str, str], going_on: Callable[[], bool]
    ) -> Iterator[Json]:
        for event in super().follow(resource, query, going_on):
            yield event
            if resource == "pods" and event["type"] != "BOOKMARK":
                self._told(event["object"])

    def _told(self, each: Json) -> None:
        life = self._truth.lives.get(each["metadata"]["uid"])
        if life is not None and each["status"].get("podIPs"):
            life.served_ns.append(time.time_ns())


@dataclass(slots=True, eq=False)
class Pod:
    """A pod as its kubelet has it."""

    life: Life
    roles: str  # "client", "server" or "client server"
    app: str
    slot: int = -1
    sockets: set[socket.socket] = field(default_factory=set)
    seen: bool = False  # by its kubelet
    running: bool = False
    listed: bool = False
    ending: bool = False
    began: str = ""
    finished: str = ""
    wants: str = ""  # an address

    def json(self, phase: str, **meta: object) -> Json:
        """As a kubelet has it in the API server."""
        life = self.life
        namespace, name = life.name.split("/")
        status: Json = {"phase": phase}
        if self.seen:
            status |= {"hostIP": NODE, "startTime": rfc(life.created_ns)}
        if self.began:
            status["podIP"] = life.address
            status["podIPs"] = [{"ip": life.address}]
            state: Json = {"running": {"startedAt": self.began}}
            if self.finished:
                ended = {"startedAt": self.began, "finishedAt": self.finished, "exitCode": 0}
                state = {"terminated": ended}
            status["containerStatuses"] = [{"name": "c", "restartCount": 0, "state": state}]
            ready = {"type": "PodReadyToStartContainers", "status": "True"}
            ready["lastTransitionTime"] = rfc(life.wired_ns)
            status["conditions"] = [ready]
        return {
            "kind": "Pod",
            "metadata": {
                "namespace": namespace,
                "name": name,
                "uid": life.uid,
                "creationTimestamp": rfc(life.created_ns),
                "labels": {"app": self.app, UID: life.uid},
                **meta,
            },
            "spec": {"nodeName": life.node, "terminationGracePeriodSeconds": 30},
            "status": status,
        }


def node_object(name: str, cidr: str, address: str) -> Json:
    return {
        "kind": "Node",
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "spec": {"podCIDR": cidr, "podCIDRs": [cidr]},
        "status": {"addresses": [{"type": "InternalIP", "address": address}]},
    }


def rfc(at_ns: int) -> str:
    """A time as the API server writes it: the second it is in."""
    return datetime.fromtimestamp(at_ns // 10**9, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
