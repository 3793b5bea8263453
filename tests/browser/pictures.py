"""
Make the pictures in docs/looking/ anew: `python tests/browser/pictures.py`, part of `make docs`.

A picture is written where it looks different from the one that is there: how a letter's edge is
smoothed is another thing on each machine.
"""

import base64
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from playwright.sync_api import Browser, sync_playwright

_TESTS = Path(__file__).parent.parent
sys.path.insert(0, str(_TESTS))

from docs import RECORD, ROOT, run  # noqa: E402 - the demo is that of the documentation

_SAME = 0.02  # of the pixels may differ
_DIFFERS = """async ([one, other]) => {
    const pixels = async (text) => {
        const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
        const image = await createImageBitmap(new Blob([bytes], {type: "image/png"}));
        const canvas = new OffscreenCanvas(image.width, image.height).getContext("2d");
        canvas.drawImage(image, 0, 0);
        return canvas.getImageData(0, 0, image.width, image.height);
    };
    const [a, b] = [await pixels(one), await pixels(other)];
    if (a.width !== b.width || a.height !== b.height) return 1;
    let differ = 0;
    for (let at = 0; at < a.data.length; at += 4) {
        const apart = Math.abs(a.data[at] - b.data[at]) + Math.abs(a.data[at + 1] - b.data[at + 1]);
        if (apart > 60) differ += 1;
    }
    return differ / (a.width * a.height);
}"""


class Picture(NamedTuple):
    name: str
    words: str  # behind the report's address
    scheme: str
    of: str = ""  # what of the page it shows; "" for the first screen


PICTURES = (
    Picture("report", "", "light"),
    Picture("map", "#sel=workload:shop/Deployment/web", "dark", "section:has(> #map)"),
)


def taken(browser: Browser, report: Path, picture: Picture) -> bytes:
    page = browser.new_page(
        viewport={"width": 1280, "height": 840},
        color_scheme=picture.scheme,
        timezone_id="UTC",
        reduced_motion="reduce",
    )
    page.goto(report.as_uri() + picture.words)
    page.wait_for_selector("main[data-whole]")
    if picture.of:
        # The panel stands beside what is chosen, wherever the page is scrolled to.
        page.locator(picture.of).scroll_into_view_if_needed()
    page.wait_for_timeout(500)
    shot = page.screenshot(animations="disabled")
    page.close()
    return shot


def main() -> None:
    with tempfile.TemporaryDirectory() as made, sync_playwright() as playwright:
        folder = Path(made)
        (folder / "fixtures").symlink_to(ROOT / "fixtures")
        run(RECORD[0], folder)
        words = [sys.executable, "-m", "ctk", "report", "demo.db", "-o", "demo.html"]
        subprocess.run(words, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        chromium = shutil.which("chromium")
        flags = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=chromium, args=flags)
        compare = browser.new_page()
        for picture in PICTURES:
            path = ROOT / "docs" / "looking" / f"{picture.name}.png"
            shot = taken(browser, folder / "demo.html", picture)
            both = (
                [base64.b64encode(png).decode() for png in (shot, path.read_bytes())]
                if (path.exists())
                else []
            )
            if not both or compare.evaluate(_DIFFERS, both) > _SAME:
                path.write_bytes(shot)
                print(path.relative_to(ROOT))
        browser.close()


if __name__ == "__main__":
    main()
