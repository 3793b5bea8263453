"""How a recording ends: by a signal, in time, whatever goes on."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playednode import CLIENT, CLIENT_1, PODS, WEB_A, PlayedNode, udp, until
from recording import CTK, is_in, listening, rows

pytestmark = pytest.mark.live

GRACE_S = 20  # of a pod's 30
FLOOD = """
import socket, sys, time
sources, target, end = sys.argv[1].split(","), sys.argv[2], time.monotonic() + float(sys.argv[3])
socks = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in sources]
while time.monotonic() < end:
    for sock in socks:
        for port in range(1, 60_001):
            sock.sendto(b"", (target, port))
    if sys.argv[4] == "once":
        break
    socks = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in sources]
"""


@contextmanager
def flood(play: PlayedNode, pod: str, times: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that makes new flows as fast as it can, for a minute at most."""
    command = ["ip", "netns", "exec", play.pods[pod], sys.executable, "-c", FLOOD, "a,b"]
    process = subprocess.Popen([*command, PODS[CLIENT_1][0], "60", times])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_stop_under_sustained_load_with_a_large_table_is_within_a_pods_grace(
    tmp_path: Path,
) -> None:
    db = tmp_path / "node.db"
    said = tmp_path / "said"
    with PlayedNode(timeouts={"udp_timeout": 120}) as play, said.open("w") as out:
        with flood(play, WEB_A, "once") as filling:
            filling.wait(60)
        with (
            listening(
                play, *CTK, "record", str(db), "--no-kube", "--window", "1s", stderr=out
            ) as process,
            flood(play, CLIENT, "always"),
        ):
            until(lambda: is_in(db, "SELECT 1 FROM flow"), "a window of it")
            asked = time.monotonic()
            process.send_signal(signal.SIGTERM)
            process.wait(3 * GRACE_S)
            took_s = time.monotonic() - asked
    assert (process.returncode, took_s < GRACE_S) == (0, True), f"{took_s} s: {said.read_text()}"
    assert rows(db, "SELECT count(*) FROM recordings WHERE ended_ns IS NULL") == [(0,)]


def test_a_hangup_ends_a_recording_well(play: PlayedNode, tmp_path: Path) -> None:
    """The session it was started from is over."""
    db = tmp_path / "node.db"
    for _ in range(2):
        with listening(
            play, *CTK, "record", str(db), "--no-kube", stderr=subprocess.DEVNULL
        ) as process:
            process.send_signal(signal.SIGHUP)
            process.wait(GRACE_S)
        assert process.returncode == 0
    assert rows(db, "SELECT count(*) FROM recordings WHERE ended_ns IS NULL") == [(0,)]
    assert rows(db, "SELECT kind FROM gaps WHERE kind <> 'recorder down'") == []


def test_a_hangup_opens_the_log_anew_where_there_is_one(play: PlayedNode, tmp_path: Path) -> None:
    """As log rotation by another tool expects."""
    db, log, moved = (tmp_path / name for name in ("node.db", "node.log", "moved"))
    command = (*CTK, "record", str(db), "--no-kube", "--log", str(log), "--window", "1s")
    with (
        udp(play.pods[CLIENT], PODS[CLIENT][0], 0) as sock,
        listening(play, *command, stderr=subprocess.DEVNULL) as process,
    ):
        for n, moment in enumerate(("first", "after the hangup")):
            sock.sendto(b"", (PODS[CLIENT_1][0], 1000 + n))
            time.sleep(1.1)
            sock.sendto(b"", (PODS[CLIENT_1][0], 2000 + n))  # the window before is over
            until(log.exists, f"the log, {moment}")
            if n == 0:
                log.rename(moved)
                process.send_signal(signal.SIGHUP)
                time.sleep(0.5)
        assert process.poll() is None
    assert process.returncode == 0
    lines = (moved.read_text() + log.read_text()).splitlines()
    assert sum(json.loads(line)["new"] for line in lines) == 4
