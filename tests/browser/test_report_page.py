"""The report, opened from a disk."""

import json
import re
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from edges import edge, with_ids
from hostile import NAMES, hostile_file
from hypothesis import given
from hypothesis import strategies as st
from mesh import mesh_file
from sample import AT, GAPS, WEB

import ctk
from ctk.model import EventCounts, FlowRow
from ctk.store import connect
from ctk.store.write import Writer
from ctk.timespan import SECOND

if TYPE_CHECKING:
    from playwright.sync_api import Page

Open = Callable[..., "Page"]
SUMS = ("connections", "refused", "unreplied", "bytes_out", "bytes_in")


def sums_of(page: "Page", row: str) -> dict[str, dict[str, int | None]]:
    """The exact sums of the rows of a list, by their names."""
    found = page.eval_on_selector_all(
        f'[data-row="{row}"]', "rows => rows.map((row) => ({...row.dataset}))"
    )
    return {
        each.get("name", "total"): {
            key: int(each[camel]) if each[camel] != "" else None
            for key in SUMS
            for camel in [re.sub("_(.)", lambda match: match[1].upper(), key)]
        }
        for each in found
    }


def show_all(page: "Page") -> None:
    for button in page.query_selector_all(".scroll > .more"):
        button.click()


def top_sums(db: Path, by: str, **filters: Any) -> dict[str, dict[str, int | None]]:
    """What `ctk top -o json` says of the same question."""
    with ctk.open(db) as recording:
        top = recording.top(by=by, limit=None, **filters)
        return {
            str(row[by]): {key: row[key] for key in SUMS}
            for row in top.records()
            if row[by] is not None
        }


def test_it_opens_from_a_disk_without_a_network_and_is_the_readers_alone(
    open_page: Open, report_of: Callable[..., str], shop: Path, tmp_path: Path
) -> None:
    page = open_page(report_of(shop), offline=True)
    headings = page.eval_on_selector_all("main h2", "all => all.map((each) => each.textContent)")
    assert headings == [
        "Can I trust this?",
        "When",
        "What fails, since when?",
        "What changed?",
        "Who depends on…",
        "Who moves most?",
        "Map",
    ]
    assert page.inner_text(".facts .bad") == "2 gaps, 1,204 events lost"
    made = tmp_path / "shop.html"
    assert made.stat().st_mode & 0o777 == 0o600
    assert "<!-- a ctk report: who talked to whom, with names, addresses" in made.read_text()[:2000]
    # The same data gives the same picture.
    boxes = "all => all.map((box) => [box.dataset.key, box.style.left, box.style.top])"
    one = page.eval_on_selector_all(".box", boxes)
    page.reload()
    page.wait_for_selector("main[data-whole]")
    assert one == page.eval_on_selector_all(".box", boxes)
    assert len(one) > 3


_FILTERS = st.dictionaries(
    st.sampled_from(
        [
            *("namespace", "from-namespace", "to-namespace", "not-namespace", "pod", "to-pod"),
            *("workload", "from-workload", "not-to-workload", "service", "not-service"),
            *("kind", "from-kind", "not-to-kind", "protocol", "node", "to-node"),
        ]
    ),
    st.sampled_from(["shop", "shop/*", "web*", "web-1", "db", "shop/db", "pod", "n1", "tcp"]),
    max_size=3,
)


def test_every_number_is_that_of_top(
    open_page: Open, report_of: Callable[..., str], shop: Path
) -> None:
    address = report_of(shop)
    page = open_page(address)

    @given(asked=_FILTERS, by=st.sampled_from(["services", "ports"]))
    def holds(asked: dict[str, str], by: str) -> None:
        kinds = ("pod", "node", "service", "external", "unknown")
        asked = {
            name: value
            for name, value in asked.items()
            if (not name.endswith("kind") or value in kinds)
            and (name != "protocol" or value == "tcp")
        }
        words = "&".join(f"{name}={value}" for name, value in {**asked, "by": by}.items())
        page.evaluate("words => { location.hash = words; }", words)
        page.wait_for_selector(f'#tab-{by}[aria-selected="true"]')
        page.wait_for_function("words => document.body.dataset.shown === words", arg=words)
        keywords = {name.replace("-", "_"): value for name, value in asked.items()}
        if by == "services":
            assert sums_of(page, "services") == top_sums(shop, "service", **keywords)
        total = dict.fromkeys(SUMS, 0) | {"bytes_out": None, "bytes_in": None}
        for sums in top_sums(shop, "proto", **keywords).values():
            for key in SUMS:
                if sums[key] is not None:
                    total[key] = (total[key] or 0) + sums[key]
        assert sums_of(page, "total")["total"] == total

    holds()


def test_a_hostile_file_changes_nothing_but_text(
    open_page: Open, report_of: Callable[..., str], tmp_path: Path
) -> None:
    db = tmp_path / "hostile.db"
    hostile_file(db)
    page = open_page(report_of(db))
    assert page.evaluate("globalThis.pwned") is None
    assert page.evaluate("({}).polluted") is None
    assert page.query_selector_all("main img, main script, main iframe") == []
    show_all(page)
    shown = page.inner_text("main")
    for name in NAMES:
        # What would turn the text round is spelled out.
        assert name.replace("\u202e", "\\u202e")[:20] in shown.replace("\n", " "), name
    assert "\u202e" not in shown
    for box in page.query_selector_all(".box"):
        box.click()
        page.wait_for_selector(".panel")
    page.keyboard.press("Escape")
    # A spreadsheet runs none of its cells.
    with page.expect_download() as download:
        page.click("text=CSV")
    text = Path(download.value.path()).read_text()
    cells = [
        cell for line in text.splitlines() for cell in re.findall(r'"(?:[^"]|"")*"|[^,]+', line)
    ]
    assert [cell for cell in cells if re.match(r'"?[=+@\t]', cell)] == []
    assert text.startswith("source,destination,service,port,proto,connections,")


def test_the_address_is_the_question_and_back_goes_back(
    open_page: Open, report_of: Callable[..., str], shop: Path
) -> None:
    page = open_page(report_of(shop) + "#namespace=shop&sel=workload:shop/Deployment/web")
    assert page.inner_text(".panel h2") == "shop/web"
    page.click('.box[data-key="workload:shop/StatefulSet/db"]')
    page.wait_for_function("() => document.querySelector('.panel h2').textContent === 'shop/db'")
    assert "sel=workload:shop/StatefulSet/db" in page.url
    page.go_back()
    page.wait_for_function("() => document.querySelector('.panel h2').textContent === 'shop/web'")


def test_an_address_with_a_row_chosen_is_a_link(
    open_page: Open, report_of: Callable[..., str], shop: Path
) -> None:
    """Who opens it sees what was chosen: a failure, a change, a caller, a peer, a row of a list."""
    address = report_of(shop, "--since", "2024-11-25T18:47:40Z")
    page, other = open_page(address), open_page(address)
    shown = "() => [...document.querySelectorAll('.panel h2, .panel .sums, .panel code')]"
    seen = set()

    def opened_elsewhere() -> None:
        page.wait_for_function("() => location.hash.slice(1) === document.body.dataset.shown")
        if "sel=row:" not in page.url:
            return
        texts = page.evaluate(f"{shown}.map((each) => each.textContent)")
        assert texts
        other.goto("about:blank")
        other.goto(page.url)
        other.wait_for_selector(".panel")
        assert other.evaluate(f"{shown}.map((each) => each.textContent)") == texts
        seen.add(texts[0])

    def click(what: str, at: int = 0) -> None:
        page.evaluate(
            "([what, at]) => document.querySelectorAll(what)[at]"
            "?.dispatchEvent(new MouseEvent('click', {bubbles: true}))",
            [what, at],
        )

    for at in range(0, len(page.query_selector_all("main .way")), 5):
        click("main .way", at)
        opened_elsewhere()
    page.fill("[type=search]", "shop/web")
    page.wait_for_selector(".sides .way")
    for at in range(0, len(page.query_selector_all(".sides .way")), 2):
        click(".sides .way", at)
        opened_elsewhere()
    for at in range(2):
        for box in range(0, len(page.query_selector_all(".box")), 5):
            click(".box", box)
            page.wait_for_function("() => location.hash.slice(1) === document.body.dataset.shown")
            click(".panel .way", at)
            opened_elsewhere()
    assert len(seen) > 4, seen
    other.goto("about:blank")
    other.goto(f"{address}#sel=row:nobody")
    other.wait_for_selector("main[data-whole]")
    assert other.query_selector(".panel") is None


LONG = "checkout-recommendation-" * 6


@pytest.mark.parametrize(("width", "scheme"), [(1400, "light"), (800, "dark")])
def test_long_names_push_no_number_out(
    open_page: Open, report_of: Callable[..., str], tmp_path: Path, width: int, scheme: str
) -> None:
    db = tmp_path / "long.db"
    client, server = (
        replace(
            WEB, name=f"{'checkout-recommendation-' * 6}{at}", workload=None, address=f"10.0.0.{at}"
        )
        for at in range(2)
    )
    long = edge("tcp", 0, client, server, 80, None, server, None, None, None)
    with connect.writer(db) as conn:
        writer = Writer(conn, node="n1", source="kernel", settings={}, started_ns=AT, boot_id=None)
        row = FlowRow(long, AT, AT, None, 9_999, 9_999, 0, 0, 50, 5, 2**40, 9, 2**40, 9)
        writer.window(with_ids(writer, [row]), committed_ns=AT + SECOND, counters=EventCounts())
    page = open_page(report_of(db), width=width, color_scheme=scheme)
    hidden = """() => [...document.querySelectorAll("td.right, td.port")].filter((cell) => {
        const scroll = cell.closest(".scroll").getBoundingClientRect();
        return cell.getBoundingClientRect().right > scroll.right + 1;
    }).map((cell) => cell.textContent)"""
    assert page.evaluate(hidden) == []
    page.click(".box")
    page.wait_for_selector(".panel")
    assert page.evaluate(hidden) == []
    # Names end where they can be seen: they are cut in the middle.
    endless = """() => [...document.querySelectorAll("td.name")].filter((cell) => {
        const end = cell.querySelector(".cut > :last-child");
        const right = cell.getBoundingClientRect().right + 1;
        return cell.textContent.length > 24 && !(end?.getBoundingClientRect().right <= right);
    }).map((cell) => cell.textContent)"""
    assert page.evaluate(endless) == []
    page.click(".panel .way")
    page.wait_for_function("() => location.hash.includes('sel=row:')")
    assert page.evaluate(hidden) == []
    assert page.evaluate(endless) == []
    way = page.query_selector("main .way")
    assert way is not None
    assert way.get_attribute("title") == f"shop/{client.name}"
    # The whole name of a box is its title, and what it shows of it ends in the box.
    within = """() => [...document.querySelectorAll(".box .name")].every((name) =>
        name.getBoundingClientRect().right <= name.closest(".box").getBoundingClientRect().right
    )"""
    assert page.evaluate(within)


def test_the_keyboard_alone_is_enough(
    open_page: Open, report_of: Callable[..., str], shop: Path
) -> None:
    page = open_page(report_of(shop))
    page.keyboard.press("/")
    page.keyboard.type("shop/db")
    assert page.inner_text("#depends ~ .sides h3 >> nth=0") == "dial shop/db"
    page.keyboard.press("Escape")
    page.focus('.box[data-key="workload:shop/Deployment/web"]')
    page.keyboard.press("Enter")
    page.wait_for_selector(".panel")
    page.keyboard.press("Enter")
    page.wait_for_selector('.box[data-key="pod:shop/web-1"]')
    page.keyboard.press("Escape")
    page.wait_for_selector(".panel", state="detached")
    page.focus('.box[data-key="pod:shop/web-1"]')
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.dataset.key") != "pod:shop/web-1"


def test_axe_finds_nothing_in_light_or_dark(
    open_page: Open, report_of: Callable[..., str], shop: Path
) -> None:
    from axe_playwright_python.sync_playwright import Axe

    page = open_page(report_of(shop) + "#sel=workload:shop/Deployment/web")
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        page.wait_for_selector(".panel")
        page.wait_for_timeout(200)  # colours fade in
        found = Axe().run(page)
        told = [
            (each["id"], [node["html"][:120] for node in each["nodes"]])
            for each in found.response["violations"]
        ]
        assert told == []
        assert len(found.response["passes"]) > 20


def test_without_a_script_there_is_a_table(
    browser: Any, report_of: Callable[..., str], shop: Path
) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(report_of(shop))
    assert "203.0.113.9" in page.inner_text("table")
    context.close()


def test_the_command_of_whatever_is_chosen_gives_its_numbers(
    open_page: Open, report_of: Callable[..., str], shop: Path, invoke: Callable[..., Any]
) -> None:
    page = open_page(report_of(shop))

    def holds() -> None:
        shown = page.eval_on_selector(".panel .sums", "sums => ({...sums.dataset})")
        told = {
            "connections": shown["connections"],
            "refused": shown["refused"],
            "unreplied": shown["unreplied"],
            "bytes_out": shown["bytesOut"],
            "bytes_in": shown["bytesIn"],
        }
        numbers = {key: None if text == "" else int(text) for key, text in told.items()}
        command = shlex.split(page.inner_text(".command code >> nth=0"))
        words = [str(shop) if word == "shop.db" else word for word in command[1:]]
        whole = "--by" not in words
        rows = json.loads(
            invoke(*words, *(["--by", "proto"] if whole else []), "-o", "json").stdout
        )
        if whole:
            added = {
                key: sum(each)
                if (each := [row[key] for row in rows if row[key] is not None])
                else None
                for key in SUMS
            }
            assert numbers == added, command
        else:
            assert numbers in [{key: row[key] for key in SUMS} for row in rows], command

    seen = 0
    for what in (".box", ".link", "main .way"):
        for at in range(len(page.query_selector_all(what))):
            page.evaluate(
                "([what, at]) => document.querySelectorAll(what)[at]"
                "?.dispatchEvent(new MouseEvent('click', {bubbles: true}))",
                [what, at],
            )
            page.wait_for_function("() => location.hash.slice(1) === document.body.dataset.shown")
            if page.query_selector(".panel"):
                holds()
                seen += 1
    assert seen > 12


def test_what_a_file_has_not_is_said(
    open_page: Open, report_of: Callable[..., str], tmp_path: Path, shop: Path
) -> None:
    gap = tmp_path / "gap.db"
    with connect.writer(gap) as conn:
        writer = Writer(conn, node="n1", source="kernel", settings={}, started_ns=AT, boot_id=None)
        writer.window([], gaps=GAPS, committed_ns=AT + 70 * SECOND, counters=EventCounts(0, 0))
        writer.finish(AT + 70 * SECOND)
    for db, flags, said in (
        (gap, [], ["nothing was recorded in this span", "2 gaps, 1,204 events lost"]),
        (shop, ["--namespace", "kube-system"], ["bytes not measured"]),
        (shop, ["--pod", "nobody"], ["There is nobody to draw.", "No connection is known."]),
    ):
        page = open_page(report_of(db, *flags))
        shown = page.inner_text("main")
        assert [text for text in said if text not in shown] == []


def test_more_edges_than_a_page_bears_are_counted_together(
    open_page: Open, report_of: Callable[..., str], tmp_path: Path
) -> None:
    db = tmp_path / "mesh.db"
    mesh_file(db, 600, 6_000)
    page = open_page(report_of(db))
    assert "1,000 small edges left out: 3,000 connections" in page.inner_text(".facts")
    assert len(page.query_selector_all(".box")) <= 60
    namespaces = ",".join(f"namespace:team-{at}" for at in range(12))
    page.evaluate("words => { location.hash = words; }", f"open={namespaces}")
    page.wait_for_selector(".map .more")
    assert page.inner_text(".map .more").startswith("+540 boxes, ")
    page.click("summary >> text=What is not on it")
    assert page.query_selector("details[open] [data-row=link]") is not None


def test_a_link_goes_round_the_boxes_between_its_ends(
    open_page: Open, report_of: Callable[..., str], shop: Path
) -> None:
    """client-0 dials web and coredns, and web dials coredns: all three stand in one row."""
    page = open_page(report_of(shop))
    path = page.evaluate(
        """() => {
            const at = (column) => ({ x: 24 + column * 270, y: 24 });
            return ctk.curve(at(0), at(2), new Map([["a", at(0)], ["b", at(1)], ["c", at(2)]]));
        }"""
    )
    # Past the box from 294 to 484 it is 8 above its upper edge, at 24.
    assert path == "M214,53C254,53 254,16 294,16H484C524,16 524,53 564,53"


def test_who_moves_most_is_by_bytes_and_a_narrow_window_shows_all_of_the_map(
    open_page: Open, report_of: Callable[..., str], shop: Path
) -> None:
    page = open_page(report_of(shop), width=700)
    moved = [
        (sums["bytes_out"] or 0) + (sums["bytes_in"] or 0)
        for sums in sums_of(page, "pairs").values()
    ]
    assert moved == sorted(moved, reverse=True)
    assert page.evaluate(
        "() => [...document.querySelectorAll('.view, .scroll')].every("
        "(it) => it.scrollWidth <= it.clientWidth)"
    )
    # As a picture is taken without a screen, where no frame comes; in a window of a telephone.
    page.set_viewport_size({"width": 500, "height": 900})
    page.context.add_init_script(
        "window.requestAnimationFrame = () => 0; window.ResizeObserver = class { observe() {}"
        " disconnect() {} }"
    )
    page.reload()
    page.wait_for_selector("main[data-whole]")
    drawn = """() => [...document.querySelectorAll("canvas")].map((it) =>
        it.getContext("2d").getImageData(0, 0, it.width, it.height).data.some((value) => value))"""
    assert page.evaluate(drawn) == [True] * 3  # bytes, connections, failures
    assert page.evaluate("() => document.documentElement.scrollWidth <= 500")
    # Whole columns go where there is no room, and what fails is shown with since when.
    first = """() => [...document.querySelectorAll("[data-row=failure] .time:not(.spare)")].map(
        (cell) => cell.getBoundingClientRect().right
            <= cell.closest(".scroll").getBoundingClientRect().right)"""
    assert set(page.evaluate(first)) == {True}
    # Both ends of a pair are there, each cut by itself, and the arrow between them.
    pairs = """() => [...document.querySelectorAll("[data-row=pairs]")].map((row) =>
        [row.dataset.name, row.querySelector(".pair").textContent])"""
    assert [name for name, _ in page.evaluate(pairs)] == [text for _, text in page.evaluate(pairs)]
