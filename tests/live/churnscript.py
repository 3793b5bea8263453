"""
The script of a node with churn: kubelets, controllers, the API server, its services.

Pods get addresses and pass them on, and the API server hears of it as late as from a real kubelet.
"""

import random
import time
import uuid
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from churnnode import ChurnNode
from churnpods import (
    ADDRESSES,
    HTTP,
    NODE_PORT,
    PODS,
    SERVICES,
    TIMEOUTS,
    WINDOW_S,
    WORKER,
    Pod,
    TellingApi,
    node_object,
    rfc,
)
from churntraffic import Traffic
from playednode import KUBE, OUTSIDE, inside
from truth import Life, Truth


class Churn(Traffic):
    """The script, from entering to leaving it."""

    def __init__(self, db: Path, seed: int, rate: float, *, outages: bool = False) -> None:
        self.db = db
        self._outages = outages
        truth = Truth(time.time_ns(), WINDOW_S * 10**9)
        play = ChurnNode(SERVICES, ("web", NODE_PORT), TIMEOUTS)
        super().__init__(play, truth, random.Random(seed), rate)
        self.api = TellingApi(truth)
        self._undo = ExitStack()
        self._free = {
            name: [f"10.244.{n}.{10 + each}" for each in range(ADDRESSES[name])]
            for n, name in enumerate(PODS)
        }
        self._backends: dict[str, list[Pod]] = {name: [] for name in SERVICES}

    def __enter__(self) -> Self:
        with self._undo as undo:
            undo.callback(self._close)
            undo.enter_context(self.play)
            self.api.load([KUBE / "nodes.json"])
            self.api.put(node_object(WORKER, "10.244.1.0/24", "172.18.0.3"))
            with inside(self.play.node):
                self.api.start()
            undo.callback(self.api.stop)
            for name in SERVICES:
                self.after(6 if name == "late" else 0, lambda name=name: self._tell_service(name))
            with self.play.within(self.play.outside):
                self._listen(self._outside, OUTSIDE, 443, "external")
            for node, n in PODS.items():
                for _ in range(n):
                    self.after(self.chance.uniform(0, 2), lambda node=node: self._create(node))
            for n in range(6):
                self.after(4 + 9 * n, lambda n=n: self._add_bridge(n))
            if self._outages:
                self.after(self.chance.uniform(15, 25), self._lose_api)
            self.after(0, self._probe)
            self.after(0, self._dial_any)
            self._undo = undo.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._undo.close()

    # Kubelets and controllers.

    def _create(self, node: str, roles: str = "", wants: str = "", name: str = "") -> None:
        """A controller makes a pod, which waits for an address where there is none."""
        chance = self.chance
        if not name:
            name = f"churn/p{next(self._serial)}"
        life = Life(str(uuid.uuid4()), name, node, created_ns=time.time_ns())
        roles = roles or chance.choice(("client", "client", "server", "client server"))
        pod = Pod(life, roles, chance.choice(("web", "web", "api", "late")), wants=wants)
        self.truth.lives[life.uid] = life
        self._pods.append(pod)
        self.api.put(pod.json("Pending"))
        self.after(chance.uniform(0.02, 0.2), lambda: self._see(pod))
        self.after(chance.uniform(0.2, 0.6), lambda: self._wire(pod, 40))

    def _see(self, pod: Pod) -> None:
        pod.seen = True
        self.api.put(pod.json("Pending"))

    def _wire(self, pod: Pod, tries: int) -> None:
        """The CNI gives an address: often the one that was free last."""
        life, free, chance = pod.life, self._free[pod.life.node], self.chance
        if pod.ending:
            return
        if not free or not self.play.free_slots or (pod.wants and pod.wants not in free):
            if tries == 1:
                pod.wants = ""
            self.after(0.1, lambda: self._wire(pod, max(1, tries - 1)))
            return
        n = free.index(pod.wants) if pod.wants else -1 if chance.random() < 0.6 else 0
        life.address = free.pop(n)
        pod.slot = self.play.free_slots.pop(0)
        self.play.give(pod.slot, life.address)
        life.wired_ns = time.time_ns()
        self.after(chance.uniform(0.25, 0.7), lambda: self._begin(pod))

    def _begin(self, pod: Pod) -> None:
        """The process runs, and is busy at once."""
        if pod.ending:
            self._unwire(pod)
            return
        chance, life = self.chance, pod.life
        pod.running, life.began_ns = True, time.time_ns()
        pod.began = rfc(life.began_ns)
        with self.play.within(pod.slot):
            if "server" in pod.roles:
                self._listen(pod.sockets, life.address, HTTP, life.uid)
                self._answer(pod.sockets, life.address, life.uid)
        for _ in range(4):
            self.after(chance.uniform(0, 0.4), lambda: self._dial_from(pod))
        self.after(chance.uniform(0.1, 1.2), lambda: self._post(pod))
        self.after(chance.uniform(2, 22), lambda: self._end(pod))

    def _post(self, pod: Pod) -> None:
        """The kubelet tells that it runs; its service goes there too."""
        if not pod.ending:
            self.api.put(pod.json("Running"))
            pod.life.posted_ns = time.time_ns()
            if "server" in pod.roles:
                self.after(self.chance.uniform(0, 0.3), lambda: self._list(pod))

    def _list(self, pod: Pod) -> None:
        if not pod.ending:
            pod.listed = True
            self._backends[pod.app].append(pod)
            self.truth.listed[pod.life.address, HTTP].append(
                (f"churn/{pod.app}", time.time_ns(), 0)
            )
            self._tell_backends(pod.app)

    def _unlist(self, pod: Pod) -> None:
        if pod.listed:
            pod.listed = False
            self._backends[pod.app].remove(pod)
            spans = self.truth.listed[pod.life.address, HTTP]
            service, from_ns, _ = spans.pop()
            spans.append((service, from_ns, time.time_ns()))
            self._tell_backends(pod.app)

    def _end(self, pod: Pod, how: str = "") -> None:
        """Somebody deletes it, or its work is done; a controller makes another."""
        if pod.ending:
            return
        chance, life = self.chance, pod.life
        pod.ending = True
        life.how = how or chance.choice(("graceful", "graceful", "forced", "completed"))
        heir = chance.random()
        late_s = 0.0 if life.how == "completed" else chance.uniform(0, 1.0)
        if life.how == "forced":
            self.api.delete(pod.json("Running"))
            life.deleted_ns = time.time_ns()
        elif life.how == "graceful":
            in_30s = rfc(time.time_ns() + 30 * 10**9)
            self.api.put(
                pod.json("Running", deletionTimestamp=in_30s, deletionGracePeriodSeconds=30)
            )
        self._unlist(pod)
        for _ in range(3):
            self.after(max(0.0, late_s - chance.uniform(0, 0.2)), lambda: self._dial_from(pod))
        self.after(late_s, lambda: self._finish(pod))
        if heir < 0.8 or life.how == "completed":
            wants = life.address if heir < 0.3 else ""
            roles = "server" if heir < 0.15 else ""
            in_s = chance.choice((chance.uniform(0, 0.3), late_s + chance.uniform(0, 1.5)))
            self.after(in_s, lambda: self._create(life.node, roles, wants))

    def _finish(self, pod: Pod) -> None:
        """Its process ends, then its network, then its object."""
        chance, life = self.chance, pod.life
        pod.running, life.ended_ns = False, time.time_ns()
        pod.finished = rfc(life.ended_ns)
        for sock in list(pod.sockets):
            self._drop(pod.sockets, sock)
        gone_s = chance.uniform(0.05, 0.3)
        self.after(gone_s, lambda: self._unwire(pod))
        if life.how != "forced":
            self.after(gone_s + chance.uniform(0.02, 0.15), lambda: self._final(pod))

    def _unwire(self, pod: Pod) -> None:
        life = pod.life
        self.play.take(pod.slot, life.address)
        life.unwired_ns = time.time_ns()
        self.play.free_slots.append(pod.slot)
        self._free[life.node].append(life.address)
        self._pods.remove(pod)

    def _final(self, pod: Pod) -> None:
        self.api.put(pod.json("Succeeded" if pod.life.how == "completed" else "Failed"))
        pod.life.final_ns = time.time_ns()
        stays_s = self.chance.uniform(4, 20) if pod.life.how == "completed" else 0.05
        self.after(stays_s + self.chance.uniform(0, 0.5), lambda: self._delete(pod))

    def _delete(self, pod: Pod) -> None:
        self.api.delete(pod.json("Failed"))
        pod.life.deleted_ns = time.time_ns()

    def keep_up(self) -> None:
        """Controllers see that there are as many as there should be."""
        for node, n in PODS.items():
            alive = sum(pod.life.node == node and not pod.ending for pod in self._pods)
            for _ in range(n - alive):
                self._create(node)

    def bury(self, within_s: float) -> None:
        """Let some die while nobody records, and servers that dial nobody have their addresses."""
        self.keep_up()
        alive = [pod for pod in self._pods if pod.running and not pod.ending]
        for pod in self.chance.sample(alive, min(3, len(alive))):
            self.after(self.chance.uniform(0, within_s), lambda pod=pod: self._end(pod))
            self.after(
                self.chance.uniform(0, within_s + 1),
                lambda pod=pod: self._create(pod.life.node, "server", pod.life.address),
            )

    # The API server.

    def _lose_api(self) -> None:
        """It restarts: what happens meanwhile is in its lists, not in a watch."""
        self.api.stop()
        self.after(self.chance.uniform(0.5, 3), self._find_api)

    def _find_api(self) -> None:
        with inside(self.play.node):
            self.api.start()
        self.after(self.chance.uniform(15, 40), self._lose_api)

    # Services.

    def _tell_service(self, name: str) -> None:
        address, port = SERVICES[name]
        web = {"nodePort": NODE_PORT} if name == "web" else {}
        kind = "NodePort" if web else "ClusterIP"
        ports = [{"name": "http", "protocol": "TCP", "port": port, "targetPort": HTTP, **web}]
        spec = {"type": kind, "clusterIP": address, "clusterIPs": [address], "ports": ports}
        created = rfc(self.truth.started_ns)
        fields = [{"operation": "Update", "time": created, "fieldsV1": {"f:spec": {"f:type": {}}}}]
        meta = {"namespace": "churn", "name": name, "creationTimestamp": created}
        meta |= {"managedFields": fields}
        self.api.put({"kind": "Service", "metadata": meta, "spec": spec, "status": {}})

    def _tell_backends(self, name: str) -> None:
        """The slice says who is behind a service, and kube-proxy follows it."""
        addresses = [pod.life.address for pod in self._backends[name]]
        meta = {
            "namespace": "churn",
            "name": f"{name}-abcde",
            "labels": {"kubernetes.io/service-name": name},
        }
        self.api.put(
            {
                "kind": "EndpointSlice",
                "metadata": meta,
                "addressType": "IPv4",
                "endpoints": [
                    {"addresses": [each], "conditions": {"ready": True}} for each in addresses
                ],
                "ports": [{"name": "http", "protocol": "TCP", "port": HTTP}],
            }
        )
        self.play.balance(name, [(each, HTTP) for each in addresses])

    def _add_bridge(self, n: int) -> None:
        """An interface of the node appears, and kubelet's probes come from its address."""
        self.play.add_bridge(f"cni{n}", f"10.244.0.{200 + n}")
        self._bridges.append(f"10.244.0.{200 + n}")
