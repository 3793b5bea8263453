"""`ctk record` and `conntrack -E` as processes in a played node."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from playednode import PlayedNode, inside, objects

CTK = (sys.executable, "-m", "ctk")
_CONNTRACK_GROUPS = 0b111  # NFNLGRP_CONNTRACK_NEW, UPDATE, DESTROY, as /proc/net/netlink has them


def until(true: Callable[[], bool], what: str, seconds: float = 15) -> None:
    """Wait for something that is about to happen."""
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {seconds} s for {what}")
        time.sleep(0.02)


def listeners(play: PlayedNode) -> int:
    """How many sockets in the node's namespace receive conntrack events."""
    with inside(play.node):
        lines = Path("/proc/thread-self/net/netlink").read_text(encoding="ascii").splitlines()
    fields = [line.split() for line in lines[1:]]
    return sum(f[1] == "12" and bool(int(f[3], 16) & _CONNTRACK_GROUPS) for f in fields)


@contextmanager
def listening(play: PlayedNode, *command: str, **more: object) -> Iterator[subprocess.Popen[str]]:
    """Run a command from when it receives events; stop it with SIGINT, and wait for its end."""
    before = listeners(play)
    process = subprocess.Popen(play.command(*command), text=True, **more)  # type: ignore[call-overload]
    try:
        until(
            lambda: listeners(play) > before or process.poll() is not None,
            f"{command} to listen",
        )
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)


@contextmanager
def recording(
    play: PlayedNode, db: Path, *options: str, names: bool = True
) -> Iterator[subprocess.Popen[str]]:
    """Record the node into `db`; its exit code is 0, and it says nothing of errors."""
    cluster = db.with_suffix(".objects.json")
    cluster.write_text(json.dumps(objects()), encoding="utf-8")
    whose = ("--objects", str(cluster), "--node-name", "kl-control-plane")
    with listening(
        play,
        *CTK,
        "record",
        str(db),
        *(whose if names else ("--no-kube",)),
        *options,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONWARNINGS": "error"},
    ) as process:
        yield process
    assert process.stderr is not None
    with process.stderr:
        said = process.stderr.read()
    assert (process.returncode, "Error:" in said) == (0, False), said


@contextmanager
def conntrack_events(play: PlayedNode, path: Path) -> Iterator[None]:
    """Run `conntrack -E` beside, into a file."""
    with (
        path.open("w", encoding="utf-8") as out,
        listening(play, "conntrack", "-E", "-b", "67108864", stdout=out, stderr=subprocess.DEVNULL),
    ):
        yield


def rows(db: Path, sql: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(f"file:{db}?mode=ro", uri=True)) as conn:
        return conn.execute(sql).fetchall()
