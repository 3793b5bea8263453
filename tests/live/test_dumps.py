"""When counters are read, on the real kernel: bytes stand where they moved."""

import time
from collections import Counter

import pytest
from playednode import CLIENT, CLIENT_1, PODS, udp
from recording import recording, rows

pytestmark = pytest.mark.live

WINDOW_NS = 5_000_000_000
DATAGRAM, SENT = 1000, 110


def test_bytes_of_a_connection_that_goes_on_stand_in_the_windows_in_which_they_moved(
    play, tmp_path
):
    db = tmp_path / "node.db"
    sent: Counter[int] = Counter()
    with (
        recording(play, db, "--window", "5s", "--enable-accounting", names=False),
        udp(play.pods[CLIENT], PODS[CLIENT][0], 0) as sock,
    ):
        for _ in range(SENT):
            sock.sendto(bytes(DATAGRAM - 28), (PODS[CLIENT_1][0], 9))
            sent[time.time_ns() // WINDOW_NS] += DATAGRAM
            time.sleep(0.1)
    found = dict(
        rows(
            db,
            f"SELECT started_ns / {WINDOW_NS}, sum(bytes_out) FROM flows WHERE dst_port = 9"
            " GROUP BY 1 HAVING sum(bytes_out) > 0",
        )
    )
    assert sum(found.values()) == SENT * DATAGRAM
    # A dump begins some 100 ms before its window's end: what moves then is in the next one.
    elsewhere = sum(abs(found.get(window, 0) - moved) for window, moved in sent.items()) / 2
    assert elsewhere <= SENT * DATAGRAM / 10
