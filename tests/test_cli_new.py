"""`ctk new`: who is seen first, in exact tables."""

import json
from collections.abc import Callable
from pathlib import Path

from click.testing import Result

Invoke = Callable[..., Result]
GAPS = "2 gaps in this window: 1,204 events lost, recorder down for 3s\n"

NEW = """\
FIRST SEEN (UTC)     CLIENT       SERVER       PORT       CONNS  FAILED     BYTES
2024-11-25 18:47:32  shop/web     shop/db      5432/tcp       4       0  64.1 KiB
2024-11-25 18:47:42  203.0.113.9  shop/web     30080/tcp      2       0   4.8 MiB
2024-11-25 18:47:52  shop/web     203.0.113.9  443/tcp        4       4     400 B
2024-11-25 18:48:02  shop/db      2001:db8::9  514/udp        5       5     700 B
2024-11-25 18:48:12  shop/web     10.9.9.9     icmp           1       0     168 B
"""
BEGAN = "recording began 2024-11-25T18:47:22Z: what was there before was first seen then\n"


def test_peers_come_in_the_order_in_which_they_were_first_seen(invoke: Invoke, shop: Path) -> None:
    result = invoke("new", shop, "--since", "2024-11-25T18:47:30Z")
    assert (result.exit_code, result.stdout, result.stderr) == (0, NEW, GAPS)
    everybody = invoke("new", shop, "-o", "jsonl")
    assert json.loads(everybody.stdout.splitlines()[0]) == {
        "first_seen_at": "2024-11-25T18:47:22.852716307Z",
        "first_seen_ns": 1732560442852716307,
        "client": "n1",
        "server": "kube-system/coredns",
        "port": 8181,
        "proto": "tcp",
        "connections": 1,
        "failed": 0,
        "bytes": None,
    }
    assert everybody.stderr == BEGAN + GAPS


def test_nobody_new_is_said(invoke: Invoke, shop: Path) -> None:
    result = invoke("new", shop, "--since", "2024-11-25T18:48:20Z")
    assert (result.exit_code, result.stderr) == (0, "nobody is new\n")


def test_the_limit_cuts_and_says_so(invoke: Invoke, shop: Path) -> None:
    result = invoke("new", shop, "--limit", "2", "-o", "csv")
    assert result.stdout.count("\n") == 3
    assert result.stderr == f"only the first 2 of 6: --limit 0 has all\n{BEGAN}{GAPS}"
