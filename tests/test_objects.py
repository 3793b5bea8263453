"""Reading objects: what a real API server recorded, and what it would never write."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ctk.errors import UsageError
from ctk.kube.objects import (
    RESOURCES,
    EndpointSlice,
    Listed,
    Node,
    Pod,
    Resource,
    Service,
    ServicePort,
)
from ctk.kube.parse import read, read_objects

KUBE = Path(__file__).parent.parent / "fixtures" / "kube"
S = 1_000_000_000
BEGAN_NS = 1795501229 * S  # 2026-11-24T06:20:29Z, when most of the recorded objects were made


def recorded(name: str) -> list[Any]:
    changes = read_objects([KUBE / name])
    return [each for change in changes if isinstance(change, Listed) for each in change.objects]


def pod(**changes: Any) -> dict[str, Any]:
    """A pod as the API writes it, with parts replaced."""
    raw: dict[str, Any] = {
        "metadata": {
            "uid": "u1",
            "namespace": "shop",
            "name": "web-1",
            "creationTimestamp": "2026-11-24T06:20:29Z",
        },
        "spec": {"nodeName": "n1"},
        "status": {"phase": "Running", "podIPs": [{"ip": "10.244.0.9"}]},
    }
    for key, part in changes.items():
        raw[key] = {**raw[key], **part}
    return raw


def as_pod(raw: dict[str, Any]) -> Pod:
    value = read("pods", raw)
    assert isinstance(value, Pod)
    return value


def test_recorded_pods_keep_what_is_used() -> None:
    coredns, apiserver, *_ = recorded("pods.page1.json")
    assert coredns == Pod(
        uid="990ac212-59a6-4995-96cd-65e48fd0c32f",
        namespace="kube-system",
        name="coredns-5d78c9869d-ccccc",
        labels={"k8s-app": "kube-dns", "pod-template-hash": "5d78c9869d"},
        node="kl-control-plane",
        workload="coredns",
        workload_kind="Deployment",
        phase="Running",
        host_network=False,
        addresses=("10.244.0.2", "fd00:10:244::2"),
        started_ns=BEGAN_NS,
        ended_ns=None,
    )
    assert (apiserver.host_network, apiserver.addresses, apiserver.owned) == (
        True,
        ("172.18.0.2",),
        (),
    )


def test_recorded_services_slices_and_nodes_keep_what_is_used() -> None:
    kubernetes, _, web = recorded("services.json")
    assert web == Service(
        uid="59acddd6-2be8-42b0-959f-8f741a31d2f6",
        namespace="shop",
        name="web",
        labels={},
        type="NodePort",
        cluster_addresses=("10.96.0.80",),
        addresses=("10.96.0.80",),
        ports=(ServicePort("http", "tcp", 80, 30080),),
        started_ns=BEGAN_NS,
        changed_ns=BEGAN_NS,
    )
    assert kubernetes.labels == {"component": "apiserver", "provider": "kubernetes"}
    assert recorded("endpointslices.json")[2] == EndpointSlice(
        uid="4410a2f3-329f-4e83-ae42-e74e9a9ff40c",
        service="shop/web",
        addresses=("10.244.0.11", "10.244.0.12"),
        ports=(("tcp", 8080),),
        started_ns=BEGAN_NS + S,
    )
    assert recorded("nodes.json") == [
        Node(
            uid="2b02f516-0bef-4b3d-9cc9-f0f114971b56",
            name="kl-control-plane",
            labels={},
            addresses=("172.18.0.2", "fc00:f853::2"),
            pod_cidrs=("10.244.0.0/24",),
            started_ns=BEGAN_NS - S,
        )
    ]


@pytest.mark.parametrize(
    ("owner", "labels", "workload"),
    [
        (("ReplicaSet", "web-7c65"), {"pod-template-hash": "7c65"}, ("web", "Deployment")),
        (("ReplicaSet", "web-7c65"), {}, ("web-7c65", "ReplicaSet")),
        (("Job", "backup-29393280"), {}, ("backup", "CronJob")),
        (("Job", "backup-1763586000"), {}, ("backup", "CronJob")),
        (("Job", "backup-1"), {}, ("backup-1", "Job")),
        (("DaemonSet", "proxy"), {}, ("proxy", "DaemonSet")),
        (("StatefulSet", "db"), {}, ("db", "StatefulSet")),
        (None, {}, (None, None)),
    ],
    ids=[
        "a ReplicaSet's is its Deployment",
        "a ReplicaSet without a template hash is nobody's",
        "a Job named by the minute is its CronJob",
        "a Job named by the second is its CronJob",
        "another Job is itself",
        "a DaemonSet",
        "a StatefulSet",
        "nobody owns a bare pod",
    ],
)
def test_workload(
    owner: tuple[str, str] | None,
    labels: dict[str, str],
    workload: tuple[str | None, str | None],
) -> None:
    owners = [{"kind": "Widget", "name": "not-the-controller"}]
    if owner:
        owners.append({"kind": owner[0], "name": owner[1], "controller": True})  # type: ignore[dict-item]
    value = as_pod(pod(metadata={"ownerReferences": owners, "labels": labels}))
    assert (value.workload, value.workload_kind) == workload


@pytest.mark.parametrize(
    ("status", "times"),
    [
        ({"phase": "Running"}, (BEGAN_NS, None)),
        ({"phase": "Running", "startTime": "2026-11-24T06:20:31Z"}, (BEGAN_NS + 2 * S, None)),
        ({"phase": "Succeeded"}, (BEGAN_NS, None)),
        (
            {
                "phase": "Succeeded",
                "containerStatuses": [
                    {"state": {"terminated": {"finishedAt": "2026-11-24T06:20:40Z"}}},
                    {"state": {"terminated": {"finishedAt": "2026-11-24T06:20:35Z"}}},
                    {"state": {"waiting": {}}},
                ],
            },
            (BEGAN_NS, BEGAN_NS + 12 * S),
        ),
        (
            {
                "phase": "Running",
                "containerStatuses": [
                    {"state": {"terminated": {"finishedAt": "2026-11-24T06:20:40Z"}}}
                ],
            },
            (BEGAN_NS, None),
        ),
    ],
    ids=[
        "it starts at its creation",
        "or when the kubelet took it",
        "its end may be untold",
        "it ends with the second in which the last container did",
        "not while it runs",
    ],
)
def test_pod_times(status: dict[str, Any], times: tuple[int, int | None]) -> None:
    value = as_pod(pod(status=status))
    assert (value.started_ns, value.ended_ns) == times


@pytest.mark.parametrize(
    ("spec", "status", "type_and_addresses"),
    [
        ({"clusterIP": "10.96.0.5"}, {}, ("ClusterIP", ("10.96.0.5",))),
        ({"clusterIP": "None", "clusterIPs": ["None"]}, {}, ("headless", ())),
        (
            {"clusterIPs": ["10.96.0.5", "FD00:96::0005"], "type": "NodePort"},
            {},
            ("NodePort", ("10.96.0.5", "fd00:96::5")),
        ),
        (
            {"clusterIP": "10.96.0.5", "type": "LoadBalancer", "externalIPs": ["192.0.2.1"]},
            {"loadBalancer": {"ingress": [{"ip": "192.0.2.10"}, {"hostname": "lb.example"}]}},
            ("LoadBalancer", ("10.96.0.5", "192.0.2.1", "192.0.2.10")),
        ),
        ({"type": "ExternalName", "externalName": "example.org"}, {}, ("ExternalName", ())),
    ],
    ids=["ClusterIP", "headless", "two families", "external and load balancer", "ExternalName"],
)
def test_every_address_of_a_service(
    spec: dict[str, Any], status: dict[str, Any], type_and_addresses: tuple[str, tuple[str, ...]]
) -> None:
    meta = {"uid": "s", "namespace": "shop", "name": "web"}
    value = read("services", {"metadata": meta, "spec": spec, "status": status})
    assert isinstance(value, Service)
    assert (value.type, value.addresses) == type_and_addresses


def test_a_services_spec_was_changed_when_somebody_set_a_field_of_it_last() -> None:
    fields = [
        {"time": "2026-11-24T06:20:29Z", "fieldsV1": {"f:metadata": {}, "f:spec": {"f:ports": {}}}},
        {"time": "2026-11-24T06:20:31Z", "fieldsV1": {"f:spec": {"f:type": {}}}},
        {"time": "2026-11-24T06:20:40Z", "subresource": "status", "fieldsV1": {"f:status": {}}},
        {"time": "2026-11-24T06:20:50Z", "fieldsV1": {"f:metadata": {"f:labels": {}}}},
    ]
    meta = {"uid": "s", "namespace": "shop", "name": "web"}
    told = [read("services", {"metadata": meta | more}) for more in ({"managedFields": fields}, {})]
    assert [each.changed_ns for each in told if isinstance(each, Service)] == [
        BEGAN_NS + 2 * S,
        None,
    ]


def test_lists_of_every_shape_are_one_list_a_resource(tmp_path: Path) -> None:
    nodes = json.loads((KUBE / "nodes.json").read_text())
    everything = tmp_path / "all.json"
    items = [{"kind": "Node", **nodes["items"][0]}, {"kind": "Namespace", "metadata": {}}]
    everything.write_text(json.dumps({"kind": "List", "items": items}))
    single = tmp_path / "pod.json"
    single.write_text(json.dumps({"kind": "Pod", **pod()}))
    pages = [KUBE / "pods.page1.json", KUBE / "pods.page2.json"]
    changes = read_objects([everything, single, *pages])
    assert [(each.resource, len(each.objects)) for each in changes if isinstance(each, Listed)] == [
        ("pods", 7),
        ("services", 0),
        ("endpointslices", 0),
        ("nodes", 1),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "No such file or directory"),
        ("", "not a list of objects (Input is a zero-length, empty document: line 1 column 1"),
        ("[]", "not a list of objects (it has no kind)"),
        ('{"kind":"Secret"}', "not a list of objects (its kind is Secret)"),
        ('{"kind":"List"}', "not a list of objects (it has no items)"),
        ('{"kind":"PodList","items":[7]}', "not a list of objects (TypeError: "),
        ('{"kind":"PodList","items":[{}]}', "not a list of objects (KeyError: 'metadata')"),
    ],
    ids=["no file", "empty", "no object", "another kind", "no items", "no pod", "an empty pod"],
)
def test_a_bad_file_is_one_line_with_a_hint(text: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "objects.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UsageError) as raised:
        read_objects([path])
    assert raised.value.message.startswith(f"{path}: {message}")
    assert "\n" not in raised.value.message
    assert raised.value.hint == (
        "write it with: kubectl get pods,services,endpointslices,nodes -A -o json"
    )


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@st.composite
def mangled(draw: st.DrawFn) -> tuple[Resource, Any]:
    """A recorded object with something anywhere in it replaced by anything."""
    resource, name = draw(
        st.sampled_from(
            [
                ("pods", "pods.page1.json"),
                ("services", "services.json"),
                ("endpointslices", "endpointslices.json"),
                ("nodes", "nodes.json"),
            ]
        )
    )
    items = json.loads((KUBE / name).read_text())["items"]
    item = draw(st.sampled_from(items))
    part: Any = item
    while isinstance(part, dict | list) and part:
        keys = list(part) if isinstance(part, dict) else list(range(len(part)))
        key = draw(st.sampled_from(keys))
        if draw(st.booleans()) or not isinstance(part[key], dict | list):
            part[key] = draw(anything)
            break
        part = part[key]
    return resource, item  # type: ignore[return-value]


@given(mangled())
@example(("nodes", {"metadata": {"uid": "u", "name": "n"}, "spec": {"podCIDRs": [True]}}))
def test_whatever_an_object_holds_it_is_read_or_refused(each: tuple[Resource, Any]) -> None:
    resource, raw = each
    try:
        value = read(resource, raw)
    except ValueError:
        return
    hash((value.uid, value.started_ns))


@given(st.sampled_from(RESOURCES), anything)
def test_what_is_no_object_is_refused(resource: Resource, raw: Any) -> None:
    with pytest.raises(ValueError, match="Error: "):
        read(resource, raw)
