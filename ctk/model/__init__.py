"""
The values that cross modules.

Here are those that every command imports; what only a recorder needs is in recorded.py, which is
imported when one of its names is asked for.
Times are integer nanoseconds since the epoch, UTC, and end in `_ns`. A count that was not measured
is None.
"""

from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from ctk.model.recorded import (
        COUNTS_CONNECTION,
        COUNTS_DESTROY,
        COUNTS_NEW,
        COUNTS_REFUSED,
        COUNTS_UNREPLIED,
        COUNTS_UPDATE,
        LONE_COUNTS,
        NO_LABELS,
        OTHER,
        Datagrams,
        Edge,
        Endpoint,
        EventCounts,
        FlowRow,
        FlowTuple,
        IdleConnections,
        Previous,
        counts_of,
    )

__all__ = [
    "COUNTS_CONNECTION",
    "COUNTS_DESTROY",
    "COUNTS_NEW",
    "COUNTS_REFUSED",
    "COUNTS_UNREPLIED",
    "COUNTS_UPDATE",
    "LONE_COUNTS",
    "NO_LABELS",
    "OTHER",
    "ZONE_LABEL",
    "Datagrams",
    "Edge",
    "Endpoint",
    "EventCounts",
    "Field",
    "Filters",
    "Finding",
    "FlowRow",
    "FlowTuple",
    "Gap",
    "GapKind",
    "IdleConnections",
    "Kind",
    "Previous",
    "Side",
    "Term",
    "Via",
    "counts_of",
]

Kind = Literal["pod", "node", "service", "external", "unknown"]
Via = Literal["address", "endpoint"]
GapKind = Literal[
    "events lost",  # the socket's buffer overflowed, or was not read to its end at the stop
    "recorder down",  # from the last commit of a recording to the start of the next
    "metadata stale",  # a watch was down, so names may be old
    "clock step",  # the wall clock jumped; `detail` says by how much
    "disk full",  # rows that could not be written; `lost` says how many events they held
    "malformed",  # datagrams that could not be decoded; `lost` says how many
    "counters reset",  # another tool zeroed the kernel's counters: bytes are short by what it read
    "thinned",  # rows that --max-size folded early: only sums in coarser steps are left of them
    "file locked",  # rows that could not be written; `lost` says how many events they held
]

# What a filter flag asks about, and of which side: "from" dialled, "to" was dialled or answered.
Field = Literal[
    "namespace",
    "pod",
    "service",
    "workload",
    "label",
    "node",
    "kind",
    "ip",
    "port",
    "protocol",
    "zone",
    "cross_namespace",
    "cross_zone",
    "failed",
    "refused",
    "unreplied",
    "min_bytes",
    "min_connections",
]
Side = Literal["any", "from", "to"]

# A node's label that names its topology zone (Kubernetes: well-known labels).
ZONE_LABEL = "topology.kubernetes.io/zone"


class Term(NamedTuple):
    """One filter flag, with every value it was given: any of them fits, or, negated, none does."""

    field: Field
    side: Side
    values: tuple[str, ...]
    negated: bool = False


class Filters(NamedTuple):
    """Which flows: of a span, since <= started_ns < until, those that fit every term."""

    since_ns: int | None = None
    until_ns: int | None = None
    first: int | None = None
    last: int | None = None
    terms: tuple[Term, ...] = ()
    # The end of the file where ages and clocks count from that; None where they count from now.
    counted_from_ns: int | None = None


class Gap(NamedTuple):
    """A span in which something was lost or unknown, why, and how much."""

    kind: GapKind
    started_ns: int
    ended_ns: int
    lost: int | None = None  # events; None where it is not known
    detail: str | None = None


class Finding(NamedTuple):
    """One thing the doctor looked at, and what a person can do about it."""

    check: str
    status: Literal["ok", "unknown", "warning", "problem"]
    found: str
    advice: str | None = None


def __getattr__(name: str) -> object:
    if name.startswith("__"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    found = globals()[name] = getattr(import_module("ctk.model.recorded"), name)
    return found
