"""
A command in a container, as `kubectl exec` runs one: over a WebSocket.

Each message begins with a byte that names its channel
(https://pkg.go.dev/k8s.io/apimachinery/pkg/util/remotecommand): 1 is what the command prints, 2
its errors, 3 how it ended, as a Status. Nothing is sent to it.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlencode

import orjson

from ctk.kube.api import Api, BrokenError, CutError, Upgraded

if TYPE_CHECKING:
    from wsproto.events import Event

# v5 differs in what a client may send: it can close the command's input.
PROTOCOLS = ("v5.channel.k8s.io", "v4.channel.k8s.io")
_STDOUT, _STDERR, _STATUS = 1, 2, 3
_CHUNK_BYTES = 1 << 16
_KEPT_BYTES = 1 << 16  # of errors and the Status


class Ended(NamedTuple):
    """How a command ended; `code` is None where it did not run, or nobody knows."""

    code: int | None
    message: str
    errors: str  # the beginning of what it wrote to stderr


def execute(
    api: Api,
    pod: str,
    container: str,
    command: Sequence[str],
    take: Callable[[bytes], object],
    *,
    open_s: float = 30.0,
    ping_s: float = 10.0,
    silence_s: float = 60.0,
) -> Ended:
    """
    Run `command` in a container of the pod at a path of the API, and hand over what it prints.

    A command that says nothing for long is pinged through all that is between. A connection that
    ends before the command is a CutError; one that answers no ping for `silence_s` is broken.
    """
    asked = [("command", word) for word in command]
    query = urlencode([*asked, ("container", container), ("stdout", "true"), ("stderr", "true")])
    upgraded = api.upgrade(f"{pod}/exec?{query}", PROTOCOLS, open_s)
    try:
        return follow(upgraded, take, ping_s=ping_s, silence_s=silence_s)
    finally:
        upgraded.close()


def follow(
    upgraded: Upgraded, take: Callable[[bytes], object], *, ping_s: float, silence_s: float
) -> Ended:
    """Hand over what comes on a WebSocket, until the command has ended."""
    stream = _ExecStream(upgraded, take)
    stream.run(ping_s, silence_s)
    return stream.ended()


class _ExecStream:
    """One WebSocket until its end."""

    def __init__(self, upgraded: Upgraded, take: Callable[[bytes], object]) -> None:
        from wsproto.connection import Connection, ConnectionType

        self._sock = upgraded.sock
        self._frames = Connection(ConnectionType.CLIENT, trailing_data=upgraded.received)
        self._take = take
        self._channel: int | None = None  # of the message that is coming in
        self._errors, self._status = bytearray(), bytearray()
        self._reason = ""  # why it was closed: by the server, or for what is no frame

    def run(self, ping_s: float, silence_s: float) -> None:
        """Hand over all messages; return when the server has closed."""
        from wsproto.events import Ping

        self._sock.settimeout(ping_s)
        silent_s = 0.0
        while not any(self._closes(event) for event in self._frames.events()):
            received = self._receive()
            if received is None:
                silent_s += ping_s
                if silent_s >= silence_s:
                    raise BrokenError(f"silent for {silent_s:.0f} s")
                self._send(Ping())
                continue
            silent_s = 0.0
            if not received:
                break
            self._frames.receive_data(received)
        if not self._status:
            raise CutError(self._reason or "the connection was cut")

    def ended(self) -> Ended:
        """Read how the command ended."""
        errors = self._errors.decode("utf-8", "replace")
        try:
            status = orjson.loads(self._status)
            if status["status"] == "Success":
                return Ended(0, "", errors)
            causes = status.get("details", {}).get("causes", ())
            codes = [each["message"] for each in causes if each.get("reason") == "ExitCode"]
            return Ended(int(codes[0]) if codes else None, str(status.get("message", "")), errors)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BrokenError(f"how the command ended is no Status: {error}") from error

    def _receive(self) -> bytes | None:
        """Give what has come, b"" at the end; None where nothing has for a while."""
        try:
            return self._sock.recv(_CHUNK_BYTES)
        except TimeoutError:
            return None
        except OSError as error:
            raise CutError(error.strerror or str(error)) from error

    def _send(self, event: "Event") -> None:
        try:
            self._sock.sendall(self._frames.send(event))
        except OSError as error:
            raise CutError(error.strerror or str(error)) from error

    def _closes(self, event: "Event") -> bool:
        from wsproto.events import BytesMessage, CloseConnection, Ping, TextMessage

        if isinstance(event, BytesMessage | TextMessage):
            data = event.data
            self._message(data.encode() if isinstance(data, str) else bytes(data))
            if event.message_finished:
                self._channel = None
        elif isinstance(event, Ping):
            self._send(event.response())
        elif isinstance(event, CloseConnection):
            self._reason = event.reason or ""
            with suppress(CutError):  # it may be gone already
                self._send(event.response())
            return True
        return False

    def _message(self, data: bytes) -> None:
        """Take a part of a message: frames, and what comes of them at a time, may be cut anyhow."""
        if self._channel is None:
            if not data:
                return
            self._channel, data = data[0], data[1:]
        if self._channel == _STDOUT:
            self._take(data)
        elif self._channel == _STDERR:
            self._errors += data[: _KEPT_BYTES - len(self._errors)]
        elif self._channel == _STATUS:
            self._status += data[: _KEPT_BYTES - len(self._status)]
