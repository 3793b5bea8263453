"""
Which service was dialled, by whichever door.

A dial that led to no service is remembered for a while: the service, the slice or the node may be
told later, and then the edges that dialled it are completed.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator

from ctk.kube.owners import Owners
from ctk.kube.service_ports import ANY_NODE, Door, ServicePorts
from ctk.model import Endpoint, ServiceFound, Via

_MOST = 20_000  # dials remembered


class UnresolvedDials:
    """What was dialled, and led to no service that was known then."""

    def __init__(self, doors: ServicePorts, owners: Owners) -> None:
        self._doors = doors
        self._owners = owners
        # By address: endpoint, protocol and port, with when it was first dialled.
        self._unserved: OrderedDict[str, dict[tuple[Endpoint, str, int], int]] = OrderedDict()
        self._count = 0

    def service(
        self, dialled: Endpoint, proto: str, port: int, when_ns: int
    ) -> tuple[str, Via] | None:
        """The service that was dialled, and whether by an address of its own or by a pod's."""
        address, kind = dialled.address, dialled.kind
        service = self._doors.front(address, proto, port, when_ns)
        if service is None and kind == "node":
            service = self._doors.front(ANY_NODE, proto, port, when_ns)
        if service is not None:
            return service, "address"
        # A pod that isn't watched (`--scope node`) is unknown, but its slice names the service.
        if kind in ("pod", "unknown"):
            service = self._doors.back(address, proto, port, when_ns)
            if service is not None:
                return service, "endpoint"
        return None

    def remember(self, dialled: Endpoint, proto: str, port: int, when_ns: int) -> None:
        """This led to no service."""
        dials = self._unserved.setdefault(dialled.address, {})
        key = (dialled, proto, port)
        if key not in dials:
            dials[key] = when_ns
            self._count += 1
        while self._count > _MOST:
            _, oldest = self._unserved.popitem(last=False)
            self._count -= len(oldest)

    def opened(self, doors: Iterable[Door]) -> Iterator[ServiceFound]:
        """ServicePorts opened: some may have been dialled before that was known."""
        addresses = {door[0] for door in doors}
        for address in list(self._unserved) if ANY_NODE in addresses else addresses:
            for dialled in {key[0] for key in self._unserved.get(address, ())}:
                yield from self.completed(dialled)

    def completed(self, dialled: Endpoint) -> Iterator[ServiceFound]:
        """More is known of what was dialled: see whether it led to a service."""
        dials = self._unserved.get(dialled.address, {})
        owned = self._owners.at(dialled.address, dialled.valid_from_ns)
        known = dialled if owned is None else owned.endpoint
        for key in [key for key in dials if key[0] is dialled]:
            _, proto, port = key
            found = self.service(known, proto, port, dials[key])
            if found is not None:
                del dials[key]
                self._count -= 1
                yield ServiceFound(dialled, proto, port, *found)
        if not dials:
            self._unserved.pop(dialled.address, None)
