"""
One API server: what is asked of it, and its answers in plain words.

Answers are read raw: the typed client takes 70 KB a pod.
"""

import base64
import hashlib
import json
import logging
import os
import re
import ssl
import threading
import time
from codecs import getincrementaldecoder
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import orjson

from ctk.errors import CtkError
from ctk.kube.credentials import Credentials, CredentialsError
from ctk.kube.objects import Resource

if TYPE_CHECKING:
    import socket

log = logging.getLogger("ctk.kube")

_CHUNK_BYTES = 1 << 18
_GIVEN = (101, 200, 201, 202)
_WEBSOCKET = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long to wait for what, in seconds."""

    connect: float = 10.0
    list: float = 30.0  # without a byte
    # A server sends bookmarks about every minute, so a stream this silent hangs.
    silence: float = 90.0
    watch: float = 300.0  # the server ends a stream then; 20 % more or less, not all nodes at once
    retry: float = 0.5  # doubled with each failure, up to
    most: float = 15.0
    denied: float = 60.0


class Refusal(NamedTuple):
    """A refusal, in the words of its Status; `retry_after_s` is what the server asks for."""

    code: int
    message: str
    retry_after_s: float


class Upgraded(NamedTuple):
    """A connection that is a WebSocket now, not blocking, and what of it has come already."""

    sock: "socket.socket"
    received: bytes
    protocol: str
    response: Any  # which would close the connection with its own end

    def close(self) -> None:
        """End it."""
        self.response.close()


class RefusedError(Exception):
    """The API server answered, but not with what was asked for."""

    def __init__(self, answer: Refusal) -> None:
        super().__init__(f"{answer.code} {answer.message}")
        self.answer = answer


class BrokenError(Exception):
    """No answer, or one that stopped halfway."""


class CutError(BrokenError):
    """The connection ended, and was whole until now: not so one that fell silent."""


class Api:
    """
    One server, and what was last said about it in the log.

    `credentials` reads them; it is called again where the server refuses what they were.
    """

    def __init__(self, credentials: Callable[[], Credentials], patience: Patience) -> None:
        self._read_credentials, self._patience = credentials, patience
        self._lock = threading.Lock()
        self._away: set[Resource] = set()
        self._credentials = credentials()
        self._loaded_s = time.monotonic()
        self.cluster_name = self._credentials.cluster_name

    def get(self, url: str, read_s: float, *, compressed: bool) -> Any:
        """Open a response with status 200; anything else is a refusal."""
        return self._request("GET", url, read_s, {"accept-encoding": "gzip"} if compressed else {})

    def get_text(self, url: str, read_s: float) -> bytes:
        """What is no object, whole: the log of a pod."""
        headers = {"accept": "application/json, */*"}  # as kubectl asks: the type is the server's
        return self._whole(self._request("GET", url, read_s, headers))

    def write(
        self, method: Literal["POST", "DELETE"], url: str, body: Mapping[str, Any], read_s: float
    ) -> None:
        """Make or delete an object; what is said of it is not needed."""
        headers = {"content-type": "application/json"}
        self._whole(self._request(method, url, read_s, headers, orjson.dumps(body)))

    def upgrade(self, url: str, protocols: Sequence[str], read_s: float) -> Upgraded:
        """
        Open a WebSocket (https://www.rfc-editor.org/rfc/rfc6455#section-1.3).

        The connection is one of the pool's, so TLS, proxies and credentials are those of any other
        request; it does not go back.
        """
        key = base64.b64encode(os.urandom(16)).decode()
        response = self._request(
            "GET",
            url,
            read_s,
            {
                "accept": "*/*",
                "connection": "Upgrade",
                "upgrade": "websocket",
                "sec-websocket-key": key,
                "sec-websocket-version": "13",
                "sec-websocket-protocol": ", ".join(protocols),
            },
        )
        expected = base64.b64encode(hashlib.sha1(f"{key}{_WEBSOCKET}".encode()).digest()).decode()
        protocol = response.headers.get("sec-websocket-protocol", "")
        if response.headers.get("sec-websocket-accept") != expected or protocol not in protocols:
            response.close()
            raise BrokenError("the server, or a proxy before it, opens no WebSocket")
        sock, buffered = response.connection.sock, response._fp.fp
        # What came right behind the answer's head is in http.client's buffer, and nothing else is.
        sock.setblocking(False)
        try:
            received = buffered.read1(_CHUNK_BYTES) or b""
        except (BlockingIOError, ssl.SSLWantReadError):
            received = b""
        return Upgraded(sock, received, protocol, response)

    def _whole(self, response: Any) -> bytes:
        try:
            return b"".join(iter(lambda: self.read(response), b""))
        finally:
            response.close()

    def _request(
        self, method: str, url: str, read_s: float, more: Mapping[str, str], body: bytes = b""
    ) -> Any:
        from urllib3 import Timeout
        from urllib3.exceptions import HTTPError

        with self._lock:
            credentials = self._credentials
            try:
                headers = credentials.headers()
            except CredentialsError as error:
                raise BrokenError(f"credentials could not be read: {error}") from error
        try:
            response = credentials.pool.request(
                method,
                credentials.url + url,
                body=body or None,
                headers={"accept": "application/json", "user-agent": "ctk", **headers, **more},
                preload_content=False,
                redirect=False,
                retries=False,
                timeout=Timeout(connect=self._patience.connect, read=read_s),
            )
            if response.status in _GIVEN:
                return response
            try:
                refusal = response.read(1 << 16)
            finally:
                response.close()
        except (HTTPError, OSError) as error:
            raise BrokenError(_plainly(error, credentials.trust_hint)) from error
        raise RefusedError(_answer(response.status, response.headers, refusal))

    def get_object(self, url: str, read_s: float) -> Mapping[str, Any]:
        """One object, whole; what is none is a BrokenError."""
        try:
            raw = orjson.loads(self._whole(self.get(url, read_s, compressed=False)))
        except ValueError as error:
            raise BrokenError(f"the answer is no object: {error}") from error
        if not isinstance(raw, dict):
            raise BrokenError("the answer is no object")
        return raw

    def read(self, response: Any) -> bytes:
        """What has arrived, at least a byte; b"" at the end."""
        from urllib3.exceptions import HTTPError, ReadTimeoutError

        try:
            chunk: bytes = response.read1(_CHUNK_BYTES)
        except ReadTimeoutError as error:
            raise BrokenError(_plainly(error, self._credentials.trust_hint)) from error
        except (HTTPError, OSError, ValueError) as error:
            raise CutError(_plainly(error, self._credentials.trust_hint)) from error
        return chunk

    def reload(self) -> None:
        """Read credentials anew, unless another thread just did."""
        with self._lock:
            if time.monotonic() - self._loaded_s > self._patience.retry:
                try:
                    self._credentials = self._read_credentials()
                    self._loaded_s = time.monotonic()
                except CtkError as error:
                    log.warning("%s", error)

    def report_lost(self, resource: Resource, why: str, *, denied: bool) -> None:
        """Log a loss: a refused resource by itself, a server that is away once for all."""
        if denied:
            log.warning("%s: %s; their names are left out", resource, why)
            return
        with self._lock:
            first = not self._away
            self._away.add(resource)
        if first:
            log.warning("API server: %s; recording goes on, names follow", why)
        else:
            log.debug("%s: %s", resource, why)

    def report_recovered(self, resource: Resource) -> None:
        """Log that a resource is known again, or all are."""
        with self._lock:
            self._away.discard(resource)
            all_known = not self._away
        log.log(
            logging.INFO if all_known else logging.DEBUG,
            "%s",
            "API server: names are up to date again" if all_known else f"{resource}: known again",
        )


def _answer(code: int, headers: Mapping[str, str], body: bytes) -> Refusal:
    try:
        message = str(orjson.loads(body)["message"])
    except (KeyError, TypeError, ValueError):
        message = "without a Status"
    after = headers.get("Retry-After", "")
    return Refusal(code, " ".join(message.split())[:400], float(after) if after.isdecimal() else 0)


def _plainly(error: Exception, trust_hint: str) -> str:
    """One line a person understands, from urllib3's nested ones."""
    text = " ".join(str(error).split())
    if "CERTIFICATE_VERIFY_FAILED" in text or "doesn't match" in text:
        cause = text.partition("verify failed: ")[2].partition(" (_ssl")[0] or text
        return f"its certificate is not trusted ({cause}); {trust_hint}"
    if "IncompleteRead" in text:
        return "the connection was cut"
    # urllib3 begins with its pool's repr.
    return re.sub(r"^.*(\): |new connection: |\[Errno -?\d+\] )", "", text) or type(error).__name__


_ITEMS = re.compile(r'"items"\s*:\s*\[')
_BETWEEN = re.compile(r"[\s,]*")
_decode = json.JSONDecoder().raw_decode


def items(chunks: Iterator[bytes], page: dict[str, Any]) -> Iterator[object]:
    """
    Each item of a list as its text arrives; the list without them is put into `page`.

    A list asked for with resourceVersion=0 comes whole, whatever its limit: at 10,000 pods that is
    100 MB of text, of which only a chunk and one object are held.
    """
    decoder = getincrementaldecoder("utf-8")()
    text, start = "", -1
    try:
        for chunk in chunks:
            text += decoder.decode(chunk)
            if start < 0:
                found = _ITEMS.search(text)
                if found is None:
                    continue
                head, text, start = text[: found.end()], text[found.end() :], 0
            while True:
                start = _skip(text, start)
                if start >= len(text) or text[start] == "]":
                    break
                try:
                    item, start = _decode(text, start)
                except ValueError:
                    break  # the rest of it comes with the next chunk
                yield item
            text, start = text[start:], 0
        page.update(json.loads(text if start < 0 else head + text).items())
        page["metadata"] = dict(page["metadata"])
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise BrokenError(f"the answer is no whole list: {error}") from error


def _skip(text: str, start: int) -> int:
    between = _BETWEEN.match(text, start)
    return start if between is None else between.end()
