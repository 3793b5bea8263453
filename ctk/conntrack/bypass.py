"""
What stands for a data plane that goes around conntrack: its interfaces.

Cilium makes cilium_host on each of its nodes; with its kube-proxy replacement and host routing in
eBPF, pods' packets never reach netfilter. Felix makes bpfin.cali where Calico's eBPF is on.
"""

import socket
from collections.abc import Iterable, Mapping

BYPASSES: Mapping[str, str] = {"cilium_host": "Cilium", "bpfin.cali": "Calico's eBPF"}


def interface_names() -> list[str]:
    """Give the names of the interfaces of this network namespace."""
    return [name for _, name in socket.if_nameindex()]


def bypass(names: Iterable[str]) -> str | None:
    """Name what these interfaces are of, where connections may go around conntrack."""
    found = set(names)
    return next((what for interface, what in BYPASSES.items() if interface in found), None)
