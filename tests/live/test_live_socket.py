"""The live socket against the real kernel."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from playednode import (
    CLIENT,
    CLIENT_1,
    PODS,
    WEB_A,
    PlayedNode,
    Servers,
    Traffic,
    inside,
    run,
    udp,
)

from ctk.conntrack import decode
from ctk.conntrack.addresses import local_addresses
from ctk.conntrack.decode import Decoder, Event
from ctk.conntrack.filters import EventFilter, program
from ctk.conntrack.socket import Socket
from ctk.conntrack.table import dump
from ctk.conntrack.tuples import parse_tuples
from ctk.model import FlowTuple

pytestmark = pytest.mark.live

SMALL = 32 << 10


@pytest.fixture(scope="module")
def node() -> Iterator[PlayedNode]:
    """Play one node for all of them."""
    with PlayedNode(timeouts={}) as played:
        yield played


@pytest.fixture
def on_node(node: PlayedNode) -> Iterator[PlayedNode]:
    """Put this thread there, and leave no entry in its table."""
    with inside(node.node):
        yield node
        run("conntrack", "-F")


def received(source: Socket) -> list[Event]:
    """All events that are queued."""
    decoder, events = Decoder(), []
    while batch := source.receive(0.1):
        events += [Event(*values) for values in decoder.read(batch)]
    assert decoder.malformed == 0
    return events


def flood(play: PlayedNode, flows: int) -> None:
    """Send one datagram each to that many ports of a pod, as fast as one process can."""
    with udp(play.pods[CLIENT], PODS[CLIENT][0], 0) as sock:
        for n in range(flows):
            sock.sendto(b"", (PODS[CLIENT_1][0], 1 + n))


def made(play: PlayedNode) -> None:
    """Make the known traffic, and let every entry tell its end."""
    with Servers(play) as servers:
        Traffic(play, servers).known()
    run("conntrack", "-F")


def flow(event: Event) -> FlowTuple:
    return parse_tuples(event.orig, event.reply, event.zone)


def test_every_new_connection_is_received_once(on_node):
    with Socket() as source:
        made(on_node)
        events = received(source)
    assert sum(event.what == decode.NEW for event in events) == 90
    assert source.lost() is None


def test_only_the_chosen_kinds_of_event_are_received(on_node):
    with Socket(events=("new",)) as source:
        made(on_node)
        assert {event.what for event in received(source)} == {decode.NEW}


def test_what_an_overrun_lost_is_known_to_the_event(on_node):
    before_ns = time.time_ns()
    with Socket(buffer_bytes=SMALL, buffer_max_bytes=SMALL, events=("new",)) as source:
        flood(on_node, 5000)
        events = received(source)
        gap = source.lost()
        assert gap is not None
        assert (gap.kind, len(events) + gap.lost) == ("events lost", 5000)
        assert before_ns <= gap.started_ns < gap.ended_ns <= time.time_ns()
        assert source.lost() is None
        flood(on_node, 10)  # the same ports: nothing is new but the source's port
        assert len(received(source)) == 10
        assert source.lost() is None


def test_the_buffer_grows_on_an_overrun_up_to_its_limit(on_node):
    with Socket(buffer_bytes=SMALL, buffer_max_bytes=3 * SMALL, events=("new",)) as source:
        sizes = []
        for _ in range(3):
            flood(on_node, 2000)
            received(source)
            sizes.append(source.buffer_bytes)
    assert sizes == [2 * SMALL, 3 * SMALL, 3 * SMALL]


def test_the_buffer_grows_before_events_are_lost(on_node):
    """Of 3,000 events that wait, 2,000 are left by the first read: more than half of what fits."""
    two_mib = 2 << 20
    with Socket(buffer_bytes=two_mib, buffer_max_bytes=2 * two_mib, events=("new",)) as source:
        flood(on_node, 3000)
        assert len(received(source)) == 3000
        assert (source.buffer_bytes, source.lost()) == (2 * two_mib, None)


FILTERS = (
    {"cidrs": ["10.96.0.80"]},
    {"cidrs": ["fd00:10:244::/64"]},
    {"cidrs": [PODS[WEB_A][0], PODS[WEB_A][1]], "ports": ["8080"]},
    {"exclude_cidrs": ["10.96.0.0/12"], "protocols": ["tcp"]},
    {"protocols": ["udp", "icmp"]},
    {"ports": ["30080", "6443"]},
    {"cidrs": ["192.0.2.0/24"]},
)


def test_the_kernel_drops_what_python_does_not_want(on_node):
    """One socket with each filter, and one without, of the same traffic."""
    with ExitStack() as stack:
        everything = stack.enter_context(Socket())
        wanted = [EventFilter.parse(**asked) for asked in FILTERS]
        filtered = [stack.enter_context(Socket(program=program(each))) for each in wanted]
        made(on_node)
        events = received(everything)
        for asked, filter_, source in zip(FILTERS, wanted, filtered, strict=True):
            kept = received(source)
            assert kept == [event for event in events if filter_.wants(flow(event))], asked
            assert source.drops() == 0, asked  # what a filter drops is not loss


def test_a_dump_has_the_live_entries_of_both_families(on_node):
    with Servers(on_node) as servers:
        traffic = Traffic(on_node, servers)
        traffic.tcp(CLIENT, "10.96.0.80", 80, None, None)
        traffic.tcp(CLIENT, PODS[WEB_A][1], 8080, None, None)
    decoder = Decoder()
    events = [Event(*values) for batch in dump() for values in decoder.read(batch)]
    assert decoder.malformed == 0
    assert {event.what for event in events} == {decode.DUMPED}
    assert sorted((flow(event).dst_port, event.bytes_out > 300) for event in events) == [
        (80, True),
        (8080, True),
    ]


def test_a_large_table_is_dumped_in_chunks_and_whole(on_node):
    flood(on_node, 5000)
    sizes = [len(batch.lengths) for batch in dump()]
    assert (sum(sizes), max(sizes) < 250) == (5000, True)


def test_what_another_process_sends_is_not_an_event(on_node):
    with Socket() as source:
        port = source._socket.getsockname()[0]
        with (
            socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12) as stranger,
            pytest.raises(ConnectionRefusedError),
        ):
            stranger.sendto(bytes(20), (port, 0))
        assert source.receive(0.1) is None
        assert source.malformed == 0


def test_the_hosts_addresses_are_those_of_its_interfaces(on_node):
    from pyroute2 import IPRoute

    found = local_addresses()
    assert {"127.0.0.1", "::1", "172.18.0.2", "fc00:f853::2", "10.244.0.1"} <= found
    with IPRoute() as ipr:
        names = ("IFA_LOCAL", "IFA_ADDRESS")
        values = [[one.get_attr(name) for name in names] for one in ipr.get_addr()]
    assert found == {local or address for local, address in values}


def test_accounting_is_enabled_and_what_changed_is_said():
    with PlayedNode(accounting=False) as play:
        command = [*play.command(sys.executable), "-c"]
        script = "from ctk.conntrack.table import *; print(sysctl('{}'), enable_accounting())"
        first = subprocess.check_output([*command, script.format("nf_conntrack_acct")], text=True)
        second = subprocess.check_output([*command, script.format("nf_conntrack_acct")], text=True)
    names = ["net.netfilter.nf_conntrack_acct=1", "net.netfilter.nf_conntrack_timestamp=1"]
    assert (first, second) == (f"0 {names}\n", "1 []\n")


LISTEN = """
from ctk.conntrack.socket import *
from ctk.conntrack.table import dump
from ctk.errors import CtkError
try:
    with Socket(note=print) as source:
        print(len(list(dump())), source.buffer_bytes == BUFFER_BYTES)
except CtkError as error:
    print(type(error).__name__, error.message, error.hint, sep="|")
"""


def as_nobody(play: PlayedNode, *capabilities: str) -> str:
    """Run LISTEN in the node as another user id, with these capabilities alone."""
    chosen = ",".join(["-all", *(f"+{capability}" for capability in capabilities)])
    command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    command += [f"--bounding-set={chosen}", f"--inh-caps={chosen}", f"--ambient-caps={chosen}"]
    return subprocess.check_output(
        play.command(*command, sys.executable, "-c", LISTEN),
        text=True,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
    )


def test_net_admin_alone_is_enough(on_node):
    assert as_nobody(on_node, "net_admin") == "0 True\n"


def test_without_net_admin_it_is_one_error_with_a_hint(on_node):
    assert as_nobody(on_node) == (
        "SourceError|listening to conntrack events needs CAP_NET_ADMIN"
        "|run it as root, or give a container the capability NET_ADMIN\n"
    )
