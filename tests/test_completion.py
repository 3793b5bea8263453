"""Completion, as a shell asks for it."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from edges import edge, with_ids
from sample import AT, CLIENT, DB, ROWS

from ctk.cli import main
from ctk.model import EventCounts
from ctk.store import connect
from ctk.store.write import Writer


def _complete(line: str, **variables: str) -> list[str]:
    """Give what completes the last word of a line, as bash asks for it."""
    asked = {
        "_CTK_COMPLETE": "bash_complete",
        "COMP_WORDS": line,
        "COMP_CWORD": str(line.count(" ")),
    }
    done = CliRunner(env=asked | variables).invoke(main, prog_name="ctk")
    assert done.stderr == ""
    return [found.partition(",")[2] for found in done.stdout.split()]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("ctk sna", ["snapshot"]),
        ("ctk help snap", ["snapshot"]),
        ("ctk completion z", ["zsh"]),
        ("ctk query SHOP --from-po", ["--from-pod", "--from-port"]),
        ("ctk query SHOP --not --to-n", ["--to-namespace", "--to-node"]),
        ("ctk query SHOP --pod sh", ["shop/db-0", "shop/web-1"]),
        ("ctk query SHOP --pod we", ["web-1"]),
        ("ctk query SHOP --not --from-pod shop/w", ["shop/web-1"]),
        ("ctk top SHOP -n kube-system,", ["kube-system,kube-system", "kube-system,shop"]),
        ("ctk export SHOP --to-service ", ["shop/db", "shop/web"]),
        ("ctk top SHOP --workload shop/", ["shop/db", "shop/web"]),
        ("ctk top SHOP --node ", ["n1", "n2"]),
        ("ctk top SHOP --kind e", ["external"]),
        ("ctk top SHOP --protocol tcp,ud", ["tcp,udp", "tcp,udplite"]),
        ("ctk top SHOP -l ti", ["tier", "tier=back", "tier=front"]),
        ("ctk top SHOP --by service,src_w", ["service,src_workload", "service,src_workload_kind"]),
        ("ctk query no.db --pod sh", []),
    ],
)
def test_names_flags_and_keys_are_completed(shop: Path, line: str, found: list[str]) -> None:
    assert _complete(line.replace("SHOP", str(shop))) == found


def test_the_file_may_be_that_of_the_variable(shop: Path) -> None:
    assert _complete("ctk query --service ", CTK_DB=str(shop)) == ["shop/db", "shop/web"]


def test_a_name_that_a_shell_would_run_completes_nothing(tmp_path: Path) -> None:
    evil = DB.__class__(
        address="10.244.9.9", kind="pod", valid_from_ns=0, namespace="shop", name="x;$(reboot)\n"
    )
    path = tmp_path / "evil.db"
    row = ROWS[0]._replace(edge_id=edge("tcp", 0, evil, CLIENT, 1, None, CLIENT, None, None, None))
    with connect.writer(path) as conn:
        writer = Writer(conn, node="n1", source="kernel", settings={}, started_ns=AT, boot_id=None)
        writer.window(with_ids(writer, [row]), committed_ns=AT, counters=EventCounts())
        writer.finish(AT)
    assert _complete(f"ctk query {path} --pod ") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_is_printed_for_each_shell(shell: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ctk", "completion", shell],
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"_CTK_COMPLETE={shell}_complete" in done.stdout
    if (found := shutil.which(shell)) is not None:
        # `-n` reads it and runs nothing.
        check = subprocess.run([found, "-n"], input=done.stdout, text=True, check=False)
        assert check.returncode == 0


def test_bash_completes_with_the_script(shop: Path) -> None:
    bash = shutil.which("bash")
    assert bash is not None
    folder = str(Path(sys.executable).parent)
    script = f"""
        PATH={folder}:$PATH
        source <(ctk completion bash)
        COMP_WORDS=(ctk query {shop} --from-pod shop/)
        COMP_CWORD=4
        _ctk_completion ctk
        echo "${{COMPREPLY[@]}}"
    """
    done = subprocess.run([bash, "-c", script], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("shop/db-0 shop/web-1\n", "")
