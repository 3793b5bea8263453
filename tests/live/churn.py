"""
Pods that come, go and reuse addresses, under a recorder that is stopped, killed and started again.

    python tests/live/churn.py --connections 20000 --seed 1

A script with a seed plays kubelet, controllers and kube-proxy: it makes pods, gives them addresses
and tells the API server of it as late as a real kubelet does. Their processes dial and answer
meanwhile, and write down what they did. At the end every row of the file is held against that.
"""

import argparse
import pickle
import signal
import sqlite3
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))  # run by hand: apiserver is a floor up
from churnrestarts import Restarts
from churnscript import Churn
from truth import Verdict, judge


@dataclass(slots=True)
class Result:
    """What a run came to."""

    verdict: Verdict
    failures: list[str]
    signals: Mapping[str, int]
    dials: int


def _held(script: Churn, connections: int) -> bool:
    """Whether the file has so many connections, and some more that may not be the script's."""
    if len(script.truth.dials) < connections:
        return False
    with closing(sqlite3.connect(f"file:{script.db}?mode=ro", uri=True, timeout=0.2)) as conn:
        try:
            [(held,)] = conn.execute("SELECT sum(connections) FROM flow")
        except sqlite3.OperationalError:  # the recorder is just opening or closing it
            return False
    return (held or 0) >= connections * 1.02


def churn(
    folder: Path,
    *,
    seed: int,
    connections: int,
    each_signal: int,
    rate: float = 110,
    most_s: float = 900,
    outages: bool = False,
    options: tuple[str, ...] = ("--aggregate", "connections"),
) -> Result:
    """
    Run until so many connections are held, and the recorder got each signal so often.

    The last recorder hears nothing new: it decides what the one before it left open. With
    `outages` the API server restarts, too: names that were known last stand meanwhile, and a gap
    says so, so some are not right.
    """
    with Churn(folder / "node.db", seed, rate, outages=outages) as script:
        script.run(0.5)
        restarts = Restarts(script, folder, seed, options)
        restarts.start()
        end = time.monotonic() + most_s
        try:
            while time.monotonic() < end and restarts.is_alive():
                script.run(0.5)
                if (down_s := restarts.down_s) is not None:
                    restarts.down_s = None
                    script.bury(down_s + 1)
                script.keep_up()
                often = min(restarts.signals.values()) >= each_signal
                if often and _held(script, connections):
                    break
            restarts.over.set()
            while restarts.is_alive() and time.monotonic() < end + 120:
                script.quiet = restarts.last
                script.run(0.5)
        finally:
            restarts.over.set()
            restarts.join(120)
        with (folder / "truth.pickle").open("wb") as file:
            pickle.dump(script.truth, file)
        return Result(
            judge(script.truth, script.db) if script.db.exists() else Verdict(),
            restarts.failures,
            restarts.signals,
            len(script.truth.dials),
        )


def main() -> int:
    parser = argparse.ArgumentParser(description="Hold a recorder that is restarted to the truth.")
    parser.add_argument("--connections", type=int, default=20_000)
    parser.add_argument("--each-signal", type=int, default=12)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=float, default=110)
    parser.add_argument("--most", type=float, default=3600, help="seconds it may take at most")
    parser.add_argument("--outages", action="store_true", help="the API server restarts, too")
    parser.add_argument("--folder", type=Path, help="keep the file, the truth and the logs here")
    parser.add_argument("--again", action="store_true", help="only judge what is in --folder")
    asked = parser.parse_args()
    if asked.again:
        truth = pickle.loads((asked.folder / "truth.pickle").read_bytes())
        verdict = judge(truth, asked.folder / "node.db")
        print("\n".join([*verdict.lines(), *verdict.stories()]))
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # leave nothing behind
    with ExitStack() as stack:
        folder = asked.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        result = churn(
            folder,
            seed=asked.seed,
            connections=asked.connections,
            each_signal=asked.each_signal,
            rate=asked.rate,
            outages=asked.outages,
            most_s=asked.most,
        )
    print(f"{result.dials} connections made; {dict(result.signals)}; seed {asked.seed}")
    print("\n".join(result.verdict.lines()))
    if asked.folder:
        stories = "\n".join(result.verdict.stories())
        (folder / "stories.txt").write_text(stories, encoding="utf-8")
    print("\n".join(result.failures))
    return int(bool(result.verdict.faults() or result.failures))


if __name__ == "__main__":
    sys.exit(main())
