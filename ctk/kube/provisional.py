"""
Somebody to stand for the owner of an address that nobody is known to own.

A guess is this node (loopback and its own interfaces), external, or unknown; and while pods are
lost, the pod that had the address before. When its owner turns up, the guess is completed.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from socket import AF_INET6, inet_pton

from ctk.kube.identity import same
from ctk.kube.objects import Node
from ctk.model import Completed, Endpoint
from ctk.timespan import FOREVER_NS
from ctk.timespan import SECOND as _SECOND_NS

# An unknown address is asked about again after this long: an owner that comes meanwhile completes
# what is not older than itself.
_GOOD_NS = 60 * _SECOND_NS
_GOOD_STALE_NS = 600 * _SECOND_NS
_MOST = 2**14  # addresses: external ones, mostly
# The first parts of IPv4 addresses of which some or all are not public.
_NOT_ALL_PUBLIC = frozenset(
    ("0", "10", "100", "127", "169", "172", "192", "198", "203", *map(str, range(224, 256)))
)


class ProvisionalEndpoints:
    """
    The guesses about each address, the latest last.

    `kube` is False where nothing more will be learned: a guess holds for ever then.
    """

    def __init__(self, node_name: str, local_addresses: Iterable[str], *, kube: bool) -> None:
        self._node_name = node_name
        self._local = frozenset(local_addresses)
        self._kube = kube
        self._this_node: Node | None = None
        self._of: OrderedDict[str, list[Endpoint]] = OrderedDict()  # least asked first
        self._near: set[str | bytes] = set()
        # Of every node: by version and bits of an address in a network, the networks without them.
        self._pod_cidrs: dict[tuple[int, int], set[int]] = {}
        self.synced = False  # everything that owns addresses was listed once
        self.stale = False  # and something is lost now
        self.doubt_ns = FOREVER_NS  # since when an address may have passed to another pod unseen
        self.pod_started_ns = 0  # the last start of a pod that has no address yet

    def ask(self, address: str, when_ns: int, last_owner: Endpoint | None) -> Endpoint:
        """Who it may be; `last_owner` is the pod that had the address when pods were lost."""
        guesses = self._of.get(address)
        if guesses is None:
            guesses = self._of[address] = []
            if len(self._of) > _MOST:
                self._of.popitem(last=False)
        else:
            self._of.move_to_end(address)
            for guess in reversed(guesses):
                is_pod = guess.kind == "pod"
                if is_pod == (last_owner is not None) and self._holds(guess, when_ns):
                    return guess
            if self.synced and not self.stale:
                # Those that are older will not be completed any more.
                oldest_ns = when_ns - _GOOD_STALE_NS
                guesses[:] = [each for each in guesses if each.valid_from_ns > oldest_ns]
        if last_owner is None:
            guess = self._stranger(address, when_ns)
        else:
            guess = replace(last_owner, valid_from_ns=when_ns)
        guesses.append(guess)
        return guess

    def good_until_ns(self, endpoint: Endpoint) -> int:
        """Up to when an answer holds if nothing changes; for ever unless it is a guess."""
        doubtful = endpoint.kind == "pod" and endpoint.valid_from_ns >= self.doubt_ns
        if not self._kube or not (doubtful or endpoint.kind == "unknown"):
            return FOREVER_NS
        sure = self.synced and not self.stale
        return endpoint.valid_from_ns + (_GOOD_NS if sure else _GOOD_STALE_NS)

    def settle(self, address: str, settled: Callable[[Endpoint], bool]) -> None:
        """Forget the guesses about an address that `settled` takes."""
        guesses = self._of.get(address)
        if guesses is None:
            return
        left = [guess for guess in guesses if not settled(guess)]
        if left:
            self._of[address] = left
        else:
            del self._of[address]

    def doubted(self) -> list[str]:
        """The addresses that were asked about while it was in doubt which pod has them."""
        return [
            address
            for address, guesses in self._of.items()
            if any(guess.kind == "pod" for guess in guesses)
        ]

    def again(self) -> Iterator[Completed]:
        """More is known: what was unknown may be external, and this node may have labels."""
        for address, guesses in self._of.items():
            for i, guess in enumerate(guesses):
                if guess.kind in ("unknown", "node"):
                    better = self._stranger(address, guess.valid_from_ns)
                    if not same(guess, better):
                        guesses[i] = better
                        yield Completed(guess, better)

    def set_local(
        self, addresses: frozenset[str], owned: Callable[[str], bool]
    ) -> Iterator[Completed]:
        """This node has these addresses now; `owned` says which have another owner."""
        lost, self._local = self._local - addresses, addresses
        for address in lost:
            guesses = self._of.get(address, [])
            guesses[:] = [guess for guess in guesses if guess.kind != "node"]
        for address in addresses:
            guesses = self._of.get(address, [])
            for i, guess in enumerate(guesses):
                if guess.kind in ("unknown", "external") and not owned(address):
                    guesses[i] = self._stranger(address, guess.valid_from_ns)
                    yield Completed(guess, guesses[i])

    def learn_node(self, node: Node) -> Iterator[Completed]:
        """A node says which addresses its pods have, and what this node's labels are."""
        for cidr in map(ip_network, node.pod_cidrs):
            bits = cidr.max_prefixlen - cidr.prefixlen
            networks = self._pod_cidrs.setdefault((cidr.version, bits), set())
            networks.add(int(cidr.network_address) >> bits)
        if node.name == self._node_name:
            self._this_node = node
            yield from self.again()

    def learn_near(self, addresses: Iterable[str]) -> None:
        """The cluster has these addresses: a private one near them is not external."""
        self._near.update(map(_neighbourhood, addresses))

    def _holds(self, guess: Endpoint, when_ns: int) -> bool:
        if guess.kind in ("external", "node") or not self._kube:
            return True
        if guess.valid_from_ns < self.pod_started_ns <= when_ns:
            return False  # it may be that pod's traffic: its address is told later
        return guess.valid_from_ns <= when_ns < self.good_until_ns(guess)

    def _stranger(self, address: str, when_ns: int) -> Endpoint:
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

    def _is_near(self, address: IPv4Address | IPv6Address) -> bool:
        """Whether the cluster has such addresses."""
        return _neighbourhood(str(address)) in self._near or any(
            address.version == version and int(address) >> bits in networks
            for (version, bits), networks in self._pod_cidrs.items()
        )


def _may_be_private(address: str) -> bool:
    """A quick look that spares most public IPv4 addresses the parsing, 15 us each."""
    first, dot, _ = address.partition(".")
    return not dot or first in _NOT_ALL_PUBLIC


def _neighbourhood(address: str) -> str | bytes:
    """The /16 of an IPv4 address, the /64 of an IPv6 one."""
    if ":" in address:
        return inet_pton(AF_INET6, address)[:8]
    return address[: address.index(".", address.index(".") + 1)]
