"""How full the kernel's table is, and who holds its entries: looks at it, for the file."""

import logging
from collections.abc import Sequence

from ctk.conntrack import statistics, table
from ctk.conntrack.alike import ListedEntries
from ctk.conntrack.connections import Connections
from ctk.errors import SourceError
from ctk.model.tableuse import TableCounters, TableLook, TableUse
from ctk.record.attribution import Attribution
from ctk.record.holders import Holders
from ctk.timespan import MINUTE, SECOND

log = logging.getLogger("ctk")

_OFTEN_NS, _SELDOM_NS = 10 * SECOND, MINUTE  # between two looks: in the first minute, then
_COUNTED_NS = 10 * SECOND  # between two readings of the kernel's counters
_NAMED_AT_ONCE = 2_000  # a second: 20 ms
_NAMED_AT_END = 100_000
_MOST_WAITING = 500  # looks that wait for room on the disk, some 10 kB each


class TableWatch:
    """
    Looks at the table each second, and counts who holds it in a dump once a minute.

    A look is kept until it is in the file: `looks` gives them, `written` says that they are.
    """

    def __init__(
        self, connections: Connections, attribution: Attribution, started_ns: int, *, live: bool
    ) -> None:
        self._connections, self._attribution = connections, attribution
        self._started_ns, self._live = started_ns, live
        self._waiting: list[TableLook] = []
        self.use: TableUse | None = None  # the newest, with what was counted since the start
        self._peak = 0
        self._looked_ns = self._held_ns = 0
        self._counted: statistics.Counted | None = None
        self._counted_ns = 0
        self._grown = self._grown_before = TableCounters(*(0,) * len(TableCounters._fields))
        self._listing: Holders | None = None  # of the dump under way; None where it is not counted
        self._listed: Holders | None = None  # of the one before, until all of them are named
        if live:
            self._count(started_ns)

    def tick(self, at_ns: int) -> None:
        """Look at how full the table is; once a second."""
        self._look(at_ns, last=False)
        self._name(_NAMED_AT_ONCE)

    def finish(self, at_ns: int) -> None:
        """Look a last time: what was refused since the look before is not to be lost."""
        self._look(at_ns, last=True)
        self._name(_NAMED_AT_END)
        self._hold()

    def _look(self, at_ns: int, *, last: bool) -> None:
        entries = table.sysctl("nf_conntrack_count") if self._live else None
        if entries is None:
            return
        if not 0 <= at_ns - self._counted_ns < _COUNTED_NS:
            self._count(at_ns)
        self._peak = max(self._peak, entries)
        most = table.sysctl("nf_conntrack_max")
        known = self._counted is not None
        self.use = TableUse(at_ns, entries, self._peak, most, self._grown if known else None)
        if last or self._is_due(self._looked_ns, at_ns):
            self._count(at_ns)
            since = [
                now - before for now, before in zip(self._grown, self._grown_before, strict=True)
            ]
            counters = TableCounters._make(since) if self._counted is not None else None
            self._keep(self.use._replace(counters=counters))
            self._looked_ns, self._peak, self._grown_before = at_ns, entries, self._grown

    def begin_dump(self, at_ns: int) -> None:
        """A dump begins: it is looked at where that is due."""
        due = self._is_due(self._held_ns, at_ns)
        self._listing = Holders(self._connections, self._attribution) if due else None

    def listed(self, listed: ListedEntries) -> None:
        """Take entries that the dump listed."""
        if self._listing is not None:
            self._listing.count(listed)

    def end_dump(self, at_ns: int) -> None:
        """The dump is whole; who holds what it listed is named in slices, a second each."""
        listing, self._listing = self._listing, None
        if listing is None:
            return
        self._hold()
        self._held_ns, self._listed = at_ns, listing
        entries = listing.end(at_ns)
        if not self._live:
            self._keep(TableUse(at_ns, entries, entries, None, None))

    def looks(self) -> Sequence[TableLook]:
        """Give what is not in the file yet."""
        if not self._live:
            self._name(_NAMED_AT_END)
        return self._waiting

    def written(self) -> None:
        """What `looks` gave is in the file."""
        self._waiting.clear()

    def _name(self, most: int) -> None:
        """Name holders of the last dump that was looked at."""
        if self._listed is not None:
            self._listed.name(most)
            if not self._listed.unnamed:
                self._hold()

    def _hold(self) -> None:
        """Keep who held the entries of that dump, named or not."""
        if self._listed is not None:
            self._keep(self._listed.held())
            self._listed = None

    def _is_due(self, last_ns: int, at_ns: int) -> bool:
        is_early = at_ns < self._started_ns + MINUTE
        return not 0 <= at_ns - last_ns < (_OFTEN_NS if is_early else _SELDOM_NS)

    def _keep(self, look: TableLook) -> None:
        self._waiting.append(look)
        del self._waiting[:-_MOST_WAITING]

    def _count(self, at_ns: int) -> None:
        before, self._counted_ns = self._counted, at_ns
        try:
            self._counted = statistics.read()
        except SourceError as error:
            log.debug("%s", error.message)
            self._counted = None
            return
        if before is not None:
            more = statistics.grown(before, self._counted)
            self._grown = TableCounters._make(map(sum, zip(self._grown, more, strict=True)))
