"""
What each view and each of its columns means, a sentence each.

`ctk schema` prints them, the views of a file hold them as comments, and docs/datasette.json is made
from them (tests hold their names against the views).
"""

from collections.abc import Mapping
from typing import get_args, get_type_hints

from ctk.model.tableuse import TableCounters
from ctk.store.columns import FlowRecord

VIEWS: Mapping[str, str] = {
    "flows": "What connections of the same two addresses, dialled port, protocol, zone and backend"
    " did in one window.",
    "flows_1m": "Flows summed up by minute. Columns are those of flows; started and ended are the"
    " minute's, and src_port is null.",
    "flows_1h": "Flows summed up by hour, with the columns of flows_1m.",
    "flows_1d": "Flows summed up by day (UTC), with the columns of flows_1m.",
    "pods": "Pods, and when each was as its row says; a change is a new row.",
    "services": "Services, and when each was as its row says.",
    "endpoints": "Who was behind an address, and when.",
    "nodes": "Nodes, and when each was as its row says.",
    "gaps": "Spans in which something was lost or is unknown.",
    "recordings": "Runs of the recorder that wrote the file.",
    "pressure": "How full the kernel's table of connections was, and what conntrack -S counted: a"
    " look a minute.",
    "holders": "Who held the table's entries: a dump a minute, whose rows add up to all it listed.",
}

_FLOW: Mapping[str, str] = {
    "started_at": "The first event of the row, RFC 3339 UTC; of a rollup, where its bucket begins.",
    "ended_at": "The last event of the row; of a rollup, where its bucket ends.",
    "started_ns": "started_at in nanoseconds since 1970: in ctk query, compare it with ago('1h').",
    "ended_ns": "ended_at in nanoseconds since 1970.",
    "cluster": "The cluster's name; null where none was followed.",
    "node": "The node that recorded it. Two nodes may both see one connection.",
    "proto": "tcp, udp, icmp, icmpv6, sctp, ...; the number as text where it has no name.",
    "ip_version": "4 or 6; null where many addresses are folded into one row.",
    "zone": "The conntrack zone, 0 unless one is used.",
    "src": "The address that opened the connection.",
    "src_port": "Its port; null where connections from several ports are one row.",
    "dst": "The address that was dialled: a service's, say.",
    "dst_port": "The port that was dialled; null for ICMP.",
    "nat_src": "The source after NAT; null where it is src.",
    "nat_dst": "The backend that answered; null where it is dst.",
    "nat_dst_port": "The backend's port; null where it is dst_port.",
    "src_kind": "What src belongs to: pod, node, service, external or unknown.",
    "src_namespace": "The namespace of the pod or service behind src.",
    "src_name": "The name of the pod, service or node behind src.",
    "src_workload": "What the pod is of: its Deployment, DaemonSet, StatefulSet, CronJob, ...",
    "src_workload_kind": "The kind of src_workload.",
    "src_node": "The node that src is, or that its pod runs on.",
    "src_node_zone": "The topology zone of src_node.",
    "src_labels": "Labels of src's pod, a JSON object: json_extract(src_labels, '$.app').",
    "dst_kind": "What the one who answered, the backend, belongs to.",
    "dst_namespace": "The backend's namespace.",
    "dst_name": "The backend's name.",
    "dst_workload": "The backend's workload.",
    "dst_workload_kind": "The kind of dst_workload.",
    "dst_node": "The node that the backend is, or that its pod runs on.",
    "dst_node_zone": "The topology zone of dst_node.",
    "dst_labels": "Labels of the backend's pod, a JSON object.",
    "service": "The service that was dialled, as namespace/name.",
    "service_via": "'address' where an address of the service was dialled, 'endpoint' where a pod"
    " that backs it was.",
    "connections": "Connections that began in the row, or were first found alive. Their sum over"
    " time is the number of connections.",
    "new_events": "Events of the kernel for new connections.",
    "update_events": "Events of the kernel for connections that changed.",
    "destroy_events": "Events of the kernel for connections that ended.",
    "unreplied": "Connections that ended without a reply; the refused are not among them.",
    "refused": "TCP connections that were reset before they were established.",
    "bytes_out": "Bytes from src that moved in the row's span; null where they were not counted.",
    "packets_out": "Packets from src; null where they were not counted.",
    "bytes_in": "Bytes to src; null where they were not counted.",
    "packets_in": "Packets to src; null where they were not counted.",
    "src_addresses": "How many addresses src stands for where it is 'other'; about, past 256.",
    "dst_addresses": "How many addresses dst or nat_dst stands for where it is 'other'.",
}

_VALID: Mapping[str, str] = {
    "valid_from": "Since when that was so, RFC 3339 UTC.",
    "valid_to": "Until when; null where it is so still.",
    "valid_from_ns": "valid_from in nanoseconds since 1970.",
    "valid_to_ns": "valid_to in nanoseconds since 1970.",
    "end_inferred": "1 where nobody saw the end: after valid_to nothing is known.",
}
_NAMED: Mapping[str, str] = {
    "uid": "Its UID in Kubernetes.",
    "namespace": "Its namespace.",
    "name": "Its name.",
}
_LABELS: Mapping[str, str] = {"labels": "Its labels, a JSON object."}
_ADDRESSES: Mapping[str, str] = {"addresses": "Its addresses, a JSON array."}
_WORKLOAD: Mapping[str, str] = {
    "workload": "What the pod is of: its Deployment, DaemonSet, StatefulSet, CronJob, ...",
    "workload_kind": "The kind of the workload.",
}

COLUMNS: Mapping[str, Mapping[str, str]] = {
    **dict.fromkeys(("flows", "flows_1m", "flows_1h", "flows_1d"), _FLOW),
    "pods": {
        **_NAMED,
        "node": "The node it runs on.",
        **_WORKLOAD,
        "phase": "Pending, Running, Succeeded, Failed or Unknown.",
        "host_network": "1 where it has its node's addresses.",
        **_ADDRESSES,
        **_LABELS,
        **_VALID,
    },
    "services": {
        **_NAMED,
        "type": "ClusterIP, NodePort, LoadBalancer or ExternalName.",
        **_ADDRESSES,
        "ports": "Its ports, a JSON array.",
        **_LABELS,
        **_VALID,
    },
    "endpoints": {
        "id": "Its number in this file.",
        "address": "The address.",
        "kind": "pod, node, service, external or unknown.",
        "namespace": "The namespace of the pod or service.",
        "name": "The name of the pod, service or node.",
        **_WORKLOAD,
        "node": "The node that it is, or that the pod runs on.",
        "node_zone": "The topology zone of that node.",
        **_LABELS,
        "uid": "The UID in Kubernetes of the pod.",
        **_VALID,
    },
    "nodes": {
        "uid": _NAMED["uid"],
        "name": _NAMED["name"],
        "zone": "Its topology zone.",
        **_ADDRESSES,
        **_LABELS,
        **_VALID,
    },
    "gaps": {
        "started_at": "From when on, RFC 3339 UTC.",
        "ended_at": "Until when.",
        "started_ns": "started_at in nanoseconds since 1970.",
        "ended_ns": "ended_at in nanoseconds since 1970.",
        "cluster": "The cluster's name.",
        "node": "The node of the recorder.",
        "kind": "What happened: events lost, recorder down, counters reset, metadata stale, ...",
        "lost": "Events that were lost; null where their number is not known.",
        "detail": "More of it, in words.",
        "recording_id": "The id in recordings.",
    },
    "recordings": {
        "id": "Its number in this file.",
        "cluster": "The cluster's name.",
        "cluster_uid": "The UID of the namespace kube-system, which tells clusters apart.",
        "node": "The node of the recorder.",
        "boot_id": "The kernel's boot: counters start anew with each.",
        "started_at": "When it began, RFC 3339 UTC.",
        "committed_at": "Until when flows are in the file.",
        "ended_at": "When it ended; null while it runs, and after a crash.",
        "started_ns": "started_at in nanoseconds since 1970.",
        "committed_ns": "committed_at in nanoseconds since 1970.",
        "ended_ns": "ended_at in nanoseconds since 1970.",
        "version": "The version of ctk.",
        "source": "'kernel', or the capture that was replayed.",
        "settings": "What it was asked to do, a JSON object.",
        "events": "Events that it read.",
        "lost": "Events that it lost.",
        "malformed": "Messages that it could not read.",
    },
    "pressure": {
        "at": "When it was looked at, RFC 3339 UTC.",
        "at_ns": "at in nanoseconds since 1970.",
        "cluster": "The cluster's name.",
        "node": "The node whose table it is.",
        "entries": "Entries in the table (nf_conntrack_count); of a capture, those a dump listed.",
        "peak": "The most entries since the look before.",
        "most": "How many there may be (nf_conntrack_max); null where it is not known.",
        "found": "Lookups that found an entry, since the look before, as all that follow; null"
        " where it is not known.",
        "invalid": "Packets that could not be tracked.",
        "inserted": "Entries that were inserted (insert of conntrack -S).",
        "insert_failed": "Entries that were not inserted: mostly, the same one was there already.",
        "dropped": "Packets that were dropped, mostly since the table was full (drop).",
        "early_dropped": "Entries that were thrown away to make room (early_drop).",
        "errors": "Packets that could not be tracked for an error (error of conntrack -S).",
        "search_restarts": "Lookups that began again, since the table was resized.",
        "clash_resolved": "Entries that were there already, where that could be put right.",
        "chain_too_long": "Entries that were not inserted, since too many had the same hash.",
    },
    "holders": {
        "at": "When the dump ended, RFC 3339 UTC.",
        "at_ns": "at in nanoseconds since 1970.",
        "cluster": "The cluster's name.",
        "node": "The node whose table it is.",
        "proto": "tcp, udp, icmp, icmpv6, sctp, ...",
        "client_kind": "pod, node, service, external or unknown, by what was known then; other: all"
        " that hold less, together; left out: what the recording's filters leave out.",
        "client": "Who dialled: its workload, the pod that has none, or the node; else null.",
        "service": "The service that was dialled, as namespace/name.",
        "backend_kind": "What the one who answered belongs to.",
        "backend": "Who answered: its workload, the pod that has none, or the node; else null.",
        "port": "The port that was dialled; null for ICMP.",
        "state": "The TCP state, as the kernel names it; UNREPLIED, REPLIED or ASSURED of others.",
        "entries": "How many entries of the table that was.",
    },
}

_INTEGERS = {
    *("id", "host_network", "end_inferred", "lost", "recording_id", "events", "malformed"),
    *("entries", "peak", "most", "port", *TableCounters._fields),
}
_HINTS = get_type_hints(FlowRecord)


def type_of(view: str, column: str) -> str:
    """Give "text" or "integer"."""
    if view.startswith("flows"):
        return "integer" if int in (_HINTS[column], *get_args(_HINTS[column])) else "text"
    return "integer" if column in _INTEGERS or column.endswith("_ns") else "text"


def comments(view: str) -> str:
    """Give what a view means as comments of SQL, a line each."""
    lines = [VIEWS[view]]
    if view == "flows" or not view.startswith("flows"):
        lines += [f"{column}: {meaning}" for column, meaning in COLUMNS[view].items()]
    return "".join(f"-- {line}\n" for line in lines)
