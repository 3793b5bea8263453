"""
Endpoints for addresses whose owner is not known, or not for sure.

A provisional endpoint is this node (loopback and its own interfaces), external, or unknown; and
where an address may have passed on untold, the pod that had it before. When more is known, it is
completed in place.
"""

import itertools
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from socket import AF_INET6, inet_pton

from ctk.kube.identity import same
from ctk.kube.objects import Node
from ctk.model import Endpoint, Kind
from ctk.model.addresses import address_text, packed
from ctk.model.history import Closed, Completed, HistoryChange, KnownUnknown
from ctk.timespan import FOREVER_NS, SECOND

# An unknown address is asked about again after this long: an owner that comes meanwhile completes
# what is not older than itself.
_GOOD_NS = 60 * SECOND
_GOOD_STALE_NS = 600 * SECOND
_MOST = 2**14  # addresses: external ones, mostly
_MOST_EACH = 128
# The first parts of IPv4 addresses of which some or all are not public.
_NOT_ALL_PUBLIC = frozenset(
    ("0", "10", "100", "127", "169", "172", "192", "198", "203", *map(str, range(224, 256)))
)
_NOT_ALL_PUBLIC_BYTES = frozenset(map(int, _NOT_ALL_PUBLIC))
# Networks (/24 and /64) of which some addresses are public, and some are not.
_MIXED = frozenset((packed("192.0.0.0")[:3], packed("::")[:8], packed("2001:1::")[:8]))
_MOST_KINDS = 2**16  # networks of which it is remembered what an address of theirs is


@dataclass(slots=True, eq=False)
class Provisional:
    """An endpoint that was given as an answer for times from its start up to `asked_ns`."""

    endpoint: Endpoint
    until_ns: int  # from then on another is given
    asked_ns: int
    earlier: bool = False  # an earlier recording gave it
    decided: bool = False  # and decided, with what that knew
    open: bool = False  # the file says that whose it is is to be decided

    def withdraw(self) -> Iterator[HistoryChange]:
        """It is not who was named, and may still turn out to be another; it is given no more."""
        named, self.endpoint = self.endpoint, unknown(self.endpoint)
        yield Completed(named, self.endpoint)
        yield from self.leave()

    def leave(self) -> Iterator[HistoryChange]:
        """It is given no more, and left open: the file is to know for which times it was given."""
        self.until_ns = self.asked_ns + 1
        yield from self.leave_open()

    def leave_open(self) -> Iterator[HistoryChange]:
        """
        Leave it to the next recording to say whose it is, if this one is killed before.

        That one recalls what this one was told, in the same order, so it decides as this one would
        have. It needs to know for which times this was given: `asked_ns` is of the last question,
        and an answer holds to the end of its second (`ProvisionalEndpoints.good_until_ns`).
        """
        self.open = True
        yield Closed(self.endpoint, next_second_ns(self.asked_ns) - 1, inferred=True)

    def decide(self) -> Iterator[HistoryChange]:
        """It stays unknown: so it is for all recordings."""
        if self.open:
            self.open = False
            yield Closed(self.endpoint, next_second_ns(self.asked_ns))


class ProvisionalEndpoints:
    """
    The provisional endpoints of each address, the latest last.

    `kube` is False where nothing more will be learned: one holds for ever then.
    """

    def __init__(
        self,
        history: list[HistoryChange],
        node_name: str,
        local_addresses: Iterable[str],
        started_ns: int,
        *,
        kube: bool,
    ) -> None:
        self._history = history
        self._node_name = node_name
        self._local = frozenset(local_addresses)
        self._local_packed = frozenset(map(packed, self._local))
        self._kinds: dict[bytes, Kind] = {}  # of addresses by their /24 or /64
        self._started_ns = started_ns
        self._kube = kube
        self._this_node: Node | None = None
        self._of: OrderedDict[str, list[Provisional]] = OrderedDict()  # least asked first
        self._asked_ns = 0  # the latest time asked about
        self._near: set[str | bytes] = set()
        # Of every node: by version and bits of an address in a network, the networks without them.
        self._pod_cidrs: dict[tuple[int, int], set[int]] = {}
        self.synced = False  # everything that owns addresses was listed once
        self.stale = False  # and something is lost now
        self.awaiting_pods = kube  # their first list is on its way
        self.pod_started_ns = 0  # the last start of a pod that has no address yet
        self._awaited_until_ns = 0  # how long one may take to get it
        self.pods_lost = False

    def ask(self, address: str, when_ns: int, last_owner: Endpoint | None) -> Endpoint:
        """Who it may be; `last_owner` is the pod that surely had the address before."""
        self._asked_ns = max(self._asked_ns, when_ns)
        given = self._of.get(address)
        if given is None:
            # A scan asks about each address once: this is a tenth of what such an event costs.
            endpoint = self._first(address, when_ns, last_owner)
            self._of[address] = [self._given(endpoint, when_ns, is_new=True)]
            if len(self._of) > _MOST:
                self._of.popitem(last=False)
            return endpoint
        self._of.move_to_end(address)
        for each in reversed(given):
            is_owner = each.endpoint.kind == "pod"
            fits = not is_owner if last_owner is None else same(each.endpoint, last_owner)
            if fits and self._holds(each, when_ns):
                each.asked_ns = max(each.asked_ns, when_ns)
                return each.endpoint
        if self.synced and not self.stale:
            # Those that are older will not be completed any more.
            oldest_ns = when_ns - _GOOD_STALE_NS
            given[:] = [each for each in given if each.asked_ns > oldest_ns]
        endpoint = self._first(address, when_ns, last_owner)
        begins = (each.endpoint.valid_from_ns for each in given)
        first_ns = min((ns for ns in begins if ns >= self._started_ns), default=when_ns)
        is_new = when_ns - first_ns < _GOOD_NS
        given.append(self._given(endpoint, when_ns, is_new=is_new))
        # One a second for a minute, then one a minute: those that are left out come no more.
        del given[:-_MOST_EACH]
        return endpoint

    def _given(self, endpoint: Endpoint, when_ns: int, *, is_new: bool) -> Provisional:
        given = Provisional(endpoint, self._until_ns(endpoint, is_new=is_new), when_ns)
        is_short = given.until_ns == next_second_ns(when_ns)
        if endpoint.kind == "unknown" and is_short and when_ns >= self._started_ns:
            # A pod may have it that is told later, and for a second it is one pod's or in doubt.
            # Of the time before, the file does not keep up to when the recording before was sure.
            self._history.extend(given.leave_open())
        return given

    def _first(self, address: str, when_ns: int, last_owner: Endpoint | None) -> Endpoint:
        if last_owner is None:
            return self.stranger(address, when_ns)
        return replace(last_owner, valid_from_ns=when_ns)

    def recall(self, unknown: Iterable[KnownUnknown]) -> None:
        """Take in those of earlier recordings: they may be completed, and are given no more."""
        for endpoint, asked_ns, undecided in unknown:
            given = self._of.setdefault(endpoint.address, [])
            decided = not undecided
            earlier = Provisional(endpoint, asked_ns, asked_ns, earlier=True, decided=decided)
            earlier.open = undecided
            given.append(earlier)
        while len(self._of) > _MOST:
            self._of.popitem(last=False)

    def good_until_ns(self, endpoint: Endpoint) -> int:
        """
        Up to when an answer holds if nothing changes.

        One that may have to be another from a time on that is told later holds to the end of the
        second, so that it is known for which times it was given.
        """
        for each in (
            self._of.get(endpoint.address, ()) if endpoint.kind in ("unknown", "pod") else ()
        ):
            if each.endpoint is endpoint and each.until_ns != FOREVER_NS:
                return min(each.until_ns, next_second_ns(each.asked_ns))
        return FOREVER_NS

    def settle(self, address: str, settled: Callable[[Provisional], bool]) -> None:
        """Forget the provisional endpoints of an address that `settled` takes."""
        given = self._of.get(address)
        if given is None:
            return
        left = [each for each in given if not settled(each)]
        if left:
            self._of[address] = left
        else:
            del self._of[address]

    def decide(self, *, earlier: bool) -> Iterator[HistoryChange]:
        """Nothing more is told: what is left stays unknown, where that is known; `earlier`, too."""
        for each in itertools.chain.from_iterable(self._of.values()):
            if earlier or not each.earlier:
                yield from each.decide()

    def addresses(self) -> list[str]:
        """The addresses that were asked about while their owner was not known for sure."""
        return list(self._of)

    def reconsider(self) -> Iterator[Completed]:
        """More is known: what was unknown may be external, and this node may have labels."""
        self._kinds.clear()
        for address in self._of:
            yield from self._reconsider(address, ("unknown", "node"))

    def recover_pods(self) -> Iterator[HistoryChange]:
        """
        Pods are watched again: what was given meanwhile is given no more.

        One that stood for more than a second is unknown till it is settled: the next recording
        takes one that is named for one of a second.
        """
        for each in itertools.chain.from_iterable(self._of.values()):
            if each.endpoint.kind == "pod":
                next_ns = next_second_ns(each.endpoint.valid_from_ns)
                each.until_ns = min(each.until_ns, next_ns)
                if each.asked_ns >= next_ns:
                    yield from each.withdraw()

    def await_pod(self, at_ns: int) -> None:
        """A pod that has no address yet was seen: it may use one before it is told."""
        self._awaited_until_ns = max(self._awaited_until_ns, at_ns + _GOOD_NS)

    def set_local(
        self, addresses: frozenset[str], owned: Callable[[str], bool]
    ) -> Iterator[Completed]:
        """This node has these addresses now; `owned` says which have another owner."""
        lost, self._local = self._local - addresses, addresses
        self._local_packed = frozenset(map(packed, addresses))
        for address in lost:
            for each in self._of.get(address, ()):
                if each.endpoint.kind == "node" and not ip_address(address).is_loopback:
                    each.until_ns = min(each.until_ns, self._asked_ns + 1)
        for address in addresses:
            if address in self._of and not owned(address):
                yield from self._reconsider(address, ("unknown", "external"))

    def learn_node(self, node: Node) -> Iterator[Completed]:
        """A node says which addresses its pods have, and what this node's labels are."""
        for cidr in map(ip_network, node.pod_cidrs):
            bits = cidr.max_prefixlen - cidr.prefixlen
            networks = self._pod_cidrs.setdefault((cidr.version, bits), set())
            networks.add(int(cidr.network_address) >> bits)
        self._kinds.clear()
        if node.name == self._node_name:
            self._this_node = node
            yield from self.reconsider()

    def learn_near(self, addresses: Iterable[str]) -> None:
        """The cluster has these addresses: a private one near them is not external."""
        before = len(self._near)
        self._near.update(map(_neighbourhood, addresses))
        if len(self._near) != before:
            self._kinds.clear()

    def stranger(self, address: str, when_ns: int) -> Endpoint:
        """What can be said of an address by itself."""
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
        outside = parsed is None or parsed.is_global or (self.synced and not self._is_near(parsed))
        return Endpoint(
            address=address, kind="external" if outside else "unknown", valid_from_ns=when_ns
        )

    def stranger_kind(self, address: bytes) -> Kind | None:
        """
        Say which kind of stranger has an address that no object of the cluster has.

        None for this node's own, and for an unknown one while not all owners are known.
        """
        if address in self._local_packed:
            return None
        # A flood asks about each address: most public ones need no more than this.
        if len(address) == 4:
            if address[0] not in _NOT_ALL_PUBLIC_BYTES:
                return "external"
            network = address[:3]
        else:
            if address[0] >> 5 == 1 and address[1] not in (0x01, 0x02, 0xFF):
                return "external"  # of 2000::/3, where 2001, 2002 and 3fff have exceptions
            network = address[:8]
        kind = self._kinds.get(network)
        if kind is None:
            kind = self.stranger(address_text(address), 0).kind
            if network not in _MIXED and not self._has_narrow_cidrs(len(address)):
                if len(self._kinds) >= _MOST_KINDS:
                    self._kinds.clear()
                self._kinds[network] = kind
        is_open = self._kube and (not self.synced or self.stale or self.pods_lost)
        return None if kind == "node" or (kind == "unknown" and is_open) else kind

    def _has_narrow_cidrs(self, size: int) -> bool:
        """Whether some pods' networks are narrower than those by which kinds are remembered."""
        wanted = (4, 8) if size == 4 else (6, 64)
        return any(version == wanted[0] and bits < wanted[1] for version, bits in self._pod_cidrs)

    def _reconsider(self, address: str, kinds: tuple[str, ...]) -> Iterator[Completed]:
        for each in self._of[address]:
            old = each.endpoint
            was_local = old.kind == "node" and each.until_ns != FOREVER_NS
            if old.kind in kinds and not was_local:
                new = self.stranger(address, old.valid_from_ns)
                if not same(old, new):
                    each.endpoint, each.until_ns = new, self._until_ns(new, is_new=True)
                    each.open = False
                    yield Completed(old, new)

    def _until_ns(self, endpoint: Endpoint, *, is_new: bool) -> int:
        """
        From when on another endpoint is to stand for the address.

        `is_new`: nobody asked about the address before, or not for long. One that was unknown for
        a minute is likely to stay so, and each endpoint is a row of the file.
        """
        if not self._kube or endpoint.kind in ("external", "node"):
            return FOREVER_NS
        from_ns = endpoint.valid_from_ns
        awaited = is_new and from_ns < self._awaited_until_ns
        if not self.pods_lost and (endpoint.kind == "pod" or awaited):
            # Another pod may have the address soon, and have had it since any second.
            return next_second_ns(from_ns)
        if endpoint.kind == "pod" or (self.synced and not self.stale):
            return from_ns + _GOOD_NS
        if self.awaiting_pods:
            # The owner that the list tells may have started in any second of the last ones.
            recent = from_ns >= self._started_ns - _GOOD_NS
            return next_second_ns(from_ns) if recent else from_ns + _GOOD_NS
        return from_ns + _GOOD_STALE_NS

    def _holds(self, given: Provisional, when_ns: int) -> bool:
        if when_ns >= given.until_ns:
            return False
        if given.endpoint.kind in ("external", "node") or not self._kube:
            return True
        from_ns = given.endpoint.valid_from_ns
        if from_ns < self.pod_started_ns <= when_ns:
            return False  # it may be that pod's traffic: its address is told later
        return from_ns <= when_ns

    def _is_near(self, address: IPv4Address | IPv6Address) -> bool:
        """Whether the cluster has such addresses."""
        return _neighbourhood(str(address)) in self._near or any(
            address.version == version and int(address) >> bits in networks
            for (version, bits), networks in self._pod_cidrs.items()
        )


def unknown(endpoint: Endpoint) -> Endpoint:
    """Stand for an endpoint that is not the one that was named."""
    return Endpoint(address=endpoint.address, kind="unknown", valid_from_ns=endpoint.valid_from_ns)


def next_second_ns(when_ns: int) -> int:
    """When the second of a time is over."""
    return (when_ns // SECOND + 1) * SECOND


def _may_be_private(address: str) -> bool:
    """A quick look that spares most public IPv4 addresses the parsing, 15 us each."""
    first, dot, _ = address.partition(".")
    return not dot or first in _NOT_ALL_PUBLIC


def _neighbourhood(address: str) -> str | bytes:
    """The /16 of an IPv4 address, the /64 of an IPv6 one."""
    if ":" in address:
        return inet_pton(AF_INET6, address)[:8]
    return address[: address.index(".", address.index(".") + 1)]
