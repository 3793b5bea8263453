"""Hours and days against the minutes that they are made of, and how they are made anew."""

import time
from collections.abc import Collection, Sequence

from ctk.fleet.clickhouse import tables
from ctk.fleet.clickhouse.client import Client
from ctk.fleet.clickhouse.tables import LevelTable
from ctk.store.columns import COUNT_KEYS
from ctk.timespan import DAY, SECOND

_SUMS = ", ".join(f"sum({key})" for key in COUNT_KEYS)
_DAY_S = DAY // SECOND


def repair(client: Client, recording: str, days: Collection[int]) -> int:
    """
    Make the hours and days of a file's days anew where they are not what its minutes say.

    Gives of how many days they were not. Minutes that are too old to be kept say nothing: how long
    they are is asked with the sums, since hours are deleted by it, and somebody may change it.
    """
    if not days:
        return 0
    found: dict[tuple[str, int], Sequence[object]] = {}
    keep_days = None
    levels = " UNION ALL ".join(map(_sums, tables.LEVELS))
    for name, day, kept, *sums in client.query(
        f"SELECT level, of_day, {tables.MINUTES_KEPT}, * EXCEPT (level, of_day) FROM ({levels})",
        {"recording": recording, "days": sorted(days), "database": client.target.database},
    ).rows:
        found[name, day] = sums
        keep_days = tables.days_of(kept)
    now_ns = time.time_ns()
    repaired = 0
    for day in sorted(days):
        if keep_days is not None and (day + keep_days) * DAY <= now_ns:
            continue
        minutes = found.get((tables.MINUTES.name, day))
        wrong = [each for each in tables.LEVELS[1:] if found.get((each.name, day)) != minutes]
        for level in wrong:
            _make(client, recording, day, level)
        repaired += bool(wrong)
    return repaired


def _sums(level: LevelTable) -> str:
    return (
        f"SELECT '{level.name}' AS level, toRelativeDayNum({level.column}) AS of_day, {_SUMS}"
        f" FROM {level.table} WHERE recording = {{recording:String}}"
        f" AND toDate({level.column}) IN {{days:Array(UInt16)}} GROUP BY of_day"
    )


def _make(client: Client, recording: str, day: int, level: LevelTable) -> None:
    parameters = {"recording": recording, "day": day}
    client.command(
        f"ALTER TABLE {level.table} DELETE WHERE {_condition(level)}",
        parameters,
        {"mutations_sync": 2},
    )
    client.command(
        f"INSERT INTO {level.table} ({level.column}, {', '.join(tables.summed_names())})"
        f" SELECT {level.start} AS {level.column}, {tables.summed(level)} FROM flows_1m AS f"
        f" WHERE {_condition(tables.MINUTES)} GROUP BY {tables.keys_of(level)}",
        parameters,
        {"insert_deduplicate": 0},
    )


def _condition(level: LevelTable) -> str:
    start = f"toDateTime({{day:UInt32}} * {_DAY_S}, 'UTC')"
    return (
        f"recording = {{recording:String}} AND {level.column} >= {start}"
        f" AND {level.column} < {start} + INTERVAL 1 DAY"
    )
