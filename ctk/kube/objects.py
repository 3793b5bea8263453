"""
Pods, services, slices and nodes, with only the fields that are used, and what is told of them.

A pod's JSON is 5 to 20 KB, most of it managedFields and containers; its value here is under 1 KB.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from ctk.model.history import ClusterFound

Resource = Literal["pods", "services", "endpointslices", "nodes"]
RESOURCES: tuple[Resource, ...] = ("pods", "services", "endpointslices", "nodes")

GRACE_S = 30  # the API's default


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """
    A pod.

    `ended_ns` is when its last container finished, known only in a final phase. `grace_s` is how
    long its processes may go on after it is deleted: the spec's where the deletion says 0, since a
    forced deletion removes the object at once and the processes are killed in their own time.
    """

    uid: str
    namespace: str
    name: str
    labels: Mapping[str, str]
    node: str | None
    workload: str | None
    workload_kind: str | None
    phase: str | None
    host_network: bool
    addresses: tuple[str, ...]
    started_ns: int
    ended_ns: int | None
    grace_s: int = GRACE_S
    terminating: bool = False  # its deletion was asked for
    networked_ns: int | None = None  # the second in which it got its network
    running_ns: int | None = None  # the second in which its first container started

    @property
    def final(self) -> bool:
        """Whether no container of it runs any more, so that its address is free."""
        return self.phase in ("Succeeded", "Failed")

    @property
    def is_untold(self) -> bool:
        """Whether it may have an address of its own that is not told yet."""
        return not (self.addresses or self.final or self.host_network or self.node is None)

    @property
    def gained_ns(self) -> int:
        """The second from which on its address is no other's; it may have waited for it."""
        told = [each for each in (self.networked_ns, self.running_ns) if each is not None]
        return max(self.started_ns, min(told, default=self.started_ns))

    @property
    def owned(self) -> tuple[str, ...]:
        """The addresses that are its own: a host-network pod's are its node's."""
        return () if self.host_network or self.final else self.addresses


class ServicePort(NamedTuple):
    """One port of a service; `node_port` is open on every node."""

    name: str | None
    proto: str
    port: int
    node_port: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """
    A service; `addresses` are its ClusterIPs, then external and load-balancer addresses.

    `changed_ns` is when its spec was changed last: its external addresses and NodePorts may have
    been another's before. None where its managed fields don't tell.
    """

    uid: str
    namespace: str
    name: str
    labels: Mapping[str, str]
    type: str
    cluster_addresses: tuple[str, ...]
    addresses: tuple[str, ...]
    ports: tuple[ServicePort, ...]
    started_ns: int
    changed_ns: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointSlice:
    """Some of a service's backends. `service` is "namespace/name", None where none is named."""

    uid: str
    service: str | None
    addresses: tuple[str, ...]
    ports: tuple[tuple[str, int], ...]  # protocol, number
    started_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A node, with every address it has and the ranges its pods' addresses come from."""

    uid: str
    name: str
    labels: Mapping[str, str]
    addresses: tuple[str, ...]
    pod_cidrs: tuple[str, ...]
    started_ns: int


KubeObject = Pod | Service | EndpointSlice | Node


class Listed(NamedTuple):
    """
    All there is of a resource, or of the pods of `only_node`, at `at_ns`.

    `version`, here and below, is the server's: a watch goes on from it.
    """

    resource: Resource
    objects: tuple[KubeObject, ...]
    at_ns: int
    only_node: str | None = None
    version: str | None = None


class Applied(NamedTuple):
    """One object came or changed."""

    object: KubeObject
    at_ns: int
    version: str | None = None


class Deleted(NamedTuple):
    """One object was deleted."""

    object: KubeObject
    at_ns: int
    version: str | None = None


class Missed(NamedTuple):
    """
    What happened to pods while nobody watched, in order; a list of all that is left follows.

    `whole`: nothing else did.
    """

    changes: tuple[Applied | Deleted, ...]
    at_ns: int
    whole: bool


class Bookmarked(NamedTuple):
    """Nothing happened to pods up to this version."""

    at_ns: int
    version: str


class Lost(NamedTuple):
    """Nothing has been heard of a resource since `at_ns`; `denied` if it will stay so."""

    resource: Resource
    at_ns: int
    why: str
    denied: bool = False


class Recovered(NamedTuple):
    """A resource that was lost is known again; in between its names may have been old."""

    resource: Resource
    from_ns: int
    to_ns: int
    why: str


Change = Listed | Applied | Deleted | Missed | Bookmarked | Lost | Recovered | ClusterFound

_RESOURCE_OF: Mapping[type[KubeObject], Resource] = {
    Pod: "pods",
    Service: "services",
    EndpointSlice: "endpointslices",
    Node: "nodes",
}


def resource_of(each: KubeObject) -> Resource:
    """The resource an object is of."""
    return _RESOURCE_OF[type(each)]
