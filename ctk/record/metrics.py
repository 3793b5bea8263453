"""
The numbers of a running recording, for Prometheus.

The loop counts what is cheap to count (a row, a commit) and publishes all of it once a second, as
one value; the exporter's process makes text of that value, and never asks the recorder. There is
nothing of a flow in it: labels are types of events, kinds of gaps and resources.
"""

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, get_args

from ctk import __version__
from ctk.errors import UsageError
from ctk.kube.objects import RESOURCES, Resource
from ctk.model import GapKind
from ctk.model.tableuse import TableUse
from ctk.record.rows import Rows
from ctk.timespan import SECOND

if TYPE_CHECKING:
    from prometheus_client import Metric

# Seconds of a commit; a window is 10.
BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_TYPES = ("new", "update", "destroy")


class Numbers(NamedTuple):
    """What was counted up to a moment."""

    received: int
    lost: int
    malformed: int
    recorded: tuple[int, int, int]  # events in the file: new, update, destroy
    gaps: Mapping[str, int]
    live: int
    started_ns: int
    committed_ns: int
    commits: tuple[int, ...]  # by BUCKETS_S, and those that took longer
    commits_s: float
    watches: Mapping[Resource, bool]
    use: TableUse | None


class Metrics:
    """Counts for the loop, and tells how far it all is."""

    def __init__(self, tell: Callable[[Numbers], None]) -> None:
        self._tell = tell
        self._recorded = [0, 0, 0]
        self._commits = [0] * (len(BUCKETS_S) + 1)
        self._commits_s = 0.0

    def recorded(self, some: Iterable[Rows]) -> None:
        """Count the events of rows that are in the file now."""
        for rows in some:
            for row in rows.each():
                self._recorded[0] += row.new_events
                self._recorded[1] += row.update_events
                self._recorded[2] += row.destroy_events

    def timed(self, seconds: float) -> None:
        """Count a commit by how long it took."""
        self._commits[bisect_left(BUCKETS_S, seconds)] += 1
        self._commits_s += seconds

    def publish(
        self,
        *,
        received: int,
        lost: int,
        malformed: int,
        gaps: Counter[str],
        live: int,
        started_ns: int,
        committed_ns: int,
        watches: Mapping[Resource, bool],
        use: TableUse | None,
    ) -> None:
        """Say how far it all is."""
        new, update, destroy = self._recorded
        self._tell(
            Numbers(
                received,
                lost,
                malformed,
                (new, update, destroy),
                dict(gaps),
                live,
                started_ns,
                committed_ns,
                tuple(self._commits),
                self._commits_s,
                dict(watches),
                use,
            )
        )


class Collector:
    """The numbers that were told last, as families of metrics."""

    def __init__(self, db: Path) -> None:
        self._db = db
        self.numbers: Numbers | None = None

    def collect(self) -> "Iterator[Metric]":
        """Yield the families (prometheus-client asks for them by this name)."""
        from prometheus_client.metrics_core import (
            CounterMetricFamily,
            GaugeMetricFamily,
            HistogramMetricFamily,
        )

        def gauge(name: str, text: str, value: float) -> "Metric":
            return GaugeMetricFamily(f"ctk_{name}", text, value=value)

        def counter(name: str, text: str, value: float) -> "Metric":
            return CounterMetricFamily(f"ctk_{name}", text, value=value)

        build = GaugeMetricFamily("ctk_build_info", "The version of ctk.", labels=["version"])
        build.add_metric([__version__], 1)
        yield build
        found = self.numbers
        if found is None:
            return
        yield counter("events_received", "Conntrack events that were read.", found.received)
        events = CounterMetricFamily(
            "ctk_events_recorded", "Conntrack events that are in the file.", labels=["type"]
        )
        for kind, count in zip(_TYPES, found.recorded, strict=True):
            events.add_metric([kind], count)
        yield events
        yield counter("events_lost", "Events the kernel could not deliver.", found.lost)
        yield counter("messages_malformed", "Messages that could not be read.", found.malformed)
        gaps = CounterMetricFamily(
            "ctk_gaps", "Spans in which something was lost or unknown.", labels=["kind"]
        )
        for gap in get_args(GapKind):
            gaps.add_metric([gap], found.gaps.get(gap, 0))
        yield gaps
        yield gauge("live_connections", "Connections that live.", found.live)
        yield gauge(
            "recording_start_time_seconds", "When it began to record.", found.started_ns / SECOND
        )
        age_s = max(0.0, time.time() - found.committed_ns / SECOND)
        text = "How old what is newest in the file is."
        yield gauge("window_age_seconds", text, age_s)
        commits = HistogramMetricFamily("ctk_commit_seconds", "How long commits took.")
        commits.add_metric([], list(_cumulated(found.commits)), found.commits_s)
        yield commits
        for name, text, suffix in (
            ("file_bytes", "The size of the file.", ""),
            ("wal_bytes", "The size of its -wal.", "-wal"),
        ):
            yield gauge(name, text, _size_of(Path(f"{self._db}{suffix}")))
        watches = GaugeMetricFamily(
            "ctk_watch_up", "Whether a resource is known, and watched now.", labels=["resource"]
        )
        for resource in RESOURCES:
            if resource in found.watches:
                watches.add_metric([resource], int(found.watches[resource]))
        yield watches
        yield from _of_table(found.use)


def _of_table(use: TableUse | None) -> "Iterator[Metric]":
    """Yield what is known of the kernel's table; a counter counts from the recorder's start."""
    from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily

    if use is None:
        return
    yield GaugeMetricFamily(
        "ctk_conntrack_entries", "Entries of the kernel's table.", value=use.entries
    )
    if use.most is not None:
        yield GaugeMetricFamily(
            "ctk_conntrack_entries_limit", "How many there may be.", value=use.most
        )
    if use.counters is not None:
        for name, text, value in (
            ("insert_failed", "Entries that were not inserted.", use.counters.insert_failed),
            ("drop", "Packets that were dropped for want of an entry.", use.counters.dropped),
            ("early_drop", "Entries that made room for others.", use.counters.early_dropped),
        ):
            yield CounterMetricFamily(f"ctk_conntrack_{name}", text, value=value)


def renderer(collector: Collector) -> Callable[[str], tuple[str, bytes]]:
    """Give what turns a header Accept into a content type and the metrics in it."""
    from prometheus_client import CollectorRegistry
    from prometheus_client.exposition import choose_encoder

    registry = CollectorRegistry()
    registry.register(collector)

    def render(accept: str) -> tuple[str, bytes]:
        try:
            encode, content_type = choose_encoder(accept)
        except (ValueError, TypeError):  # a version that is none
            encode, content_type = choose_encoder("")
        return content_type, encode(registry)

    return render


def require() -> None:
    """Raise a UsageError where prometheus-client is not installed."""
    try:
        import prometheus_client  # noqa: F401
    except ImportError:
        raise UsageError(
            "--metrics needs prometheus-client, which is not installed here",
            hint="pip install 'ctk[metrics]'",
        ) from None


def _cumulated(counts: Iterable[int]) -> Iterator[tuple[str, float]]:
    total = 0
    for limit, count in zip((*map(str, BUCKETS_S), "+Inf"), counts, strict=True):
        total += count
        yield limit, total


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
