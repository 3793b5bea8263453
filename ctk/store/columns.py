"""
The columns of a flow, declared once.

`FlowRecord` is a row of the views of flows and what a reader gets; each field carries its SQL.
The views (views.py), the readers (ask/), the encoders of JSON (render/) and the live records
(record/rows.py) are made from it. `EdgeRow` and ENDPOINT_IDENTITY are what the tables
`edge` and `endpoint` hold; the statements that write, find and fold them are made from these.

A new column of an edge is a field of the value that it comes from, a field of `EdgeRow`, a field
of `FlowRecord` with what it means (meanings.py), and a migration that adds it to the table and
makes the views anew. What the kernel tells beside both tuples rides in a `FlowKey`.
"""

import re
from collections.abc import Mapping
from typing import Annotated, NamedTuple

from ctk.model import Kind, Via


class Column(NamedTuple):
    """
    Where a key of a flow comes from.

    `sql` is over the tables of JOINS and `f`, a table of flows. Three things are said of `f` with
    a placeholder, since its tables differ in them: {ended_ns}, {src_port} and {level}.
    """

    sql: str
    json: bool = False  # it is JSON, stored as text
    time_of: str | None = None  # the key of the time, in ns, that this one spells as RFC 3339
    counted: bool = False  # every rollup sums it up
    measured: bool = False  # counted, and NULL where the kernel did not count it


def rfc3339(time_ns: str) -> str:
    """Give the SQL of an RFC 3339 UTC text, to the nanosecond; NULL stays NULL."""
    seconds = f"strftime('%Y-%m-%dT%H:%M:%S', ({time_ns}) / 1000000000, 'unixepoch')"
    return f"{seconds} || printf('.%09dZ', ({time_ns}) % 1000000000)"


def _count(key: str) -> Column:
    return Column(f"f.{key}", counted=True)


def _measured(key: str) -> Column:
    return Column(f"f.{key}", counted=True, measured=True)


def _counted(column: str) -> str:
    """Give the SQL of a column of `folded`, which has rows for edges that stand for many only."""
    same = "folded.started_ns = f.started_ns AND folded.edge_id = f.edge_id"
    found = f"SELECT {column} FROM folded WHERE folded.level = '{{level}}' AND {same}"
    return f"CASE WHEN f.edge_id < 0 THEN ({found}) END"


# The edges that stand for many have no address on one side, or none on both.
_IP_VERSION = (
    "CASE COALESCE(NULLIF(length(src.packed), 0), length(dialled.packed))"
    " WHEN 4 THEN 4 WHEN 16 THEN 6 END"
)


class FlowRecord(NamedTuple):
    """
    One row of the views and one line of `-o jsonl` (design.md, section 5): a flow as it is read.

    Labels are JSON text, as they are stored.
    """

    started_at: Annotated[str, Column(rfc3339("f.started_ns"), time_of="started_ns")]
    ended_at: Annotated[str, Column(rfc3339("{ended_ns}"), time_of="ended_ns")]
    started_ns: Annotated[int, Column("f.started_ns")]
    ended_ns: Annotated[int, Column("{ended_ns}")]
    cluster: Annotated[str | None, Column("recorder.cluster")]
    node: Annotated[str, Column("recorder.node")]
    proto: Annotated[str, Column("edge.proto")]
    # None where both sides are folded into "other".
    ip_version: Annotated[int | None, Column(_IP_VERSION)]
    zone: Annotated[int, Column("edge.zone")]
    src: Annotated[str, Column("src.address")]
    src_port: Annotated[int | None, Column("{src_port}")]
    dst: Annotated[str, Column("dialled.address")]
    dst_port: Annotated[int | None, Column("edge.dst_port")]
    nat_src: Annotated[str | None, Column("edge.nat_src")]
    nat_dst: Annotated[str | None, Column("NULLIF(backend.address, dialled.address)")]
    nat_dst_port: Annotated[int | None, Column("edge.nat_dst_port")]
    src_kind: Annotated[Kind, Column("src.kind")]
    src_namespace: Annotated[str | None, Column("src.namespace")]
    src_name: Annotated[str | None, Column("src.name")]
    src_workload: Annotated[str | None, Column("src.workload")]
    src_workload_kind: Annotated[str | None, Column("src.workload_kind")]
    src_node: Annotated[str | None, Column("src.node")]
    src_node_zone: Annotated[str | None, Column("src_zone.zone")]
    src_labels: Annotated[str | None, Column("src.labels", json=True)]
    dst_kind: Annotated[Kind, Column("backend.kind")]
    dst_namespace: Annotated[str | None, Column("backend.namespace")]
    dst_name: Annotated[str | None, Column("backend.name")]
    dst_workload: Annotated[str | None, Column("backend.workload")]
    dst_workload_kind: Annotated[str | None, Column("backend.workload_kind")]
    dst_node: Annotated[str | None, Column("backend.node")]
    dst_node_zone: Annotated[str | None, Column("dst_zone.zone")]
    dst_labels: Annotated[str | None, Column("backend.labels", json=True)]
    service: Annotated[str | None, Column("edge.service")]
    service_via: Annotated[Via | None, Column("edge.service_via")]
    connections: Annotated[int, _count("connections")]
    new_events: Annotated[int, _count("new_events")]
    update_events: Annotated[int, _count("update_events")]
    destroy_events: Annotated[int, _count("destroy_events")]
    unreplied: Annotated[int, _count("unreplied")]
    refused: Annotated[int, _count("refused")]
    bytes_out: Annotated[int | None, _measured("bytes_out")]
    packets_out: Annotated[int | None, _measured("packets_out")]
    bytes_in: Annotated[int | None, _measured("bytes_in")]
    packets_in: Annotated[int | None, _measured("packets_in")]
    # How many addresses stand behind "other"; None where a side is one address.
    src_addresses: Annotated[int | None, Column(_counted("src_addresses"))] = None
    dst_addresses: Annotated[int | None, Column(_counted("dst_addresses"))] = None


FLOW_COLUMNS: Mapping[str, Column] = {
    key: next(each for each in hint.__metadata__ if isinstance(each, Column))
    for key, hint in FlowRecord.__annotations__.items()
}
FLOW_KEYS: tuple[str, ...] = FlowRecord._fields

# The counts of a row: summed by every rollup and by `top`.
COUNT_KEYS = tuple(key for key, column in FLOW_COLUMNS.items() if column.counted)
MEASURED_KEYS = tuple(key for key, column in FLOW_COLUMNS.items() if column.measured)
JSON_KEYS = tuple(key for key, column in FLOW_COLUMNS.items() if column.json)
FOLDED_KEYS = ("src_addresses", "dst_addresses")  # NULL unless an edge stands for many
# What is neither a time nor a count.
IDENTITY_KEYS = FLOW_KEYS[FLOW_KEYS.index("cluster") : FLOW_KEYS.index("connections")]

# What a row of a table of flows says itself, times in ns; the rest of a flow is said by its edge.
ROW_KEYS = tuple(
    key
    for key, column in FLOW_COLUMNS.items()
    if column.time_of is None and ("{" in column.sql or column.sql.startswith("f."))
)
EDGE_KEYS = tuple(
    key for key, column in FLOW_COLUMNS.items() if column.time_of is None and key not in ROW_KEYS
)

# LEFT JOIN lets SQLite leave out the joins that a question does not use. The `+` keeps the table
# of flows outermost, so that a span of started_ns is a range of its primary key, in order: with
# it no index, made up for one question or not, can find flows by their edge.
EDGE_JOIN = "LEFT JOIN edge ON edge.id = +f.edge_id"
JOINS: Mapping[str, str] = {
    "recorder": "LEFT JOIN recorder ON recorder.id = +edge.recorder_id",
    "src": "LEFT JOIN endpoint AS src ON src.id = +edge.src_id",
    "dialled": "LEFT JOIN endpoint AS dialled ON dialled.id = +edge.dialled_id",
    "backend": "LEFT JOIN endpoint AS backend ON backend.id = +edge.backend_id",
    "src_zone": "LEFT JOIN node_zone AS src_zone ON src_zone.node = +src.node",
    "dst_zone": "LEFT JOIN node_zone AS dst_zone ON dst_zone.node = +backend.node",
}


_TABLE = r"\b(\w+)\."  # in front of one of its columns


def joins_of(expressions: str) -> str:
    """Give the joins to `edge` that these expressions, and the joins themselves, need."""
    needed: list[str] = []
    named = set(re.findall(_TABLE, expressions))
    for table, join in reversed(list(JOINS.items())):
        if table in named:
            named.update(re.findall(_TABLE, join))
            needed.insert(0, join)
    return " ".join(needed)


def flow_sql(
    ended_ns: str = "f.started_ns + f.lasted_ns",
    src_port: str = "f.src_port",
    level: str = "flow",
) -> dict[str, str]:
    """Give the SQL of every key, over a level's table, which says its end and source port so."""
    return {
        key: column.sql.replace("{ended_ns}", ended_ns)
        .replace("{src_port}", src_port)
        .replace("{level}", level)
        for key, column in FLOW_COLUMNS.items()
    }


class EdgeRow(NamedTuple):
    """The columns of `edge` beside its id. The rows of three endpoints come first."""

    src_id: int
    dialled_id: int
    backend_id: int
    recorder_id: int
    proto: str
    zone: int
    dst_port: int | None
    nat_src: str | None
    nat_dst_port: int | None
    service: str | None  # "namespace/name"
    service_via: Via | None
    failed: bool | None = None  # of an edge that stands for many: its rows have failures


EDGE_SIDES = EdgeRow._fields.index("recorder_id")  # that many ids of endpoints come first
# What an edge's row takes from the edge itself, by the same names.
EDGE_OWN = EdgeRow._fields[EdgeRow._fields.index("proto") :]


def edge_path(column: str) -> str:
    """Give where an `Edge` has what is in a column of its row: in itself, or in its tuples."""
    from ctk.model import Edge

    return column if hasattr(Edge, column) else f"flow.{column}"


# What tells the endpoints of one address apart: the columns of `endpoint` that `Endpoint` has too.
ENDPOINT_IDENTITY = (
    "kind",
    "namespace",
    "name",
    "workload",
    "workload_kind",
    "node",
    "uid",
    "labels",
)
