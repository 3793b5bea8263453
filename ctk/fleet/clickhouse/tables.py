"""
The tables in ClickHouse.

`flows_1m` has what the flows of one edge of a file did in one minute; its hours and days are made
of it as it comes (`flows_1h`, `flows_1d`). All that observers saw is there: which of it counts is
told when it is asked (ctk/fleet/speaker.py), since the file that says so may come later.

`recording` is one file: the first recording in it (ship.py). Ids of edges, endpoints, recordings
and gaps are those of that file, so what changes there after it was shipped is told again, and the
newest row of its key is what holds. A row whose source or backend was unknown when it was shipped
is named by `endpoints` where (recording, id, address) are the same.

Times are nanoseconds, and beside them as DateTime64 for people. What is unknown is NULL.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple, get_args, get_type_hints

from ctk.fleet.clickhouse.client import Client, NoTablesError
from ctk.store.columns import COUNT_KEYS, FLOW_COLUMNS, FOLDED_KEYS, IDENTITY_KEYS, FlowRecord

COMMENT = "ctk, tables 1"  # tells their version

_TEXT, _TEXT_OR_NULL = "LowCardinality(String)", "LowCardinality(Nullable(String))"
_NUMBERS = {
    "ip_version": "Nullable(UInt8)",
    "zone": "UInt16",
    "dst_port": "Nullable(UInt16)",
    "nat_dst_port": "Nullable(UInt16)",
}
# Too many for a dictionary.
_ADDRESSES = {"src": "String", "dst": "String", "nat_dst": "Nullable(String)"}


def _any(hint: object) -> str:
    """Give what a column is that needs nothing narrower."""
    nullable = type(None) in get_args(hint)
    if int in (hint, *get_args(hint)):
        return "Nullable(UInt64)" if nullable else "UInt64"
    return _TEXT_OR_NULL if nullable else _TEXT


def _identity() -> dict[str, str]:
    """Give what a flow's keys are here; labels are of `endpoints`, source ports nowhere."""
    hints = get_type_hints(FlowRecord)
    return {
        key: _NUMBERS.get(key) or _ADDRESSES.get(key) or _any(hints[key])
        for key in IDENTITY_KEYS
        if key != "src_port" and not FLOW_COLUMNS[key].json
    }


IDENTITY: Mapping[str, str] = _identity()
# Whose row it is in its file; those of the edge and of endpoints are below zero for "other".
IDS = {"edge": "Int64", "src_id": "Int64", "dialled_id": "Int64", "dst_id": "Int64"}
COUNTS = {key: "Nullable(UInt64)" if FLOW_COLUMNS[key].measured else "UInt64" for key in COUNT_KEYS}
# When the first flow of a row began, and the last ended.
SEEN = {"first_seen_ns": "Int64", "last_seen_ns": "Int64"}
FOLDED = dict.fromkeys(FOLDED_KEYS, "Nullable(UInt64)")

FLOWS_1M: Mapping[str, str] = {
    "minute": "DateTime('UTC')",
    "recording": _TEXT,
    "batch": "UInt32",
    **IDENTITY,
    **IDS,
    **COUNTS,
    **SEEN,
    **FOLDED,
}


class LevelTable(NamedTuple):
    """A table that minutes are summed up in."""

    name: str
    table: str
    column: str  # the bucket's start
    start: str  # of a minute, as SQL
    width_s: int
    keep_days: int


MINUTES = LevelTable("1m", "flows_1m", "minute", "minute", 60, 30)
HOURS = LevelTable("1h", "flows_1h", "hour", "toStartOfHour(minute)", 3600, 90)
DAYS = LevelTable("1d", "flows_1d", "day", "toStartOfDay(minute)", 86400, 730)
LEVELS = (MINUTES, HOURS, DAYS)

# What the insert of a batch needs so that it counts once, whatever becomes of its answer.
WINDOW = 10_000  # batches whose token a table knows


def settings_of(token: str) -> dict[str, object]:
    """Give the settings with which a block that was inserted already is not inserted again."""
    return {
        "insert_deduplicate": 1,
        "insert_deduplication_token": token,
        "deduplicate_blocks_in_dependent_materialized_views": 1,
        # Its answer says that the block is there. Blocks of many servers together would spare
        # parts, but of those a server before 26 knows no token in the tables made of it.
        "async_insert": 0,
        # One block, so that all of it is there, or nothing.
        "max_insert_block_size": 1_000_000,
        "min_insert_block_size_rows": 1_000_000,
        "min_insert_block_size_bytes": 0,
        "input_format_parallel_parsing": 0,
    }


# How an object's row ends: its labels, and from when to when it was so.
_LIFE = {
    "labels": "String",  # JSON
    "valid_from_ns": "Int64",
    "valid_to_ns": "Nullable(Int64)",
    "end_inferred": "Bool",
}

# What is told beside flows. Of a key the row holds whose file goes furthest, which is `told_ns`.
TOLD: Mapping[str, tuple[Mapping[str, str], str]] = {
    "recordings": (
        {
            "recording": _TEXT,
            "id": "Int64",
            "cluster": _TEXT_OR_NULL,
            "cluster_uid": _TEXT_OR_NULL,
            "node": _TEXT,
            "boot_id": "Nullable(String)",
            "started_ns": "Int64",
            "committed_ns": "Int64",
            "ended_ns": "Nullable(Int64)",
            "version": _TEXT,
            "source": "String",
            "settings": "String",  # JSON
            "events": "UInt64",
            "lost": "UInt64",
            "malformed": "UInt64",
        },
        "recording, id",
    ),
    "gaps": (
        {
            "recording": _TEXT,
            "id": "Int64",
            "recording_id": "Int64",
            "cluster": _TEXT_OR_NULL,
            "node": _TEXT,
            "kind": _TEXT,
            "started_ns": "Int64",
            "ended_ns": "Int64",
            "lost": "Nullable(UInt64)",
            "detail": "Nullable(String)",
        },
        "recording, id",
    ),
    "endpoints": (
        {
            "recording": _TEXT,
            "id": "Int64",
            "address": "String",
            "kind": _TEXT,
            "namespace": _TEXT_OR_NULL,
            "name": "Nullable(String)",
            "workload": _TEXT_OR_NULL,
            "workload_kind": _TEXT_OR_NULL,
            "node": _TEXT_OR_NULL,
            "node_zone": _TEXT_OR_NULL,
            "labels": "Nullable(String)",  # JSON
            "uid": "Nullable(String)",
            "valid_from_ns": "Int64",
            "valid_to_ns": "Nullable(Int64)",
            "end_inferred": "Bool",
        },
        "recording, id",
    ),
    # Of these each recorder tells what is on its own node; services are every recorder's.
    "pods": (
        {
            "cluster": _TEXT_OR_NULL,
            "uid": "String",
            "namespace": _TEXT,
            "name": "String",
            "node": _TEXT_OR_NULL,
            "workload": _TEXT_OR_NULL,
            "workload_kind": _TEXT_OR_NULL,
            "phase": _TEXT_OR_NULL,
            "host_network": "Bool",
            "addresses": "String",  # JSON
            **_LIFE,
        },
        "uid, valid_from_ns",
    ),
    "services": (
        {
            "cluster": _TEXT_OR_NULL,
            "uid": "String",
            "namespace": _TEXT,
            "name": "String",
            "type": _TEXT_OR_NULL,
            "addresses": "String",  # JSON
            "ports": "String",  # JSON
            **_LIFE,
        },
        "uid, valid_from_ns",
    ),
    "nodes": (
        {
            "cluster": _TEXT_OR_NULL,
            "uid": "String",
            "name": _TEXT,
            "zone": _TEXT_OR_NULL,
            "addresses": "String",  # JSON
            **_LIFE,
        },
        "uid, valid_from_ns",
    ),
    # A batch that is there as a whole, by whom it was shipped: two copies of one file, both
    # shipped, would be two shippers of one batch.
    "batches": (
        {
            "recording": _TEXT,
            "batch": "UInt32",
            "shipper": "String",
            "node": _TEXT,
            "day": "Date",
            "level": _TEXT,  # which table of the file it was read from
            # Its flows start in this span, or where both are one, were written late for a time
            # before; `late_` are ids in the file's late_flow, up to the second.
            "from_ns": "Int64",
            "until_ns": "Int64",
            "late_from": "Int64",
            "late_until": "Int64",
            "rows": "UInt64",
            "connections": "UInt64",
            "bytes_out": "UInt64",
            "bytes_in": "UInt64",
        },
        "recording, batch, shipper",
    ),
}
_ENDS = {"gaps": "ended_ns", "endpoints": "valid_to_ns", "pods": "valid_to_ns"}
# From when on the days count for which a row stays; it is as long as flows stay by day.
KEPT_UNTIL: Mapping[str, str] = {
    table: f"toDateTime(intDiv(ifNull({column}, told_ns), 1000000000), 'UTC')"
    for table, column in _ENDS.items()
}
_KEPT = "extract(engine_full, 'TTL .*toIntervalDay\\\\(([0-9]+)\\\\)')"
# How long minutes stay, within another question.
MINUTES_KEPT = (
    f"(SELECT {_KEPT} FROM system.tables"
    f" WHERE database = {{database:String}} AND name = '{MINUTES.table}')"
)


def check(client: Client) -> Mapping[str, int | None]:
    """
    Refuse what has no tables of ctk, or those of another version.

    Gives how many days the rows of each table stay; None is for ever. It is asked once by a client,
    of however many files: what decides on what is deleted asks again.
    """
    if client.checked is not None:
        return client.checked
    found = {name: (comment, days) for name, comment, days in _there(client)}
    said = client.target.said
    if MINUTES.table not in found:
        raise NoTablesError(f"{said} has no tables of ctk", hint=f"ctk ship --init --to {said}")
    if found[MINUTES.table][0] != COMMENT:
        raise NoTablesError(
            f"{said} has tables of another version of ctk",
            hint="ship to another database, or ask with the version that made it",
        )
    client.checked = {name: days for name, (_, days) in found.items()}
    return client.checked


def kept_days(client: Client) -> Mapping[str, int | None]:
    """Give how many days the rows of each table stay; None is for ever."""
    return {name: days for name, _, days in _there(client)}


def days_of(kept: str) -> int | None:
    """Read how many days rows stay, as ClickHouse tells it."""
    return int(kept) if kept else None


def _there(client: Client) -> Iterator[tuple[str, str, int | None]]:
    found = client.query(
        f"SELECT name, comment, {_KEPT} FROM system.tables WHERE database = {{database:String}}",
        {"database": client.target.database},
    )
    for name, comment, days in found.rows:
        yield name, comment, days_of(days)


def function_of(name: str) -> str | None:
    if name in COUNTS:
        return "sum"
    # How many stand behind "other" in an hour is at least the most of its minutes.
    return {"first_seen_ns": "min", "last_seen_ns": "max"}.get(name) or (
        "max" if name in FOLDED else None
    )


def summed(level: LevelTable) -> str:
    """Give the SELECT list that sums minutes up to a level's rows, but for its bucket."""
    return ", ".join(
        f"{function}(f.{name}) AS {name}"
        if (function := function_of(name))
        else f"f.{name} AS {name}"
        for name in summed_names()
    )


def summed_names() -> list[str]:
    """Give the columns of hours and days but for their start, in the order of `summed`."""
    return [name for name in FLOWS_1M if name not in ("minute", "batch")]


def keys_of(level: LevelTable) -> str:
    """Give what rows of a level are told apart by, to group by."""
    names = (name for name in summed_names() if not function_of(name))
    return ", ".join([level.column, *(f"f.{name}" for name in names)])
