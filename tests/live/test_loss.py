"""What the kernel could not queue, on the real kernel: counted, and made good by a dump."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from subprocess import Popen

import pytest
from playednode import CLIENT, CLIENT_1, PODS, PlayedNode, udp, until
from recording import recording, rows

pytestmark = pytest.mark.live

SMALL = ("--buffer-size", "32KiB", "--buffer-max", "32KiB", "--window", "1s")
BURST = 20_000


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


def test_a_burst_while_the_reader_is_held_still_is_recorded_or_lost_and_then_counted(tmp_path):
    db = tmp_path / "node.db"
    spans = []
    with (
        PlayedNode(timeouts={"udp_timeout": 120}) as play,
        recording(play, db, *SMALL, names=False) as process,
    ):
        time.sleep(0.5)
        for n in range(2):
            began_ns = time.time_ns()
            with held_still(process):
                burst(play, 1 + n * BURST)
            told = f"SELECT count(*) > {n} FROM gaps WHERE kind = 'events lost'"
            until(lambda told=told: rows(db, told) == [(1,)], "the gap", 60)
            spans.append((began_ns, time.time_ns()))
            listed = f"SELECT sum(connections) >= {(n + 1) * BURST} FROM flow"
            until(lambda listed=listed: rows(db, listed) == [(1,)], "the dump after it", 60)
    [(new, connections)] = rows(db, "SELECT sum(new_events), sum(connections) FROM flows")
    gaps = rows(db, "SELECT started_ns, ended_ns, lost FROM gaps WHERE kind = 'events lost'")
    assert (new + sum(gap[2] for gap in gaps), connections) == (2 * BURST, 2 * BURST)
    assert rows(db, "SELECT lost FROM recordings") == [(2 * BURST - new,)]
    # From when the queue was last seen empty: the reader looks every quarter of a second, later
    # where the machine is busy.
    for (began_ns, ended_ns), (started_ns, until_ns, _) in zip(spans, gaps, strict=True):
        assert began_ns - 2_000_000_000 < started_ns < until_ns < ended_ns


def test_a_reader_that_was_held_still_for_long_tells_each_event_at_its_time(play, tmp_path):
    db = tmp_path / "node.db"
    with recording(play, db, "--window", "1s", "--enable-accounting", names=False) as process:
        time.sleep(0.5)
        sent = []
        with held_still(process), udp(play.pods[CLIENT], PODS[CLIENT][0], 0) as sock:
            for port in range(1, 6):
                sent.append(time.time_ns())
                sock.sendto(b"x", (PODS[CLIENT_1][0], port))
                time.sleep(0.5)
    began = rows(db, "SELECT started_ns FROM flows WHERE new_events = 1 ORDER BY dst_port")
    for sent_ns, (started_ns,) in zip(sent, began, strict=True):
        assert sent_ns <= started_ns < sent_ns + 100_000_000
    assert rows(db, "SELECT sum(connections) FROM flows") == [(5,)]
