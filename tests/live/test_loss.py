"""What the kernel could not queue, on the real kernel: counted, and made good by a dump."""

import select
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import Popen

import pytest
from playednode import CLIENT, CLIENT_1, PODS, PlayedNode, udp, until
from recording import is_in, recording, rows

pytestmark = pytest.mark.live

SMALL = ("--buffer-size", "32KiB", "--buffer-max", "32KiB", "--window", "1s")
BURST = 20_000
MARKS = 60_000  # ports past those of the bursts
FIRST = 2_001  # port that is dialled one by one, past those that a node listens on


@contextmanager
def held_still(process: "Popen[str]") -> Iterator[None]:
    """`process` reads nothing meanwhile: it is the recorder, as `ip netns exec` becomes it."""
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


def burst(play: PlayedNode, first_port: int) -> None:
    """Make that many new flows, as fast as one process can."""
    with udp(play.pods[CLIENT], PODS[CLIENT][0], 0) as sock:
        for port in range(first_port, first_port + BURST):
            sock.sendto(b"x", (PODS[CLIENT_1][0], port))


def mark(play: PlayedNode, db: Path, port: int) -> int:
    """Make a flow and wait until it is in the file; gives when it was made."""
    made_ns = time.time_ns()
    with udp(play.pods[CLIENT], PODS[CLIENT][0], 0) as sock:
        sock.sendto(b"x", (PODS[CLIENT_1][0], port))
    until(lambda: is_in(db, f"SELECT 1 FROM flows WHERE dst_port = {port}"), "the mark")
    return made_ns


def test_a_burst_while_the_reader_is_held_still_is_recorded_or_lost_and_then_counted(tmp_path):
    db = tmp_path / "node.db"
    spans = []
    with (
        PlayedNode(timeouts={"udp_timeout": 120}) as play,
        recording(play, db, *SMALL, names=False) as process,
    ):
        for n in range(2):
            # The queue was seen empty after this was read.
            began_ns = mark(play, db, MARKS + n)
            with held_still(process):
                burst(play, 1 + n * BURST)
            told = f"SELECT count(*) > {n} FROM gaps WHERE kind = 'events lost'"
            until(lambda told=told: rows(db, told) == [(1,)], "the gap", 60)
            spans.append((began_ns, time.time_ns()))
            listed = f"SELECT sum(connections) >= {(n + 1) * (BURST + 1)} FROM flow"
            until(lambda listed=listed: rows(db, listed) == [(1,)], "the dump after it", 60)
    [(new, connections)] = rows(db, "SELECT sum(new_events), sum(connections) FROM flows")
    gaps = rows(db, "SELECT started_ns, ended_ns, lost FROM gaps WHERE kind = 'events lost'")
    made = 2 * (BURST + 1)
    assert (new + sum(gap[2] for gap in gaps), connections) == (made, made)
    assert rows(db, "SELECT lost FROM recordings") == [(made - new,)]
    for (began_ns, ended_ns), (started_ns, until_ns, _) in zip(spans, gaps, strict=True):
        assert began_ns < started_ns < until_ns < ended_ns


def test_a_reader_that_was_held_still_for_long_tells_each_event_at_its_time(play, tmp_path):
    db = tmp_path / "node.db"
    with recording(play, db, "--window", "1s", "--enable-accounting", names=False) as process:
        mark(play, db, MARKS)
        made = []
        with held_still(process), udp(play.pods[CLIENT], PODS[CLIENT][0], 0) as sock:
            for port in range(FIRST, FIRST + 5):
                with udp(play.pods[CLIENT_1], PODS[CLIENT_1][0], port) as server:
                    sent_ns = time.time_ns()
                    sock.sendto(b"x", (PODS[CLIENT_1][0], port))
                    assert select.select([server], [], [], 30)[0]
                    made.append((sent_ns, time.time_ns()))
                time.sleep(0.5)
    told = f"SELECT started_ns FROM flows WHERE new_events = 1 AND dst_port < {MARKS}"
    began = rows(db, f"{told} ORDER BY dst_port")
    # The kernel has the connection when it passes its first packet on.
    for (sent_ns, come_ns), (started_ns,) in zip(made, began, strict=True):
        assert sent_ns <= started_ns <= come_ns
    assert rows(db, "SELECT sum(connections) FROM flows") == [(6,)]
