"""
Make fixtures/captures anew, from the played node. Needs root.

    python tests/live/record_captures.py
"""

import json
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playednode import (
    CLIENT,
    CLIENT_1,
    DNS,
    NODE_NAME,
    PODS,
    WEB_A,
    WEB_B,
    PlayedNode,
    Servers,
    Traffic,
    echo,
    inside,
    run,
)

from ctk.conntrack.addresses import local_addresses
from ctk.conntrack.capture import CaptureWriter, Header
from ctk.conntrack.listen import Listener
from ctk.conntrack.socket import Socket
from ctk.conntrack.table import sysctl

CAPTURES = Path(__file__).parents[2] / "fixtures" / "captures"
DUMP_S = 5
SYSCTLS = ("nf_conntrack_acct", "nf_conntrack_timestamp", "nf_conntrack_events")

# One zone for all that one pod does, another for one direction of what another does.
MIXED_RULES = f"""
table inet mixed {{
    chain zones {{
        type filter hook prerouting priority raw;
        ip saddr {PODS[CLIENT_1][0]} ct zone set 7
        ip daddr {PODS[CLIENT_1][0]} ct zone set 7
        ip saddr {PODS[CLIENT][0]} tcp dport 9997 ct original zone set 9
    }}
    chain own {{
        type filter hook output priority raw;
        ip daddr {PODS[CLIENT_1][0]} ct zone set 7
    }}
    chain marks {{
        type filter hook forward priority filter;
        meta l4proto {{ icmp, icmpv6 }} ct mark set 0x2a
        ip saddr {PODS[DNS][0]} ct label set 5
    }}
}}
"""


@contextmanager
def recording(play: PlayedNode, path: Path) -> Iterator[None]:
    """
    Record what happens in the node meanwhile: events, and a dump every DUMP_S.

    A dump makes the kernel end what is past its time; by itself it would take up to a minute.
    """
    started, stop = threading.Event(), threading.Event()

    def record() -> None:
        with inside(play.node):
            header = Header(
                node=NODE_NAME,
                addresses=local_addresses(),
                sysctls={name: sysctl(name) for name in SYSCTLS},
            )
            with Socket() as source, CaptureWriter(path, header) as writer:
                listener = Listener(source, dump_every_s=DUMP_S, stopping=stop.is_set)
                for batch in listener:
                    if batch.lengths or batch.dumped:
                        writer.write(batch)
                    if batch.dumped:
                        started.set()

    thread = threading.Thread(target=record)
    thread.start()
    started.wait()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def node(path: Path, *, accounting: bool, pause_s: float, rest_s: float) -> None:
    """Record the known traffic, once, until it has told its end; keep what it was beside it."""
    with (
        PlayedNode(accounting=accounting) as play,
        Servers(play) as servers,
        recording(play, path),
    ):
        traffic = Traffic(play, servers, pause_s)
        traffic.known()
        time.sleep(rest_s)
    made = [talk._asdict() | {"connections": n} for talk, n in traffic.made.items()]
    path.with_name(path.name.replace(".ctkcap.gz", ".json")).write_text(
        json.dumps(made, indent=1) + "\n", encoding="utf-8"
    )


def demo(path: Path) -> None:
    """Record what a small shop does in a minute and a half."""
    with PlayedNode() as play, Servers(play) as servers, recording(play, path):
        Traffic(play, servers, pause_s=0.15).busy(85)
        time.sleep(5)


def mixed(path: Path) -> None:
    """Record every protocol and attribute that can be made here, some dozen messages of each."""
    with PlayedNode() as play, Servers(play) as servers:
        (a, a6), (b, b6) = PODS[CLIENT], PODS[WEB_A]
        with inside(play.node):
            run("nft", "-f", "-", text=MIXED_RULES)
            # The crafted packets carry no checksums.
            Path("/proc/sys/net/netfilter/nf_conntrack_checksum").write_text("0", encoding="ascii")
        # One connection is older than the recording, and in its first dump.
        Traffic(play, servers).tcp(CLIENT, "10.96.0.80", 80, None, None)
        with recording(play, path):
            traffic = Traffic(play, servers)
            traffic.known()
            traffic.ping(CLIENT_1, WEB_B)  # in zone 7
            traffic.failed(CLIENT, WEB_B, 9997)  # in zone 9, one way
            sctp = struct.pack(">HHII", 5000, 5001, 0, 0)
            init = struct.pack(">BBHIIHHI", 1, 0, 20, 1, 65535, 1, 1, 1)
            back = struct.pack(">HHII", 5001, 5000, 1, 0)
            init_ack = struct.pack(">BBHIIHHI", 2, 0, 20, 1, 65535, 1, 1, 1)
            dccp = struct.pack(">HHBBHBBHII", 6000, 6001, 5, 0, 0, 0, 0, 0, 1, 0)
            gre = struct.pack(">HH", 0, 0x0800) + bytes(20)
            lite = struct.pack(">HHHH", 7000, 7001, 0, 1)  # a checksum of 0 would be malformed
            for src, dst in ((a, b), (a6, b6)):
                raw(play, CLIENT, src, dst, 132, sctp + init)
                raw(play, WEB_A, dst, src, 132, back + init_ack)
                raw(play, CLIENT, src, dst, 33, dccp)
                raw(play, CLIENT, src, dst, 47, gre)
                raw(play, WEB_A, dst, src, 47, gre)
                raw(play, CLIENT, src, dst, 136, lite)
                raw(play, CLIENT, src, dst, 253, bytes(40))
            raw(play, CLIENT, a6, b6, socket.IPPROTO_ICMPV6, echo(128, 9, bytes(56)))
            time.sleep(0.5)
            run(*play.command("conntrack", "-F"))  # each entry tells its end, now
            run(*play.command("conntrack", "-F", "-f", "ipv6"))
            Traffic(play, servers).tcp(CLIENT, PODS[WEB_B][1], 8080, None, None)
            time.sleep(0.5)


def raw(play: PlayedNode, pod: str, src: str, dst: str, proto: int, content: bytes) -> None:
    with inside(play.pods[pod]):
        sock = socket.socket(
            socket.AF_INET6 if ":" in src else socket.AF_INET, socket.SOCK_RAW, proto
        )
    with sock:
        sock.bind((src, 0))
        sock.sendto(content, (dst, 0))


def main() -> int:
    CAPTURES.mkdir(parents=True, exist_ok=True)
    node(CAPTURES / "node.ctkcap.gz", accounting=True, pause_s=0.25, rest_s=6)
    node(CAPTURES / "uncounted.ctkcap.gz", accounting=False, pause_s=0.05, rest_s=6)
    demo(CAPTURES / "demo.ctkcap.gz")
    mixed(CAPTURES / "mixed.ctkcap.gz")
    for path in CAPTURES.iterdir():
        path.chmod(0o644)
    return subprocess.call(["ls", "-l", str(CAPTURES)])


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # leave nothing behind
    sys.exit(main())
