"""How a recording ends: by a signal, in time, whatever goes on."""

import json
import signal
import subprocess
import time
from pathlib import Path

import pytest
from playednode import CLIENT, CLIENT_1, PODS, PlayedNode, udp, until
from recording import CTK, listening, rows

pytestmark = pytest.mark.live

GRACE_S = 20  # of a pod's 30


def test_a_hangup_ends_a_recording_well(play: PlayedNode, tmp_path: Path) -> None:
    """The session it was started from is over."""
    db = tmp_path / "node.db"
    # What is ignored by who runs the tests (`nohup`) stays ignored by the recorder.
    heeding = {"preexec_fn": lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL)}
    for _ in range(2):
        with listening(
            play, *CTK, "record", str(db), "--no-kube", stderr=subprocess.DEVNULL, **heeding
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
