"""What keeps ctk from recording here, or from seeing everything, judged by `readings`. Pure."""

import re
from collections.abc import Iterator

from ctk.ask.pressure import nearly_full
from ctk.conntrack.bypass import bypass
from ctk.conntrack.socket import BUFFER_BYTES
from ctk.doctor.readings import Readings
from ctk.model import Finding

_MIB, _GIB = 1 << 20, 1 << 30


def judge(seen: Readings) -> Iterator[Finding]:
    """Yield a finding for everything that was looked at, what the others depend on first."""
    yield from _kernel(seen)
    yield from _settings(seen)
    yield from _table(seen)
    yield from _namespace(seen)
    yield from _bypasses(seen)
    yield from _counters(seen)
    yield from _cluster(seen)
    yield from _disk(seen)


def _kernel(seen: Readings) -> Iterator[Finding]:
    if seen.net_admin:
        yield Finding("rights", "ok", "CAP_NET_ADMIN")
    else:
        yield Finding(
            "rights",
            "problem",
            "no CAP_NET_ADMIN: the kernel tells nothing of its connections",
            "run as root, or give a container the capability NET_ADMIN",
        )
    if seen.refused is not None:
        yield Finding("kernel", "problem", seen.refused.message, seen.refused.hint)
    else:
        yield Finding("kernel", "ok", f"Linux {seen.release} answers conntrack netlink")


def _settings(seen: Readings) -> Iterator[Finding]:
    acct, stamp, events = (
        seen.sysctls.get(f"nf_conntrack_{name}") for name in ("acct", "timestamp", "events")
    )
    if acct == 0:
        yield Finding(
            "accounting",
            "warning",
            "nf_conntrack_acct=0: bytes and packets are not counted",
            "record with --enable-accounting, or sysctl -w net.netfilter.nf_conntrack_acct=1",
        )
    elif acct is not None:
        yield Finding("accounting", "ok", f"nf_conntrack_acct={acct}")
    if stamp == 0:
        yield Finding(
            "timestamps",
            "warning",
            "nf_conntrack_timestamp=0: an event's time is that of its receipt, and how old a"
            " connection is stays unknown",
            "record with --enable-accounting, or sysctl -w net.netfilter.nf_conntrack_timestamp=1",
        )
    elif stamp is not None:
        yield Finding("timestamps", "ok", f"nf_conntrack_timestamp={stamp}")
    if events == 0:
        yield Finding(
            "events",
            "problem",
            "nf_conntrack_events=0: the kernel sends none",
            "sysctl -w net.netfilter.nf_conntrack_events=1",
        )
    elif events is not None:
        yield Finding("events", "ok", f"nf_conntrack_events={events}")
    if seen.net_admin:
        yield Finding("buffer", "ok", f"{BUFFER_BYTES // _MIB} MiB, past net.core.rmem_max")
    elif seen.rmem_max is not None and seen.rmem_max < BUFFER_BYTES:
        yield Finding(
            "buffer",
            "warning",
            f"net.core.rmem_max={seen.rmem_max}: bursts may be lost",
            f"sysctl -w net.core.rmem_max={BUFFER_BYTES}",
        )


def _table(seen: Readings) -> Iterator[Finding]:
    count, most = seen.sysctls.get("nf_conntrack_count"), seen.sysctls.get("nf_conntrack_max")
    if count is not None and most:
        share = count / most
        advice = f"sysctl -w net.netfilter.nf_conntrack_max={2 * most}"
        text = f"{count:,} of {most:,} entries ({share:.0%})"
        if share >= 0.95:
            yield Finding("table", "problem", f"{text}: new connections are refused", advice)
        elif share >= 0.8:
            yield Finding("table", "warning", text, advice)
        else:
            yield Finding("table", "ok", text)
    for full in nearly_full(seen.pressure):
        advice = f"ctk pressure {seen.disk} says who held it"
        yield Finding("table before", "warning", full.text, advice)
    if seen.statistics is None:
        return
    refused = {
        name: n
        for name in ("insert_failed", "drop", "early_drop")
        if (n := seen.statistics.get(name, 0))
    }
    if refused:
        yield Finding(
            "refused",
            "warning",
            ", ".join(f"{name} {n:,}" for name, n in refused.items())
            + " since boot: connections failed for want of a place in the table",
            "watch whether the numbers grow: conntrack -S",
        )
    else:
        yield Finding("refused", "ok", "no connection failed for want of a place in the table")


def _namespace(seen: Readings) -> Iterator[Finding]:
    others = [interface for interface in seen.interfaces if interface.name != "lo"]
    advice = "record on the node itself; a pod needs hostNetwork: true"
    if seen.node_here is not None:
        node, address = seen.node_here
        yield Finding("namespace", "ok", f"{address} is here, an address of node {node}")
    elif seen.nodes_known:
        yield Finding("namespace", "warning", "no address here is one of a node's", advice)
    elif seen.apart_from_init:
        yield Finding(
            "namespace",
            "warning",
            "not the network namespace of process 1: is it a node's?",
            advice,
        )
    elif len(others) == 1 and others[0].peer_elsewhere:
        yield Finding(
            "namespace",
            "warning",
            f"{others[0].name} is all there is, and leads to another namespace: a pod's, or a node"
            " that is a container (KinD) and has no pods",
            advice,
        )
    else:
        yield Finding("namespace", "ok", f"{len(others)} interfaces besides lo")


def _bypasses(seen: Readings) -> Iterator[Finding]:
    heard = seen.traffic
    around = bypass(interface.name for interface in seen.interfaces)
    if around == "Cilium":
        yield Finding(
            "data plane",
            "warning",
            "Cilium is here: with its kube-proxy replacement, connections pass conntrack by",
            "compare with: hubble observe",
        )
    elif around is not None:
        yield Finding(
            "data plane",
            "warning",
            f"{around} data plane is here: connections pass conntrack by",
            'calicoctl patch felixconfiguration default -p \'{"spec":{"bpfEnabled":false}}\'',
        )
    elif seen.refused is None and not heard.entries and not heard.events:
        yield Finding(
            "data plane",
            "warning",
            f"no entries, and no event within {seen.listened_s:g} s: nothing goes through"
            " conntrack here",
            "look whether pods are on this node, and whether its data plane uses conntrack",
        )
    elif seen.refused is None and not heard.events:
        yield Finding(
            "data plane",
            "warning",
            f"{heard.entries:,} entries, but no event within {seen.listened_s:g} s",
            "make a connection on this node, and try again",
        )
    elif seen.refused is None:
        yield Finding("data plane", "ok", f"{heard.events:,} events within {seen.listened_s:g} s")
    if seen.bridge_calls != 1 and any(interface.bridge for interface in seen.interfaces):
        yield Finding(
            "bridge",
            "warning",
            "there is a bridge and bridge-nf-call-iptables is not on: what stays on the bridge,"
            " conntrack does not see",
            "modprobe br_netfilter; sysctl -w net.bridge.bridge-nf-call-iptables=1",
        )
    if heard.offloaded or "flowtable" in seen.rules:
        yield Finding(
            "offload",
            "warning",
            f"flow-table offload: {heard.offloaded:,} connections whose counters stand still",
            "nft list flowtables",
        )
    if re.search(r"\bnotrack\b|xt target \"CT\"", seen.rules, re.IGNORECASE):
        yield Finding(
            "NOTRACK",
            "warning",
            "there are rules that keep connections out of conntrack (NodeLocal DNS has some)",
            "nft list ruleset | grep -i notrack",
        )
    elif seen.rules_unread:
        yield Finding(
            "NOTRACK",
            "unknown",
            f"not looked at: {', '.join(seen.rules_unread)}",
            "look on the node: nft list ruleset | grep -i notrack",
        )
    else:
        yield Finding("NOTRACK", "ok", "no rule keeps connections out of conntrack")


def _counters(seen: Readings) -> Iterator[Finding]:
    if seen.refused is not None or not seen.sysctls.get("nf_conntrack_acct"):
        return
    if seen.traffic.zeroed:
        yield Finding(
            "counters",
            "warning",
            f"counters of {seen.traffic.zeroed:,} connections went back within"
            f" {seen.listened_s:g} s: another tool zeroes them, and bytes come short",
            "find it and stop it: conntrack -z, or a meter that polls with it (kubenetmon does)",
        )
    else:
        yield Finding("counters", "ok", f"none went back within {seen.listened_s:g} s")


def _cluster(seen: Readings) -> Iterator[Finding]:
    if seen.rights is None and seen.cluster is None:
        yield Finding("API server", "ok", "not asked")
        return
    if seen.rights is None:
        yield Finding(
            "API server",
            "warning",
            f"{seen.cluster}: addresses stay without names",
            "give --kubeconfig, or record with --objects",
        )
        return
    refused = {resource: why for resource, why in seen.rights.items() if why is not None}
    if not refused:
        yield Finding("API server", "ok", f"lists and watches {', '.join(seen.rights)}")
    for resource, why in refused.items():
        yield Finding(
            f"API {resource}",
            "problem",
            why,
            "kubectl apply -k deploy/" if "forbidden" in why else None,
        )


def _disk(seen: Readings) -> Iterator[Finding]:
    if not seen.disk_named and (seen.free_bytes is None or not seen.writable):
        text = f"not looked at: this user could not record into {seen.disk}"
        yield Finding("disk", "unknown", text, "name the recorder's file: ctk doctor DB")
        return
    if seen.free_bytes is None:
        yield Finding("disk", "problem", f"{seen.disk}: its directory is not there", "make it")
        return
    if not seen.writable:
        text = f"{seen.disk}: this user may not write there"
        yield Finding("disk", "problem", text, "record elsewhere, or as who may")
        return
    text = f"{seen.free_bytes / _GIB:,.1f} GiB free for {seen.disk}"
    if seen.free_bytes < 100 * _MIB:
        yield Finding("disk", "problem", text, "make room, or record elsewhere")
    elif seen.free_bytes < _GIB:
        yield Finding("disk", "warning", text, "record with --max-size")
    else:
        yield Finding("disk", "ok", text)
