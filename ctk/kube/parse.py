"""
API JSON to values.

Every string that comes again (labels, namespaces, nodes, addresses) is shared: in a large cluster
they are most of what a value takes.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from ipaddress import ip_network
from pathlib import Path
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton
from sys import intern
from typing import Any

import orjson

from ctk.errors import UsageError
from ctk.kube.objects import (
    GRACE_S,
    RESOURCES,
    Change,
    EndpointSlice,
    KubeObject,
    Listed,
    Node,
    Pod,
    Resource,
    Service,
    ServicePort,
)
from ctk.timespan import SECOND

# A Job made by a CronJob ends in its scheduled time: minutes since the epoch (seconds before 1.21).
_SCHEDULED = re.compile(r"-\d{8,10}$")
_SERVICE_LABEL = "kubernetes.io/service-name"
_HASH_LABEL = "pod-template-hash"


def pod(raw: Mapping[str, Any]) -> Pod:
    """Read a Pod."""
    meta, spec, status = raw["metadata"], raw.get("spec") or {}, raw.get("status") or {}
    labels = _labels(meta)
    workload, workload_kind = _workload(meta, labels)
    phase = _shared(status.get("phase"))
    return Pod(
        uid=_uid(meta),
        namespace=intern(meta["namespace"]),
        name=_text(meta["name"]),
        labels=labels,
        node=_shared(spec.get("nodeName")),
        workload=workload,
        workload_kind=workload_kind,
        phase=phase,
        host_network=spec.get("hostNetwork") is True,
        addresses=_addresses(
            [each["ip"] for each in status.get("podIPs") or () if "ip" in each]
            or [status.get("podIP")]
        ),
        started_ns=_time_ns(status.get("startTime") or meta.get("creationTimestamp")) or 0,
        ended_ns=_ended_ns(status) if phase in ("Succeeded", "Failed") else None,
        grace_s=int(
            meta.get("deletionGracePeriodSeconds")
            or spec.get("terminationGracePeriodSeconds")
            or GRACE_S
        ),
        terminating=meta.get("deletionTimestamp") is not None,
        networked_ns=_networked_ns(status),
        running_ns=_running_ns(status),
    )


def service(raw: Mapping[str, Any]) -> Service:
    """Read a Service."""
    meta, spec, status = raw["metadata"], raw.get("spec") or {}, raw.get("status") or {}
    named = spec.get("clusterIPs") or [spec.get("clusterIP")]
    cluster = _addresses(each for each in named if each != "None")
    ingress = (status.get("loadBalancer") or {}).get("ingress") or ()
    outer = _addresses([*(spec.get("externalIPs") or ()), *(each.get("ip") for each in ingress)])
    return Service(
        uid=_uid(meta),
        namespace=intern(meta["namespace"]),
        name=_text(meta["name"]),
        labels=_labels(meta),
        type="headless" if "None" in named else intern(spec.get("type") or "ClusterIP"),
        cluster_addresses=cluster,
        addresses=tuple(dict.fromkeys((*cluster, *outer))),
        ports=tuple(
            ServicePort(
                _shared(each.get("name")),
                _proto(each),
                int(each["port"]),
                int(each["nodePort"]) if each.get("nodePort") else None,
            )
            for each in spec.get("ports") or ()
        ),
        started_ns=_time_ns(meta.get("creationTimestamp")) or 0,
        changed_ns=_changed_ns(meta),
    )


def endpoint_slice(raw: Mapping[str, Any]) -> EndpointSlice:
    """Read an EndpointSlice. Endpoints that are not ready are listed in it, and kept."""
    meta = raw["metadata"]
    name = (meta.get("labels") or {}).get(_SERVICE_LABEL)
    return EndpointSlice(
        uid=_uid(meta),
        service=intern(f"{meta['namespace']}/{name}") if name else None,
        addresses=_addresses(
            address
            for each in raw.get("endpoints") or ()
            for address in each.get("addresses") or ()
        ),
        ports=tuple(
            (_proto(each), int(each["port"]))
            for each in raw.get("ports") or ()
            if each.get("port") is not None
        ),
        started_ns=_time_ns(meta.get("creationTimestamp")) or 0,
    )


def node(raw: Mapping[str, Any]) -> Node:
    """Read a Node. Addresses of type Hostname and the DNS types are names, and left out."""
    meta, spec, status = raw["metadata"], raw.get("spec") or {}, raw.get("status") or {}
    return Node(
        uid=_uid(meta),
        name=intern(meta["name"]),
        labels=_labels(meta),
        addresses=_addresses(each.get("address") for each in status.get("addresses") or ()),
        pod_cidrs=tuple(
            str(ip_network(_text(each), strict=False))
            for each in spec.get("podCIDRs") or [spec.get("podCIDR")]
            if each
        ),
        started_ns=_time_ns(meta.get("creationTimestamp")) or 0,
    )


_READERS: Mapping[Resource, Callable[[Mapping[str, Any]], KubeObject]] = {
    "pods": pod,
    "services": service,
    "endpointslices": endpoint_slice,
    "nodes": node,
}
_KINDS: Mapping[str, Resource] = {
    "Pod": "pods",
    "Service": "services",
    "EndpointSlice": "endpointslices",
    "Node": "nodes",
}


def read(resource: Resource, raw: object) -> KubeObject:
    """Read one object of `resource`; a ValueError if it isn't one as the API writes them."""
    try:
        return _READERS[resource](raw)  # type: ignore[arg-type] # what isn't a mapping fails below
    except (AttributeError, IndexError, KeyError, OverflowError, TypeError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


def read_objects(paths: Iterable[Path]) -> list[Change]:
    """
    What `kubectl get pods,services,endpointslices,nodes -A -o json` printed, as four full lists.

    Lists of one kind, pages of a list and single objects are read too; other kinds are skipped.
    """
    found: dict[Resource, dict[str, KubeObject]] = {resource: {} for resource in RESOURCES}
    at_ns = 0
    for path in paths:
        try:
            at_ns = max(at_ns, path.stat().st_mtime_ns)
            raw = orjson.loads(path.read_bytes())
            for resource, each in _items(raw):
                value = read(resource, each)
                found[resource][value.uid] = value
        except OSError as error:
            raise UsageError(f"{path}: {error.strerror}", hint=_HINT) from error
        except ValueError as error:
            raise UsageError(f"{path}: not a list of objects ({error})", hint=_HINT) from error
    return [Listed(resource, tuple(found[resource].values()), at_ns) for resource in RESOURCES]


_HINT = "write it with: kubectl get pods,services,endpointslices,nodes -A -o json"


def _items(raw: object) -> Iterable[tuple[Resource, object]]:
    """Each object of a List, a PodList or the like, or a single one, with its resource."""
    if not isinstance(raw, dict) or not isinstance(raw.get("kind"), str):
        raise ValueError("it has no kind")
    kind: str = raw["kind"]
    if not kind.endswith("List"):
        if kind not in _KINDS:
            raise ValueError(f"its kind is {kind}")
        yield _KINDS[kind], raw
        return
    items = raw.get("items")
    if not isinstance(items, list):
        raise ValueError("it has no items")
    for each in items:
        own = each.get("kind") if isinstance(each, dict) else None
        # The items of a PodList carry no kind; those of kubectl's List do.
        resource = _KINDS.get(str(own or kind.removesuffix("List")))
        if resource is not None:
            yield resource, each


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.40} is not text")
    return value


def _shared(value: Any) -> str | None:
    return None if value is None else intern(value)


def _uid(meta: Mapping[str, Any]) -> str:
    # A file written by hand may have none; the API's objects always do.
    return _text(meta.get("uid") or f"{meta.get('namespace', '')}/{meta['name']}")


def _labels(meta: Mapping[str, Any]) -> Mapping[str, str]:
    return {intern(key): intern(value) for key, value in (meta.get("labels") or {}).items()}


def _workload(meta: Mapping[str, Any], labels: Mapping[str, str]) -> tuple[str | None, str | None]:
    """The controller that owns a pod, or the one behind it where its name tells."""
    for owner in meta.get("ownerReferences") or ():
        if not owner.get("controller"):
            continue
        kind, name = owner["kind"], owner["name"]
        suffix = f"-{labels.get(_HASH_LABEL)}"
        if kind == "ReplicaSet" and name.endswith(suffix):
            kind, name = "Deployment", name.removesuffix(suffix)
        elif kind == "Job" and _SCHEDULED.search(name):
            kind, name = "CronJob", _SCHEDULED.sub("", name)
        return intern(name), intern(kind)
    return None, None


def _proto(port: Mapping[str, Any]) -> str:
    return intern((port.get("protocol") or "TCP").lower())


def _addresses(texts: Iterable[Any]) -> tuple[str, ...]:
    """Each address once, as inet_ntop writes it; what is no address is left out."""
    return tuple(dict.fromkeys(a for text in texts if text and (a := canonical(text))))


def canonical(text: str) -> str | None:
    """Write an address as inet_ntop does, or None for what is no address."""
    family = AF_INET6 if ":" in text else AF_INET
    try:
        return intern(inet_ntop(family, inet_pton(family, text)))
    except (OSError, ValueError):
        return None


def _time_ns(text: Any) -> int | None:
    """The API's RFC 3339 times, which have whole seconds."""
    if not text:
        return None
    when = datetime.fromisoformat(text)
    return int((when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()) * SECOND


def _changed_ns(meta: Mapping[str, Any]) -> int | None:
    """When its spec was changed last: whoever sets a field of it stands there with the time."""
    return max(
        (
            time_ns
            for each in meta.get("managedFields") or ()
            if "f:spec" in (each.get("fieldsV1") or {}) and (time_ns := _time_ns(each.get("time")))
        ),
        default=None,
    )


def _networked_ns(status: Mapping[str, Any]) -> int | None:
    """When its sandbox had a network: kubelets tell since Kubernetes 1.29."""
    for each in status.get("conditions") or ():
        if each.get("type") == "PodReadyToStartContainers" and each.get("status") == "True":
            return _time_ns(each.get("lastTransitionTime"))
    return None


def _running_ns(status: Mapping[str, Any]) -> int | None:
    """The second in which the first container started; None where a restart hides it."""
    starts = []
    for statuses in ("initContainerStatuses", "containerStatuses"):
        for each in status.get(statuses) or ():
            if each.get("restartCount", 0) > 1:
                return None
            for state in (each.get("state") or {}, each.get("lastState") or {}):
                for kind in ("running", "terminated"):
                    starts.append(_time_ns((state.get(kind) or {}).get("startedAt")))
    return min((start for start in starts if start), default=None)


def _ended_ns(status: Mapping[str, Any]) -> int | None:
    """The end of the second in which the last container finished."""
    ends = [
        end
        for statuses in ("initContainerStatuses", "containerStatuses", "ephemeralContainerStatuses")
        for each in status.get(statuses) or ()
        if (end := _time_ns(((each.get("state") or {}).get("terminated") or {}).get("finishedAt")))
    ]
    return max(ends) + SECOND if ends else None
