"""
Pods that may have had an address that they never told.

A kubelet posts a pod's address seconds after the pod began to use it, and what is killed or done
before that never tells it. But a pod is bound to its node before it gets an address there, and a
watch tells in order: when the next pod of an address tells it, those that may have had it in
between are told of, too.
"""

from bisect import bisect_left, bisect_right, insort
from operator import attrgetter
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


_FROM, _TO, _LEFT, _TOLD = map(attrgetter, ("from_ns", "to_ns", "left_ns", "told_ns"))


class Untold:
    """
    Those that there are, and those that are gone.

    A node may reject thousands of pods, and each that is deleted or comes is held against those of
    its node that are gone. So they are kept in rows, each sorted by all four of its times at once,
    and one that says nothing that another does not say is left out: of those that were made in one
    second and told of in order, only the last one is kept.
    """

    def __init__(self) -> None:
        self._there: dict[str, int] = {}  # by uid: since when it may have an address
        self._since: list[tuple[int, str]] = []  # the same, in order
        self._gone: dict[str | None, list[list[Gone]]] = {}  # by node

    def await_address(self, uid: str, since_ns: int) -> None:
        """A pod may have an address since then, and has told none so far."""
        self.told(uid)
        self._there[uid] = since_ns
        insort(self._since, (since_ns, uid))

    def told(self, uid: str) -> bool:
        """A pod tells its address, or is gone; gives whether its address was awaited."""
        since_ns = self._there.pop(uid, None)
        if since_ns is None:
            return False
        del self._since[bisect_left(self._since, (since_ns, uid))]
        return True

    def went(self, gone: Gone) -> None:
        """Remember a pod that is gone, and told no address."""
        rows = self._gone.setdefault(gone.node, [])
        if any(_says_all(row[-1], gone) for row in rows):
            return
        for row in rows:
            while row and _says_all(gone, row[-1]):
                row.pop()
        for row in rows:
            if not row or _is_later(gone, row[-1]):
                row.append(gone)
                break
        else:
            rows.append([gone])
        rows[:] = [row for row in rows if row]

    def awaits(self, when_ns: int) -> bool:
        """Whether a pod that there is may have had an address then."""
        return bool(self._since) and self._since[0][0] <= when_ns

    def first_ns(self, owned: Ownership, since_ns: int, to_ns: int) -> int:
        """From when on, in a span, one that is gone may have had the address of a pod that goes."""
        first_ns = to_ns
        for row in self._gone.get(owned.endpoint.node, ()):
            # Of what was missed only the order is known, which `told_ns` has.
            n = max(
                bisect_right(row, since_ns, key=_TO), bisect_left(row, owned.going_ns, key=_TOLD)
            )
            if n < len(row):
                first_ns = min(first_ns, max(since_ns, row[n].from_ns))
        return first_ns

    def left_ns(self, node: str | None, since_ns: int, when_ns: int) -> int:
        """Up to when one that is gone may have had an address that another got in that span."""
        left_ns = -FOREVER_NS
        for row in self._gone.get(node, ()):
            n = bisect_left(row, when_ns, key=_FROM)
            if n and row[n - 1].left_ns > since_ns:
                left_ns = max(left_ns, row[n - 1].left_ns)
        return left_ns

    def expire(self, before_ns: int) -> None:
        """Forget those that were gone before then."""
        for node, rows in list(self._gone.items()):
            for row in rows:
                del row[: bisect_left(row, before_ns, key=_LEFT)]
            rows[:] = [row for row in rows if row]
            if not rows:
                del self._gone[node]


def _is_later(one: Gone, other: Gone) -> bool:
    """Whether none of its times is before the other's."""
    return all(mine >= its for mine, its in zip(one[1:], other[1:], strict=True))


def _says_all(one: Gone, other: Gone) -> bool:
    """Whether one that asks of both learns nothing of the other."""
    return one.from_ns <= other.from_ns and all(
        mine >= its for mine, its in zip(one[2:], other[2:], strict=True)
    )
