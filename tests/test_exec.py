"""A command in a container: what comes on its WebSocket, however it is cut, and how it ends."""

import json
import socket
import threading
from collections.abc import Iterator, Sequence

import pytest

from ctk.kube.api import BrokenError, CutError, Upgraded
from ctk.kube.exec import Ended, follow

DONE = json.dumps({"metadata": {}, "status": "Success"}).encode()
CLOSE = b"\x88\x02\x03\xe8"


def frame(payload: bytes, opcode: int = 2, *, last: bool = True) -> bytes:
    """A frame as a server sends it: not masked."""
    size = len(payload)
    long = size.to_bytes(8, "big")
    length = (
        bytes([size]) if size < 126 else (b"\x7e" + long[6:] if size < 1 << 16 else b"\x7f" + long)
    )
    return bytes([opcode | (0x80 if last else 0)]) + length + payload


class Server:
    """The other end of a WebSocket."""

    def __init__(self) -> None:
        self.sock, self.client = socket.socketpair()

    def upgraded(self, received: bytes = b"") -> Upgraded:
        return Upgraded(self.client, received, "v5.channel.k8s.io", None)

    def gives(self, *parts: bytes, received: bytes = b"") -> tuple[bytes, Ended]:
        """What is handed over of these bytes, sent one part at a time."""
        taken: list[bytes] = []

        def send() -> None:
            for part in parts:
                self.sock.sendall(part)
            self.sock.shutdown(socket.SHUT_WR)

        sends = threading.Thread(target=send)
        sends.start()
        try:
            ended = follow(self.upgraded(received), taken.append, ping_s=5, silence_s=10)
        finally:
            sends.join()
        return b"".join(taken), ended


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.sock.close()
    made.client.close()


WHOLE = b"".join(
    (
        frame(b"\x01"),  # each channel is opened with an empty message
        frame(b"\x02"),
        frame(b"\x01" + bytes(range(256))),
        frame(b"\x89ping"[1:], opcode=9),
        frame(b"\x02said\n"),
        frame(b"\x01" + b"x" * 70_000),
        frame(b"\x01ab", last=False),
        frame(b"cd", opcode=0),
        frame(b"\xff\x01"),  # v5: the channel is closed
        frame(b"\x03" + DONE[:5], last=False),
        frame(DONE[5:], opcode=0),
        CLOSE,
    )
)
PRINTED = bytes(range(256)) + b"x" * 70_000 + b"abcd"


@pytest.mark.parametrize(
    ("received", "parts"),
    [
        (b"", [WHOLE]),
        (WHOLE, []),
        (WHOLE[:1], [WHOLE[1:300], WHOLE[300:]]),
        (b"", [WHOLE[at : at + 1] for at in range(600)] + [WHOLE[600:]]),
    ],
    ids=["at once", "behind the answer's head", "in parts", "byte by byte"],
)
def test_bytes_are_exact_however_they_are_cut(
    server: Server, received: bytes, parts: Sequence[bytes]
) -> None:
    assert server.gives(*parts, received=received) == (PRINTED, Ended(0, "", "said\n"))


def test_an_exit_code_is_told(server: Server) -> None:
    status = {
        "status": "Failure",
        "message": "command terminated with non-zero exit code",
        "reason": "NonZeroExitCode",
        "details": {"causes": [{"reason": "ExitCode", "message": "3"}]},
    }
    said = frame(b"\x03" + json.dumps(status).encode()) + CLOSE
    assert server.gives(said) == (b"", Ended(3, status["message"], ""))


def test_a_command_that_did_not_run_has_no_exit_code(server: Server) -> None:
    said = {"status": "Failure", "message": 'exec: "ctk": not found', "reason": "InternalError"}
    said_frame = frame(b"\x03" + json.dumps(said).encode()) + CLOSE
    assert server.gives(said_frame) == (b"", Ended(None, said["message"], ""))


@pytest.mark.parametrize(
    ("sent", "kind", "message"),
    [
        (frame(b"\x01half"), CutError, "the connection was cut"),
        (frame(b"\x01half") + CLOSE, CutError, "the connection was cut"),
        (frame(b"\x01" + b"x" * 200)[:50], CutError, "the connection was cut"),
        (frame(b"\x03no json") + CLOSE, BrokenError, "how the command ended is no Status"),
        (b"HTTP/1.1 200 OK", CutError, "Invalid attempt to fragment control frame"),
        (b"\x88\x06\x03\xf3over", CutError, "over"),
    ],
)
def test_what_is_not_whole_is_never_taken_for_it(
    server: Server, sent: bytes, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        server.gives(sent)


def test_a_silent_command_is_pinged_and_a_dead_connection_given_up(server: Server) -> None:
    def answer() -> None:
        assert server.sock.recv(1)[0] & 0xF == 9  # a ping
        server.sock.sendall(frame(b"", opcode=10) + frame(b"\x03" + DONE) + CLOSE)

    answers = threading.Thread(target=answer)
    answers.start()
    assert follow(server.upgraded(), len, ping_s=0.02, silence_s=60).code == 0
    answers.join()
    silent, never = socket.socketpair()
    with silent, never, pytest.raises(BrokenError, match="silent for 0 s"):
        follow(Upgraded(silent, b"", "v5", None), len, ping_s=0.02, silence_s=0.06)
