"""The whole way on the real kernel: what happened is what the file says."""

import re
import socket
import sqlite3
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest
from playednode import (
    CLIENT,
    PODS,
    WEB_A,
    PlayedNode,
    Servers,
    Talk,
    Traffic,
    inside,
    until,
)
from recording import conntrack_events, recording, rows

pytestmark = pytest.mark.live

FLOWS = """
SELECT proto, src, dst, dst_port, coalesce(nat_dst, dst), coalesce(nat_dst_port, dst_port),
    coalesce(src_namespace || '/' || src_name, src_name, ''),
    coalesce(dst_namespace || '/' || dst_name, dst_name, ''),
    service, service_via, sum(connections), sum(bytes_out), sum(bytes_in)
FROM flows GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9, 10
"""


def test_every_connection_stands_under_its_own_names(play, tmp_path):
    db, beside = tmp_path / "node.db", tmp_path / "conntrack.txt"
    with (
        Servers(play) as servers,
        conntrack_events(play, beside),
        recording(play, db, "--enable-accounting", "--accounting-interval", "1s"),
    ):
        traffic = Traffic(play, servers)
        traffic.known()
        unanswered = re.compile(r"\[DESTROY\].* dport=9998 ")
        until(lambda: unanswered.search(beside.read_text("utf-8")), "the unanswered one to end", 30)
        time.sleep(0.5)  # and nothing of it is on its way any more
    found, moved = Counter(), {}
    for *who, connections, sent, answered in rows(db, FLOWS):
        talk = Talk(*who, 0, 0)
        found[talk] += connections
        moved[talk] = (sent, answered)
    made = {talk._replace(sent=0, answered=0): n for talk, n in traffic.made.items()}
    assert found == made
    for talk, connections in traffic.made.items():
        sent, answered = moved[talk._replace(sent=0, answered=0)]
        assert sent >= connections * talk.sent
        assert answered >= connections * talk.answered
    seen = beside.read_text(encoding="utf-8").count("[NEW]")
    assert rows(db, "SELECT sum(new_events), sum(connections) FROM flows") == [(seen, seen)]
    failed = "SELECT dst_port, sum(refused), sum(unreplied) FROM flows WHERE dst_port > 9000"
    assert rows(db, failed + " AND dst_port < 10000 GROUP BY 1") == [(9998, 0, 1), (9999, 1, 0)]
    assert rows(db, "SELECT * FROM gaps") == []


def test_a_connection_older_than_the_recorder_is_counted_from_its_start_on(tmp_path):
    """Its bytes are spread over the windows they moved in, over a restart, and exact."""
    db = tmp_path / "node.db"
    options = ("--enable-accounting", "--accounting-interval", "1s", "--window", "1s")
    with PlayedNode(timeouts={}) as play, Servers(play) as servers:
        with inside(play.pods[CLIENT]):
            client = socket.socket()
        client.connect((PODS[WEB_A][0], 8080))
        with client, servers.accept():
            for _ in range(2):
                with recording(play, db, *options):
                    time.sleep(1.2)  # the first dump is over
                    for _ in range(3):
                        client.sendall(bytes(1000))
                        time.sleep(1)
            assert rows(db, "SELECT sum(connections) FROM flows") == [(1,)]
            [(sent, spread)] = rows(
                db, "SELECT sum(bytes_out), count(*) FROM flows WHERE bytes_out >= 1000"
            )
            assert sent == 6 * (1000 + 20 + 32)  # IPv4's header, TCP's with timestamps
            assert spread >= 5


def test_without_accounting_bytes_are_unknown_and_the_command_is_said(tmp_path):
    db = tmp_path / "node.db"
    with PlayedNode(accounting=False) as play, Servers(play) as servers, recording(play, db):
        Traffic(play, servers).tcp(CLIENT, "10.96.0.80", 80, None, None)
    assert rows(db, "SELECT DISTINCT bytes_out, packets_in FROM flows") == [(None, None)]
    said = db.with_suffix(".log").read_text()
    assert said.count("sysctl -w net.netfilter.nf_conntrack_acct=1") == 1


def test_the_file_is_sound_and_its_owners_only(play, tmp_path):
    db: Path = tmp_path / "node.db"
    with recording(play, db):
        pass
    with closing(sqlite3.connect(db)) as conn:
        assert conn.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert db.stat().st_mode & 0o777 == 0o600
