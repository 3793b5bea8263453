"""What is counted on the real kernel, once and where it moved."""

import socket
import subprocess
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from playednode import (
    CLIENT,
    CLIENT_1,
    NODE_NAME,
    PODS,
    WEB_A,
    PlayedNode,
    Servers,
    Traffic,
    batch,
    inside,
    run,
    udp,
    until,
)
from recording import CTK, is_in, recording, rows

pytestmark = pytest.mark.live

SECOND = 10**9


@contextmanager
def connected(play: PlayedNode, servers: Servers) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A connection of the first client to a web server."""
    with inside(play.pods[CLIENT]):
        client = socket.socket()
    with client:
        client.settimeout(5)
        client.connect((PODS[WEB_A][0], 8080))
        with servers.accept() as server:
            server.settimeout(5)
            yield client, server


def test_what_was_over_before_the_recorder_came_is_not_counted_and_what_lives_is_once(
    tmp_path: Path,
) -> None:
    db = tmp_path / "node.db"
    with PlayedNode(timeouts={}) as play, Servers(play) as servers, ExitStack() as stack:
        traffic = Traffic(play, servers)
        for _ in range(100):
            traffic.tcp(CLIENT, PODS[WEB_A][0], 8080, None, None)  # two minutes of TIME_WAIT
        for _ in range(5):
            stack.enter_context(connected(play, servers))
        for n in range(2):
            with recording(play, db, "--window", "1s"):
                if n == 0:
                    until(lambda: is_in(db, "SELECT 1 FROM flows"), "the first dump")
                time.sleep(1.2)  # a window more, in which nothing is new
        assert rows(db, "SELECT sum(connections) FROM flows WHERE dst_port = 8080") == [(5,)]
        in_first = """
            SELECT sum(connections) FROM flows WHERE dst_port = 8080
            AND started_ns < (SELECT min(started_ns) FROM recordings) + 2000000000
        """
        assert rows(db, in_first) == [(5,)]


def test_bytes_stand_in_the_window_they_moved_in_or_the_next(play, tmp_path):
    """Of short connections, whose end the kernel tells late, and of long ones."""
    db, window_ns, size = tmp_path / "node.db", 2 * SECOND, 20_000
    sent: dict[int, dict[int, int]] = defaultdict(lambda: defaultdict(int))  # by port and window

    def send(client: socket.socket, server: socket.socket) -> None:
        client.sendall(bytes(size))
        missing = size
        while missing:
            missing -= len(server.recv(1 << 16))
        sent[client.getsockname()[1]][time.time_ns() // window_ns] += size

    options = ("--window", "2s", "--aggregate", "connections")
    with Servers(play) as servers, recording(play, db, *options):
        with connected(play, servers) as long:
            for _ in range(60):
                send(*long)
                with connected(play, servers) as short:
                    send(*short)
                time.sleep(0.1)
        time.sleep(4)  # two windows more
    moved: dict[int, dict[int, int]] = defaultdict(lambda: defaultdict(int))
    sql = "SELECT src_port, started_ns, bytes_out FROM flows WHERE dst_port = 8080"
    for port, started_ns, bytes_out in rows(db, sql):
        moved[port][started_ns // window_ns] += bytes_out or 0
    late = 0
    for port, windows in sent.items():
        due = [
            sum(n for at, n in windows.items() if at <= window)
            - sum(n for at, n in moved[port].items() if at <= window + 1)
            for window in windows
        ]
        late += max(0, *due)
    total = sum(sum(windows.values()) for windows in sent.values())
    assert total > 100 * size
    assert late / total < 0.02


def test_counters_that_another_tool_zeroes_are_a_gap_of_the_file_and_of_an_answer(play, tmp_path):
    db = tmp_path / "node.db"
    options = ("--window", "1s", "--accounting-interval", "1s")
    with (
        Servers(play) as servers,
        recording(play, db, *options),
        connected(play, servers) as (client, _),
    ):
        client.sendall(bytes(5000))
        until(lambda: is_in(db, "SELECT 1 FROM flows WHERE bytes_out > 5000"), "the counters")
        with inside(play.node):
            run("conntrack", "-L", "-z")
        client.sendall(bytes(100))
        until(lambda: is_in(db, "SELECT 1 FROM gaps"), "the gap")
    assert set(rows(db, "SELECT kind FROM gaps")) == {("counters reset",)}
    asked = subprocess.run([*CTK, "query", str(db)], capture_output=True, text=True, check=True)
    assert "counters reset" in asked.stderr


def test_an_interface_that_comes_after_the_recorder_is_the_node_from_its_first_packet_on(
    play, tmp_path
):
    """As a CNI makes its bridge for the first pod, and kubelet's probes come from there."""
    db = tmp_path / "node.db"
    with recording(play, db, "--window", "1s", "--accounting-interval", "1s"):
        batch(
            play.node,
            "link add cni0 type bridge",
            "address add 10.244.0.77/32 dev cni0",
            "link set cni0 up",
        )
        with udp(play.node, "10.244.0.77", 0) as probe:
            for port in range(1001, 1006):
                probe.sendto(b"?", (PODS[CLIENT_1][0], port))
                time.sleep(0.1)
        until(lambda: is_in(db, "SELECT 1 FROM flows WHERE dst_port = 1005"), "the last")
    who = "SELECT src_kind, src_name, sum(connections) FROM flows"
    who += " WHERE src = '10.244.0.77' AND proto = 'udp' GROUP BY 1, 2"
    assert rows(db, who) == [("node", NODE_NAME, 5)]
