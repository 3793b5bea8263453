"""
Which service was dialled, and the dials for which none is known yet.

A dial that led to no service is remembered for a while: the service, the slice or the node may be
told later, and then the edges that dialled it are completed.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator

from ctk.kube.owners import Owners
from ctk.kube.service_ports import ANY_NODE, WRITTEN_LATE_NS, ServicePorts, ServiceTarget
from ctk.model import Endpoint, Via
from ctk.model.history import ServiceFound

_MOST = 20_000  # dials remembered


class UnresolvedDials:
    """What was dialled, and led to no service that was known then."""

    def __init__(self, service_ports: ServicePorts, owners: Owners) -> None:
        self._service_ports = service_ports
        self._owners = owners
        # By address: endpoint, protocol and port, with when it was first dialled.
        self._dials: OrderedDict[str, dict[tuple[Endpoint, str, int], int]] = OrderedDict()
        self._count = 0

    def service(
        self, dialled: Endpoint, proto: str, port: int, when_ns: int
    ) -> tuple[str, Via] | None:
        """The service that was dialled, and whether by an address of its own or by a pod's."""
        address, kind, ports = dialled.address, dialled.kind, self._service_ports
        service = ports.of_own_address(address, proto, port, when_ns)
        if service is None and kind == "node":
            service = ports.of_own_address(ANY_NODE, proto, port, when_ns)
        if service is not None:
            return service, "address"
        # A pod that isn't watched (`--scope node`) is unknown, but its slice names the service.
        if kind in ("pod", "unknown"):

            def had_it(told_ns: int) -> bool:
                owned = self._owners.at(address, told_ns)
                if owned is None:
                    return (
                        dialled.uid is None
                        and when_ns >= told_ns - WRITTEN_LATE_NS
                        and not self._owners.owned_between(address, when_ns, told_ns)
                    )
                # A slice may be told before the pod that it lists, which has the address by then.
                return owned.endpoint.uid == dialled.uid and self._owners.is_sure(owned, told_ns)

            service = ports.of_pod_address(address, proto, port, when_ns, had_it)
            if service is not None:
                return service, "endpoint"
        return None

    def remember(self, dialled: Endpoint, proto: str, port: int, when_ns: int) -> None:
        """Keep a dial that led to no service; past a number the oldest are forgotten."""
        dials = self._dials.setdefault(dialled.address, {})
        key = (dialled, proto, port)
        if key not in dials:
            dials[key] = when_ns
            self._count += 1
        while self._count > _MOST:
            _, oldest = self._dials.popitem(last=False)
            self._count -= len(oldest)

    def rename(self, dialled: Endpoint, now: Endpoint) -> None:
        """What was dialled is not who was named, and stands under another endpoint in the file."""
        dials = self._dials.get(dialled.address, {})
        for key in [key for key in dials if key[0] is dialled]:
            dials[now, key[1], key[2]] = dials.pop(key)

    def resolve(self, targets: Iterable[ServiceTarget]) -> Iterator[ServiceFound]:
        """These lead to a service now: give those that were dialled before it was known."""
        addresses = {target[0] for target in targets}
        yield from self._resolve(list(self._dials) if ANY_NODE in addresses else addresses)

    def resolve_all(self) -> Iterator[ServiceFound]:
        """All pods are told: whose an address was when a slice listed it may be sure now."""
        yield from self._resolve(list(self._dials))

    def _resolve(self, addresses: Iterable[str]) -> Iterator[ServiceFound]:
        for address in addresses:
            for dialled in {key[0] for key in self._dials.get(address, ())}:
                yield from self.completed(dialled)

    def completed(self, dialled: Endpoint) -> Iterator[ServiceFound]:
        """More is known of what was dialled: give the services that it led to."""
        dials = self._dials.get(dialled.address, {})
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
            self._dials.pop(dialled.address, None)

    def dialled_earlier(self, dialled: Endpoint, known: Endpoint) -> Iterator[ServiceFound]:
        """
        What was not known for what it is is a ClusterIP: give what its ports led to.

        Which of them were dialled only the file knows. A ClusterIP is one service's for all its
        life; other addresses of a service may have been somebody else's before.
        """
        for proto, port in self._service_ports.of_cluster_address(known.address, known.uid or ""):
            found = self.service(known, proto, port, dialled.valid_from_ns)
            if found is not None:
                yield ServiceFound(dialled, proto, port, *found)
