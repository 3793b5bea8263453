"""What of an object its addresses say, and what of it the file's history keeps."""

from ctk.kube.objects import Node, Pod, Service
from ctk.model import Endpoint
from ctk.model.history import ObjectRecord, PodTimes

Owner = Pod | Service | Node


def endpoint_of(owner: Owner, address: str, from_ns: int) -> Endpoint:
    """The owner of an address from then on."""
    match owner:
        case Pod():
            return Endpoint(
                address=address,
                kind="pod",
                valid_from_ns=from_ns,
                namespace=owner.namespace,
                name=owner.name,
                workload=owner.workload,
                workload_kind=owner.workload_kind,
                node=owner.node,
                labels=owner.labels,
                uid=owner.uid,
            )
        case Service():
            return Endpoint(
                address=address,
                kind="service",
                valid_from_ns=from_ns,
                namespace=owner.namespace,
                name=owner.name,
                labels=owner.labels,
                uid=owner.uid,
            )
        case Node():
            return Endpoint(
                address=address,
                kind="node",
                valid_from_ns=from_ns,
                name=owner.name,
                node=owner.name,
                labels=owner.labels,
                uid=owner.uid,
            )


def same(one: Endpoint, other: Endpoint) -> bool:
    """Whether two endpoints say the same of an address, whenever they say it."""
    return _said(one) == _said(other)


def _said(each: Endpoint) -> tuple[object, ...]:
    owner = (each.kind, each.uid, each.namespace, each.name)
    return (*owner, each.workload, each.workload_kind, each.node, each.labels)


def times_of(pod: Pod, told_ns: int, watched_ns: int | None) -> PodTimes:
    """When a pod had its address, as far as it says."""
    return PodTimes(
        told_ns,
        watched_ns,
        pod.started_ns,
        pod.networked_ns,
        pod.running_ns,
        pod.ended_ns,
        pod.grace_s,
    )


def record_of(
    owner: Owner, from_ns: int, told_ns: int, watched_ns: int | None = None
) -> ObjectRecord:
    """The row of history for an owner as it stands."""
    match owner:
        case Pod():
            return ObjectRecord(
                kind="pod",
                uid=owner.uid,
                namespace=owner.namespace,
                name=owner.name,
                valid_from_ns=from_ns,
                addresses=owner.addresses,
                labels=owner.labels,
                node=owner.node,
                workload=owner.workload,
                workload_kind=owner.workload_kind,
                phase=owner.phase,
                host_network=owner.host_network,
                times=times_of(owner, told_ns, watched_ns),
            )
        case Service():
            return ObjectRecord(
                kind="service",
                uid=owner.uid,
                namespace=owner.namespace,
                name=owner.name,
                valid_from_ns=from_ns,
                addresses=owner.addresses,
                labels=owner.labels,
                type=owner.type,
                ports=tuple(
                    f"{f'{port.name}:' if port.name else ''}{port.port}/{port.proto}"
                    for port in owner.ports
                ),
            )
        case Node():
            return ObjectRecord(
                kind="node",
                uid=owner.uid,
                namespace=None,
                name=owner.name,
                valid_from_ns=from_ns,
                addresses=owner.addresses,
                labels=owner.labels,
            )


def same_record(one: Owner, other: Owner) -> bool:
    """Whether two states of one object make the same row of history."""
    return _kept(one) == _kept(other)


def _kept(owner: Owner) -> tuple[object, ...]:
    common = (owner.name, owner.addresses, owner.labels)
    match owner:
        case Pod():
            made = (owner.workload, owner.workload_kind)
            return (*common, *made, owner.node, owner.phase, owner.host_network)
        case Service():
            return (
                *common,
                owner.type,
                [(each.name, each.proto, each.port) for each in owner.ports],
            )
        case Node():
            return common
