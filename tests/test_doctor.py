"""What the doctor says of what was read, line by line."""

from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest
from wire import Connection, events

from ctk.conntrack.decode import Event
from ctk.doctor.findings import judge
from ctk.doctor.readings import Interface, Readings, Traffic, went_back
from ctk.errors import SourceError
from ctk.model import Finding
from ctk.render import tables as render
from ctk.render.layout import Screen
from ctk.render.tables import Output

RESOURCES = ("pods", "services", "endpointslices", "nodes")
HEALTHY = Readings(
    net_admin=True,
    release="6.18",
    sysctls={
        "nf_conntrack_acct": 1,
        "nf_conntrack_timestamp": 1,
        "nf_conntrack_events": 2,
        "nf_conntrack_count": 1000,
        "nf_conntrack_max": 262144,
    },
    rmem_max=212992,
    statistics={"insert_failed": 0, "drop": 0, "early_drop": 0, "found": 7},
    traffic=Traffic(entries=1000, events=12),
    listened_s=3,
    interfaces=(Interface("lo"), Interface("eth0"), Interface("veth1", False, True)),
    rules="table ip nat {}",
    disk=Path("node.db"),
    free_bytes=5 << 30,
    rights=dict.fromkeys(RESOURCES),
)


def test_a_healthy_node_has_a_line_for_everything():
    assert list(judge(HEALTHY)) == [
        Finding("rights", "ok", "CAP_NET_ADMIN"),
        Finding("kernel", "ok", "Linux 6.18 answers conntrack netlink"),
        Finding("accounting", "ok", "nf_conntrack_acct=1"),
        Finding("timestamps", "ok", "nf_conntrack_timestamp=1"),
        Finding("events", "ok", "nf_conntrack_events=2"),
        Finding("buffer", "ok", "128 MiB, past net.core.rmem_max"),
        Finding("table", "ok", "1,000 of 262,144 entries (0%)"),
        Finding("refused", "ok", "no connection failed for want of a place in the table"),
        Finding("namespace", "ok", "2 interfaces besides lo"),
        Finding("data plane", "ok", "12 events within 3 s"),
        Finding("NOTRACK", "ok", "no rule keeps connections out of conntrack"),
        Finding("counters", "ok", "none went back within 3 s"),
        Finding("API server", "ok", "lists and watches pods, services, endpointslices, nodes"),
        Finding("disk", "ok", "5.0 GiB free for node.db"),
    ]


def sysctls(**changed: int | None) -> dict[str, int | None]:
    return {**HEALTHY.sysctls, **{f"nf_conntrack_{name}": n for name, n in changed.items()}}


ALONE = (Interface("lo"), Interface("eth0", False, True))
BRIDGED = (*HEALTHY.interfaces, Interface("cni0", bridge=True))


@pytest.mark.parametrize(
    ("changed", "check", "status", "says", "tries"),
    [
        ({"net_admin": False}, "rights", "problem", "CAP_NET_ADMIN", "root"),
        (
            {"refused": SourceError("no conntrack", hint="modprobe x")},
            "kernel",
            "problem",
            "no conntrack",
            "modprobe x",
        ),
        ({"sysctls": sysctls(acct=0)}, "accounting", "warning", "not counted", "--enable-acc"),
        ({"sysctls": sysctls(timestamp=0)}, "timestamps", "warning", "receipt", "timestamp=1"),
        ({"sysctls": sysctls(events=0)}, "events", "problem", "sends none", "events=1"),
        ({"net_admin": False}, "buffer", "warning", "rmem_max=212992", "rmem_max=134217728"),
        ({"sysctls": sysctls(count=220_000)}, "table", "warning", "(84%)", "max=524288"),
        ({"sysctls": sysctls(count=262_000)}, "table", "problem", "refused", "max=524288"),
        (
            {"statistics": {"insert_failed": 3, "drop": 0, "early_drop": 1000}},
            "refused",
            "warning",
            "insert_failed 3, early_drop 1,000",
            "conntrack -S",
        ),
        ({"interfaces": ALONE}, "namespace", "warning", "a pod's, or", "hostNetwork: true"),
        ({"apart_from_init": True}, "namespace", "warning", "process 1", "hostNetwork: true"),
        ({"nodes_known": True}, "namespace", "warning", "no address here", "hostNetwork: true"),
        (
            {"interfaces": (*HEALTHY.interfaces, Interface("cilium_host"))},
            "data plane",
            "warning",
            "Cilium",
            "hubble",
        ),
        (
            {"interfaces": (*HEALTHY.interfaces, Interface("bpfin.cali"))},
            "data plane",
            "warning",
            "Calico",
            "felixconfiguration",
        ),
        ({"traffic": Traffic()}, "data plane", "warning", "no entries", "pods"),
        (
            {"traffic": Traffic(entries=1000)},
            "data plane",
            "warning",
            "1,000 entries, but no event",
            "connection",
        ),
        ({"interfaces": BRIDGED}, "bridge", "warning", "does not see", "modprobe br_netfilter"),
        (
            {"traffic": Traffic(entries=9, offloaded=5, events=1)},
            "offload",
            "warning",
            "5 connections",
            "flowtables",
        ),
        ({"rules": "flowtable f { }"}, "offload", "warning", "0 connections", "flowtables"),
        (
            {"traffic": Traffic(entries=1000, events=1, zeroed=12)},
            "counters",
            "warning",
            "counters of 12 connections went back within 3 s: another tool zeroes them",
            "conntrack -z",
        ),
        ({"rules": "udp dport 53 notrack"}, "NOTRACK", "warning", "keep connections", "grep"),
        ({"rules": "-A OUTPUT -j CT --notrack"}, "NOTRACK", "warning", "keep", "grep"),
        (
            {"rules_unread": ("nft is not here",)},
            "NOTRACK",
            "unknown",
            "not looked at: nft is not here",
            "on the node",
        ),
        (
            {"rules": "-A OUTPUT -j CT --notrack", "rules_unread": ("nft is not here",)},
            "NOTRACK",
            "warning",
            "keep",
            "grep",
        ),
        (
            {"rights": None, "cluster": "this is not inside a cluster"},
            "API server",
            "warning",
            "not inside a cluster",
            "--kubeconfig",
        ),
        (
            {"rights": dict.fromkeys(RESOURCES) | {"nodes": "forbidden: needs get"}},
            "API nodes",
            "problem",
            "forbidden",
            "kubectl apply",
        ),
        ({"free_bytes": 500 << 20}, "disk", "warning", "0.5 GiB", "--max-size"),
        ({"free_bytes": 50 << 20}, "disk", "problem", "0.0 GiB", "make room"),
        ({"writable": False}, "disk", "problem", "may not write there", "elsewhere"),
        ({"free_bytes": None}, "disk", "problem", "directory is not there", "make it"),
        ({"free_bytes": 9, "disk_named": False}, "disk", "problem", "0.0 GiB", "make room"),
        ({"writable": False, "disk_named": False}, "disk", "unknown", "not looked", "doctor DB"),
        ({"free_bytes": None, "disk_named": False}, "disk", "unknown", "not looked", "doctor DB"),
    ],
)
def test_what_is_wrong_is_said_with_what_to_do(changed, check, status, says, tries):
    [found] = [one for one in judge(replace(HEALTHY, **changed)) if one.check == check]
    assert found.status == status
    assert says in found.found
    assert tries in found.advice


def test_a_node_without_pods_is_known_by_its_address():
    here = {"node_here": ("kind-worker", "172.18.0.3"), "nodes_known": True}
    for apart in ({"interfaces": ALONE}, {"apart_from_init": True}):
        found = list(judge(replace(HEALTHY, **here, **apart)))
        assert Finding("namespace", "ok", "172.18.0.3 is here, an address of node kind-worker") in (
            found
        )


def test_a_bridge_that_calls_iptables_is_nothing_to_say():
    seen = replace(HEALTHY, interfaces=BRIDGED, bridge_calls=1)
    assert "bridge" not in {one.check for one in judge(seen)}


def entries(*messages: bytes) -> dict[int, Event]:
    return {event.ct_id: event for event in map(Event._make, events(*messages))}


def test_counters_that_went_back_are_counted_once_a_connection():
    one, other, third, gone = (Connection(ct_id=n) for n in range(1, 5))
    first = entries(
        one.listed((10, 1000, 10, 1000)),
        other.listed((10, 1000, 10, 1000)),
        third.listed((10, 1000, 10, 1000)),
        gone.listed((10, 1000, 10, 1000)),
    )
    last = entries(
        one.listed((1, 52, 0, 0)),  # zeroed
        other.listed((10, 1000, 11, 1052)),  # went on
        third.listed((1, 52, 0, 0)),  # another one of the same id
    )
    assert went_back(first, last, except_={3}) == 1


def test_counters_that_are_not_there_did_not_go_back():
    assert went_back(entries(Connection().listed()), entries(Connection().listed())) == 0


def test_a_cluster_that_was_not_asked_about_is_no_warning():
    found = list(judge(replace(HEALTHY, rights=None)))
    assert Finding("API server", "ok", "not asked") in found


def test_findings_are_lines_for_people_and_objects_for_programs():
    found = [Finding("disk", "ok", "room"), Finding("rights", "problem", "none", "be root")]
    out = BytesIO()
    render.findings(found, Output(format="table"), out)
    render.findings(found, Output(format="jsonl"), out)
    assert out.getvalue().decode() == (
        "ok       disk    room\n"
        "problem  rights  none\n"
        "                 Try: be root\n"
        '{"check":"disk","status":"ok","found":"room","advice":null}\n'
        '{"check":"rights","status":"problem","found":"none","advice":"be root"}\n'
    )


def test_a_finding_longer_than_the_terminal_is_folded_between_words():
    said = "little room for what is said, and for what is to come"
    found = [Finding("disk", "warning", said, "sysctl -w net.netfilter.nf_conntrack_timestamp=1")]
    wide, narrow = BytesIO(), BytesIO()
    render.findings(found, Output(format="table", screen=Screen(width=53)), wide)
    render.findings(found, Output(format="table", screen=Screen(width=40)), narrow)
    assert wide.getvalue().decode() == (
        "warning  disk  little room for what is said, and for\n"
        "               what is to come\n"
        "               Try: sysctl -w\n"
        "               net.netfilter.nf_conntrack_timestamp=1\n"
    )
    # The name of a setting is not broken, and fits.
    assert narrow.getvalue().decode() == (
        "warning  disk\n"
        "  little room for what is said, and for\n"
        "  what is to come\n"
        "  Try: sysctl -w\n"
        "  net.netfilter.nf_conntrack_timestamp=1\n"
    )
