"""The document of one span, and the page that holds it."""

import base64
import gzip
import hashlib
import json
import re
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from edges import edge as edge_of
from emptyfile import new
from hypothesis import given
from hypothesis import strategies as st
from questions import FOLDED, MOMENT, ROWS, SMALL, START, finish, terms, write
from sample import DB, WEB

import ctk
from ctk.ask.failures import failures
from ctk.ask.graph import graph
from ctk.ask.leafedges import SUM_KEYS, Sums, values_of
from ctk.ask.series import step_of
from ctk.ask.top import top
from ctk.cli.bar import Stages
from ctk.model import Filters, FlowRow, Term
from ctk.report.document import document
from ctk.store import prune, rollup
from ctk.store.orphans import Orphans
from ctk.timespan import DAY, HOUR, MINUTE, SECOND, WEEK

VENDOR = Path(ctk.__file__).parent / "report/page/vendor"


def added(all_sums: Iterable[Sums]) -> tuple[int | None, ...]:
    total = Sums()
    for sums in all_sums:
        total.add(*values_of(sums))
    found: tuple[int | None, ...] = values_of(total)
    return found


@given(ROWS, terms(), MOMENT, MOMENT, FOLDED, st.one_of(st.none(), st.sampled_from([HOUR, DAY])))
def test_the_edges_of_a_graph_are_what_top_counts(
    rows: list[FlowRow],
    terms: tuple[Term, ...],
    since_ns: int | None,
    until_ns: int | None,
    folded: int | None,
    kept: int | None,
) -> None:
    conn = new()
    write(conn, rows)
    if folded is not None:
        finish(rollup.fold(conn, START + folded, SMALL))
        if kept is not None:
            retain = {"flow": kept, "1m": kept}
            orphans = Orphans(conn, lambda table, ids: None)
            finish(prune.by_age(conn, START + 3 * DAY, retain, orphans))
    filters = Filters(since_ns=since_ns, until_ns=until_ns, terms=terms)
    found = graph(conn, filters, series_of=3)
    by_service: dict[str | None, list[Sums]] = defaultdict(list)
    for edge in found.edges:
        by_service[edge.service].append(edge.sums)
    counted = {
        row["service"]: tuple(row[key] for key in SUM_KEYS)
        for row in top(conn, filters, ["service"], limit=None).records()
    }
    assert {service: added(sums) for service, sums in by_service.items()} == counted
    assert values_of(found.sums) == added(edge.sums for edge in found.edges)
    assert added(found.steps.values()) == values_of(found.sums)
    for place, steps in found.edge_steps.items():
        assert added(steps.values()) == values_of(found.edges[place].sums)
    failed = [edge.sums.refused + edge.sums.unreplied for edge in found.edges]
    assert failed == sorted(failed, reverse=True)
    for edge in found.edges:
        assert edge.first_ns <= edge.last_ns
        assert (edge.failed_first_ns is None) == (edge.sums.refused + edge.sums.unreplied == 0)


def test_a_span_is_cut_into_some_hundred_steps() -> None:
    assert {
        name: step_of(lasts_ns, 150) // SECOND
        for name, lasts_ns in {
            "a minute": MINUTE,
            "an hour": HOUR,
            "a day": DAY,
            "a month": 30 * DAY,
            "ten years": 520 * WEEK,
        }.items()
    } == {
        "a minute": 10,
        "an hour": 30,
        "a day": 600,
        "a month": 21_600,
        "ten years": 604_800,
    }


def test_the_document_says_what_it_holds(shop: Path, invoke: Callable[..., Any]) -> None:
    made = json.loads(
        invoke("report", shop, "--format", "json", "--namespace", "kube-system").stdout
    )
    assert made["schema"] == "ctk.report/1"
    assert made["source"]["nodes"] == ["n1"]
    assert made["asked"] == {"flags": "--namespace kube-system", "since": None, "until": None}
    assert [(gap["kind"], gap["lost"]) for gap in made["trust"]["gaps"]] == [
        ("recorder down", None),
        ("events lost", 1_204),
    ]
    assert made["trust"]["bytes_measured"] == "none"
    assert made["nodes"] == [
        {"id": 0, "parent": None, "kind": "node", "name": "n1", "node": "n1"},
        {"id": 1, "parent": None, "kind": "namespace", "name": "kube-system"},
        {
            "id": 2,
            "parent": 1,
            "kind": "workload",
            "name": "coredns",
            "workload_kind": "Deployment",
        },
        {
            "id": 3,
            "parent": 2,
            "kind": "pod",
            "name": "coredns-7c65d6cfc9-sq2br",
            "node": "n1",
            "labels": {"k8s-app": "kube-dns", "pod-template-hash": "7c65d6cfc9"},
        },
    ]
    assert made["edges"] == [
        {
            "src": 0,
            "dst": 3,
            "service": None,
            "port": 8181,
            "proto": "tcp",
            "connections": 1,
            "refused": 0,
            "unreplied": 0,
            "bytes_out": None,
            "bytes_in": None,
            "first_at": "2024-11-25T18:47:22.852716307Z",
            "last_at": "2024-11-25T18:47:24.852716307Z",
            "failed_first_at": None,
            "failed_last_at": None,
        }
    ]


def test_a_span_is_held_against_the_one_before_it(shop: Path, invoke: Callable[..., Any]) -> None:
    span = ("--since", "2024-11-25T18:48:00Z", "--until", "2024-11-25T18:48:30Z")
    made = json.loads(invoke("report", shop, "--format", "json", *span).stdout)
    before = made["before"]
    assert before["complete"] is False  # two gaps are in it
    assert before["sums"]["connections"] + made["sums"]["connections"] == 16
    whole = json.loads(invoke("report", shop, "--format", "json").stdout)
    assert whole["before"] is None
    words = ("report", shop, "--format", "json", "--before")
    other = json.loads(invoke(*words, "2024-11-25T18:47:00Z..2024-11-25T18:48:00Z").stdout)
    assert other["before"]["sums"]["connections"] == 10
    assert invoke(*words, "yesterday").stderr == (
        "Error: 'yesterday' is not a span\nTry: 2h..1h, 09:00..10:00, or 1h.. until now\n"
    )


def test_a_report_goes_to_the_end_of_what_was_recorded_however_long_that_is_quiet(
    shop: Path, invoke: Callable[..., Any]
) -> None:
    def told(*words: str) -> Any:
        return json.loads(invoke("report", shop, "--format", "json", *words).stdout)

    end = "2024-11-25T18:48:32.852716307Z"
    for words in ([], ["--since", "18:48:00Z"], ["--since", "1m", "--until", "2030-01-01"]):
        assert told(*words)["answered"]["until"] == end
    with ctk.open(shop) as recording:
        assert recording.graph().until_ns == (recording.top().span or (0, 0))[1]
    asked = told("--since", "18:48:00Z", "--until", "2024-11-25T18:48:30Z")
    assert asked["answered"]["until"] == "2024-11-25T18:48:30.000000000Z"
    assert asked["before"]["since"] == "2024-11-25T18:47:30.000000000Z"
    quiet = told("--since", "2024-11-25T18:48:23Z")
    assert quiet["answered"]["since"] == "2024-11-25T18:48:23.000000000Z"
    assert quiet["answered"]["until"] == end
    assert quiet["series"]["total"]["connections"] == [0, 0]
    assert quiet["before"]["sums"]["connections"] > 0
    assert quiet["trust"]["caveats"][0] == (
        "no flows fit: there is none after 2024-11-25T18:48:22Z"
    )


def test_the_last_failure_is_at_the_end_of_its_flow_as_ctk_failures_has_it() -> None:
    conn = new()
    refused = FlowRow(
        edge_of("tcp", 0, WEB, DB, 5432, None, DB, None, None, None),
        *(START, START + 4 * MINUTE, None, 1, 1, 1, 0, 0, 1, None, None, None, None),
    )
    write(conn, [refused])
    (found,) = graph(conn, Filters()).edges
    (row,) = failures(conn, Filters()).rows
    assert (found.failed_first_ns, found.failed_last_ns) == (START, START + 4 * MINUTE)
    assert (row.first_ns, row.last_ns) == (START, START + 4 * MINUTE)
    conn.close()


def test_labels_are_left_out_where_they_are_not_wanted(
    shop: Path, invoke: Callable[..., Any]
) -> None:
    assert '"labels"' in invoke("report", shop, "--format", "json").stdout
    assert '"labels"' not in invoke("report", shop, "--format", "json", "--no-labels").stdout


def test_words_stand_for_names(shop: Path, invoke: Callable[..., Any]) -> None:
    text = invoke("report", shop, "--format", "json", "--redact").stdout
    for name in ("shop", "web", "db-0", "n1", "10.244", "203.0.113", "2001:db8", "labels"):
        assert name not in text, name
    made = json.loads(text)
    assert made["sums"] == json.loads(invoke("report", shop, "--format", "json").stdout)["sums"]


def test_where_a_flood_is_recorded_a_short_span_is_told_from_minutes_too(
    shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of its flows were read anew for each window: 1.4 s for 20 minutes of 3,000 a window."""
    with ctk.open(shop) as recording:
        exact = recording.graph()
        monkeypatch.setattr("ctk.ask.graph._MOST_READ", 3)
        rough = recording.graph()
    assert (exact.step_ns, rough.step_ns) == (10 * SECOND, MINUTE)
    assert rough.sums == exact.sums
    assert added(rough.steps.values()) == values_of(exact.sums)
    assert {(edge.src, edge.dst, edge.port): edge.sums for edge in rough.edges} == {
        (edge.src, edge.dst, edge.port): edge.sums for edge in exact.edges
    }


def test_a_report_of_nothing_says_why(shop: Path, invoke: Callable[..., Any]) -> None:
    def caveats(*words: str) -> list[str]:
        told = json.loads(invoke("report", shop, "--format", "json", *words).stdout)
        found: list[str] = told["trust"]["caveats"]
        return found

    assert caveats("--pod", "web-7", "--namespace", "shop")[0] == (
        "no flows fit: no pod named web-7 in this file (shop/web-1)"
    )
    assert caveats("--until", "2020-01-01")[0].startswith("no flows fit: the file begins ")
    # The reasons name who is in the file, and who was asked for.
    assert caveats("--pod", "web-7", "--redact")[0] == "no flows fit"


def test_the_page_holds_the_document_and_nothing_of_it_as_markup(
    shop: Path, tmp_path: Path, invoke: Callable[..., Any]
) -> None:
    out = tmp_path / "page.html"
    assert invoke("report", shop, "-o", out).stdout == f"{out}\n"
    text = out.read_text()
    [held] = re.findall(r'id="document">([^<]*)</script>', text)
    made = json.loads(gzip.decompress(base64.b64decode(held)))
    told = json.loads(invoke("report", shop, "--format", "json").stdout)
    assert {**made, "made_at": None} == {**told, "made_at": None}
    for script in re.findall(r"<script>(.*?)</script>", text, re.DOTALL):
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"sha256-{digest}" in text
    assert not re.search(r"(?:src|href)=[\"']?(?:https?:)?//", text)


def test_an_older_report_is_written_over_and_nothing_else_is(
    shop: Path, tmp_path: Path, invoke: Callable[..., Any]
) -> None:
    out = tmp_path / "page.html"
    out.write_text("older")
    assert invoke("report", shop, "-o", out).exit_code == 0
    assert out.stat().st_mode & 0o777 == 0o600
    assert invoke("report", shop, "-o", shop).exit_code == 2


def test_what_was_vendored_is_unchanged() -> None:
    listed = re.findall(
        r"^\| (\S+) \|.*\| ([0-9a-f]{64}) \|$", (VENDOR / "README.md").read_text(), re.M
    )
    assert dict(listed) == {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in VENDOR.iterdir()
        if path.suffix in (".js", ".css")
    }


def test_what_is_past_the_cap_is_left_out_with_its_sums(shop: Path) -> None:
    with ctk.open(shop) as recording:
        whole = document(recording, Filters())
        made = document(recording, Filters(), most_edges=2)
    assert made["edges"] == whole["edges"][:2]
    rest = whole["edges"][2:]
    assert made["left_out"]["edges"] == len(rest) > 0
    assert made["left_out"]["sums"] == dict(
        zip(SUM_KEYS, added(Sums(*(edge[key] for key in SUM_KEYS)) for edge in rest), strict=True)
    )
    assert made["sums"] == whole["sums"]


def test_a_bar_says_what_a_long_report_is_at(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with Stages(after_s=0) as stages:
        stages.at(0.5, "unseen: this is no terminal")
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with Stages(after_s=0) as stages:
        stages.at(0.5, "when all did")
        time.sleep(0.3)
    shown = capsys.readouterr().err
    assert shown.startswith(
        "\r\x1b[K[####################....................]  50% when all did, 0s"
    )
    assert shown.endswith("\r\x1b[K")
