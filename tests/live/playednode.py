"""
A Kubernetes node, played with network namespaces: real conntrack events with known causes.

The cluster is the one of fixtures/kube, addresses and all. A pod is a namespace behind a routed
veth, as kindnet does it; services are nft DNAT rules that balance with numgen; what leaves the
pod network or comes through a NodePort is masqueraded. Traffic is made by this one process,
whose sockets are opened in the namespaces and stay there, so how much went where is known.

    python tests/live/playednode.py -- ctk record node.db --objects {objects}

runs a command that listens to conntrack in the node's namespace, makes traffic, and stops the
command with SIGINT.
"""

import argparse
import ctypes
import itertools
import json
import os
import random
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

KUBE = Path(__file__).parents[2] / "fixtures" / "kube"
NODE_NAME = "kl-control-plane"

NODE, NODE6 = "172.18.0.2", "fc00:f853::2"
OUTSIDE, OUTSIDE6 = "172.18.0.1", "fc00:f853::1"
GATEWAY, GATEWAY6 = "10.244.0.1", "fd00:10:244::1"  # the node's end of every pod's veth
PODS = {
    "load/client-0": ("10.244.0.21", "fd00:10:244::15"),
    "load/client-1": ("10.244.0.22", "fd00:10:244::16"),
    "shop/web-7c65d6cfc9-aaaaa": ("10.244.0.11", "fd00:10:244::b"),
    "shop/web-7c65d6cfc9-bbbbb": ("10.244.0.12", "fd00:10:244::c"),
    "kube-system/coredns-5d78c9869d-ccccc": ("10.244.0.2", "fd00:10:244::2"),
}
CLIENT, CLIENT_1, WEB_A, WEB_B, DNS = PODS

RULES = f"""
table inet kube {{
    chain services {{
        ip daddr 10.96.0.1 tcp dport 443 dnat ip to {NODE}:6443
        ip daddr 10.96.0.10 udp dport 53 dnat ip to {PODS[DNS][0]}:53
        ip daddr 10.96.0.10 tcp dport 53 dnat ip to {PODS[DNS][0]}:53
        ip daddr 10.96.0.80 tcp dport 80 dnat ip to numgen inc mod 2 map \
            {{ 0 : {PODS[WEB_A][0]} . 8080, 1 : {PODS[WEB_B][0]} . 8080 }}
        fib daddr type local tcp dport 30080 meta mark set 0x4000 dnat ip to numgen inc mod 2 map \
            {{ 0 : {PODS[WEB_A][0]} . 8080, 1 : {PODS[WEB_B][0]} . 8080 }}
    }}
    chain prerouting {{
        type nat hook prerouting priority dstnat;
        jump services
    }}
    chain output {{
        type nat hook output priority -100;
        jump services
    }}
    chain postrouting {{
        type nat hook postrouting priority srcnat;
        meta mark 0x4000 masquerade
        ip saddr 10.244.0.0/16 oifname "eth0" masquerade
        ip6 saddr fd00:10:244::/64 oifname "eth0" masquerade
    }}
    chain awake {{
        type filter hook input priority filter;
        ct state new counter
    }}
}}
"""
UNANSWERED = """
table inet pod {
    chain input {
        type filter hook input priority filter;
        tcp dport 9998 drop
    }
}
"""

# So that entries end, and tell it, within seconds.
SHORT_TIMEOUTS = {
    "tcp_timeout_time_wait": 2,
    "tcp_timeout_syn_sent": 3,
    "tcp_timeout_close": 2,
    "udp_timeout": 3,
    "udp_timeout_stream": 3,
    "icmp_timeout": 3,
    "icmpv6_timeout": 3,
    "gre_timeout": 3,
    "generic_timeout": 3,
}

_CLONE_NEWNET = 0x40000000
_CONNTRACK_GROUPS = 0b111  # NFNLGRP_CONNTRACK_NEW, UPDATE, DESTROY, as /proc/net/netlink has them
_libc = ctypes.CDLL(None, use_errno=True)
_serial = itertools.count()


class Talk(NamedTuple):
    """What is known of connections that were made: all of one flow, as ctk should tell it."""

    proto: str
    src: str
    dst: str
    dst_port: int | None
    backend: str
    backend_port: int | None
    src_name: str  # "namespace/name" of a pod, the name of a node, "" for outside
    backend_name: str
    service: str | None
    service_via: str | None
    sent: int  # bytes of payload a connection
    answered: int


class PlayedNode:
    """
    The namespaces, from entering to leaving it, also when what is between fails.

    `timeouts` are net.netfilter.nf_conntrack_NAME; `accounting` sets acct and timestamp.
    """

    rules = RULES  # of the node, for nft

    def __init__(
        self, *, accounting: bool = True, timeouts: Mapping[str, int] = SHORT_TIMEOUTS
    ) -> None:
        self._prefix = f"ctk-{os.getpid()}-{next(_serial)}"
        self._accounting = accounting
        self._timeouts = timeouts
        self._undo = ExitStack()
        self.node = f"{self._prefix}-node"
        self.outside = f"{self._prefix}-outside"
        self.pods = {pod: f"{self._prefix}-{pod.split('/')[1]}" for pod in PODS}

    def __enter__(self) -> Self:
        with self._undo:
            self._set_up()
            self._undo = self._undo.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._undo.close()

    def command(self, *argv: str) -> list[str]:
        """Return `argv` as it is run in the node's namespace."""
        return ["ip", "netns", "exec", self.node, *argv]

    def _set_up(self) -> None:
        self._add_namespaces(self.node, self.outside, *self.pods.values())
        self._sysctl("net.ipv4.ip_forward", 1)
        self._sysctl("net.ipv6.conf.all.forwarding", 1)
        with inside(self.node):
            run("nft", "-f", "-", text=self.rules)
        for name, seconds in self._timeouts.items():
            self._sysctl(f"net.netfilter.nf_conntrack_{name}", seconds)
        self._sysctl("net.netfilter.nf_conntrack_acct", int(self._accounting))
        self._sysctl("net.netfilter.nf_conntrack_timestamp", int(self._accounting))
        batch(
            self.node,
            "link set lo up",
            *_wire("eth0", self.outside),
            f"address add {NODE}/16 dev eth0",
            f"address add {NODE6}/64 dev eth0 nodad",
        )
        batch(
            self.outside,
            *_up(f"{OUTSIDE}/16", f"{OUTSIDE6}/64"),
            f"route add default via {NODE}",
            f"route add default via {NODE6}",
        )
        self._set_up_pods()

    def _set_up_pods(self) -> None:
        ends: list[str] = []  # the node's
        for n, (pod, (ip, ip6)) in enumerate(PODS.items()):
            veth = f"veth{n}"
            ends += (
                *_wire(veth, self.pods[pod]),
                f"address add {GATEWAY}/32 dev {veth}",
                f"address add {GATEWAY6}/128 dev {veth} nodad",
                f"route add {ip}/32 dev {veth}",
                f"route add {ip6}/128 dev {veth}",
            )
        batch(self.node, *ends)
        for pod, (ip, ip6) in PODS.items():
            batch(
                self.pods[pod],
                *_up(f"{ip}/32", f"{ip6}/128"),
                f"route add {GATEWAY}/32 dev eth0",
                f"route add default via {GATEWAY}",
                f"route add {GATEWAY6}/128 dev eth0",
                f"route add default via {GATEWAY6}",
            )
        with inside(self.pods[WEB_B]):
            run("nft", "-f", "-", text=UNANSWERED)

    def _add_namespaces(self, *names: str) -> None:
        self._undo.callback(self._delete_namespaces, names)
        run("ip", "-batch", "-", text="".join(f"netns add {name}\n" for name in names))
        for name in names:
            # An address that is still being probed answers no neighbour for two seconds.
            self._sysctl("net.ipv6.conf.default.accept_dad", 0, name)

    def _delete_namespaces(self, names: Sequence[str]) -> None:
        made = [name for name in names if Path("/run/netns", name).exists()]
        run("ip", "-batch", "-", text="".join(f"netns delete {name}\n" for name in made))

    def _sysctl(self, name: str, value: int, namespace: str | None = None) -> None:
        with inside(namespace or self.node):
            Path("/proc/sys", *name.split(".")).write_text(str(value), encoding="ascii")


class Servers:
    """What listens in the pods and on the node."""

    def __init__(self, play: PlayedNode) -> None:
        self._open = ExitStack()
        self.tcp: list[socket.socket] = []
        for pod in (WEB_A, WEB_B):
            for address in PODS[pod]:
                self._listen(play.pods[pod], address, 8080)
        self._listen(play.pods[DNS], PODS[DNS][0], 53)
        self._listen(play.node, NODE, 6443)
        self.dns = self._open.enter_context(udp(play.pods[DNS], PODS[DNS][0], 53))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._open.close()

    def accept(self) -> socket.socket:
        """Take the one connection that waits, on whichever server it is."""
        ready, _, _ = select.select(self.tcp, [], [], 5)
        accepted: socket.socket = ready[0].accept()[0]
        return accepted

    def _listen(self, namespace: str, address: str, port: int) -> None:
        with inside(namespace):
            sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((address, port))
        sock.listen(64)
        self.tcp.append(self._open.enter_context(sock))


class Traffic:
    """Makes known connections, and counts what each flow should come to."""

    def __init__(self, play: PlayedNode, servers: Servers, pause_s: float = 0) -> None:
        self._play = play
        self._servers = servers
        self._pause_s = pause_s
        self.made: Counter[Talk] = Counter()

    def known(self) -> None:
        """Make what the issue counts: 88 connections, a ping, a refusal and one unanswered."""
        for n in range(40):
            self.tcp(CLIENT if n % 4 else CLIENT_1, "10.96.0.80", 80, "shop/web", "address")
        for n in range(10):
            self.tcp(CLIENT, PODS[WEB_A if n % 2 else WEB_B][0], 8080, "shop/web", "endpoint")
        for _ in range(5):
            self.tcp(CLIENT, PODS[WEB_A][1], 8080, None, None)
        for _ in range(25):
            self.dns(CLIENT)
        for _ in range(6):
            self.tcp("", NODE, 30080, "shop/web", "address")
        self.tcp(CLIENT_1, "10.96.0.1", 443, "default/kubernetes", "address")
        self.ping(CLIENT, CLIENT_1)
        self.failed(CLIENT, WEB_A, 9999)
        self.failed(CLIENT, WEB_B, 9998)

    def busy(self, seconds: float, seed: int = 1) -> None:
        """Make what a small shop does for a while: mostly well, sometimes not."""
        chance = random.Random(seed)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            client = chance.choice((CLIENT, CLIENT, CLIENT_1))
            sent, answered = (
                chance.randrange(100, 2000),
                min(int(chance.paretovariate(1.1) * 3000), 5_000_000),
            )
            kind = chance.choices(
                ("service", "dns", "pod", "ipv6", "nodeport", "api", "ping", "refused", "silent"),
                (40, 30, 10, 5, 8, 3, 2, 3, 1),
            )[0]
            web = chance.choice((WEB_A, WEB_B))
            match kind:
                case "service":
                    self.tcp(client, "10.96.0.80", 80, "shop/web", "address", sent, answered)
                case "dns":
                    self.dns(chance.choice((CLIENT, CLIENT_1, WEB_A, WEB_B)))
                case "pod":
                    self.tcp(client, PODS[web][0], 8080, "shop/web", "endpoint", sent, answered)
                case "ipv6":
                    self.tcp(client, PODS[web][1], 8080, None, None, sent, answered)
                case "nodeport":
                    self.tcp("", NODE, 30080, "shop/web", "address", sent, answered)
                case "api":
                    self.tcp(DNS, "10.96.0.1", 443, "default/kubernetes", "address", sent, 9000)
                case "ping":
                    self.ping(CLIENT_1, web)
                case "refused":
                    self.failed(client, web, 9999)
                case "silent":
                    self.failed(client, WEB_B, 9998)

    def tcp(
        self,
        src: str,
        dst: str,
        port: int,
        service: str | None,
        via: str | None,
        sent: int = 300,
        answered: int = 2000,
    ) -> None:
        """Dial, send, be answered, hang up."""
        family = socket.AF_INET6 if ":" in dst else socket.AF_INET
        with inside(self._namespace(src)):
            client = socket.socket(family)
        with client:
            client.settimeout(5)
            client.connect((dst, port))
            with self._servers.accept() as server:
                pass_on(client, server, sent)
                pass_on(server, client, answered)
                src_address = client.getsockname()[0]
                backend, backend_port = server.getsockname()[:2]
        self._count(
            "tcp", src_address, dst, port, backend, backend_port, service, via, sent, answered
        )

    def dns(self, src: str, sent: int = 40, answered: int = 120) -> None:
        """Ask the DNS service once, from a port of its own."""
        with udp(self._namespace(src), PODS[src][0], 0) as client:
            client.sendto(bytes(sent), ("10.96.0.10", 53))
            _, back = self._servers.dns.recvfrom(sent)
            self._servers.dns.sendto(bytes(answered), back)
            client.recv(answered)
        self._count(
            "udp",
            PODS[src][0],
            "10.96.0.10",
            53,
            PODS[DNS][0],
            53,
            "kube-system/kube-dns",
            "address",
            sent,
            answered,
        )

    def ping(self, src: str, dst: str) -> None:
        with inside(self._namespace(src)):
            sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
        with sock:
            sock.settimeout(5)
            sock.connect((PODS[dst][0], 0))
            sock.send(echo(8, 7, bytes(56)))
            sock.recv(1500)
        self._count(
            "icmp", PODS[src][0], PODS[dst][0], None, PODS[dst][0], None, None, None, 64, 64
        )

    def failed(self, src: str, dst: str, port: int) -> None:
        """Dial a port where nothing listens, or from where nothing comes back."""
        with inside(self._namespace(src)):
            client = socket.socket()
        with client:
            client.settimeout(0.2)
            client.connect_ex((PODS[dst][0], port))
        self._count("tcp", PODS[src][0], PODS[dst][0], port, PODS[dst][0], port, None, None, 0, 0)

    def _namespace(self, pod: str) -> str:
        return self._play.pods[pod] if pod else self._play.outside

    def _count(
        self,
        proto: str,
        src: str,
        dst: str,
        port: int | None,
        backend: str,
        backend_port: int | None,
        service: str | None,
        via: str | None,
        sent: int,
        answered: int,
    ) -> None:
        names = {address: pod for pod, addresses in PODS.items() for address in addresses}
        names |= {NODE: NODE_NAME, NODE6: NODE_NAME}
        self.made[
            Talk(
                proto,
                src,
                dst,
                port,
                backend,
                backend_port,
                names.get(src, ""),
                names[backend],
                service,
                via,
                sent,
                answered,
            )
        ] += 1
        time.sleep(self._pause_s)


def objects() -> dict[str, object]:
    """Return what `kubectl get pods,services,endpointslices,nodes -A -o json` prints there."""
    items = []
    for name, kind in (
        ("pods.page1", "Pod"),
        ("pods.page2", "Pod"),
        ("services", "Service"),
        ("endpointslices", "EndpointSlice"),
        ("nodes", "Node"),
    ):
        answer = json.loads((KUBE / f"{name}.json").read_text(encoding="utf-8"))
        # A list's items don't say what they are; kubectl adds it.
        version = answer["apiVersion"]
        items += [{"apiVersion": version, "kind": kind, **item} for item in answer["items"]]
    return {"apiVersion": "v1", "kind": "List", "items": items, "metadata": {"resourceVersion": ""}}


@contextmanager
def inside(namespace: str) -> Iterator[None]:
    """Put this thread into a namespace for a while; what it opens there stays there."""
    with Path("/proc/thread-self/ns/net").open("rb") as home:
        with Path("/run/netns", namespace).open("rb") as there:
            enter(there.fileno())
        try:
            yield
        finally:
            enter(home.fileno())


def enter(fileno: int) -> None:
    if _libc.setns(fileno, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


def udp(namespace: str, address: str, port: int) -> socket.socket:
    with inside(namespace):
        sock = socket.socket(
            socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM
        )
    sock.settimeout(5)
    sock.bind((address, port))
    return sock


def pass_on(sender: socket.socket, receiver: socket.socket, size: int) -> None:
    """Send that many bytes, and receive them meanwhile: the two ends are in one thread."""
    sender.setblocking(False)
    receiver.settimeout(5)
    unsent, missing = size, size
    while missing:
        if unsent and select.select([], [sender], [], 0)[1]:
            unsent -= sender.send(bytes(min(unsent, 1 << 16)))
        missing -= len(receiver.recv(1 << 16))


def echo(kind: int, identity: int, content: bytes) -> bytes:
    """Return an ICMP echo message with its checksum."""
    head = bytes((kind, 0)), identity.to_bytes(2, "big") + (1).to_bytes(2, "big") + content
    return head[0] + checksum(head[0] + bytes(2) + head[1]) + head[1]


def checksum(content: bytes) -> bytes:
    """Return the internet checksum."""
    total = sum(
        int.from_bytes(content[n : n + 2].ljust(2, b"\0"), "big") for n in range(0, len(content), 2)
    )
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return (~total & 0xFFFF).to_bytes(2, "big")


def run(*argv: str, text: str | None = None) -> None:
    """Run a command; what it complained of is in the error."""
    done = subprocess.run(argv, input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"{' '.join(argv)}: {done.stderr.strip()}")


def _wire(device: str, peer: str) -> tuple[str, ...]:
    """Join a device to a namespace's eth0."""
    return (f"link add {device} type veth peer name eth0 netns {peer}", f"link set {device} up")


def _up(*addresses: str) -> tuple[str, ...]:
    """What is at the other end, with these addresses."""
    given = (f"address add {each} dev eth0" + " nodad" * (":" in each) for each in addresses)
    return ("link set lo up", *given, "link set eth0 up")


def batch(namespace: str, *commands: str) -> None:
    run("ip", "-n", namespace, "-batch", "-", text="\n".join(commands) + "\n")


def until(true: Callable[[], bool], what: str, seconds: float = 60) -> None:
    """Wait for something that is about to happen."""
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {seconds} s for {what}")
        time.sleep(0.02)


def listeners(play: PlayedNode) -> int:
    """How many sockets in the node's namespace receive conntrack events."""
    with inside(play.node):
        lines = Path("/proc/thread-self/net/netlink").read_text(encoding="ascii").splitlines()
    fields = [line.split() for line in lines[1:]]
    return sum(f[1] == "12" and bool(int(f[3], 16) & _CONNTRACK_GROUPS) for f in fields)


def unplayable() -> str | None:
    """Return why a node cannot be played here; None where it can."""
    if os.geteuid():
        return "needs root, for network namespaces"
    if not Path("/proc/sys/net/netfilter/nf_conntrack_max").exists():
        return "this kernel has no conntrack"
    try:
        with PlayedNode():
            return None
    except OSError as error:
        return str(error)


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description="Play a node, and run a command in it.")
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("command", nargs="+", help="{objects} in it is the cluster's objects")
    asked = parser.parse_args(argv)
    with (
        PlayedNode() as play,
        Servers(play) as servers,
        tempfile.NamedTemporaryFile("w", suffix=".json") as file,
    ):
        json.dump(objects(), file)
        file.flush()
        command = [word.replace("{objects}", file.name) for word in asked.command]
        with subprocess.Popen(play.command(*command)) as process:
            until(lambda: listeners(play) > 0 or process.poll() is not None, "it to listen")
            end = time.monotonic() + asked.seconds
            traffic = Traffic(play, servers, pause_s=0.05)
            while process.poll() is None and (left := end - time.monotonic()) > 0:
                traffic.busy(min(left, 1.0), seed=int(left))
            process.send_signal(signal.SIGINT)
            return process.wait()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # leave nothing behind
    sys.exit(main(sys.argv[1:]))
