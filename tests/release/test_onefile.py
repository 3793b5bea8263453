"""The one file, in a Debian without Python: it unpacks, records and stops."""

import fcntl
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from playednode import CLIENT, PlayedNode, Servers, Traffic, objects
from recording import caught_up, listening, rows

from ctk import __version__

ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "TZ": "UTC"}


@pytest.fixture
def root(debian: Path, released: SimpleNamespace) -> Path:
    """Put the file into the Debian, at /ctk."""
    path = debian / "ctk"
    path.unlink(missing_ok=True)
    path.hardlink_to(released.file)
    (debian / "data").mkdir(exist_ok=True)
    return debian


def inside(root: Path, data: Path, *command: str) -> list[str]:
    """
    Return `command` as it runs in `root`: read-only, /tmp and all, but for /data.

    /var/cache is a file system that programs may not be run from, as a KinD node's /tmp is.
    """
    script = f"""
        mount --bind {root} {root} && mount -t proc proc {root}/proc &&
        mount -t tmpfs -o noexec tmpfs {root}/var/cache && mount --bind {data} {root}/data &&
        mount -o remount,bind,ro {root} && exec chroot {root} "$@"
    """
    return ["unshare", "--mount", "sh", "-c", script, "sh", *command]


def test_it_is_small(released, record_property):
    size = released.file.stat().st_size / 1e6
    record_property("size", f"one file: {size:.1f} MB")
    assert size < 40


@pytest.mark.live
def test_it_records_a_thousand_connections_under_right_names(root, tmp_path):
    """Everything but /data is read-only, /tmp too; the root file system has no Python."""
    data = tmp_path / "data"
    data.mkdir()
    (data / "objects.json").write_text(json.dumps(objects()))
    options = ("--objects", "/data/objects.json", "--node-name", "kl-control-plane")
    command = inside(root, data, "/ctk", "record", "/data/node.db", *options)
    with PlayedNode() as play, Servers(play) as servers:
        with (
            (tmp_path / "said").open("w") as said,
            listening(
                play, *command, stderr=said, env=ENVIRONMENT | {"CTK_UNPACK": "/data"}
            ) as process,
        ):
            traffic = Traffic(play, servers)
            for _ in range(1000):
                traffic.tcp(CLIENT, "10.96.0.80", 80, "shop/web", "address", 10, 10)
            caught_up(play)
        assert (process.returncode, "Error" in (tmp_path / "said").read_text()) == (0, False)
    found = rows(
        data / "node.db",
        "SELECT src_namespace || '/' || src_name, service, dst_workload, sum(connections)"
        " FROM flows WHERE dst_port = 80 GROUP BY 1, 2, 3",
    )
    assert found == [(CLIENT, "shop/web", "web", 1000)]
    assert [path.name for path in data.glob("node.db-*")] == []

    def ask(*words: str) -> subprocess.CompletedProcess[str]:
        command = inside(root, data, "/ctk", *words)
        environment = ENVIRONMENT | {"CTK_UNPACK": "/data"}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    assert "shop/web" in ask("top", "/data/node.db", "--by", "service", "-o", "csv").stdout
    # What loads the libraries that are there in part.
    refused = ask("record", "/data/other.db", "--kubeconfig", "/data/objects.json")
    assert (refused.returncode, refused.stderr.splitlines()[-1]) == (
        2,
        "Try: check it with: kubectl --kubeconfig /data/objects.json config view",
    )
    found_here = ask("doctor", "--listen", "0")
    assert found_here.returncode in (0, 1)
    assert "Traceback" not in found_here.stderr


@pytest.mark.live
def test_where_it_cannot_unpack_it_says_where_it_tried(root, tmp_path):
    done = subprocess.run(
        inside(root, tmp_path, "/ctk", "--version"),
        env=ENVIRONMENT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")
    first, second = done.stderr.splitlines()
    assert first.startswith(
        "Error: ctk can be unpacked nowhere: /var/cache (mounted noexec), /tmp ("
    )
    assert re.fullmatch(
        r"Try: CTK_UNPACK=DIR, a folder of yours with \d+ MiB of room, not mounted noexec", second
    )


def test_what_another_may_write_to_is_not_run(released, tmp_path):
    """Neither a folder in a place that others may write to, nor one that was there before."""
    open_to_all = tmp_path / "open"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)

    def run(place: Path) -> subprocess.CompletedProcess[str]:
        environment = ENVIRONMENT | {"CTK_UNPACK": str(place)}
        command = [released.file, "--version"]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    assert "others may write there" in run(open_to_all).stderr
    open_to_all.chmod(0o1777)  # as /tmp: sticky
    assert run(open_to_all).returncode == 0
    (unpacked,) = open_to_all.iterdir()
    assert (unpacked.stat().st_mode & 0o777, unpacked.stat().st_uid) == (0o700, os.geteuid())
    unpacked.chmod(0o770)
    assert "not this user's alone" in run(open_to_all).stderr


def test_what_was_cut_off_is_made_good(released, tmp_path):
    """A first start that was killed, and one that a power cut took the contents of."""
    place = tmp_path / "place"
    place.mkdir()
    for name in ("stale", "held", "fresh"):
        (place / f".ctk-{name}").mkdir()
        (place / f".ctk-{name}" / "some").write_text("x")
    for name in ("stale", "held"):
        os.utime(place / f".ctk-{name}", (0, 0))
    (place / ".ctk-link").symlink_to(tmp_path)
    held = os.open(place / ".ctk-held", os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)  # as one does that unpacks

    def run(where: str) -> str:
        done = subprocess.run(
            [released.file, "--version"],
            env=ENVIRONMENT | {"CTK_UNPACK": where},
            cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
        return done.stdout + done.stderr

    version = f"ctk {__version__}\n"
    assert run("place") == version  # from here, whatever that is later
    os.close(held)
    (home,) = place.glob("ctk-*")
    assert {each.name for each in place.iterdir()} - {home.name} == {
        *(".ctk-held", ".ctk-fresh", ".ctk-link"),
    }
    boot, module = home / "boot", home / "lib" / "site" / "ctk" / "__main__.pyc"
    assert boot.read_text() == Path("/proc/sys/kernel/random/boot_id").read_text()
    whole, inode = module.read_bytes(), home.stat().st_ino
    boot.write_text("another\n")
    assert run("place") == version  # compared, and the same
    assert (home.stat().st_ino, boot.read_text() != "another\n") == (inode, True)
    boot.write_text("another\n")
    module.write_bytes(b"")
    assert run("place") == version
    assert (module.read_bytes(), home.stat().st_ino != inode) == (whole, True)
    (tmp_path / "file").touch()
    assert f"{tmp_path}/file (not a folder)" in run("file")
    assert "none (No such file or directory)" in run("none")


def test_pythons_variables_are_meant_for_another(released, tmp_path):
    place = tmp_path / "place"
    place.mkdir()
    hostile = {"PYTHONPATH": str(tmp_path), "PYTHONHOME": "/nowhere", "LD_LIBRARY_PATH": "/nowhere"}
    (tmp_path / "ctk.py").write_text("raise SystemExit('the wrong ctk')")
    for _ in range(2):  # unpacked, and found
        done = subprocess.run(
            [released.file, "completion", "fish"],
            env=ENVIRONMENT | hostile | {"CTK_UNPACK": str(place)},
            cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
        assert "_CTK_COMPLETE" in done.stdout
    assert len([*place.iterdir()]) == 1


def test_every_module_of_ctk_finds_what_it_imports(released, tmp_path):
    """With the interpreter that is inside, whose like built it."""
    environment = ENVIRONMENT | {"CTK_UNPACK": str(tmp_path)}
    subprocess.run([released.file, "--version"], env=environment, check=True, capture_output=True)
    (home,) = tmp_path.glob("ctk-*")
    assert (home / "share" / "man" / "man1" / "ctk-top.1").exists()
    program = f"""
import importlib, pkgutil, sys
sys.path[:] = ["{home}/lib/python.zip", "{home}/lib/dynload", "{home}/lib/site"]
import ctk
for each in pkgutil.walk_packages(ctk.__path__, "ctk."):
    if not each.name.endswith("__main__"):
        importlib.import_module(each.name)
import kubernetes.config, kubernetes.client.rest, pyroute2, backports.zstd
import uvicorn, starlette.applications, prometheus_client
print(len(sys.modules))
"""
    command = [sys.executable, "-I", "-S", "-B", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert int(done.stdout) > 300
