"""
What deploy/ has, as kustomize and Helm make it: it grants what is asked for, Kubernetes knows
every field, and both make the same.
"""

import json
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import openapi
import pytest
import yaml
from apiserver import PATHS
from clustertools import run, tool

from ctk import __version__
from ctk.cli.record import record
from ctk.cli.ship import ship
from ctk.fleet.clickhouse.target import PASSWORD
from ctk.model.numbers import parse_size
from ctk.timespan import MINUTE

DEPLOY = Path(__file__).parent.parent / "deploy"
CHART = DEPLOY / "chart"
MODELS = {
    **openapi.MODELS,
    "DaemonSet": "V1DaemonSet",
    "PriorityClass": "V1PriorityClass",
}
OVERLAYS = ["", "overlays/kind", "overlays/retention", "overlays/metrics", "overlays/ship"]
MONITORS = ("PodMonitor", "PrometheusRule")  # of the Prometheus operator
Objects = dict[str, dict[str, Any]]


def objects(text: str) -> Objects:
    return {each["kind"]: each for each in yaml.safe_load_all(text) if each}


@cache
def kustomized(overlay: str = "") -> Objects:
    return objects(run("kubectl", "kustomize", DEPLOY / overlay))


@cache
def rendered(*values: str) -> Objects:
    words = [word for each in values for word in ("--set", each)]
    return objects(run("helm", "template", "ctk", CHART, "--namespace", "ctk", *words))


@pytest.fixture(scope="module")
def base() -> Objects:
    return kustomized()


def pod_of(made: Objects) -> dict[str, Any]:
    spec: dict[str, Any] = made["DaemonSet"]["spec"]["template"]["spec"]
    return spec


def container(made: Objects, name: str = "ctk") -> dict[str, Any]:
    only: dict[str, Any]
    (only,) = (each for each in pod_of(made)["containers"] if each["name"] == name)
    return only


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kubernetes_knows_every_field_of_what_kustomize_makes(overlay: str) -> None:
    for kind, each in kustomized(overlay).items():
        if kind in MONITORS:
            continue
        assert openapi.faults(each, MODELS[kind]) == [], kind
        assert kind in ("Namespace", "PriorityClass") or each["metadata"].get("namespace") in (
            "ctk",
            None,
        )


@pytest.mark.parametrize(
    "values",
    [
        (),
        ("accounting=true", "priorityClass.create=false", "podAnnotations.a=b"),
        ("recording.hostPath=", "recording.retain.flows=6h", "imagePullSecrets[0].name=x"),
    ],
)
def test_kubernetes_knows_every_field_of_what_helm_makes(values: tuple[str, ...]) -> None:
    for kind, each in rendered(*values).items():
        assert openapi.faults(each, MODELS[kind]) == [], kind


def test_helm_makes_what_kustomize_makes(base: Objects) -> None:
    """But for the namespace, which is made before a chart is installed in it."""
    assert {**rendered(), "Namespace": base["Namespace"]} == base
    counting = rendered("accounting=true", "image.pullPolicy=Never")
    kind, watched = kustomized("overlays/kind"), kustomized("overlays/metrics")
    assert rendered("metrics.enabled=true")["DaemonSet"] == watched["DaemonSet"]
    shipped = kustomized("overlays/ship")
    assert rendered("ship.enabled=true")["DaemonSet"] == shipped["DaemonSet"]
    assert pod_of(counting)["initContainers"] == pod_of(kind)["initContainers"]


def test_the_chart_passes_helms_own_lint_and_its_schema_refuses_slips() -> None:
    assert "0 chart(s) failed" in run("helm", "lint", "--strict", CHART)
    for slip in ("recording.maxsize=2GiB", "accounting=sure", "recording.retain.1w=3d"):
        command = [tool("helm"), "template", "ctk", CHART, "--set", slip]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, "values don't meet" in done.stderr) == (1, True), slip


def test_the_image_that_a_user_names_is_in_every_container(tmp_path: Path) -> None:
    """Named where base is, as docs/kubernetes.md says, or in an overlay that has the component."""
    shutil.copytree(DEPLOY, tmp_path / "deploy")
    page = (DEPLOY.parent / "docs" / "kubernetes.md").read_text()
    example = page.partition("```yaml\n")[2].partition("```")[0]
    parts, _, named = example.partition("images:")
    named = f"images:{named}"
    inner = tmp_path / "deploy" / "base" / "kustomization.yaml"
    before = inner.read_text()
    for in_own, in_base in (
        (parts + named, before),
        (parts, before.partition("images:")[0] + named),
    ):
        (tmp_path / "kustomization.yaml").write_text(in_own)
        inner.write_text(in_base)
        pod = pod_of(objects(run("kubectl", "kustomize", tmp_path)))
        images = [each["image"] for each in (*pod["containers"], *pod["initContainers"])]
        assert images == ["registry.example/ctk:0.1.0"] * 2


@pytest.mark.parametrize("has_timestamps", [True, False])
def test_a_kernel_without_timestamps_counts_all_the_same(
    tmp_path: Path, has_timestamps: bool
) -> None:
    names = ["nf_conntrack_acct", *(["nf_conntrack_timestamp"] if has_timestamps else [])]
    for name in names:
        (tmp_path / name).write_text("0\n")
    (container,) = pod_of(kustomized("overlays/kind"))["initContainers"]
    *shell, script = container["command"]
    there = script.replace("/proc/sys/net/netfilter", str(tmp_path))
    subprocess.run([*shell, there], check=True)
    assert {each.name: each.read_text() for each in tmp_path.iterdir()} == dict.fromkeys(
        names, "1\n"
    )
    (tmp_path / "nf_conntrack_acct").unlink()
    tmp_path.chmod(0o555)
    as_other = ["setpriv", "--reuid=65534", "--clear-groups"] if os.geteuid() == 0 else []
    failed = subprocess.run([*as_other, *shell, there], check=False, capture_output=True)
    assert failed.returncode != 0  # without counters it is not said to be done


def quantity(text: str) -> int:
    """Bytes, of "768Mi"."""
    return int(text[:-2]) << {"Mi": 20, "Gi": 30}[text[-2:]]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_copy_of_the_file_has_a_place_that_does_not_evict_the_pod(overlay: str) -> None:
    made = kustomized(overlay)
    args = container(made)["args"]
    most = parse_size(next(each for each in args if "--max-size=" in each).partition("=")[2])
    recording, tmp = pod_of(made)["volumes"]
    assert quantity(tmp["emptyDir"]["sizeLimit"]) >= 2 * most
    if "emptyDir" in recording:
        assert quantity(recording["emptyDir"]["sizeLimit"]) >= 1.5 * most


def test_whoever_watches_is_in_the_namespace_that_is_asked_for(tmp_path: Path) -> None:
    for each in objects(run("kubectl", "kustomize", DEPLOY / "metrics")).values():
        assert "namespace" not in each["metadata"]
    watched = kustomized("overlays/metrics")
    assert {watched[kind]["metadata"]["namespace"] for kind in MONITORS} == {"ctk"}
    charted = rendered("metrics.enabled=true", "metrics.podMonitor.enabled=true")
    assert charted["PodMonitor"] == watched["PodMonitor"]
    labelled = rendered(
        "metrics.enabled=true",
        "metrics.podMonitor.enabled=true",
        "metrics.podMonitor.labels.release=prometheus",
    )
    assert labelled["PodMonitor"]["metadata"]["labels"]["release"] == "prometheus"
    command = [tool("helm"), "template", CHART, "--set", "metrics.podMonitor.enabled=true"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "metrics.podMonitor.enabled asks for metrics.enabled=true" in done.stderr


def test_exactly_what_is_watched_is_granted(base: Objects) -> None:
    granted = {
        (group, resource, verb)
        for rule in base["ClusterRole"]["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    asked = {
        (path.split("/")[2] if path.startswith("/apis/") else "", resource)
        for path, resource in PATHS.items()
    }
    watched = {(*each, verb) for each in asked for verb in ("list", "watch")}
    assert granted == watched | {("", "namespaces", "get")}
    named = [
        rule["resourceNames"]
        for rule in base["ClusterRole"]["rules"]
        if rule["resources"] == ["namespaces"]
    ]
    assert named == [["kube-system"]]


def test_the_account_that_is_bound_is_the_one_that_runs(base: Objects) -> None:
    account = {"kind": "ServiceAccount", "name": "ctk", "namespace": "ctk"}
    assert base["ClusterRoleBinding"]["subjects"] == [account]
    assert base["ClusterRoleBinding"]["roleRef"]["name"] == base["ClusterRole"]["metadata"]["name"]
    assert pod_of(base)["serviceAccountName"] == base["ServiceAccount"]["metadata"]["name"]
    assert pod_of(base)["priorityClassName"] == base["PriorityClass"]["metadata"]["name"]


def test_net_admin_is_the_only_power(base: Objects) -> None:
    assert container(base)["securityContext"] == {
        "runAsUser": 0,
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN"]},
    }
    assert "initContainers" not in pod_of(base)


def test_it_has_the_nodes_network_and_name_and_limits(base: Objects) -> None:
    pod = pod_of(base)
    assert pod["hostNetwork"] is True
    named, file = container(base)["env"]
    assert named["valueFrom"] == {"fieldRef": {"fieldPath": "spec.nodeName"}}
    assert file == {"name": "CTK_DB", "value": "/var/lib/ctk/$(NODE_NAME).db"}
    assert set(container(base)["resources"]["limits"]) == {"cpu", "memory"}
    assert pod["volumes"][0]["hostPath"]["type"] == "DirectoryOrCreate"


def test_a_namespace_lets_it_in_without_a_warning(base: Objects) -> None:
    labels = base["Namespace"]["metadata"]["labels"]
    levels = {key.rpartition("/")[2]: value for key, value in labels.items()}
    assert levels == dict.fromkeys(("audit", "enforce", "warn"), "privileged")


def test_every_image_is_of_this_version() -> None:
    made = [kustomized(), kustomized("overlays/kind"), rendered("accounting=true")]
    images = {
        each["image"]
        for one in made
        for each in (*pod_of(one)["containers"], *pod_of(one).get("initContainers", ()))
    }
    assert images == {f"ctk:{__version__}"}
    assert f"ARG VERSION={__version__}\n" in (DEPLOY / "Dockerfile").read_text()
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (__version__, __version__)


@pytest.mark.parametrize(
    ("overlay", "max_bytes"),
    [
        *((each, 2 << 30) for each in OVERLAYS if "ret" not in each),
        ("overlays/retention", 512 << 20),
    ],
)
def test_the_arguments_are_ones_that_ctk_takes(overlay: str, max_bytes: int) -> None:
    command, *words = container(kustomized(overlay))["args"]
    assert (command, words[0]) == ("record", "$(CTK_DB)")
    words = [each.replace("$(HOST_IP)", "172.18.0.2") for each in words]
    context = record.make_context("record", words)
    assert context.params["max_bytes"] == max_bytes
    assert context.params["ready_file"] == Path("/tmp/ready")


def test_who_ships_has_no_power_and_reads_where_to_from_a_secret(base: Objects) -> None:
    assert [each["name"] for each in pod_of(base)["containers"]] == ["ctk"]
    shipper = container(kustomized("overlays/ship"), "ship")
    command, *words = shipper["args"]
    assert command == "ship"
    words = [each.replace("$(CTK_SHIP_TO)", "clickhouse://ctk@ch/ctk") for each in words]
    context = ship.make_context("ship", words)
    assert (context.params["follow"], context.params["every_ns"]) == (True, MINUTE)
    assert shipper["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    secrets = {
        each["name"]: each["valueFrom"]["secretKeyRef"]["key"]
        for each in shipper["env"]
        if "secretKeyRef" in each.get("valueFrom", ())
    }
    assert secrets == {"CTK_SHIP_TO": "target", PASSWORD: "password"}


def test_probes_are_of_no_python_and_tell_by_the_ready_file(base: Objects, tmp_path: Path) -> None:
    """A shell runs them, as kubelet does, against a file that is fresh, old, or not there."""
    shell, flag, script = container(base)["readinessProbe"]["exec"]["command"]
    assert (shell, flag, "/tmp/ready" in script) == ("sh", "-c", True)
    ready = tmp_path / "ready"

    def is_ready() -> bool:
        command = [shell, flag, script.replace("/tmp/ready", str(ready))]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    assert not is_ready()
    ready.touch()
    assert is_ready()
    an_hour_ago = ready.stat().st_mtime - 3600
    os.utime(ready, (an_hour_ago, an_hour_ago))
    assert not is_ready()
    assert container(base)["startupProbe"]["exec"]["command"] == ["sh", "-c", 'test -s "$CTK_DB"']
    assert "livenessProbe" not in json.dumps(base)
