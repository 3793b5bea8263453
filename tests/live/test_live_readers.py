"""Readers beside a recorder that is busy: neither keeps the other out of the file."""

import json
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playednode import PlayedNode, batch, run
from recording import CTK, caught_up, recording, rows

pytestmark = pytest.mark.live

A_SECOND = 20_000  # connections: an event each, and another when it times out after 3 s
SECONDS = 5
SOURCES = 200
FLOOD = Path(__file__).parents[1] / "bench" / "flood.c"
# The node dials an address of its own; nothing listens, and nothing is to answer.
SERVER = "10.244.39.1"
DROPPED = """
table inet flood {
    chain early {
        type filter hook prerouting priority raw
        udp dport 5353 drop
    }
}
"""
QUESTIONS = (
    ("query", "--last", "100"),
    ("query", "--failed", "-o", "jsonl"),
    ("query", "SELECT count(*), sum(connections) FROM flows"),
    ("top", "--by", "dst_port", "--limit", "5"),
    ("export", "--format", "log", "--output", "/dev/null"),
    ("export", "--output", "/dev/null", "--cursor", "again"),
)


@contextmanager
def flood(play: PlayedNode, where: Path) -> Iterator[subprocess.Popen[str]]:
    """Make new connections at that pace; the program prints how many seconds it took."""
    subprocess.run(["cc", "-O2", "-o", where, FLOOD], check=True)
    batch(play.node, f"address add {SERVER}/32 dev lo")
    run(*play.command("nft", "-f", "-"), text=DROPPED)
    words = (str(where), "udp", str(A_SECOND * SECONDS), str(SOURCES), "0", str(A_SECOND))
    with subprocess.Popen(play.command(*words), stdout=subprocess.PIPE, text=True) as flooding:
        try:
            yield flooding
        finally:
            flooding.kill()


class Looking(threading.Thread):
    """
    `ctk serve`, and a page that asks it for its document again whenever the file has moved on.

    `ages_s` are how old the newest window of each document was when it was there, `wal_bytes` the
    most that the -wal grew to.
    """

    def __init__(self, db: Path, stop: threading.Event) -> None:
        super().__init__()
        self._db, self._stopping = db, stop
        self.ages_s: list[float] = []
        self.wal_bytes = 0
        self.answers: set[int] = set()

    def run(self) -> None:
        words = [*CTK, "serve", str(self._db), "--port", "0"]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as serving:
            assert serving.stdout is not None
            address = urlsplit(serving.stdout.readline().strip())
            try:
                with closing(HTTPConnection(address.netloc, timeout=30)) as asking:
                    self._look(asking, f"/?{address.query}")
            finally:
                serving.send_signal(signal.SIGINT)

    def _look(self, asking: HTTPConnection, page: str) -> None:
        asking.request("GET", page)
        cookie = asking.getresponse()
        cookie.read()
        headers = {"Cookie": cookie.headers["set-cookie"].partition(";")[0]}
        while not self._stopping.wait(1):
            wal = self._db.with_name(f"{self._db.name}-wal")
            self.wal_bytes = max(self.wal_bytes, wal.stat().st_size if wal.exists() else 0)
            asking.request("GET", "/changed", headers=headers)
            changed = asking.getresponse()
            changed.read()
            self.answers.add(changed.status)
            if changed.status != 200:
                continue
            asking.request("GET", "/document", headers=headers)
            answer = asking.getresponse()
            document = json.loads(answer.read())
            self.answers.add(answer.status)
            headers["If-None-Match"] = answer.headers["etag"]
            until = datetime.fromisoformat(document["source"]["recordings"][-1]["until"])
            self.ages_s.append(time.time() - until.timestamp())


def test_questions_and_exports_while_20_000_events_a_second_are_recorded(tmp_path: Path) -> None:
    db, out = tmp_path / "node.db", tmp_path / "flows.jsonl"
    (tmp_path / "again").mkdir()
    stop, asked = threading.Event(), 0
    follow = [*CTK, "export", str(db), "-f", "--output", str(out), "--cursor", "siem"]
    with (
        PlayedNode() as play,
        recording(play, db, "--window", "1s"),
        flood(play, tmp_path / "flood") as flooding,
    ):
        looking = Looking(db, stop)
        looking.start()
        try:
            with subprocess.Popen(follow, stderr=subprocess.PIPE, text=True) as following:
                while flooding.poll() is None or asked < len(QUESTIONS):
                    command, *words = QUESTIONS[asked % len(QUESTIONS)]
                    words = [
                        str(tmp_path / "again" / "out.jsonl")
                        if word == "/dev/null" and "--cursor" in words
                        else word
                        for word in words
                    ]
                    sql = words[:1] if words[0].startswith("SELECT") else []
                    done = subprocess.run(
                        [*CTK, command, str(db), *(sql or words)],
                        capture_output=True,
                        text=True,
                        check=False,
                        timeout=60,
                    )
                    assert done.returncode == 0, done.stderr
                    assert "locked" not in done.stderr
                    asked += 1
                stop.set()
                looking.join()
                caught_up(play)
                time.sleep(2)  # the last window
                following.send_signal(signal.SIGINT)
                assert following.stderr is not None
                said = following.stderr.read()
            assert (following.returncode, "Error" in said) == (0, False), said
            assert flooding.stdout is not None
            took_s = float(flooding.stdout.read())
        finally:
            stop.set()
    log = db.with_suffix(".log").read_text()
    assert "locked" not in log, log
    [(locked,)] = rows(db, "SELECT count(*) FROM gaps WHERE kind IN ('file locked', 'disk full')")
    assert locked == 0
    [(lost,)] = rows(db, "SELECT sum(lost) FROM gaps WHERE kind = 'events lost'")
    a_second = A_SECOND * SECONDS / took_s
    print(f"{a_second:,.0f} connections/s, {lost or 0} events lost, {asked} questions")
    ages = f"at most {max(looking.ages_s, default=0):.1f} s old"
    print(
        f"{len(looking.ages_s)} documents, {ages}, -wal up to {looking.wal_bytes / 2**20:.1f} MiB"
    )
    assert looking.answers <= {200, 304}
    assert looking.wal_bytes < 64 * 2**20
    # What was followed, with the rest, is what is in the file.
    subprocess.run([word for word in follow if word != "-f"], check=True, capture_output=True)
    lines = [json.loads(line) for line in out.read_bytes().splitlines()]
    [(flows, connections)] = rows(db, "SELECT count(*), sum(connections) FROM flows")
    assert (len(lines), sum(line["connections"] for line in lines)) == (flows, connections)
