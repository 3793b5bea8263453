"""A real table that fills: what the recorder says of it, beside `conntrack -S`."""

import json
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playednode import CLIENT, CLIENT_1, PODS, PlayedNode, inside, udp, until
from recording import CTK, is_in, recording, rows

pytestmark = pytest.mark.live

# The limit is the machine's, and the count the namespace's: others have less than this.
MOST = 6_000
HELD = 5_000  # of them before the recorder starts
LIMIT = Path("/proc/sys/net/netfilter/nf_conntrack_max")


@contextmanager
def limit(most: int) -> Iterator[None]:
    before = LIMIT.read_text()
    try:
        LIMIT.write_text(str(most))
    except OSError as error:
        pytest.skip(f"nf_conntrack_max cannot be set here: {error.strerror}")
    try:
        yield
    finally:
        LIMIT.write_text(before)


def counted(play: PlayedNode) -> dict[str, int]:
    """What `conntrack -S` says, summed up."""
    with inside(play.node):
        said = subprocess.run(["conntrack", "-S"], stdout=subprocess.PIPE, text=True, check=True)
    sums: dict[str, int] = {}
    for name, count in re.findall(r"(\w+)=(\d+)", said.stdout):
        sums[name] = sums.get(name, 0) + int(count)
    return sums


def ask(*words: str) -> str:
    return subprocess.run([*CTK, *words], stdout=subprocess.PIPE, text=True, check=True).stdout


def test_a_table_that_fills_is_said_with_who_holds_it_and_what_was_refused(tmp_path: Path) -> None:
    db = tmp_path / "node.db"
    with PlayedNode(timeouts={}) as play, limit(MOST):
        with udp(play.pods[CLIENT], PODS[CLIENT][0], 0) as sock:

            def dial(first: int, last: int) -> None:
                for port in range(first, last + 1):
                    sock.sendto(b"x", (PODS[CLIENT_1][0], port))

            dial(1, HELD)
            before = counted(play)
            with recording(play, db, "--window", "1s"):
                until(lambda: is_in(db, "SELECT 1 FROM recordings"), "the recorder")
                # It looks once a second; and the kernel's gc_worker evicts down to 95 %, at times
                # of its own: the table is kept full for longer than that.
                for first in range(HELD + 1, MOST + 20_001, 100):
                    dial(first, first + 99)
                    time.sleep(0.012)
                last = counted(play)
        found = json.loads(ask("pressure", str(db), "-o", "json", "--by", "client,backend,state"))
    (node,) = found["nodes"]
    assert (node["peak"], node["most"]) == (MOST, MOST)
    refused = {name: last[name] - before[name] for name in ("drop", "early_drop", "insert_failed")}
    assert sum(refused.values()) >= 2_000
    assert (node["dropped"], node["early_dropped"], node["insert_failed"]) == tuple(
        refused.values()
    )
    # The dump at the start listed them: each of a port of its own, and of one client.
    ((listed,),) = rows(db, "SELECT SUM(entries) FROM holders")
    assert isinstance(listed, int)
    assert HELD <= listed <= MOST
    top, *others = found["holders"]
    who = (top["client"], top["backend"], top["state"])
    assert who == (CLIENT, CLIENT_1, "UNREPLIED")
    # What made room while it was listed has ended.
    assert {each["client"] for each in others} <= {"left out"}
    assert sum(each["at_peak"] for each in found["holders"]) == listed
    assert top["at_peak"] > 0.95 * listed
    warned = subprocess.run([*CTK, "info", str(db)], capture_output=True, text=True, check=True)
    assert f"100% full at {node['peak_at'][:19]}Z: 6,000 of 6,000 entries" in warned.stderr
