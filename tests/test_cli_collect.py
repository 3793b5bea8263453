"""`ctk collect` as a person meets it: what it says, refuses, and leaves when it is interrupted."""

import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import Result
from kubelets import Cluster
from test_collect import ENDED, RECORDS

import ctk

Invoke = Callable[..., Result]
CTK = (sys.executable, "-m", "ctk")


@pytest.fixture
def cluster(tmp_path: Path, shop: Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path / "nodes")
    for name, runs in (("n1", RECORDS), ("n2", ENDED)):
        kubelet = made.add_node(name)
        kubelet.runs, kubelet.holds = runs, shop
    with made:
        made.kubeconfig(tmp_path / "kubeconfig")
        yield made


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("", "Error: Missing option '-o' / '--output'\nTry: ctk collect --help\n"),
        (
            "-o out --nodes a --selector b=c",
            "Error: --nodes and --selector exclude each other\nTry: give one of them\n",
        ),
        ("-o out --for 0s", "Error: --for is no time\nTry: --for 10m\n"),
        ("-o out", "Error: no cluster is named\nTry: --kubeconfig FILE\n"),
    ],
)
def test_what_is_asked_wrongly(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, words: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KUBECONFIG", raising=False)
    kubeconfig = tmp_path / "other"
    kubeconfig.write_text("{}")
    given = ["--kubeconfig", kubeconfig] if said.startswith("Error: --") else []
    result = invoke("collect", *words.split(), *given)
    assert (result.exit_code, result.stderr) == (2, said)
    assert not (tmp_path / "out").exists()


def test_a_signal_ends_the_recording_and_a_second_one_everything(
    cluster: Cluster, tmp_path: Path
) -> None:
    cluster.deletes_after_s = None  # a namespace that does not go
    command = (*CTK, "collect", "--kubeconfig", "kubeconfig", "-o", "out")
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=tmp_path, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stderr is not None
        said = []
        for line in process.stderr:
            said.append(line.partition(" ")[2])
            if said[-1] == "INFO n1: recording\n":
                process.send_signal(signal.SIGTERM)
            elif said[-1].startswith("INFO n1: kept"):
                break
        while "namespaces/" not in "".join(cluster.went):
            assert process.poll() is None
        time.sleep(1)  # a sooner one would be the same signal again
        process.send_signal(signal.SIGINT)
        _, last = process.communicate(timeout=20)
    name = cluster.went[-1].removeprefix("namespaces/")
    assert "INFO n2: ended\n" in said
    assert (process.returncode, last.splitlines()[-2:]) == (
        130,
        [
            f"Error: ended at once; left in the cluster: namespace/{name}: nobody waited for it",
            f"Try: kubectl --kubeconfig kubeconfig delete namespace/{name}",
        ],
    )
    assert sorted(each.name for each in (tmp_path / "out").iterdir()) == ["n1.db", "n2.db"]


def test_on_a_terminal_it_shows_a_table_and_leaves_the_files(
    cluster: Cluster, tmp_path: Path
) -> None:
    shown, terminal = pty.openpty()
    command = (*CTK, "collect", "--kubeconfig", "kubeconfig", "-o", "out", "--for", "1s", "--merge")
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=terminal,
        text=True,
        env=os.environ | {"COLUMNS": "60", "LINES": "24"},
    ) as process:
        os.close(terminal)
        written = b""
        try:
            while chunk := os.read(shown, 1 << 16):
                written += chunk
        except OSError:
            pass  # the other end was closed
        os.close(shown)
        assert process.stdout is not None
        printed = process.stdout.read()
    assert (process.returncode, printed) == (
        0,
        "NODE  FILE            SIZE\n"
        f"n1    out/n1.db  {size(tmp_path / 'out/n1.db')}\n"
        f"n2    out/n2.db  {size(tmp_path / 'out/n2.db')}\n",
    )
    text = written.decode()
    assert "\x1b[JNODE  STATE      EVENTS/S  FLOWS  GAPS     SIZE\r\n" in text
    assert "\nn1    recording         1      2     0  4.0 MiB\r\nn2    ended " in text
    # Nothing of the table is left.
    assert text.rpartition("\x1b[4A\r\x1b[J")[2].endswith("out/all.db: 1 recording of 1 node\r\n")
    with ctk.open(tmp_path / "out" / "all.db") as recording:
        assert recording.describe().nodes == ("n1",)
    assert cluster.made() == []


def size(path: Path) -> str:
    return f"{path.stat().st_size / 1024:.1f} KiB"
