"""
What many nodes cost: `python tests/bench/fleet.py [truth|merge|top|ship]`, all by default.

truth: 100 simulated nodes, merged and shipped, against what they did, to the byte; merged with a
    node left out, with an older snapshot of one, and with one that wrote nothing for a while, too.
merge: ten files of a busy node, 1,000,000 flows each: seconds and peak memory.
top: 30 days of 100 nodes, merged; `ctk top` as a whole process.
ship: a busy node's day into chDB, and over HTTP: what it costs, and how large it is there.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).parents[1]))  # where the simulated nodes are
from fleetworld import SINCE, World, row
from generate import NODES, generate

import ctk
from ctk.fleet.clickhouse.client import opened
from ctk.fleet.clickhouse.target import PASSWORD, parse_target
from ctk.fleet.merge import merge
from ctk.store import connect
from ctk.timespan import DAY, HOUR, MINUTE

CTK = Path(sys.executable).with_name("ctk")
END_NS = 20_000 * DAY


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", default=["truth", "merge", "top", "ship"])
    parser.add_argument("--files", type=int, default=10)
    parser.add_argument("--flows", type=int, default=1_000_000)
    parser.add_argument("--nodes", type=int, default=100)
    parser.add_argument("--talks", type=int, default=20_000)
    parser.add_argument("--folder", type=Path, help="where files stay, for the next run")
    asked = parser.parse_args()
    with TemporaryDirectory() as made:
        folder = asked.folder or Path(made)
        folder.mkdir(exist_ok=True)
        found: dict[str, object] = {}
        if "truth" in asked.parts:
            found["truth"] = truth(folder / "truth", asked.nodes, asked.talks)
        if "merge" in asked.parts:
            paths = clones(folder / "merge", asked.files, asked.flows, 1)
            found["merge"] = measured(paths, folder / "merged.db")
        if "top" in asked.parts:
            paths = clones(folder / "top", asked.nodes, asked.flows // 10, 30)
            out = folder / "month.db"
            found["merge of 30 days"] = measured(paths, out, "--levels", "1m,1h,1d")
            found["top"] = {
                " ".join(words): seconds(CTK, "top", out, *words, "-o", "json")
                for words in (
                    [],
                    ["--since", "29d"],
                    ["--by", "src_workload,service", "--since", "29d"],
                    ["--by", "src_node_zone,dst_node_zone", "--since", "29d"],
                )
            }
        if "ship" in asked.parts:
            (path,) = clones(folder / "ship", 1, asked.flows, 1)
            with served(folder / "front") as to:  # first: chDB stays in this process's memory
                found["ship over HTTP"] = shipped(path, to)
            found["ship into chDB"] = shipped(path, f"chdb://{folder}/ch")
    json.dump(found, sys.stdout, indent=2)
    print()


def truth(folder: Path, nodes: int, talks: int) -> dict[str, object]:
    """Simulate nodes, and say whether what is merged of them is the truth."""
    world = World(nodes, services=nodes)
    span_ns = 2 * HOUR
    happened = world.talks(talks, span_ns)
    folder.mkdir(exist_ok=True)
    began_s = time.perf_counter()
    paths = world.write(folder, happened, span_ns, range(nodes))
    wrote_s = time.perf_counter() - began_s
    out = folder / "all.db"
    began_s = time.perf_counter()
    merge(paths, out)
    took_s = time.perf_counter() - began_s
    merge([path for path in paths if path.stem != "n7"], folder / "without.db")
    to = f"chdb://{folder}/ch"
    made = [CTK, "ship", "--init", "--retain=forever", "--to", to]
    began_s = time.perf_counter()
    subprocess.run([*made, *paths], check=True, capture_output=True)
    shipped_s = time.perf_counter() - began_s
    expected = [sum(talk.bytes_in for talk in happened)]
    expected.append(sum(_times(talk.sights, left_out=7) * talk.bytes_in for talk in happened))
    early = SINCE + span_ns // 4
    rows = [
        row(talk, sight.edge, 0)
        for talk in happened
        for sight in talk.sights
        if sight.node == 5 and talk.at_ns < early
    ]
    world.write_node(folder / "older.db", 5, rows, span_ns // 4)
    merge([folder / "older.db", *paths], folder / "newest.db")
    gap = SINCE + 30 * MINUTE, SINCE + 60 * MINUTE
    (folder / "gap").mkdir(exist_ok=True)
    silent = [
        talk._replace(sights=tuple(sight for sight in talk.sights if sight.node != 5))
        if gap[0] <= talk.at_ns < gap[1]
        else talk
        for talk in happened
    ]
    with_gap = world.write(folder / "gap", silent, span_ns, range(nodes), skew_s=0)
    with connect.writer(folder / "gap" / "n5.db") as conn:
        conn.execute(
            "INSERT INTO gap(recording_id, kind, started_ns, ended_ns)"
            " VALUES (1, 'disk full', ?, ?)",
            gap,
        )
    merge(with_gap, folder / "gap.db")
    expected.append(
        sum(
            (_times(talk.sights, left_out=5) if gap[0] <= talk.at_ns < gap[1] else 1)
            * talk.bytes_in
            for talk in happened
        )
    )
    found = [_bytes_in(folder / name) for name in ("all.db", "without.db", "gap.db")]
    return {
        "nodes": nodes,
        "write_s": round(wrote_s, 1),
        "merge_s": round(took_s, 2),
        "merge_ms_a_node": round(1000 * took_s / nodes, 1),
        "ship_ms_a_node": round(1000 * shipped_s / nodes, 1),
        "shipped_is_equal": _bytes_in(to) == expected[0],
        "bytes": found[0],
        "equal": found[0] == expected[0],
        "bytes_without_n7": found[1],
        "equal_without_n7": found[1] == expected[1],
        "equal_with_an_older_snapshot": _bytes_in(folder / "newest.db") == expected[0],
        "bytes_with_a_gap": found[2],
        "equal_with_a_gap": found[2] == expected[2],
    }


def _times(sights: tuple[tuple[int, object], ...], left_out: int) -> int:
    """How often a connection counts where a node did not record: twice where it rewrote it."""
    nodes = [node for node, _ in sights]
    if len(nodes) == 3 and nodes[1] == left_out:
        return 2
    return int(any(node != left_out for node in nodes))


def _bytes_in(path: Path | str) -> int:
    with ctk.open(path) as recording:
        return recording.top(by="proto").totals.bytes_in or 0


def clones(folder: Path, count: int, flows: int, days: int) -> list[Path]:
    """Make files of several nodes: one is generated, and the others are it by other names."""
    folder.mkdir(exist_ok=True)
    first = folder / "node-0.db"
    if not first.exists():
        generate(first, flows, days, END_NS, seed=1)
        with connect.writer(first) as conn:
            conn.execute("UPDATE recording SET events = 1, boot_id = 'boot'")
            if days > 1:  # as a recorder that has run for a month
                conn.execute("DELETE FROM flow WHERE started_ns < ?", (END_NS - DAY,))
                conn.execute("DELETE FROM flow_1m WHERE started_ns < ?", (END_NS - 7 * DAY,))
                conn.execute("UPDATE level SET pruned_ns = ? WHERE name = 'flow'", (END_NS - DAY,))
                conn.execute(
                    "UPDATE level SET pruned_ns = ? WHERE name = '1m'", (END_NS - 7 * DAY,)
                )
                conn.execute("VACUUM")
    paths = [first]
    for i in range(1, count):
        path = folder / f"node-{i}.db"
        paths.append(path)
        if path.exists():
            continue
        shutil.copy(first, path)
        with connect.writer(path) as conn:
            # Whoever is on node-k is on node-(k + i) here.
            number = f"(CAST(substr(node, 6) AS INT) + {i}) % {max(count, NODES)}"
            conn.execute("UPDATE recorder SET node = ?", (f"node-{i}",))
            conn.execute(f"UPDATE endpoint SET node = 'node-' || ({number}) WHERE node IS NOT NULL")
            conn.execute("UPDATE endpoint SET name = ? WHERE kind = 'node'", (f"node-{i}",))
            conn.execute(f"UPDATE endpoint SET uid = uid || '-{i}' WHERE kind = 'pod'")
    return paths


def measured(paths: list[Path], out: Path, *words: str) -> dict[str, object]:
    """Merge in a process of its own: how long, and how much memory at most."""
    out.unlink(missing_ok=True)
    began_s = time.perf_counter()
    done = subprocess.Popen([CTK, "merge", *paths, "-o", out, *words])
    _, status, used = os.wait4(done.pid, 0)
    assert status == 0
    with connect.reader(out) as conn:
        rows = {
            table: conn.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0]
            for table in ("flow", "flow_1m", "flow_1h", "flow_1d", "edge", "endpoint")
        }
    return {
        "files": len(paths),
        "read_mb": sum(path.stat().st_size for path in paths) >> 20,
        "seconds": round(time.perf_counter() - began_s, 1),
        "cpu_s": round(used.ru_utime + used.ru_stime, 1),
        "peak_mb": used.ru_maxrss >> 10,
        "wrote_mb": out.stat().st_size >> 20,
        **rows,
    }


def shipped(path: Path, to: str) -> dict[str, object]:
    """Ship a file in a process of its own, and look what came of it."""
    for each in path.parent.glob("*-ship"):
        each.unlink()
    made = [CTK, "ship", "--init", "--retain=forever", "--to", to]
    subprocess.run(made, check=True, capture_output=True)
    began_s = time.perf_counter()
    done = subprocess.Popen([CTK, "ship", path, "--to", to])
    _, status, used = os.wait4(done.pid, 0)
    took_s = time.perf_counter() - began_s
    assert status == 0
    with opened(parse_target(to)) as client:
        tables = client.query(
            "SELECT table, sum(rows), sum(data_compressed_bytes) FROM system.parts"
            " WHERE active AND database = 'ctk' AND table LIKE 'flows_1_' GROUP BY 1 ORDER BY 1"
        ).rows
        (bytes_in,) = client.query("SELECT sum(bytes_in) FROM flows_1d").rows[0]
    return {
        "seconds": round(took_s, 1),
        "cpu_s": round(used.ru_utime + used.ru_stime, 1),
        "peak_mb": used.ru_maxrss >> 10,
        "equal": bytes_in == _bytes_in(path),
        "rows_and_kb": {name: [rows, size >> 10] for name, rows, size in tables},
    }


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Let chDB answer over HTTP, in a process of its own."""
    os.environ[PASSWORD] = "bench"
    front = Path(__file__).parents[1] / "clickhousefront.py"
    process = subprocess.Popen(
        [sys.executable, front, folder, "0", "bench"], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        yield f"clickhouse+http://ctk@127.0.0.1:{process.stdout.readline().strip()}/ctk"
    finally:
        process.terminate()
        process.wait()


def seconds(*words: object) -> float:
    """Run a command three times; the best of them."""
    best = 1e9
    for _ in range(3):
        began_s = time.perf_counter()
        subprocess.run([str(word) for word in words], check=True, capture_output=True)
        best = min(best, time.perf_counter() - began_s)
    return round(best, 2)


if __name__ == "__main__":
    main()
