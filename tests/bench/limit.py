"""
Whether `--max-size` holds in a flood: `python tests/bench/limit.py`, as root, for ten minutes.

Floods a namespace with connections, each from an address never seen before, and looks at the size
of the file and its -wal all the time, up to the recorder's end. Then all connections must be in the
sums.
"""

import argparse
import shlex
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cluster
import listeners
import record

import ctk
from ctk.model.numbers import parse_size

RATE, SECONDS, MAX_SIZE = 5_000, 600, "20MiB"
LOOK_S = 0.01
MIB = 2**20


def size(file: Path) -> int:
    """The file and its -wal, as far as they are there."""
    total = 0
    for path in (file, Path(f"{file}-wal")):
        try:
            total += path.stat().st_size
        except FileNotFoundError:
            continue
    return total


def measure(bench: record.Bench, options: argparse.Namespace) -> bool:
    objects = bench.where / "objects.json"
    cluster.write(objects, record.PODS)
    bench.empty()
    more = ("--max-size", options.max_size, *shlex.split(options.options))
    started = bench.start(listeners.ctk(objects), more)
    file = started.where / "node.db"
    count = options.rate * options.seconds
    biggest = looks = 0

    def flood_and_stop() -> record.Run:
        bench.flood("udp", count, sources=count, rate=options.rate)
        return started.stop(count, options.rate)

    with ThreadPoolExecutor() as pool:
        flood = pool.submit(flood_and_stop)
        while not flood.done():
            biggest = max(biggest, size(file))
            looks += 1
            time.sleep(LOOK_S)
        run = flood.result()
    with ctk.open(file) as recording:
        top = recording.top(by=["dst_port"], sort="connections")
        connections = top.totals.connections
        caveats = [caveat.text for caveat in top.caveats]
    allowed = parse_size(options.max_size)
    print(
        f"{count:,} connections in {options.seconds} s: the file and its -wal took"
        f" {biggest / MIB:.1f} MiB at most in {looks:,} looks, {biggest / allowed:.0%} of what is"
        f" allowed; {connections:,} connections are in the sums, {run.lost:,} were lost,"
        f" {run.us_an_event:.1f} us an event, peak {run.peak_bytes / MIB:.0f} MiB"
    )
    print("\n".join(caveats))
    return biggest <= 1.1 * allowed and connections + run.lost == count


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--seconds", type=int, default=SECONDS)
    parser.add_argument("--rate", type=int, default=RATE)
    parser.add_argument("--max-size", default=MAX_SIZE)
    parser.add_argument("--options", default="", help="more of ctk record's, in one text")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.inside:
        sys.exit(record.with_raised_limit())
    record.set_up_namespace()
    with tempfile.TemporaryDirectory(prefix="ctk-bench-") as where:
        sys.exit(not measure(record.Bench(Path(where)), options))


if __name__ == "__main__":
    main()
