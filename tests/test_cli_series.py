"""`ctk series`: steps without holes, in exact tables."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

Invoke = Callable[..., Result]
GAPS = "2 gaps in this window: 1,204 events lost, recorder down for 3s\n"

SINCE = ("--since", "2024-11-25T18:46:00Z")
BY_SERVICE = """\
TIME (UTC)           SERVICE   CONNS  FAILED     BYTES         RATE  NOTE
2024-11-25 18:46:00  shop/web      ?       ?         ?            ?  not recorded
2024-11-25 18:46:00  shop/db       ?       ?         ?            ?  not recorded
2024-11-25 18:46:00  -             ?       ?         ?            ?  not recorded
2024-11-25 18:47:00  shop/web      2       0   4.8 MiB  131.5 KiB/s  perhaps more, recorded 37.1s
2024-11-25 18:47:00  shop/db       3       0  48.0 KiB    1.3 KiB/s  perhaps more, recorded 37.1s
2024-11-25 18:47:00  -             5       4     400 B       11 B/s  perhaps more, recorded 37.1s
2024-11-25 18:48:00  shop/web      0       0       0 B        0 B/s  recorded 32.9s
2024-11-25 18:48:00  shop/db       1       0  16.0 KiB      499 B/s  recorded 32.9s
2024-11-25 18:48:00  -             6       5     868 B       26 B/s  recorded 32.9s
"""
SPARKLINES = """\
SERVICE   EACH 1m  CONNS  MOST/S
-         ·▆█         11   0.183
shop/db   ·█▄          4  0.0808
shop/web  ·█▁          2  0.0538
"""


def test_every_step_has_every_group_and_says_what_is_not_known(invoke: Invoke, shop: Path) -> None:
    result = invoke("series", shop, "--by", "service", *SINCE)
    assert (result.exit_code, result.stdout, result.stderr) == (0, BY_SERVICE, GAPS)


def test_a_sparkline_has_a_block_a_step_and_a_dot_where_nothing_is_known(
    invoke: Invoke, shop: Path
) -> None:
    words = ("--by", "service", "--sort", "connections", "--sparkline")
    assert invoke("series", shop, *words, *SINCE).stdout == SPARKLINES
    alone = invoke("series", shop, "--sparkline", "--refused")
    assert alone.stdout == "FLOWS  EACH 1m  TOTAL  MOST/S\nall    █▁       400 B  11 B/s\n"


def test_programs_get_null_for_what_is_not_known(invoke: Invoke, shop: Path) -> None:
    result = invoke("series", shop, *SINCE, "-o", "csv")
    assert result.stdout == (
        "started_at,started_ns,connections,events,failed,packets,bytes,bytes_out,bytes_in,refused,"
        "unreplied,connections_per_s,bytes_per_s,recorded_ns,is_whole\n"
        "2024-11-25T18:46:00.000000000Z,1732560360000000000,,,,,,,,,,,,0,False\n"
        "2024-11-25T18:47:00.000000000Z,1732560420000000000,10,29,4,3572,5050500,2340,5048160,4,0,"
        "0.26919868711381423,135958.79692683186,37147283693,False\n"
        "2024-11-25T18:48:00.000000000Z,1732560480000000000,7,17,5,24,17268,1184,16084,0,5,"
        "0.21307218357796778,525.6186380034783,32852716307,True\n"
    )
    [first, *_] = json.loads(invoke("series", shop, *SINCE, "-o", "json").stdout)
    assert (first["connections"], first["bytes"], first["is_whole"]) == (None, None, False)


def test_groups_that_are_left_out_are_said(invoke: Invoke, shop: Path) -> None:
    result = invoke("series", shop, "--by", "src", "--limit", "2", "--step", "1h")
    assert result.stdout.count("\n") == 3
    assert result.stderr == f"only the first 2 of 4: --limit 0 has all\n{GAPS}"


@pytest.mark.parametrize("step", ["90s", "0", "0s"])
def test_a_step_is_whole_minutes(invoke: Invoke, shop: Path, step: str) -> None:
    result = invoke("series", shop, "--step", step)
    assert (result.exit_code, result.stderr) == (
        2,
        f"Error: {step!r} is not a step\nTry: 10s, 20s, 30s, or whole minutes: 1m, 15m, 1h, 1d\n",
    )
