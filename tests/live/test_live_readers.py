"""Readers beside a recorder that is busy: neither keeps the other out of the file."""

import json
import signal
import subprocess
import threading
import time
from contextlib import closing
from datetime import datetime
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playednode import CLIENT, CLIENT_1, PODS, PlayedNode, udp
from recording import CTK, caught_up, recording, rows

pytestmark = pytest.mark.live

A_SECOND = 10_000  # connections, each of which begins and ends: two events
SECONDS = 8
QUESTIONS = (
    ("query", "--last", "100"),
    ("query", "--failed", "-o", "jsonl"),
    ("query", "SELECT count(*), sum(connections) FROM flows"),
    ("top", "--by", "dst_port", "--limit", "5"),
    ("export", "--format", "log", "--output", "/dev/null"),
    ("export", "--output", "/dev/null", "--cursor", "again"),
)


def flood(play: PlayedNode, stop: threading.Event) -> int:
    """Make new connections at that pace, for so long, and return how many."""
    made, began_s = 0, time.monotonic()
    with udp(play.pods[CLIENT], PODS[CLIENT][0], 0) as sock:
        while (passed_s := time.monotonic() - began_s) < SECONDS and not stop.is_set():
            due = int(passed_s * A_SECOND)
            for n in range(made, due):
                sock.sendto(b"x", (PODS[CLIENT_1][0], 1024 + n % 60_000))
            made = max(made, due)
            time.sleep(0.005)
    return made


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
    stop, made, asked = threading.Event(), [0], 0
    follow = [*CTK, "export", str(db), "-f", "--output", str(out), "--cursor", "siem"]
    with PlayedNode() as play, recording(play, db, "--window", "1s"):
        flooding = threading.Thread(target=lambda: made.__setitem__(0, flood(play, stop)))
        flooding.start()
        try:
            until_s = time.monotonic() + SECONDS
            while not db.exists():
                time.sleep(0.05)
            looking = Looking(db, stop)
            looking.start()
            with subprocess.Popen(follow, stderr=subprocess.PIPE, text=True) as following:
                while time.monotonic() < until_s or asked < len(QUESTIONS):
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
                flooding.join()
                looking.join()
                caught_up(play)
                time.sleep(2)  # the last window
                following.send_signal(signal.SIGINT)
                assert following.stderr is not None
                said = following.stderr.read()
            assert (following.returncode, "Error" in said) == (0, False), said
        finally:
            stop.set()
            flooding.join()
    log = db.with_suffix(".log").read_text()
    assert "locked" not in log, log
    [(locked,)] = rows(db, "SELECT count(*) FROM gaps WHERE kind IN ('file locked', 'disk full')")
    assert locked == 0
    [(lost,)] = rows(db, "SELECT sum(lost) FROM gaps WHERE kind = 'events lost'")
    print(f"{made[0] / SECONDS:,.0f} connections/s, {lost or 0} events lost, {asked} questions")
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
