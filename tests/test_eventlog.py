"""The lines of the event log."""

import json
from typing import Any

import pytest

from ctk.render.eventlog import live_line, log_line
from ctk.store.columns import FlowRecord

# The event log's own example: a node's probe of a pod.
PROBE = FlowRecord(
    started_at="2024-11-25T18:47:22.852716307Z",
    ended_at="2024-11-25T18:47:22.852816307Z",
    started_ns=1_732_560_442_852_716_307,
    ended_ns=1_732_560_442_852_816_307,
    cluster=None,
    node="n1",
    proto="tcp",
    ip_version=4,
    zone=0,
    src="10.244.0.1",
    src_port=53388,
    dst="10.244.0.3",
    dst_port=8181,
    nat_src=None,
    nat_dst=None,
    nat_dst_port=None,
    src_kind="unknown",
    src_namespace=None,
    src_name=None,
    src_workload=None,
    src_workload_kind=None,
    src_node=None,
    src_node_zone=None,
    src_labels=None,
    dst_kind="pod",
    dst_namespace="kube-system",
    dst_name="coredns-7c65d6cfc9-sq2br",
    dst_workload="coredns",
    dst_workload_kind="Deployment",
    dst_node="n1",
    dst_node_zone=None,
    dst_labels='{"k8s-app":"kube-dns","pod-template-hash":"7c65d6cfc9"}',
    service=None,
    service_via=None,
    connections=1,
    new_events=1,
    update_events=1,
    destroy_events=0,
    unreplied=0,
    refused=0,
    bytes_out=None,
    packets_out=None,
    bytes_in=None,
    packets_in=None,
)
LINE = (
    '{"timestamp":"2024-11-25T18:47:22.852716307Z","src":"10.244.0.1","srcPort":53388,'
    '"dst":"10.244.0.3","dstPort":8181,"dstNs":"kube-system",'
    '"dstName":"kube-system:coredns-7c65d6cfc9-sq2br",'
    '"dstLbls":{"k8s-app":"kube-dns","pod-template-hash":"7c65d6cfc9"},'
    '"proto":"TCP","new":true,"update":true,"cnt":2}'
)


def test_a_log_line_is_what_its_users_parse() -> None:
    assert log_line(PROBE).decode() == LINE


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        # A node has its bare name, and neither namespace nor labels.
        (
            {"src_kind": "node", "src_name": "n1", "src_node": "n1", "src_labels": '{"a":"b"}'},
            {"srcName": "n1"},
        ),
        (
            {"src_kind": "pod", "src_namespace": "shop", "src_name": "web-1", "src_labels": "{}"},
            {"srcNs": "shop", "srcName": "shop:web-1"},
        ),
        ({"src_port": None, "new_events": 0}, {"srcPort": None, "new": False, "cnt": 1}),
        # A live connection's bytes, read by a dump: no event was merged.
        (
            {"new_events": 0, "update_events": 0, "bytes_out": 120},
            {"new": False, "update": False, "cnt": 0, "bytesOut": 120},
        ),
        (
            {"proto": "icmp", "src_port": None, "dst_port": None},
            {"proto": "ICMP", "srcPort": None, "dstPort": None},
        ),
        # What was dialled stays; what is new follows.
        (
            {
                "dst": "10.96.0.10",
                "nat_dst": "10.244.0.3",
                "nat_dst_port": 8181,
                "dst_port": 53,
                "service": "kube-system/kube-dns",
                "destroy_events": 2,
                "refused": 1,
                "bytes_out": 120,
                "bytes_in": 0,
            },
            {
                "dst": "10.96.0.10",
                "dstPort": 53,
                "cnt": 4,
                "destroy": True,
                "natDst": "10.244.0.3",
                "natDstPort": 8181,
                "service": "kube-system/kube-dns",
                "refused": 1,
                "bytesOut": 120,
            },
        ),
    ],
)
def test_a_log_line_leaves_empty_fields_out_but_not_new_update_and_cnt(
    changed: dict[str, Any], line: dict[str, Any]
) -> None:
    expected = {key: value for key, value in (json.loads(LINE) | line).items() if value is not None}
    assert json.loads(log_line(PROBE._replace(**changed))) == expected


def test_a_line_whose_events_are_none_is_this_text() -> None:
    record = PROBE._replace(
        new_events=0, update_events=0, dst_kind="external", bytes_out=120, bytes_in=0
    )
    assert log_line(record).decode() == (
        '{"timestamp":"2024-11-25T18:47:22.852716307Z","src":"10.244.0.1","srcPort":53388,'
        '"dst":"10.244.0.3","dstPort":8181,"proto":"TCP","new":false,"update":false,"cnt":0,'
        '"bytesOut":120}'
    )


@pytest.mark.parametrize(
    ("changed", "head"),
    [
        ({}, "<tcp, Src: 10.244.0.1:53388, Dst: 10.244.0.3:8181> (true) - "),
        ({"update_events": 0}, "<tcp, Src: 10.244.0.1:53388, Dst: 10.244.0.3:8181> (false) - "),
        ({"src_port": None}, "<tcp, Src: 10.244.0.1, Dst: 10.244.0.3:8181> (true) - "),
        (
            {"src": "fd00::1", "dst": "fd00::2", "proto": "udp"},
            "<udp, Src: [fd00::1]:53388, Dst: [fd00::2]:8181> (true) - ",
        ),
    ],
)
def test_a_live_line_says_whether_events_were_merged(changed: dict[str, Any], head: str) -> None:
    record = PROBE._replace(**changed)
    assert live_line(record) == head.encode() + log_line(record)
