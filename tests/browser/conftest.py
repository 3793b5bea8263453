"""The page in a real browser: Debian's Chromium, which `make tools` installs."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pytest

from ctk.cli import main

if TYPE_CHECKING:  # it takes half a second, which each worker would where it only collects
    from playwright.sync_api import Browser, ConsoleMessage, Error, Page, Request

_QUIET = (
    "--no-sandbox",  # the tests run as root
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
)

Open = Callable[..., "Page"]


@pytest.fixture(scope="module")  # its event loop is in the way of others' in this thread
def browser() -> "Iterator[Browser]":
    from playwright.sync_api import sync_playwright

    found = shutil.which("chromium")
    if found is None:
        reason = "there is no chromium: `make tools` installs it"
        assert not os.environ.get("CI"), reason
        pytest.skip(reason)
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=found, args=list(_QUIET))
        yield started
        started.close()


@pytest.fixture(scope="module")
def spare(browser: "Browser") -> "list[Page]":
    """Pages that no test has now: a new one takes a second of CPU, what it shows anew a third."""
    return []


@pytest.fixture
def open_page(browser: "Browser", spare: "list[Page]") -> Iterator[Open]:
    """
    Open an address; whatever the page then complains of, or fetches from elsewhere, fails the test.
    """
    used = []
    wrong: list[str] = []

    def open_(
        address: str,
        *,
        width: int = 1400,
        height: int = 900,
        color_scheme: Literal["light", "dark"] = "light",
        allowed: str | None = None,
        offline: bool = False,
    ) -> "Page":
        page = spare.pop() if spare else browser.new_context().new_page()
        page.context.set_offline(offline)
        page.set_viewport_size({"width": width, "height": height})
        page.emulate_media(color_scheme=color_scheme)
        own = address.split("#", maxsplit=1)[0].split("?", maxsplit=1)[0].rsplit("/", 1)[0]

        def asked(request: "Request") -> None:
            if not request.url.startswith((own, "data:", "blob:")):
                wrong.append(f"it asked {request.url}")

        def said(message: "ConsoleMessage") -> None:
            if allowed is None or allowed not in message.text:
                wrong.append(f"{message.type}: {message.text}")

        def failed(error: "Error") -> None:
            wrong.append(f"it failed: {error}")

        page.on("request", asked)
        page.on("console", said)
        page.on("pageerror", failed)
        used.append((page, {"request": asked, "console": said, "pageerror": failed}))
        page.goto(address)
        page.wait_for_selector("main[data-whole], [role=alert]")
        return page

    yield open_
    for page, heard in used:
        for event, hears in heard.items():
            page.remove_listener(event, hears)
        page.goto("about:blank")
        page.context.clear_cookies()
        spare.append(page)
    assert wrong == []


@pytest.fixture
def report_of(tmp_path: Path) -> Callable[..., str]:
    """Make the report of a file; gives its address."""

    def make(db: Path, *flags: str) -> str:
        out = tmp_path / f"{db.stem}.html"
        with pytest.raises(SystemExit) as ended:
            main(["report", str(db), "-o", str(out), *flags])
        assert ended.value.code == 0
        return out.as_uri()

    return make
