"""The tables in ClickHouse (ctk/fleet/clickhouse/tables.py), in chDB."""

import builtins

import pytest

from ctk.errors import CtkError, UsageError
from ctk.fleet.clickhouse import ddl, tables
from ctk.fleet.clickhouse.client import NoTablesError, connect, opened
from ctk.fleet.clickhouse.target import parse_target

MINUTE_S = 1_732_525_200
FOR_EVER = dict.fromkeys(("1m", "1h", "1d"))


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    return parse_target(f"chdb://{tmp_path_factory.mktemp('chdb') / 'ch'}", {})


@pytest.fixture(scope="module")
def client(target):
    with opened(target, database=False) as made:
        with pytest.raises(NoTablesError, match="has no tables of ctk"):
            tables.check(made)
        ddl.make(made, FOR_EVER)
        ddl.make(made, FOR_EVER)  # again changes nothing
    with opened(target) as client:
        tables.check(client)
        yield client


def insert(client, token, *rows):
    """Insert rows of minutes, each its minute, edge, connections and bytes_out."""
    values = {
        name: [None if "Nullable" in kind else 0] * len(rows)
        for name, kind in tables.FLOWS_1M.items()
    }
    for name, kind in tables.FLOWS_1M.items():
        if kind in ("String", "LowCardinality(String)"):
            values[name] = ["x"] * len(rows)
    values |= {
        "minute": [MINUTE_S + 60 * row[0] for row in rows],
        "edge": [row[1] for row in rows],
        "connections": [row[2] for row in rows],
        "bytes_out": [row[3] for row in rows],
        "first_seen_ns": [row[0] for row in rows],
        "last_seen_ns": [row[0] + 1 for row in rows],
    }
    settings = tables.settings_of(token)
    client.insert("flows_1m", tables.FLOWS_1M, list(values.values()), settings)


def test_a_token_counts_once_in_every_level_and_sums_are_equal(client):
    rows = [(0, 1, 2, 10), (1, 1, 3, 20), (2, 2, 1, None), (70, 1, 4, 1)]
    for _ in range(3):
        insert(client, "r/1", *rows)
    insert(client, "r/2", (3, 1, 5, 100))
    sums = "SELECT edge, sum(connections), sum(bytes_out), min(first_seen_ns), max(last_seen_ns)"
    expected = [(1, 14, 131, 0, 71), (2, 1, None, 2, 3)]
    for level in tables.LEVELS:
        found = client.query(f"{sums} FROM {level.table} GROUP BY edge ORDER BY edge").rows
        assert [tuple(row) for row in found] == expected, level
    hours = client.query("SELECT count() FROM (SELECT DISTINCT hour, edge FROM flows_1h)").rows
    assert hours == [(3,)]


def test_an_error_is_one_line_without_the_engine_s_own(client, target):
    with pytest.raises(CtkError) as raised:
        client.query("SELECT nothing FROM flows_1m")
    assert raised.value.message.startswith(f"{target.said}: Unknown expression identifier")
    assert "\n" not in raised.value.message
    assert "version" not in raised.value.message


@pytest.mark.parametrize(
    ("missing", "text", "hint"),
    [
        ("clickhouse_connect", "clickhouse://ch", "pip install 'ctk[fleet]'"),
        ("chdb", "chdb:///nowhere", "pip install 'ctk[chdb]'"),
    ],
)
def test_without_the_extra_one_line_says_what_to_install(monkeypatch, missing, text, hint):
    own = builtins.__import__

    def without(name, *args, **options):
        if name.partition(".")[0] == missing:
            raise ImportError(name)
        return own(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UsageError, match="is not installed here") as raised:
        connect(parse_target(text, {}))
    assert raised.value.hint == hint
