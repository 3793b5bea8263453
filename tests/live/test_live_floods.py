"""More than two cores do at a time: all of it is recorded or counted, and a stop ends in time."""

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playednode import CLIENT, CLIENT_1, PODS, WEB_A, PlayedNode, inside, until
from recording import CTK, caught_up, is_in, listening, recording, rows

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
    # On a busy machine there may be no time to keep what lives; then it is as after a crash.
    is_kept = "no time was left to keep" not in said.read_text()
    ended = "SELECT count(*) FROM recordings WHERE ended_ns IS NOT NULL"
    assert rows(db, ended) == [(int(is_kept),)], said.read_text()


def test_a_hundred_thousand_flows_at_once_are_all_recorded(play, tmp_path):
    db = tmp_path / "node.db"
    with recording(play, db, "--enable-accounting"):
        with inside(play.pods[CLIENT]):
            # Two addresses, for there are not 100,000 ports.
            senders = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2)]
        to = PODS[CLIENT_1][0]
        for sock in senders:
            with sock:
                for port in range(1, 50_001):
                    sock.sendto(b"x", (to, port))
        caught_up(play)
    counted = "SELECT sum(new_events), sum(connections) FROM flows WHERE proto = 'udp'"
    assert rows(db, counted) == [(100_000, 100_000)]
    assert rows(db, "SELECT * FROM gaps") == []


def test_a_burst_into_a_small_buffer_is_recorded_or_counted_as_lost(tmp_path):
    db = tmp_path / "node.db"
    options = ("--buffer-size", "32KiB", "--buffer-max", "32KiB", "--events", "new")
    # They outlive the burst, however long that takes: a dump finds those that were lost.
    with PlayedNode(timeouts={"udp_timeout": 120}) as play, recording(play, db, *options):
        with inside(play.pods[CLIENT]):
            sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with sender:
            for port in range(1, 20_001):
                sender.sendto(b"x", (PODS[CLIENT_1][0], port))
        caught_up(play)
        time.sleep(1)
    [(new, connections)] = rows(db, "SELECT sum(new_events), sum(connections) FROM flows")
    [(lost,)] = rows(db, "SELECT sum(lost) FROM gaps WHERE kind = 'events lost'")
    assert (new + lost, connections) == (20_000, 20_000)
