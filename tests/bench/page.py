"""
How fast the page is: `python tests/bench/page.py FILE...`, reports made by `ctk report`.

Chromium opens each from the disk. First paint is the browser's own mark; frames are counted from
its own trace while the map is scrolled and boxes are chosen.
"""

import argparse
import json
import statistics
import tempfile
from itertools import pairwise
from pathlib import Path

from playwright.sync_api import sync_playwright
from tabulate import tabulate

_FLAGS = ("--no-sandbox", "--disable-quic", "--disable-sync", "--disable-background-networking")
_SCROLLS = 120


def frames_of(trace: Path) -> list[float]:
    """The times between two frames that were drawn, in ms."""
    events = json.loads(trace.read_text())["traceEvents"]
    drawn = sorted(each["ts"] for each in events if each["name"] == "DrawFrame")
    return [(after - before) / 1000 for before, after in pairwise(drawn)]


def measured(path: Path) -> dict[str, object]:
    """Open a report, scroll its map, choose its boxes."""
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=list(_FLAGS))
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        failed: list[str] = []
        page.on("pageerror", lambda error: failed.append(str(error)))
        page.goto(path.resolve().as_uri())
        page.wait_for_selector("main")
        paint = page.evaluate(
            "() => performance.getEntriesByName('first-contentful-paint')[0].startTime"
        )
        for _ in range(4):  # as many boxes as it shows
            if more := page.query_selector(".map .more"):
                more.click()
        boxes, links = len(page.query_selector_all(".box")), len(page.query_selector_all(".link"))
        view = page.locator(".view")
        view.scroll_into_view_if_needed()
        trace = Path(folder) / "trace.json"
        browser.start_tracing(page=page, path=trace, categories=["devtools.timeline.frame"])
        page.evaluate(
            """async (scrolls) => {
                const view = document.querySelector(".view");
                for (let at = 0; at < scrolls; at += 1) {
                    view.scrollTop += at < scrolls / 2 ? 12 : -12;
                    await new Promise(requestAnimationFrame);
                }
            }""",
            _SCROLLS,
        )
        browser.stop_tracing()
        frames = frames_of(trace)
        browser.close()
    return {
        "report": path.name,
        "kB": path.stat().st_size // 1000,
        "first paint ms": round(paint),
        "boxes": boxes,
        "links": links,
        "frames": len(frames),
        "median ms": round(statistics.median(frames), 1) if frames else None,
        "worst of 20 ms": round(statistics.quantiles(frames, n=20)[-1], 1)
        if len(frames) > 1
        else None,
        "script errors": len(failed),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("report", type=Path, nargs="+")
    rows = [measured(path) for path in parser.parse_args().report]
    print(tabulate(rows, headers="keys"))


if __name__ == "__main__":
    main()
