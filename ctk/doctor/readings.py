"""
What the doctor looks at: the kernel, the namespace, the disk and the API server.

Nothing here changes any of them. What is wrong with them is for `doctor` to say, from `Readings`
alone.
"""

import os
import platform
import re
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ctk.conntrack import socket as kernel
from ctk.conntrack.decode import Decoder, Event
from ctk.errors import CtkError, KubeError
from ctk.kube.objects import Resource

_CAP_NET_ADMIN = 12
_IPS_OFFLOADED = 1 << 14 | 1 << 15  # IPS_OFFLOAD, IPS_HW_OFFLOAD
_LOOKED_AT = 20_000  # entries of the table at most
_TOOL_S = 10

_SYSCTLS = (
    "nf_conntrack_acct",
    "nf_conntrack_timestamp",
    "nf_conntrack_events",
    "nf_conntrack_count",
    "nf_conntrack_max",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Readings:
    """All that was looked at. None stands for what could not be."""

    net_admin: bool
    release: str
    refused: CtkError | None = None  # why the kernel gave no events or no dump
    sysctls: Mapping[str, int | None] = field(default_factory=dict)
    rmem_max: int | None = None
    bridge_calls: int | None = None  # net.bridge.bridge-nf-call-iptables
    statistics: Mapping[str, int] | None = None  # /proc/net/stat/nf_conntrack, summed
    entries: int = 0
    offloaded: int = 0
    events: int = 0
    listened_s: float = 0
    interfaces: Sequence[kernel.Interface] = ()
    apart_from_init: bool = False  # in another network namespace than process 1
    rules: str | None = None  # as nft and iptables-save write them
    disk: Path = Path()
    free_bytes: int | None = None
    writable: bool = True
    cluster: str | None = None  # why there is none, or it cannot be asked
    rights: Mapping[Resource, str | None] | None = None  # resource: what was refused


def read(
    *, disk: Path, kubeconfig: Path | None, context: str | None, kube: bool, listen_s: float
) -> Readings:
    """Look at everything; it takes `listen_s`, and as long as the API server does."""
    folder = _folder(disk)
    refused, entries, offloaded, events = _ask_kernel(listen_s)
    cluster, rights = _ask_cluster(kubeconfig, context) if kube else (None, None)
    return Readings(
        net_admin=_has_net_admin(),
        release=platform.release(),
        refused=refused,
        sysctls={name: kernel.sysctl(name) for name in _SYSCTLS},
        rmem_max=_number("/proc/sys/net/core/rmem_max"),
        bridge_calls=_number("/proc/sys/net/bridge/bridge-nf-call-iptables"),
        statistics=_statistics(),
        entries=entries,
        offloaded=offloaded,
        events=events,
        listened_s=listen_s,
        interfaces=kernel.interfaces(),
        apart_from_init=_apart_from_init(),
        rules=_rules(),
        disk=disk,
        free_bytes=None if folder is None else shutil.disk_usage(folder).free,
        writable=folder is None or os.access(folder, os.W_OK),
        cluster=cluster,
        rights=rights,
    )


def _ask_kernel(listen_s: float) -> tuple[CtkError | None, int, int, int]:
    """Open the socket, dump some of the table, and listen for a while."""
    entries = offloaded = events = 0
    decoder = Decoder()
    try:
        with kernel.Socket() as source:
            for batch in kernel.dump():
                found = decoder.read(batch)
                entries += len(found)
                offloaded += sum(
                    bool((Event(*each).status or 0) & _IPS_OFFLOADED) for each in found
                )
                if entries >= _LOOKED_AT:
                    break
            end = time.monotonic() + listen_s
            while (left := end - time.monotonic()) > 0:
                received = source.receive(left)
                events += len(received.lengths) if received else 0
    except CtkError as error:
        return error, 0, 0, 0
    return None, entries, offloaded, events


def _ask_cluster(
    kubeconfig: Path | None, context: str | None
) -> tuple[str | None, Mapping[Resource, str | None] | None]:
    from ctk.kube import watch

    try:
        return None, watch.refusals(kubeconfig, context)
    except KubeError as error:  # none was named, and this is not inside a cluster
        return error.message, None


def _has_net_admin() -> bool:
    found = re.search(r"^CapEff:\s*([0-9a-f]+)", Path("/proc/self/status").read_text(), re.M)
    return found is not None and bool(int(found[1], 16) >> _CAP_NET_ADMIN & 1)


def _number(path: str) -> int | None:
    try:
        return int(Path(path).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _statistics() -> Mapping[str, int] | None:
    """Sum the kernel's counters, which it keeps by processor."""
    try:
        lines = Path("/proc/thread-self/net/stat/nf_conntrack").read_text(encoding="ascii")
    except OSError:
        return None
    names, *rows = map(str.split, lines.splitlines())
    return {name: sum(int(row[column], 16) for row in rows) for column, name in enumerate(names)}


def _apart_from_init() -> bool:
    try:
        return Path("/proc/self/ns/net").readlink() != Path("/proc/1/ns/net").readlink()
    except OSError:
        return False


def _rules() -> str | None:
    """All packet rules there are; reading them loads no module that is not in use."""
    commands = [("nft", "list", "ruleset")]
    for family in ("ip", "ip6"):
        try:
            tables = Path(f"/proc/thread-self/net/{family}_tables_names").read_text("ascii")
        except OSError:
            continue
        if "raw" in tables.split():  # saving a table that is not there would make it
            commands.append((f"{family}tables-save", "-t", "raw"))
    texts = [text for command in commands if (text := _output(command)) is not None]
    return "\n".join(texts) if texts else None


def _output(command: Sequence[str]) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TOOL_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def _folder(path: Path) -> Path | None:
    """Where a recording in that directory, or into that file, would be."""
    return next((folder for folder in (path, path.parent) if folder.is_dir()), None)
