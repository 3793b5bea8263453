"""
Who is behind an address, and since when.

An address belongs to a pod for a time: from the pod's start, or the end of the pod that had it
before, to the pod's own end. So every question comes with a time, the one at which the connection
began. What nobody is known to own gets a guess (unknown, external, or this node); when an owner
turns up later whose time covers the guess, `drain` tells that the two are one.

Owned by one thread, which applies changes and asks. Times are ns, addresses are text as inet_ntop
writes it.
"""

from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from socket import AF_INET6, inet_pton
from typing import Literal

from ctk.kube.doors import ANY_NODE, FOREVER_NS, Door, Doors
from ctk.kube.identity import Owner, endpoint_of, record_of, same, same_record
from ctk.kube.objects import (
    Change,
    EndpointSlice,
    Gone,
    KubeObject,
    Listed,
    Lost,
    Node,
    Pod,
    Resource,
    Seen,
    Service,
    Stale,
    resource_of,
)
from ctk.model import (
    Closed,
    Completed,
    Edge,
    Endpoint,
    Gap,
    HistoryChange,
    Kind,
    ObjectClosed,
    ServiceFound,
    Via,
)

_SECOND_NS = 1_000_000_000
# An unknown address is asked about again after this long: an owner that comes meanwhile completes
# what is older than itself, no more.
_GUESS_NS = 60 * _SECOND_NS
_GUESS_STALE_NS = 600 * _SECOND_NS
# Clocks of nodes and API server differ a little: a pod's first traffic may seem older than the pod.
_CLOCKS_DIFFER_NS = 5 * _SECOND_NS
_MOST_GUESSED = 100_000  # addresses: external ones, mostly
_MOST_CACHED = 65_536  # edges
_MOST_UNSERVED = 20_000  # addresses
_MOST_PORTS = 100  # of one of them

# Who wins where two own an address at a time. A load balancer's address may be a node's own.
_RANK: Mapping[Kind, int] = {"node": 0, "pod": 1, "service": 2}
_NEEDED: frozenset[Resource] = frozenset(("pods", "services", "nodes"))
# The first parts of IPv4 addresses of which some or all are not public.
_NOT_ALL_PUBLIC = frozenset(
    ("0", "10", "100", "127", "169", "172", "192", "198", "203", *map(str, range(224, 256)))
)


@dataclass(slots=True, eq=False)
class _Owned:
    """The span in which an address was an endpoint's."""

    endpoint: Endpoint
    from_ns: int
    to_ns: int = FOREVER_NS
    guesses: tuple[Endpoint, ...] = ()  # completed to be it, so they end with it


class Endpoints:
    """
    The table of addresses, and of everything in the cluster.

    `kube` is False where no API server is watched: what is known was always so.
    """

    def __init__(
        self, node_name: str, local_addresses: Iterable[str], started_ns: int, *, kube: bool
    ) -> None:
        self._node_name = node_name
        self._local = frozenset(local_addresses)
        self._kube = kube
        self._owned: dict[str, list[_Owned]] = {}
        self._guesses: OrderedDict[str, list[Endpoint]] = OrderedDict()  # least asked first
        self._doors = Doors(always=not kube)
        self._pods: dict[str, Pod] = {}  # by uid, as are the others
        self._nodes: dict[str, Node] = {}
        self._this_node: Node | None = None
        # A dialled address whose ports led to no service: endpoint, protocol, port, first asked.
        self._unserved: OrderedDict[str, dict[tuple[Endpoint, str, int], int]] = OrderedDict()
        self._listed: set[Resource] = set()
        self._near: set[str | bytes] = set()  # the /16 and /64 of pods and services
        self._pod_cidrs: set[IPv4Network | IPv6Network] = set()
        self._pod_started_ns = 0  # the last start of a pod that has no address yet
        # While pods are lost, an address may have passed to another unseen.
        self._doubt_ns = FOREVER_NS
        self._lost: dict[Resource, Lost] = {}
        self._stale: list[Stale] = []
        self._gaps: list[Gap] = []
        self._history: list[HistoryChange] = []
        self._pods_added: list[Endpoint] = []
        self._ended: deque[tuple[int, str]] = deque()
        # Edges for times after the last known change, with the time up to which they hold.
        self._edges: dict[tuple[object, ...], tuple[Edge, int]] = {}
        self._settled_ns = started_ns

    # What is asked of it.

    def at(self, address: str, when_ns: int) -> Endpoint:
        """Who was behind an address at that time: always the same value for the same answer."""
        owned = self._owner(address, when_ns)
        if owned is None:
            return self._guess(address, when_ns, None)
        if when_ns >= self._doubt_ns and owned.endpoint.kind == "pod":
            return self._guess(address, when_ns, owned.endpoint)
        return owned.endpoint

    def edge(
        self,
        proto: str,
        zone: int,
        src: str,
        dst: str,
        dst_port: int | None,
        reply_src: str,
        reply_src_port: int | None,
        reply_dst: str,
        when_ns: int,
    ) -> Edge:
        """Who dialled what, through which service, and who answered, at that time."""
        key = (proto, zone, src, dst, dst_port, reply_src, reply_src_port, reply_dst)
        cached = self._edges.get(key)
        if cached is not None and self._settled_ns <= when_ns < cached[1]:
            return cached[0]
        source = self.at(src, when_ns)
        dialled = self.at(dst, when_ns)
        backend = dialled if reply_src == dst else self.at(reply_src, when_ns)
        service: str | None = None
        via: Via | None = None
        if dst_port is not None:
            service, via = self._service(dialled, proto, dst_port, when_ns)
            if service is None:
                self._remember_unserved(dialled, proto, dst_port, when_ns)
        edge = Edge(
            proto,
            zone,
            source,
            dialled,
            dst_port,
            reply_dst if reply_dst != src else None,
            backend,
            reply_src_port if reply_src_port != dst_port else None,
            service,
            via,
        )
        if when_ns >= self._settled_ns:
            if len(self._edges) >= _MOST_CACHED:
                self._edges.clear()
            until_ns = min(self._good_until_ns(each) for each in (source, dialled, backend))
            self._edges[key] = edge, until_ns
        return edge

    def drain(self) -> list[HistoryChange]:
        """What was learned since the last call, in order."""
        history, self._history = self._history, []
        return history

    def gaps(self) -> list[Gap]:
        """The spans of staleness that ended since the last call."""
        gaps, self._gaps = self._gaps, []
        return gaps

    def pods_added(self) -> list[Endpoint]:
        """The pods whose address became known since the last call."""
        added, self._pods_added = self._pods_added, []
        return added

    # What is told to it.

    def apply(self, change: Change) -> None:
        """Take in what the API server said."""
        self._edges.clear()
        at_ns = change.to_ns if isinstance(change, Stale) else change.at_ns
        self._settled_ns = max(self._settled_ns, at_ns)
        match change:
            case Seen(each):
                self._put(each, at_ns)
            case Gone(each):
                self._put(each, at_ns)  # its last state may say when it ended
                self._drop(resource_of(each), each.uid, at_ns)
            case Listed(resource, objects):
                self._reconcile(resource, objects, at_ns)
            case Lost(resource):
                self._lost[resource] = change
                if resource == "pods":
                    self._doubt_ns = min(self._doubt_ns, at_ns)
            case Stale(resource):
                self._lost.pop(resource, None)
                self._stale.append(change)
                if resource == "pods":
                    self._settle_doubts()
                if all(lost.denied for lost in self._lost.values()):
                    self._tell_stale()

    def finish(self, at_ns: int) -> None:
        """Recording ends: what is lost now stays so, and `gaps` tells it."""
        for lost in self._lost.values():
            self._stale.append(Stale(lost.resource, lost.at_ns, at_ns, lost.why))
        self._lost.clear()
        self._tell_stale()

    def expire(self, before_ns: int) -> None:
        """Forget owners that ended before then: no connection that old is asked about."""
        while self._ended and self._ended[0][0] < before_ns:
            _, address = self._ended.popleft()
            kept = [each for each in self._owned.get(address, ()) if each.to_ns >= before_ns]
            if kept:
                self._owned[address] = kept
            else:
                self._owned.pop(address, None)
        self._doors.expire(before_ns)

    # Owners.

    def _owner(self, address: str, when_ns: int) -> _Owned | None:
        for owned in self._owned.get(address, ()):
            if owned.from_ns <= when_ns < owned.to_ns:
                return owned
        return None

    def _own(self, endpoint: Endpoint, at_ns: int) -> None:
        """
        Give an address to an endpoint from its start on.

        Another pod or node that has it loses it then. Services may share one.
        """
        rivals = self._rivals(endpoint)
        from_ns = endpoint.valid_from_ns
        if endpoint.kind != "service":
            for rival in rivals:
                if rival.to_ns == FOREVER_NS:
                    # One that started later than this one had the address until just now.
                    later = rival.endpoint.valid_from_ns >= endpoint.valid_from_ns
                    self._close(rival, at_ns if later else endpoint.valid_from_ns)
                from_ns = max(from_ns, rival.to_ns)
        endpoint = _since(endpoint, from_ns)
        if not rivals:
            from_ns = from_ns - _CLOCKS_DIFFER_NS if self._kube else -FOREVER_NS
        self._insert(_Owned(endpoint, from_ns))

    def _own_past(self, endpoint: Endpoint, ended_ns: int) -> None:
        """Let an endpoint have had an address for what its span leaves between its rivals'."""
        from_ns, to_ns = endpoint.valid_from_ns, ended_ns
        for rival in self._rivals(endpoint):
            if rival.endpoint.valid_from_ns > endpoint.valid_from_ns:
                to_ns = min(to_ns, rival.endpoint.valid_from_ns)
            else:
                from_ns = max(from_ns, rival.to_ns)
        if from_ns < to_ns:
            owned = _Owned(_since(endpoint, from_ns), from_ns)
            self._close(owned, to_ns)
            self._insert(owned)

    def _insert(self, new: _Owned) -> None:
        address = new.endpoint.address
        owners = self._owned.setdefault(address, [])
        owners.append(new)
        owners.sort(key=_rank)
        self._settled_ns = max(self._settled_ns, new.from_ns)
        self._complete(address)

    def _rivals(self, endpoint: Endpoint) -> list[_Owned]:
        owners = self._owned.get(endpoint.address, ())
        return [each for each in owners if each.endpoint.kind == endpoint.kind]

    def _disown(self, address: str, uid: str, at_ns: int) -> None:
        for owned in self._owned.get(address, ()):
            if owned.endpoint.uid == uid and owned.to_ns == FOREVER_NS:
                self._close(owned, at_ns)

    def _close(self, owned: _Owned, at_ns: int) -> None:
        owned.to_ns = max(at_ns, owned.endpoint.valid_from_ns)
        self._ended.append((owned.to_ns, owned.endpoint.address))
        self._history.extend(Closed(each, owned.to_ns) for each in (owned.endpoint, *owned.guesses))

    def _rename(self, endpoint: Endpoint) -> None:
        """The owner of an address changed its labels, say: the same owner, another endpoint."""
        for owned in self._owned.get(endpoint.address, ()):
            if owned.endpoint.uid == endpoint.uid and owned.to_ns == FOREVER_NS:
                self._close(owned, endpoint.valid_from_ns)
                self._insert(_Owned(_since(endpoint, owned.to_ns), owned.to_ns))
                return

    # Guesses.

    def _guess(self, address: str, when_ns: int, last_owner: Endpoint | None) -> Endpoint:
        """
        Somebody to stand for the owner that isn't known.

        `last_owner` is who had the address before pods were lost, and probably still has.
        """
        guesses = self._guesses.get(address)
        if guesses is None:
            guesses = self._guesses[address] = []
            if len(self._guesses) > _MOST_GUESSED:
                self._guesses.popitem(last=False)
        else:
            self._guesses.move_to_end(address)
            for guess in reversed(guesses):
                # While pods are in doubt, a guess is a pod where the address had one.
                if (guess.kind == "pod") == (last_owner is not None) and self._still_good(
                    guess, when_ns
                ):
                    return guess
            if self._sure():
                # None of those will be completed any more.
                guesses[:] = [
                    each for each in guesses if when_ns - each.valid_from_ns < _GUESS_STALE_NS
                ]
        if last_owner is None:
            guess = self._stranger(address, when_ns)
        else:
            guess = replace(last_owner, valid_from_ns=when_ns)
        guesses.append(guess)
        return guess

    def _still_good(self, guess: Endpoint, when_ns: int) -> bool:
        if guess.kind in ("external", "node") or not self._kube:
            return True
        from_ns = guess.valid_from_ns
        if from_ns < self._pod_started_ns <= when_ns:
            return False  # it may be that pod's traffic: its address is told later
        return from_ns <= when_ns < self._good_until_ns(guess)

    def _good_until_ns(self, endpoint: Endpoint) -> int:
        """Up to when an endpoint that was found for now holds, if nothing changes."""
        doubtful = endpoint.kind == "pod" and endpoint.valid_from_ns >= self._doubt_ns
        if not self._kube or not (doubtful or endpoint.kind == "unknown"):
            return FOREVER_NS
        return endpoint.valid_from_ns + (_GUESS_NS if self._sure() else _GUESS_STALE_NS)

    def _synced(self) -> bool:
        """Whether everything that owns addresses was listed once."""
        return self._listed >= _NEEDED

    def _sure(self) -> bool:
        return self._synced() and not self._lost

    def _stranger(self, address: str, when_ns: int) -> Endpoint:
        """What can be said of an address that nobody in the cluster owns."""
        parsed = ip_address(address) if _may_be_private(address) else None
        if address in self._local or (parsed is not None and parsed.is_loopback):
            node = self._this_node
            return Endpoint(
                address=address,
                kind="node",
                valid_from_ns=when_ns,
                name=self._node_name,
                node=self._node_name,
                labels=node.labels if node else {},
                uid=node.uid if node else None,
            )
        outside = parsed is None or parsed.is_global
        if not outside and self._synced():
            outside = _neighbourhood(address) not in self._near and not any(
                parsed in cidr for cidr in self._pod_cidrs
            )
        return Endpoint(
            address=address, kind="external" if outside else "unknown", valid_from_ns=when_ns
        )

    def _complete(self, address: str) -> None:
        """Tell which guesses about an address turned out to be its owner."""
        guesses = self._guesses.get(address)
        if not guesses:
            return
        left: list[Endpoint] = []
        for guess in guesses:
            owned = self._owner(address, guess.valid_from_ns)
            if owned is None:
                left.append(guess)
                continue
            self._history.append(Completed(guess, owned.endpoint))
            owned.guesses += (guess,)
            if owned.to_ns != FOREVER_NS:
                self._history.append(Closed(guess, owned.to_ns))
            self._find_services(address, guess)
        self._keep(address, left)

    def _guess_again(self) -> None:
        """More is known: what was unknown may be external, and this node may have labels."""
        for address, guesses in list(self._guesses.items()):
            for i, guess in enumerate(guesses):
                if guess.kind in ("unknown", "node"):
                    better = self._stranger(address, guess.valid_from_ns)
                    if not same(guess, better):
                        self._history.append(Completed(guess, better))
                        guesses[i] = better

    def _keep(self, address: str, guesses: list[Endpoint]) -> None:
        if guesses:
            self._guesses[address] = guesses
        else:
            self._guesses.pop(address, None)

    def _settle_doubts(self) -> None:
        """Pods are known again: each answer given meanwhile is held against what they say."""
        self._doubt_ns = FOREVER_NS
        for address, guesses in list(self._guesses.items()):
            left: list[Endpoint] = []
            for guess in guesses:
                if guess.kind != "pod":
                    left.append(guess)
                    continue
                owned = self._owner(address, guess.valid_from_ns)
                if owned is not None and not same(guess, owned.endpoint):
                    self._history.append(Completed(guess, owned.endpoint))
                if owned is not None:
                    owned.guesses += (guess,)
            self._keep(address, left)

    # Services.

    def _service(
        self, dialled: Endpoint, proto: str, port: int, when_ns: int
    ) -> tuple[str | None, Via | None]:
        address, kind = dialled.address, dialled.kind
        service = self._doors.front(address, proto, port, when_ns)
        if service is None and kind == "node":
            service = self._doors.front(ANY_NODE, proto, port, when_ns)
        if service is not None:
            return service, "address"
        if kind in ("pod", "unknown"):
            service = self._doors.back(address, proto, port, when_ns)
            if service is not None:
                return service, "endpoint"
        return None, None

    def _remember_unserved(self, dialled: Endpoint, proto: str, port: int, when_ns: int) -> None:
        if not self._kube or (dialled.kind == "external" and self._synced()):
            return
        asked = self._unserved.get(dialled.address)
        if asked is None:
            asked = self._unserved[dialled.address] = {}
            if len(self._unserved) > _MOST_UNSERVED:
                self._unserved.popitem(last=False)
        if len(asked) < _MOST_PORTS:
            asked.setdefault((dialled, proto, port), when_ns)

    def _find_services(self, address: str, dialled: Endpoint) -> None:
        """See whether what was dialled at an address before it was known led to a service."""
        asked = self._unserved.get(address, {})
        owned = self._owner(address, dialled.valid_from_ns)
        known = dialled if owned is None else owned.endpoint
        for key in [key for key in asked if key[0] is dialled]:
            _, proto, port = key
            service, via = self._service(known, proto, port, asked[key])
            if service is not None and via is not None:
                self._history.append(ServiceFound(dialled, proto, port, service, via))
                del asked[key]

    def _opened(self, doors: Iterable[Door]) -> None:
        """Doors opened: some may have been dialled before that was known."""
        addresses = {door[0] for door in doors}
        for address in self._unserved if ANY_NODE in addresses else addresses:
            for dialled in {key[0] for key in self._unserved.get(address, ())}:
                self._find_services(address, dialled)

    # Objects.

    def _put(self, new: KubeObject, at_ns: int) -> None:
        match new:
            case Pod():
                self._put_pod(new, at_ns)
            case Service():
                self._put_service(new, at_ns)
            case EndpointSlice():
                self._opened(self._doors.put_slice(new, at_ns))
            case Node():
                self._put_node(new, at_ns)

    def _put_pod(self, new: Pod, at_ns: int) -> None:
        old = self._pods.get(new.uid)
        if new == old:
            return
        self._pods[new.uid] = new
        self._record(old, new, at_ns)
        had = old.owned if old else ()
        ended_ns = min(new.ended_ns or at_ns, at_ns) if new.final else at_ns
        if not new.host_network:
            self._near.update(map(_neighbourhood, new.addresses))
        self._pods_added.extend(
            endpoint_of(new, address, new.started_ns) for address in new.owned if address not in had
        )
        self._move(old, new, had, new.owned, ended_ns, at_ns)
        if new.host_network:
            return
        if new.final and (new.ended_ns is not None if old is None else not old.final):
            # It may have got an address and ended between two looks.
            for address in new.addresses:
                if address not in had:
                    self._own_past(endpoint_of(new, address, new.started_ns), ended_ns)
        if not new.final and not new.addresses:
            self._pod_started_ns = max(self._pod_started_ns, new.started_ns)
            self._settled_ns = max(self._settled_ns, new.started_ns)

    def _put_service(self, new: Service, at_ns: int) -> None:
        old = self._doors.services.get(new.uid)
        if new == old:
            return
        self._record(old, new, at_ns)
        opened = self._doors.put_service(new, at_ns)
        self._near.update(map(_neighbourhood, new.cluster_addresses))
        self._move(old, new, old.addresses if old else (), new.addresses, at_ns, at_ns)
        self._opened(opened)

    def _put_node(self, new: Node, at_ns: int) -> None:
        old = self._nodes.get(new.uid)
        if new == old:
            return
        self._nodes[new.uid] = new
        self._record(old, new, at_ns)
        self._pod_cidrs.update(map(ip_network, new.pod_cidrs))
        self._move(old, new, old.addresses if old else (), new.addresses, at_ns, at_ns)
        if new.name == self._node_name:
            self._this_node = new
            self._guess_again()

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
        for address in had:
            if address not in has:
                self._disown(address, new.uid, ended_ns)
        for address in has:
            if old is None or address not in had:
                pod_or_new = old is None or isinstance(new, Pod)
                self._own(endpoint_of(new, address, new.started_ns if pod_or_new else at_ns), at_ns)
            elif not same(endpoint_of(old, address, 0), told := endpoint_of(new, address, at_ns)):
                self._rename(told)

    def _drop(self, resource: Resource, uid: str, at_ns: int) -> None:
        if resource == "endpointslices":
            self._doors.drop_slice(uid, at_ns)
            return
        gone: Pod | Service | Node | None
        if resource == "pods":
            gone = self._pods.pop(uid, None)
        elif resource == "services":
            gone = self._doors.services.get(uid)
            self._doors.drop_service(uid, at_ns)
        else:
            gone = self._nodes.pop(uid, None)
        if gone is not None:
            for address in gone.addresses:
                self._disown(address, uid, at_ns)
            self._history.append(ObjectClosed(_KIND_OF[resource], uid, at_ns))

    def _reconcile(self, resource: Resource, objects: Iterable[KubeObject], at_ns: int) -> None:
        tables: Mapping[Resource, Mapping[str, KubeObject]] = {
            "pods": self._pods,
            "services": self._doors.services,
            "endpointslices": self._doors.slices,
            "nodes": self._nodes,
        }
        # Of two pods with one address the later one has it, and takes it from one that is gone.
        for each in sorted(objects, key=lambda each: each.started_ns):
            self._put(each, at_ns)
        for uid in tables[resource].keys() - {each.uid for each in objects}:
            self._drop(resource, uid, at_ns)
        was_synced = self._synced()
        self._listed.add(resource)
        if self._synced() and not was_synced:
            self._guess_again()

    def _record(self, old: Owner | None, new: Owner, at_ns: int) -> None:
        """Write an object's history, where something of it changed that history keeps."""
        if old is None:
            self._history.append(record_of(new, new.started_ns))
        elif not same_record(old, new):
            self._history.append(ObjectClosed(_KIND_OF[resource_of(new)], new.uid, at_ns))
            self._history.append(record_of(new, at_ns))

    def _tell_stale(self) -> None:
        """One gap for resources that were lost together."""
        spans = sorted(self._stale, key=lambda stale: (stale.from_ns, stale.to_ns))
        self._stale = []
        while spans:
            first = spans.pop(0)
            together = [first]
            to_ns = first.to_ns
            while spans and spans[0].from_ns <= to_ns:
                together.append(spans.pop(0))
                to_ns = max(to_ns, together[-1].to_ns)
            names = ", ".join(dict.fromkeys(each.resource for each in together))
            detail = f"{names}: {first.why}"
            self._gaps.append(Gap("metadata stale", first.from_ns, to_ns, None, detail))


_KIND_OF: Mapping[Resource, Literal["pod", "service", "node"]] = {
    "pods": "pod",
    "services": "service",
    "nodes": "node",
}


def _rank(owned: _Owned) -> int:
    return _RANK[owned.endpoint.kind]


def _since(endpoint: Endpoint, from_ns: int) -> Endpoint:
    if endpoint.valid_from_ns == from_ns:
        return endpoint
    return replace(endpoint, valid_from_ns=from_ns)


def _may_be_private(address: str) -> bool:
    """A quick look that spares most public IPv4 addresses the parsing, 15 us each."""
    first, dot, _ = address.partition(".")
    return not dot or first in _NOT_ALL_PUBLIC


def _neighbourhood(address: str) -> str | bytes:
    """The /16 of an IPv4 address, the /64 of an IPv6 one."""
    if ":" in address:
        return inet_pton(AF_INET6, address)[:8]
    return address[: address.index(".", address.index(".") + 1)]
