"""
What recording costs: `make bench`, or `python tests/bench/record.py`, as root.

Floods a network namespace of its own with connections, and measures who listens: each alone on
the same flood, in turns, so that the machine's moods hit all alike; the slow ones once. Medians
are shown, as tables and in bench-results/. At the end all listen beside each other to one flood,
so that what they saw and lost can be compared; then ctk alone, at full rate and idle.

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
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import burst
import cluster
import listeners
import scrape
from listeners import Listener
from tabulate import tabulate

HERE = Path(__file__).parent
RESULTS = HERE.parents[1] / "bench-results"
LIMIT = Path("/proc/sys/net/netfilter/nf_conntrack_max")
ENTRIES = 4_000_000
SOURCES = 200
PODS = 10_000
IDLE_PODS = 1_000
IDLE_S = 20
SCRAPED_S = 20
FULL_RATE_EVENTS = 1_000_000  # some six seconds
ASKED_EVERY_S = 0.25  # without a pause they would take a core, and nobody could make events
FLOODS = 2  # at once: one process makes fewer events than the kernel can
LIVE, LIVE_S, LIVE_RATE = 250_000, 30, 50_000
COUNTING = ("--enable-accounting", "--accounting-interval", "5s")
WIDE = 100_000
STRANGERS, STRANGERS_RATE = 1_000_000, 100_000  # ten seconds of new addresses
MADE = {"udp": "new connections", "mark": "updates", "scan": "new addresses"}
FILLED, FILLED_FROM = 200_000, 10_000_000
EVENTS_A_CONNECTION = {"udp": 1, "scan": 1, "tcp": 7}
ONE_IN = 20  # connections of a public node comes from a stranger
NAMESPACE = """
table inet bench {
    chain services {
        type nat hook output priority -100
        ip daddr 10.96.0.80 tcp dport 80 dnat ip to 10.244.39.1:8080
    }
    chain marks {
        type filter hook output priority 0
        udp dport 5354 ct mark set numgen inc mod 1000000
    }
    chain early {
        type filter hook prerouting priority raw
        udp dport { 5353, 5354 } drop
    }
    chain scrapes {
        type filter hook output priority raw
        tcp dport { 9469, 9470 } notrack
        tcp sport { 9469, 9470 } notrack
    }
}
"""
NFNL_CONNTRACK = "12"  # NETLINK_NETFILTER in /proc/net/netlink
QUIET_S, QUIET_NS = 0.3, 4_000_000  # a process that takes no more has nothing to do
PATIENCE_S = 60


class Mix(NamedTuple):
    """A flood, and how ctk is to record it."""

    name: str
    about: str
    kind: str
    connections: int
    options: tuple[str, ...] = ()
    filled: bool = False  # FILLED entries stand in the table before anybody listens
    sources: int = SOURCES


MIXES = (
    Mix("udp", "unique flows, from 200 pods to one", "udp", 400_000),
    Mix("tcp", "opened and closed through NAT, seven events each", "tcp", 50_000),
    Mix("filled", "unique flows, 200,000 entries before", "udp", 400_000, filled=True),
    Mix("wide", "each from a stranger: an address never seen before", "scan", WIDE, sources=1),
    Mix("public", "unique flows, one in 20 from a stranger", "scan", 400_000, sources=ONE_IN),
    Mix("none", "unique flows, a row each", "udp", 400_000, ("--aggregate", "none")),
    Mix("tcp none", "tcp, a row an event", "tcp", 50_000, ("--aggregate", "none")),
    Mix("unmatched", "the kernel drops all for ctk", "udp", 400_000, ("--cidr", "192.0.2.0/24")),
)
BESIDE = Mix("beside", "all on one flood", "tcp", 20_000)


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
        """What it lost cost it nothing; what it left out, by a filter or by choice, did."""
        return max(1, self.events - self.lost)


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

    def stop(self, events: int, rate: float) -> Run:
        pid = self.process.pid
        self.settle()
        flooded_ns = self.cpu_ns()
        lost = _drops(pid)
        peak = _peak_bytes(pid)
        os.kill(pid, signal.SIGINT)
        while True:
            peak = _peak_bytes(pid) or peak
            ended, code, usage = os.wait4(pid, os.WNOHANG)
            if ended:
                break
            time.sleep(0.01)
        self.process.returncode = os.waitstatus_to_exitcode(code)
        if self.process.returncode > 0:
            sys.exit(f"{self.listener.name} failed: {(self.where / 'stderr').read_text()}")
        seen = self.listener.seen(self.where)
        used_s = usage.ru_utime + usage.ru_stime
        return Run(
            events,
            seen.events,
            lost,
            seen.rows,
            rate,
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
    sockets = {str(descriptor.readlink()) for descriptor in Path(f"/proc/{pid}/fd").iterdir()}
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

    def flood(
        self, kind: str, connections: int, *, first: int = 0, sources: int = SOURCES, rate: int = 0
    ) -> float:
        """Make that many connections, and for TCP their end, too; return how long it took."""
        numbers = map(str, (connections, sources, first, rate))
        argv: list[str | Path] = [self.where / "flood", kind, *numbers]
        took = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
        if kind == "tcp":
            self.empty()  # the seventh event; the kernel would send it two minutes later
        return float(took)

    def start(self, listener: Listener, options: Sequence[str] = ()) -> Started:
        self._runs += 1
        return Started(listener, self.where / str(self._runs), options)

    def run(self, mix: Mix, listener: Listener) -> Run:
        """Start, flood, stop: one listener alone."""
        return self.beside(mix, [listener])[0]

    def beside(self, mix: Mix, several: Sequence[Listener]) -> list[Run]:
        """Let all listen to one flood."""
        self.empty()
        if mix.filled:
            self.flood("udp", FILLED, first=FILLED_FROM)
        started = [
            self.start(one, mix.options if one.name.startswith("ctk") else ()) for one in several
        ]
        each = EVENTS_A_CONNECTION[mix.kind]
        most = [one.most_events // each for one in several if one.most_events is not None]
        connections = min([mix.connections, *most])
        seconds = self.flood(mix.kind, connections, sources=mix.sources)
        return [one.stop(connections * each, connections / seconds) for one in started]

    def full_rate(
        self, ctk: Listener, kind: str, events: int, *, sources: int = SOURCES, rate: int = 0
    ) -> dict[str, object]:
        """Flood from several processes for so long, with queries beside: nothing may be lost."""
        self.empty()
        started = self.start(ctk)
        began_s = time.monotonic()
        with ThreadPoolExecutor() as pool:
            floods = [
                pool.submit(
                    self.flood,
                    kind,
                    events // FLOODS,
                    first=n * FILLED_FROM,
                    sources=sources,
                    rate=rate // FLOODS,
                )
                for n in range(FLOODS)
            ]
            answers = ask_beside(floods, started.where / ctk.output)
            took_s = max(flood.result() for flood in floods)
        run = started.stop(events, events / took_s)
        return {
            "events are": MADE[kind],
            "seconds": round(time.monotonic() - began_s, 1),
            "events": events,
            "seen": run.seen,
            "lost": run.lost,
            "events/s": round(run.rate),
            "us/event": round(run.us_an_event, 2),
            "queries beside": answers,
            "peak MiB": round(run.peak_bytes / 2**20, 1),
        }

    def live(self, ctk: Listener, sources: int) -> dict[str, object]:
        """
        Keep many connections, dumped every five seconds, and make events at a steady rate.

        With four queries a second beside.
        """
        self.empty()
        started = self.start(ctk, COUNTING)
        with ThreadPoolExecutor() as pool:
            flood = pool.submit(self.flood_live, sources)
            answers = ask_beside([flood], started.where / ctk.output)
            flood.result()
        events = LIVE + LIVE_RATE * LIVE_S
        run = started.stop(events, LIVE_RATE)
        return {
            "live connections": LIVE,
            "of addresses": sources,
            "events/s": LIVE_RATE,
            "seconds": LIVE_S,
            "events": events,
            "seen": run.seen,
            "lost": run.lost,
            "queries beside": answers,
            "peak MB": round(run.peak_bytes / 1e6, 1),
        }

    def flood_live(self, sources: int) -> None:
        self.flood("udp", LIVE, sources=sources, rate=LIVE_RATE)
        self.flood("mark", LIVE_RATE * LIVE_S, sources=SOURCES, rate=LIVE_RATE)

    def idle(self, seconds: float) -> dict[str, object]:
        """What it costs where nothing happens, with names from 1,000 pods."""
        self.empty()
        objects = self.where / "idle.json"
        cluster.write(objects, IDLE_PODS)
        started = self.start(listeners.ctk(objects))
        before_ns = started.cpu_ns()
        time.sleep(seconds)
        used_ns = started.cpu_ns() - before_ns
        run = started.stop(0, 0)
        return {
            "pods": IDLE_PODS,
            "seconds": seconds,
            "% of a core": round(used_ns / seconds / 1e7, 2),
            "peak MiB": round(run.peak_bytes / 2**20, 1),
        }


def ask_beside(floods: Sequence[Future[Any]], path: Path) -> int:
    """Ask a file four questions a second until the floods are over; give how many it answered."""
    answers, began_s = 0, time.monotonic()
    questions = (("query", "--last", "50"), ("top",))
    while not all(flood.done() for flood in floods):
        command, *words = questions[answers % len(questions)]
        argv = [listeners.CTK, command, path, *words]
        subprocess.run(argv, check=True, capture_output=True)
        answers += 1
        time.sleep(max(0.0, began_s + answers * ASKED_EVERY_S - time.monotonic()))
    return answers


def medians(mix: Mix, runs: dict[str, list[Run]]) -> list[dict[str, object]]:
    """One row a listener, with the ratio to conntrack -E."""

    def us(several: Sequence[Run]) -> float:
        return median(run.us_an_event for run in several)

    base = runs.get("conntrack -E")
    rows: list[dict[str, object]] = []
    for name, several in runs.items():
        last = several[-1]
        rows.append(
            {
                "mix": mix.name,
                "listener": name,
                "events": last.events,
                "seen": min(run.seen for run in several),
                "lost": max(run.lost for run in several),
                "connections/s": round(median(run.rate for run in several)),
                "us/event": round(us(several), 2),
                "of it at stop": round(median(r.stop_s / r.handled * 1e6 for r in several), 2),
                "of conntrack -E": round(us(several) / us(base), 3) if base else None,
                "start s": round(median(run.start_s for run in several), 2),
                "peak MiB": round(max(run.peak_bytes for run in several) / 2**20, 1),
                "bytes/event": round(last.file_bytes / last.handled, 1),
                "bytes/row": round(last.file_bytes / last.rows, 1) if last.rows else None,
            }
        )
    return rows


def show(title: str, rows: Sequence[dict[str, object]]) -> None:
    print(f"{title}\n\n{tabulate(rows, headers='keys', floatfmt='g')}\n", flush=True)


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
        "sysctl -qw net.netfilter.nf_conntrack_udp_timeout=600",
    ):
        subprocess.run(command.split(), check=True)
    subprocess.run(["nft", "-f", "-"], check=True, input=NAMESPACE, text=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--only",
        action="append",
        choices=[
            *(mix.name for mix in MIXES),
            "beside",
            "full rate",
            "strangers",
            "live",
            "idle",
            "burst",
            "scrape",
        ],
        help="only this part; several allowed",
    )
    parser.add_argument("--seconds", type=int, default=60, help="of the burst")
    parser.add_argument("--rate", type=int, default=20_000, help="of the burst, a second")
    parser.add_argument("--before", type=Path, help="another ctk, to measure in the same run")
    parser.add_argument("--listener", action="append", help="only those whose name has this in it")
    parser.add_argument("--output", type=Path, default=RESULTS / "record.json")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def measure(bench: Bench, options: argparse.Namespace) -> dict[str, object]:
    objects = bench.where / "objects.json"
    cluster.write(objects, PODS)
    ctk = listeners.ctk(objects)
    everybody = [
        listeners.conntrack(),
        ctk,
        *([listeners.ctk(objects, options.before, "ctk before")] if options.before else []),
        listeners.floor_c(bench.where / "floor"),
        listeners.floor_python(),
        listeners.ulogd("JSON", 100_000),
        listeners.ulogd("SQLITE3", 10_000),
    ]
    for one in everybody:
        if one.missing:
            print(f"without {one.name}: {one.missing}")
    wanted = options.listener or [""]
    present = [
        one for one in everybody if not one.missing and any(part in one.name for part in wanted)
    ]
    results: dict[str, object] = {}

    def is_wanted(part: str) -> bool:
        return options.only is None or part in options.only

    for mix in filter(lambda mix: is_wanted(mix.name), MIXES):
        runs: dict[str, list[Run]] = {one.name: [] for one in present}
        for turn in range(options.rounds):
            for one in present:
                if one.most_events is None or turn == 0:
                    runs[one.name].append(bench.run(mix, one))
        rows = medians(mix, runs)
        results[mix.name] = rows
        show(f"{mix.name}: {mix.about}", rows)
    if is_wanted("beside"):
        fast = [one for one in present if one.most_events is None]
        both = zip(fast, bench.beside(BESIDE, fast), strict=True)
        seen = [
            {"listener": one.name, "seen": run.seen, "lost": run.lost, "sum": run.seen + run.lost}
            for one, run in both
        ]
        results["beside"] = seen
        show("beside each other, on one flood", seen)
    if is_wanted("full rate"):
        made = [("udp", FULL_RATE_EVENTS), ("mark", 2 * FULL_RATE_EVENTS)]
        rows = [bench.full_rate(ctk, kind, events) for kind, events in made]
        results["full rate"] = rows
        show("ctk record at full rate, with queries beside", rows)
    if is_wanted("strangers"):
        row = bench.full_rate(ctk, "scan", STRANGERS, sources=1, rate=STRANGERS_RATE)
        results["strangers"] = row
        show(f"ctk record, {STRANGERS_RATE:,} new addresses a second, with queries beside", [row])
    if is_wanted("live"):
        rows = [bench.live(ctk, sources) for sources in (SOURCES, LIVE)]
        results["live"] = rows
        show(
            "ctk record with many live connections, their counters read all the time, with queries"
            " beside",
            rows,
        )
    if is_wanted("burst"):
        row = burst.run(bench, ctk, options.seconds, options.rate)
        results["burst"] = row
        show(f"ctk record, {options.rate:,} new addresses each second", [row])
    if is_wanted("scrape"):
        rows = scrape.run(bench, everybody[0], ctk, SCRAPED_S)
        results["scrape"] = rows
        show("ctk record --metrics, scraped ten times a second", rows)
    if is_wanted("idle"):
        row = bench.idle(IDLE_S)
        results["idle"] = row
        show("ctk record where nothing happens", [row])
    return results


def main() -> None:
    options = parse()
    if not options.inside:
        sys.exit(with_raised_limit())
    set_up_namespace()
    with tempfile.TemporaryDirectory(prefix="ctk-bench-") as where:
        results = measure(Bench(Path(where)), options)
    machine = {
        "kernel": platform.release(),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
    }
    options.output.parent.mkdir(exist_ok=True)
    options.output.write_text(json.dumps({"machine": machine, **results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
