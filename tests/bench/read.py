"""
What answers cost: `make bench`, or `python tests/bench/read.py`.

Generates files as one busy node would have written them (generate.py), asks them what people ask,
and times each question as a whole process, start of Python and all: the median of three. Others
answer the same questions from the same rows, where they are installed and their format can hold
them: DuckDB over Parquet, SQLite over one flat table, nfdump. Shown as tables and in
bench-results/; files are kept there and used again.
"""

import argparse
import csv
import importlib.util
import json
import os
import shutil
import socket
import sqlite3
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from ipaddress import IPv4Address
from pathlib import Path
from statistics import median
from typing import NamedTuple

import generate
from interactive import interactive
from listeners import CTK
from tabulate import tabulate

from ctk.store.connect import SCHEMA

RESULTS = Path(__file__).parents[2] / "bench-results"
DAYS = 30
ROUNDS = 3
SECOND, MINUTE, HOUR, DAY = 10**9, 60 * 10**9, 3600 * 10**9, 86_400 * 10**9
MOST_FLAT = 2_000_000  # a flat table of more takes gigabytes
NAMED = (
    *("started_ns", "ended_ns", "proto", "src", "dst", "dst_port", "src_kind", "src_namespace"),
    *("src_name", "src_workload", "src_node", "dst_kind", "dst_namespace", "dst_name"),
    *("dst_workload", "dst_node", "service", "connections", "unreplied", "refused", "bytes_out"),
    *("packets_out", "bytes_in", "packets_in"),
)
DUCKDB = "import duckdb, sys; print(duckdb.sql(sys.argv[1]))"
SQLITE = (
    "import sqlite3, sys\n"
    "print(*sqlite3.connect(sys.argv[1]).execute(sys.argv[2]).fetchall(), sep='\\n')"
)
RANKED = (
    "SELECT {keys}, sum(bytes_out + bytes_in) AS bytes FROM {rows}"
    " WHERE started_ns >= {since} AND started_ns < {until} GROUP BY {keys}"
    " ORDER BY bytes DESC LIMIT 20"
)
KEYS = (
    "dst_name",
    "service",
    "dst_workload",
    "dst_namespace",
    "dst_node",
    "dst_port",
    "dst",
    "src_workload,service",
    "src_name,dst_name",
    "src_namespace,dst_port",
)
COMPARED = ("service", "src_name,dst_name", "dst_port", "dst")
NFDUMP = {"dst_port": "dstport/bytes", "dst": "dstip/bytes"}


class Span(NamedTuple):
    name: str
    since_ns: int
    until_ns: int


class Tool(NamedTuple):
    """Another way to answer: the program for a ranking, or None where it cannot."""

    name: str
    file_bytes: int
    argv: Callable[[Span, str], Sequence[str | Path] | None]


def seconds(argv: Sequence[str | Path]) -> float:
    """How long the whole process takes: the median of three, after one to warm the caches."""
    took = []
    for _ in range(1 + ROUNDS):
        began = time.perf_counter()
        subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        took.append(time.perf_counter() - began)
    return round(median(took[1:]), 3)


def spans(until_ns: int) -> list[Span]:
    odd_since_ns = until_ns - 17 * DAY - 5 * HOUR - 23 * MINUTE - 7 * SECOND
    return [
        Span("1 h", until_ns - HOUR, until_ns),
        Span("24 h", until_ns - DAY, until_ns),
        Span("30 d", until_ns - DAYS * DAY, until_ns),
        Span("odd", odd_since_ns, odd_since_ns + 9 * DAY + 100 * MINUTE + 13 * SECOND),
    ]


def text(time_ns: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time_ns // SECOND))


def filters(db: Path) -> Iterator[Sequence[str]]:
    """One filter of each kind, for what is neither common nor absent."""
    with sqlite3.connect(f"file:{db}?mode=ro", uri=True) as conn:
        pod, namespace, workload, node, address, port = conn.execute(
            "SELECT dst_name, dst_namespace, dst_workload, dst_node, dst, dst_port FROM flows"
            " WHERE dst_kind = 'pod' AND service IS NOT NULL LIMIT 1 OFFSET 500"
        ).fetchone()
        (service,) = conn.execute(
            "SELECT service FROM edge WHERE service_via IS NOT NULL"
        ).fetchone()
        (rare,) = conn.execute(
            "SELECT address FROM endpoint WHERE kind = 'external' ORDER BY id DESC LIMIT 1"
        ).fetchone()
    conn.close()
    yield ()
    yield ("--pod", f"{namespace}/{pod}")
    yield ("--workload", f"{namespace}/{workload}")
    yield ("--namespace", namespace)
    yield ("--service", service)
    yield ("--label", f"app={workload}")
    yield ("--node", node)
    yield ("--kind", "external")
    yield ("--ip", address)
    yield ("--ip", rare)
    yield ("--ip", "10.244.0.0/16")
    yield ("--to-port", str(port))
    yield ("--protocol", "udp")
    yield ("--failed",)


def export(db: Path, form: str, where: Path) -> dict[str, object]:
    """What one export of all flows to a file costs, as a whole process."""
    out = where / f"flows.{form}"
    argv = (CTK, "export", db, "--format", form, "--output", out)
    began = time.perf_counter()
    with subprocess.Popen(argv, stderr=subprocess.DEVNULL) as process:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    took = time.perf_counter() - began
    size = out.stat().st_size
    out.unlink()
    return {
        "export": form,
        "s": round(took, 2),
        "CPU s": round(used.ru_utime + used.ru_stime, 2),
        "peak MB": round(used.ru_maxrss / 1024, 1),
        "file MB": round(size / 10**6, 1),
    }


def ask_ctk(db: Path, until_ns: int, where: Path) -> dict[str, list[dict[str, object]]]:
    ranked: list[dict[str, object]] = []
    for keys in KEYS:
        row: dict[str, object] = {"top --by": keys}
        for span in spans(until_ns):
            times = ("--since", text(span.since_ns), "--until", text(span.until_ns))
            row[f"{span.name}, s"] = seconds((CTK, "top", db, "--by", keys, *times))
        ranked.append(row)
    listed: list[dict[str, object]] = [
        {
            "query --last 50": " ".join(chosen),
            "s": seconds((CTK, "query", db, "--last", "50", *chosen)),
        }
        for chosen in filters(db)
    ]
    exported = [export(db, form, where) for form in ("jsonl", "log", "csv", "parquet")]
    waited = list(interactive(db))
    return {"COMMAND": waited, "top": ranked, "query": listed, "export": exported}


def others(db: Path, where: Path, flows: int) -> Iterator[Tool]:
    """Make what the others read, once, and yield those that are here."""
    rows = where / "rows.csv"
    duckdb = importlib.util.find_spec("duckdb") is not None
    if duckdb:
        parquet = where / "rows.parquet"
        if not parquet.exists():
            write_csv(db, rows)
            copy = f"COPY (FROM read_csv('{rows}')) TO '{parquet}'"
            subprocess.run([sys.executable, "-c", DUCKDB, copy], check=True, capture_output=True)
            rows.unlink()
        yield Tool(
            "DuckDB",
            parquet.stat().st_size,
            lambda span, keys: (*(sys.executable, "-c", DUCKDB), sql(f"'{parquet}'", span, keys)),
        )
    else:
        print("without DuckDB: pip install duckdb")
    if flows <= MOST_FLAT:
        flat = where / "flat.db"
        if not flat.exists():
            with sqlite3.connect(flat) as conn:
                conn.execute("ATTACH ? AS ctk", (str(db),))
                conn.execute("CREATE TABLE flat AS SELECT * FROM ctk.flows")
                conn.execute("CREATE INDEX flat_time ON flat(started_ns)")
            conn.close()
        yield Tool(
            "flat SQLite",
            flat.stat().st_size,
            lambda span, keys: (*(sys.executable, "-c", SQLITE, flat), sql("flat", span, keys)),
        )
    if shutil.which("nfcapd") and shutil.which("nfdump"):
        captured = where / "nfdump"
        if not captured.exists():
            send_netflow(db, captured)
        size = sum(path.stat().st_size for path in captured.iterdir())
        yield Tool("nfdump", size, lambda span, keys: nfdump(captured, span, keys))
    else:
        print("without nfdump: none here (Debian: nfdump)")


def sql(rows: str, span: Span, keys: str) -> str:
    return RANKED.format(keys=keys, rows=rows, since=span.since_ns, until=span.until_ns)


def nfdump(captured: Path, span: Span, keys: str) -> Sequence[str | Path] | None:
    if keys not in NFDUMP:
        return None  # it has no names
    times = "-".join(
        time.strftime("%Y/%m/%d.%H:%M:%S", time.localtime(at_ns // SECOND)) for at_ns in span[1:]
    )
    return ("nfdump", "-R", captured, "-t", times, "-s", NFDUMP[keys], "-n", "20")


def write_csv(db: Path, out: Path) -> None:
    with sqlite3.connect(f"file:{db}?mode=ro", uri=True) as conn, out.open("w") as file:
        writer = csv.writer(file)
        writer.writerow(NAMED)
        writer.writerows(conn.execute(f"SELECT {', '.join(NAMED)} FROM flows"))
    conn.close()


def send_netflow(db: Path, captured: Path) -> None:
    """Let nfcapd write the rows, sent to it as NetFlow version 5 over loopback."""
    captured.mkdir()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as chosen:
        chosen.bind(("127.0.0.1", 0))
        port = chosen.getsockname()[1]
    argv: list[str | Path] = [
        "nfcapd",
        "-w",
        captured,
        "-b",
        "127.0.0.1",
        "-p",
        str(port),
        "-t",
        "86400",
        "-B",
        "200000000",
    ]
    collector = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(1)
    header, record = struct.Struct(">HHIIIIBBH"), struct.Struct(">4s4s4sHHIIIIHHBBBBHHBBH")
    with (
        sqlite3.connect(f"file:{db}?mode=ro", uri=True) as conn,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock,
    ):
        (first_ns,) = conn.execute("SELECT min(started_ns) FROM flow").fetchone()
        rows = conn.execute(
            "SELECT src, dst, dst_port, proto, started_ns, ended_ns, bytes_out + bytes_in,"
            " packets_out + packets_in FROM flows WHERE ip_version = 4"
        )
        sent = 0
        while some := rows.fetchmany(30):
            payload = b"".join(
                record.pack(
                    *(IPv4Address(src).packed, IPv4Address(dst).packed, bytes(4), 0, 0),
                    *(packets, size, (began - first_ns) // 10**6, (ended - first_ns) // 10**6),
                    *(0, dst_port or 0, 0, 0, 6 if proto == "tcp" else 17, 0, 0, 0, 0, 0, 0),
                )
                for src, dst, dst_port, proto, began, ended, size, packets in some
            )
            uptime_ms = DAYS * DAY // 10**6
            at_s, at_ns = divmod(first_ns + uptime_ms * 10**6, SECOND)
            head = header.pack(5, len(some), uptime_ms, at_s, at_ns, sent & 0xFFFFFFFF, 0, 0, 0)
            sock.sendto(head + payload, ("127.0.0.1", port))
            sent += len(some)
    conn.close()
    time.sleep(2)
    collector.terminate()
    collector.wait()


def compare(db: Path, until_ns: int, where: Path, flows: int) -> list[dict[str, object]]:
    """The same questions to all: seconds, and the bytes a flow that they keep for it."""
    compared: list[dict[str, object]] = []
    for tool in others(db, where, flows):
        for keys in COMPARED:
            row: dict[str, object] = {
                "tool": tool.name,
                "bytes/flow": round(tool.file_bytes / flows, 1),
                "top --by": keys,
            }
            for span in spans(until_ns):
                argv = tool.argv(span, keys)
                if argv is not None:
                    row[f"{span.name}, s"] = seconds(argv)
            if len(row) > 3:
                compared.append(row)
    return compared


def show(title: str, rows: Sequence[dict[str, object]]) -> None:
    print(f"{title}\n\n{tabulate(rows, headers='keys', floatfmt='g')}\n", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--flows", type=int, action="append", help="how many; several allowed")
    parser.add_argument("--alone", action="store_true", help="ctk only")
    parser.add_argument("--output", type=Path, default=RESULTS / "read.json")
    options = parser.parse_args()
    results: dict[str, object] = {}
    for flows in options.flows or (1_000_000, 10_000_000):
        where = RESULTS / f"read-{flows}-{SCHEMA[-1]}"  # a file of an older schema is refused
        where.mkdir(parents=True, exist_ok=True)
        db = where / "node.db"
        if not (where / "sizes.json").exists():
            print(f"generating {flows:,} flows", flush=True)
            db.unlink(missing_ok=True)
            made = generate.generate(db, flows, DAYS, time.time_ns(), seed=1)
            (where / "sizes.json").write_text(json.dumps(made))
        sizes = json.loads((where / "sizes.json").read_text())
        with sqlite3.connect(f"file:{db}?mode=ro", uri=True) as conn:
            (last_ns,) = conn.execute("SELECT max(started_ns) FROM flow").fetchone()
        conn.close()
        until_ns = last_ns - last_ns % HOUR + HOUR
        answers = ask_ctk(db, until_ns, where)
        columns = ("bytes_per_flow", "rollups_on_top")
        show(f"{flows:,} flows", [{name: sizes[name] for name in columns}])
        for question, rows in answers.items():
            show(f"ctk {question}, {flows:,} flows", rows)
        result: dict[str, object] = {"sizes": sizes, **answers}
        if not options.alone:
            result["others"] = rows = compare(db, until_ns, where, flows)
            show(f"others, {flows:,} flows", rows)
        results[str(flows)] = result
    options.output.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
