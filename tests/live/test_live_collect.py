"""`ctk collect` from nodes whose recorders listen to a real kernel."""

import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from kubelets import Cluster
from playednode import CLIENT, CLIENT_1, PODS, PlayedNode, udp, until
from recording import CTK, caught_up, rows

pytestmark = pytest.mark.live

COUNT = "SELECT sum(connections) FROM flows WHERE proto = 'udp' AND dst_port BETWEEN 1000 AND 1099"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "nodes" / "full"
    disk.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)]
    subprocess.run(mount, check=True)
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_ctrl_c_keeps_what_was_recorded_and_a_full_node_what_it_has(
    play: PlayedNode, small_disk: Path, tmp_path: Path
) -> None:
    cluster = Cluster(tmp_path / "nodes")
    for name in ("full", "good"):
        cluster.add_node(name, "--no-kube", "--window", "1s").before = play.command()
    sock = udp(play.pods[CLIENT], "0.0.0.0", 0)

    def dial(first: int, last: int) -> None:
        for port in range(first, last + 1):
            sock.sendto(b"x", (PODS[CLIENT_1][0], port))
        caught_up(play)

    def speak(node: str, word: str) -> bool:
        return any(word in line for _, line in cluster.kubelets[node].log)

    said = tmp_path / "said"
    with cluster, sock, said.open("w") as err:
        kubeconfig = str(cluster.kubeconfig(tmp_path / "kubeconfig"))
        command = (*CTK, "collect", "--kubeconfig", kubeconfig, "-o", str(tmp_path / "out"))
        with subprocess.Popen(command, stderr=err, stdout=subprocess.PIPE, text=True) as process:
            until(lambda: said.read_text().count(": recording\n") == 2, "both to record")
            dial(1000, 1049)
            db = small_disk / "full.db"
            until(lambda: rows(db, COUNT) == [(50,)], "the first to be written")
            with suppress(OSError), (small_disk / "other").open("wb") as filling:
                while True:
                    filling.write(bytes(1 << 16))
                    filling.flush()
            dial(1050, 1099)
            until(lambda: "full: " in said.read_text().partition("WARNING")[2], "the full disk")
            assert shutil.disk_usage(small_disk).free < 1 << 16
            process.send_signal(signal.SIGINT)
            printed, _ = process.communicate(timeout=60)
        assert cluster.made() == []
    last = said.read_text().splitlines()[-1]
    assert process.returncode == 1, said.read_text()
    lost = re.fullmatch(
        "Error: kept, but not all is in it: full: ([0-9]+) events were not written: disk full", last
    )
    assert lost is not None, said.read_text()
    assert [line.split()[0] for line in printed.splitlines()] == ["NODE", "full", "good"]
    assert rows(tmp_path / "out" / "good.db", COUNT) == [(100,)]
    # The -wal may have had room for a window more.
    assert rows(tmp_path / "out" / "full.db", COUNT) in ([(50,)], [(100,)])
    gaps = "SELECT lost FROM gaps WHERE kind = 'disk full'"
    assert rows(tmp_path / "out" / "full.db", gaps) == [(int(lost[1]),)]
    ended = "SELECT count(*) FROM recordings WHERE ended_ns IS NOT NULL"
    for name in ("good", "full"):
        assert rows(tmp_path / "out" / f"{name}.db", ended) == [(1,)]
