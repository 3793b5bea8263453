"""
What knowing a cluster costs: time to list it, memory, and CPU while its pods change.

    python tests/bench/watch.py [--pods 10000] [--seconds 30]

Runs `ctk record` (as root, in a namespace of its own) against the tests' API server, whose pods
have two addresses each, a service for every twenty, and a hundred nodes. `behind_s` is the longest
that a commit was behind while pods changed; the window is 10 s.
"""

import argparse
import copy
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
KUBE = ROOT / "fixtures" / "kube"
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "live")]

from apiserver import ApiServer, Json  # noqa: E402
from playednode import PlayedNode, inside  # noqa: E402

CHANGES_A_MINUTE = 10_000
_TICKS = os.sysconf("SC_CLK_TCK")


def first(name: str, start: str = "") -> Json:
    """The recorded object by the beginning of its name."""
    answer = json.loads((KUBE / name).read_text(encoding="utf-8"))
    kind = answer["kind"].removesuffix("List")
    found = next(item for item in answer["items"] if item["metadata"]["name"].startswith(start))
    return {"kind": kind, **found}


def named(template: Json, name: str, namespace: str, uid: str) -> Json:
    made = copy.deepcopy(template)
    made["metadata"].update(name=name, namespace=namespace, uid=uid)
    return made


def fill(api: ApiServer, pods: int) -> list[Json]:
    """Put so many pods into the cluster, and what goes with them; gives the pods."""
    pod, service = first("pods.page2.json", "web"), first("services.json", "web")
    backends, node = first("endpointslices.json", "web"), first("nodes.json")
    made: list[Json] = []
    for i in range(pods):
        app, namespace = f"app-{i // 20}", f"ns-{i // 20 % 50}"
        each = named(pod, f"{app}-7c65d6cfc9-{i:05x}", namespace, f"{i:08x}-e42e-4037-a587-12d45")
        each["metadata"]["labels"] = {
            "app": app,
            "pod-template-hash": "7c65d6cfc9",
            "app.kubernetes.io/name": app,
            "app.kubernetes.io/instance": f"{app}-{i % 3}",
        }
        each["metadata"]["ownerReferences"][0]["name"] = f"{app}-7c65d6cfc9"
        env = [{"name": f"VARIABLE_{n}", "value": "x" * 40} for n in range(30)]
        each["spec"]["containers"][0]["env"] = env
        each["spec"]["nodeName"] = f"node-{i % 100}"
        address = f"10.244.{i // 250}.{i % 250 + 1}"
        each["status"]["podIP"] = address
        each["status"]["podIPs"] = [{"ip": address}, {"ip": f"fd00:10:244::{i + 1:x}"}]
        made.append(api.put(each))
        if i % 20:
            continue
        front = named(service, app, namespace, f"service-{i}")
        cluster = f"10.96.{i // 5000}.{i // 20 % 250 + 1}"
        front["spec"].update(clusterIP=cluster, clusterIPs=[cluster])
        front["spec"]["ports"][0]["nodePort"] = 30000 + i // 20
        api.put(front)
        back = named(backends, f"{app}-x", namespace, f"slice-{i}")
        back["metadata"]["labels"]["kubernetes.io/service-name"] = app
        back["endpoints"] = [
            {"addresses": [f"10.244.{n // 250}.{n % 250 + 1}"], "conditions": {"ready": True}}
            for n in range(i, i + 20)
        ]
        api.put(back)
    for i in range(100 if pods else 0):
        each = named(node, f"node-{i}", "", f"node-{i}")
        each["status"]["addresses"] = [{"type": "InternalIP", "address": f"172.18.0.{i + 2}"}]
        api.put(each)
    return made


@contextmanager
def recorder(api: ApiServer, folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], Path, float]]:
    """Record until every resource is listed and watched; gives how long that took."""
    db = folder / f"{len(list(folder.iterdir()))}.db"
    kubeconfig = api.kubeconfig(folder / "kubeconfig")
    began = time.monotonic()
    command = [sys.executable, "-m", "ctk", "record", str(db), "--kubeconfig", str(kubeconfig)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        while sum(each.watching for each in api.requests) < 4 and process.poll() is None:
            time.sleep(0.01)
        took_s = time.monotonic() - began
        time.sleep(5)  # a commit, and what the lists left for the collector
        yield process, db, took_s
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)


def cpu_s(process: subprocess.Popen[bytes]) -> float:
    fields = (
        Path(f"/proc/{process.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    )
    return (int(fields[11]) + int(fields[12])) / _TICKS


def memory_mib(process: subprocess.Popen[bytes]) -> float:
    text = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
    return int(text.partition("VmRSS:")[2].split()[0]) / 1024


def storm(api: ApiServer, pods: list[Json], seconds: float, db: Path) -> tuple[int, float]:
    """
    Change labels, delete pods and make others in their place, evenly, with a connection each.

    Gives how many changes, and how far behind commits were at most.
    """
    began, changes, behind_s = time.monotonic(), 0, 0.0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        while (passed_s := time.monotonic() - began) < seconds:
            n = changes % len(pods)
            if changes % 4 < 2:
                labels = {**pods[n]["metadata"]["labels"], "rev": str(changes)}
                pods[n]["metadata"]["labels"] = labels
                api.put(pods[n])
            else:
                api.delete(pods[n])
                changes += 1
                other = named(pods[n], pods[n]["metadata"]["name"], "other", f"new-{changes}")
                pods[n] = api.put(other)
            changes += 1
            sock.sendto(b"x", ("127.0.0.1", 1 + changes))
            if changes % 100 == 0 and passed_s > 15:
                behind_s = max(behind_s, (time.time_ns() - committed_ns(db)) / 1e9)
            time.sleep(max(0.0, began + changes * 60 / CHANGES_A_MINUTE - time.monotonic()))
    return changes, behind_s


def committed_ns(db: Path) -> int:
    with closing(sqlite3.connect(f"file:{db}?mode=ro", uri=True)) as conn:
        (found,) = conn.execute("SELECT max(committed_ns) FROM recording").fetchone()
    return int(found)


def measure(pods: int, seconds: float) -> dict[str, Any]:
    """Everything, in one run."""
    with tempfile.TemporaryDirectory() as name:
        with ApiServer() as empty, recorder(empty, Path(name)) as (process, _, _):
            empty_mib = memory_mib(process)
        with ApiServer() as api:
            made = fill(api, pods)
            with recorder(api, Path(name)) as (process, db, took_s):
                listed_mib, before_s, began = memory_mib(process), cpu_s(process), time.monotonic()
                changes, behind_s = storm(api, made, seconds, db)
                took = time.monotonic() - began
                return {
                    "pods": pods,
                    "listed_s": round(took_s, 2),
                    "empty_mib": round(empty_mib, 1),
                    "listed_mib": round(listed_mib - empty_mib, 1),
                    "changes_a_minute": round(changes / took * 60),
                    "core_percent": round((cpu_s(process) - before_s) / took * 100, 1),
                    "storm_mib": round(memory_mib(process) - listed_mib, 1),
                    "behind_s": round(behind_s, 1),
                }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--pods", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=30)
    args = parser.parse_args()
    with PlayedNode() as played, inside(played.node):
        measured = measure(args.pods, args.seconds)
    for key, value in measured.items():
        print(f"{key:20}{value:>12,}")


if __name__ == "__main__":
    main()
