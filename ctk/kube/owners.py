"""
Whose an address was, by time.

Pods pass addresses on, so each address has a row of spans; of one kind, none of them overlap.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace

from ctk.model import Closed, Endpoint, HistoryChange, Kind
from ctk.timespan import FOREVER_NS
from ctk.timespan import SECOND as _SECOND_NS

# Clocks of nodes and API server differ a little: a pod's first traffic may seem older than the pod.
_CLOCKS_DIFFER_NS = 5 * _SECOND_NS
# Who wins where two own an address at a time: a load balancer's address may be a node's own.
_RANK: Mapping[Kind, int] = {"node": 0, "pod": 1, "service": 2}


@dataclass(slots=True, eq=False)
class Owned:
    """The span in which an address was an endpoint's."""

    endpoint: Endpoint
    from_ns: int
    to_ns: int = FOREVER_NS


class Owners:
    """
    The spans of every address; what ends is told in `history`.

    `always`: what is known comes from a file, so the first owner of an address always had it.
    """

    def __init__(self, history: list[HistoryChange], *, always: bool) -> None:
        self._history = history
        self._before_ns = FOREVER_NS if always else _CLOCKS_DIFFER_NS
        self._spans: dict[str, list[Owned]] = {}
        self._ended: deque[tuple[int, str]] = deque()

    def at(self, address: str, when_ns: int) -> Owned | None:
        """Whose an address was at that time."""
        for owned in self._spans.get(address, ()):
            if owned.from_ns <= when_ns < owned.to_ns:
                return owned
        return None

    def has_owner(self, address: str) -> bool:
        """Whether an address is somebody's now."""
        return any(each.to_ns == FOREVER_NS for each in self._spans.get(address, ()))

    def give(self, endpoint: Endpoint, came_ns: int | None, at_ns: int) -> None:
        """
        Give an address to an endpoint from its start on.

        Another pod or node that still has it loses it then, or when the newcomer was first seen
        (`came_ns`) if that was in the second of its start: the API's times have whole seconds.
        Services may share an address.
        """
        rivals, from_ns = self._rivals(endpoint), endpoint.valid_from_ns
        if endpoint.kind == "service":
            self._insert(Owned(endpoint, from_ns if rivals else from_ns - self._before_ns))
            return
        started_ns = from_ns
        if came_ns is not None and from_ns <= came_ns < from_ns + _SECOND_NS:
            started_ns = came_ns
        for rival in rivals:
            if rival.to_ns == FOREVER_NS:
                # One that started later than this one had the address until just now.
                later = rival.endpoint.valid_from_ns >= endpoint.valid_from_ns
                self._close(rival, at_ns if later else started_ns)
            from_ns = max(from_ns, rival.to_ns)
        before_ns = 0 if rivals else self._before_ns
        self._insert(Owned(_since(endpoint, from_ns), from_ns - before_ns))

    def give_past(self, endpoint: Endpoint, ended_ns: int) -> bool:
        """Let an endpoint have had an address for what others leave of its time, if anything."""
        from_ns, to_ns = endpoint.valid_from_ns, ended_ns
        for rival in self._rivals(endpoint):
            if rival.endpoint.valid_from_ns > endpoint.valid_from_ns:
                to_ns = min(to_ns, rival.endpoint.valid_from_ns)
            else:
                from_ns = max(from_ns, rival.to_ns)
        if from_ns >= to_ns:
            return False
        owned = Owned(_since(endpoint, from_ns), from_ns)
        self._close(owned, to_ns)
        self._insert(owned)
        return True

    def take(self, address: str, uid: str, at_ns: int) -> None:
        """An address is no longer that owner's, if it still was."""
        owned = self._open(address, uid)
        if owned is not None:
            self._close(owned, at_ns)

    def rename(self, endpoint: Endpoint) -> None:
        """The owner of an address has other labels, say, from now on: another endpoint."""
        owned = self._open(endpoint.address, endpoint.uid)
        if owned is not None:
            self._close(owned, endpoint.valid_from_ns)
            self._insert(Owned(_since(endpoint, owned.to_ns), owned.to_ns))

    def expire(self, before_ns: int) -> None:
        """Forget spans that ended before then."""
        while self._ended and self._ended[0][0] < before_ns:
            _, address = self._ended.popleft()
            kept = [each for each in self._spans.get(address, ()) if each.to_ns >= before_ns]
            if kept:
                self._spans[address] = kept
            else:
                self._spans.pop(address, None)

    def _open(self, address: str, uid: str | None) -> Owned | None:
        for owned in self._spans.get(address, ()):
            if owned.endpoint.uid == uid and owned.to_ns == FOREVER_NS:
                return owned
        return None

    def _rivals(self, endpoint: Endpoint) -> list[Owned]:
        spans = self._spans.get(endpoint.address, ())
        return [each for each in spans if each.endpoint.kind == endpoint.kind]

    def _insert(self, owned: Owned) -> None:
        spans = self._spans.setdefault(owned.endpoint.address, [])
        spans.append(owned)
        spans.sort(key=_rank)

    def _close(self, owned: Owned, at_ns: int) -> None:
        endpoint = owned.endpoint
        owned.to_ns = max(at_ns, endpoint.valid_from_ns)
        self._ended.append((owned.to_ns, endpoint.address))
        self._history.append(Closed(endpoint, owned.to_ns))


def _rank(owned: Owned) -> int:
    return _RANK[owned.endpoint.kind]


def _since(endpoint: Endpoint, from_ns: int) -> Endpoint:
    if endpoint.valid_from_ns == from_ns:
        return endpoint
    return replace(endpoint, valid_from_ns=from_ns)
