"""
Which service stands behind an address, a protocol and a port, and when.

A service is dialled by its own addresses, by its NodePorts on every node, or by the address of a
pod behind it.
"""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ctk.kube.objects import EndpointSlice, Service
from ctk.timespan import FOREVER_NS, SECOND

# An EndpointSlice is written a little after the pod it lists could first be dialled.
WRITTEN_LATE_NS = 5 * SECOND

# Address, protocol, port: what is dialled. A NodePort is on any node, so its address is "".
ServiceTarget = tuple[str, str, int]
ANY_NODE = ""


@dataclass(slots=True, eq=False)
class _TargetSpan:
    """The span in which a target led to a service."""

    service: str
    source: str  # the uid of the Service or EndpointSlice that says so
    from_ns: int
    told_ns: int  # that it did was told then
    to_ns: int = FOREVER_NS


class ServicePorts:
    """
    The targets of all services, each with the spans in which it led to them.

    `always`: what is known comes from a file and has no history, so it was always so.
    """

    def __init__(self, *, always: bool) -> None:
        self._always = always
        self._by_own_address: dict[
            ServiceTarget, list[_TargetSpan]
        ] = {}  # a service's, or a node's
        self._by_pod_address: dict[ServiceTarget, list[_TargetSpan]] = {}
        self.services: dict[str, Service] = {}  # by uid, as are the slices
        self.slices: dict[str, EndpointSlice] = {}
        self._with_cluster_address: set[str] = set()
        self._closed: deque[tuple[int, dict[ServiceTarget, list[_TargetSpan]], ServiceTarget]] = (
            deque()
        )

    def of_own_address(self, address: str, proto: str, port: int, when_ns: int) -> str | None:
        """The one service whose own address this is; none where several share it."""
        found = _covering(self._by_own_address.get((address, proto, port), ()), when_ns)
        return found.pop() if len(found) == 1 else None

    def of_pod_address(
        self,
        address: str,
        proto: str,
        port: int,
        when_ns: int,
        had_it: Callable[[int], bool] = lambda when_ns: True,
    ) -> str | None:
        """
        The service that a pod backs on exactly this port, where one can be told.

        That is the only one with a ClusterIP, else the only one: what dials a pod itself may have
        found it by any of its services. A slice does not say since when it lists an address: for a
        time before it was told, the pod must be the one that `had_it` when it was told, too.
        """
        spans = self._by_pod_address.get((address, proto, port), ())
        found = _covering(
            (
                each
                for each in spans
                if self._always or when_ns >= each.told_ns or had_it(each.told_ns)
            ),
            when_ns,
        )
        if len(found) > 1:
            found &= self._with_cluster_address
        return found.pop() if len(found) == 1 else None

    def of_cluster_address(self, address: str, uid: str) -> list[tuple[str, int]]:
        """The protocols and ports of a service, where the address is a ClusterIP of it."""
        service = self.services.get(uid)
        if service is None or address not in service.cluster_addresses:
            return []
        return [(port.proto, port.port) for port in service.ports]

    def put_service(self, new: Service, at_ns: int) -> set[ServiceTarget]:
        """Take in what a service says now; gives the targets that may lead to it only now."""
        old = self.services.get(new.uid)
        self.services[new.uid] = new
        name = service_name(new)
        had_cluster_address = name in self._with_cluster_address
        if new.cluster_addresses:
            self._with_cluster_address.add(name)
        else:
            self._with_cluster_address.discard(name)
        added: set[ServiceTarget] = set()
        for own, targets in ((True, _cluster_targets), (False, _outer_targets)):
            from_ns = (
                at_ns if old is not None else self.since_ns(new, at_ns, by_cluster_address=own)
            )
            added |= self._swap(
                self._by_own_address, name, new.uid, targets(old), targets(new), (from_ns, at_ns)
            )
        if had_cluster_address != bool(new.cluster_addresses):
            # It may decide which of several services a pod stands for.
            for each in self.slices.values():
                if each.service == name:
                    added |= _pod_targets(each)
        return added

    def drop_service(self, uid: str, at_ns: int) -> None:
        """A service is gone: no target leads to it any more."""
        old = self.services.pop(uid, None)
        if old is not None:
            self._with_cluster_address.discard(service_name(old))
            targets = _cluster_targets(old) | _outer_targets(old)
            self._swap(self._by_own_address, "", uid, targets, set(), (at_ns, at_ns))

    def put_slice(self, new: EndpointSlice, at_ns: int) -> set[ServiceTarget]:
        """Take in which pods a slice lists now; gives the targets that were added."""
        old = self.slices.get(new.uid)
        if old is not None and old.service != new.service:
            self.drop_slice(new.uid, at_ns)
            return self.put_slice(new, at_ns)
        self.slices[new.uid] = new
        since_ns = at_ns
        if old is None:
            since_ns = -FOREVER_NS if self._always else new.started_ns
        span = (since_ns - WRITTEN_LATE_NS, at_ns)
        table, name = self._by_pod_address, new.service or ""
        return self._swap(table, name, new.uid, _pod_targets(old), _pod_targets(new), span)

    def drop_slice(self, uid: str, at_ns: int) -> None:
        """A slice is gone, and every target that it added."""
        old = self.slices.pop(uid, None)
        self._swap(self._by_pod_address, "", uid, _pod_targets(old), set(), (at_ns, at_ns))

    def expire(self, before_ns: int) -> None:
        """Forget spans that ended before then."""
        while self._closed and self._closed[0][0] < before_ns:
            _, table, target = self._closed.popleft()
            kept = [each for each in table.get(target, ()) if each.to_ns >= before_ns]
            if kept:
                table[target] = kept
            else:
                table.pop(target, None)

    def since_ns(self, new: Service, at_ns: int, *, by_cluster_address: bool) -> int:
        """
        Since when a service that is first told then has an address, and ports there.

        A ClusterIP can't be changed while the type stays; others can at any time.
        """
        if self._always:
            return -FOREVER_NS
        if by_cluster_address:
            return new.started_ns
        return at_ns if new.changed_ns is None else max(new.started_ns, new.changed_ns)

    def _swap(
        self,
        table: dict[ServiceTarget, list[_TargetSpan]],
        service: str,
        source: str,
        old: set[ServiceTarget],
        new: set[ServiceTarget],
        span_ns: tuple[int, int],
    ) -> set[ServiceTarget]:
        from_ns, at_ns = span_ns
        for target in old - new:
            for each in table.get(target, ()):
                if each.source == source and each.to_ns == FOREVER_NS:
                    each.to_ns = max(at_ns, each.from_ns)
                    self._closed.append((each.to_ns, table, target))
        added = new - old
        for target in added:
            table.setdefault(target, []).append(_TargetSpan(service, source, from_ns, at_ns))
        return added


def service_name(service: Service) -> str:
    """Name a service as flows do: "namespace/name"."""
    return f"{service.namespace}/{service.name}"


def _covering(spans: Iterable[_TargetSpan], when_ns: int) -> set[str]:
    return {each.service for each in spans if each.from_ns <= when_ns < each.to_ns}


def _cluster_targets(service: Service | None) -> set[ServiceTarget]:
    if service is None:
        return set()
    ports = service.ports
    return {(each, port.proto, port.port) for each in service.cluster_addresses for port in ports}


def _outer_targets(service: Service | None) -> set[ServiceTarget]:
    """What leads to a service by another address than its own in the cluster."""
    if service is None:
        return set()
    outer = [each for each in service.addresses if each not in service.cluster_addresses]
    targets = {(address, port.proto, port.port) for address in outer for port in service.ports}
    targets.update(
        (ANY_NODE, port.proto, port.node_port) for port in service.ports if port.node_port
    )
    return targets


def _pod_targets(each: EndpointSlice | None) -> set[ServiceTarget]:
    if each is None or each.service is None:
        return set()
    return {(address, proto, port) for address in each.addresses for proto, port in each.ports}
