"""What `ctk collect` makes is what deploy/ has, where both need it, and what Kubernetes takes."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import openapi
import pytest
import yaml

from ctk.cli.record import record
from ctk.fleet import manifests

DEPLOY = Path(__file__).parent.parent / "deploy"
OWNER = {"metadata": {"name": "ctk-collect-a", "uid": "1"}}
POD = manifests.recorder(
    "node-1",
    "ctk-collect-a",
    image="ctk:1",
    pull_policy="Never",
    cluster_name="prod $(HOME)",
    max_bytes=1 << 30,
    progress="2s",
    deadline_s=60,
)
MADE = (
    manifests.namespace("ctk-collect-a"),
    manifests.service_account("ctk-collect-a"),
    manifests.cluster_role("ctk-collect-a", OWNER),
    manifests.cluster_role_binding("ctk-collect-a", OWNER),
    POD,
)


def deployed(kind: str) -> Mapping[str, Any]:
    """The object of a kind in deploy/; of several, the first that is whole."""
    texts = [path.read_text("utf-8") for path in sorted(DEPLOY.rglob("*.yaml"))]
    plain = [text for text in texts if "{{" not in text]  # no templates
    found = [each for text in plain for each in yaml.safe_load_all(text) if each]
    whole = ("rules", "roleRef", "spec", "metadata")
    return max(
        (each for each in found if each.get("kind") == kind),
        key=lambda each: (sum(key in each for key in whole), len(json.dumps(each))),
    )


@pytest.mark.parametrize("each", MADE, ids=[each["kind"] for each in MADE])
def test_kubernetes_knows_every_field(each: Mapping[str, Any]) -> None:
    assert openapi.faults(json.loads(json.dumps(each)), openapi.MODELS[each["kind"]]) == []


def test_recorders_have_the_rights_of_the_daemonset() -> None:
    assert list(manifests.RULES) == deployed("ClusterRole")["rules"]


def test_the_pod_is_that_of_the_daemonset_in_what_its_node_gives_it() -> None:
    template = deployed("DaemonSet")["spec"]["template"]["spec"]
    for key in (
        "serviceAccountName",
        "hostNetwork",
        "dnsPolicy",
        "tolerations",
        "terminationGracePeriodSeconds",
        "securityContext",
    ):
        assert POD["spec"][key] == template[key], key
    (ours,) = POD["spec"]["containers"]
    theirs = next(each for each in template["containers"] if each["name"] == ours["name"])
    for key in ("securityContext", "resources"):
        assert ours[key] == theirs[key], key
    assert [each for each in ours["env"] if each not in theirs["env"]] == []
    mounts = {each["mountPath"] for each in ours["volumeMounts"]}
    assert mounts == {each["mountPath"] for each in theirs["volumeMounts"]}
    assert manifests.FOLDER in mounts


def test_its_namespace_lets_it_have_the_nodes_network() -> None:
    labels = manifests.namespace("n")["metadata"]["labels"]
    assert {key: labels.get(key) for key in deployed("Namespace")["metadata"]["labels"]} == (
        deployed("Namespace")["metadata"]["labels"]
    )
    modes = [key.rpartition("/")[2] for key in labels if key.startswith("pod-security")]
    assert modes == ["enforce", "warn", "audit"]


def test_its_image_is_that_of_deploy() -> None:
    kustomization = DEPLOY / "base" / "kustomization.yaml"
    (image,) = yaml.safe_load(kustomization.read_text("utf-8"))["images"]
    assert manifests.default_image() == f"{image['name']}:{image['newTag']}"


def test_its_arguments_are_ones_that_ctk_takes() -> None:
    command, *words = POD["spec"]["containers"][0]["args"]
    assert command == "record"
    given = record.make_context("record", [word.replace("$$(", "$(") for word in words]).params
    assert (given["db"], given["cluster_name"]) == (
        Path("/var/lib/ctk/node-1.db"),
        "prod $(HOME)",
    )
    assert (given["max_bytes"], given["lingers"]) == (1 << 30, True)
    limit = POD["spec"]["volumes"][0]["emptyDir"]["sizeLimit"]
    assert int(limit) > given["max_bytes"]
