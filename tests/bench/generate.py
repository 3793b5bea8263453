"""
Make a file as one busy node would have written it: `python tests/bench/generate.py OUT`.

2,000 pods on 20 nodes, 300 services, 50,000 external addresses. One side of every connection is
one of 100 pods of this node, or the node itself: each workload talks to a handful of services,
everybody to DNS; some call out, some are called from outside through a NodePort. Who talks how
often follows Zipf, and who talks goes on for some windows, as keep-alive connections, polls and
downloads do. Rows go through the recorder's own writer and folding; flows of all days stay.
"""

import argparse
import json
import random
import sqlite3
import sys
import time
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

from ctk.model import Edge, Endpoint, EventCounts, FlowRow
from ctk.store import connect
from ctk.store.write import Writer
from ctk.timespan import DAY, HOUR, SECOND

sys.path.insert(0, str(Path(__file__).parents[1]))  # what the tests make edges with
from edges import edge, with_ids

NODES, PODS, LOCAL_PODS, SERVICES, EXTERNALS = 20, 2_000, 100, 300, 50_000
CALLED_SERVICES, CALLED_EXTERNALS = 5, 400  # by one workload, by one node's pod that calls out
CALLS_OUT, CALLED_FROM_OUTSIDE = 0.10, 0.10  # of all flows
NAMESPACES = ("shop", "pay", "search", "mail", "ops", "data", "web", "batch")
PORTS = (80, 443, 5432, 6379, 8080, 8443, 9090, 9200, 3306, 50051)
FIRST = (3, 8, 34, 52, 93, 142, 185)  # of external addresses
WINDOW = 10 * SECOND
GOES_ON = 0.8  # how often an edge that had a row in a window has one in the next

TABLES = ("flow", "edge", "endpoint", "flow_1m", "flow_1h", "flow_1d")

Counts = tuple[int, int, int, int, int, int, int, int, int, int]


class Cluster:
    """Who there is, and which edges this node's traffic has, the most used first."""

    def __init__(self, rng: random.Random, since_ns: int) -> None:
        def address(i: int) -> str:
            return f"10.244.{i % NODES}.{i // NODES + 2}"

        self.node = Endpoint(address="10.0.0.1", kind="node", valid_from_ns=since_ns, name="node-0")
        self.pods = [
            Endpoint(
                address=address(i),
                kind="pod",
                valid_from_ns=since_ns,
                namespace=NAMESPACES[i // 5 % len(NAMESPACES)],
                name=f"app-{i // 5}-{i:05x}",
                workload=f"app-{i // 5}",
                workload_kind="Deployment",
                node=f"node-{i % NODES}",
                labels={"app": f"app-{i // 5}", "pod-template-hash": f"{i // 5 * 7919:x}"},
                uid=f"uid-{i}",
            )
            for i in range(PODS)
        ]
        self.services = [
            Endpoint(
                address=f"10.96.{i >> 8}.{i & 255}",
                kind="service",
                valid_from_ns=since_ns,
                namespace=NAMESPACES[i % len(NAMESPACES)],
                name=f"svc-{i}",
                uid=f"svc-{i}",
            )
            for i in range(SERVICES)
        ]
        self.backends = [
            rng.sample(self.pods, rng.choice((1, 2, 2, 3, 3, 5))) for _ in self.services
        ]
        self.ports = [rng.choice(PORTS) for _ in self.services]
        self.externals = [
            Endpoint(
                address=f"{rng.choice(FIRST)}.{i >> 16}.{i >> 8 & 255}.{i & 255}",
                kind="external",
                valid_from_ns=since_ns,
            )
            for i in range(EXTERNALS)
        ]
        self.local = [pod for pod in self.pods if pod.node == "node-0"][:LOCAL_PODS]
        self.inside = list(self._calls_inside(rng))
        self.out = list(self._calls_out(rng))
        self.doors = rng.sample(range(SERVICES), 8)

    def _calls_inside(self, rng: random.Random) -> Iterator[Edge]:
        called: dict[str | None, list[int]] = {}
        for pod in rng.sample(self.local, len(self.local)):
            yield from self._to_service(pod, 0, "udp", 53)
            for service in called.setdefault(
                pod.workload, rng.sample(range(1, SERVICES), CALLED_SERVICES)
            ):
                yield from self._to_service(pod, service, "tcp", self.ports[service])
            # Somebody calls it, too; and the kubelet looks whether it is well.
            caller = rng.choice(self.pods)
            yield edge("tcp", 0, caller, pod, 8080, None, pod, None, None, None)
            yield edge("tcp", 0, self.node, pod, 8080, None, pod, None, None, None)

    def _to_service(self, pod: Endpoint, i: int, proto: str, port: int) -> Iterator[Edge]:
        service = self.services[i]
        name = f"{service.namespace}/{service.name}"
        for backend in self.backends[i]:
            yield edge(proto, 0, pod, service, port, None, backend, 8000 + i, name, "address")

    def _calls_out(self, rng: random.Random) -> Iterator[Edge]:
        weights = list(accumulate(zipf(EXTERNALS)))
        for pod in self.local[:25]:
            for peer in rng.choices(self.externals, cum_weights=weights, k=CALLED_EXTERNALS):
                yield edge("tcp", 0, pod, peer, 443, self.node.address, peer, None, None, None)

    def called_from_outside(self, peer: Endpoint, rng: random.Random) -> Edge:
        i = rng.choice(self.doors)
        service, backend = self.services[i], rng.choice(self.backends[i])
        name = f"{service.namespace}/{service.name}"
        return edge("tcp", 0, peer, self.node, 30_000 + i, None, backend, 8000 + i, name, "address")


def zipf(n: int) -> list[float]:
    return [1 / rank for rank in range(1, n + 1)]


def counts(rng: random.Random) -> Counts:
    """What one row of a flow counts: some connections, of which a few fail."""
    connections = rng.choice((0, 1, 1, 1, 1, 2, 3, 6))
    failed = rng.random() < 0.01
    sent, received = int(rng.lognormvariate(7, 1.5)) + 60, int(rng.lognormvariate(8, 2)) + 60
    return (
        *(connections, connections, 2 * connections, connections),
        *(int(failed), int(failed and rng.random() < 0.5)),
        *(sent, sent // 700 + 4, received, received // 1200 + 3),
    )


def hours(
    cluster: Cluster, rng: random.Random, flows: int, since_ns: int, until_ns: int
) -> Iterator[tuple[int, list[FlowRow]]]:
    """Yield each hour's end and its rows, the same number in every hour, but for rounding."""
    pool = [counts(rng) for _ in range(4096)]
    shares = {"out": CALLS_OUT, "in": CALLED_FROM_OUTSIDE}
    shares["inside"] = 1 - sum(shares.values())
    among: dict[str, list[Any]] = {
        "inside": cluster.inside,
        "out": cluster.out,
        "in": cluster.externals,
    }
    weights = {name: list(accumulate(zipf(len(edges)))) for name, edges in among.items()}
    n_hours = (until_ns - since_ns) // HOUR
    from_outside: dict[Endpoint, Edge] = {}
    for hour in range(n_hours):
        start_ns = since_ns + hour * HOUR
        n_rows = flows * (hour + 1) // n_hours - flows * hour // n_hours
        made: list[FlowRow] = []
        for name, share in shares.items():
            n = int(n_rows * share) if name != "inside" else n_rows - len(made)
            chosen = rng.choices(among[name], cum_weights=weights[name], k=n)
            going_on = talks(rng, n)
            for (window, talk), counted in zip(going_on, rng.choices(pool, k=n), strict=True):
                talked = chosen[talk]
                if name == "in":
                    talked = from_outside.get(talked) or from_outside.setdefault(
                        talked, cluster.called_from_outside(talked, rng)
                    )
                offset_ns = int(rng.random() * WINDOW)
                at_ns = start_ns + window * WINDOW + offset_ns
                ended_ns = at_ns + int(rng.random() * (WINDOW - offset_ns))
                # A row of one connection has its source port, as record writes it.
                port = rng.randrange(32_768, 61_000) if counted[0] <= 1 else None
                made.append(FlowRow(talked, at_ns, ended_ns, port, *counted))
        yield start_ns + HOUR, made


def talks(rng: random.Random, rows: int) -> Iterator[tuple[int, int]]:
    """Yield (window of the hour, which talk): talks of windows in a row."""
    windows, window, talk = HOUR // WINDOW, 0, -1
    on = False
    for _ in range(rows):
        if on and window + 1 < windows:
            window += 1
        else:
            window, talk = int(rng.random() * windows), talk + 1
        on = rng.random() < GOES_ON
        yield window, talk


def generate(out: Path, flows: int, days: int, until_ns: int, seed: int) -> dict[str, float]:
    """Write the file; what it measured of itself."""
    rng = random.Random(seed)
    until_ns -= until_ns % HOUR
    since_ns = until_ns - days * DAY
    cluster = Cluster(rng, since_ns)
    keep = {"flow": (days + 1) * DAY}
    written = 0
    began = time.perf_counter()
    with connect.writer(out) as conn:
        writer = Writer(
            conn, node="node-0", source="generated", settings={}, started_ns=since_ns, boot_id=None
        )
        for end_ns, rows in hours(cluster, rng, flows, since_ns, until_ns):
            written += len(rows)
            counts_so_far = EventCounts(events=written * 4)
            writer.window(with_ids(writer, rows), committed_ns=end_ns, counters=counts_so_far)
            for _ in writer.maintain(end_ns, keep):
                pass
        for _ in writer.fold_open():
            pass
        writer.finish(until_ns)
    with connect.reader(out) as conn:
        return {"flows": flows, "seconds": time.perf_counter() - began, **sizes(conn)}


def sizes(conn: sqlite3.Connection) -> dict[str, float]:
    """Bytes a flow, by whole pages, as they lie in the file."""
    page_bytes = conn.execute("PRAGMA page_size").fetchone()[0]
    flows = max(1, conn.execute("SELECT COUNT(*) FROM flow").fetchone()[0])
    pages = {table: count_pages(conn, table) * page_bytes for table in TABLES}
    fine = pages["flow"] + pages["edge"] + pages["endpoint"]
    rollups = pages["flow_1m"] + pages["flow_1h"] + pages["flow_1d"]
    rows = {table: conn.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0] for table in TABLES}
    return {
        **{f"{table}_rows": float(n) for table, n in rows.items()},
        **{f"{table}_bytes_per_flow": round(n / flows, 1) for table, n in pages.items()},
        "bytes_per_flow": round(fine / flows, 1),
        "rollups_on_top": round(rollups / fine, 3),
    }


def count_pages(conn: sqlite3.Connection, table: str) -> int:
    """Pages of a table and its indexes (SQLite's dbstat, which Debian's and Python's have)."""
    row = conn.execute(
        "SELECT SUM(pageno) FROM dbstat WHERE aggregate = TRUE AND name IN"
        " (SELECT name FROM sqlite_master WHERE tbl_name = ?)",
        (table,),
    ).fetchone()
    return int(row[0] or 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--flows", type=int, default=1_000_000)
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--until-ns", type=int, default=time.time_ns(), help="end of the last day")
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    measured = generate(asked.out, asked.flows, asked.days, asked.until_ns, asked.seed)
    json.dump(measured, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
