"""
What the doctor looks at: the kernel, the namespace, the disk and the API server.

Nothing here changes any of them. What is wrong with them is said by `findings`, from `Readings`
alone.
"""

import os
import platform
import re
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from ctk.ask.pressure import NodePressure
from ctk.ask.recording import Recording
from ctk.conntrack import table
from ctk.conntrack.addresses import local_addresses
from ctk.conntrack.decode import DESTROY, NEW, Decoder, Event
from ctk.conntrack.socket import Socket
from ctk.errors import CtkError, KubeError
from ctk.kube.objects import Resource

_CAP_NET_ADMIN = 12
_IPS_OFFLOADED = 1 << 14 | 1 << 15  # IPS_OFFLOAD, IPS_HW_OFFLOAD
_LOOKED_AT = 20_000  # entries of the table at most: the kernel lists the same ones first
_TOLD_S = 1  # at most, for the events that wait after the last look
_TOOL_S = 10  # at most, for nft or iptables-save

# As the kernel knows one: both tuples and the port between them, zone and CTA_ID.
ConnectionKey = tuple[bytes, int, bytes, int, int]
_K = TypeVar("_K")

_SYSCTLS = (
    "nf_conntrack_acct",
    "nf_conntrack_timestamp",
    "nf_conntrack_events",
    "nf_conntrack_count",
    "nf_conntrack_max",
)


class Interface(NamedTuple):
    """A network interface; `peer_elsewhere`: a veth whose other end is in another namespace."""

    name: str
    bridge: bool = False
    peer_elsewhere: bool = False


class Traffic(NamedTuple):
    """What the kernel's conntrack told while the doctor listened."""

    entries: int = 0  # of the table, at most 20,000
    offloaded: int = 0  # of these, in a flow table: their counters stand still
    events: int = 0
    zeroed: int = 0  # of these entries, with counters lower at the end than at the begin


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
    traffic: Traffic = field(default_factory=Traffic)
    listened_s: float = 0
    interfaces: Sequence[Interface] = ()
    apart_from_init: bool = False  # in another network namespace than process 1
    node_here: tuple[str, str] | None = None  # a node's name, and its address that is one of ours
    nodes_known: bool = False  # whether there would be a `node_here` if this were a node's
    rules: str = ""  # as nft and iptables-save write them
    rules_unread: Sequence[str] = ()  # what would have told more of them, and was not to be had
    pressure: Sequence[NodePressure] = ()  # that a recorder saw, where DB is a file of one
    disk: Path = Path()
    disk_named: bool = True  # not by chance: it is where a recording is to go
    free_bytes: int | None = None
    writable: bool = True
    cluster: str | None = None  # why there is none, or it cannot be asked
    rights: Mapping[Resource, str | None] | None = None  # resource: what was refused


def read(
    *,
    disk: Path,
    disk_named: bool = True,
    kubeconfig: Path | None,
    context: str | None,
    kube: bool,
    listen_s: float,
) -> Readings:
    """Look at everything. It takes `listen_s`, and as long as the API server takes to answer."""
    folder = _folder(disk)
    traffic = _listen(listen_s)
    cluster, rights = _ask_cluster(kubeconfig, context) if kube else (None, None)
    told = rights is not None and rights.get("nodes", "not asked") is None
    node_here, nodes_known = _node_here(kubeconfig, context) if told else (None, False)
    rules, rules_unread = _rules()
    return Readings(
        net_admin=_has_net_admin(),
        release=platform.release(),
        refused=traffic if isinstance(traffic, CtkError) else None,
        sysctls={name: table.sysctl(name) for name in _SYSCTLS},
        rmem_max=_number("/proc/sys/net/core/rmem_max"),
        bridge_calls=_number("/proc/sys/net/bridge/bridge-nf-call-iptables"),
        statistics=_statistics(),
        traffic=Traffic() if isinstance(traffic, CtkError) else traffic,
        listened_s=listen_s,
        interfaces=_interfaces(),
        apart_from_init=_apart_from_init(),
        node_here=node_here,
        nodes_known=nodes_known,
        rules=rules,
        rules_unread=rules_unread,
        pressure=_pressure(disk),
        disk=disk,
        disk_named=disk_named,
        free_bytes=None if folder is None else shutil.disk_usage(folder).free,
        writable=folder is None or os.access(folder, os.W_OK),
        cluster=cluster,
        rights=rights,
    )


def _listen(listen_s: float) -> Traffic | CtkError:
    """Look at the table, listen for a while, and look again; the error where that is refused."""
    decoder = Decoder()
    began_or_ended: set[ConnectionKey] = set()
    events = 0
    try:
        with Socket() as source:
            first = _entries(decoder)
            end_s = time.monotonic() + listen_s
            while (left_s := end_s - time.monotonic()) > 0:
                batch = source.receive(left_s)
                if batch is not None:
                    events += len(batch.lengths)
                    began_or_ended.update(_began_or_ended(decoder.read(batch)))
            last = _entries(decoder)
            end_s = time.monotonic() + _TOLD_S
            while (batch := source.receive(0)) is not None and time.monotonic() < end_s:
                began_or_ended.update(_began_or_ended(decoder.read(batch)))
    except CtkError as error:
        return error
    return Traffic(
        entries=len(first),
        offloaded=sum(bool((entry.status or 0) & _IPS_OFFLOADED) for entry in first.values()),
        events=events,
        zeroed=went_back(first, last, except_=began_or_ended),
    )


def _entries(decoder: Decoder) -> dict[ConnectionKey, Event]:
    """Dump the table's first 20,000 entries."""
    found: dict[ConnectionKey, Event] = {}
    for batch in table.dump():
        for entry in map(Event._make, decoder.read(batch)):
            found[_connection(entry)] = entry
        if len(found) >= _LOOKED_AT:
            break
    return found


def _connection(event: Event) -> ConnectionKey:
    return event.orig, event.port, event.reply, event.zone, event.ct_id


def _began_or_ended(events: Iterable[tuple[Any, ...]]) -> Iterator[ConnectionKey]:
    for event in map(Event._make, events):
        if event.what in (NEW, DESTROY):
            yield _connection(event)


def went_back(
    first: Mapping[_K, Event],
    last: Mapping[_K, Event],
    *,
    except_: AbstractSet[_K] = frozenset(),
) -> int:
    """
    Count the connections whose counters are lower in `last` than in `first`: they were zeroed.

    Those in `except_` ended or began in between and are left out: the kernel's id may come again.
    """
    return sum(
        any(
            now is not None and before is not None and now < before
            for now, before in zip(_counters(last[each]), _counters(entry), strict=True)
        )
        for each, entry in first.items()
        if each in last and each not in except_
    )


def _counters(entry: Event) -> tuple[int | None, ...]:
    return entry.packets_out, entry.bytes_out, entry.packets_in, entry.bytes_in


def _interfaces() -> tuple[Interface, ...]:
    from pyroute2 import IPRoute

    found = []
    with IPRoute() as ipr:
        for link in ipr.get_links():
            about = link.get_attr("IFLA_LINKINFO")
            kind = about.get_attr("IFLA_INFO_KIND") if about is not None else None
            elsewhere = kind == "veth" and link.get_attr("IFLA_LINK_NETNSID") is not None
            found.append(Interface(link.get_attr("IFLA_IFNAME"), kind == "bridge", elsewhere))
    return tuple(found)


def _ask_cluster(
    kubeconfig: Path | None, context: str | None
) -> tuple[str | None, Mapping[Resource, str | None] | None]:
    from ctk.kube import watch

    try:
        return None, watch.refusals(kubeconfig, context)
    except KubeError as error:  # no kubeconfig was given, and this is not inside a cluster
        return error.message, None


def _node_here(kubeconfig: Path | None, context: str | None) -> tuple[tuple[str, str] | None, bool]:
    """Find the node that has an address of this namespace; and whether any node was told of."""
    from ctk.kube import watch

    ours = {each for each in local_addresses() if not ip_address(each).is_loopback}
    told = False
    name = os.environ.get("NODE_NAME")
    for asked in (name, None) if name else (None,):
        for node in watch.nodes(kubeconfig, context, asked):
            told = True
            for address in node.addresses:
                if address in ours:
                    return (node.name, address), True
    return None, told


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


def _rules() -> tuple[str, list[str]]:
    """
    Return the packet rules, and what of them could not be read and why.

    Reading them this way loads no module that is not in use.
    """
    commands = [("nft", "list", "ruleset")]
    for family in ("ip", "ip6"):
        try:
            tables = Path(f"/proc/thread-self/net/{family}_tables_names").read_text("ascii")
        except OSError:
            continue
        if "raw" in tables.split():  # saving a table that is not there would make it
            commands.append((f"{family}tables-save", "-t", "raw"))
    texts, unread = [], []
    for command in commands:
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=_TOOL_S, check=False
            )
        except FileNotFoundError:
            unread.append(f"{command[0]} is not here")
        except (OSError, subprocess.TimeoutExpired) as error:
            unread.append(f"{command[0]} failed ({type(error).__name__})")
        else:
            texts.append(done.stdout)
            if done.returncode != 0:
                said = done.stderr.strip().splitlines()
                unread.append(f"{command[0]} failed ({said[0] if said else done.returncode})")
    return "\n".join(texts), unread


def _pressure(db: Path) -> Sequence[NodePressure]:
    """Read how full the tables were that a recorder looked at; nothing where DB is no such file."""
    if not db.is_file():
        return ()
    try:
        with Recording(db) as recording:
            return recording.pressure().nodes
    except (CtkError, OSError, sqlite3.Error):
        return ()


def _folder(path: Path) -> Path | None:
    """Return the directory that a recording into `path`, a file or a directory, would be in."""
    return next((folder for folder in (path, path.parent) if folder.is_dir()), None)
