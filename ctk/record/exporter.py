"""
A small HTTP server for metrics: it answers GET /metrics, and closes.

What it holds is bounded whoever asks: so many connections at a time, so many bytes of a request,
and so many seconds for each, after which a connection is closed wherever it is.
"""

import selectors
import socket
import time
from collections.abc import Callable
from ipaddress import ip_address
from typing import NamedTuple

from ctk.errors import CtkError, UsageError

_MOST_CONNECTIONS = 16  # past them the oldest is closed: one that asks is answered at once
_MOST_BYTES = 8 << 10  # of a request's head
_MOST_S = 5.0  # for a request and its answer
_TICK_S = 0.5
_TOO_LARGE = "431 Request Header Fields Too Large"
_MOST_TOLD_BYTES = 1 << 16

MetricsAnswer = tuple[str, bytes]  # content type and body
Render = Callable[[str], MetricsAnswer]  # of the header Accept


class Address(NamedTuple):
    """Where it listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """Read "9470", "0.0.0.0:9470" or "[::]:9470"; without an address it is this host alone."""
    host, colon, port = text.rpartition(":")
    if not colon:
        host = "127.0.0.1"
    elif host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    try:
        host = str(ip_address(host))
        number = int(port) if port.isdecimal() and port.isascii() else -1
    except ValueError:
        number = -1
    if not 0 < number < 65_536:
        raise UsageError(
            f"{text!r} is no address to listen on", hint="write it as 9470, 0.0.0.0:9470, [::]:9470"
        )
    return Address(host, number)


class _Connection:
    """One that is read, then written."""

    def __init__(self, sock: socket.socket, until_s: float) -> None:
        self.sock, self.until_s = sock, until_s
        self.read = b""
        self.unwritten = b""
        self.refused = False  # what it goes on to send is dropped


def listen(address: Address) -> socket.socket:
    """Open the socket that is to be asked, or say what is in the way."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(64)
    except OSError as error:
        listening.close()
        raise CtkError(
            f"--metrics cannot listen on {address}: {error.strerror}",
            hint="give it another port",
        ) from error
    listening.setblocking(False)
    return listening


class Exporter:
    """
    Answers on `listening`, until the other end of `told` is closed.

    What is sent there, a message each, goes to `tell`: `render` makes answers of the newest.
    """

    def __init__(
        self,
        listening: socket.socket,
        told: socket.socket,
        tell: Callable[[bytes], None],
        render: Render,
    ) -> None:
        self._listening, self._told = listening, told
        self._tell, self._render = tell, render
        self._selector = selectors.DefaultSelector()
        self._connections: dict[socket.socket, _Connection] = {}
        self._selector.register(listening, selectors.EVENT_READ)
        self._selector.register(told, selectors.EVENT_READ)

    def run(self) -> None:
        """Answer; then close all there is."""
        try:
            while self._round():
                now_s = time.monotonic()
                for each in [c for c in self._connections.values() if now_s > c.until_s]:
                    self._close(each)
        finally:
            for each in list(self._connections.values()):
                self._close(each)
            self._listening.close()
            self._told.close()
            self._selector.close()

    def _round(self) -> bool:
        """Do what there is to do now; False where the other end was closed."""
        for key, _ in self._selector.select(_TICK_S):
            if key.fileobj is self._told:
                message = self._told.recv(_MOST_TOLD_BYTES)
                if not message:
                    return False
                self._tell(message)
            elif key.fileobj is self._listening:
                self._accept()
            elif key.fileobj in self._connections:  # else it made room in this round
                self._go_on(key.data)
        return True

    def _accept(self) -> None:
        try:
            sock, _ = self._listening.accept()
        except OSError:  # it went away meanwhile, or there are no descriptors left
            return
        sock.setblocking(False)
        one = self._connections[sock] = _Connection(sock, time.monotonic() + _MOST_S)
        self._selector.register(sock, selectors.EVENT_READ, one)
        if len(self._connections) > _MOST_CONNECTIONS:
            self._close(next(iter(self._connections.values())))

    def _close(self, one: _Connection) -> None:
        del self._connections[one.sock]
        self._selector.unregister(one.sock)
        one.sock.close()

    def _go_on(self, one: _Connection) -> None:
        try:
            if one.unwritten:
                self._write(one)
            else:
                self._read(one)
        except BlockingIOError:
            return
        except OSError:
            self._close(one)

    def _read(self, one: _Connection) -> None:
        more = one.sock.recv(_MOST_BYTES)
        if not more:
            self._close(one)
        elif not one.refused:
            one.read += more
            if len(one.read) > _MOST_BYTES:
                one.refused = True
                one.unwritten = _response(_TOO_LARGE, "text/plain", b"too large a request\n")
            elif b"\r\n\r\n" in one.read:
                one.unwritten = _answer(one.read, self._render)
            if one.unwritten:
                self._selector.modify(one.sock, selectors.EVENT_WRITE, one)
                self._write(one)

    def _write(self, one: _Connection) -> None:
        one.unwritten = one.unwritten[one.sock.send(one.unwritten) :]
        if one.unwritten:
            return
        if one.refused:
            # Closed with bytes unread, the kernel resets it, and the answer may not be read.
            one.sock.shutdown(socket.SHUT_WR)
            self._selector.modify(one.sock, selectors.EVENT_READ, one)
        else:
            self._close(one)


def _answer(request: bytes, render: Render) -> bytes:
    """Answer a whole request."""
    first, *lines = request.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
    method, _, rest = first.partition(" ")
    path = rest.partition(" ")[0].partition("?")[0]
    if method != "GET":
        return _response("405 Method Not Allowed", "text/plain", b"GET only\n", "Allow: GET\r\n")
    if path != "/metrics":
        return _response("404 Not Found", "text/plain", b"metrics are at /metrics\n")
    accepts = [
        value.strip()
        for name, _, value in (line.partition(":") for line in lines)
        if name.strip().lower() == "accept"
    ]
    content_type, body = render(",".join(accepts))
    return _response("200 OK", content_type, body)


def _response(status: str, content_type: str, body: bytes, more: str = "") -> bytes:
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n"
        f"{more}Connection: close\r\n\r\n"
    )
    return head.encode("latin-1") + body
