"""
What a question to a fleet's ClickHouse costs: `python tests/bench/fleetasked.py`.

30 days of 100 nodes in chDB: one node's flows are shipped, and the others are it by other names.
`ctk top` as a whole process, and beside it the import and the opening of chDB. To fill the tables
takes some ten minutes: with --folder they stay.
"""

import argparse
import compileall
import json
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from fleet import CTK, END_NS, seconds
from generate import generate

import ctk
from ctk.fleet.clickhouse import ddl, tables
from ctk.fleet.clickhouse.client import Client, opened
from ctk.fleet.clickhouse.ship import shipper_of
from ctk.fleet.clickhouse.target import parse_target
from ctk.store import connect

NODES = 100
_OPEN = (
    "import sys, chdb, clickhouse_connect as c;"
    "c.get_client(interface='chdb', path=sys.argv[1], database='ctk')"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--flows", type=int, default=100_000, help="of a node")
    parser.add_argument("--folder", type=Path, help="where the tables stay, for the next run")
    asked = parser.parse_args()
    # As after `make install`, also where PYTHONDONTWRITEBYTECODE is set.
    compileall.compile_dir(Path(ctk.__file__).parent, quiet=1)
    with TemporaryDirectory() as made:
        folder = asked.folder or Path(made)
        target = f"chdb://{folder / 'ch'}"
        found: dict[str, object] = {}
        if not (folder / "ch").exists():
            began_s = time.perf_counter()
            found["rows"] = fill(folder, target, asked.flows)
            found["fill_s"] = round(time.perf_counter() - began_s, 1)
        found["import and open chDB"] = seconds(sys.executable, "-c", _OPEN, folder / "ch")
        found["top"] = {
            " ".join(words): seconds(CTK, "top", target, *words, "--no-spark")
            for words in (
                [],
                ["--by", "src_workload,service"],
                ["--by", "src_node_zone,dst_node_zone"],
                ["--by", "workloads", "--from-kind", "pod", "--sort", "connections"],
            )
        }
    json.dump(found, sys.stdout, indent=2)
    print()


def fill(folder: Path, target: str, flows: int) -> dict[str, int]:
    """Ship a node's file, and copy its rows for the others; give the rows of each table."""
    file = folder / "node-0.db"
    generate(file, flows, 30, END_NS, seed=1)
    with connect.writer(file) as conn:
        conn.execute("UPDATE recording SET events = 1, boot_id = 'boot'")
    to = parse_target(target)
    with opened(to, database=False) as client:
        ddl.make(client, dict.fromkeys(level.name for level in tables.LEVELS))
    with opened(to) as client:
        with shipper_of(file, to.said) as shipper:
            shipper.ship(client)
        for i in range(1, NODES):
            copy(client, "flows_1m", list(tables.FLOWS_1M), i)
            copy(client, "recordings", [*tables.TOLD["recordings"][0], "told_ns"], i)
        names = [level.table for level in tables.LEVELS]
        return {name: client.query(f"SELECT count() FROM {name}").rows[0][0] for name in names}


def copy(client: Client, table: str, columns: list[str], i: int) -> None:
    """Copy rows of node-0 for node i: whoever is on node-k is on node-(k + i) there."""

    def moved(name: str) -> str:
        number = f"modulo(toInt32OrZero(substring(ifNull({name}, ''), 6)) + {i}, {NODES})"
        return f"if({name} IS NULL, NULL, concat('node-', toString({number})))"

    changed = {
        "recording": f"concat(recording, '-{i}')",
        "node": f"'node-{i}'",
        "src_node": moved("src_node"),
        "dst_node": moved("dst_node"),
    }
    picked = ", ".join(changed.get(name, f"f.{name}") for name in columns)
    client.command(
        f"INSERT INTO {table} ({', '.join(columns)}) SELECT {picked} FROM {table} AS f"
        " WHERE f.node = 'node-0'",
        {"max_partitions_per_insert_block": 1000},
    )


if __name__ == "__main__":
    main()
