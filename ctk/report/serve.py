"""
The page on a file that is being written, or on a copy: for this user, on this machine.

Every local user and every pod on the host's network reaches loopback, so the printed address holds
a token, which is traded for a cookie that no other site can send. A request whose Host is not this
server's name gets nothing: a name that was rebound to 127.0.0.1 is another site (DNS rebinding).
"""

import hmac
import ipaddress
import secrets
import signal
import socket
import sqlite3
import threading
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from ctk.ask.keywords import NAMES, filters_of
from ctk.errors import CtkError, UsageError
from ctk.report.document import document
from ctk.report.page import policy_of_served, served
from ctk.store.damage import blaming

if TYPE_CHECKING:
    from ctk.ask.recording import Recording

_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
_METHODS = ("GET", "HEAD")
_MOST_QUERY = 8_192  # bytes
_MOST_CACHED = 16  # documents; each is some hundred kB
_HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": policy_of_served(),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


class Version(NamedTuple):
    """What tells two states of a file apart without opening it, and up to when it is written."""

    changed_ns: int  # of the file, or of its -wal: a commit writes one of them
    bytes: int
    committed_ns: int

    @property
    def tag(self) -> str:
        return f'"{self.changed_ns:x}-{self.bytes:x}-{self.committed_ns:x}"'


class Page:
    """Answers for one file: the page, its document by filters, and whether the file moved on."""

    def __init__(
        self, recording: "Recording", names: Iterable[str], port: int, *, everywhere: bool = False
    ) -> None:
        self.token = secrets.token_urlsafe(32)
        self.hosts = frozenset(f"{name}:{port}" for name in names)
        self._everywhere = everywhere  # it listens on all addresses of this host
        self._recording = recording
        self._session = secrets.token_urlsafe(32)
        # Cookies know no ports: two servers of one user must not take each other's.
        self._cookie = f"ctk-{port}"
        self._documents: OrderedDict[tuple[str, str], bytes] = OrderedDict()
        self._asking = threading.Lock()  # one question at a time: the recorder needs the other core
        self._version = Version(0, 0, 0)
        self._window_ns = 0

    def app(self) -> ASGIApp:
        """Give the ASGI application."""
        routes = [
            Route("/", self._page, methods=["GET"]),
            Route("/document", self._document, methods=["GET"]),
            Route("/changed", self._changed, methods=["GET"]),
        ]
        return _Guard(Starlette(routes=routes), self._refuses)

    def _refuses(self, request: Request) -> Response | None:
        """Give what a request gets that is not to be answered; None where it is."""
        if request.method not in _METHODS:
            return Response(status_code=405, headers={"allow": ", ".join(_METHODS)})
        if not self._is_named(request):
            return _plain(403, "not the name of this server")
        if len(request.scope["query_string"]) > _MOST_QUERY:
            return _plain(414, "too long")
        if _same(request.cookies.get(self._cookie), self._session):
            return None
        if request.url.path == "/" and _same(request.query_params.get("token"), self.token):
            answer = RedirectResponse("/", status_code=303)
            answer.set_cookie(self._cookie, self._session, httponly=True, samesite="strict")
            return answer
        return _plain(403, "open the address that `ctk serve` printed")

    def _is_named(self, request: Request) -> bool:
        """Say whether it asks this server by a name of its own, or by the address it came in at."""
        host = request.headers.get("host", "").lower()
        if host in self.hosts:
            return True
        if not self._everywhere:
            return False
        address, port = request.scope["server"]
        return host == f"{_in_url(address)}:{port}"  # no name, so none that was rebound

    def _page(self, request: Request) -> Response:
        return Response(served(), media_type="text/html")

    def _document(self, request: Request) -> Response:
        version = self._looked()
        if isinstance(version, Response):
            return version
        try:
            body = self._asked(str(request.url.query), request, version)
        except CtkError as error:
            return _refused(error, 400 if isinstance(error, UsageError) else 503)
        except sqlite3.Error as error:
            return _unreadable(error)
        return Response(body, media_type="application/json", headers={"etag": version.tag})

    def _looked(self) -> "Version | Response":
        """Give the version of the file, or what is answered where it cannot be read now."""
        try:
            return self.version()
        except CtkError as error:
            return _refused(error, 503)
        except sqlite3.Error as error:
            return _unreadable(error)

    def _asked(self, query: str, request: Request, version: Version) -> bytes:
        from orjson import dumps

        asked: dict[str, object] = {}
        for name in request.query_params:
            values = request.query_params.getlist(name)
            key = name.replace("-", "_")
            if key in ("since", "until"):
                asked[key] = values[-1]
            elif key not in NAMES:
                raise UsageError(f"{name!r} is not a filter", hint="take it away")
            else:
                asked[key] = True if NAMES[key].asked.form is None else values
        with self._asking:
            known = self._documents.get((version.tag, query))
            if known is None:
                reference = self._recording.reference
                filters = filters_of(asked, now_ns=time.time_ns(), reference=reference)
                with self._blaming():
                    known = dumps(document(self._recording, filters))
                self._documents[version.tag, query] = known
                while len(self._documents) > _MOST_CACHED:
                    self._documents.popitem(last=False)
            return known

    def _blaming(self) -> AbstractContextManager[None]:
        return blaming(self._recording.path, self._recording.source.reader)

    def _changed(self, request: Request) -> Response:
        """Say how many windows were written since the version that the page has."""
        version = self._looked()
        if isinstance(version, Response):
            return version
        had = request.headers.get("if-none-match", "")
        if had == version.tag:
            return Response(status_code=304, headers={"etag": version.tag})
        try:
            seen_ns = int(had.strip('"').rsplit("-", 1)[-1], 16)
        except ValueError:
            seen_ns = 0
        behind_ns = version.committed_ns - seen_ns
        windows = -(-behind_ns // self._window_ns) if self._window_ns else 0
        return _json({"windows": max(windows, 0)})

    def version(self) -> Version:
        """
        Look at the file; it is opened only where it has changed.

        No connection stays open: SQLite leaves one plain file at a clean stop only where nobody
        else has it open.
        """
        path = self._recording.path
        changed_ns, size = 0, 0
        for each in (path, Path(f"{path}-wal")):
            try:
                found = each.stat()
            except FileNotFoundError:
                continue
            changed_ns, size = max(changed_ns, found.st_mtime_ns), size + found.st_size
        if (changed_ns, size) != self._version[:2]:
            with self._blaming():
                committed_ns, self._window_ns = self._recording.committed()
            self._version = Version(changed_ns, size, committed_ns)
        return self._version


class _Guard:
    """Lets through what is to be answered, and gives every answer the same headers."""

    def __init__(self, app: ASGIApp, refuses: Callable[[Request], Response | None]) -> None:
        self._app = app
        self._refuses = refuses

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        refused = self._refuses(Request(scope))
        await (refused or self._app)(scope, receive, _with_headers(send))


def _with_headers(send: Send) -> Callable[..., Awaitable[None]]:
    async def sending(message: dict[str, object]) -> None:
        if message["type"] == "http.response.start":
            headers = message.setdefault("headers", [])
            assert isinstance(headers, list)
            headers += [(name.encode(), value.encode()) for name, value in _HEADERS.items()]
        await send(message)

    return sending


def _same(given: str | None, secret: str) -> bool:
    return given is not None and hmac.compare_digest(given.encode(), secret.encode())


def _plain(status: int, text: str) -> Response:
    return Response(f"{text}\n", status_code=status, media_type="text/plain")


def _refused(error: CtkError, status: int) -> Response:
    return _json({"error": error.message, "hint": error.hint}, status)


def _unreadable(error: sqlite3.Error) -> Response:
    return _json({"error": f"the file could not be read: {error}", "hint": None}, 503)


def _json(value: object, status: int = 200) -> Response:
    from orjson import dumps

    return Response(dumps(value), status_code=status, media_type="application/json")


def names_of(bind: str) -> list[str]:
    """
    Give the names by which a server that listens on an address may be called.

    The first is for others: of all addresses the one from which packets would leave this host.
    """
    address = ipaddress.ip_address(bind)
    if address.is_loopback:
        return list(_LOOPBACK)
    if address.is_unspecified:
        return [_in_url(_outward(address.version)), *_LOOPBACK]
    return [_in_url(bind)]


def is_everywhere(bind: str) -> bool:
    """Say whether this stands for all addresses of a host."""
    return ipaddress.ip_address(bind).is_unspecified


def _in_url(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def _outward(version: int) -> str:
    """Ask the routing table; nothing is sent."""
    family, far = (
        (socket.AF_INET, "192.0.2.1") if version == 4 else (socket.AF_INET6, "2001:db8::1")
    )
    with socket.socket(family, socket.SOCK_DGRAM) as asking:
        try:
            asking.connect((far, 9))
        except OSError:
            return "127.0.0.1" if version == 4 else "::1"
        return str(asking.getsockname()[0])


def serve(page: Page, listening: socket.socket) -> None:
    """Serve on a bound socket until SIGINT or SIGTERM."""
    import uvicorn

    config = uvicorn.Config(
        page.app(),
        log_level="error",
        access_log=False,
        server_header=False,
        lifespan="off",
        limit_concurrency=32,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=1,
    )
    # uvicorn stops cleanly at a signal, then raises it again for whoever handled it before.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    uvicorn.Server(config).run([listening])
