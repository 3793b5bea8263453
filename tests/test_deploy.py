"""The manifests grant what is asked for, and hold what the documentation says of them."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from apiserver import PATHS

from ctk import __version__

DEPLOY = Path(__file__).parent.parent / "deploy"


def manifests() -> dict[str, dict[str, Any]]:
    """Each object of the manifests, by its kind."""
    resources = yaml.safe_load((DEPLOY / "kustomization.yaml").read_text())["resources"]
    assert sorted([*resources, "kustomization.yaml"]) == sorted(
        path.name for path in DEPLOY.glob("*.yaml")
    )
    texts = [(DEPLOY / name).read_text() for name in resources]
    return {each["kind"]: each for text in texts for each in yaml.safe_load_all(text)}


def container() -> dict[str, Any]:
    (only,) = manifests()["DaemonSet"]["spec"]["template"]["spec"]["containers"]
    return only


def test_exactly_what_is_watched_is_granted() -> None:
    granted = {
        (group, resource, verb)
        for rule in manifests()["ClusterRole"]["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    asked = {
        (path.split("/")[2] if path.startswith("/apis/") else "", resource)
        for path, resource in PATHS.items()
    }
    watched = {(*each, verb) for each in asked for verb in ("get", "list", "watch")}
    assert granted == watched | {("", "namespaces", "get")}
    named = [
        rule["resourceNames"]
        for rule in manifests()["ClusterRole"]["rules"]
        if rule["resources"] == ["namespaces"]
    ]
    assert named == [["kube-system"]]


def test_the_account_that_is_bound_is_the_one_that_runs() -> None:
    found = manifests()
    account = {"kind": "ServiceAccount", "name": "ctk", "namespace": "ctk"}
    assert found["ClusterRoleBinding"]["subjects"] == [account]
    assert (
        found["ClusterRoleBinding"]["roleRef"]["name"] == found["ClusterRole"]["metadata"]["name"]
    )
    assert found["DaemonSet"]["spec"]["template"]["spec"]["serviceAccountName"] == "ctk"


def test_net_admin_is_the_only_power() -> None:
    assert container()["securityContext"] == {
        "runAsUser": 0,
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN"]},
    }


def test_it_has_the_nodes_network_and_name_and_limits() -> None:
    pod = manifests()["DaemonSet"]["spec"]["template"]["spec"]
    assert pod["hostNetwork"] is True
    assert container()["env"][0]["valueFrom"] == {"fieldRef": {"fieldPath": "spec.nodeName"}}
    assert set(container()["resources"]["limits"]) == {"cpu", "memory"}
    assert pod["volumes"][0]["hostPath"]["type"] == "DirectoryOrCreate"


def test_the_image_is_this_version() -> None:
    (image,) = yaml.safe_load((DEPLOY / "kustomization.yaml").read_text())["images"]
    assert (image["name"], image["newTag"]) == (container()["image"], __version__)


def test_the_arguments_are_ones_that_ctk_takes() -> None:
    pytest.importorskip("click")
    from ctk.cli.record import record

    words = [word.replace("$(NODE_NAME)", "node") for word in container()["args"]]
    command, *args = words
    assert command == "record"
    context = record.make_context("record", args)
    assert context.params["max_bytes"] == 2 << 30
