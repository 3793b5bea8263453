"""The history of pods, services and nodes: a row for every way that each of them stood."""

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

from ctk.model import ZONE_LABEL
from ctk.model.addresses import packed
from ctk.model.history import KnownObject, ObjectClosed, ObjectRecord, PodTimes
from ctk.timespan import SECOND

_OBJECT_COLUMNS = {
    "pod": "uid, namespace, name, node, workload, workload_kind, phase, host_network,"
    " addresses, labels",
    "service": "uid, namespace, name, type, addresses, ports, labels",
    "node": "uid, name, addresses, labels",
}

# What the next recording decides by, as this one did; no part of how a pod stands.
_TIMES = PodTimes._fields

# Whether a row, of an endpoint too, was open when the knowledge of all recordings ended: it was
# closed then, or where it began if it was told after the last commit of events.
OPEN_THEN = "(end_inferred AND valid_to_ns = MAX(valid_from_ns, ?))"


def record(conn: sqlite3.Connection, change: ObjectRecord, closed_ns: int | None) -> None:
    """
    Store how an object stands from then on; the row before it ends there.

    One that stood so when the last recording ended, at `closed_ns`, goes on in its row.
    """
    if change.kind == "node":
        _record_zone(conn, change)
    table, columns = change.kind, _OBJECT_COLUMNS[change.kind]
    row = tuple(_object_value(change, column) for column in columns.split(", "))
    last = conn.execute(
        f"SELECT id, valid_to_ns IS NULL OR {OPEN_THEN}, {columns} FROM {table} WHERE uid = ?"
        " ORDER BY valid_from_ns DESC, id DESC LIMIT 1",
        (closed_ns, change.uid),
    ).fetchone()
    if last is not None:
        last_id, is_open, *content = last
        if tuple(content) == row and is_open:
            _reopen(conn, change, last_id, closed_ns)
            return
        conn.execute(
            f"UPDATE {table} SET valid_to_ns = MAX(valid_from_ns, ?)"
            " WHERE id = ? AND valid_to_ns IS NULL",
            (change.valid_from_ns, last_id),
        )
    if change.times is not None:
        columns, row = f"{columns}, {', '.join(_TIMES)}", (*row, *change.times)
    bound = ",".join("?" * (len(row) + 1))
    conn.execute(
        f"INSERT INTO {table}({columns}, valid_from_ns) VALUES ({bound})",
        (*row, change.valid_from_ns),
    )


def _record_zone(conn: sqlite3.Connection, node: ObjectRecord) -> None:
    zone = node.labels.get(ZONE_LABEL)
    if zone is None:
        conn.execute("DELETE FROM node_zone WHERE node = ?", (node.name,))
    else:
        conn.execute("INSERT OR REPLACE INTO node_zone VALUES (?, ?)", (node.name, zone))


def _reopen(
    conn: sqlite3.Connection, change: ObjectRecord, row_id: int, closed_ns: int | None
) -> None:
    conn.execute(
        f"UPDATE {change.kind} SET valid_to_ns = NULL, end_inferred = 0 WHERE id = ?", (row_id,)
    )
    if change.times is not None:
        # Its address is known since the state was told first, and so is what came after.
        later = _TIMES[2:]
        conn.execute(
            f"UPDATE pod SET {', '.join(f'{name} = IFNULL(?, {name})' for name in later)}"
            " WHERE id = ?",
            (*change.times[2:], row_id),
        )
    conn.executemany(
        "UPDATE endpoint SET valid_to_ns = NULL, end_inferred = 0"
        f" WHERE packed = ? AND uid = ? AND {OPEN_THEN}",
        [(packed(address), change.uid, closed_ns) for address in change.addresses],
    )


def known_objects(
    conn: sqlite3.Connection, since_ns: int, closed_ns: int | None
) -> Iterator[KnownObject]:
    """
    Yield pods, then nodes, as they stood at some time from `since_ns` on, each oldest first.

    A pod is one of them until its grace is over: until then it may have its address.

    One that was open when the knowledge of all recordings ended, at `closed_ns`, has no end.
    """
    kinds: tuple[Literal["pod", "node"], ...] = ("pod", "node")
    for kind in kinds:
        columns = _OBJECT_COLUMNS[kind].split(", ")
        times = ("sure_until_ns", *_TIMES) if kind == "pod" else ("NULL",)
        grace_ns = f"IFNULL(grace_s, 0) * {SECOND}" if kind == "pod" else "0"
        found = conn.execute(
            f"SELECT CASE WHEN NOT {OPEN_THEN} THEN valid_to_ns END,"
            f" end_inferred, valid_from_ns, {', '.join((*columns, *times))} FROM {kind}"
            f" WHERE valid_to_ns IS NULL OR valid_to_ns + {grace_ns} >= ?"
            " ORDER BY valid_from_ns, id",
            (closed_ns, since_ns),
        )
        for valid_to_ns, end_inferred, valid_from_ns, *values in found:
            fields = dict(zip(columns, values, strict=False))
            sure_until_ns, *told = values[len(columns) :]
            record = _object(kind, valid_from_ns, fields, told)
            inferred = bool(end_inferred) and valid_to_ns is not None
            yield KnownObject(record, valid_to_ns, inferred, sure_until_ns if inferred else None)


def _object(
    kind: Literal["pod", "node"], valid_from_ns: int, fields: dict[str, Any], told: list[Any]
) -> ObjectRecord:
    fields = {"namespace": None} | fields
    if told and told[0] is not None:
        fields["times"] = PodTimes._make(told)
    fields["addresses"] = tuple(json.loads(fields["addresses"]))
    fields["labels"] = json.loads(fields["labels"])
    if "host_network" in fields:
        fields["host_network"] = bool(fields["host_network"])
    return ObjectRecord(kind=kind, valid_from_ns=valid_from_ns, **fields)


def close(conn: sqlite3.Connection, change: ObjectClosed, closed_ns: int | None) -> None:
    """
    End an object's row.

    One that stood so when the last recording ended, at `closed_ns`, may have gone on after that.
    """
    is_open = f"(valid_to_ns IS NULL OR {OPEN_THEN})"
    if change.sure_until_ns is not None:
        conn.execute(
            f"UPDATE pod SET sure_until_ns = ? WHERE uid = ? AND {is_open}",
            (change.sure_until_ns, change.uid, closed_ns),
        )
    conn.execute(
        f"UPDATE {change.kind} SET valid_to_ns = ?, end_inferred = ? WHERE uid = ? AND {is_open}",
        (change.valid_to_ns, change.inferred, change.uid, closed_ns),
    )


def close_open(conn: sqlite3.Connection, at_ns: int) -> None:
    """End every interval that a former recording left open: what came after is not known."""
    for kind in _OBJECT_COLUMNS:
        conn.execute(
            f"UPDATE {kind} SET valid_to_ns = MAX(valid_from_ns, ?), end_inferred = 1"
            " WHERE valid_to_ns IS NULL",
            (at_ns,),
        )


def compact(value: Mapping[str, str] | Iterable[str]) -> str:
    """JSON text that is equal where the values are."""
    plain = dict(value) if isinstance(value, Mapping) else list(value)
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _object_value(change: ObjectRecord, column: str) -> object:
    value = getattr(change, column)
    if column in ("addresses", "labels", "ports"):
        return compact(value)
    return int(value) if isinstance(value, bool) else value
