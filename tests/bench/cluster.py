"""
The cluster behind the flood's addresses, as `kubectl get ... -A -o json` would print it.

Pods stand at 10.244.0.1 and on, 250 a node, 20 a Deployment; 300 services have a Deployment each,
and the one at 10.96.0.80 is what the flood calls (flood.c).
"""

import json
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

FIRST_POD = IPv4Address("10.244.0.1")
SERVER = IPv4Address("10.244.39.1")
SERVICE = IPv4Address("10.96.0.80")
SERVICES, REPLICAS, PODS_A_NODE, NAMESPACES = 300, 20, 250, 20
NODE = "node-0"
CREATED = "2024-01-01T00:00:00Z"


def write(path: Path, pods: int) -> None:
    items = [_pod(i) for i in range(pods)]
    for i in range(SERVICES):
        backends = [i * REPLICAS + replica for replica in range(REPLICAS)]
        address = IPv4Address("10.96.1.0") + i
        if i == 0:
            backends, address = [int(SERVER) - int(FIRST_POD)], SERVICE
        items += [_service(i, address), _slice(i, [pod for pod in backends if pod < pods])]
    path.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))


def _metadata(kind: str, i: int, app: int, name: str, **more: Any) -> dict[str, Any]:
    namespace = f"team-{app % NAMESPACES}"
    uid = f"{kind}-{i}"
    return {
        "metadata": {
            "namespace": namespace,
            "name": name,
            "uid": uid,
            "resourceVersion": "1",
            "creationTimestamp": CREATED,
            **more,
        }
    }


def _pod(i: int) -> dict[str, Any]:
    app = i // REPLICAS
    owner = f"app-{app}-5d78c9869d"
    address = str(FIRST_POD + i)
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        **_metadata(
            "pod",
            i,
            app,
            f"{owner}-{i:05d}",
            labels={"app": f"app-{app}", "pod-template-hash": "5d78c9869d"},
            ownerReferences=[
                {
                    "apiVersion": "apps/v1",
                    "kind": "ReplicaSet",
                    "name": owner,
                    "uid": f"rs-{app}",
                    "controller": True,
                }
            ],
        ),
        "spec": {"nodeName": f"node-{i // PODS_A_NODE}"},
        "status": {
            "phase": "Running",
            "podIP": address,
            "podIPs": [{"ip": address}],
            "startTime": CREATED,
        },
    }


def _service(i: int, address: IPv4Address) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        **_metadata("service", i, i, f"app-{i}"),
        "spec": {
            "type": "ClusterIP",
            "clusterIP": str(address),
            "clusterIPs": [str(address)],
            "selector": {"app": f"app-{i}"},
            "ports": [{"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"}],
        },
    }


def _slice(i: int, pods: list[int]) -> dict[str, Any]:
    labels = {"kubernetes.io/service-name": f"app-{i}"}
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        **_metadata("slice", i, i, f"app-{i}-x", labels=labels),
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": [
            {
                "addresses": [str(FIRST_POD + pod)],
                "conditions": {"ready": True},
                "targetRef": {"kind": "Pod", "name": f"pod-{pod}", "uid": f"pod-{pod}"},
            }
            for pod in pods
        ],
    }
