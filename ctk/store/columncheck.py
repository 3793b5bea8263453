"""What is in a file that its columns are not made for: the first value that is wrong."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from typing import NamedTuple

from ctk.model.distinct import Distinct
from ctk.store.connect import migrate
from ctk.store.levels import LEVELS
from ctk.timespan import FOREVER_NS

# What SQLite calls what it stores in a column of this type, and what people call it.
_STORED = {
    "INTEGER": ("integer", "a whole number"),
    "TEXT": ("text", "text"),
    "BLOB": ("blob", "bytes"),
}
_JSON = {"labels": "object", "settings": "object", "addresses": "array", "ports": "array"}
_COUNTED = ("src_counted", "dst_counted")
_RECORDS = {  # bytes that are records: of how many bytes each (ctk/store/live.py)
    ("connection", "flow"): 8,
    ("connection", "keys"): 8,
    ("connection", "counters"): 40,
    ("idle", "connections"): 26,
}
# Of such times and counts the sums are ones that SQLite's integers hold.
_LAST_NS, _MOST = FOREVER_NS // 2, 2**53


def first_wrong(conn: sqlite3.Connection) -> str | None:
    """Say of the first value that is wrong what it is not."""
    conn.create_function("is_count", 1, _is_count)
    for table, columns in _tables():
        wrong = [f"({column.wrong})" for column in columns]
        sql = f"SELECT {', '.join(wrong)} FROM main.{table} WHERE {' OR '.join(wrong)} LIMIT 1"
        for row in conn.execute(sql):
            column = columns[row.index(1)]
            return f"{table}.{column.name} is not {column.said}"
    levels = {name for (name,) in conn.execute("SELECT name FROM level")}
    missing = [level.name for level in LEVELS if level.name not in levels]
    return f"level lacks {missing[0]}" if missing else None


def _is_count(stored: object) -> bool:
    try:
        return isinstance(stored, bytes) and len(Distinct.unpack(stored)) >= 0
    except ValueError:
        return False


class _CheckedColumn(NamedTuple):
    """A column: the condition that a value of it is `wrong`, and what it is to be."""

    name: str
    wrong: str
    said: str


def _tables() -> Iterator[tuple[str, list[_CheckedColumn]]]:
    """Yield the tables that migrations make, with their columns."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as conn:
        migrate(conn)
        made = "SELECT name FROM sqlite_master WHERE type = 'table' AND NOT name GLOB '_*'"
        columns = 'SELECT name, type, "notnull" OR pk FROM pragma_table_info(?)'
        for (table,) in conn.execute(made).fetchall():
            yield table, [_column(table, *each) for each in conn.execute(columns, (table,))]


def _column(table: str, name: str, kind: str, needed: bool) -> _CheckedColumn:
    stored, said = _STORED[kind]
    right = [f"typeof({name}) = '{stored}'"]
    if each := _RECORDS.get((table, name)):
        right.append(f"length({name}) % {each} = 0")
    elif name in _COUNTED:
        said = "a count of addresses"
        right.append(f"is_count({name})")
    elif name in _JSON:
        said = f"a JSON {_JSON[name]}"
        right.append(f"CASE WHEN json_valid({name}) THEN json_type({name}) = '{_JSON[name]}' END")
    elif name.endswith("_ns"):
        said = "a time"
        right.append(f"{name} BETWEEN -{_LAST_NS} AND {_LAST_NS}")
    elif name.endswith("port"):
        said = "a port"
        right.append(f"{name} BETWEEN 0 AND 65535")
    elif kind == "INTEGER" and name not in ("id", "n") and not name.endswith("_id"):
        said = "a whole number in its range"
        right.append(f"{name} BETWEEN 0 AND {_MOST}")
    wrong = f"({' AND '.join(right)}) IS NOT 1"
    return _CheckedColumn(name, wrong if needed else f"{name} IS NOT NULL AND {wrong}", said)
