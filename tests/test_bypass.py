"""A data plane that goes around conntrack: the recorder says so in its file, and merge heeds it."""

import json
from pathlib import Path

import pytest
from fleetworld import World

import ctk
from ctk.conntrack.bypass import bypass
from ctk.fleet.merge import merge
from ctk.store import connect
from ctk.timespan import MINUTE

SPAN = 20 * MINUTE


@pytest.mark.parametrize(
    ("interfaces", "what"),
    [
        (["lo", "eth0", "cilium_host", "lxc1"], "Cilium"),
        (["lo", "bpfin.cali", "bpfout.cali"], "Calico's eBPF"),
        (["lo", "eth0", "cali12", "cilium_wg0"], None),
    ],
)
def test_interfaces_tell_of_the_data_plane(interfaces, what):
    assert bypass(interfaces) == what


def bypassed(path: Path) -> None:
    with connect.writer(path) as conn:
        (settings,) = conn.execute("SELECT settings FROM recording").fetchone()
        told = json.dumps(json.loads(settings) | {"bypass": "Cilium"})
        conn.execute("UPDATE recording SET settings = ?", (told,))


def test_no_other_node_defers_to_one_whose_data_plane_goes_around_conntrack(tmp_path):
    world = World(2)
    talks = world.talks(80, SPAN, kinds=["pod_to_pod"])
    # n0 sees of what it opens to n1 nothing, though it does hear events.
    hidden = [talk for talk in talks if [sight.node for sight in talk.sights] == [0, 1]]
    seen = [talk._replace(sights=talk.sights[1:]) if talk in hidden else talk for talk in talks]
    files = world.write(tmp_path, seen, SPAN, range(2))
    assert hidden

    def merged(name: str) -> tuple[int, tuple[str, ...]]:
        merge(files, tmp_path / name)
        with ctk.open(tmp_path / name) as recording:
            return recording.top(by="proto").totals.connections, recording.describe().merged

    whole = sum(talk.connections for talk in talks)
    said = "Cilium is on n0, and may go around conntrack: no other node defers to it"
    missed, before = merged("before.db")
    assert missed == whole - sum(talk.connections for talk in hidden)
    bypassed(files[0])
    found, after = merged("after.db")
    assert (found, said in before, said in after) == (whole, False, True)
    # Where all nodes are alike, what conntrack does see on two of them still counts once.
    bypassed(files[1])
    assert merged("all.db") == (missed, before)
