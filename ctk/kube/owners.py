"""
Whose an address was, by time.

Pods pass addresses on, so each address has a row of spans; of one kind, none of them overlap.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from ctk.kube.identity import same
from ctk.model import Closed, Endpoint, HistoryChange, Kind, packed
from ctk.timespan import FOREVER_NS, SECOND

# Clocks of nodes and API server differ a little: a pod's first traffic may seem older than the pod.
_SLACK_NS = 5 * SECOND
# A kubelet posts a pod's address this long after the pod got it, at most.
_POSTED_LATE_NS = 5 * SECOND
# A kubelet kills what was deleted by force within this time; only what is slower may have served
# in the very second in which another got its address.
_KILLED_LATE_NS = 2 * SECOND
# A watch may be slow to tell of a pod that got a deleted one's address: the grace is settled later.
_TOLD_LATE_NS = 60 * SECOND
# Who wins where two own an address at a time: a load balancer's address may be a node's own.
_RANK: Mapping[Kind, int] = {"node": 0, "pod": 1, "service": 2}


@dataclass(slots=True, eq=False)
class Ownership:
    """
    The span in which an address was an endpoint's.

    From `sure_until_ns` on the address may have passed to another that is not known yet: since
    its object is deleted, say, though its processes may go on until `to_ns`.
    """

    endpoint: Endpoint
    from_ns: int
    claim: "Claim"
    to_ns: int = FOREVER_NS
    sure_until_ns: int = FOREVER_NS
    gone_ns: int = FOREVER_NS  # its object was gone then, at the latest
    inferred: bool = False  # nobody saw it end
    recalled: bool = False  # known from the file only


class Claim(NamedTuple):
    """
    What is told of how an endpoint got an address. The API's times have whole seconds.

    `came_ns` is when a pod was first seen in the second of its start, without an address yet.
    """

    told_ns: int
    gained_ns: int  # the second from which on the address is no other's
    running_ns: int | None = None  # the second from which on a pod may have used it
    came_ns: int | None = None


class Owners:
    """
    The spans of every address; what ends is told in `history`.

    `always`: what is known comes from a file, so the first owner of an address always had it.
    An owner gets an address a little before its own start (`_SLACK_NS`), unless
    - the start is by this node's clock (a pod of `node_name`),
    - the address had another owner: whatever is that old is the other's, or nobody's,
    - its kind was not watched then: there may have been another that nobody told of.
    """

    def __init__(self, history: list[HistoryChange], node_name: str, *, always: bool) -> None:
        self._history = history
        self._node_name = node_name
        self._always = always
        self._spans: dict[str, list[Ownership]] = {}
        self.packed: set[bytes] = set()  # the addresses of all spans, as the kernel writes them
        self._ended: deque[tuple[int, str]] = deque()
        self._in_grace: dict[Ownership, None] = {}  # over, but for others that may be told
        self._due_ns = FOREVER_NS  # when the first of them is over for good
        self.lost_ns = FOREVER_NS  # since when nothing is heard of pods
        # Since when each kind is watched without a break.
        self.watched_from_ns: dict[Kind, int] = dict.fromkeys(_RANK, FOREVER_NS)

    def at(self, address: str, when_ns: int) -> Ownership | None:
        """Whose an address was at that time."""
        for owned in self._spans.get(address, ()):
            if owned.from_ns <= when_ns < owned.to_ns:
                return owned
        return None

    def is_owned(self, address: str) -> bool:
        """Whether an address is somebody's now."""
        return any(each.to_ns == FOREVER_NS for each in self._spans.get(address, ()))

    def give(self, endpoint: Endpoint, claim: Claim) -> None:
        """
        Give an address to an endpoint from its start on.

        Another pod or node that still has it loses it when the newcomer gained it. Where that is
        known by the second only, and nobody saw it pass on, that second is nobody's.
        Services may share an address.
        """
        rivals, from_ns = self._rivals(endpoint), endpoint.valid_from_ns
        for owned in rivals:
            if owned.endpoint.uid == endpoint.uid and owned in self._in_grace:
                # It lives: the file closed it when a recording ended that no server told anything.
                del self._in_grace[owned]
                owned.to_ns = owned.sure_until_ns = owned.gone_ns = FOREVER_NS
                owned.claim, owned.recalled, owned.inferred = claim, False, False
                if not same(owned.endpoint, endpoint):
                    self.rename(replace(endpoint, valid_from_ns=claim.told_ns))
                return
        if endpoint.kind != "service":
            for rival in rivals:
                # Nothing used it before its first container ran: what is older may be another's.
                used_ns = claim.running_ns or claim.gained_ns
                from_ns = max(from_ns, used_ns, self._displace(rival, claim))
        slack_from_ns = from_ns if rivals else self._slack_from_ns(endpoint, claim.gained_ns)
        self._insert(Ownership(_since(endpoint, from_ns), slack_from_ns, claim))

    def give_past(
        self, endpoint: Endpoint, claim: Claim, ended_ns: int, sure_until_ns: int
    ) -> None:
        """Let an endpoint have had an address for what others leave of its time, if anything."""
        from_ns, to_ns = max(endpoint.valid_from_ns, claim.gained_ns), ended_ns
        for rival in self._rivals(endpoint):
            if rival.claim.gained_ns >= claim.gained_ns:
                to_ns = min(to_ns, rival.claim.gained_ns)
                if rival.claim.gained_ns == claim.gained_ns:
                    # Both got the address in one second: that is nobody's.
                    rival.from_ns = max(rival.from_ns, claim.gained_ns + SECOND)
            elif rival.to_ns == FOREVER_NS and rival.claim.told_ns >= ended_ns:
                # It started first, and got the address when this one had ended.
                rival.from_ns = max(rival.from_ns, ended_ns)
            else:
                from_ns = max(from_ns, self._displace(rival, claim))
        if from_ns >= to_ns:
            return
        owned = Ownership(_since(endpoint, from_ns), from_ns, claim, to_ns)
        self._insert(owned)
        if sure_until_ns >= to_ns:
            self._close(owned, to_ns)
        else:
            self._wait(owned, to_ns, sure_until_ns)

    def take(
        self,
        address: str,
        uid: str,
        to_ns: int,
        *,
        sure_until_ns: int = FOREVER_NS,
        inferred: bool = False,
    ) -> None:
        """
        An address is no longer that owner's, if it still was.

        Between `sure_until_ns` and `to_ns` it is, if no other turns out to have it: in a pod's
        grace, or in the second in which it ended. `inferred`: nobody saw it end.
        """
        owned = self._open(address, uid)
        if owned is None:
            return
        owned.inferred, gone_ns = inferred, sure_until_ns
        if sure_until_ns >= to_ns:
            self._close(owned, to_ns)
            return
        if inferred:
            # Whoever got the address before is in the list that lacks this one.
            known_until_ns = self._sure_until_ns(owned)
            earliest_ns = sure_until_ns - _POSTED_LATE_NS
            sure_until_ns = max(min(sure_until_ns, known_until_ns), earliest_ns)
        owned.recalled, owned.gone_ns = False, gone_ns
        self._wait(owned, to_ns, sure_until_ns)

    def rename(self, endpoint: Endpoint) -> None:
        """The owner of an address has other labels, say, from now on: another endpoint."""
        owned = self._open(endpoint.address, endpoint.uid)
        if owned is not None:
            sure_until_ns = owned.sure_until_ns
            self._close(owned, endpoint.valid_from_ns)
            renamed = Ownership(_since(endpoint, owned.to_ns), owned.to_ns, owned.claim)
            renamed.sure_until_ns = sure_until_ns
            self._insert(renamed)

    def doubt(self, address: str, uid: str, since_ns: int) -> None:
        """From then on it is not sure that the address is still that owner's."""
        owned = self._open(address, uid)
        if owned is not None:
            owned.sure_until_ns = min(owned.sure_until_ns, since_ns)

    def recall_until(self, told_until_ns: int) -> None:
        """All that is known is what the file knew, up to then."""
        for spans in self._spans.values():
            for owned in spans:
                if owned.to_ns == FOREVER_NS:
                    owned.sure_until_ns = told_until_ns
                owned.recalled = owned.sure_until_ns < owned.to_ns

    def end_recall(self) -> None:
        """The API server told which pods there are: the grace of the others is as after a watch."""
        for owned in self._in_grace:
            owned.recalled = False

    def confirm(self, address: str, uid: str, started_ns: int, claim: Claim) -> None:
        """The owner that the file knew still has the address; and told when it started."""
        owned = self._open(address, uid)
        if owned is None:
            return
        owned.recalled, owned.sure_until_ns, owned.claim = False, FOREVER_NS, claim
        others = [each for each in self._rivals(owned.endpoint) if each is not owned]
        # The file knows when it was told of the address, and the server since when it was used.
        used_ns = max(claim.gained_ns + SECOND, claim.running_ns or 0)
        for rival in others:
            if owned.from_ns == rival.to_ns > used_ns > rival.from_ns:
                rival.to_ns = owned.from_ns = used_ns
        if self._always and not others:
            owned.from_ns = -FOREVER_NS
        elif all(each.to_ns <= started_ns for each in others):
            # The file may have thrown away how it stood at first.
            owned.from_ns = min(owned.from_ns, started_ns)

    def settle(self, now_ns: int) -> list[str]:
        """End spans whose grace is over, and that no other can come and shorten; gives those."""
        if now_ns < self._due_ns:
            return []
        over = [each for each in self._in_grace if each.to_ns + _TOLD_LATE_NS <= now_ns]
        for owned in over:
            self._close(owned, owned.to_ns)
        due = (each.to_ns + _TOLD_LATE_NS for each in self._in_grace)
        self._due_ns = min(due, default=FOREVER_NS)
        return [owned.endpoint.address for owned in over]

    def expire(self, before_ns: int) -> None:
        """Forget spans that ended before then."""
        while self._ended and self._ended[0][0] < before_ns:
            _, address = self._ended.popleft()
            kept = [each for each in self._spans.get(address, ()) if each.to_ns >= before_ns]
            if kept:
                self._spans[address] = kept
            else:
                self._spans.pop(address, None)
                self.packed.discard(packed(address))

    def _slack_from_ns(self, endpoint: Endpoint, from_ns: int) -> int:
        """From when on an address is an endpoint's that gained it then, from no other owner."""
        if self._always:
            return -FOREVER_NS
        if endpoint.kind == "pod" and endpoint.node == self._node_name:
            return from_ns
        return max(from_ns - _SLACK_NS, min(from_ns, self.watched_from_ns[endpoint.kind]))

    def _displace(self, rival: Ownership, claim: Claim) -> int:
        """End what a rival still has of an address; gives from when on it is the newcomer's."""
        passed_ns = from_ns = claim.gained_ns
        second_ns = passed_ns + SECOND
        if claim.came_ns is not None:
            passed_ns = from_ns = claim.came_ns
        elif not self._has_left(rival, passed_ns):
            from_ns = second_ns
            if claim.running_ns is not None and claim.running_ns >= second_ns:
                # It got the address in that second, and did not use it before the next.
                passed_ns = second_ns
        over_ns, sure_until_ns = rival.to_ns, rival.sure_until_ns
        if over_ns == FOREVER_NS:
            if rival.claim.gained_ns < claim.gained_ns:
                self._close(rival, passed_ns)
                return from_ns
            # The newcomer started first, and got the address when the rival no longer had it.
            self._close(rival, min(self._sure_until_ns(rival), claim.told_ns))
            return claim.told_ns
        if passed_ns < over_ns and sure_until_ns < over_ns:  # in its grace
            if sure_until_ns <= from_ns:
                self._close(rival, max(sure_until_ns, passed_ns))
                return from_ns
            self._close(rival, sure_until_ns)
            return min(claim.told_ns, over_ns)
        return over_ns

    def _has_left(self, rival: Ownership, when_ns: int) -> bool:
        """Whether a newcomer of that second need not share it with a rival."""
        if self.is_sure(rival, when_ns + SECOND - 1):
            return True
        return when_ns >= rival.gone_ns + _KILLED_LATE_NS

    def _sure_until_ns(self, owned: Ownership) -> int:
        lost_ns = self.lost_ns if owned.endpoint.kind == "pod" else FOREVER_NS
        return min(owned.sure_until_ns, lost_ns)

    def is_sure(self, owned: Ownership, when_ns: int) -> bool:
        """Whether nobody else can have had the address at that time."""
        return when_ns < owned.sure_until_ns and (
            when_ns < self.lost_ns or owned.endpoint.kind != "pod"
        )

    def _wait(self, owned: Ownership, to_ns: int, sure_until_ns: int) -> None:
        """A span ends then, unless another turns out to have the address before."""
        owned.to_ns, owned.sure_until_ns = to_ns, sure_until_ns
        self._in_grace[owned] = None
        self._due_ns = min(self._due_ns, to_ns + _TOLD_LATE_NS)

    def _open(self, address: str, uid: str | None) -> Ownership | None:
        for owned in self._spans.get(address, ()):
            if owned.endpoint.uid == uid and owned.to_ns == FOREVER_NS:
                return owned
        return None

    def _rivals(self, endpoint: Endpoint) -> list[Ownership]:
        spans = self._spans.get(endpoint.address, ())
        return [each for each in spans if each.endpoint.kind == endpoint.kind]

    def _insert(self, owned: Ownership) -> None:
        address = owned.endpoint.address
        if address not in self._spans:
            self.packed.add(packed(address))
        spans = self._spans.setdefault(address, [])
        spans.append(owned)
        spans.sort(key=_rank)

    def _close(self, owned: Ownership, at_ns: int) -> None:
        endpoint = owned.endpoint
        owned.to_ns = max(at_ns, endpoint.valid_from_ns)
        owned.sure_until_ns = FOREVER_NS
        self._in_grace.pop(owned, None)
        self._ended.append((owned.to_ns, endpoint.address))
        self._history.append(Closed(endpoint, owned.to_ns, owned.inferred))


def _rank(owned: Ownership) -> int:
    return _RANK[owned.endpoint.kind]


def _since(endpoint: Endpoint, from_ns: int) -> Endpoint:
    if endpoint.valid_from_ns == from_ns:
        return endpoint
    return replace(endpoint, valid_from_ns=from_ns)
