"""What a recording is told: what to record and how, where from, and who else hears of it."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from ctk.conntrack.capture import CaptureWriter
from ctk.conntrack.counting import Aggregation
from ctk.conntrack.strangers import MOST_PEERS
from ctk.model import Datagrams, Endpoint, FlowTuple, Gap
from ctk.record.metrics import Metrics
from ctk.record.rows import ToldRow
from ctk.timespan import SECOND


class EventStream(Protocol):
    """Where events come from: the kernel or a capture file."""

    started_ns: int

    @property
    def malformed(self) -> int: ...

    @property
    def local_addresses(self) -> frozenset[str]: ...

    def gaps(self) -> list[Gap]: ...

    def dump_soon(self) -> None: ...

    def __iter__(self) -> Iterator[Datagrams]: ...


class Status(NamedTuple):
    """What a person wants to see of a running recording."""

    events: int
    flows: int
    live: int
    gaps: int
    file_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to record, and how."""

    node: str
    source: str  # "kernel", or the capture's path
    live: bool  # the clock and the counters are this host's, now
    cluster: bool  # an API server is followed, so what is unknown may yet be known
    cluster_name: str | None = None
    window_ns: int = 10 * SECOND
    aggregation: Aggregation = "ports"
    wanted: Callable[[FlowTuple], bool] | None = None
    peers: int | None = MOST_PEERS  # flows of strangers that a window keeps; None for all
    retain: Mapping[str, int] = field(default_factory=dict)  # ns by level
    max_bytes: int | None = None
    settings: Mapping[str, object] = field(default_factory=dict)  # as they stand in `recordings`
    left_s: Callable[[], float] = lambda: math.inf  # until a stop that was asked for must be over


@dataclass(frozen=True, slots=True, kw_only=True)
class Listening:
    """Who else is told, as it happens."""

    rows: Callable[[Iterable[ToldRow]], None] | None = None
    pods: Callable[[Endpoint], None] = lambda pod: None
    status: Callable[[Status], None] = lambda status: None
    told: Callable[[str], None] = lambda text: None  # for a log: that it begins, and how it ended
    capture: CaptureWriter | None = None
    metrics: Metrics | None = None
    ready: Callable[[int], None] = lambda until_ns: None  # all up to then is in the file, named
