"""
What the commands cost that people wait for: `python tests/bench/interactive.py FILE...`.

Each is a whole process, start of Python and all, beside a Python that does nothing: seconds are of
the machine and of who else is on it, their ratio is much less so. Also part of read.py.
"""

import argparse
import compileall
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

from listeners import CTK
from tabulate import tabulate

import ctk

ROUNDS = 5
# DB and SERVICE stand for the file and for one of its services; () is Python itself.
COMMANDS: tuple[tuple[str, ...], ...] = (
    (),
    ("--help",),
    ("top", "--help"),
    ("top", "DB"),
    ("top", "DB", "--by", "pods"),
    ("top", "DB", "--since", "1h"),
    ("query", "DB", "--last", "50"),
    ("query", "DB", "--failed", "--last", "50"),
    ("failures", "DB"),
    ("failures", "DB", "--since", "1h"),
    ("diff", "DB", "--before", "2h..1h", "--after", "1h.."),
    ("new", "DB", "--since", "1h"),
    ("series", "DB"),
    ("series", "DB", "--since", "1h", "--by", "service"),
    ("balance", "DB", "--service", "SERVICE"),
    ("idle", "DB"),
    ("info", "DB"),
    ("schema", "DB"),
)


class Cost(NamedTuple):
    seconds: float
    cpu_s: float
    peak_mb: float


def cost(argv: Sequence[str | Path]) -> Cost:
    """What a whole process costs: medians, after one to warm the caches."""
    costs = []
    for _ in range(1 + ROUNDS):
        began = time.perf_counter()
        with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as one:
            _, status, used = os.wait4(one.pid, 0)
            one.returncode = os.waitstatus_to_exitcode(status)
        assert one.returncode == 0, argv
        took = time.perf_counter() - began
        costs.append(Cost(took, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024))
    return Cost._make(map(median, zip(*costs[1:], strict=True)))


def interactive(db: Path) -> Iterator[dict[str, object]]:
    """Yield what each command costs, and how many times a bare Python that is."""
    # As after `make install`, also where PYTHONDONTWRITEBYTECODE is set.
    compileall.compile_dir(Path(ctk.__file__).parent, quiet=1)
    with sqlite3.connect(f"file:{db}?mode=ro", uri=True) as conn:
        sql = "SELECT service FROM edge WHERE service_via = 'address'"
        (service,) = conn.execute(sql).fetchone()
    conn.close()
    bare = cost((sys.executable, "-c", "pass"))
    for words in COMMANDS:
        named = [{"DB": str(db), "SERVICE": service}.get(word, word) for word in words]
        found = cost((CTK, *named)) if words else bare
        yield {
            "ctk": " ".join(words) or "(python -c pass)",
            "s": round(found.seconds, 3),
            "of bare": round(found.seconds / bare.seconds, 1),
            "CPU s": round(found.cpu_s, 3),
            "CPU of bare": round(found.cpu_s / bare.cpu_s, 1),
            "peak MB": round(found.peak_mb),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE")
    for db in parser.parse_args().files:
        print(f"{db}\n\n{tabulate(list(interactive(db)), headers='keys')}\n", flush=True)


if __name__ == "__main__":
    main()
