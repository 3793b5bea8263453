"""
What recording costs: `make bench`, or `python tests/bench/record.py`, as root.

Floods a network namespace of its own with connections, and measures who listens: each alone on
the same flood, in turns, so that the machine's moods hit all alike. The median of the rounds is
shown, as a table and in bench-results/. At the end all listen beside each other to one flood, and
have to agree on what they saw.

The kernel's limit of entries holds for all namespaces: it is raised for the run and put back.
"""

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import NamedTuple

import cluster
import listeners
from listeners import Listener
from tabulate import tabulate

HERE = Path(__file__).parent
RESULTS = HERE.parents[1] / "bench-results"
LIMIT = Path("/proc/sys/net/netfilter/nf_conntrack_max")
ENTRIES = 4_000_000
SOURCES = 200
PODS = 10_000
FILLED = 200_000
EVENTS_A_CONNECTION = {"udp": 1, "tcp": 7}
NAMESPACE = """
table inet bench {
    chain services {
        type nat hook output priority -100
        ip daddr 10.96.0.80 tcp dport 80 dnat ip to 10.244.39.1:8080
    }
    chain early {
        type filter hook prerouting priority raw
        udp dport 5353 drop
    }
}
"""
NFNL_CONNTRACK = "12"  # NETLINK_NETFILTER in /proc/net/netlink
QUIET_S, QUIET_NS = 0.3, 4_000_000  # a process that takes no more has nothing to do
PATIENCE_S = 60


class Mix(NamedTuple):
    """A flood, and how ctk is to record it."""

    name: str
    kind: str
    connections: int
    options: tuple[str, ...] = ()
    filled: bool = False  # FILLED entries stand in the table before anybody listens
    unseen: bool = False  # ctk's filter matches none of it, so the kernel drops it


MIXES = (
    Mix("udp", "udp", 400_000),
    Mix("tcp", "tcp", 50_000),
    Mix("filled", "udp", 400_000, filled=True),
    Mix("none", "udp", 400_000, ("--aggregate", "none")),
    Mix("tcp none", "tcp", 50_000, ("--aggregate", "none")),
    Mix("unmatched", "udp", 400_000, ("--cidr", "192.0.2.0/24"), unseen=True),
)


class Run(NamedTuple):
    """What one listener took for one flood."""

    events: int  # that the kernel made
    seen: int
    lost: int
    rows: int
    rate: float  # connections a second
    start_s: float  # CPU until it was ready
    flood_s: float  # CPU until it had nothing more to do
    stop_s: float  # CPU from the signal to its end
    peak_bytes: int
    file_bytes: int

    @property
    def us_an_event(self) -> float:
        """All it took but for its start: what is written at the end belongs to the events."""
        return (self.flood_s + self.stop_s) / self.handled * 1e6

    @property
    def handled(self) -> int:
        """What it lost cost it nothing; what a filter spared it did."""
        return self.events if self.seen == 0 else self.seen


class Started:
    """A listener's process."""

    def __init__(self, listener: Listener, where: Path, options: Sequence[str]) -> None:
        self.listener, self.where = listener, where
        where.mkdir()
        already = len(conntrack_sockets())
        argv = listener.prepare(where, options)
        with (where / "stdout").open("w") as out, (where / "stderr").open("w") as err:
            self.process = subprocess.Popen(argv, stdout=out, stderr=err)
        end = time.monotonic() + PATIENCE_S
        while len(conntrack_sockets()) == already:
            if time.monotonic() > end or self.process.poll() is not None:
                sys.exit(f"{listener.name} does not listen: {(where / 'stderr').read_text()}")
            time.sleep(0.02)
        self.settle()
        self.start_ns = self.cpu_ns()
        self.file_bytes = self._size()

    def cpu_ns(self) -> int:
        tasks = Path(f"/proc/{self.process.pid}/task").glob("*/schedstat")
        return sum(int(task.read_text().split()[0]) for task in tasks)

    def settle(self) -> None:
        """Wait until it has nothing to do."""
        end = time.monotonic() + PATIENCE_S
        before = -QUIET_NS
        while (now := self.cpu_ns()) - before >= QUIET_NS and time.monotonic() < end:
            before = now
            time.sleep(QUIET_S)

    def stop(self, *, events: int, seconds: float, connections: int) -> Run:
        pid = self.process.pid
        self.settle()
        flooded_ns = self.cpu_ns()
        lost = _drops(pid)
        self.process.send_signal(signal.SIGINT)
        peak = 0
        while True:
            peak = _peak_bytes(pid) or peak
            ended, code, usage = os.wait4(pid, os.WNOHANG)
            if ended:
                break
            time.sleep(0.01)
        self.process.returncode = os.waitstatus_to_exitcode(code)
        seen = self.listener.seen(self.where)
        used_s = usage.ru_utime + usage.ru_stime
        return Run(
            events,
            seen.events,
            lost,
            seen.rows,
            connections / seconds,
            self.start_ns / 1e9,
            (flooded_ns - self.start_ns) / 1e9,
            max(0.0, used_s - flooded_ns / 1e9),
            peak,
            self._size(),
        )

    def _size(self) -> int:
        return sum(path.stat().st_size for path in self.where.glob(self.listener.output + "*"))


def conntrack_sockets() -> list[list[str]]:
    """Every socket of this namespace that is in a conntrack group."""
    lines = Path("/proc/net/netlink").read_text().splitlines()
    fields = [line.split() for line in lines]
    return [one for one in fields if one[1] == NFNL_CONNTRACK and int(one[3], 16) & 7]


def _drops(pid: int) -> int:
    sockets = {
        link.name
        for descriptor in Path(f"/proc/{pid}/fd").iterdir()
        for link in [Path(os.readlink(descriptor))]
        if link.name.startswith("socket:")
    }
    return sum(int(one[8]) for one in conntrack_sockets() if f"socket:[{one[9]}]" in sockets)


def _peak_bytes(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) << 10
    return 0


class Bench:
    """The namespace's tools, and where they work."""

    def __init__(self, where: Path) -> None:
        self.where = where
        self._runs = 0
        for name in ("flood", "floor"):
            source = HERE / f"{name}.c"
            subprocess.run(
                ["cc", "-O2", "-Wall", "-Wextra", "-o", where / name, source], check=True
            )

    def empty(self) -> None:
        subprocess.run(["conntrack", "-F"], check=True, capture_output=True)

    def flood(self, kind: str, connections: int, *, first: int = 0) -> float:
        """Make that many connections, and for TCP their end, too; return how long it took."""
        argv = [self.where / "flood", kind, str(connections), str(SOURCES), str(first)]
        took = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
        if kind == "tcp":
            self.empty()  # the seventh event; the kernel would send it two minutes later
        return float(took)

    def run(self, mix: Mix, listener: Listener) -> Run:
        """Start, flood, stop: one listener alone."""
        return self.beside(mix, [listener])[0]

    def beside(self, mix: Mix, several: Iterable[Listener]) -> list[Run]:
        """Let all listen to one flood."""
        several = list(several)
        self.empty()
        if mix.filled:
            self.flood("udp", FILLED, first=10_000_000)
        started = []
        for listener in several:
            self._runs += 1
            options = mix.options if listener.name == "ctk record" else ()
            started.append(Started(listener, self.where / str(self._runs), options))
        most = [one.most_events for one in several if one.most_events is not None]
        connections = mix.connections
        if most:
            connections = min(connections, min(most) // EVENTS_A_CONNECTION[mix.kind])
        seconds = self.flood(mix.kind, connections)
        events = connections * EVENTS_A_CONNECTION[mix.kind]
        return [
            one.stop(events=events, seconds=seconds, connections=connections) for one in started
        ]


def table(mix: Mix, runs: dict[str, list[Run]]) -> list[dict[str, object]]:
    """One row a listener: medians, and the ratio to conntrack -E."""
    rows: list[dict[str, object]] = []
    base = runs.get("conntrack -E")
    base_us = median(run.us_an_event for run in base) if base else None
    for name, several in runs.items():
        us = median(run.us_an_event for run in several)
        last = several[-1]
        rows.append(
            {
                "mix": mix.name,
                "listener": name,
                "events": last.events,
                "seen": min(run.seen for run in several),
                "lost": max(run.lost for run in several),
                "connections/s": round(median(run.rate for run in several)),
                "us/event": round(us, 2),
                "of it at stop": round(median(r.stop_s / r.handled * 1e6 for r in several), 2),
                "of conntrack -E": round(us / base_us, 2) if base_us else None,
                "start s": round(median(run.start_s for run in several), 2),
                "peak MiB": round(max(run.peak_bytes for run in several) / 2**20, 1),
                "bytes/event": round(last.file_bytes / last.handled, 1),
                "bytes/row": round(last.file_bytes / last.rows, 1) if last.rows else None,
            }
        )
    return rows


def show(rows: Iterable[dict[str, object]]) -> None:
    print(tabulate(list(rows), headers="keys", floatfmt="g"), flush=True)


def with_raised_limit() -> int:
    """Run this program again in a network namespace; only out here can the limit be set."""
    before = LIMIT.read_text()
    if int(before) < ENTRIES:
        LIMIT.write_text(str(ENTRIES))
    try:
        inside = ["unshare", "--net", sys.executable, *sys.argv, "--inside"]
        return subprocess.run(inside, check=False).returncode
    finally:
        LIMIT.write_text(before)


def set_up_namespace() -> None:
    for command in (
        "ip link set lo up",
        "ip route add local 10.244.0.0/16 dev lo",
        "ip route add local 10.96.0.0/16 dev lo",
        "sysctl -qw net.ipv4.tcp_max_tw_buckets=0",
    ):
        subprocess.run(command.split(), check=True)
    subprocess.run(["nft", "-f", "-"], check=True, input=NAMESPACE, text=True)


def main() -> None:
    names = [mix.name for mix in MIXES]
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--mix", action="append", choices=names, help="only this one")
    parser.add_argument("--listener", action="append", help="only those whose name has this in it")
    parser.add_argument("--output", type=Path, default=RESULTS / "record.json")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.inside:
        sys.exit(with_raised_limit())

    with ExitStack() as stack:
        where = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ctk-bench-")))
        set_up_namespace()
        objects = where / "objects.json"
        cluster.write(objects, PODS)
        bench = Bench(where)
        everybody = [
            listeners.conntrack(),
            listeners.ctk(objects),
            listeners.floor_c(where / "floor"),
            listeners.floor_python(),
            listeners.ulogd("JSON", 100_000),
            listeners.ulogd("SQLITE3", 10_000),
        ]
        present = []
        for one in everybody:
            if options.listener and not any(part in one.name for part in options.listener):
                continue
            if one.missing:
                print(f"{one.name}: {one.missing}")
            else:
                present.append(one)
        rows: list[dict[str, object]] = []
        for mix in MIXES:
            if options.mix and mix.name not in options.mix:
                continue
            runs: dict[str, list[Run]] = {one.name: [] for one in present}
            for _ in range(options.rounds):
                for one in present:
                    runs[one.name].append(bench.run(mix, one))
            rows += table(mix, runs)
            show(rows[-len(runs) :])
            print()
    options.output.parent.mkdir(exist_ok=True)
    result = {"kernel": platform.release(), "python": platform.python_version(), "rows": rows}
    options.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
