"""
What is learned of the cluster: who had an address, and how pods, services and nodes stood.

`ctk.kube` tells it, the file keeps it, and the next recording begins with what the file knew.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from ctk.model import Endpoint, Via


class Completed(NamedTuple):
    """`unknown` turned out to be `known`: its row is completed in place."""

    unknown: Endpoint
    known: Endpoint


class Closed(NamedTuple):
    """The interval of `endpoint` ended; `inferred` where nobody saw it end."""

    endpoint: Endpoint
    valid_to_ns: int
    inferred: bool = False


class PodTimes(NamedTuple):
    """
    What was told of when a pod had its address: the next recording decides by it as this one did.

    `told_ns` is when this state was told, and `watched_ns` since when all pods were known then,
    None where a list told of it. The others are the API's, in whole seconds.
    """

    told_ns: int
    watched_ns: int | None
    started_ns: int
    networked_ns: int | None = None
    running_ns: int | None = None
    ended_ns: int | None = None
    grace_s: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ObjectRecord:
    """A pod, service or node as it stood from `valid_from_ns`; one row of the history views."""

    kind: Literal["pod", "service", "node"]
    uid: str
    namespace: str | None  # None for nodes
    name: str
    valid_from_ns: int
    addresses: tuple[str, ...]  # podIPs; a service's every address; a node's addresses
    labels: Mapping[str, str]
    node: str | None = None  # pods
    workload: str | None = None  # pods
    workload_kind: str | None = None  # pods
    phase: str | None = None  # pods
    host_network: bool = False  # pods
    times: PodTimes | None = None  # pods; None in a file of before m012
    type: str | None = None  # services: ClusterIP, NodePort, LoadBalancer, ExternalName, headless
    ports: tuple[str, ...] = ()  # services: "name:port/proto" or "port/proto"


class ObjectClosed(NamedTuple):
    """
    The object with this uid is gone, or was replaced by its next record, at `valid_to_ns`.

    `inferred` where nobody saw it: no recorder ran, or no API server answered. The addresses of one
    that is gone were surely no other's until `sure_until_ns` then, where that is earlier.
    """

    kind: Literal["pod", "service", "node"]
    uid: str
    valid_to_ns: int
    inferred: bool = False
    sure_until_ns: int | None = None


class PodsTold(NamedTuple):
    """
    Whatever there was to know of pods is known up to `at_ns`.

    `version` is the API server's: a watch tells what came after it.
    """

    at_ns: int
    version: str | None = None


class KnownObject(NamedTuple):
    """
    What the file knew of an object when a recording began.

    `valid_to_ns` is None where it stood so when the file's knowledge ended. An end that nobody saw
    is `inferred`: its addresses were surely no other's until `sure_until_ns` then.
    """

    record: ObjectRecord
    valid_to_ns: int | None
    inferred: bool = False
    sure_until_ns: int | None = None


class ClusterFound(NamedTuple):
    """The cluster said which it is: `uid` is that of its namespace kube-system."""

    uid: str


class ServiceFound(NamedTuple):
    """What was dialled at `dialled` on this port led to a service that was not known then."""

    dialled: Endpoint
    proto: str
    port: int
    service: str
    via: Via


# What the table of endpoints learned, in order; the writer stores it with the next window.
HistoryChange = (
    Completed | Closed | ServiceFound | ObjectRecord | ObjectClosed | ClusterFound | PodsTold
)


class KnownUnknown(NamedTuple):
    """
    An endpoint of an earlier recording that stood for want of better up to `asked_ns`.

    `undecided`: it left to the next one to say who it was.
    """

    endpoint: Endpoint
    asked_ns: int
    undecided: bool = False
