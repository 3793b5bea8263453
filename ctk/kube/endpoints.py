"""
Who is behind an address, and since when.

An address belongs to a pod for a time: from the pod's start, or the end of the pod that had it
before, to the pod's own end. So every question comes with a time, the one at which the connection
began. Where nobody is known to own it, or not for sure, a provisional endpoint stands for the
owner; when one turns up later whose time covers it, `drain` tells that the two are one.

After an outage: a pod that had an address when it was last heard of, and is missing from the next
list, died somewhere in between. Connections of that time from its address are its own, since no
other owner is known; where another pod has the address from its own start on, they are its own up
to that start. So the end of such a pod is the latest that is possible, and marked as inferred.

Owned by one thread, which applies changes and asks. Times are ns, addresses are text as inet_ntop
writes it.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from ctk.kube import recall
from ctk.kube.identity import Owner, endpoint_of, record_of, same, same_record
from ctk.kube.objects import (
    Applied,
    Change,
    Deleted,
    EndpointSlice,
    KubeObject,
    Listed,
    Lost,
    Node,
    Pod,
    Recovered,
    Resource,
    Service,
    resource_of,
)
from ctk.kube.owners import Claim, Owners
from ctk.kube.provisional import Provisional, ProvisionalEndpoints
from ctk.kube.service_ports import ServicePorts, Target
from ctk.kube.staleness import Staleness
from ctk.kube.unresolved import UnresolvedDials
from ctk.model import (
    Closed,
    ClusterFound,
    Completed,
    Endpoint,
    Gap,
    HistoryChange,
    Kind,
    KnownObject,
    ObjectClosed,
    Via,
)
from ctk.timespan import FOREVER_NS, SECOND

_ZONE_LABEL = "topology.kubernetes.io/zone"
_OWNING: frozenset[Resource] = frozenset(("pods", "services", "nodes"))
_KIND_OF: Mapping[Resource, Literal["pod", "service", "node"]] = {
    "pods": "pod",
    "services": "service",
    "nodes": "node",
}


class Endpoints:
    """
    The table of addresses, and of everything in the cluster.

    `kube` is False where no API server is watched: what is known was always so.
    """

    def __init__(
        self, node_name: str, local_addresses: Iterable[str], started_ns: int, *, kube: bool
    ) -> None:
        self._kube = kube
        self._history: list[HistoryChange] = []
        self._owners = Owners(self._history, node_name, always=not kube)
        self._provisional = ProvisionalEndpoints(node_name, local_addresses, started_ns, kube=kube)
        self._service_ports = ServicePorts(always=not kube)
        self._unresolved = UnresolvedDials(self._service_ports, self._owners)
        self._targets: set[Target] = set()  # of services, added by the change that is applied
        self._staleness = Staleness()
        self._pods: dict[str, Pod] = {}  # by uid, as are the nodes
        self._nodes: dict[str, Node] = {}
        self._zones: dict[str, str] = {}  # by the node's name
        self._recalled: set[str] = set()  # the uids that only the file knows, so far
        # When pods without an address yet were first seen as started, by uid.
        self._came_ns: dict[str, int] = {}
        self._pods_added: list[Endpoint] = []
        self._listed: set[Resource] = set()
        self._settled_ns = started_ns

    # What is asked of it.

    @property
    def settled_ns(self) -> int:
        """
        From when on an answer to `at` or `service` holds for later times, too.

        It holds up to `good_until_ns` of its endpoints, and until `apply`, `recall` or
        `set_local_addresses` is called. About older times more may be known: they are asked anew.
        """
        return self._settled_ns

    def good_until_ns(self, endpoint: Endpoint) -> int:
        """Up to when (excluded) an answer holds if nothing changes: 1 << 63 where for ever."""
        return self._provisional.good_until_ns(endpoint)

    def at(self, address: str, when_ns: int) -> Endpoint:
        """Who was behind an address at that time: always the same value for the same answer."""
        owned = self._owners.at(address, when_ns)
        if owned is None:
            return self._provisional.ask(address, when_ns, None)
        if self._owners.is_sure(owned, when_ns):
            return owned.endpoint
        # Whether what the file knew still holds is told by the next list. While no server answers,
        # the names that were known last stand for those that are now, and a gap says so.
        away = self._is_away(owned.endpoint.kind)
        last_owner = None if owned.recalled and not away else owned.endpoint
        return self._provisional.ask(address, when_ns, last_owner)

    def service(
        self, dialled: Endpoint, proto: str, port: int, when_ns: int
    ) -> tuple[str, Via] | None:
        """
        The service ("namespace/name") that was dialled, and by which kind of address.

        `dialled` is what `at` answered for the same time. Where no service is known and one may
        be told later, the question is remembered, and answered by a `ServiceFound` in `drain`.
        """
        found = self._unresolved.service(dialled, proto, port, when_ns)
        # External addresses are many, and a service's only before all services are listed.
        may_be_told = self._kube and (dialled.kind != "external" or not self._provisional.synced)
        if found is None and may_be_told:
            self._unresolved.remember(dialled, proto, port, when_ns)
        return found

    def zone_of(self, node: str | None) -> str | None:
        """The topology zone of the node with this name, as its label says now."""
        return None if node is None else self._zones.get(node)

    def drain(self) -> list[HistoryChange]:
        """What was learned since the last call, in order."""
        history = self._history.copy()
        self._history.clear()
        return history

    @property
    def untold(self) -> int:
        """How many changes `drain` would return."""
        return len(self._history)

    def gaps(self) -> list[Gap]:
        """The spans of staleness that ended since the last call."""
        return self._staleness.gaps()

    def pods_added(self) -> list[Endpoint]:
        """The pods whose address became known since the last call."""
        added, self._pods_added = self._pods_added, []
        return added

    # What is told to it.

    def recall(self, known: Iterable[KnownObject], told_until_ns: int) -> None:
        """
        Take in the pods and nodes that the file knew, before anything is asked or applied.

        `told_until_ns` is when the file's knowledge ended. They own their addresses for what began
        before it, and are rivals of whoever comes: a pod that died while nobody watched keeps its
        last connections. The first list tells which of them are left.
        """
        for change in recall.changes(known):
            self._put(change.object, change.at_ns)
            if isinstance(change, Deleted):
                self._drop(resource_of(change.object), change.object.uid, change.at_ns)
        self._owners.recall_until(told_until_ns)
        self._recalled = {*self._pods, *self._nodes}
        # The file has their history; it forgot only when its endpoints end.
        self._history[:] = [each for each in self._history if isinstance(each, Closed)]
        self._pods_added.clear()
        self._came_ns.clear()

    def set_local_addresses(self, addresses: frozenset[str]) -> None:
        """
        Say which addresses the interfaces of this node have now.

        What was unknown or external at a new one was this node, and is completed. One that is
        gone is this node's no more for times later than those that were asked about already.
        """
        # kube-proxy in IPVS mode gives every ClusterIP to an interface; some CNIs a pod's address.
        self._history.extend(self._provisional.set_local(addresses, self._owners.is_owned))

    def apply(self, change: Change) -> None:
        """Take in what the API server said."""
        if isinstance(change, ClusterFound):
            self._history.append(change)
            return
        at_ns = change.to_ns if isinstance(change, Recovered) else change.at_ns
        self._settled_ns = max(self._settled_ns, at_ns)
        match change:
            case Applied(each):
                self._put(each, at_ns)
            case Deleted(each):
                resource = resource_of(each)
                if each.uid in self._known(resource):
                    self._put(each, at_ns)  # its last state may say when it ended
                    self._drop(resource, each.uid, at_ns)
            case Listed():
                self._reconcile(change)
            case Lost(resource):
                self._staleness.lose(change)
                self._lose(resource, at_ns)
            case Recovered(resource):
                self._staleness.find(change)
                if resource == "pods":
                    self._owners.lost_ns = FOREVER_NS
                    self._provisional.pods_lost = False
                    self._settle_all()
        self._provisional.stale = bool(self._staleness.lost)
        for address in self._owners.settle(at_ns):
            self._settle(address)
        if self._targets:
            # Of a list all are known by now: which of several services it was may need them all.
            self._history.extend(self._unresolved.resolve(self._targets))
            self._targets.clear()

    def finish(self, at_ns: int) -> None:
        """Recording ends: what is lost or in doubt now stays so, as `gaps` and `drain` tell it."""
        self._staleness.finish(at_ns)
        for address in self._provisional.addresses():
            self._settle(address, finally_=True)

    def expire(self, before_ns: int) -> None:
        """Forget owners that ended before then: no connection that old is asked about."""
        self._owners.expire(before_ns)
        self._service_ports.expire(before_ns)

    def _lose(self, resource: Resource, at_ns: int) -> None:
        kind = _KIND_OF.get(resource)
        if kind is not None:
            self._owners.watched_from_ns[kind] = FOREVER_NS
        if resource == "pods":
            self._owners.lost_ns = min(self._owners.lost_ns, at_ns)
            self._provisional.awaiting_pods = False
            self._provisional.pods_lost = True

    def _is_away(self, kind: Kind) -> bool:
        """Whether the server does not answer for objects of a kind, and will again."""
        lost = self._staleness.lost.get("nodes" if kind == "node" else "pods")
        return lost is not None and not lost.denied

    def _settle_all(self) -> None:
        for address in self._provisional.addresses():
            self._settle(address)

    def _settle(self, address: str, *, finally_: bool = False) -> None:
        """
        Tell which provisional endpoints of an address turned out to be its owner, or not to.

        `finally_`: nothing more will be known, and the last owner that was told is the best guess.
        """

        def settled(given: Provisional) -> bool:
            endpoint = given.endpoint
            owned = self._owners.at(address, endpoint.valid_from_ns)
            sure = owned is None or self._owners.is_sure(owned, given.asked_ns)
            if not sure and not (finally_ and owned and not owned.recalled):
                return False
            if owned is None and endpoint.kind != "pod":
                return False
            if owned is not None and given.asked_ns < owned.to_ns:
                known = owned.endpoint
            elif endpoint.kind == "pod":
                # It was not that pod all the time, and rows that point to it don't tell when.
                known = Endpoint(
                    address=address, kind="unknown", valid_from_ns=endpoint.valid_from_ns
                )
            else:
                return True
            if not same(endpoint, known):
                self._history.append(Completed(endpoint, known))
            self._history.extend(self._unresolved.completed(endpoint))
            return True

        self._provisional.settle(address, settled)

    # Objects.

    def _put(self, new: KubeObject, at_ns: int) -> None:
        match new:
            case Pod():
                self._put_pod(new, at_ns)
            case Service():
                self._put_service(new, at_ns)
            case EndpointSlice():
                self._targets |= self._service_ports.put_slice(new, at_ns)
            case Node():
                self._put_node(new, at_ns)

    def _put_pod(self, new: Pod, at_ns: int) -> None:
        old = self._pods.get(new.uid)
        recalled = new.uid in self._recalled
        if new == old and not recalled:
            return
        self._pods[new.uid] = new
        if old is None or (old.started_ns != new.started_ns and not old.addresses):
            self._came_ns[new.uid] = at_ns
        self._record(old, new, at_ns)
        had = old.owned if old else ()
        ended_ns = min(new.ended_ns or at_ns, at_ns) if new.final else at_ns
        if not new.host_network:
            self._provisional.learn_near(new.addresses)
        self._pods_added.extend(
            endpoint_of(new, address, new.started_ns)
            for address in new.owned
            if recalled or address not in had
        )
        self._move(old, new, had, new.owned, ended_ns, at_ns)
        if new.host_network:
            return
        if new.terminating and not (old and old.terminating):
            # Its address may be another's before its object is deleted.
            for address in new.owned:
                self._owners.doubt(address, new.uid, at_ns)
        if new.final and (new.ended_ns is not None if old is None else not old.final):
            # It may have got an address and ended between two looks.
            for address in new.addresses:
                past = endpoint_of(new, address, new.started_ns)
                claim = self._claim(new, new.started_ns, at_ns)
                if address not in had:
                    self._owners.give_past(past, claim, ended_ns)
                    self._settle(address)
        if not new.final and not new.addresses and new.node is not None:
            self._provisional.await_pod(at_ns)
            self._provisional.pod_started_ns = max(self._provisional.pod_started_ns, new.started_ns)
            self._settled_ns = max(self._settled_ns, new.started_ns)

    def _put_service(self, new: Service, at_ns: int) -> None:
        old = self._service_ports.services.get(new.uid)
        if new == old:
            return
        self._record(old, new, at_ns)
        self._targets |= self._service_ports.put_service(new, at_ns)
        self._provisional.learn_near(new.cluster_addresses)
        self._move(old, new, old.addresses if old else (), new.addresses, at_ns, at_ns)

    def _put_node(self, new: Node, at_ns: int) -> None:
        old = self._nodes.get(new.uid)
        if new == old and new.uid not in self._recalled:
            return
        self._nodes[new.uid] = new
        zone = new.labels.get(_ZONE_LABEL)
        if zone is None:
            self._zones.pop(new.name, None)
        else:
            self._zones[new.name] = zone
        self._record(old, new, at_ns)
        self._move(old, new, old.addresses if old else (), new.addresses, at_ns, at_ns)
        self._history.extend(self._provisional.learn_node(new))

    def _move(
        self,
        old: Owner | None,
        new: Owner,
        had: Sequence[str],
        has: Sequence[str],
        ended_ns: int,
        at_ns: int,
    ) -> None:
        """Take addresses from an owner and give it others; what it keeps may be told anew."""
        recalled = new.uid in self._recalled
        self._recalled.discard(new.uid)
        for address in had:
            if address not in has:
                self._owners.take(address, new.uid, ended_ns, rounded=ended_ns < at_ns)
        for address in has:
            if old is None or address not in had:
                # A pod gets its address late, but nobody else had it since it started.
                from_ns = new.started_ns if old is None or isinstance(new, Pod) else at_ns
                claim = self._claim(new, from_ns, at_ns)
                self._owners.give(endpoint_of(new, address, from_ns), claim)
                self._settled_ns = max(self._settled_ns, from_ns)
                self._settle(address)
                continue
            if recalled:
                claim = self._claim(new, new.started_ns, at_ns)
                self._owners.confirm(address, new.uid, new.started_ns, claim)
            if not same(endpoint_of(old, address, 0), told := endpoint_of(new, address, at_ns)):
                self._owners.rename(told)
        if has:
            self._came_ns.pop(new.uid, None)

    def _claim(self, new: Owner, from_ns: int, at_ns: int) -> Claim:
        if not isinstance(new, Pod):
            return Claim(at_ns, from_ns)
        if new.networked_ns is not None or new.running_ns is not None:
            return Claim(at_ns, new.gained_ns, new.running_ns)
        came_ns = self._came_ns.get(new.uid)
        if came_ns is not None and not from_ns <= came_ns < from_ns + SECOND:
            came_ns = None
        return Claim(at_ns, from_ns, None, came_ns)

    def _drop(self, resource: Resource, uid: str, at_ns: int, *, inferred: bool = False) -> None:
        """An object is gone; `inferred` where nobody saw it go, so that it was some time ago."""
        if resource == "endpointslices":
            self._service_ports.drop_slice(uid, at_ns)
            return
        gone: Pod | Service | Node | None
        grace_ns = 0
        if resource == "pods":
            gone = self._pods.pop(uid, None)
            self._came_ns.pop(uid, None)
            if gone is not None and not gone.final:
                grace_ns = gone.grace_s * SECOND
        elif resource == "services":
            gone = self._service_ports.services.get(uid)
            self._service_ports.drop_service(uid, at_ns)
        else:
            gone = self._nodes.pop(uid, None)
            if gone is not None:
                self._zones.pop(gone.name, None)
        if gone is not None:
            self._recalled.discard(uid)
            for address in gone.addresses:
                self._owners.take(address, uid, at_ns, grace_ns=grace_ns, inferred=inferred)
            self._history.append(ObjectClosed(_KIND_OF[resource], uid, at_ns, inferred))

    def _reconcile(self, listed: Listed) -> None:
        """Take in all there is of a resource: what is missing is gone."""
        resource, at_ns = listed.resource, listed.at_ns
        # Of two pods with one address the later one has it, and takes it from one that is gone.
        for each in sorted(listed.objects, key=lambda each: each.started_ns):
            self._put(each, at_ns)
        for uid in self._known(resource).keys() - {each.uid for each in listed.objects}:
            if listed.only_node in (None, getattr(self._known(resource)[uid], "node", None)):
                self._drop(resource, uid, at_ns, inferred=True)
        if resource in _KIND_OF:
            self._owners.watched_from_ns[_KIND_OF[resource]] = at_ns
        if resource == "pods":
            self._provisional.awaiting_pods = False
            self._owners.end_recall()
        self._listed.add(resource)
        if resource in _OWNING:
            self._settle_all()
        if not self._provisional.synced and self._listed >= _OWNING:
            self._provisional.synced = True
            self._history.extend(self._provisional.reconsider())

    def _known(self, resource: Resource) -> Mapping[str, KubeObject]:
        tables: Mapping[Resource, Mapping[str, KubeObject]] = {
            "pods": self._pods,
            "services": self._service_ports.services,
            "endpointslices": self._service_ports.slices,
            "nodes": self._nodes,
        }
        return tables[resource]

    def _record(self, old: Owner | None, new: Owner, at_ns: int) -> None:
        """Write an object's history, where something of it changed that history keeps."""
        recalled = new.uid in self._recalled
        if old is None:
            self._history.append(record_of(new, new.started_ns))
        elif not same_record(old, new):
            kind = _KIND_OF[resource_of(new)]
            self._history.append(ObjectClosed(kind, new.uid, at_ns, inferred=recalled))
            self._history.append(record_of(new, at_ns))
        elif recalled:
            # It goes on as the file knew it.
            self._history.append(record_of(new, old.started_ns))
