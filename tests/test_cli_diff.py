"""`ctk diff`: exact tables, spans and files, and what is asked wrongly."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

Invoke = Callable[..., Result]
GAPS = "2 gaps in this window: 1,204 events lost, recorder down for 3s\n"

BEFORE, AFTER = "..2024-11-25T18:48:00Z", "2024-11-25T18:48:00Z.."
DIFF = """\
CHANGE    CLIENT       SERVER               PORT       CONNS/S          FAILED/S  BYTES
vanished  203.0.113.9  shop/web             30080/tcp  0.0538           0         131.5 KiB/s
vanished  shop/web     203.0.113.9          443/tcp    0.108            0.108     11 B/s
vanished  n1           kube-system/coredns  8181/tcp   0.0269           0         ?
unknown   shop/db      2001:db8::9          514/udp    0.152            0.152     21 B/s
unknown   shop/web     10.9.9.9             icmp       0.0304           0         5.1 B/s
changed   shop/web     shop/db              5432/tcp   0.0808 → 0.0304  0         1.3 KiB/s → 499 B/s
"""  # noqa: E501
TOLD = "3 vanished, 2 unknown, 1 changed: 37.1s before, 32.9s after\n"


def test_who_vanished_and_who_is_only_unknown(invoke: Invoke, shop: Path) -> None:
    """Events were lost before 18:48, so nobody is surely new after it."""
    result = invoke("diff", shop, "--before", BEFORE, "--after", AFTER)
    assert (result.exit_code, result.stdout, result.stderr) == (0, DIFF, TOLD + GAPS)
    # The other span is right after the one that is given, as far as there is something.
    assert invoke("diff", shop, "--before", BEFORE).stdout == DIFF


def test_programs_get_both_sides_and_how_rates_changed(invoke: Invoke, shop: Path) -> None:
    asked = ("diff", shop, "--before", BEFORE, "--after", AFTER, "--by", "service", "-o", "jsonl")
    found = [json.loads(line) for line in invoke(*asked, "--to-service", "*").stdout.splitlines()]
    assert [(one["change"], one["service"]) for one in found] == [
        ("vanished", "shop/web"),
        ("changed", "shop/db"),
    ]
    assert found[0]["after_connections"] is None
    changed = {name: value for name, value in found[1].items() if not name.endswith("_change")}
    assert changed == {
        "change": "changed",
        "service": "shop/db",
        "before_connections": 3,
        "after_connections": 1,
        "before_failed": 0,
        "after_failed": 0,
        "before_bytes": 49_200,
        "after_bytes": 16_400,
    }
    assert found[1]["failed_per_s_change"] == 0
    assert found[1]["bytes_per_s_change"] == pytest.approx(
        16_400 / 32.8527 - 49_200 / 37.1473, 1e-4
    )


def test_two_files_are_compared_as_wholes(invoke: Invoke, shop: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.db"
    assert invoke("snapshot", shop, other).exit_code == 0
    result = invoke("diff", shop, other, "--by", "proto")
    assert result.stdout == (
        "CHANGE  PROTO  CONNS  FAILED  BYTES\n"
        "same    icmp   1      0       168 B\n"
        "same    tcp    11     4       4.8 MiB\n"
        "same    udp    5      5       700 B\n"
    )
    assert result.stderr == f"3 same: 1m 10s before, 1m 10s after\n{GAPS}"


def test_the_limit_is_of_each_kind_of_change(invoke: Invoke, shop: Path) -> None:
    result = invoke("diff", shop, "--before", BEFORE, "--limit", "1", "--sort", "failed")
    assert [line.split()[0] for line in result.stdout.splitlines()[1:]] == [
        *("vanished", "unknown", "changed")
    ]
    assert "only the first 1 of each, 3 of 6: --limit 0 has all\n" in result.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "there are no two spans, or files, to compare\nTry: --before 2h..1h --after 1h..\n"),
        (
            ("--before", "2h"),
            "'2h' is not a span\nTry: 2h..1h, 09:00..10:00, or 1h.. until now\n",
        ),
        (
            ("--before", "1h..", "--since", "2h"),
            "since and until are of one span\nTry: --before 2h..1h --after 1h..\n",
        ),
        (
            ("--before", "1h..", "--last", "3"),
            "first and last cut flows, not groups\nTry: --limit 20 cuts the answer\n",
        ),
        (
            ("--before", "2023-01-01..2023-01-02"),
            "nothing was recorded in the span before\n"
            "Try: a span within 2024-11-25T18:47:22Z..2024-11-25T18:48:32Z\n",
        ),
    ],
)
def test_what_cannot_be_compared_says_why(
    invoke: Invoke, shop: Path, words: tuple[str, ...], message: str
) -> None:
    result = invoke("diff", shop, *words)
    assert (result.exit_code, result.stdout, result.stderr) == (2, "", f"Error: {message}")


def test_three_files_are_too_many(invoke: Invoke, shop: Path) -> None:
    result = invoke("diff", shop, shop, shop)
    assert (result.exit_code, result.stderr) == (
        2,
        "Error: only two files can be compared\nTry: ctk diff a.db b.db\n",
    )
