"""
Pods that may have had an address that they never told.

A kubelet posts a pod's address seconds after the pod began to use it, and what is killed or done
before that never tells it. But a pod is bound to its node before it gets an address there, and a
watch tells in order: when the next pod of an address tells it, those that may have had it in
between are told of, too.
"""

from collections import deque
from typing import NamedTuple

from ctk.kube.ownership import Ownership
from ctk.timespan import FOREVER_NS


class Gone(NamedTuple):
    """One that got its address in a span, if any."""

    node: str | None
    from_ns: int
    to_ns: int
    left_ns: int  # its processes were gone by then
    told_ns: int


class Untold:
    """Those that there are, and those that are gone."""

    def __init__(self) -> None:
        self._there: dict[str, int] = {}  # by uid: since when it may have an address
        # By node, in the order in which that was told.
        self._gone: dict[str | None, deque[Gone]] = {}

    def await_address(self, uid: str, since_ns: int) -> None:
        """A pod may have an address since then, and has told none so far."""
        self._there[uid] = since_ns

    def told(self, uid: str) -> bool:
        """A pod tells its address, or is gone; gives whether its address was awaited."""
        return self._there.pop(uid, None) is not None

    def went(self, gone: Gone) -> None:
        """Remember a pod that is gone, and told no address."""
        self._gone.setdefault(gone.node, deque()).append(gone)

    def awaits(self, when_ns: int) -> bool:
        """Whether a pod that there is may have had an address then."""
        return any(since_ns <= when_ns for since_ns in self._there.values())

    def first_ns(self, owned: Ownership, since_ns: int, to_ns: int) -> int:
        """From when on, in a span, one that is gone may have had the address of a pod that goes."""
        from_ns = [
            max(since_ns, each.from_ns)
            for each in self._gone.get(owned.endpoint.node, ())
            if each.from_ns < to_ns
            and since_ns < each.to_ns
            # Of what was missed only the order is known.
            and owned.going_ns <= each.told_ns
        ]
        return min(from_ns, default=to_ns)

    def left_ns(self, node: str | None, since_ns: int, when_ns: int) -> int:
        """Up to when one that is gone may have had an address that another got in that span."""
        left_ns = [
            each.left_ns
            for each in self._gone.get(node, ())
            if each.from_ns < when_ns and since_ns < each.left_ns
        ]
        return max(left_ns, default=-FOREVER_NS)

    def expire(self, before_ns: int) -> None:
        """Forget those that were gone before then."""
        for node, gone in list(self._gone.items()):
            while gone and gone[0].left_ns < before_ns:
                gone.popleft()
            if not gone:
                del self._gone[node]
