"""
How fast the page is: `python tests/bench/page.py [REPORT...]`, reports made by `ctk report`.

Without one: of 300 boxes and 1,000 edges, of 5,000 edges, and of 20,000. Chromium opens each from
the disk, three times; the first paint is the browser's own mark, the best of them. Then its map is
opened, scrolled to and fro and a box chosen, and the browser's own trace tells the frames, and how
much of the main thread was our script, and layout and paint of what we made. Without a graphics
card Chromium draws with the processor: what is left of a frame is that.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright
from tabulate import tabulate

_TESTS = Path(__file__).parent.parent
sys.path[:0] = [str(_TESTS), str(_TESTS / "browser")]

from mesh import mesh_file  # noqa: E402 - it stands with the tests of the page

_FLAGS = ("--no-sandbox", "--disable-quic", "--disable-sync", "--disable-background-networking")
_CATEGORIES = ["devtools.timeline", "disabled-by-default-devtools.timeline.frame", "toplevel"]
_MESHES = ((300, 1_000), (1_000, 5_000), (2_000, 20_000))
_SCROLLS = 120
_SCRIPT = ("RunMicrotasks", "EvaluateScript", "FunctionCall", "FireAnimationFrame", "TimerFire")
_DRAWING = ("Layout", "UpdateLayoutTree", "PrePaint", "Paint", "Layerize", "HitTest")
_SCROLL = """async (scrolls) => {
    const view = document.querySelector(".view");
    for (let at = 0; at < scrolls; at += 1) {
        view.scrollTop += at < scrolls / 2 ? 24 : -24;
        await new Promise(requestAnimationFrame);
    }
}"""


def meshes(folder: Path) -> Iterator[Path]:
    """Make the reports that are looked at where none is named."""
    for workloads, edges in _MESHES:
        db, out = folder / f"{edges}.db", folder / f"{workloads}-boxes-{edges}-edges.html"
        mesh_file(db, workloads, edges)
        words = [sys.executable, "-m", "ctk", "report", str(db), "-o", str(out)]
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
        yield out


def traced(browser: Browser, page: Page, trace: Path, doing: str, argument: object) -> list[Any]:
    """Give the events of the browser's trace while a script runs in the page."""
    browser.start_tracing(page=page, path=trace, categories=_CATEGORIES)
    page.evaluate(doing, argument)
    browser.stop_tracing()
    events: list[Any] = json.loads(trace.read_text())["traceEvents"]
    return events


def frames_of(events: Sequence[Any]) -> list[float]:
    """The times between two frames that were drawn, in ms."""
    drawn = sorted(each["ts"] for each in events if each["name"] == "DrawFrame")
    return [(after - before) / 1000 for before, after in pairwise(drawn)]


def shares_of(events: Sequence[Any]) -> dict[str, str]:
    """What of the time of the trace the page's main thread was at: each event's own time."""
    [busiest] = Counter(
        (each["pid"], each["tid"]) for each in events if each["name"] in _SCRIPT
    ).most_common(1)
    spans = sorted(
        (each for each in events if each.get("dur") and (each["pid"], each["tid"]) == busiest[0]),
        key=lambda each: (each["ts"], -each["dur"]),
    )
    own: Counter[str] = Counter()
    inside: list[Any] = []
    for each in spans:
        while inside and inside[-1]["ts"] + inside[-1]["dur"] <= each["ts"]:
            inside.pop()
        if inside:
            own[inside[-1]["name"]] -= each["dur"]
        own[each["name"]] += each["dur"]
        inside.append(each)
    lasted = spans[-1]["ts"] + spans[-1]["dur"] - spans[0]["ts"]
    return {
        title: f"{100 * sum(own[name] for name in names) / lasted:.0f} %"
        for title, names in (("script", _SCRIPT), ("layout, paint", _DRAWING))
    }


def opened(browser: Browser, path: Path, failed: list[str], words: str = "") -> Page:
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    page.on("pageerror", lambda error: failed.append(str(error)))
    page.goto(path.resolve().as_uri() + words)
    page.wait_for_selector("main[data-whole]")
    return page


def measured(browser: Browser, path: Path, folder: Path) -> dict[str, object]:
    """Open a report, scroll its map, choose its boxes."""
    failed: list[str] = []
    paints = []
    for _ in range(3):
        page = opened(browser, path, failed)
        paints.append(
            page.evaluate(
                "() => performance.getEntriesByName('first-contentful-paint')[0].startTime"
            )
        )
        namespaces = page.eval_on_selector_all(
            ".chip, .box.kind-namespace", "all => all.map((each) => each.dataset.key)"
        )
        page.close()
    every = ",".join(filter(None, namespaces))
    page = opened(browser, path, failed, f"#open={every}" if every else "")
    for _ in range(4):  # as many boxes as it has
        if more := page.query_selector(".map .more"):
            more.click()
    boxes, links = len(page.query_selector_all(".box")), len(page.query_selector_all(".link"))
    page.locator(".view").scroll_into_view_if_needed()
    page.wait_for_timeout(500)
    trace = folder / "trace.json"
    events = traced(browser, page, trace, _SCROLL, _SCROLLS)
    frames = frames_of(events)
    choosing = traced(
        browser,
        page,
        trace,
        """async (times) => {
            const boxes = [...document.querySelectorAll(".box")];
            for (let at = 0; at < times; at += 1) {
                boxes[at % boxes.length].click();
                await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
            }
        }""",
        10,
    )
    chosen = frames_of(choosing)
    page.close()
    return {
        "report": path.stem,
        "kB": path.stat().st_size // 1000,
        "first paint ms": round(min(paints)),
        "boxes": boxes,
        "links": links,
        # A map that fits its view is not scrolled.
        "frame ms": round(statistics.median(frames), 1) if frames else None,
        "worst of 20": round(statistics.quantiles(frames, n=20)[-1], 1) if frames[1:] else None,
        **shares_of(events),
        "choose ms": round(statistics.median(chosen), 1) if chosen else None,
        "errors": len(failed),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("report", type=Path, nargs="*")
    with tempfile.TemporaryDirectory() as made, sync_playwright() as playwright:
        folder = Path(made)
        reports = parser.parse_args().report or list(meshes(folder))
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=list(_FLAGS))
        first = browser.new_page()
        first.wait_for_timeout(2_000)  # it shows a page of its own at the start
        rows = [measured(browser, path, folder) for path in reports]
        browser.close()
    print(tabulate(rows, headers="keys"))


if __name__ == "__main__":
    main()
