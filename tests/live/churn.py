"""
Pods that come, go and reuse addresses, under a recorder that is stopped, killed and started again.

    python tests/live/churn.py --connections 20000 --seed 1

A script with a seed plays kubelet, controllers and kube-proxy: it makes pods, gives them addresses
and tells the API server of it as late as a real kubelet does. Their processes dial and answer
meanwhile, and write down what they did. At the end every row of the file is held against that.
"""

import argparse
import heapq
import itertools
import pickle
import random
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

sys.path.append(str(Path(__file__).parents[1]))  # run by hand: apiserver is a floor up
from apiserver import ApiServer, Json
from churnnode import ChurnNode
from playednode import KUBE, NODE, NODE_NAME, OUTSIDE, inside, listeners, until
from recording import CTK
from truth import UID, Dial, Life, Session, Truth, Verdict, judge

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
_ANSWER_S = 0.9  # less than the second after which a SYN is sent again: that is when it began then


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
            status |= {"hostIP": NODE, "startTime": _rfc(life.created_ns)}
        if self.began:
            status["podIP"] = life.address
            status["podIPs"] = [{"ip": life.address}]
            state: Json = {"running": {"startedAt": self.began}}
            if self.finished:
                ended = {"startedAt": self.began, "finishedAt": self.finished, "exitCode": 0}
                state = {"terminated": ended}
            status["containerStatuses"] = [{"name": "c", "restartCount": 0, "state": state}]
            ready = {"type": "PodReadyToStartContainers", "status": "True"}
            ready["lastTransitionTime"] = _rfc(life.wired_ns)
            status["conditions"] = [ready]
        return {
            "kind": "Pod",
            "metadata": {
                "namespace": namespace,
                "name": name,
                "uid": life.uid,
                "creationTimestamp": _rfc(life.created_ns),
                "labels": {"app": self.app, UID: life.uid},
                **meta,
            },
            "spec": {"nodeName": life.node, "terminationGracePeriodSeconds": 30},
            "status": status,
        }


class Churn:
    """The script and the traffic, in one thread, from entering to leaving it."""

    def __init__(self, db: Path, seed: int, rate: float, *, outages: bool = False) -> None:
        self.db, self.chance, self._rate = db, random.Random(seed), rate
        self._outages = outages
        self.truth = Truth(time.time_ns(), WINDOW_S * 10**9)
        self.play = ChurnNode(SERVICES, ("web", NODE_PORT), TIMEOUTS)
        self.api = TellingApi(self.truth)
        self._undo = ExitStack()
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._serial = itertools.count()
        self._select = selectors.DefaultSelector()
        self._pods: list[Pod] = []
        self._free = {
            node: [f"10.244.{n}.{10 + each}" for each in range(ADDRESSES[node])]
            for n, node in enumerate(PODS)
        }
        self._ports: dict[str, Iterator[int]] = {}
        self._bridges: list[str] = []
        self._backends: dict[str, list[Pod]] = {name: [] for name in SERVICES}
        self._outside: set[socket.socket] = set()

    def __enter__(self) -> Self:
        with self._undo as undo:
            undo.callback(self._close)
            undo.enter_context(self.play)
            self.api.load([KUBE / "nodes.json"])
            self.api.put(_node(WORKER, "10.244.1.0/24", "172.18.0.3"))
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

    def _close(self) -> None:
        for sockets in (self._outside, *(pod.sockets for pod in self._pods)):
            for sock in list(sockets):
                self._drop(sockets, sock)
        self._select.close()

    def after(self, seconds: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._due, (time.monotonic() + seconds, next(self._serial), act))

    def run(self, seconds: float) -> None:
        """Let things happen for a while."""
        end = time.monotonic() + seconds
        while (at := time.monotonic()) < end:
            for key, _ in self._select.select(max(0.0, min(end, self._due[0][0]) - at)):
                key.data(key.fileobj)
            for _ in range(20):
                if self._due[0][0] > time.monotonic():
                    break
                heapq.heappop(self._due)[2]()

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
        pod.began = _rfc(life.began_ns)
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
            in_30s = _rfc(time.time_ns() + 30 * 10**9)
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
        pod.finished = _rfc(life.ended_ns)
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
        created = _rfc(self.truth.started_ns)
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

    # Traffic.

    def _dial_any(self) -> None:
        clients = [pod for pod in self._pods if pod.running and "client" in pod.roles]
        if clients:
            self._dial_from(self.chance.choice(clients))
        if self.chance.random() < 0.03:
            with self.play.within(self.play.outside):
                self._dial("tcp", OUTSIDE, NODE, NODE_PORT, "external", service="churn/web")
        self.after(self.chance.expovariate(self._rate), self._dial_any)

    def _probe(self) -> None:
        """Kubelet asks whether a server lives."""
        servers = [pod for pod in self._pods if pod.running and "server" in pod.roles]
        if servers:
            source = self.chance.choice(self._bridges) if self._bridges else NODE
            with self.play.within(self.play.node):
                target = self.chance.choice(servers).life.address
                self._dial("tcp", source, target, HTTP, "node")
        self.after(self.chance.expovariate(self._rate / 10), self._probe)

    def _dial_from(self, pod: Pod) -> None:
        if not pod.running or "client" not in pod.roles:
            return
        chance, source = self.chance, pod.life.address
        servers = [each for each in self._pods if each.running and "server" in each.roles]
        target = chance.choice(servers).life.address if servers else NODE
        kind = chance.choices(("service", "pod", "udp", "outside", "nothing"), (45, 25, 18, 6, 6))
        with self.play.within(pod.slot):
            uid, sockets = pod.life.uid, pod.sockets
            match kind[0]:
                case "service":
                    name = chance.choice(list(SERVICES))
                    self._dial("tcp", source, *SERVICES[name], uid, sockets, f"churn/{name}")
                case "pod" if target != source:
                    self._dial("tcp", source, target, HTTP, uid, sockets)
                case "udp" if target != source:
                    self._dial("udp", source, target, DATAGRAMS, uid, sockets)
                case "outside":
                    self._dial("tcp", source, OUTSIDE, 443, uid, sockets)
                case "nothing" if target != source:
                    self._dial("tcp", source, target, NOTHING, uid, sockets)

    def _dial(
        self,
        proto: str,
        source: str,
        dst: str,
        port: int,
        who: str,
        sockets: set[socket.socket] | None = None,
        service: str = "",
    ) -> None:
        """Dial from this thread's namespace, each time from a port that nobody had before."""
        sockets = self._outside if sockets is None else sockets
        ports = self._ports.setdefault(source, itertools.cycle(range(10_000, 60_000)))
        sock = socket.socket(
            socket.AF_INET, socket.SOCK_STREAM if proto == "tcp" else socket.SOCK_DGRAM
        )
        sock.setblocking(False)
        dial = Dial(proto, source, next(ports), dst, port, 0, who, service=service)
        try:
            sock.bind((source, dial.src_port))
            dial.at_ns = time.time_ns()
            sock.connect_ex((dst, port))
            if proto == "udp":
                sock.send(b"who are you?")
        except OSError:
            sock.close()
            return
        self.truth.dials.append(dial)
        sockets.add(sock)
        stay_s = self.chance.uniform(1, 15) if self.chance.random() < 0.06 else 0.0

        def answered(sock: socket.socket) -> None:
            try:
                dial.server = sock.recv(64).decode() or dial.server
            except OSError:
                self._drop(sockets, sock)
                return
            if stay_s:
                self._select.unregister(sock)
                self.after(stay_s, lambda: self._drop(sockets, sock))
            else:
                self._drop(sockets, sock)

        self._select.register(sock, selectors.EVENT_READ, answered)
        self.after(_ANSWER_S + stay_s, lambda: self._drop(sockets, sock))

    def _listen(self, sockets: set[socket.socket], address: str, port: int, who: str) -> None:
        """Accept here, and tell each client who it is that it has reached."""
        listening = socket.socket()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((address, port))
        listening.listen(128)
        listening.setblocking(False)
        sockets.add(listening)

        def accept(listening: socket.socket) -> None:
            with suppress(OSError):
                sock = listening.accept()[0]
                sockets.add(sock)
                self._select.register(sock, selectors.EVENT_READ, lambda s: self._drop(sockets, s))
                sock.send(who.encode())

        self._select.register(listening, selectors.EVENT_READ, accept)

    def _answer(self, sockets: set[socket.socket], address: str, who: str) -> None:
        """The same for datagrams."""
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind((address, DATAGRAMS))
        sock.setblocking(False)
        sockets.add(sock)

        def answer(sock: socket.socket) -> None:
            with suppress(OSError):
                sock.sendto(who.encode(), sock.recvfrom(64)[1])

        self._select.register(sock, selectors.EVENT_READ, answer)

    def _drop(self, sockets: set[socket.socket], sock: socket.socket) -> None:
        if sock in sockets:
            sockets.remove(sock)
            with suppress(KeyError):
                self._select.unregister(sock)
            sock.close()


class Restarts(threading.Thread):
    """
    Starts the recorder, stops or kills it at random moments, and starts it again.

    `failures` are what went wrong with it: an exit code or a traceback.
    """

    def __init__(self, churn: Churn, folder: Path, seed: int, options: tuple[str, ...]) -> None:
        super().__init__(name="restarts")
        self._churn, self._folder, self._chance = churn, folder, random.Random(seed + 1)
        self._options = options
        self.over = threading.Event()
        self.failures: list[str] = []
        self.signals = {"TERM": 0, "KILL": 0}
        self.down_s: float | None = None  # set when it goes down, for how long

    def run(self) -> None:
        try:
            while not self.over.is_set() and len(self.failures) < 3:
                self._session(last=False)
                down_s = self._chance.choice((0.0, self._chance.uniform(0, 4)))
                self.down_s = down_s
                self.over.wait(down_s)
            if self.over.is_set():
                self._session(last=True)
        except Exception as error:
            self.failures.append(repr(error))
            raise

    def _session(self, *, last: bool) -> None:
        play, chance, n = self._churn.play, self._chance, len(self._churn.truth.sessions)
        config = self._churn.api.kubeconfig(self._folder / "kubeconfig")
        command = (*CTK, "record", str(self._churn.db), "--kubeconfig", str(config))
        command += ("--node-name", NODE_NAME, "--window", f"{WINDOW_S}s", *self._options)
        how = "TERM" if last or chance.random() < 0.5 else "KILL"
        up_s = 6.0 if last else chance.choice((chance.uniform(0, 3), chance.uniform(3, 14)))
        log, listening_ns = self._folder / f"{n}.log", 0
        with log.open("w", encoding="utf-8") as said:
            spawned_ns = time.time_ns()
            process = subprocess.Popen(play.command(*command), stderr=said)
            try:
                if chance.random() < 0.9 or last:
                    until(lambda: listeners(play) > 0 or process.poll() is not None, "it", 30)
                    listening_ns = time.time_ns()
                    self.over.wait(up_s) if not last else time.sleep(up_s)
                else:
                    time.sleep(chance.uniform(0, 1))
                    how = "KILL"  # a Python that has not yet got so far ends on SIGTERM anyhow
            finally:
                asked_ns = time.time_ns()
                process.send_signal(getattr(signal, f"SIG{how}"))
                try:
                    process.wait(60)
                except subprocess.TimeoutExpired:
                    process.kill()
                    self.failures.append(f"{n}: did not stop in 60 s")
        ended_ns = time.time_ns()
        self._churn.truth.sessions.append(
            Session(spawned_ns, listening_ns, asked_ns, ended_ns, how)
        )
        self.signals[how] += 1
        text = log.read_text(encoding="utf-8")
        if "Traceback" in text or (how == "TERM" and process.returncode):
            self.failures.append(f"{n}: exit {process.returncode}: {text[-2000:]}")


@dataclass(slots=True)
class Result:
    """What a run came to."""

    verdict: Verdict
    failures: list[str]
    signals: Mapping[str, int]
    dials: int


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
    Run until so many connections were made, and the recorder got each signal so often.

    With `outages` the API server restarts, too: names that were known last stand meanwhile, and a
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
                many = len(script.truth.dials) >= connections
                if many and min(restarts.signals.values()) >= each_signal:
                    break
            restarts.over.set()
            while restarts.is_alive() and time.monotonic() < end + 120:
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


def _node(name: str, cidr: str, address: str) -> Json:
    return {
        "kind": "Node",
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "spec": {"podCIDR": cidr, "podCIDRs": [cidr]},
        "status": {"addresses": [{"type": "InternalIP", "address": address}]},
    }


def _rfc(at_ns: int) -> str:
    """A time as the API server writes it: the second it is in."""
    return datetime.fromtimestamp(at_ns // 10**9, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def main() -> int:
    parser = argparse.ArgumentParser(description="Hold a recorder that is restarted to the truth.")
    parser.add_argument("--connections", type=int, default=20_000)
    parser.add_argument("--each-signal", type=int, default=12)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=float, default=110)
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
