"""
Whose a provisional endpoint was: told as soon as it is known, or known that it will not be.

What was asked about while its owner was not known for sure is held against the owners each time
more of its address is known.
"""

from collections.abc import Iterator
from dataclasses import replace

from ctk.kube.identity import same
from ctk.kube.owners import POSTED_LATE_NS, Owners
from ctk.kube.ownership import Ownership
from ctk.kube.provisional import Provisional, ProvisionalEndpoints, unknown
from ctk.kube.unresolved import UnresolvedDials
from ctk.model import Endpoint
from ctk.model.history import Closed, Completed, HistoryChange, ServiceFound


class Settling:
    """Settles provisional endpoints; what came of it is told in `history`."""

    def __init__(
        self,
        history: list[HistoryChange],
        owners: Owners,
        provisional: ProvisionalEndpoints,
        unresolved: UnresolvedDials,
    ) -> None:
        self._history, self._owners = history, owners
        self._provisional, self._unresolved = provisional, unresolved

    def settle_all(self, finally_ns: int | None = None) -> None:
        """Settle those of all addresses, as `settle` does."""
        for address in self._provisional.addresses():
            self.settle(address, finally_ns)

    def settle(self, address: str, finally_ns: int | None = None) -> None:
        """
        Tell which provisional endpoints of an address turned out to be its owner, or not to.

        After `finally_ns` nothing is known any more, and the last owner that was told stands.
        """

        def settled(given: Provisional) -> bool:
            endpoint = given.endpoint
            owned = self._owners.at(address, endpoint.valid_from_ns)
            if given.decided and not self._owners.says_more(endpoint, owned, given.asked_ns):
                return False
            if owned is None:
                is_forgotten = endpoint.valid_from_ns < self._owners.forgotten_ns
                if endpoint.kind == "pod" and not is_forgotten:
                    # It is not that pod's any more, and the next one may be told yet.
                    self._withdraw(given)
                return False
            sure = self._owners.is_sure(owned, given.asked_ns)
            if not sure:
                over = endpoint.kind == "pod" and owned.to_ns <= given.asked_ns
                if owned.recalled or not (over or finally_ns is not None):
                    self._leave(given, owned)
                    return False
            if given.asked_ns < owned.to_ns:
                known = owned.endpoint
                if not sure:
                    # The next recording may hear of another: this is not a span of its own.
                    known = replace(known, valid_from_ns=endpoint.valid_from_ns)
                    is_told = (finally_ns or 0) >= given.asked_ns + POSTED_LATE_NS
                    if not is_told and self._owners.untold.awaits(given.asked_ns):
                        # One that this recording did not hear of any more may have had it. The end
                        # says to the next one that it is to be decided.
                        known = unknown(endpoint)
                        undecided.append(Closed(known, given.asked_ns, inferred=True))
            elif endpoint.kind == "pod":
                # It was not that pod all the time, and rows that point to it don't tell when.
                known = unknown(endpoint)
            else:
                self._history.extend(given.decide())
                return True
            if not same(endpoint, known):
                self._history.append(Completed(endpoint, known))
            self._history.extend(self._services(given, known))
            return True

        undecided: list[Closed] = []
        self._provisional.settle(address, settled)
        self._history.extend(undecided)

    def _leave(self, given: Provisional, owned: Ownership) -> None:
        """It may be of the one that had the address, and may be another's that is told later."""
        endpoint = given.endpoint
        if endpoint.kind == "pod":
            if not same(endpoint, owned.endpoint) and not self._provisional.pods_lost:
                self._withdraw(given)
        elif endpoint.kind == "unknown" and owned.end_is_kept and not (given.open or given.decided):
            # The next recording recalls of the one that ended all that this one knows.
            self._history.extend(given.leave())

    def _withdraw(self, given: Provisional) -> None:
        named = given.endpoint
        self._history.extend(given.withdraw())
        self._unresolved.rename(named, given.endpoint)

    def _services(self, given: Provisional, known: Endpoint) -> Iterator[ServiceFound]:
        """Tell which services were dialled at an endpoint of which more is known."""
        yield from self._unresolved.completed(given.endpoint)
        # Dials of what was external then are not remembered, for they are many.
        if given.earlier or given.endpoint.kind == "external":
            yield from self._unresolved.dialled_earlier(given.endpoint, known)
