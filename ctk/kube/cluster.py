"""
What there is in the cluster, as it is told: owners of addresses, rows of history.

Each pod, service and node is held against how it stood before. What that changes goes to whom it
concerns: addresses to the owners, ports to the services, how it stands now to the history.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal

from ctk.kube import recall
from ctk.kube.identity import Owner, endpoint_of, record_of, same, same_record, times_of
from ctk.kube.objects import (
    Applied,
    Deleted,
    EndpointSlice,
    KubeObject,
    Listed,
    Node,
    Pod,
    Resource,
    Service,
    resource_of,
)
from ctk.kube.owners import Owners
from ctk.kube.ownership import KILLED_LATE_NS, Claim
from ctk.kube.provisional import ProvisionalEndpoints
from ctk.kube.service_ports import ServicePorts, ServiceTarget
from ctk.kube.untold import Gone
from ctk.model import ZONE_LABEL, Endpoint
from ctk.model.history import Closed, HistoryChange, KnownObject, ObjectClosed, PodTimes
from ctk.timespan import FOREVER_NS, SECOND

KIND_OF: Mapping[Resource, Literal["pod", "service", "node"]] = {
    "pods": "pod",
    "services": "service",
    "nodes": "node",
}


class ClusterObjects:
    """
    Every pod, service, slice and node that there is.

    `settle` is called with an address of which more is known now.
    """

    def __init__(
        self,
        history: list[HistoryChange],
        owners: Owners,
        provisional: ProvisionalEndpoints,
        service_ports: ServicePorts,
        settle: Callable[[str], None],
    ) -> None:
        self._history, self._owners, self._provisional = history, owners, provisional
        self._service_ports, self._tell = service_ports, settle
        self._pods: dict[str, Pod] = {}  # by uid, as are the nodes
        self._nodes: dict[str, Node] = {}
        self._listing = False  # what is told now may have been so for long
        self._recalled: set[str] = set()  # the uids that only the file knows, so far
        # When pods without an address yet were first seen as started, by uid.
        self._came_ns: dict[str, int] = {}
        self.zones: dict[str, str] = {}  # by the node's name
        # What is taken from here: pods whose address became known, and targets that may lead to a
        # service only now.
        self.pods_added: list[Endpoint] = []
        self.targets: set[ServiceTarget] = set()
        self.settled_ns = 0  # the latest time as of which something has another owner

    def recall(self, known: Iterable[KnownObject], since_ns: int, until_ns: int) -> None:
        """Take in what the file knew; nothing is told of it but the ends it lacks."""
        for change in recall.changes(known):
            each, self._listing = change.object, change.listed
            if not change.ends:
                watched_ns = FOREVER_NS if change.watched_ns is None else change.watched_ns
                self._owners.watched_from_ns["pod"] = watched_ns
                self.put(each, change.at_ns)
                continue
            # Up to when it was sure then is sure now, and no longer.
            self._owners.missed_since_ns = change.sure_until_ns
            self.drop(resource_of(each), each.uid, change.at_ns, inferred=change.inferred)
        self._listing, self._owners.missed_since_ns = False, None
        self._owners.watched_from_ns["pod"] = FOREVER_NS
        self._owners.recalled(since_ns, until_ns)
        self._recalled = {*self._pods, *self._nodes}
        # The file has their history; it forgot only when its endpoints end.
        self._history[:] = [each for each in self._history if isinstance(each, Closed)]
        self.pods_added.clear()
        self._came_ns.clear()

    def put(self, new: KubeObject, at_ns: int) -> None:
        """An object came or changed."""
        match new:
            case Pod():
                self._put_pod(new, at_ns)
            case Service():
                self._put_service(new, at_ns)
            case EndpointSlice():
                self.targets |= self._service_ports.put_slice(new, at_ns)
            case Node():
                self._put_node(new, at_ns)

    def _put_pod(self, new: Pod, at_ns: int) -> None:
        old = self._pods.get(new.uid)
        recalled = new.uid in self._recalled
        if new == old and not recalled:
            return
        self._pods[new.uid] = new
        is_start = old is None or (old.started_ns != new.started_ns and not old.addresses)
        if is_start and not self._listing:
            self._came_ns[new.uid] = at_ns
        self._record(old, new, at_ns)
        had = old.owned if old else ()
        ended_ns, sure_until_ns = self._end(new, at_ns)
        was_awaited = self._was_awaited(new)
        if not new.host_network:
            self._provisional.learn_near(new.addresses)
        self.pods_added.extend(
            endpoint_of(new, address, new.started_ns)
            for address in new.owned
            if recalled or address not in had
        )
        self._move(old, new, had, new.owned, (ended_ns, sure_until_ns), at_ns)
        if new.host_network:
            return
        if new.terminating and not (old and old.terminating):
            # Its address may be another's before its object is deleted.
            for address in new.owned:
                self._owners.doubt(address, new.uid, self._no_later(at_ns), at_ns)
        if new.final and (new.ended_ns is not None if old is None else not old.final):
            # It may have got an address and ended between two looks.
            for address in new.addresses:
                past = endpoint_of(new, address, new.started_ns)
                claim = self._claim(new, new.started_ns, at_ns)
                if address not in had:
                    self._owners.give_past(past, claim, ended_ns, sure_until_ns)
                    self._settle(address)
        if new.final and not new.addresses and not (old and old.final):
            self._lose_untold(new, at_ns, ended_ns, ended_ns)
        elif was_awaited:
            self._decide()
        if not new.final and not new.addresses and new.node is not None:
            self._provisional.await_pod(at_ns)
            self._provisional.pod_started_ns = max(self._provisional.pod_started_ns, new.started_ns)
            self.settled_ns = max(self.settled_ns, new.started_ns)

    def _was_awaited(self, pod: Pod) -> bool:
        """Note that a pod tells no address yet; gives whether it told none before, and does now."""
        if not pod.is_untold:
            return self._owners.untold.told(pod.uid)
        came_ns = self._came_in_its_second_ns(pod.uid, pod.started_ns)
        self._owners.untold.await_address(pod.uid, came_ns or pod.started_ns)
        return False

    def _put_service(self, new: Service, at_ns: int) -> None:
        old = self._service_ports.services.get(new.uid)
        if new == old:
            return
        self._record(old, new, at_ns)
        self.targets |= self._service_ports.put_service(new, at_ns)
        self._provisional.learn_near(new.cluster_addresses)
        had = old.addresses if old else ()
        self._move(old, new, had, new.addresses, (at_ns, at_ns), at_ns)

    def _put_node(self, new: Node, at_ns: int) -> None:
        old = self._nodes.get(new.uid)
        if new == old and new.uid not in self._recalled:
            return
        self._nodes[new.uid] = new
        zone = new.labels.get(ZONE_LABEL)
        if zone is None:
            self.zones.pop(new.name, None)
        else:
            self.zones[new.name] = zone
        self._record(old, new, at_ns)
        had = old.addresses if old else ()
        self._move(old, new, had, new.addresses, (at_ns, at_ns), at_ns)
        self._history.extend(self._provisional.learn_node(new))

    def _move(
        self,
        old: Owner | None,
        new: Owner,
        had: Sequence[str],
        has: Sequence[str],
        end_ns: tuple[int, int],
        at_ns: int,
    ) -> None:
        """
        Take addresses from an owner and give it others; what it keeps may be told anew.

        `end_ns` is when it lost the former at the latest, and until when it surely had them.
        """
        recalled = new.uid in self._recalled
        self._recalled.discard(new.uid)
        for address in had:
            if address not in has:
                self._owners.take(address, new.uid, end_ns[0], sure_until_ns=end_ns[1])
        for address in has:
            if old is None or address not in had:
                # A pod gets its address late, but nobody else had it since it started.
                from_ns = new.started_ns if old is None or isinstance(new, Pod) else at_ns
                if isinstance(new, Service):
                    own = address in new.cluster_addresses
                    since_ns = self._service_ports.since_ns(new, at_ns, by_cluster_address=own)
                    from_ns = max(from_ns, since_ns)
                claim = self._claim(new, from_ns, at_ns)
                self._owners.give(endpoint_of(new, address, from_ns), claim)
                self.settled_ns = max(self.settled_ns, from_ns)
                self._settle(address)
                continue
            if recalled:
                claim = self._claim(new, new.started_ns, at_ns)
                self._owners.confirm(address, new.uid, claim)
            if not same(endpoint_of(old, address, 0), told := endpoint_of(new, address, at_ns)):
                self._owners.rename(told)
        if has:
            self._came_ns.pop(new.uid, None)

    def _end(self, pod: Pod, at_ns: int) -> tuple[int, int]:
        """When a pod's time ended at the latest, and until when it surely went on."""
        if not pod.final or pod.ended_ns is None:
            return at_ns, at_ns
        if at_ns <= pod.ended_ns and not self._listing:
            # A kubelet that told at once still had the address: it is given back after that.
            return at_ns, at_ns
        return min(pod.ended_ns, at_ns), min(pod.ended_ns - SECOND, at_ns)

    def _claim(self, new: Owner, from_ns: int, at_ns: int) -> Claim:
        if not isinstance(new, Pod):
            return Claim(at_ns, from_ns)
        if new.networked_ns is not None or new.running_ns is not None:
            return Claim(at_ns, new.gained_ns, new.running_ns)
        return Claim(at_ns, from_ns, None, self._came_in_its_second_ns(new.uid, from_ns))

    def _came_in_its_second_ns(self, uid: str, started_ns: int) -> int | None:
        """When a pod was first seen, where that was in the very second of its start."""
        came_ns = self._came_ns.get(uid, FOREVER_NS)
        return came_ns if started_ns <= came_ns < started_ns + SECOND else None

    def drop(self, resource: Resource, uid: str, at_ns: int, *, inferred: bool = False) -> None:
        """An object is gone; `inferred` where nobody saw it go, so that it was some time ago."""
        if resource == "endpointslices":
            self._service_ports.drop_slice(uid, at_ns)
            return
        gone: Pod | Service | Node | None
        to_ns = at_ns
        if resource == "pods":
            gone = self._pods.pop(uid, None)
            self._came_ns.pop(uid, None)
            if gone is not None and not gone.final:
                to_ns += gone.grace_s * SECOND
        elif resource == "services":
            gone = self._service_ports.services.get(uid)
            self._service_ports.drop_service(uid, at_ns)
        else:
            gone = self._nodes.pop(uid, None)
            if gone is not None:
                self.zones.pop(gone.name, None)
        if gone is not None:
            self._recalled.discard(uid)
            if self._owners.missed_since_ns is not None:
                for address in gone.addresses:
                    self._owners.doubt(address, uid, self._owners.missed_since_ns, at_ns)
            known_ns = [
                self._owners.take(
                    address, uid, to_ns, sure_until_ns=at_ns, deleted=True, inferred=inferred
                )
                for address in gone.addresses
            ]
            sure_until_ns = min(known_ns, default=at_ns)
            told = sure_until_ns if inferred and sure_until_ns < at_ns else None
            self._history.append(ObjectClosed(KIND_OF[resource], uid, at_ns, inferred, told))
            if isinstance(gone, Pod) and gone.is_untold:
                self._owners.untold.told(uid)
                self._lose_untold(gone, at_ns, at_ns, at_ns + KILLED_LATE_NS)

    def _lose_untold(self, pod: Pod, at_ns: int, ended_ns: int, left_ns: int) -> None:
        """A pod ended that never told its address: whose that was before is not sure."""
        gone = Gone(pod.node, pod.gained_ns, ended_ns, left_ns, at_ns)
        for address in self._owners.endings.lose_untold(gone):
            self._settle(address)
        self._decide()

    def _decide(self) -> None:
        for address in self._owners.endings.decide():
            self._settle(address)

    def put_last(self, each: KubeObject, at_ns: int) -> None:
        """An object is gone, and this was its last state: it may say when it ended."""
        resource = resource_of(each)
        if each.uid in self.known(resource):
            self.put(each, at_ns)
            self.drop(resource, each.uid, at_ns, inferred=self._owners.missed_since_ns is not None)

    def put_missed(self, changes: Iterable[Applied | Deleted], at_ns: int, *, whole: bool) -> None:
        """
        Take in what happened while nobody watched, in order, though not when.

        Nothing is settled by it: the list follows.
        """
        lost_ns, until_ns = self._owners.lost_ns, self._owners.recalled_until_ns
        since_ns = self._owners.missed_since_ns = until_ns if lost_ns == FOREVER_NS else lost_ns
        if whole:
            self._owners.watch("pod", min(since_ns, self._owners.watched_before_ns))
        self._listing = True
        # Each a ns later: so the next recording takes them in in this order, too.
        for told_ns, change in enumerate(changes, at_ns):
            put = self.put if isinstance(change, Applied) else self.put_last
            put(change.object, told_ns)
        self._listing, self._owners.missed_since_ns = False, None

    def _settle(self, address: str) -> None:
        if not self._listing:  # otherwise more is known of it when all is told
            self._tell(address)

    def _no_later(self, at_ns: int) -> int:
        """When something happened that is told now, at the earliest."""
        return at_ns if self._owners.missed_since_ns is None else self._owners.missed_since_ns

    def put_all(self, listed: Listed) -> None:
        """Take in all there is of a resource: what is missing is gone."""
        resource, at_ns = listed.resource, listed.at_ns
        # Of two pods with one address the later one has it, and takes it from one that is gone.
        self._listing = True
        for each in sorted(listed.objects, key=recall.by_address):
            self.put(each, at_ns)
        self._listing = False
        known, there = self.known(resource), {each.uid for each in listed.objects}
        gone = [each for uid, each in known.items() if uid not in there]
        # One that never told its address may have had that of another that is gone.
        for each in sorted(gone, key=recall.is_untold):
            if listed.only_node in (None, getattr(each, "node", None)):
                self.drop(resource, each.uid, at_ns, inferred=True)

    def known(self, resource: Resource) -> Mapping[str, KubeObject]:
        """What there is of a resource, by uid."""
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
        watched_ns = self._owners.pods_watched_ns
        if old is None:
            self._history.append(record_of(new, new.started_ns, at_ns, watched_ns))
        elif not same_record(old, new):
            kind = KIND_OF[resource_of(new)]
            unseen = recalled or self._listing
            self._history.append(ObjectClosed(kind, new.uid, at_ns, inferred=unseen))
            self._history.append(record_of(new, at_ns, at_ns, watched_ns))
        elif recalled or _times(old) != _times(new):
            # It goes on as it stood.
            self._history.append(record_of(new, old.started_ns, at_ns, watched_ns))


def _times(owner: Owner) -> PodTimes | None:
    return times_of(owner, 0, None) if isinstance(owner, Pod) else None
