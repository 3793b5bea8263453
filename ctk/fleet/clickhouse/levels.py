"""Hours and days against the minutes that they are made of, and how they are made anew."""

import time

from ctk.fleet.clickhouse import tables
from ctk.fleet.clickhouse.client import Client
from ctk.fleet.clickhouse.tables import Level
from ctk.store.columns import COUNT_KEYS
from ctk.timespan import DAY, SECOND

_SUMS = ", ".join(f"sum({key})" for key in COUNT_KEYS)
_DAY_S = DAY // SECOND


def repair(client: Client, recording: str, day: int) -> bool:
    """
    Make the hours and days of a file's day anew where they are not what its minutes say.

    Gives whether any was. Minutes that are too old to be kept say nothing.
    """
    keep_days = tables.kept_days(client)["flows_1m"]
    if keep_days is not None and (day + keep_days) * DAY <= time.time_ns():
        return False
    minutes = _sums(client, recording, day, tables.MINUTES)
    found = False
    for level in tables.LEVELS[1:]:
        if minutes != _sums(client, recording, day, level):
            _make(client, recording, day, level)
            found = True
    return found


def _sums(client: Client, recording: str, day: int, level: Level) -> object:
    found = client.query(
        f"SELECT {_SUMS} FROM {level.table} WHERE {_condition(level)}",
        {"recording": recording, "day": day},
    )
    return tuple(found.rows[0])


def _make(client: Client, recording: str, day: int, level: Level) -> None:
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


def _condition(level: Level) -> str:
    start = f"toDateTime({{day:UInt32}} * {_DAY_S}, 'UTC')"
    return (
        f"recording = {{recording:String}} AND {level.column} >= {start}"
        f" AND {level.column} < {start} + INTERVAL 1 DAY"
    )
