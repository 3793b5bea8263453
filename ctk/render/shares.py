"""How evenly backends are used, and which connections are idle: as tables and for programs."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, BinaryIO

from ctk.ask.sums import Counts
from ctk.render.cells import Head
from ctk.render.tables import Output, answer
from ctk.timespan import format_time

if TYPE_CHECKING:
    from ctk.ask.balance import ServiceBalance
    from ctk.ask.idle import IdleConnection

Shares = tuple[float | None, float | None]  # of connections and of bytes, each to an even one

_BALANCE = (
    Head("service", "name"),
    Head("port", "text", 2),
    Head("backend", "name"),
    Head("connections", "count", title="CONNS"),
    Head("connections_to_even", "number", title="CONNS/EVEN"),
    Head("failed", "failures", 3),
    Head("bytes", "bytes", 1),
    Head("bytes_to_even", "number", 1, title="BYTES/EVEN"),
)
_BALANCE_KEYS = (
    *("service", "port", "proto", "backend", "connections", "connections_to_even", "failed"),
    *("bytes", "bytes_to_even", "backends", "connections_skew", "bytes_skew"),
)


def balance(services: Sequence["ServiceBalance"], output: Output, out: BinaryIO) -> None:
    """Write each backend of each service; what reached none stands under "-"."""
    if output.for_people or output.format == "name":
        answer(_BALANCE, _shares(services), output, out)
    else:
        answer([Head(key) for key in _BALANCE_KEYS], _values(services), output, out)


def _shares(services: Sequence["ServiceBalance"]) -> Iterator[tuple[object, ...]]:
    for service in services:
        port = service.proto if service.port is None else f"{service.port}/{service.proto}"
        for backend, counts, shares in _backends(service):
            yield (
                *(service.service, port, backend, counts.connections, _factor(shares[0])),
                *(counts.failed, counts.bytes, _factor(shares[1])),
            )


def _backends(service: "ServiceBalance") -> Iterator[tuple[object, Counts, Shares]]:
    for each in service.backends:
        yield each.backend, each.counts, (each.connections_to_even, each.bytes_to_even)
    if service.unanswered.connections:
        yield None, service.unanswered, (None, None)


def _factor(share: float | None) -> str | None:
    return None if share is None else f"{share:.2f}"


def _values(services: Sequence["ServiceBalance"]) -> Iterator[tuple[object, ...]]:
    for service in services:
        for backend, counts, shares in _backends(service):
            yield (
                *(service.service, service.port, service.proto, backend, counts.connections),
                *(shares[0], counts.failed, counts.bytes, shares[1], len(service.backends)),
                *(service.connections_skew, service.bytes_skew),
            )


_IDLE = (
    Head("idle", "age"),
    Head("age", "age", 1),
    Head("source", "name"),
    Head("src_port", "number", 2),
    Head("destination", "name"),
    Head("port", "text"),
    Head("service", "name", 2),
    Head("bytes", "bytes", 1),
    Head("node", "name", 4, wide=True),
)
_IDLE_KEYS = (
    *("as_of_at", "as_of_ns", "began_at", "began_ns", "moved_at", "moved_ns", "node", "proto"),
    *("source", "src", "src_port", "destination", "dst", "dst_port", "service", "bytes"),
)


def idle(found: Sequence["IdleConnection"], output: Output, out: BinaryIO) -> None:
    """Write idle connections, the longest idle first."""
    if output.for_people or output.format == "name":
        answer(_IDLE, map(_idle_line, found), output, out)
    else:
        answer([Head(key) for key in _IDLE_KEYS], map(_idle_values, found), output, out)


def _idle_line(one: "IdleConnection") -> tuple[object, ...]:
    port = one.proto if one.dst_port is None else f"{one.dst_port}/{one.proto}"
    return (
        *(one.idle_ns, one.as_of_ns - one.began_ns, one.source, one.src_port, one.destination),
        *(port, one.service, one.bytes, one.node),
    )


def _idle_values(one: "IdleConnection") -> tuple[object, ...]:
    as_of_ns, began_ns, moved_ns, *rest = one
    times = (as_of_ns, began_ns, moved_ns)
    return (*(each for at_ns in times for each in (format_time(at_ns), at_ns)), *rest)
