"""
A played node whose pods come and go: the network of it.

Namespaces with a veth to the node are made once, as slots. A pod is an address that a slot has for
a while, as a CNI gives and takes it; the next pod may get the address at once, in another slot.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from playednode import PlayedNode, batch, enter, inside, run

SLOTS = 22
_ROUTER = "169.254.1.1"  # of every pod, and nobody's address: the node has none of its own yet
_CLUSTER = "10.244.0.0/16"


class ChurnNode(PlayedNode):
    """`services` are ClusterIPs and ports by name; the one of `node_port` is open on the node."""

    def __init__(
        self,
        services: Mapping[str, tuple[str, int]],
        node_port: tuple[str, int],
        timeouts: Mapping[str, int],
    ) -> None:
        super().__init__(timeouts=timeouts)
        self.pods = {}
        self._slots = [f"{self._prefix}-slot{n}" for n in range(SLOTS)]
        self._files: dict[str, int] = {}
        self.free_slots = list(range(SLOTS))
        chains = "".join(f"chain {name} {{ drop; }}\n" for name in services)
        dials = "".join(
            f"ip daddr {address} tcp dport {port} goto {name}\n"
            for name, (address, port) in services.items()
        )
        of, port = node_port
        self.rules = f"""
table inet kube {{
    {chains}
    chain services {{
        {dials}
        fib daddr type local tcp dport {port} meta mark set 0x4000 goto {of}
    }}
    chain prerouting {{ type nat hook prerouting priority dstnat; jump services; }}
    chain output {{ type nat hook output priority -100; jump services; }}
    chain postrouting {{
        type nat hook postrouting priority srcnat;
        meta mark 0x4000 masquerade
        ip saddr {_CLUSTER} oifname "eth0" masquerade
    }}
    chain awake {{ type filter hook input priority filter; ct state new counter; }}
}}
"""

    def _set_up_pods(self) -> None:
        self._add_namespaces(*self._slots)
        ends: list[str] = []  # the node's
        for n, slot in enumerate(self._slots):
            ends += (
                f"link add pod{n} address {_mac(n, 1)} type veth"
                f" peer name eth0 address {_mac(n, 2)} netns {slot}",
                f"link set pod{n} up",
            )
        batch(self.node, *ends)
        for slot in self._slots:
            batch(slot, "link set lo up", "link set eth0 up")
        for name in (self.node, self.outside, *self._slots):
            self._files[name] = os.open(f"/run/netns/{name}", os.O_RDONLY)
            self._undo.callback(os.close, self._files[name])
        self._home = os.open("/proc/self/ns/net", os.O_RDONLY)
        self._undo.callback(os.close, self._home)

    @contextmanager
    def within(self, slot: int | str) -> Iterator[None]:
        """Put this thread into a slot, or a namespace by name; faster than `inside`."""
        enter(self._files[self._slots[slot] if isinstance(slot, int) else slot])
        try:
            yield
        finally:
            enter(self._home)

    def give(self, slot: int, address: str) -> None:
        """Let a slot have an address, whoever had it before."""
        batch(
            self._slots[slot],
            f"address replace {address}/32 dev eth0",
            f"neigh replace {_ROUTER} lladdr {_mac(slot, 1)} dev eth0 nud permanent",
            f"route replace default via {_ROUTER} dev eth0 onlink",
        )
        batch(
            self.node,
            f"neigh replace {address} lladdr {_mac(slot, 2)} dev pod{slot} nud permanent",
            f"route replace {address}/32 dev pod{slot}",
        )

    def take(self, slot: int, address: str) -> None:
        """Take it away again."""
        batch(self._slots[slot], f"address delete {address}/32 dev eth0")
        batch(self.node, f"route delete {address}/32 dev pod{slot}")

    def balance(self, service: str, backends: Sequence[tuple[str, int]]) -> None:
        """Let a service go to these addresses and ports from now on."""
        chain = f"flush chain inet kube {service}\n"
        to = ", ".join(f"{n} : {ip} . {port}" for n, (ip, port) in enumerate(backends))
        rule = (
            f"meta l4proto tcp dnat ip to numgen random mod {len(backends)} map {{ {to} }}"
            if to
            else "drop"
        )
        with inside(self.node):
            run("nft", "-f", "-", text=f"{chain}add rule inet kube {service} {rule}\n")

    def add_bridge(self, name: str, address: str) -> None:
        """Make an interface of the node's own, as a CNI does when the first pod comes."""
        batch(
            self.node,
            f"link add {name} type bridge",
            f"address add {address}/32 dev {name}",
            f"link set {name} up",
        )


def _mac(slot: int, end: int) -> str:
    return f"02:00:00:00:{slot:02x}:{end:02x}"
