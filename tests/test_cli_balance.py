"""`ctk balance`: shares in exact tables."""

import json
from collections.abc import Callable
from pathlib import Path

from click.testing import Result

Invoke = Callable[..., Result]
GAPS = "2 gaps in this window: 1,204 events lost, recorder down for 3s\n"

BALANCE = """\
SERVICE   PORT       BACKEND     CONNS  CONNS/EVEN  FAILED     BYTES  BYTES/EVEN
shop/db   15432/tcp  shop/db-0       4        1.00       0  64.1 KiB        1.00
shop/web  8080/tcp   shop/web-1      2        1.00       0   4.8 MiB        1.00
"""


def test_services_come_with_their_backends(invoke: Invoke, shop: Path) -> None:
    result = invoke("balance", shop)
    assert (result.exit_code, result.stdout, result.stderr) == (0, BALANCE, GAPS)


def test_programs_get_the_skew_of_the_service_too(invoke: Invoke, shop: Path) -> None:
    result = invoke("balance", shop, "--service", "shop/db", "-o", "jsonl")
    assert json.loads(result.stdout) == {
        "service": "shop/db",
        "port": 15432,
        "proto": "tcp",
        "backend": "shop/db-0",
        "connections": 4,
        "connections_to_even": 1.0,
        "failed": 0,
        "bytes": 65_600,
        "bytes_to_even": 1.0,
        "backends": 1,
        "connections_skew": 1.0,
        "bytes_skew": 1.0,
    }


def test_where_no_service_was_dialled_it_is_said(invoke: Invoke, shop: Path) -> None:
    result = invoke("balance", shop, "--protocol", "icmp")
    assert (result.exit_code, result.stderr) == (0, f"no service was dialled\n{GAPS}")
    # Where no flow fits, that alone is said.
    assert invoke("balance", shop, "--service", "nosuch").stderr.startswith("no flows fit: ")
