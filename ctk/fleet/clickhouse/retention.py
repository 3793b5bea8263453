"""How long rows stay in tables that are there already."""

from collections.abc import Iterator, Mapping

from ctk.fleet.clickhouse import tables
from ctk.fleet.clickhouse.client import Client


def change(client: Client, keep: Mapping[str, int | None]) -> Iterator[tuple[str, str]]:
    """
    Have levels keep their rows for so many days, by their names, None for ever.

    Gives each statement that it took, and what it changed. What is beside flows stays as long as
    days do.
    """
    there = tables.kept_days(client)
    for level in tables.LEVELS:
        if level.name not in keep:
            continue
        days = keep[level.name]
        until = {level.table: level.column}
        if level is tables.DAYS:
            until |= tables.KEPT_UNTIL
        for table, column in until.items():
            if there[table] == days:
                continue
            ttl = "REMOVE TTL" if days is None else f"MODIFY TTL {column} + INTERVAL {days} DAY"
            statement = f"ALTER TABLE {client.target.database}.{table} {ttl}"
            client.command(statement)
            yield statement, f"{table}: rows stay {_said(days)}, before: {_said(there[table])}"


def _said(days: int | None) -> str:
    return "for ever" if days is None else f"{days:,} day{'' if days == 1 else 's'}"
