"""
The kernel's table of connections: its live entries, and the settings it is kept with.

Entries are dumped with IPCTNL_MSG_CT_GET, which leaves their counters alone; never with
IPCTNL_MSG_CT_GET_CTRZERO (3), which zeroes them.
"""

import socket
import struct
from collections.abc import Generator
from pathlib import Path

from ctk.conntrack import netlink
from ctk.errors import SourceError
from ctk.model import Datagrams

_IPCTNL_MSG_CT_GET = 0x101  # NFNL_SUBSYS_CTNETLINK << 8 | 1
_NFGENMSG = struct.Struct(">BBH")  # family, version, resource id
_SYSCTLS = Path("/proc/sys/net/netfilter")


def dump() -> Generator[Datagrams, None, None]:
    """
    Yield the live entries of both families, a hundred or so at a time.

    It has a socket of its own, so events can be read between two chunks. An entry may come twice.
    """
    # All families in one: asked for one, the kernel walks the whole table all the same.
    every_family = _NFGENMSG.pack(socket.AF_UNSPEC, 0, 0)
    return netlink.dump(
        netlink.NETLINK_NETFILTER, _IPCTNL_MSG_CT_GET, every_family, "dumping the conntrack table"
    )


def sysctl(name: str) -> int | None:
    """Read net.netfilter.NAME; None where this kernel, or this namespace, has none."""
    try:
        return int((_SYSCTLS / name).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def enable_accounting() -> list[str]:
    """
    Make the kernel count bytes and keep start times, for connections from here on.

    Return the settings that had to change; SourceError where one cannot be set.
    """
    changed = []
    for name in ("nf_conntrack_acct", "nf_conntrack_timestamp"):
        if sysctl(name) == 1:
            continue
        try:
            (_SYSCTLS / name).write_text("1", encoding="ascii")
        except OSError as error:
            raise SourceError(
                f"net.netfilter.{name} cannot be set: {error.strerror}",
                hint=f"set it on the node: sysctl -w net.netfilter.{name}=1",
            ) from error
        changed.append(f"net.netfilter.{name}=1")
    return changed
