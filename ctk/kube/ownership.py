"""A span in which an address was an endpoint's, and what was told of how it got it."""

from dataclasses import dataclass, replace
from typing import NamedTuple

from ctk.model import Endpoint
from ctk.timespan import FOREVER_NS, SECOND

# A kubelet kills what was deleted by force within this time; only what is slower may have served
# in the very second in which another got its address.
KILLED_LATE_NS = 2 * SECOND


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
    going_ns: int = FOREVER_NS  # when it was told first that it goes, or is gone
    # Nothing was heard of it from then on, but that a list lacked it.
    unheard_ns: int = FOREVER_NS
    # It may have had the address until then, where its span ends sooner: others may have had it.
    latest_ns: int = -FOREVER_NS
    inferred: bool = False  # nobody saw it end
    recalled: bool = False  # known from the file only
    is_news: bool = True  # the file did not know of it when the recording began

    @property
    def doubted_ns(self) -> int:
        """From when on a pod that is gone, too, may have had the address."""
        return min(self.sure_until_ns, self.unheard_ns)

    @property
    def end_is_kept(self) -> bool:
        """Whether it is over, and the file keeps up to when it was sure, as of what was missed."""
        is_over = self.gone_ns != FOREVER_NS
        return is_over and (self.inferred or self.sure_until_ns == self.gone_ns)


class Claim(NamedTuple):
    """
    What is told of how an endpoint got an address. The API's times have whole seconds.

    `came_ns` is when a pod was first seen in the second of its start, without an address yet.
    """

    told_ns: int
    gained_ns: int  # the second from which on the address is no other's
    running_ns: int | None = None  # the second from which on a pod may have used it
    came_ns: int | None = None

    @property
    def order(self) -> tuple[int, int]:
        """Of two the later one is the one that had the address later."""
        return self.gained_ns, self.running_ns or self.gained_ns


def since(endpoint: Endpoint, from_ns: int) -> Endpoint:
    """Say of an endpoint that it is one from then on."""
    if endpoint.valid_from_ns == from_ns:
        return endpoint
    return replace(endpoint, valid_from_ns=from_ns)
