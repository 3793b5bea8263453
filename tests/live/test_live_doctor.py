"""`ctk doctor` in a played node."""

import json
import subprocess
import sys
import time

import pytest
from apiserver import ApiServer
from playednode import (
    KUBE,
    NODE,
    NODE_NAME,
    PlayedNode,
    Servers,
    Traffic,
    inside,
    listeners,
    run,
    until,
)

pytestmark = pytest.mark.live

DOCTOR = (sys.executable, "-m", "ctk", "doctor", "--no-kube", "-o", "json")


def findings(play: PlayedNode, *before: str, listen: str = "0") -> tuple[int, dict[str, str]]:
    """Exit code, and each check's status."""
    done = subprocess.run(
        play.command(*before, *DOCTOR, "--listen", listen),
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        cwd="/tmp",
    )
    return done.returncode, {one["check"]: one["status"] for one in json.loads(done.stdout)}


def test_a_node_with_traffic_is_well(play):
    with Servers(play) as servers, inside(play.node):
        Traffic(play, servers).known()
        code, found = findings(play)
    # Whether process 1's namespace can be read differs; and nobody dials while the doctor
    # listens.
    ill = {check for check, status in found.items() if status != "ok"} - {"namespace"}
    assert (code, ill) == (0, {"data plane"})


def test_rules_that_hide_connections_and_settings_that_are_off_are_found():
    with PlayedNode(accounting=False) as play:
        with inside(play.node):
            run(
                "nft",
                "add table ip raw; add chain ip raw out { type filter hook output priority raw; };"
                " add rule ip raw out udp dport 53 notrack",
            )
        code, found = findings(play)
    assert code == 0
    assert {found[check] for check in ("accounting", "timestamps", "NOTRACK")} == {"warning"}


def test_counters_that_another_tool_zeroes_are_found(on_node):
    with Servers(on_node) as servers:
        Traffic(on_node, servers).known()
    before = listeners(on_node)
    command = [*DOCTOR, "--listen", "3"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd="/tmp") as doctor:
        until(lambda: listeners(on_node) > before, "the doctor to listen")
        time.sleep(1)  # it looks at the table first
        run("conntrack", "-L", "-z")
        assert doctor.stdout is not None
        found = {one["check"]: one for one in json.loads(doctor.stdout.read())}
    assert (doctor.returncode, found["counters"]["status"]) == (0, "warning")
    assert "another tool zeroes them" in found["counters"]["found"]


def test_without_rights_it_is_a_problem(play):
    nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    code, found = findings(play, *nobody, "--bounding-set=-all", "--inh-caps=-all")
    assert (code, found["rights"], found["kernel"]) == (1, "problem", "problem")


def test_in_the_image_it_is_well_though_its_root_is_read_only_and_nft_is_not_there(play):
    read_only = 'mount -t tmpfs -o ro none /mnt && cd /mnt && PATH=/ && exec "$0" "$@"'
    before = ("unshare", "--mount", "sh", "-c", read_only)
    with inside(play.node):
        code, found = findings(play, *before)
    assert (code, found["disk"], found["NOTRACK"]) == (0, "unknown", "unknown")


def test_a_namespace_is_a_nodes_by_its_address_where_the_cluster_is_asked(play, tmp_path):
    api = ApiServer()
    api.load([KUBE / "nodes.json"])
    said = []
    for where in (play.node, next(iter(play.pods.values()))):
        with inside(where):
            api.start()
        try:
            kubeconfig = str(api.kubeconfig(tmp_path / "config"))
            doctor = [word for word in DOCTOR if word != "--no-kube"]
            command = [*doctor, "--kubeconfig", kubeconfig, "--listen", "0"]
            done = subprocess.run(
                ["ip", "netns", "exec", where, *command], stdout=subprocess.PIPE, check=False
            )
        finally:
            api.stop()
        found = {one["check"]: one for one in json.loads(done.stdout)}
        said.append((found["namespace"]["status"], found["namespace"]["found"]))
    assert said == [
        ("ok", f"{NODE} is here, an address of node {NODE_NAME}"),
        ("warning", "no address here is one of a node's"),
    ]


def test_a_pods_namespace_is_not_a_nodes(play):
    command = ["ip", "netns", "exec", next(iter(play.pods.values())), *DOCTOR, "--listen", "0"]
    found = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=False).stdout)
    assert [one["status"] for one in found if one["check"] == "namespace"] == ["warning"]
