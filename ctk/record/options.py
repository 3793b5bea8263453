"""What one `ctk record` was asked to do."""

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import Literal

from ctk.conntrack.counting import Aggregation
from ctk.conntrack.filters import Cidr, EventFilter
from ctk.conntrack.names import EventName, protocol_name
from ctk.record.exporter import Address

Scope = Literal["cluster", "node"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """
    The flags of `ctk record`, parsed; None and empty where a flag was not given.

    `retain` holds nanoseconds by level. A None in `dump_every_ns` is a dump as often as a
    hundredth of a core allows.
    """

    db: Path
    kubeconfig: Path | None
    context: str | None
    scope: Scope
    objects: tuple[Path, ...]
    no_kube: bool
    cluster_name: str | None
    node_name: str | None
    from_capture: Path | None
    capture: Path | None
    window_ns: int
    aggregate: Aggregation
    events: tuple[EventName, ...]
    cidr: tuple[Cidr, ...]
    exclude_cidr: tuple[Cidr, ...]
    protocol: tuple[int, ...]
    port: tuple[int, ...]
    max_time_ns: int | None
    max_bytes: int | None
    peers: int | None
    retain: Mapping[str, int]
    enable_accounting: bool
    dump_every_ns: int | None
    buffer_bytes: int | None
    buffer_max_bytes: int | None
    prints: bool
    log: Path | None
    log_max_bytes: int
    log_keep: int
    log_compress: bool
    log_accounting: bool
    ready_file: Path | None
    metrics: Address | None

    def event_filter(self) -> EventFilter:
        return EventFilter(
            cidrs=self.cidr,
            exclude_cidrs=self.exclude_cidr,
            protocols=frozenset(self.protocol),
            ports=frozenset(self.port),
        )

    def settings(self) -> Mapping[str, object]:
        """Return what the file keeps of them, for JSON: what the rows depend on."""
        return {
            "window_ns": self.window_ns,
            "aggregate": self.aggregate,
            "peers": "all" if self.peers is None else self.peers,
            "events": self.events,
            "cidr": [_as_text(cidr) for cidr in self.cidr],
            "exclude_cidr": [_as_text(cidr) for cidr in self.exclude_cidr],
            "protocol": [protocol_name(number) for number in self.protocol],
            "port": self.port,
        }


def _as_text(cidr: Cidr) -> str:
    return str(ip_network((cidr.first, cidr.bits)))
