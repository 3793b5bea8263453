"""
The parts of a folder of chDB, united.

Each insert makes a part, which a server merges in the background. Nobody does where a folder is
closed, and who opens it loads every part: so that is done by who ships. The engine does each in a
part of its own, which takes the place of the others when it is whole and on the disk, so it may be
killed at any time.
"""

import time
from collections.abc import Callable

from ctk.errors import CtkError
from ctk.fleet.clickhouse.client import Client
from ctk.fleet.clickhouse.ddl import OF_FOLDER, settings

_LIMIT_S = 30.0
_ROWS_S = 100_000  # that are united in a second, at least: how long one takes is told before
_GONE_S, _LOOK_S = 5.0, 0.1  # for old ones to be removed, which is done in the background


def settle(
    client: Client,
    say: Callable[[str], None],
    *,
    stop: Callable[[], bool] = lambda: False,
    limit_s: float = _LIMIT_S,
) -> None:
    """
    Unite the parts of a folder, for so long; a server does it itself.

    `say` gets a line where it takes more than a moment, is left for the next time, or fails: what
    was shipped is there as before.
    """
    if client.target.folder is None:
        return
    try:
        _settle(client, say, stop, limit_s)
    except CtkError as error:
        say(f"parts are left as they are: {error.message}")


def _settle(
    client: Client, say: Callable[[str], None], stop: Callable[[], bool], limit_s: float
) -> None:
    database = client.target.database
    waiting = client.query(
        "SELECT table, partition_id, sum(rows) FROM system.parts"
        " WHERE database = {database:String} AND active GROUP BY table, partition_id"
        " HAVING count() > 1 ORDER BY sum(rows)",
        {"database": database},
    ).rows
    if not waiting:
        return
    partitions = f"{len(waiting):,} partition{'' if len(waiting) == 1 else 's'}"
    if sum(rows for *_, rows in waiting) > _ROWS_S:
        say(f"uniting the parts of {partitions}, for {limit_s:g} s at most")
    _let_old_ones_go(client)
    end_s = time.monotonic() + limit_s
    left = len(waiting)
    for table, partition, rows in waiting:
        if stop() or time.monotonic() + rows / _ROWS_S > end_s:
            break
        client.command(
            f"OPTIMIZE TABLE {database}.{table} PARTITION ID {{partition:String}} FINAL",
            {"partition": partition},
        )
        left -= 1
    if left < len(waiting):
        _wait_for_the_old(client)
    if left:
        say(f"the parts of {left:,} of {partitions} are left for the next time")


def _let_old_ones_go(client: Client) -> None:
    """Have parts go when they are merged, in tables that were made before they did."""
    database = client.target.database
    kept = client.query(
        "SELECT name FROM system.tables WHERE database = {database:String}"
        " AND engine LIKE '%MergeTree' AND engine_full NOT LIKE '%old_parts_lifetime%'",
        {"database": database},
    )
    for (table,) in kept.rows:
        client.command(f"ALTER TABLE {database}.{table} MODIFY SETTING {settings(OF_FOLDER)}")


def _wait_for_the_old(client: Client) -> None:
    end_s = time.monotonic() + _GONE_S
    while time.monotonic() < end_s:
        old = client.query(
            "SELECT count() FROM system.parts WHERE database = {database:String} AND NOT active",
            {"database": client.target.database},
        ).rows
        if old == [(0,)]:
            return
        time.sleep(_LOOK_S)
