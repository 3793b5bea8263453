"""
The objects that `ctk collect` makes in a cluster.

The pod is that of deploy/, in all that the recorder needs of its node; a test holds them equal.
What differs is what it is for: one node, once, with a file that goes with the pod.
"""

from collections.abc import Mapping
from typing import Any

import ctk

Object = Mapping[str, Any]

NAME = "ctk"  # of the account and the container
FOLDER = "/var/lib/ctk"
LABELS = {"app.kubernetes.io/name": NAME, "app.kubernetes.io/managed-by": "ctk-collect"}
_TMP_LIMIT = "1Gi"
_BESIDE_BYTES = 64 << 20  # what SQLite keeps beside the file for a moment

# Exactly what is listed and watched, and the UID of kube-system, which identifies the cluster.
RULES = (
    {
        "apiGroups": [""],
        "resources": ["pods", "services", "nodes"],
        "verbs": ["list", "watch"],
    },
    {
        "apiGroups": ["discovery.k8s.io"],
        "resources": ["endpointslices"],
        "verbs": ["list", "watch"],
    },
    {
        "apiGroups": [""],
        "resources": ["namespaces"],
        "resourceNames": ["kube-system"],
        "verbs": ["get"],
    },
)


def default_image() -> str:
    """Name the image of this version, as deploy/ does."""
    return f"ctk:{ctk.__version__}"


def namespace(name: str) -> Object:
    """Where a node's network may be asked for."""
    levels = {f"pod-security.kubernetes.io/{each}": "privileged" for each in _MODES}
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": name, "labels": {**LABELS, **levels}},
    }


_MODES = ("enforce", "warn", "audit")


def service_account(in_namespace: str) -> Object:
    """Who the recorders are."""
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {"name": NAME, "namespace": in_namespace, "labels": LABELS},
    }


def cluster_role(name: str, owner: Object) -> Object:
    """What they may ask."""
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": _owned(name, owner),
        "rules": list(RULES),
    }


def cluster_role_binding(name: str, owner: Object) -> Object:
    """Who may ask that."""
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": _owned(name, owner),
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
        "subjects": [{"kind": "ServiceAccount", "name": NAME, "namespace": name}],
    }


def _owned(name: str, owner: Object) -> Object:
    """Let what has no namespace go with the temporary one, whoever deletes that."""
    reference = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
    }
    return {"name": name, "labels": LABELS, "ownerReferences": [reference]}


def recorder(
    node: str,
    in_namespace: str,
    *,
    image: str,
    pull_policy: str,
    cluster_name: str | None,
    max_bytes: int,
    progress: str,
    deadline_s: int,
) -> Object:
    """Record one node; its pod has the node's name, and ends by itself after `deadline_s`."""
    args = ["record", file_of(node), "--max-size", str(max_bytes), "--progress", progress]
    if cluster_name is not None:
        # Kubernetes puts variables in place of $(NAME).
        args += ["--cluster-name", cluster_name.replace("$(", "$$(")]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": node, "namespace": in_namespace, "labels": LABELS},
        "spec": {
            "nodeName": node,
            "serviceAccountName": NAME,
            "hostNetwork": True,
            "dnsPolicy": "Default",
            "enableServiceLinks": False,
            "restartPolicy": "Never",
            "activeDeadlineSeconds": deadline_s,
            "terminationGracePeriodSeconds": 30,
            "tolerations": [{"operator": "Exists"}],
            "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [
                {
                    "name": NAME,
                    "image": image,
                    "imagePullPolicy": pull_policy,
                    "args": [*args, "--linger"],
                    "env": [
                        {
                            "name": "NODE_NAME",
                            "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}},
                        }
                    ],
                    # Its last lines are in the pod's status then, where no log can be read.
                    "terminationMessagePolicy": "FallbackToLogsOnError",
                    "securityContext": {
                        "runAsUser": 0,
                        "allowPrivilegeEscalation": False,
                        "readOnlyRootFilesystem": True,
                        "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN"]},
                    },
                    "resources": {
                        "requests": {"cpu": "20m", "memory": "100Mi"},
                        "limits": {"cpu": "1", "memory": "512Mi"},
                    },
                    "volumeMounts": [
                        {"name": "recording", "mountPath": FOLDER},
                        {"name": "tmp", "mountPath": "/tmp"},
                    ],
                }
            ],
            "volumes": [
                # Above --max-size: a pod that passes the limit is evicted, and its file is gone.
                {
                    "name": "recording",
                    "emptyDir": {"sizeLimit": str(max_bytes + max_bytes // 4 + _BESIDE_BYTES)},
                },
                {"name": "tmp", "emptyDir": {"sizeLimit": _TMP_LIMIT}},
            ],
        },
    }


def file_of(node: str) -> str:
    """Where a node's recorder writes."""
    return f"{FOLDER}/{node}.db"
