"""
How long events wait for the recorder: `python tests/bench/waits.py`, as root.

A file is made that has flows of nine days ago, so that they and their minutes are pruned, and what
nothing points to is swept after, as once a day, while a flood of addresses never seen before fills
minutes that are folded. Then a flood of updates shows how many events a second this kernel makes.
What is printed: the longest times between two reads of the socket, and how long its buffer takes
what comes at that rate meanwhile. The recorder's CPU is what they take on a machine that does
nothing else.

    python tests/bench/waits.py --seconds 130 --options '--max-size 200MiB'
"""

import argparse
import json
import shlex
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cluster
import record
from listeners import Listener, Seen
from tabulate import tabulate

sys.path.insert(0, str(Path(__file__).parents[1]))  # what the tests make edges with
from edges import edge, with_ids

from ctk.conntrack.socket import BUFFER_BYTES, Socket
from ctk.model import Datagrams, Endpoint, EventCounts, FlowRow
from ctk.store import connect
from ctk.store.write import Writer
from ctk.timespan import DAY, SECOND

OLD_WINDOWS, OLD_ROWS, OLD_NS = 30, 5_000, 9 * DAY
RATE, SECONDS = 20_000, 130  # of strangers: two minutes are folded
UPDATES = 1_000_000  # by each of two processes
EVENT_BYTES = 1_280  # what the kernel counts for one in the socket's buffer
SHOWN = 8
CPU, CLOCK = "CPU s", "clock s"
COUNTS = (1, 1, 0, 0, 0, 0, None, None, None, None)


def fill(path: Path) -> None:
    """Write flows of long ago, each of an address of its own."""
    started_ns = time.time_ns() - OLD_NS
    pod = Endpoint(address="10.244.0.1", kind="pod", valid_from_ns=0, namespace="a", name="b")
    with connect.writer(path) as conn:
        writer = Writer(
            conn, node=cluster.NODE, source="kernel", settings={}, started_ns=started_ns, boot_id=""
        )
        for window in range(OLD_WINDOWS):
            at_ns = started_ns + window * 10 * SECOND
            rows = []
            for i in range(OLD_ROWS):
                number = (window * OLD_ROWS + i) * 2_654_435_761 % 2**32
                address = ".".join(str(number >> shift & 255) for shift in (24, 16, 8, 0))
                peer = Endpoint(address=address, kind="external", valid_from_ns=0)
                from_peer = edge("tcp", 0, peer, pod, 443, None, pod, None, None, None)
                rows.append(FlowRow(from_peer, at_ns + i, at_ns + i, None, *COUNTS))
            writer.window(with_ids(writer, rows), committed_ns=at_ns, counters=EventCounts(window))
        writer.finish(started_ns + OLD_WINDOWS * 10 * SECOND)


class Waits:
    """
    Between two reads of the socket: how much CPU was used, of it for what, and how long it took.

    Where other programs take the CPU it takes longer than that.
    """

    def __init__(self) -> None:
        self.longest: list[dict[str, float]] = []
        self._left: tuple[float, float] | None = None  # CPU and clock when the last read was over
        self._spent: dict[str, float] = {}

    def timed(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def timing(*args: Any, **kwargs: Any) -> Any:
            began_s = time.thread_time()
            try:
                return call(*args, **kwargs)
            finally:
                took_s = time.thread_time() - began_s
                self._spent[name] = self._spent.get(name, 0.0) + took_s

        return timing

    def reading(self, receive: Callable[..., Datagrams | None]) -> Callable[..., Datagrams | None]:
        def read(sock: Socket, timeout_s: float) -> Datagrams | None:
            if self._left is not None:
                cpu_s, clock_s = time.thread_time(), time.monotonic()
                took = {CPU: cpu_s - self._left[0], CLOCK: clock_s - self._left[1]}
                self.longest.append(took | self._spent)
                self.longest.sort(key=lambda wait: -wait[CPU])
                del self.longest[SHOWN:]
            self._spent = {}
            found = receive(sock, timeout_s)
            self._left = time.thread_time(), time.monotonic()
            return found

        return read


def record_here(arguments: Sequence[str], output: Path) -> None:
    """Be `ctk record`, and write down how long events waited once it is over."""
    from ctk import cli
    from ctk.record.commit import Committer

    waits = Waits()
    Socket.receive = waits.reading(Socket.receive)  # type: ignore[method-assign]
    for name, method in (("commit", "commit"), ("fold and prune", "_maintain")):
        setattr(Committer, method, waits.timed(name, getattr(Committer, method)))
    try:
        cli.main(["record", *arguments])
    finally:
        output.write_text(json.dumps(waits.longest))


def listener(objects: Path) -> Listener:
    def prepare(where: Path, options: Sequence[str]) -> Sequence[str | Path]:
        fill(where / "node.db")
        names = ("--objects", objects, "--node-name", cluster.NODE)
        here = (sys.executable, Path(__file__), "--record-to", where / "waits.json", "--")
        return (*here, where / "node.db", *names, *options)

    def seen(where: Path) -> Seen:
        with sqlite3.connect(f"file:{where / 'node.db'}?mode=ro", uri=True) as conn:
            (events,) = conn.execute("SELECT MAX(events) FROM recording").fetchone()
        conn.close()
        return Seen(events, 0)

    return Listener("ctk record", prepare, seen, "node.db")


def measure(bench: record.Bench, options: argparse.Namespace) -> None:
    objects = bench.where / "objects.json"
    cluster.write(objects, record.PODS)
    bench.empty()
    started = bench.start(listener(objects), shlex.split(options.options))
    strangers = RATE * options.seconds
    bench.flood("udp", strangers, sources=strangers, rate=RATE)
    with ThreadPoolExecutor() as pool:
        floods = [
            pool.submit(bench.flood, "mark", UPDATES, first=n * record.FILLED_FROM)
            for n in range(record.FLOODS)
        ]
        rate = sum(UPDATES / flood.result() for flood in floods)
    run = started.stop(strangers + record.FLOODS * UPDATES, rate)
    longest = json.loads((started.where / "waits.json").read_text())
    print(tabulate(longest, headers="keys", floatfmt=".3f"), "\n")
    holds_s = 2 * BUFFER_BYTES / EVENT_BYTES / rate
    print(
        f"the most CPU between two reads is {longest[0][CPU]:.3f} s; at {rate:,.0f} events/s"
        f" the buffer holds {holds_s:.3f} s; {run.lost:,} of {run.events:,} events were lost, peak"
        f" {run.peak_bytes / 2**20:.0f} MiB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--seconds", type=int, default=SECONDS)
    parser.add_argument("--record-to", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--options", default="", help="of ctk record, in one text")
    parser.add_argument("words", nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.record_to is not None:
        record_here(options.words, options.record_to)
        return
    if not options.inside:
        sys.exit(record.with_raised_limit())
    record.set_up_namespace()
    with tempfile.TemporaryDirectory(prefix="ctk-bench-") as where:
        measure(record.Bench(Path(where)), options)


if __name__ == "__main__":
    main()
