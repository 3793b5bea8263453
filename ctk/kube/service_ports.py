"""
Which service is behind an address, a port and a protocol, and when.

A service has many doors: its own addresses, its NodePorts on every node, and the pods behind it.
"""

from collections import deque
from dataclasses import dataclass

from ctk.kube.objects import EndpointSlice, Service
from ctk.timespan import FOREVER_NS

# An EndpointSlice is written a little after the pod it lists could first be dialled.
_WRITTEN_LATE_NS = 5_000_000_000

# Address, protocol, port. A NodePort is open on any node, so its address is "".
Door = tuple[str, str, int]
ANY_NODE = ""


@dataclass(slots=True, eq=False)
class _Open:
    """The span in which a door led to a service."""

    service: str
    source: str  # the uid of the Service or EndpointSlice that says so
    from_ns: int
    to_ns: int = FOREVER_NS


class ServicePorts:
    """
    The doors of all services, each with the spans in which it was open.

    `always`: what is known comes from a file and has no history, so it was always so.
    """

    def __init__(self, *, always: bool) -> None:
        self._always = always
        self._fronts: dict[Door, list[_Open]] = {}  # dialled by a service's or a node's address
        self._backs: dict[Door, list[_Open]] = {}  # dialled by a pod's own address
        self.services: dict[str, Service] = {}  # by uid, as are the slices
        self.slices: dict[str, EndpointSlice] = {}
        self._with_cluster_address: set[str] = set()
        self._closed: deque[tuple[int, dict[Door, list[_Open]], Door]] = deque()

    def front(self, address: str, proto: str, port: int, when_ns: int) -> str | None:
        """The service whose own address this is; the first by name where several share it."""
        opens = self._fronts.get((address, proto, port))
        if opens is None:
            return None
        return min((each.service for each in opens if _covers(each, when_ns)), default=None)

    def back(self, address: str, proto: str, port: int, when_ns: int) -> str | None:
        """The service a pod backs on exactly this port: one with a ClusterIP before others."""
        opens = self._backs.get((address, proto, port))
        if opens is None:
            return None
        return min(
            (each.service for each in opens if _covers(each, when_ns)),
            key=lambda service: (service not in self._with_cluster_address, service),
            default=None,
        )

    def put_service(self, new: Service, at_ns: int) -> set[Door]:
        """Open and close doors as the service now says; gives those that opened."""
        old = self.services.get(new.uid)
        self.services[new.uid] = new
        name = service_name(new)
        if new.cluster_addresses:
            self._with_cluster_address.add(name)
        else:
            self._with_cluster_address.discard(name)
        from_ns = self._since(new, old, at_ns)
        return self._swap(self._fronts, name, new.uid, _fronts(old), _fronts(new), (from_ns, at_ns))

    def drop_service(self, uid: str, at_ns: int) -> None:
        """Close every door of a service that is gone."""
        old = self.services.pop(uid, None)
        if old is not None:
            self._with_cluster_address.discard(service_name(old))
            self._swap(self._fronts, "", uid, _fronts(old), set(), (at_ns, at_ns))

    def put_slice(self, new: EndpointSlice, at_ns: int) -> set[Door]:
        """Open and close doors as the slice now lists pods; gives those that opened."""
        old = self.slices.get(new.uid)
        self.slices[new.uid] = new
        if old is not None and old.service != new.service:
            self.drop_slice(new.uid, at_ns)
            return self.put_slice(new, at_ns)
        span = (self._since(new, old, at_ns) - _WRITTEN_LATE_NS, at_ns)
        return self._swap(self._backs, new.service or "", new.uid, _backs(old), _backs(new), span)

    def drop_slice(self, uid: str, at_ns: int) -> None:
        """Close every door of a slice that is gone."""
        old = self.slices.pop(uid, None)
        self._swap(self._backs, "", uid, _backs(old), set(), (at_ns, at_ns))

    def expire(self, before_ns: int) -> None:
        """Forget doors that were closed before then."""
        while self._closed and self._closed[0][0] < before_ns:
            _, table, door = self._closed.popleft()
            kept = [each for each in table.get(door, ()) if each.to_ns >= before_ns]
            if kept:
                table[door] = kept
            else:
                table.pop(door, None)

    def _since(
        self,
        new: Service | EndpointSlice,
        old: Service | EndpointSlice | None,
        at_ns: int,
    ) -> int:
        if old is not None:
            return at_ns
        return -FOREVER_NS if self._always else new.started_ns

    def _swap(
        self,
        table: dict[Door, list[_Open]],
        service: str,
        source: str,
        old: set[Door],
        new: set[Door],
        span_ns: tuple[int, int],
    ) -> set[Door]:
        from_ns, at_ns = span_ns
        for door in old - new:
            for each in table.get(door, ()):
                if each.source == source and each.to_ns == FOREVER_NS:
                    each.to_ns = max(at_ns, each.from_ns)
                    self._closed.append((each.to_ns, table, door))
        opened = new - old
        for door in opened:
            table.setdefault(door, []).append(_Open(service, source, from_ns))
        return opened


def service_name(service: Service) -> str:
    """Name a service as flows do: "namespace/name"."""
    return f"{service.namespace}/{service.name}"


def _covers(each: _Open, when_ns: int) -> bool:
    return each.from_ns <= when_ns < each.to_ns


def _fronts(service: Service | None) -> set[Door]:
    if service is None:
        return set()
    doors = {
        (address, port.proto, port.port) for address in service.addresses for port in service.ports
    }
    doors.update((ANY_NODE, port.proto, port.node_port) for port in service.ports if port.node_port)
    return doors


def _backs(each: EndpointSlice | None) -> set[Door]:
    if each is None or each.service is None:
        return set()
    return {(address, proto, port) for address in each.addresses for proto, port in each.ports}
