"""Which rows of each level are left: minutes are pruned first, and hours tell what there was."""

import time
from collections.abc import Mapping
from typing import NamedTuple

from ctk.fleet.clickhouse import tables
from ctk.fleet.clickhouse.client import Client
from ctk.timespan import DAY, FOREVER_NS, MINUTE, SECOND


class Kept(NamedTuple):
    """From when to when there are rows of any level, and before what those of each are gone."""

    since_ns: int
    until_ns: int
    pruned_ns: tuple[int, ...]  # of minutes, hours and days

    def has(self, at: int, since_ns: int, until_ns: int) -> bool:
        """Say whether a level has all of a span that any level has."""
        return until_ns <= self.since_ns or self.pruned_ns[at] <= max(since_ns, self.since_ns)


def kept(client: Client, days: Mapping[str, int | None] | None = None) -> Kept | None:
    """
    Read what is left; None where there is no row at all.

    `days` are what tables.kept_days gives, which is asked where they are not given.
    """
    asked = ", ".join(
        f"(SELECT (toUnixTimestamp(min({level.column})), toUnixTimestamp(max({level.column})),"
        f" count()) FROM {level.table})"
        for level in tables.LEVELS
    )
    some = [
        (level, int(first_s) * SECOND, (int(last_s) + level.width_s) * SECOND)
        for level, (first_s, last_s, rows) in zip(
            tables.LEVELS, client.query(f"SELECT {asked}").rows[0], strict=True
        )
        if rows
    ]
    if not some:
        return None
    days = tables.kept_days(client) if days is None else days
    now_ns = time.time_ns() // MINUTE * MINUTE
    pruned = []
    for level in tables.LEVELS:
        coarser = [each for each in some if each[0].width_s > level.width_s]
        first_ns = next((first_ns for each, first_ns, _ in some if each is level), None)
        pruned_ns = -FOREVER_NS
        if first_ns is None and coarser:
            pruned_ns = coarser[0][2]
        elif first_ns is not None and any(
            began_ns < first_ns // (each.width_s * SECOND) * each.width_s * SECOND
            for each, began_ns, _ in coarser
        ):
            pruned_ns = first_ns
        # Of what is older than its table keeps, some parts may be gone and some not.
        keep_days = days.get(level.table)
        if coarser and keep_days is not None and coarser[-1][1] < now_ns - keep_days * DAY:
            pruned_ns = max(pruned_ns, now_ns - keep_days * DAY)
        pruned.append(pruned_ns)
    is_whole = pruned[0] <= some[0][1]
    since_ns = some[0][1] if is_whole else min(first_ns for _, first_ns, _ in some)
    return Kept(since_ns, some[0][2], tuple(pruned))
