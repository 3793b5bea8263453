"""
The names in a file that a filter may ask for.

They complete what is typed, and stand beside a name that is not there.
"""

import sqlite3
from collections.abc import Mapping

from ctk.model import Field

_MOST = 20_000  # comparing so many with what was asked takes 50 ms

_NAMES: Mapping[Field, str] = {
    "namespace": "SELECT namespace FROM endpoint WHERE namespace IS NOT NULL",
    "pod": "SELECT namespace || '/' || name FROM endpoint WHERE kind = 'pod'",
    "workload": "SELECT namespace || '/' || workload FROM endpoint WHERE workload IS NOT NULL",
    "service": "SELECT service FROM edge WHERE service IS NOT NULL",
    "node": "SELECT COALESCE(node, name) FROM endpoint WHERE node IS NOT NULL OR kind = 'node'",
    "zone": "SELECT zone FROM node_zone WHERE zone IS NOT NULL",
}
_LABELS = """
    SELECT label.key FROM endpoint, json_each(endpoint.labels) AS label
    UNION SELECT label.key || '=' || label.value FROM endpoint, json_each(endpoint.labels) AS label
"""


def has_names(field: Field) -> bool:
    """Say whether a filter asks for a name."""
    return field in _NAMES


def names_of(conn: sqlite3.Connection, field: Field) -> list[str]:
    """Give the names that a filter may ask for, in order; none where it asks for no name."""
    found = _LABELS if field == "label" else _NAMES.get(field)
    if found is None:
        return []
    sql = f"SELECT DISTINCT * FROM ({found}) ORDER BY 1 LIMIT {_MOST}"
    return [name for (name,) in conn.execute(sql) if name]
