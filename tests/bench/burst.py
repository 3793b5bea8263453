"""
Bursts of strangers for minutes: `record.py --only burst --seconds 600`.

Each second 20,000 addresses (`--rate`) that nobody has seen before dial a pod, all at once, and
each of 50 pods dials it once. The kernel's entries end after 12 s, so some 250,000 of them live:
more where the kernel is busy, for it looks every few seconds which of them are past their time.
Ends with an error where a sum is not what was sent, a pod's is not its own, or `ctk top` does not
say what was folded.
"""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import listeners
from listeners import Listener

if TYPE_CHECKING:
    from record import Bench

ENTRY_S = 12
TALKERS = 50  # pods, and how many connections a second they have together
MOST_BYTES, MOST_GROWTH = 300_000_000, 30_000_000
ENTRIES = Path("/proc/sys/net/netfilter/nf_conntrack_count")


def run(bench: "Bench", ctk: Listener, seconds: int, rate: int) -> dict[str, object]:
    timeout = f"net.netfilter.nf_conntrack_udp_timeout={ENTRY_S}"
    subprocess.run(["sysctl", "-qw", timeout], check=True)
    bench.empty()
    started = bench.start(ctk, ("--enable-accounting",))
    path = started.where / ctk.output
    memory: list[int] = []
    entries = 0
    before_bytes = _file_bytes(path)
    began_s = time.monotonic()
    for second in range(seconds):
        bench.flood("scan", rate, first=second * rate, sources=1)
        bench.flood("udp", TALKERS, first=second * TALKERS, sources=TALKERS)
        memory.append(_resident_bytes(started.process.pid))
        entries = max(entries, int(ENTRIES.read_text()))
        time.sleep(max(0.0, began_s + second + 1 - time.monotonic()))
    sent = seconds * (rate + TALKERS)
    run = started.stop(sent, rate)
    grown = _file_bytes(path) - before_bytes
    _check(path, seconds, rate, lost=run.lost)
    half = len(memory) // 2
    return {
        "seconds": seconds,
        "strangers": seconds * rate,
        "most entries": entries,
        "events": run.seen,
        "lost": run.lost,
        "us/event": round((run.flood_s + run.stop_s) / run.seen * 1e6, 2),
        "most MB, first half": round(max(memory[:half], default=0) / 1e6, 1),
        "most MB, second half": round(max(memory[half:]) / 1e6, 1),
        "peak MB": round(run.peak_bytes / 1e6, 1),
        "file MB": round(grown / 1e6, 1),
        "within bounds": run.peak_bytes < MOST_BYTES and grown < MOST_GROWTH,
    }


def _check(path: Path, seconds: int, rate: int, *, lost: int) -> None:
    """The sums of what was sent, each talker's own, and the caveat."""
    everybody = _top(path, "--by", "src_kind", "--limit", "0", "-o", "json")
    total = sum(row["connections"] for row in json.loads(everybody.stdout))
    # Of the events that were lost nobody knows which began a connection: a dump finds some of them.
    if not lost and total != seconds * (rate + TALKERS):
        sys.exit(f"{total:,} connections are in the file, and no event was lost")
    if "counted together as 'other'" not in _top(path, "--limit", "3").stderr:
        sys.exit("ctk top does not say that strangers were folded")
    pods = _top(path, "--from-kind", "pod", "--by", "src_name", "--limit", "0", "-o", "json")
    talkers = [row["connections"] for row in json.loads(pods.stdout)]
    if not lost and talkers != [seconds] * TALKERS:
        sys.exit(f"the pods had {seconds} connections each, and not {talkers}")


def _top(path: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    argv = [listeners.CTK, "top", path, *words]
    return subprocess.run(argv, check=True, capture_output=True, text=True)


def _file_bytes(path: Path) -> int:
    return sum(each.stat().st_size for each in path.parent.glob(f"{path.name}*"))


def _resident_bytes(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096
