"""How evenly the connections and bytes of a service go to its backends."""

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from ctk.ask.caveats import Caveat
from ctk.ask.sums import NOTHING, Counts
from ctk.ask.top import Top

BY = ("service", "backend_port", "proto", "backend", "dst_kind")


class BackendShare(NamedTuple):
    """
    What one backend of a service answered.

    The shares are of all backends that had connections in the span, times their number: 1 is an
    even share, 2 twice that. None where there was nothing to share.
    """

    backend: str
    counts: Counts
    connections_to_even: float | None
    bytes_to_even: float | None


class ServiceBalance(NamedTuple):
    """
    A service and its backends, the most connections first.

    The skews are those of the backend with the largest share: its share to an even one.
    """

    service: str
    port: int | None  # on which its backends answer
    proto: str
    backends: tuple[BackendShare, ...]
    unanswered: Counts  # what no backend was chosen for
    connections_skew: float | None
    bytes_skew: float | None


class Balance(NamedTuple):
    """Services, the most connections first."""

    services: tuple[ServiceBalance, ...]
    caveats: tuple[Caveat, ...]


def balance(answer: Top) -> Balance:
    """
    Put what was summed up by BY together by service and port.

    A backend without a single connection in the span is not among them: conntrack never saw it.
    """
    found: dict[tuple[str, int | None, str], list[tuple[str, bool, Counts]]] = defaultdict(list)
    for row in answer.rows:
        service, port, proto, backend, kind = row.keys
        if service is not None:
            # Where no backend was chosen, what answers is the service's own address.
            chosen = kind != "service"
            port = port if port is None else int(port)
            found[str(service), port, str(proto)].append((str(backend), chosen, row.counts))
    services = [_of_service(*key, some) for key, some in found.items()]
    services.sort(key=_order)
    return Balance(services=tuple(services), caveats=answer.caveats)


def _of_service(
    service: str, port: int | None, proto: str, found: Sequence[tuple[str, bool, Counts]]
) -> ServiceBalance:
    chosen = [(backend, counts) for backend, is_backend, counts in found if is_backend]
    connections = _to_even([counts.connections for _, counts in chosen])
    moved = _to_even([counts.bytes for _, counts in chosen])
    backends = tuple(
        BackendShare(
            backend=backend, counts=counts, connections_to_even=share, bytes_to_even=moved_share
        )
        for (backend, counts), share, moved_share in zip(chosen, connections, moved, strict=True)
    )
    none = [counts for _, is_backend, counts in found if not is_backend]
    return ServiceBalance(
        service=service,
        port=port,
        proto=proto,
        backends=backends,
        unanswered=none[0] if none else NOTHING,
        connections_skew=_most(connections),
        bytes_skew=_most(moved),
    )


def _to_even(counts: Sequence[int | None]) -> list[float | None]:
    """Give each count to their mean; None for all where one was not measured, or all are 0."""
    measured = [count for count in counts if count is not None]
    total = sum(measured)
    if not total or len(measured) < len(counts):
        return [None for _ in counts]
    return [count * len(measured) / total for count in measured]


def _most(shares: Sequence[float | None]) -> float | None:
    return max((share for share in shares if share is not None), default=None)


def _order(one: ServiceBalance) -> tuple[int, str, int]:
    connections = sum(each.counts.connections for each in one.backends)
    return -connections - one.unanswered.connections, one.service, one.port or 0
