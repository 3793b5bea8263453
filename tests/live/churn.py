"""
Pods that come, go and reuse addresses, under a recorder that is stopped, killed and started again.

    python tests/live/churn.py --connections 20000 --seed 1

A script with a seed plays kubelet, controllers and kube-proxy: it makes pods, gives them addresses
and tells the API server of it as late as a real kubelet does. Their processes dial and answer
meanwhile, and write down what they did. At the end every row of the file is held against that.
"""

import argparse
import pickle
import random
import signal
import sqlite3
import sys
import tempfile
import time
import uuid
from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

sys.path.append(str(Path(__file__).parents[1]))  # run by hand: apiserver is a floor up
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
from churnrestarts import Restarts
from churntraffic import Traffic
from playednode import KUBE, OUTSIDE, inside
from truth import Life, Truth, Verdict, judge


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
        meta = {"namespace": "churn", "name": name, "creationTimestamp": created}
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


@dataclass(slots=True)
class Result:
    """What a run came to."""

    verdict: Verdict
    failures: list[str]
    signals: Mapping[str, int]
    dials: int


def _held(script: Churn, connections: int) -> bool:
    """Whether the file has so many connections, and some more that may not be the script's."""
    if len(script.truth.dials) < connections:
        return False
    with closing(sqlite3.connect(f"file:{script.db}?mode=ro", uri=True, timeout=0.2)) as conn:
        try:
            [(held,)] = conn.execute("SELECT sum(connections) FROM flow")
        except sqlite3.OperationalError:  # the recorder is just opening or closing it
            return False
    return (held or 0) >= connections * 1.02


def churn(
    folder: Path,
    *,
    seed: int,
    connections: int,
    each_signal: int,
    rate: float = 110,
    most_s: float = 900,
    outages: bool = False,
    options: tuple[str, ...] = ("--aggregate", "connections"),
) -> Result:
    """
    Run until so many connections are held, and the recorder got each signal so often.

    The last recorder hears nothing new: it decides what the one before it left open. With `outages` the API server restarts, too: names that were known last stand meanwhile, and a
    gap says so, so some are not right.
    """
    with Churn(folder / "node.db", seed, rate, outages=outages) as script:
        script.run(0.5)
        restarts = Restarts(script, folder, seed, options)
        restarts.start()
        end = time.monotonic() + most_s
        try:
            while time.monotonic() < end and restarts.is_alive():
                script.run(0.5)
                if (down_s := restarts.down_s) is not None:
                    restarts.down_s = None
                    script.bury(down_s + 1)
                script.keep_up()
                often = min(restarts.signals.values()) >= each_signal
                if often and _held(script, connections):
                    break
            restarts.over.set()
            while restarts.is_alive() and time.monotonic() < end + 120:
                script.quiet = restarts.last
                script.run(0.5)
        finally:
            restarts.over.set()
            restarts.join(120)
        with (folder / "truth.pickle").open("wb") as file:
            pickle.dump(script.truth, file)
        return Result(
            judge(script.truth, script.db) if script.db.exists() else Verdict(),
            restarts.failures,
            restarts.signals,
            len(script.truth.dials),
        )


def main() -> int:
    parser = argparse.ArgumentParser(description="Hold a recorder that is restarted to the truth.")
    parser.add_argument("--connections", type=int, default=20_000)
    parser.add_argument("--each-signal", type=int, default=12)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=float, default=110)
    parser.add_argument("--most", type=float, default=3600, help="seconds it may take at most")
    parser.add_argument("--outages", action="store_true", help="the API server restarts, too")
    parser.add_argument("--folder", type=Path, help="keep the file, the truth and the logs here")
    parser.add_argument("--again", action="store_true", help="only judge what is in --folder")
    asked = parser.parse_args()
    if asked.again:
        truth = pickle.loads((asked.folder / "truth.pickle").read_bytes())
        verdict = judge(truth, asked.folder / "node.db")
        print("\n".join([*verdict.lines(), *verdict.stories()]))
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # leave nothing behind
    with ExitStack() as stack:
        folder = asked.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        result = churn(
            folder,
            seed=asked.seed,
            connections=asked.connections,
            each_signal=asked.each_signal,
            rate=asked.rate,
            outages=asked.outages,
            most_s=asked.most,
        )
    print(f"{result.dials} connections made; {dict(result.signals)}; seed {asked.seed}")
    print("\n".join(result.verdict.lines()))
    if asked.folder:
        stories = "\n".join(result.verdict.stories())
        (folder / "stories.txt").write_text(stories, encoding="utf-8")
    print("\n".join(result.failures))
    wrong = [name for name in result.verdict.counts if name.startswith(("wrong", "none: s"))]
    return int(bool(wrong or result.failures))


if __name__ == "__main__":
    sys.exit(main())
