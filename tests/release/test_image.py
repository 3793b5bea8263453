"""
The image, built by podman on a minimal Debian, and run as the DaemonSet runs it: by runc, with a
read-only root, seccomp's default profile, and NET_ADMIN alone.
"""

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from playednode import CLIENT, PlayedNode, Servers, Traffic, listeners, objects, until
from recording import caught_up, rows

from ctk import __version__

# The image is built once: all of it is asked in one process.
pytestmark = [pytest.mark.live, pytest.mark.xdist_group("image")]
ROOT = Path(__file__).parents[2]
SPEC = yaml.safe_load((ROOT / "deploy" / "base" / "daemonset.yaml").read_text())["spec"]
(CONTAINER,) = SPEC["template"]["spec"]["containers"]
# podman's defaults are above what a sandbox's root may ask for.
LIMITS = ("--ulimit", "nofile=1024:4096", "--ulimit", "nproc=1024:1024")
SECURITY = (
    *("--read-only", "--cap-drop", "all", "--cap-add", "net_admin"),
    *("--security-opt", "no-new-privileges"),
)


class Podman:
    """podman with a store of its own, and without a network, a journal or cgroups of its own."""

    def __init__(self, store: Path, run: str) -> None:
        where = ("--root", store, "--runroot", run)
        # Else it leaves the store mounted on itself, and pytest can't remove it.
        store = ("--storage-driver", "overlay", "--storage-opt", "overlay.skip_mount_home=true")
        how = ("--runtime", "runc", "--cgroup-manager", "cgroupfs", "--events-backend", "none")
        self.command = ["podman", *map(str, where), *store, *how]

    def run(self, *words: object, binary: bool = False) -> Any:
        command = [*self.command, *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=not binary, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def inspect(self, image: str) -> Any:
        (about,) = json.loads(self.run("image", "inspect", image))
        return about


@pytest.fixture(scope="module")
def podman(
    debian: Path, released: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Podman]:
    """Have the image as ctk:VERSION, on a base that was never configured and has no Python."""
    folder = tmp_path_factory.mktemp("podman")
    run = TemporaryDirectory(prefix="ctk-")  # podman takes no path of over 50 characters there
    made = Podman(folder / "store", run.name)
    (folder / "dist").mkdir()
    for path in (released.file, released.file_contents):
        (folder / "dist" / path.name).hardlink_to(path)
    tar = ["tar", "-C", debian, "--exclude=./ctk", "--exclude=./data", "-cf", folder / "base.tar"]
    subprocess.run([*tar, "."], check=True)
    file = ROOT / "deploy" / "Dockerfile"
    # Each step's own layer, of use to a next build, is packed and hashed: a second one of 56 MB.
    options = ("--isolation", "chroot", "--layers=false", "--build-arg", "BASE=base:1")
    try:
        made.run("import", folder / "base.tar", "base:1")
        made.run("build", *options, "--file", file, "--tag", f"ctk:{__version__}", folder)
        yield made
    finally:
        made.run("rm", "--all", "--force")
        run.cleanup()


def test_it_is_small_and_has_no_python_but_its_own(
    podman: Podman, record_property: Callable[[str, object], None]
) -> None:
    about, base = podman.inspect(f"ctk:{__version__}"), podman.inspect("base:1")
    added = (about["Size"] - base["Size"]) / 1e6
    record_property("size", f"image: {added:.1f} MB on a base of {base['Size'] / 1e6:.1f} MB")
    assert added < 60
    labels = {key.rpartition(".")[2]: value for key, value in about["Labels"].items()}
    assert (labels["title"], labels["version"], labels["licenses"]) == (
        "ctk",
        __version__,
        "Apache-2.0",
    )
    assert (about["Config"]["Entrypoint"], about.get("Healthcheck")) == (["ctk"], None)
    find = ("find", "/", "-xdev", "-name", "pip", "-o", "-xdev", "-name", "python3*")
    options = ("--rm", "--network", "none", *LIMITS, "--entrypoint", "")
    assert podman.run("run", *options, f"ctk:{__version__}", *find) == ""


@pytest.mark.parametrize("uid", [0, 1000])
def test_it_records_as_the_daemonset_runs_it(podman: Podman, tmp_path: Path, uid: int) -> None:
    """As another user the capability is in the ambient set, where the runtime puts it."""
    data = tmp_path / "data"
    data.mkdir()
    (data / "objects.json").write_text(json.dumps(objects()))
    for path in (data, data / "objects.json"):
        path.chmod(0o777)
    name = f"ctk-{uid}-{tmp_path.name}"
    environment = {"NODE_NAME": "kl-control-plane", "CTK_DB": "/var/lib/ctk/kl-control-plane.db"}
    assert [each["name"] for each in CONTAINER["env"]] == [*environment]
    with PlayedNode() as play, Servers(play) as servers:
        options = [
            *("--rm", "--name", name, "--user", str(uid), *SECURITY, *LIMITS),
            *("--network", f"ns:/var/run/netns/{play.node}", "--tmpfs", "/tmp:rw,size=64m"),
            *("--workdir", CONTAINER["workingDir"], "--volume", f"{data}:/var/lib/ctk"),
            *(word for each in environment.items() for word in ("--env", "=".join(each))),
        ]
        args = [each.replace("$(CTK_DB)", environment["CTK_DB"]) for each in CONTAINER["args"]]
        before = listeners(play)
        process = subprocess.Popen(
            [
                *(*podman.command, "run", *options, f"ctk:{__version__}", *args),
                *("--objects", "/var/lib/ctk/objects.json", "--window", "1s"),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        until(lambda: listeners(play) > before or process.poll() is not None, "the image to listen")
        assert process.poll() is None, process.communicate()[0]
        traffic = Traffic(play, servers)
        for _ in range(50):
            traffic.tcp(CLIENT, "10.96.0.80", 80, "shop/web", "address", 10, 10)
        caught_up(play)

        def inside(*words: str, binary: bool = False) -> Any:
            return podman.run("exec", name, *words, binary=binary)

        status = inside("grep", "-E", "^(CapEff|Seccomp|NoNewPrivs):", "/proc/1/status")
        found = dict(line.replace("\t", "").split(":") for line in status.splitlines())
        assert found == {"CapEff": "0000000000001000", "Seccomp": "2", "NoNewPrivs": "1"}
        inside(*CONTAINER["startupProbe"]["exec"]["command"])
        ready = CONTAINER["readinessProbe"]["exec"]["command"]
        until(
            lambda: (
                subprocess.run(
                    [*podman.command, "exec", name, *ready], capture_output=True, check=False
                ).returncode
                == 0
            ),
            "the pod to be ready",
            30,
        )
        asked = ("ctk", "top", "--by", "dst_port", "--port", "80", "-o", "jsonl")
        until(  # CTK_DB names the file; they may be of two windows
            lambda: '"dst_port":80,"connections":50,' in inside(*asked).replace(" ", ""),
            "what was written",
        )
        inside("ctk", "snapshot", "/tmp/copy.db")
        packed = inside("tar", "cf", "-", "/tmp/copy.db", binary=True)  # kubectl cp
        inside("rm", "/tmp/copy.db")
        (tmp_path / "sent.db").write_bytes(inside("ctk", "snapshot", "-", binary=True))
        podman.run("stop", "--time", "20", name)
        said, _ = process.communicate(timeout=30)
        assert (process.returncode, "Error" in said) == (0, False), said
    subprocess.run(["tar", "-C", tmp_path, "-xf", "-"], input=packed, check=True)
    asked = "SELECT src_namespace || '/' || src_name, service, sum(connections) FROM flows"
    copies = (tmp_path / "tmp" / "copy.db", tmp_path / "sent.db")
    for path in (*copies, data / "kl-control-plane.db"):
        assert rows(path, f"{asked} WHERE dst_port = 80 GROUP BY 1, 2") == [
            (CLIENT, "shop/web", 50)
        ]
