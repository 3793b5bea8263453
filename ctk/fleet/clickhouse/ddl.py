"""
The statements that make the tables.

A server merges parts in the background, and many nodes write to it: a day of hours is a partition
there. A folder of chDB is opened anew for each question, which loads every part, and of a part that
keeps each column in a file of its own 180 files are looked at: there a month of hours is a
partition, and a day of minutes a file.
"""

from collections.abc import Iterator, Mapping

from ctk.fleet.clickhouse.client import Client
from ctk.fleet.clickhouse.tables import (
    COMMENT,
    DAYS,
    FLOWS_1M,
    KEPT_UNTIL,
    LEVELS,
    MINUTES,
    TOLD,
    WINDOW,
    LevelTable,
    function_of,
    keys_of,
    summed,
)
from ctk.fleet.clickhouse.target import Target

_CODECS = {
    "minute": "Delta, ZSTD",
    "src": "ZSTD",
    "dst": "ZSTD",
    "first_seen_ns": "DoubleDelta, ZSTD",
    "last_seen_ns": "DoubleDelta, ZSTD",
}

_NAMES = "cluster, src_namespace, src_workload, dst_namespace, dst_workload"

# Parts that were merged are kept for eight minutes, as what they became is not synced: they would
# be loaded as long. In a folder it is synced, and they go at once.
OF_FOLDER = {
    "old_parts_lifetime": 0,
    "cleanup_delay_period": 1,
    "max_cleanup_delay_period": 1,
    "cleanup_delay_period_random_add": 0,
    "min_rows_to_fsync_after_merge": 1,
    "fsync_part_directory": 1,
}
_IN_ONE_FILE = {"min_bytes_for_wide_part": 1 << 30}


def statements(target: Target, keep: Mapping[str, int | None] | None = None) -> Iterator[str]:
    """
    Yield the statements that make the database and its tables where they are not there.

    `keep` has how many days a level's rows stay, by its name, None for ever: what is older when it
    comes is not kept at all.
    """
    keep = {level.name: level.keep_days for level in LEVELS} | dict(keep or {})
    database, embedded = target.database, target.folder is not None
    yield f"CREATE DATABASE IF NOT EXISTS {database}"
    for level in LEVELS:
        yield _table_of(database, level, keep[level.name], embedded=embedded)
    for level in LEVELS[1:]:
        yield _view_of(database, level)
    for table, (columns, key) in TOLD.items():
        yield _told(database, table, columns, key, keep[DAYS.name], embedded=embedded)


def make(client: Client, keep: Mapping[str, int | None] | None = None) -> None:
    """Make what is not there."""
    for statement in statements(client.target, keep):
        client.command(statement)


def settings(of: Mapping[str, int]) -> str:
    """Write settings of a table."""
    return ", ".join(f"{name} = {value}" for name, value in of.items())


def _lines(columns: Iterator[str]) -> str:
    return ",\n".join(f"    {each}" for each in columns)


def _table_of(database: str, level: LevelTable, keep_days: int | None, *, embedded: bool) -> str:
    coarse = level is not MINUTES
    columns = {level.column: "DateTime('UTC')"} | {
        name: _aggregated(name, kind) if coarse else kind
        for name, kind in FLOWS_1M.items()
        if name != "minute" and not (coarse and name == "batch")
    }
    codecs = _CODECS | {level.column: _CODECS["minute"]}
    lines = _lines(
        f"{name} {kind}" + (f" CODEC({codecs[name]})" if name in codecs else "")
        for name, kind in columns.items()
    )
    kept = "" if keep_days is None else f"TTL {level.column} + INTERVAL {keep_days} DAY\n"
    # Of minutes an hour is asked for, of hours and days names: their rows are then together.
    first = "" if coarse else "toStartOfHour(minute), "
    monthly = level is DAYS or (coarse and embedded)
    of = {
        "allow_nullable_key": 1,
        "non_replicated_deduplication_window": WINDOW,
        "ttl_only_drop_parts": 1,
    }
    if embedded:
        of |= OF_FOLDER
    if embedded and not coarse:
        of |= _IN_ONE_FILE
    return (
        f"CREATE TABLE IF NOT EXISTS {database}.{level.table} (\n{lines}\n)\n"
        f"ENGINE = {'AggregatingMergeTree' if coarse else 'MergeTree'}\n"
        f"PARTITION BY {'toYYYYMM' if monthly else 'toDate'}({level.column})\n"
        f"ORDER BY ({first}{_NAMES}, recording, edge, {level.column})\n"
        f"{kept}"
        f"SETTINGS {settings(of)}\n"
        f"COMMENT '{COMMENT}'"
    )


def _aggregated(name: str, kind: str) -> str:
    function = function_of(name)
    return f"SimpleAggregateFunction({function}, {kind})" if function else kind


def _view_of(database: str, level: LevelTable) -> str:
    return (
        f"CREATE MATERIALIZED VIEW IF NOT EXISTS {database}.{level.table}_of_minutes"
        f" TO {database}.{level.table} AS\n"
        f"SELECT {level.start} AS {level.column}, {summed(level)}\n"
        f"FROM {database}.flows_1m AS f\nGROUP BY {keys_of(level)}"
    )


def _told(
    database: str,
    table: str,
    columns: Mapping[str, str],
    key: str,
    keep_days: int | None,
    *,
    embedded: bool,
) -> str:
    at = [name.removesuffix("_ns") for name in columns if name.endswith("_ns")]
    lines = [f"{name} {kind}" for name, kind in columns.items()]
    lines.append("told_ns Int64")
    lines += [
        f"{name}_at Nullable(DateTime64(9, 'UTC')) ALIAS fromUnixTimestamp64Nano({name}_ns, 'UTC')"
        for name in at
    ]
    kept = ""
    if table in KEPT_UNTIL and keep_days is not None:
        kept = f"TTL {KEPT_UNTIL[table]} + INTERVAL {keep_days} DAY\n"
    of = f"SETTINGS {settings(OF_FOLDER)}\n" if embedded else ""
    return (
        f"CREATE TABLE IF NOT EXISTS {database}.{table} (\n{_lines(iter(lines))}\n)\n"
        f"ENGINE = ReplacingMergeTree(told_ns)\nORDER BY ({key})\n{kept}{of}"
        f"COMMENT '{COMMENT}'"
    )
