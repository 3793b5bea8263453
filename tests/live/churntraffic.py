"""Clients and servers in the pods, which write down what they did."""

import heapq
import itertools
import random
import selectors
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

from churnnode import ChurnNode
from churnpods import (
    ANSWER_S,
    DATAGRAMS,
    HTTP,
    NODE_PORT,
    NOTHING,
    SERVICES,
    Pod,
)
from playednode import NODE, OUTSIDE
from truth import Dial, Truth


class Traffic:
    """What is dialled and answered, and what else is due, in one thread."""

    def __init__(self, play: ChurnNode, truth: Truth, chance: random.Random, rate: float) -> None:
        self.play, self.truth, self.chance, self._rate = play, truth, chance, rate
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._serial = itertools.count()
        self._select = selectors.DefaultSelector()
        self._pods: list[Pod] = []
        self._bridges: list[str] = []
        self._ports: dict[str, Iterator[int]] = {}
        self._outside: set[socket.socket] = set()
        self.quiet = False  # nobody dials any more

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
        if not pod.running or "client" not in pod.roles or pod.life.is_killed(time.time_ns()):
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
        if self.quiet:
            return
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
        dial.made_ns = time.time_ns()
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

        def give_up() -> None:
            if not dial.server:
                self._drop(sockets, sock)

        self._select.register(sock, selectors.EVENT_READ, answered)
        self.after(ANSWER_S, give_up)

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
                if self._is_killed(who):
                    sock.close()
                    return
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
                if self._is_killed(who):
                    sock.recv(64)
                    return
                sock.sendto(who.encode(), sock.recvfrom(64)[1])

        self._select.register(sock, selectors.EVENT_READ, answer)

    def _is_killed(self, uid: str) -> bool:
        life = self.truth.lives.get(uid)
        return life is not None and life.is_killed(time.time_ns())

    def _drop(self, sockets: set[socket.socket], sock: socket.socket) -> None:
        if sock in sockets:
            sockets.remove(sock)
            with suppress(KeyError):
                self._select.unregister(sock)
            sock.close()
