"""
An export that follows a recording is killed at random moments, and goes on every time.

`pytest tests/test_export_kills.py --kills 100` does it that often; a few times are enough to see
most of what can go wrong.
"""

import gzip
import json
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from edges import with_ids
from test_cli_export import EDGES

from ctk.model import EventCounts, FlowRow
from ctk.store import connect
from ctk.store.write import Writer
from ctk.timespan import MINUTE, SECOND

ROWS = 400  # of a window: some 300 kB of lines


def windows(seed: int) -> Iterator[list[FlowRow]]:
    """Yield windows, each row with a number of its own, and some of a time before."""
    rng, numbers = random.Random(seed), count()
    for at_s in count(1_700_000_000, 10):
        yield [
            FlowRow(
                rng.choice(EDGES),
                at_ns := (at_s + rng.choice((0, 0, 0, 1, 5, -30))) * SECOND + rng.randrange(9),
                at_ns + 1,
                None,
                *(1,) * 9,
                next(numbers),
            )
            for _ in range(ROWS)
        ]


class Recorder(threading.Thread):
    """Writes windows, and folds, until it is stopped."""

    def __init__(self, path: Path, seed: int) -> None:
        super().__init__(name="recorder")
        self.path, self.seed = path, seed
        self.ready, self.stop = threading.Event(), threading.Event()
        self.written = 0

    def run(self) -> None:
        with connect.writer(self.path) as conn:
            writer = Writer(
                conn, node="n1", source="kernel", settings={}, started_ns=0, boot_id=None
            )
            for at, rows in enumerate(windows(self.seed)):
                # A backlog first, then one window after the other.
                if at == 40:
                    self.ready.set()
                if self.ready.is_set() and self.stop.wait(0.05):
                    return
                ids = with_ids(writer, rows)
                end_ns = max(row.ended_ns for row in rows)
                writer.window(ids, committed_ns=end_ns, counters=EventCounts())
                for _ in writer.maintain(end_ns - MINUTE, {}):
                    pass
                self.written += len(rows)


def lines(files: Iterator[Path]) -> Iterator[bytes]:
    for file in files:
        whole = file.read_bytes()
        yield from (gzip.decompress(whole) if file.suffix == ".gz" else whole).splitlines()


@pytest.mark.parametrize("name", ["flows.jsonl", "flows.jsonl.gz"])
def test_killed_and_resumed_while_recording_every_flow_is_there_once(
    tmp_path: Path, name: str, pytestconfig: pytest.Config
) -> None:
    path, out = tmp_path / "node.db", tmp_path / "out" / name
    out.parent.mkdir()
    seed = random.randrange(2**32)
    print(f"{seed=}")
    rng = random.Random(seed)
    recorder = Recorder(path, seed)
    recorder.start()
    assert recorder.ready.wait(120)
    limit = "1MiB" if name.endswith("l") else "100KiB"
    ctk = [sys.executable, "-m", "ctk", "export", path, "--cursor", "siem", "--output", out]
    ctk += ["--max-size", limit]
    kept = out.with_name(f"{name}.siem.cursor")
    try:
        for _ in range(pytestconfig.getoption("kills")):
            before = kept.read_bytes() if kept.exists() else b""
            with subprocess.Popen([*ctk, "-f"], stderr=subprocess.PIPE) as export:
                if rng.random() < 0.2:  # in its first steps
                    time.sleep(rng.random())
                else:  # somewhere in its work
                    until_s = time.monotonic() + 60
                    while not kept.exists() or kept.read_bytes() == before:
                        assert time.monotonic() < until_s
                        time.sleep(0.01)
                    time.sleep(rng.random() * 0.5)
                export.kill()
                assert export.stderr is not None
                assert b"Error" not in export.stderr.read()
    finally:
        recorder.stop.set()
        recorder.join()
    subprocess.run(ctk, check=True, capture_output=True)
    files = [file for file in out.parent.iterdir() if file.suffix not in (".cursor", ".part")]
    numbers = Counter(json.loads(line)["packets_in"] for line in lines(iter(files)))
    assert len(files) > 2
    assert set(numbers.values()) == {1}
    assert sorted(numbers) == list(range(recorder.written))
