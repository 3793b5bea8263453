"""
Two Kubernetes nodes that route to each other, played with network namespaces.

Each node has a client and a backend of the service shop/web; kube-proxy's rules are nft rules on
both. A namespace outside joins them with a bridge, and dials in through NodePorts.
"""

import itertools
import os
import select
import socket
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from playednode import SHORT_TIMEOUTS, batch, inside, pass_on, run

OUTSIDE, OUTSIDE6 = "172.18.0.1", "fc00:f853::1"
SERVICE, SERVICE6 = "10.96.0.80", "fd00:10:96::80"
# By node: its own addresses, and those of its pods.
NODES = {"node-a": ("172.18.0.2", "fc00:f853::2"), "node-b": ("172.18.0.3", "fc00:f853::3")}
PODS = {
    "node-a": {
        "load/client-a": ("10.244.0.21", "fd00:10:244::21"),
        "shop/web-a": ("10.244.0.11", "fd00:10:244::11"),
    },
    "node-b": {
        "load/client-b": ("10.244.1.21", "fd00:10:244:1::21"),
        "shop/web-b": ("10.244.1.11", "fd00:10:244:1::11"),
    },
}
WEBS = [PODS["node-a"]["shop/web-a"], PODS["node-b"]["shop/web-b"]]
NETS = {
    "node-a": ("10.244.0.0/24", "fd00:10:244::/64"),
    "node-b": ("10.244.1.0/24", "fd00:10:244:1::/64"),
}
_serial = itertools.count()


def rules(node: str) -> str:
    """Give the rules of a node: the service, its NodePorts, and what is masqueraded."""
    webs = [
        f"numgen inc mod 2 map {{ 0 : {a} . 8080, 1 : {b} . 8080 }}"
        for a, b in zip(*WEBS, strict=True)
    ]
    own = WEBS[list(NODES).index(node)][0]
    return f"""
    table inet kube {{
        chain services {{
            ip daddr {SERVICE} tcp dport 80 dnat ip to {webs[0]}
            ip6 daddr {SERVICE6} tcp dport 80 dnat ip6 to {webs[1]}
            ip daddr {NODES[node][0]} tcp dport 30080 meta mark set 0x4000 dnat ip to {webs[0]}
            ip6 daddr {NODES[node][1]} tcp dport 30080 meta mark set 0x4000 dnat ip6 to {webs[1]}
            ip daddr {NODES[node][0]} tcp dport 30081 dnat ip to {own}:8080
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
            ip saddr 10.244.0.0/16 ip daddr {OUTSIDE} masquerade
            ip6 saddr fd00:10:244::/48 ip6 daddr {OUTSIDE6} masquerade
        }}
    }}
    """


class Played:
    """One of the two nodes, as those that record in it know one."""

    def __init__(self, name: str, namespace: str) -> None:
        self.name = name
        self.node = namespace

    def command(self, *argv: str) -> list[str]:
        """Return `argv` as it is run in the node's namespace."""
        return ["ip", "netns", "exec", self.node, *argv]


class TwoNodes:
    """The namespaces, from entering to leaving it, with servers in the pods and outside."""

    def __init__(self) -> None:
        prefix = f"ctk2-{os.getpid()}-{next(_serial)}"
        self.outside = f"{prefix}-outside"
        self.nodes = {name: Played(name, f"{prefix}-{name}") for name in NODES}
        self.pods = {
            pod: f"{prefix}-{pod.partition('/')[2]}" for pods in PODS.values() for pod in pods
        }
        self._servers: list[socket.socket] = []
        self._undo = ExitStack()
        self.made: Counter[Made] = Counter()

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

    def _set_up(self) -> None:
        self._add(self.outside)
        batch(
            self.outside,
            "link add br0 type bridge",
            f"address add {OUTSIDE}/16 dev br0",
            f"address add {OUTSIDE6}/64 dev br0 nodad",
            "link set br0 up",
        )
        for name, (ip, ip6) in NODES.items():
            node = self.nodes[name].node
            self._add(node)
            for key in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
                self._set(node, f"net/{key}", 1)
            with inside(node):
                run("nft", "-f", "-", text=rules(name))
            for key, seconds in SHORT_TIMEOUTS.items():
                self._set(node, f"net/netfilter/nf_conntrack_{key}", seconds)
            self._set(node, "net/netfilter/nf_conntrack_acct", 1)
            run(
                "ip",
                "-n",
                node,
                "link",
                "add",
                "eth0",
                "type",
                "veth",
                "peer",
                "name",
                name,
                "netns",
                self.outside,
            )
            batch(self.outside, f"link set {name} master br0", f"link set {name} up")
            batch(
                node,
                f"address add {ip}/16 dev eth0",
                f"address add {ip6}/64 dev eth0 nodad",
                "link set eth0 up",
                f"route add default via {OUTSIDE}",
                f"route add default via {OUTSIDE6}",
            )
        for name, other in itertools.permutations(NODES, 2):
            batch(
                self.nodes[name].node,
                *(
                    f"route add {net} via {ip}"
                    for net, ip in zip(NETS[other], NODES[other], strict=True)
                ),
            )
            self._set_up_pods(name)
        for at, addresses in [
            (self.pods[pod], ips)
            for pods in PODS.values()
            for pod, ips in pods.items()
            if "web" in pod
        ]:
            for address in addresses:
                self._listen(at, address, 8080)
        for address in (OUTSIDE, OUTSIDE6):
            self._listen(self.outside, address, 443)

    def _set_up_pods(self, name: str) -> None:
        node = self.nodes[name].node
        for n, (pod, (ip, ip6)) in enumerate(PODS[name].items()):
            at = self.pods[pod]
            self._add(at)
            gateway, gateway6 = ip.rsplit(".", 1)[0] + ".1", ip6.rpartition("::")[0] + "::1"
            batch(node, f"link add veth{n} type veth peer name eth0 netns {at}")
            batch(
                node,
                f"link set veth{n} up",
                f"address add {gateway}/32 dev veth{n}",
                f"address add {gateway6}/128 dev veth{n} nodad",
                f"route add {ip}/32 dev veth{n}",
                f"route add {ip6}/128 dev veth{n}",
            )
            batch(
                at,
                f"address add {ip}/32 dev eth0",
                f"address add {ip6}/128 dev eth0 nodad",
                "link set eth0 up",
                f"route add {gateway}/32 dev eth0",
                f"route add default via {gateway}",
                f"route add {gateway6}/128 dev eth0",
                f"route add default via {gateway6}",
            )

    def _add(self, name: str) -> None:
        run("ip", "netns", "add", name)
        self._undo.callback(run, "ip", "netns", "delete", name)
        run("ip", "-n", name, "link", "set", "lo", "up")
        self._set(name, "net/ipv6/conf/default/accept_dad", 0)

    def _set(self, namespace: str, key: str, value: int) -> None:
        with inside(namespace):
            Path("/proc/sys", key).write_text(str(value), encoding="ascii")

    def _listen(self, namespace: str, address: str, port: int) -> None:
        with inside(namespace):
            sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
        self._undo.enter_context(sock)
        sock.bind((address, port))
        sock.listen(64)
        self._servers.append(sock)

    def dial(
        self,
        who: str,
        dst: str,
        port: int,
        times: int,
        service: str | None = None,
        backend: str | None = None,
    ) -> None:
        """
        Dial so often from a pod, a node or outside (""), and count what should be told of it.

        `backend` is whom the opener's node takes for it, where it cannot see who really answers.
        """
        at = self.outside if not who else self.nodes[who].node if who in NODES else self.pods[who]
        for _ in range(times):
            with inside(at):
                client = socket.socket(socket.AF_INET6 if ":" in dst else socket.AF_INET)
            with client:
                client.settimeout(5)
                client.connect((dst, port))
                ready, _, _ = select.select(self._servers, [], [], 5)
                with ready[0].accept()[0] as server:
                    pass_on(client, server, SENT)
                    pass_on(server, client, ANSWERED)
                    answering = backend or server.getsockname()[0]
                    source = client.getsockname()[0]
            self.made[Made(source, dst, port, answering, service)] += 1


SENT, ANSWERED = 300, 5_000


class Made(NamedTuple):
    """What a connection is to be told as."""

    src: str
    dst: str
    dst_port: int
    backend: str
    service: str | None


def objects() -> dict[str, object]:
    """Return what `kubectl get pods,services,endpointslices,nodes -A -o json` prints there."""
    then = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 3600))

    def named(kind: str, name: str, **more: object) -> dict[str, object]:
        namespace, _, own = name.rpartition("/")
        meta: dict[str, object] = {"name": own, "uid": f"{kind}-{own}", "creationTimestamp": then}
        if namespace:
            meta["namespace"] = namespace
        if kind == "EndpointSlice":
            meta["labels"] = {"kubernetes.io/service-name": "web"}
        if kind == "Node":
            meta["labels"] = {"topology.kubernetes.io/zone": f"zone-{own[-1]}"}
        return {"apiVersion": "v1", "kind": kind, "metadata": meta, **more}

    items = [
        named(
            "Node",
            name,
            spec={"podCIDRs": list(NETS[name])},
            status={"addresses": [{"type": "InternalIP", "address": ip} for ip in ips]},
        )
        for name, ips in NODES.items()
    ]
    items += [
        named(
            "Pod",
            pod,
            spec={"nodeName": node},
            status={
                "phase": "Running",
                "startTime": then,
                "podIPs": [{"ip": ip} for ip in ips],
            },
        )
        for node, pods in PODS.items()
        for pod, ips in pods.items()
    ]
    port = {"name": "http", "protocol": "TCP", "port": 80}
    items += [
        named(
            "Service",
            "shop/web",
            spec={
                "type": "NodePort",
                "clusterIPs": [SERVICE, SERVICE6],
                "ports": [port | {"nodePort": 30080}],
            },
        ),
        # The same pods behind the NodePort of policy Local.
        named(
            "Service",
            "shop/local",
            spec={
                "type": "NodePort",
                "clusterIPs": ["10.96.0.81"],
                "ports": [port | {"nodePort": 30081}],
            },
        ),
        *(
            named(
                "EndpointSlice",
                f"shop/web-{family}",
                endpoints=[{"addresses": [webs[at]]} for webs in WEBS],
                ports=[{"name": "http", "protocol": "TCP", "port": 8080}],
            )
            for at, family in enumerate(("ipv4", "ipv6"))
        ),
    ]
    return {"apiVersion": "v1", "kind": "List", "items": items, "metadata": {"resourceVersion": ""}}
