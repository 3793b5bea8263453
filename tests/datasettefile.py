"""Makes docs/datasette.json: what Datasette says of a ctk file, from what ctk says of it."""

import json
from pathlib import Path

from ctk.migrations.migrations import migrations
from sqlite_utils import Database

from ctk.store.meanings import COLUMNS, VIEWS

FILE = Path(__file__).parent.parent / "docs" / "datasette.json"

# Those of docs/cookbook.md that need no value.
QUERIES = {
    "top_talkers": (
        "Who moved most",
        "select src_namespace, src_workload, service, sum(connections) as connections,"
        " sum(bytes_out + bytes_in) as bytes from flows_1h group by 1, 2, 3 order by bytes desc",
    ),
    "failures": (
        "What failed, by client and service",
        "select src_namespace, src_workload, service, dst, dst_port, sum(refused) as refused,"
        " sum(unreplied) as unreplied from flows_1h where refused + unreplied > 0"
        " group by 1, 2, 3, 4, 5 order by refused + unreplied desc",
    ),
}


def metadata() -> str:
    """Give the file for a `node.db`: views first, tables hidden, a sentence for each column."""
    db = Database(memory=True)
    migrations.apply(db)
    tables = {table: {"hidden": True} for table in db.table_names()}
    db.close()
    views = {
        view: {
            "description": VIEWS[view],
            "columns": dict(COLUMNS[view]),
            **({"sort_desc": "started_ns"} if "started_ns" in COLUMNS[view] else {}),
        }
        for view in VIEWS
    }
    queries = {
        name: {"title": title, "sql": sql, "hide_sql": False}
        for name, (title, sql) in QUERIES.items()
    }
    node = {
        "description": "What a Kubernetes node's connections did, recorded by ctk.",
        "queries": queries,
        "tables": {**views, **tables},
    }
    return json.dumps({"title": "ctk", "databases": {"node": node}}, indent=1) + "\n"
