"""`ctk record` and `conntrack -E` as processes in a played node."""

import json
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from playednode import PlayedNode, inside, listeners, objects, until

CTK = (sys.executable, "-m", "ctk")


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
    """Record the node into `db`; it ends well, and what it says is in a .log beside."""
    cluster = db.with_suffix(".objects.json")
    cluster.write_text(json.dumps(objects()), encoding="utf-8")
    whose = ("--objects", str(cluster), "--node-name", "kl-control-plane")
    command = (*CTK, "record", str(db), *(whose if names else ("--no-kube",)), *options)
    log = db.with_suffix(".log")
    with log.open("w", encoding="utf-8") as said, listening(play, *command, stderr=said) as process:
        yield process
    assert (process.returncode, "Error:" in log.read_text()) == (0, False), log.read_text()


def caught_up(play: PlayedNode) -> None:
    """Wait until nothing waits in any conntrack socket of the node: a stop has 20 s, not more."""
    with inside(play.node):
        table = Path("/proc/thread-self/net/netlink")

        def waiting() -> list[str]:
            head, *sockets = (line.split() for line in table.read_text("ascii").splitlines())
            protocol, queued = head.index("Eth"), head.index("Rmem")
            return [each[queued] for each in sockets if each[protocol] == "12"]

        until(lambda: set(waiting()) == {"0"}, "the recorder to read what waits", 60)


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


def is_in(db: Path, sql: str) -> bool:
    """Say whether the file has such rows; it may be about to be made."""
    try:
        return bool(rows(db, sql))
    except sqlite3.OperationalError:
        return False
