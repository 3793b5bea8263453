"""The served page: who may have it, and how it follows a file that is being written."""

import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from signal import SIGINT, SIGTERM
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

import pytest
from edges import with_ids
from sample import AT, GAPS, ROWS

from ctk.model import EventCounts
from ctk.store import connect
from ctk.store.write import Writer
from ctk.timespan import SECOND

if TYPE_CHECKING:
    from playwright.sync_api import Page

Open = Callable[..., "Page"]


class Served(NamedTuple):
    address: str  # as it was printed
    process: "subprocess.Popen[str]"

    @property
    def host(self) -> str:
        return urlsplit(self.address).netloc

    def get(
        self, path: str, *, method: str = "GET", **headers: str
    ) -> tuple[int, dict[str, str], str]:
        """Ask it; `host_` and the like are headers."""
        with closing(HTTPConnection(self.host, timeout=20)) as connection:
            named = {name.rstrip("_").replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, headers=named)
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read().decode()

    def cookie(self) -> str:
        _, headers, _ = self.get(f"/?{urlsplit(self.address).query}")
        return headers["set-cookie"].partition(";")[0]


Serve = Callable[..., Served]


@pytest.fixture
def serve() -> Iterator[Serve]:
    running = []

    def start(db: Path, *flags: str) -> Served:
        words = [sys.executable, "-m", "ctk", "serve", str(db), "--port", "0", *flags]
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        running.append(process)
        assert process.stdout is not None
        return Served(process.stdout.readline().strip(), process)

    yield start
    for process in running:
        process.kill()
        process.communicate()


def test_only_who_has_the_token_may_have_it(serve: Serve, shop: Path) -> None:
    served = serve(shop)
    cookie = served.cookie()
    page = f"/?{urlsplit(served.address).query}"
    asked = {
        "nothing": served.get("/"),
        "a wrong token": served.get("/?token=x"),
        "a token for data": served.get(f"/document?{urlsplit(served.address).query}"),
        "the document": served.get("/document"),
        "a wrong cookie": served.get("/document", cookie=cookie[:-1] + "x"),
        "another name": served.get("/document", cookie=cookie, host_="evil.example:80"),
        "another port": served.get("/document", cookie=cookie, host_="127.0.0.1:1"),
        "a token by another name": served.get(page, host_="evil.example"),
    }
    assert {name: status for name, (status, _, _) in asked.items()} == dict.fromkeys(asked, 403)
    assert served.get("/document", cookie=cookie)[0] == 200


def test_it_only_gives_what_is_asked_rightly_and_no_script_has_its_cookie(
    serve: Serve, shop: Path
) -> None:
    served = serve(shop)
    methods = ("POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE")
    answers = [served.get("/document", method=each, cookie=served.cookie())[0] for each in methods]
    assert answers == [405] * len(methods)
    status, headers, _ = served.get(f"/?{urlsplit(served.address).query}")
    assert (status, headers["location"]) == (303, "/")
    assert headers["set-cookie"].split("; ")[1:] == ["HttpOnly", "Path=/", "SameSite=strict"]
    for answer in (headers, served.get("/", cookie=served.cookie())[1]):
        assert answer["content-security-policy"].startswith(
            "default-src 'none'; script-src 'sha256-"
        )
        assert answer["cache-control"] == "no-store"
        assert "server" not in answer
    # What is asked wrongly is said.
    cookie = served.cookie()
    assert served.get("/document?since=soon", cookie=cookie)[0] == 400
    status, _, text = served.get("/document?pood=x", cookie=cookie)
    assert (status, text) == (400, '{"error":"\'pood\' is not a filter","hint":"take it away"}')
    assert served.get("/other", cookie=cookie)[0] == 404
    assert served.get(f"/document?pod={'x' * 9_000}", cookie=cookie)[0] == 414


def test_a_file_that_goes_is_told_and_one_that_comes_is_read(
    serve: Serve, shop: Path, tmp_path: Path
) -> None:
    served = serve(shop, "--bind", "0.0.0.0")
    cookie = served.cookie()
    kept = shop.read_bytes()
    whole = served.get("/document", cookie=cookie)
    port = served.host.rpartition(":")[2]
    assert served.get("/document", cookie=cookie, host_=f"127.0.0.1:{port}")[0] == 200
    assert served.get("/document", cookie=cookie, host_=f"192.0.2.99:{port}")[0] == 403
    shop.unlink()
    gone = f'{{"error":"there is no file {shop}","hint":"`ctk record` makes one"}}'
    for path in ("/document", "/changed"):
        status, _, text = served.get(path, cookie=cookie)
        assert (status, text) == (503, gone)
    shop.write_text("no database")
    assert served.get("/document", cookie=cookie)[0] == 503
    (tmp_path / "again.db").write_bytes(kept)
    (tmp_path / "again.db").rename(shop)
    again = served.get("/document", cookie=cookie)
    assert [each[0] for each in (whole, again)] == [200, 200]
    with closing(sqlite3.connect(shop, isolation_level=None)) as conn:
        conn.execute("UPDATE recording SET settings = '[]'")
    for path in ("/document", "/changed"):
        status, _, text = served.get(path, cookie=cookie)
        assert (status, f"{shop} is damaged: recording.settings is not" in text) == (503, True)
    served.process.send_signal(SIGTERM)
    _, said = served.process.communicate(timeout=10)
    assert said == (
        f"whoever gets hold of that can read {shop}: it goes over the network as it is\n"
    )


@pytest.mark.parametrize("signal", [SIGINT, SIGTERM])
def test_it_ends_without_a_word(serve: Serve, shop: Path, signal: int) -> None:
    served = serve(shop)
    assert served.get("/")[0] == 403
    served.process.send_signal(signal)
    _, said = served.process.communicate(timeout=10)
    assert (said, served.process.returncode) == ("", 0)
    assert list(shop.parent.glob("shop.db?*")) == []


def test_a_file_that_is_written_is_followed(serve: Serve, open_page: Open, tmp_path: Path) -> None:
    db = tmp_path / "live.db"
    with connect.writer(db) as conn:
        settings = {"window_ns": 10 * SECOND}
        writer = Writer(
            conn, node="n1", source="kernel", settings=settings, started_ns=AT, boot_id=None
        )
        rows = with_ids(writer, ROWS)
        counters = EventCounts(10, 0)
        writer.window(rows[:5], gaps=GAPS, committed_ns=AT + 50 * SECOND, counters=counters)
        page = open_page(serve(db).address)
        boxes = "all => all.map((box) => [box.dataset.key, box.style.left, box.style.top])"
        before = page.eval_on_selector_all(".box", boxes)
        writer.window(rows[5:], gaps=(), committed_ns=AT + 70 * SECOND, counters=counters)
        page.click("text=2 new windows: show", timeout=10_000)
        page.wait_for_selector('.box[data-key="unknown:to"]')
        after = page.eval_on_selector_all(".box", boxes)
        assert [box for box in after if box in before] == before
        assert page.inner_text(".facts") != ""
        writer.finish(AT + 70 * SECOND)


def test_filters_are_asked_of_the_file(serve: Serve, open_page: Open, shop: Path) -> None:
    page = open_page(serve(shop).address, allowed="status of 400")
    page.fill(".filters input", "failed")
    page.keyboard.press("Enter")
    page.wait_for_function("() => document.querySelectorAll('[data-row=pairs]').length === 2")
    page.evaluate("location.hash = 'since=nonsense'")
    page.wait_for_selector("[role=alert]")
    assert "'nonsense'" in page.inner_text("[role=alert]")
