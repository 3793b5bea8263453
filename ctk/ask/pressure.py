"""How full the kernel's table was, what it refused, and who held its entries."""

import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ctk.ask.caveats import Caveat, NearlyFull, NoHolders, NoTableLook, NothingRecorded, caveats_of
from ctk.ask.connection import one_moment
from ctk.errors import UsageError
from ctk.model import Filters
from ctk.timespan import FOREVER_NS

NEARLY_FULL = 0.8  # of a table: past it somebody should know

# What holders are summed up by; who is not known by name goes by what it is.
KEYS = {
    "node": "node",
    "proto": "proto",
    "client": "COALESCE(client, client_kind)",
    "client_kind": "client_kind",
    "service": "service",
    "backend": "COALESCE(backend, backend_kind)",
    "backend_kind": "backend_kind",
    "port": "port",
    "state": "state",
}
BY = ("client", "service", "state")


class PressureLook(NamedTuple):
    """A row of the view `pressure`, without what only says how lookups went."""

    at_ns: int
    node: str
    entries: int
    peak: int
    most: int | None
    insert_failed: int | None
    dropped: int | None
    early_dropped: int | None


class NodePressure(NamedTuple):
    """
    The table of one node in a span: its fullest moment, the last look, and what was refused.

    `share` is of `most`. What was refused is None where no look knows.
    """

    node: str
    looks: int
    peak_ns: int
    peak: int
    most: int | None
    share: float | None
    entries: int
    insert_failed: int | None
    dropped: int | None
    early_dropped: int | None


class HolderEntries(NamedTuple):
    """Entries of the same keys: in the dump of the span that listed most, and in the last one."""

    keys: tuple[str | int | None, ...]
    at_peak: int
    at_end: int


class Pressure(NamedTuple):
    """
    The pressure on the tables of all nodes, and who held them, most at the peak first.

    `holders` add up to all entries that each node's fullest and last dump listed; these ended at
    the times in `peaks_ns` and `ends_ns`, by node.
    """

    nodes: tuple[NodePressure, ...]
    looks: tuple[PressureLook, ...]
    by: tuple[str, ...]
    holders: tuple[HolderEntries, ...]
    peaks_ns: dict[str, int]
    ends_ns: dict[str, int]
    caveats: tuple[Caveat, ...]


def pressure(conn: sqlite3.Connection, filters: Filters, by: Sequence[str] = BY) -> Pressure:
    """Say how full tables were in a span, and who held them."""
    for key in by:
        if key not in KEYS:
            raise UsageError(f"{key!r} is no key of a holder", hint=", ".join(KEYS))
    since_ns = -FOREVER_NS if filters.since_ns is None else filters.since_ns
    until_ns = FOREVER_NS if filters.until_ns is None else filters.until_ns
    with one_moment(conn):
        looks = _looks(conn, since_ns, until_ns)
        peaks_ns, ends_ns = _dumps(conn, since_ns, until_ns)
        holders = _holders(conn, by, peaks_ns, ends_ns)
        caveats = list(caveats_of(conn, filters))
    nodes = tuple(_of_nodes(looks))
    if not looks and NothingRecorded() not in caveats:
        caveats.append(NoTableLook())
    elif looks and not holders:
        caveats.append(NoHolders(empty=not any(each.peak for each in looks)))
    caveats += nearly_full(nodes)
    return Pressure(
        nodes=nodes,
        looks=looks,
        by=tuple(by),
        holders=holders,
        peaks_ns=peaks_ns,
        ends_ns=ends_ns,
        caveats=tuple(caveats),
    )


def of_nodes(conn: sqlite3.Connection) -> tuple[NodePressure, ...]:
    """Say how full the table of each node was, over all that the file has of it."""
    return tuple(_of_nodes(_looks(conn, -FOREVER_NS, FOREVER_NS)))


def nearly_full(nodes: Sequence[NodePressure]) -> Iterator[NearlyFull]:
    """Yield a caveat for each table that was more than 80 % full."""
    for each in nodes:
        if each.most is not None and each.share is not None and each.share >= NEARLY_FULL:
            yield NearlyFull(each.node, each.peak_ns, each.peak, each.most)


def _looks(conn: sqlite3.Connection, since_ns: int, until_ns: int) -> tuple[PressureLook, ...]:
    found = conn.execute(
        f"SELECT {', '.join(PressureLook._fields)} FROM pressure"
        " WHERE at_ns >= ? AND at_ns < ? ORDER BY at_ns, node",
        (since_ns, until_ns),
    )
    return tuple(map(PressureLook._make, found))


def _of_nodes(looks: Sequence[PressureLook]) -> Iterator[NodePressure]:
    by_node: dict[str, list[PressureLook]] = {}
    for look in looks:
        by_node.setdefault(look.node, []).append(look)
    for node, some in sorted(by_node.items()):
        top = max(some, key=lambda look: (look.peak / look.most if look.most else 0, look.peak))
        share = top.peak / top.most if top.most else None
        refused = [
            sum(known) if (known := [n for n in each if n is not None]) else None
            for each in zip(*(look[-3:] for look in some), strict=True)
        ]
        last = some[-1].entries
        yield NodePressure(node, len(some), top.at_ns, top.peak, top.most, share, last, *refused)


def _dumps(
    conn: sqlite3.Connection, since_ns: int, until_ns: int
) -> tuple[dict[str, int], dict[str, int]]:
    """Give when the dumps ended that listed most, and those that came last, by node."""
    found = conn.execute(
        "SELECT node, at_ns, SUM(entries) FROM holders"
        " WHERE at_ns >= ? AND at_ns < ? GROUP BY node, at_ns ORDER BY at_ns",
        (since_ns, until_ns),
    )
    most: dict[str, int] = {}
    peaks_ns: dict[str, int] = {}
    ends_ns: dict[str, int] = {}
    for node, at_ns, entries in found:
        ends_ns[node] = at_ns
        if entries >= most.get(node, 0):
            most[node], peaks_ns[node] = entries, at_ns
    return peaks_ns, ends_ns


def _holders(
    conn: sqlite3.Connection,
    by: Sequence[str],
    peaks_ns: dict[str, int],
    ends_ns: dict[str, int],
) -> tuple[HolderEntries, ...]:
    sql = (
        f"SELECT entries, {', '.join(KEYS[key] for key in by)} FROM holders"
        " WHERE at_ns = ? AND node = ?"
    )
    sums = []
    for dumps in (peaks_ns, ends_ns):
        entries: Counter[tuple[str | int | None, ...]] = Counter()
        for node, at_ns in dumps.items():
            for count, *keys in conn.execute(sql, (at_ns, node)):
                entries[tuple(keys)] += count
        sums.append(entries)
    at_peak, at_end = sums
    found = [HolderEntries(keys, at_peak[keys], at_end[keys]) for keys in {**at_peak, **at_end}]
    found.sort(key=lambda each: (-each.at_peak, -each.at_end, tuple(map(str, each.keys))))
    return tuple(found)
