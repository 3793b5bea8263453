"""The spans of every address: in each of them it was an owner's."""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence

from ctk.kube.ownership import Ownership
from ctk.model import Endpoint, Kind
from ctk.model.addresses import packed
from ctk.timespan import FOREVER_NS

# Who wins where two own an address at a time: a load balancer's address may be a node's own.
RANK: Mapping[Kind, int] = {"node": 0, "pod": 1, "service": 2}


class Spans:
    """
    The table of them, by address.

    Who owns what, and when, is `Owners`' to say: here they are kept, and found again.
    """

    def __init__(self) -> None:
        self._of: dict[str, list[Ownership]] = {}
        self.packed: set[bytes] = set()  # the addresses that have any, as the kernel writes them
        self._ended: deque[tuple[int, str]] = deque()

    def __iter__(self) -> Iterator[Ownership]:
        for spans in self._of.values():
            yield from spans

    def of(self, address: str) -> Sequence[Ownership]:
        """All spans of an address."""
        return self._of.get(address, ())

    def of_kind(self, endpoint: Endpoint) -> list[Ownership]:
        """The spans of an endpoint's address that owners of its kind have."""
        return [each for each in self.of(endpoint.address) if each.endpoint.kind == endpoint.kind]

    def at(self, address: str, when_ns: int) -> Ownership | None:
        """The span that a time falls in; of the highest rank where several do."""
        for owned in self._of.get(address, ()):
            if owned.from_ns <= when_ns < owned.to_ns:
                return owned
        return None

    def open(self, address: str, uid: str | None) -> Ownership | None:
        """The span of an owner that has no end yet."""
        for owned in self._of.get(address, ()):
            if owned.endpoint.uid == uid and owned.to_ns == FOREVER_NS:
                return owned
        return None

    def insert(self, owned: Ownership) -> None:
        address = owned.endpoint.address
        if address not in self._of:
            self.packed.add(packed(address))
        spans = self._of.setdefault(address, [])
        spans.append(owned)
        spans.sort(key=_rank)

    def expires(self, owned: Ownership) -> None:
        """A span has its end: it may be forgotten some time after that."""
        self._ended.append((owned.to_ns, owned.endpoint.address))

    def expire(self, before_ns: int) -> None:
        """Forget those that ended before then."""
        while self._ended and self._ended[0][0] < before_ns:
            _, address = self._ended.popleft()
            kept = [each for each in self.of(address) if each.to_ns >= before_ns]
            if kept:
                self._of[address] = kept
            else:
                self._of.pop(address, None)
                self.packed.discard(packed(address))


def _rank(owned: Ownership) -> int:
    return RANK[owned.endpoint.kind]
