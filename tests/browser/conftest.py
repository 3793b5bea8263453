"""The page in a real browser: Debian's Chromium, which `make tools` installs."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ctk.cli import main

if TYPE_CHECKING:  # it takes half a second, which each worker would where it only collects
    from playwright.sync_api import Browser, ConsoleMessage, Page, Request

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


@pytest.fixture
def open_page(browser: "Browser") -> Iterator[Open]:
    """
    Open an address; whatever the page then complains of, or fetches from elsewhere, fails the test.
    """
    contexts = []
    wrong: list[str] = []

    def open_(
        address: str,
        *,
        width: int = 1400,
        height: int = 900,
        allowed: str | None = None,
        **options: Any,
    ) -> "Page":
        size = {"width": width, "height": height}
        context = browser.new_context(viewport=size, **options)
        contexts.append(context)
        page = context.new_page()
        own = address.split("#", maxsplit=1)[0].split("?", maxsplit=1)[0].rsplit("/", 1)[0]

        def asked(request: "Request") -> None:
            if not request.url.startswith((own, "data:", "blob:")):
                wrong.append(f"it asked {request.url}")

        page.on("request", asked)

        def said(message: "ConsoleMessage") -> None:
            if allowed is None or allowed not in message.text:
                wrong.append(f"{message.type}: {message.text}")

        page.on("console", said)
        page.on("pageerror", lambda error: wrong.append(f"it failed: {error}"))
        page.goto(address)
        page.wait_for_selector("main[data-whole], [role=alert]")
        return page

    yield open_
    for context in contexts:
        context.close()
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
