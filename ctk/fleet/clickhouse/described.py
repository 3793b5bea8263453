"""What was shipped: described as a merged file is, with the tables that it is in."""

import sqlite3

from ctk.ask.describe import DescribedLevel, DescribedTable, Description, describe
from ctk.fleet.clickhouse import tables
from ctk.fleet.clickhouse.client import Client
from ctk.timespan import SECOND, format_time

_NOT_ADDED = "what another node counts is left out: how much that is was not added up here"


def described(
    client: Client, conn: sqlite3.Connection, *, sizes: bool, is_whole: bool
) -> Description:
    """
    Describe what was brought to `conn`; by `sizes`, the tables that it came from.

    Where not all was brought, it is recordings and gaps without rows.
    """
    found = describe(conn, sizes=False)
    if not is_whole:
        span = client.query("SELECT min(first_seen_ns), max(last_seen_ns) FROM flows_1d").rows[0]
        ends = [format_time(int(end_ns)) for end_ns in span]
        found = found._replace(since=ends[0], until=ends[1], merged=(*found.merged, _NOT_ADDED))
    if not sizes:
        return found
    bound = {"database": client.target.database}
    parts = client.query(
        "SELECT table, sum(rows), sum(bytes_on_disk) FROM system.parts"
        " WHERE active AND database = {database:String} GROUP BY table ORDER BY table",
        bound,
    ).rows
    levels = []
    for level in tables.LEVELS:
        rows, first = client.query(f"SELECT count(), min({level.column}) FROM {level.table}").rows[
            0
        ]
        since = format_time(int(first.timestamp()) * SECOND) if rows else None
        levels.append(DescribedLevel(level.name, int(rows), since, None, None))
    return found._replace(
        bytes=sum(int(size) for _, _, size in parts),
        levels=tuple(levels),
        tables=tuple(DescribedTable(name, int(rows), int(size)) for name, rows, size in parts),
    )
