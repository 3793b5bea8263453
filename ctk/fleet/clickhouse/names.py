"""
Who was unknown when rows were shipped, and has a name since.

A file may have named an endpoint later; and what one file could not name another may, where nobody
else had that address then: the rule of ctk/fleet/identities.py.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ctk.fleet.clickhouse import tables
from ctk.fleet.clickhouse.client import Client
from ctk.fleet.clickhouse.conditions import Bound
from ctk.timespan import FOREVER_NS, SECOND


class Name(NamedTuple):
    """Who an endpoint is."""

    kind: str
    namespace: str | None
    name: str | None
    workload: str | None
    workload_kind: str | None
    node: str | None
    node_zone: str | None
    labels: str | None
    uid: str | None


EndpointKey = tuple[str, int]  # a file, and the id of an endpoint in it

_RENAMED = Name._fields[:6]  # columns of a row
_COLUMNS = ", ".join(Name._fields)


def names_since(
    client: Client,
    clusters: Mapping[str, str | None] | None,
    where: str,
    bound: Mapping[str, object],
) -> dict[EndpointKey, Name]:
    """Give the names that unknown sides of rows have by now; `where` is of days."""
    unknown = (
        "SELECT recording, src_id AS id FROM flows_1d WHERE src_kind = 'unknown' AND src_id > 0"
        f" AND {where} UNION DISTINCT SELECT recording, dst_id AS id FROM flows_1d"
        f" WHERE dst_kind = 'unknown' AND dst_id > 0 AND {where}"
    )
    found = client.query(
        f"SELECT recording, id, address, valid_from_ns, valid_to_ns, {_COLUMNS}"
        f" FROM endpoints FINAL WHERE (recording, id) IN ({unknown})",
        bound,
    ).rows
    if not found:
        return {}
    named: dict[EndpointKey, Name] = {}
    nameless: dict[str, list[Sequence[Any]]] = {}
    for recording, row_id, address, *of in found:
        name = Name._make(of[2:])
        if name.kind != "unknown":
            named[recording, row_id] = name
        elif clusters is not None:
            nameless.setdefault(address, []).append((recording, row_id, *of[:2]))
    if clusters is None or not nameless:
        return named
    known = client.query(
        f"SELECT address, recording, valid_from_ns, if(end_inferred, NULL, valid_to_ns), {_COLUMNS}"
        " FROM endpoints FINAL WHERE kind IN ('pod', 'node', 'service')"
        " AND has({addresses:Array(String)}, address) ORDER BY recording, id",
        {"addresses": list(nameless)},
    ).rows
    by_address: dict[str, list[Sequence[Any]]] = {}
    for address, *of in known:
        by_address.setdefault(address, []).append(of)
    for address, some in nameless.items():
        for recording, row_id, since_ns, until_ns in some:
            known_as = _name(clusters, recording, (since_ns, until_ns), by_address.get(address, ()))
            if known_as is not None:
                named[recording, row_id] = known_as
    return named


def _name(
    clusters: Mapping[str, str | None],
    recording: str,
    span: tuple[int, int | None],
    known: Sequence[Sequence[Any]],
) -> Name | None:
    since_ns, until_ns = span[0], FOREVER_NS if span[1] is None else span[1]
    then = [
        (began_ns, Name._make(name))
        for whose, began_ns, ended_ns, *name in known
        if clusters.get(whose) == clusters.get(recording)
        and began_ns < until_ns + SECOND
        and (ended_ns is None or ended_ns > since_ns)
    ]
    if len({(name.kind, name.namespace, name.name, name.uid) for _, name in then}) != 1:
        return None
    return next(
        (name for began_ns, name in then if name.kind == "node" or began_ns <= since_ns), None
    )


class Renamed:
    """Puts names that came later in the place of unknown sides."""

    def __init__(
        self, names: Mapping[EndpointKey, Name], zones: Mapping[str, str], bound: Bound
    ) -> None:
        self._keys = ""
        self._names: dict[str, str] = {}
        texts = "Array(String)"
        # A recorder may know the zone of its own node only: what each says of itself holds.
        self._zones = [bound.add(list(each), texts) for each in (zones, zones.values())]
        if names:
            keys = [f"{recording}/{row_id}" for recording, row_id in names]
            self._keys = bound.add(keys, texts)
            # As values of an expression: the planning of joins takes seconds.
            for name in _RENAMED:
                values = [getattr(each, name) or "" for each in names.values()]
                self._names[name] = bound.add(values, texts)

    def table(self, level: tables.LevelTable, needed: Sequence[str]) -> str:
        """Give the rows of a level, with the names of now."""
        zoned = [f"{side}_node_zone" for side in ("src", "dst")]
        if not self._names and not any(column in needed for column in zoned):
            return level.table
        columns = (level.column, *needed)
        picked = ", ".join(f"{self._of(column)} AS {column}" for column in columns)
        return f"(SELECT {picked} FROM {level.table} AS f)"

    def _of(self, column: str) -> str:
        side, _, name = column.partition("_")
        if side in ("src", "dst") and name == "node_zone":
            node = f"ifNull({self._of(f'{side}_node')}, '')"
            return f"nullIf(transform({node}, {', '.join(self._zones)}, ''), '')"
        if not self._names or side not in ("src", "dst") or name not in _RENAMED:
            return f"f.{column}"
        key = f"concat(f.recording, '/', toString(f.{side}_id))"
        new = f"transform({key}, {self._keys}, {self._names[name]}, '')"
        later = f"f.{side}_kind = 'unknown' AND {key} IN {self._keys}"
        text = f"nullIf({new}, '')" if name != "kind" else new
        return f"if({later}, {text}, f.{column})"
