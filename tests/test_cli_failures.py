"""`ctk failures`: exact tables, and what is said beside them."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from click.testing import Result
from edges import edge, with_ids
from sample import AT, DB, DB_SERVICE, WEB

from ctk.model import EventCounts, FlowRow
from ctk.store import connect
from ctk.store.write import Writer

Invoke = Callable[..., Result]
GAPS = "2 gaps in this window: 1,204 events lost, recorder down for 3s\n"

FAILED = """\
CLIENT    SERVICE  BACKEND      PORT     CONNS  REFUSED  UNREPLIED      %  SINCE (UTC)          LAST (UTC)
shop/db   -        2001:db8::9  514/udp      5        0          5  100.0  2024-11-25 18:48:02  2024-11-25 18:48:04
shop/web  -        203.0.113.9  443/tcp      4        4          0  100.0  2024-11-25 18:47:52  2024-11-25 18:47:54
"""  # noqa: E501


def test_refused_and_unreplied_are_told_apart_and_since_when(invoke: Invoke, shop: Path) -> None:
    result = invoke("failures", shop)
    assert (result.exit_code, result.stdout, result.stderr) == (0, FAILED, GAPS)
    alone = invoke("failures", shop, "--refused")
    lines = FAILED.splitlines(keepends=True)
    assert alone.stdout == "".join([lines[0], lines[2]])


def test_programs_get_every_number(invoke: Invoke, shop: Path) -> None:
    found = json.loads(invoke("failures", shop, "--port", "443", "-o", "json").stdout)
    assert found == [
        {
            "client": "shop/web",
            "service": None,
            "backend": "203.0.113.9",
            "port": 443,
            "proto": "tcp",
            "connections": 4,
            "failed": 4,
            "refused": 4,
            "unreplied": 0,
            "share": 1.0,
            "first_failed_at": "2024-11-25T18:47:52.852716307Z",
            "first_failed_ns": 1732560472852716307,
            "last_failed_at": "2024-11-25T18:47:54.852716307Z",
            "last_failed_ns": 1732560474852716307,
            "exact_to_ns": 1,
            "backends": None,
            "failing_backends": None,
        }
    ]


def test_a_backend_that_alone_fails_is_noted(
    invoke: Invoke, on_a_terminal: Callable[..., list[str]], tmp_path: Path
) -> None:
    path = tmp_path / "one.db"
    with connect.writer(path) as conn:
        writer = Writer(conn, node="n1", source="k", settings={}, started_ns=AT, boot_id=None)
        rows = []
        for i, refused in enumerate((0, 7, 0)):
            backend = replace(DB, address=f"10.244.1.{i}", name=f"db-{i}")
            to = edge("tcp", 0, WEB, DB_SERVICE, 5432, None, backend, 15432, "shop/db", "address")
            rows.append(FlowRow(to, AT, AT, None, 10, 10, 0, 10, 0, refused, *(None,) * 4))
        writer.window(with_ids(writer, rows), committed_ns=AT, counters=EventCounts())
    result = invoke("failures", path, "--columns", "backend,refused,percent,note")
    assert result.stdout == (
        "BACKEND    REFUSED     %  NOTE\nshop/db-1        7  70.0  only this backend of 3 fails\n"
    )
    *_, told = on_a_terminal("failures", path, columns=80)
    assert told == "shop/db: only shop/db-1 of its 3 backends fails"
    assert len(on_a_terminal("failures", path)) == 2  # there is room for the note


def test_what_the_limit_cuts_is_said(invoke: Invoke, shop: Path) -> None:
    cut = invoke("failures", shop, "--limit", "1")
    assert [line.split()[0] for line in cut.stdout.splitlines()] == ["CLIENT", "shop/db"]
    assert cut.stderr == f"only the first 1 of 2: --limit 0 has all\n{GAPS}"
    assert invoke("failures", shop, "--limit", "0").stdout == FAILED


def test_where_nothing_failed_it_is_said(invoke: Invoke, shop: Path) -> None:
    result = invoke("failures", shop, "--port", "5432")
    assert result.stderr == f"nothing failed\n{GAPS}"
    assert result.stdout.startswith("CLIENT")


def test_so_many_flows_are_no_part_of_failures(invoke: Invoke, shop: Path) -> None:
    result = invoke("failures", shop, "--last", "3")
    assert (result.exit_code, result.stderr) == (
        2,
        "Error: first and last cut flows, not failures\nTry: --limit 20 cuts the answer\n",
    )


def test_a_span_that_was_not_recorded_is_not_one_in_which_nothing_failed(
    invoke: Invoke, shop: Path
) -> None:
    span = ("--since", "2020-01-01", "--until", "2020-01-02", "--utc")
    for command in ("failures", "new"):
        said = invoke(command, shop, *span).stderr
        assert "no flows fit: the file begins 2024-11-25T18:47:22Z, " in said
        assert "nothing failed" not in said
        assert "nobody is new" not in said
    drawn = invoke("timeline", shop, *span).stdout
    assert "bytes: not recorded\n" in drawn
    assert "not recorded" in drawn.splitlines()[-1]
    assert "not known" not in drawn
