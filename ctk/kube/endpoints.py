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

from collections.abc import Iterable

from ctk.kube.cluster import KIND_OF, ClusterObjects
from ctk.kube.objects import (
    RESOURCES,
    Applied,
    Bookmarked,
    Change,
    Deleted,
    Listed,
    Lost,
    Missed,
    Pod,
    Recovered,
    Resource,
)
from ctk.kube.owners import Owners
from ctk.kube.provisional import ProvisionalEndpoints, next_second_ns
from ctk.kube.service_ports import ServicePorts
from ctk.kube.settling import Settling
from ctk.kube.staleness import Staleness
from ctk.kube.unresolved import UnresolvedDials
from ctk.model import Endpoint, Gap, Kind, Via
from ctk.model.history import (
    ClusterFound,
    HistoryChange,
    KnownObject,
    KnownUnknown,
    PodsTold,
)
from ctk.timespan import FOREVER_NS

_OWNING: frozenset[Resource] = frozenset(KIND_OF)


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
        self._provisional = ProvisionalEndpoints(
            self._history, node_name, local_addresses, started_ns, kube=kube
        )
        self._service_ports = ServicePorts(always=not kube)
        self._unresolved = UnresolvedDials(self._service_ports, self._owners)
        self._settling = Settling(self._history, self._owners, self._provisional, self._unresolved)
        self._cluster = ClusterObjects(
            self._history,
            self._owners,
            self._provisional,
            self._service_ports,
            self._settling.settle,
        )
        self._staleness = Staleness()
        self._listed: set[Resource] = set()
        self._settled_ns = started_ns
        self._pods_version: str | None = None  # where a watch of pods would go on

    # What is asked of it.

    @property
    def settled_ns(self) -> int:
        """
        From when on an answer to `at` or `service` holds for later times, too.

        It holds up to `good_until_ns` of its endpoints, and until `apply`, `recall` or
        `set_local_addresses` is called. About older times more may be known: they are asked anew.
        """
        return max(self._settled_ns, self._cluster.settled_ns)

    def good_until_ns(self, endpoint: Endpoint) -> int:
        """Up to when (excluded) an answer holds if nothing changes; FOREVER_NS where for ever."""
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

    def stranger_kind(self, address: bytes) -> Kind | None:
        """
        Say which kind of stranger has an address: external or unknown.

        None where it is, or lately was, somebody's that is known; and for an unknown one while not
        all that is in the cluster is known. In 0.2 us, for it is asked about every new flow.
        """
        if address in self._owners.packed:
            return None
        return self._provisional.stranger_kind(address)

    def zone_of(self, node: str | None) -> str | None:
        """The topology zone of the node with this name, as its label says now."""
        return None if node is None else self._cluster.zones.get(node)

    def drain(self) -> list[HistoryChange]:
        """What was learned since the last call, in order."""
        history = self._history.copy()
        self._history.clear()
        return history

    def told(self, at_ns: int) -> list[PodsTold]:
        """Say up to when pods are known, at `at_ns`; nothing where nobody told of them."""
        if "pods" not in self._listed:
            return []
        return [PodsTold(min(at_ns, self._owners.lost_ns), self._pods_version)]

    def watches(self) -> dict[Resource, bool]:
        """Say of each resource whether it is known and watched now; of none where none is asked."""
        if not self._kube:
            return {}
        lost = self._staleness.lost
        return {each: each in self._listed and each not in lost for each in RESOURCES}

    @property
    def has_names(self) -> bool:
        """Whether all that names come from was listed once, but what is forbidden; pods anyway."""
        if not self._kube:
            return True
        denied = {resource for resource, lost in self._staleness.lost.items() if lost.denied}
        return "pods" in self._listed and self._listed | denied >= set(RESOURCES)

    @property
    def untold(self) -> int:
        """How many changes `drain` would return."""
        return len(self._history)

    def gaps(self) -> list[Gap]:
        """The spans of staleness that ended since the last call."""
        return self._staleness.gaps()

    def pods_added(self) -> list[Endpoint]:
        """The pods whose address became known since the last call."""
        added, self._cluster.pods_added = self._cluster.pods_added, []
        return added

    # What is told to it.

    def recall(
        self,
        known: Iterable[KnownObject],
        told_until_ns: int,
        *,
        since_ns: int = -FOREVER_NS,
        watched_ns: int | None = None,
    ) -> None:
        """
        Take in the pods and nodes that the file knew, before anything is asked or applied.

        `known` are those that owned addresses at some time from `since_ns` on, `told_until_ns` is
        when the file's knowledge ended, and `watched_ns` since when it had that of all pods. They
        own their addresses for what began before it, and
        are rivals of whoever comes: a pod that died while nobody watched keeps its last
        connections. The first list tells which of them are left.
        """
        self._cluster.recall(known, since_ns, told_until_ns)
        if watched_ns is not None:
            self._owners.watched_before_ns = watched_ns

    def recall_unknown(self, unknown: Iterable[KnownUnknown]) -> None:
        """
        Take in what earlier recordings could not name for sure, oldest first.

        A pod that is told only now may have been behind it: then it is completed, as what this
        recording asks about is. After `recall`, which tells what of a pod's was sure. What an
        earlier one left undecided waits for one that an API server tells of pods: without, the
        first owner of an address is taken for one that always had it.
        """
        owners, told_ns = self._owners, self._owners.recalled_until_ns
        given: list[KnownUnknown] = []
        for each in unknown:
            endpoint = each.endpoint
            if each.undecided and not self._kube:
                continue
            if endpoint.valid_from_ns < owners.recalled_since_ns:
                # Not all that had the address then are known any more: it stays who it was, but
                # for an owner that nobody had heard of.
                if endpoint.kind != "pod":
                    given.append(each._replace(undecided=False))
                continue
            if endpoint.kind == "pod":
                if not owners.was_in_doubt(endpoint):
                    continue
                if endpoint.valid_from_ns < told_ns:
                    # While pods are watched it is asked about anew in each second.
                    asked_ns = min(each.asked_ns, next_second_ns(endpoint.valid_from_ns) - 1)
                    given.append(each._replace(asked_ns=asked_ns))
                    continue
            given.append(each)
        self._provisional.recall(given)

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
                self._cluster.put(each, at_ns)
                self._know_pods(change)
            case Deleted(each):
                self._cluster.put_last(each, at_ns)
                self._know_pods(change)
            case Missed(changes, _, whole):
                self._cluster.put_missed(changes, at_ns, whole=whole)
            case Bookmarked(_, version):
                self._pods_version = version
            case Listed():
                self._cluster.put_all(change)
                if change.resource == "pods":
                    self._pods_version = change.version
                self._watch(change.resource, at_ns)
            case Lost(resource):
                self._staleness.lose(change)
                self._lose(resource, at_ns)
            case Recovered(resource):
                self._staleness.recover(change)
                if resource == "pods":
                    self._owners.lost_ns = FOREVER_NS
                    self._provisional.pods_lost = False
                    self._settling.settle_all()
                    self._history.extend(self._provisional.recover_pods())
                    self._history.extend(self._unresolved.resolve_all())
        self._provisional.stale = bool(self._staleness.lost)
        for address in self._owners.endings.settle(at_ns):
            self._settling.settle(address)
        targets = self._cluster.targets
        if targets:
            # Of a list all are known by now: which of several services it was may need them all.
            self._history.extend(self._unresolved.resolve(targets))
            targets.clear()

    def finish(self, at_ns: int) -> None:
        """Recording ends: what is lost or in doubt now stays so, as `gaps` and `drain` tell it."""
        self._staleness.finish(at_ns)
        told_ns = min(at_ns, self._owners.lost_ns)
        self._settling.settle_all(told_ns)
        self._history.extend(self._provisional.decide(earlier="pods" in self._listed))

    def expire(self, before_ns: int) -> None:
        """Forget owners that ended before then: no connection that old is asked about."""
        self._owners.expire(before_ns)
        self._service_ports.expire(before_ns)

    def _know_pods(self, change: Applied | Deleted) -> None:
        if isinstance(change.object, Pod):
            self._pods_version = change.version

    def _watch(self, resource: Resource, at_ns: int) -> None:
        """A resource is known, all of it, and watched from then on."""
        if resource in KIND_OF:
            self._owners.watch(KIND_OF[resource], at_ns)
            self._settling.settle_all()
        if resource == "pods":
            self._provisional.awaiting_pods = False
            self._owners.end_recall()
            self._history.extend(self._unresolved.resolve_all())
        self._listed.add(resource)
        if not self._provisional.synced and self._listed >= _OWNING:
            self._provisional.synced = True
            self._history.extend(self._provisional.reconsider())

    def _lose(self, resource: Resource, at_ns: int) -> None:
        kind = KIND_OF.get(resource)
        if kind is not None:
            self._owners.unwatch(kind)
        if resource == "pods":
            self._owners.lost_ns = min(self._owners.lost_ns, at_ns)
            self._provisional.awaiting_pods = False
            self._provisional.pods_lost = True

    def _is_away(self, kind: Kind) -> bool:
        """Whether the server does not answer for objects of a kind, and will again."""
        lost = self._staleness.lost.get("nodes" if kind == "node" else "pods")
        return lost is not None and not lost.denied
