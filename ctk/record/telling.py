"""How a recording goes, for who listens: a person, a log, Prometheus."""

from pathlib import Path

from ctk.conntrack.aggregate import Aggregator
from ctk.kube.endpoints import Endpoints
from ctk.model import Previous
from ctk.record import host
from ctk.record.commit import Committer
from ctk.record.gaps import GapLedger
from ctk.record.plan import Listening, Status
from ctk.record.pressure import TableWatch
from ctk.timespan import format_age


class Telling:
    """Tells what the parts of a recording know of it."""

    def __init__(
        self,
        listening: Listening,
        path: Path,
        started_ns: int,
        *,
        aggregator: Aggregator,
        committer: Committer,
        ledger: GapLedger,
        endpoints: Endpoints,
        table: TableWatch,
    ) -> None:
        self._listening, self._path, self._started_ns = listening, path, started_ns
        self._aggregator, self._committer, self._ledger = aggregator, committer, ledger
        self._endpoints, self._table = endpoints, table

    def begins(self, node: str, before: Previous | None) -> None:
        """Say so, and how long nobody recorded since the recording `before`, if there is a gap."""
        down = ""
        if before is not None:
            down = f"; recorder was down {format_age(self._started_ns - before.committed_ns)}"
        self._listening.told(f"recording into {self._path} on node {node}{down}")

    def status(self) -> None:
        """Say how it goes."""
        aggregator, committer, ledger = self._aggregator, self._committer, self._ledger
        live = len(aggregator.connections.live)
        if self._listening.metrics is not None:
            self._listening.metrics.publish(
                received=aggregator.events,
                lost=ledger.lost,
                malformed=ledger.malformed,
                gaps=ledger.of_kind,
                live=live,
                started_ns=self._started_ns,
                committed_ns=committer.committed_ns,
                watches=self._endpoints.watches(),
                use=self._table.use,
            )
        size = host.size_of(self._path)
        self._listening.status(Status(aggregator.events, committer.flows, live, ledger.count, size))

    def ended(self) -> None:
        """Say so, and what it came to."""
        self._listening.told(
            f"ended: {self._aggregator.events:,} events, {self._committer.flows:,} flows,"
            f" {self._ledger.lost:,} events lost"
        )
