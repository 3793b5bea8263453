"""Restarts on the real kernel: nothing is counted twice, and what is not known is a gap."""

import random
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest
from playednode import CLIENT, CLIENT_1, PODS, PlayedNode, inside, udp, until
from recording import CTK, is_in, listening, recording, rows

from ctk.conntrack.decode import Decoder, Event
from ctk.conntrack.table import dump
from ctk.conntrack.tuples import parse_tuples

pytestmark = pytest.mark.live

OPTIONS = ("--enable-accounting", "--accounting-interval", "1s", "--window", "1s")
KILLS = 8


class Load(threading.Thread):
    """New UDP flows, each to a port of its own, and one TCP connection that goes on sending."""

    def __init__(self, play: PlayedNode) -> None:
        super().__init__()
        self._stop_asked = threading.Event()
        self.flows = 0
        self._udp = udp(play.pods[CLIENT], PODS[CLIENT][0], 0)
        with inside(play.pods[CLIENT_1]), socket.socket() as listening:
            listening.bind((PODS[CLIENT_1][0], 80))
            listening.listen()
            with inside(play.pods[CLIENT]):
                self._client = socket.create_connection(listening.getsockname())
            self._server, _ = listening.accept()

    def run(self) -> None:
        while not self._stop_asked.is_set():
            for _ in range(10):
                self.flows += 1
                self._udp.sendto(b"x", (PODS[CLIENT_1][0], 1000 + self.flows))
            self._client.sendall(bytes(1000))
            self._server.recv(1000)
            time.sleep(0.01)

    def rest(self) -> None:
        """Make no more, but keep the connection."""
        self._stop_asked.set()
        self.join()

    def stop(self) -> None:
        self.rest()
        for sock in (self._udp, self._client, self._server):
            sock.close()


@pytest.fixture
def play() -> Iterator[PlayedNode]:
    """Play a node whose connections outlive the time between two recorders."""
    with PlayedNode(timeouts={}) as played:
        yield played


@contextmanager
def loaded(play: PlayedNode) -> Iterator[Load]:
    load = Load(play)
    load.start()
    try:
        yield load
    finally:
        load.stop()


def moved(play: PlayedNode, port: int) -> int:
    """What the kernel says a connection to that port has sent."""
    with inside(play.node):
        events = [Event(*each) for batch in dump() for each in Decoder().read(batch)]
    return next(
        event.bytes_out or 0
        for event in events
        if parse_tuples(event.orig, event.reply, event.zone).dst_port == port
    )


def assert_sound(db: Path) -> None:
    with closing(sqlite3.connect(db)) as conn:
        assert conn.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_after_clean_stops_every_connection_and_byte_is_counted_once(play, tmp_path):
    """What begins while nobody records is found by the dump at the next start."""
    db = tmp_path / "node.db"
    with ExitStack() as stack:
        for n in range(4):
            with recording(play, db, *OPTIONS, names=False):
                if n == 0:
                    load = stack.enter_context(loaded(play))
                time.sleep(1)
                if n == 3:
                    load.rest()
                    sent = moved(play, 80)
    flows, connections = "SELECT sum({}) FROM flows WHERE dst_port {} 80", load.flows
    assert rows(db, flows.format("connections", ">")) == [(connections,)]
    assert rows(db, flows.format("connections", "=")) == [(1,)]
    assert rows(db, flows.format("bytes_out", "=")) == [(sent,)]
    assert_sound(db)


def test_after_a_kill_at_any_moment_nothing_is_counted_twice(play, tmp_path):
    db = tmp_path / "node.db"
    chance = random.Random(4)
    command = (*CTK, "record", str(db), "--no-kube", *OPTIONS)
    with loaded(play), (tmp_path / "said").open("w") as said:
        for _ in range(KILLS):
            with listening(play, *command, stderr=said) as process:
                time.sleep(chance.uniform(0, 0.5))
                process.kill()
            assert_sound(db)
        with recording(play, db, *OPTIONS, names=False):
            moved_again = "SELECT 1 FROM flows WHERE dst_port = 80 AND bytes_out > 0"
            until(lambda: is_in(db, moved_again), "the bytes of the one that lives")
        sent = moved(play, 80)
    assert_sound(db)
    twice = "SELECT dst_port, sum(connections) AS n FROM flows GROUP BY 1 HAVING n > 1"
    assert rows(db, twice) == []
    [(counted,)] = rows(db, "SELECT sum(bytes_out) FROM flows WHERE dst_port = 80")
    assert 0 < counted <= sent
    downs = rows(db, "SELECT started_ns, ended_ns FROM gaps WHERE kind = 'recorder down'")
    starts = rows(db, "SELECT started_ns FROM recordings ORDER BY id")
    assert [(ended,) for _, ended in downs] == starts[1:]
