"""Which nodes of a cluster are to record."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ctk.errors import KubeError, UsageError, nearest
from ctk.fleet.cluster import Cluster
from ctk.fleet.recorders import NodeRecorder, not_ready, reasons
from ctk.kube.api import RefusedError


def choose(cluster: Cluster, nodes: Sequence[str], selector: str | None) -> list[NodeRecorder]:
    """Find the nodes that were asked for, those of Linux where none were named."""
    try:
        found = {each["metadata"]["name"]: each for each in cluster.nodes(selector)}
    except RefusedError as error:
        raise KubeError(
            f"nodes cannot be listed: {error.answer.message}",
            hint="kubectl auth can-i list nodes",
        ) from error
    for name in nodes:
        if name not in found:
            near = nearest(name, found)
            raise UsageError(
                f"there is no node {name}", hint=f"--nodes {near}" if near else "kubectl get nodes"
            )
    chosen = dict.fromkeys(nodes or sorted(filter(_is_linux(found), found)))
    if not chosen:
        raise UsageError("no node fits", hint="kubectl get nodes --show-labels")
    recorders = []
    for name in chosen:
        recorder = NodeRecorder(name)
        why = not_ready(found[name])
        if why is None and not _is_linux(found)(name):
            why = "it does not run Linux"
        if why is not None:
            recorder.fail(why)
        recorders.append(recorder)
    if all(each.state == "failed" for each in recorders):
        raise KubeError(f"no node can record: {reasons(recorders)}")
    return recorders


def _is_linux(found: Mapping[str, Mapping[str, Any]]) -> Callable[[str], bool]:
    def says(name: str) -> bool:
        labels = found[name]["metadata"].get("labels") or {}
        return bool(labels.get("kubernetes.io/os", "linux") == "linux")

    return says
