"""
Two nodes on the real kernel, each with its own recorder: merged, and shipped, each connection
counts once.
"""

import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from recording import CTK, caught_up, listening
from twonodes import (
    ANSWERED,
    NODES,
    OUTSIDE,
    OUTSIDE6,
    PODS,
    SENT,
    SERVICE,
    SERVICE6,
    Made,
    Played,
    TwoNodes,
    objects,
)

import ctk
from ctk.fleet.clickhouse import ddl
from ctk.fleet.clickhouse.client import opened
from ctk.fleet.clickhouse.ship import shipper_of
from ctk.fleet.clickhouse.target import parse_target
from ctk.fleet.merge import merge

pytestmark = pytest.mark.live

WEB, LOCAL = "shop/web", "shop/local"
BY = ("src", "dst", "dst_port", "nat_dst", "service", "ip_version")


def traffic(play: TwoNodes) -> None:
    """Make what a rule about who speaks can go wrong about."""
    (a, a6), (b, b6) = NODES.values()
    web_a, web_b = PODS["node-a"]["shop/web-a"], PODS["node-b"]["shop/web-b"]
    for client in ("load/client-a", "load/client-b"):
        play.dial(client, SERVICE, 80, 6, WEB)
        play.dial(client, SERVICE6, 80, 4, WEB)
        for web in (web_a, web_b):
            play.dial(client, web[0], 8080, 3, WEB)
            play.dial(client, web[1], 8080, 2, WEB)
        play.dial(client, OUTSIDE, 443, 3)  # masqueraded
        play.dial(client, OUTSIDE6, 443, 2)
    for node in NODES:  # of the host's network
        play.dial(node, SERVICE, 80, 4, WEB)
        play.dial(node, web_b[0], 8080, 2, WEB)
        play.dial(node, OUTSIDE, 443, 2)
    for address in (a, b, a6, b6):  # through a node that may not be the backend's
        play.dial("", address, 30080, 6, WEB)
    for address in (a, b):
        play.dial("", address, 30081, 3, LOCAL)
    # The other node chooses the backend, where the opener's cannot see it.
    play.dial("load/client-a", b, 30080, 4, WEB, backend=b)


def test_each_connection_of_two_nodes_counts_once(tmp_path: Path) -> None:
    (tmp_path / "objects.json").write_text(json.dumps(objects()), encoding="utf-8")
    files = [tmp_path / f"{name}.db" for name in NODES]
    with TwoNodes() as play, ExitStack() as stack:
        for file, node in zip(files, play.nodes.values(), strict=True):
            stack.enter_context(recorder(node, file, tmp_path / "objects.json"))
        traffic(play)
        time.sleep(1)  # until nothing of it is on its way any more
        for node in play.nodes.values():
            caught_up(node)
    merged = merge(files, tmp_path / "all.db", aside=True)
    assert merged.notes == []
    with ctk.open(tmp_path / "all.db") as recording:
        found = recording.top(by=BY, limit=None)
        by_zone = recording.top(by="src_node_zone,dst_node_zone", cross_zone=True)
    told: Counter[Made] = Counter()
    for row in found.rows:
        src, dst, port, nat_dst, service, _ = row.keys
        made = Made(src, dst, port, nat_dst or dst, service)
        told[made] += row.counts.connections
        # Layer 3 counts headers, too: 40 to 80 bytes a packet, options and handshake included. Of
        # what this node's recorder heard after the other one's stop there are no connections.
        payload, packets = row.counts.connections * (SENT + ANSWERED), row.counts.packets
        assert payload + 40 * packets <= row.counts.bytes <= payload + 80 * packets, made
    assert told == play.made
    assert {row.keys for row in by_zone.rows} == {("zone-a", "zone-b"), ("zone-b", "zone-a")}
    # Those that crossed from node to node are in both files, and are there for who asks.
    each = Counter()
    for file in files:
        with ctk.open(file) as recording:
            each[file.stem] = recording.top(by="proto").totals.connections
    with ctk.open(tmp_path / "all.db", all_observers=True) as recording:
        assert recording.top(by="proto").totals.connections == each.total()
        seen = {row.keys[0]: row.counts.connections for row in recording.top(by="node").rows}
    assert seen == dict(each)
    assert each.total() - play.made.total() == sum(
        aside.connections for aside in merged.asides if aside.why == "left out"
    )
    assert each.total() > 1.3 * play.made.total()
    shipped, counted = in_clickhouse(files, tmp_path / "ch")
    assert shipped == each.total()
    assert counted == play.made


def in_clickhouse(files: Sequence[Path], folder: Path) -> tuple[int, Counter[Made]]:
    """Ship files; give all connections there, and what of them counts, as it is asked."""
    target = parse_target(f"chdb://{folder}", {})
    with opened(target, database=False) as client:
        ddl.make(client)
    with opened(target) as client:
        for file in files:
            with shipper_of(file, target.said) as shipper:
                shipper.ship(client)
    with ctk.open(target.said) as shipped, ctk.open(target.said, all_observers=True) as everybody:
        found = shipped.top(by=BY, limit=None)
        whole = everybody.top(by="proto").totals.connections
    counted: Counter[Made] = Counter()
    for row in found.rows:
        src, dst, port, nat_dst, service, _ = row.keys
        counted[Made(src, dst, port, nat_dst or dst, service)] += row.counts.connections
    return whole, counted


@contextmanager
def recorder(node: Played, file: Path, cluster: Path) -> Iterator[None]:
    """Record in a node's namespace, with the cluster's names and the node's own."""
    options = ("--objects", str(cluster), "--node-name", node.name, "--accounting-interval", "1s")
    with (
        file.with_suffix(".log").open("w", encoding="utf-8") as log,
        listening(node, *CTK, "record", str(file), *options, stderr=log) as process,
    ):
        yield
    assert process.returncode == 0, file.with_suffix(".log").read_text("utf-8")
