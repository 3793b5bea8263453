"""How spans end: for good, or so far as nobody else is told who had the address before that."""

from collections.abc import Iterator

from ctk.kube.ownership import Ownership
from ctk.kube.spans import Spans
from ctk.kube.untold import Gone, Untold
from ctk.model.history import Closed, HistoryChange
from ctk.timespan import FOREVER_NS, SECOND

# A watch may be slow to tell of a pod that got a deleted one's address: the grace is settled later.
_TOLD_LATE_NS = 60 * SECOND


class Endings:
    """The spans whose end is not settled; every end is told in `history`."""

    def __init__(self, history: list[HistoryChange], spans: Spans, untold: Untold) -> None:
        self._history, self._spans, self._untold = history, spans, untold
        self._waiting: dict[Ownership, None] = {}  # over, but for others that may be told
        self._passed_on: dict[Ownership, None] = {}  # of those: over, but for `untold`
        self._due_ns = FOREVER_NS  # when the first of them is over for good

    def __contains__(self, owned: Ownership) -> bool:
        return owned in self._waiting

    def __iter__(self) -> Iterator[Ownership]:
        return iter(self._waiting)

    def wait(
        self, owned: Ownership, to_ns: int, sure_until_ns: int, *, passed_on: bool = False
    ) -> None:
        """
        End a span then, unless another turns out to have the address before.

        `passed_on`: the next owner is told; another can only be one that never told its address.
        """
        if owned.to_ns != FOREVER_NS:
            owned.latest_ns = max(owned.latest_ns, owned.to_ns)
        owned.to_ns, owned.sure_until_ns = to_ns, sure_until_ns
        self._waiting[owned] = None
        if passed_on:
            self._passed_on[owned] = None
        # The latest end that is possible is told at once, for whoever reads the file after a kill.
        self._history.append(Closed(owned.endpoint, to_ns, inferred=True))
        self._due_ns = min(self._due_ns, to_ns + _TOLD_LATE_NS)

    def close(self, owned: Ownership, at_ns: int) -> None:
        """End a span for good."""
        endpoint = owned.endpoint
        owned.to_ns = max(at_ns, endpoint.valid_from_ns)
        owned.sure_until_ns = FOREVER_NS
        self.forget(owned)
        self._spans.expires(owned)
        self._history.append(Closed(endpoint, owned.to_ns, owned.inferred))

    def forget(self, owned: Ownership) -> None:
        """A span's end is settled, or is none."""
        self._waiting.pop(owned, None)
        self._passed_on.pop(owned, None)

    def settle(self, now_ns: int) -> list[str]:
        """End spans whose grace is over, and that no other can come and shorten; gives those."""
        if now_ns < self._due_ns:
            return []
        over = [each for each in self._waiting if each.to_ns + _TOLD_LATE_NS <= now_ns]
        for owned in over:
            self.close(owned, owned.to_ns)
        due = (each.to_ns + _TOLD_LATE_NS for each in self._waiting)
        self._due_ns = min(due, default=FOREVER_NS)
        return [owned.endpoint.address for owned in over]

    def lose_untold(self, gone: Gone) -> list[str]:
        """
        A pod is gone that never told its address: it may be that of one of its node in its grace.

        Gives the addresses that are nobody's from then on. What was deleted by force serves for up
        to two seconds more, but nobody tells when in those the other got its address.
        """
        self._untold.went(gone)
        lost: list[str] = []
        for owned in list(self._waiting):
            over_ns = max(owned.doubted_ns, gone.from_ns)
            if owned.endpoint.node == gone.node and over_ns < min(owned.to_ns, gone.to_ns):
                self.wait(owned, over_ns, min(owned.sure_until_ns, over_ns))
                lost.append(owned.endpoint.address)
        return lost

    def decide(self) -> list[str]:
        """End spans that waited only for pods to tell their addresses, and gives those."""
        over = [each for each in self._passed_on if not self._untold.awaits(each.to_ns - 1)]
        for owned in over:
            self.close(owned, owned.to_ns)
        return [owned.endpoint.address for owned in over]
