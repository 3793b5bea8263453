"""The capture file: what goes in comes out, and nothing else makes it hang or grow."""

import contextlib
import gzip
import json
import os
import resource
import signal
import stat
import struct
from itertools import accumulate
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctk.conntrack.capture import MAGIC, Capture, CaptureWriter, Header
from ctk.errors import CtkError, SourceError, UsageError
from ctk.model import Datagrams

CAPTURES = Path(__file__).parents[1] / "fixtures" / "captures"
HEADER = Header(
    node="n", addresses=frozenset(["::1", "10.0.0.1"]), kernel="6.18", sysctls={"a": 1, "b": None}
)

BATCHES = st.lists(
    st.tuples(
        st.integers(0, 2**63 - 1), st.booleans(), st.lists(st.binary(max_size=300), max_size=5)
    ),
    max_size=5,
)
Content = list[tuple[int, bool, list[bytes]]]


def batch(at_ns: int, dumped: bool, messages: list[bytes], slot: int = 512) -> Datagrams:
    """Lay messages out in slots, as a socket does."""
    buffer = bytearray(b"".join(message.ljust(slot, b"\xff") for message in messages))
    offsets = range(0, slot * len(messages), slot)
    return Datagrams(at_ns, dumped, buffer, offsets, [len(message) for message in messages])


def contents(path: Path, note=lambda sentence: None) -> tuple[Header, Content]:
    with Capture(path, note=note) as capture:
        return capture.header, [
            (
                read.at_ns,
                read.dumped,
                [
                    bytes(read.buffer[offset : offset + length])
                    for offset, length in zip(read.offsets, read.lengths, strict=True)
                ],
            )
            for read in capture
        ]


def write(path: Path, batches: Content) -> Path:
    with CaptureWriter(path, HEADER) as writer:
        for one in batches:
            writer.write(batch(*one))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("captures")


@given(BATCHES, st.sampled_from(["a.ctkcap", "a.ctkcap.gz"]))
def test_what_was_written_is_read(folder, batches, name):
    assert contents(write(folder / name, batches)) == (HEADER, batches)


def test_addresses_are_kept_from_where_they_change(tmp_path):
    path = tmp_path / "a.ctkcap"
    bridged = HEADER.addresses | {"10.244.0.1", "fe80::1"}
    with CaptureWriter(path, HEADER) as writer:
        for at_ns, addresses in enumerate((HEADER.addresses, bridged, bridged, frozenset(), None)):
            writer.write(batch(at_ns, False, [b"message"]), addresses)
    with Capture(path) as capture:
        assert capture.addresses == HEADER.addresses
        found = [(read.at_ns, capture.addresses) for read in capture]
    assert found == [
        (0, HEADER.addresses),
        (1, bridged),
        (2, bridged),
        (3, frozenset()),
        (4, frozenset()),
    ]


def test_a_capture_whose_addresses_stay_is_as_older_versions_wrote_it(tmp_path):
    one, other = tmp_path / "one.ctkcap", tmp_path / "other.ctkcap"
    write(one, [(1, False, [b"message"])])
    with CaptureWriter(other, HEADER) as writer:
        writer.write(batch(1, False, [b"message"]), HEADER.addresses)
    assert one.read_bytes() == other.read_bytes()


def test_a_file_that_was_cut_off_in_its_addresses_keeps_those_before(tmp_path):
    path = tmp_path / "a.ctkcap"
    with CaptureWriter(path, HEADER) as writer:
        writer.write(batch(1, True, []), frozenset(["10.244.0.1"]))
    path.write_bytes(path.read_bytes()[:-15])  # the batch behind it is 12 bytes
    notes = []
    with Capture(path, note=notes.append) as capture:
        assert (list(capture), capture.addresses) == ([], HEADER.addresses)
    assert notes == [f"{path} was cut off: read up to its last whole message"]


def test_a_capture_is_for_its_owner_only(tmp_path):
    path = write(tmp_path / "a.ctkcap", [])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_same_messages_make_the_same_compressed_file(tmp_path):
    batches = [(1, False, [b"message"])]
    one, other = write(tmp_path / "a.gz", batches), write(tmp_path / "b.gz", batches)
    assert one.read_bytes() == other.read_bytes()


@given(st.data())
def test_a_cut_off_file_is_read_up_to_its_last_whole_message(folder, data):
    batches = [(1, False, [b"one", b"", b"three"]), (2, True, [b"four"]), (3, False, [b"5" * 300])]
    path = write(folder / "cut.ctkcap", batches)
    whole = path.read_bytes()
    first = len(write(folder / "empty.ctkcap", []).read_bytes())
    path.write_bytes(whole[: data.draw(st.integers(first, len(whole) - 1))])
    notes: list[str] = []
    messages = [
        (at_ns, dumped, message)
        for at_ns, dumped, several in contents(path, notes.append)[1]
        for message in several
    ]
    every = [(at_ns, dumped, m) for at_ns, dumped, several in batches for m in several]
    assert messages == every[: len(messages)]
    sizes = (12 + sum(2 + len(message) for message in several) for _, _, several in batches)
    boundaries = list(accumulate(sizes, initial=first))
    assert boundaries[-1] == len(whole)
    cut_off = [f"{path} was cut off: read up to its last whole message"]
    assert notes == ([] if path.stat().st_size in boundaries else cut_off)


def test_a_cut_off_compressed_file_keeps_what_came_before_the_cut(tmp_path):
    path = tmp_path / "node.ctkcap.gz"
    whole = (CAPTURES / "node.ctkcap.gz").read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    notes: list[str] = []
    header, batches = contents(path, notes.append)
    every = contents(CAPTURES / "node.ctkcap.gz")
    assert header == every[0]
    assert 0.3 * len(every[1]) < len(batches) < 0.7 * len(every[1])
    assert batches[:-1] == every[1][: len(batches) - 1]
    assert notes == [f"{path} was cut off: read up to its last whole message"]


def headed(text: bytes) -> bytes:
    return MAGIC + struct.pack("<I", len(text)) + text


GOOD = headed(json.dumps({"node": "", "addresses": [], "kernel": "", "sysctls": {}}).encode())


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (b"", UsageError, "{} is not a ctk capture"),
        (b"SQLite format 3\0", UsageError, "{} is not a ctk capture"),
        (MAGIC, SourceError, "{} is a damaged ctk capture"),
        (MAGIC + b"\xff\xff\xff\xff{}", SourceError, "{} is a damaged ctk capture"),
        (headed(b"[]"), SourceError, "{} is a damaged ctk capture"),
        (headed(b'{"node": 1}'), SourceError, "{} is a damaged ctk capture"),
        (headed(b"[" * 100_000), SourceError, "{} is a damaged ctk capture"),
        (GOOD + struct.pack("<qHH", -1, 0, 0), SourceError, "{} is a damaged ctk capture"),
        (GOOD + struct.pack("<qHH", 0, 3, 0), SourceError, "{} is a damaged ctk capture"),
        (
            GOOD + struct.pack("<qHHH", 0, 2, 1, 1) + b"\xff",
            SourceError,
            "{} is a damaged ctk capture",
        ),
        (
            GOOD + struct.pack("<qHH", 0, 0, 65535) + b"\xff" * 131070,
            SourceError,
            "{} is a damaged ctk capture",
        ),
    ],
)
def test_what_is_not_a_capture_is_one_error(tmp_path, content, error, message):
    path = tmp_path / "a.ctkcap"
    path.write_bytes(content)
    with pytest.raises(error) as raised:
        contents(path)
    assert raised.value.message == message.format(path)


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.gz", b"plain"), ("a.gz", gzip.compress(b"other", mtime=0)), ("missing", None)],
)
def test_what_cannot_be_opened_as_one_is_asked_wrongly(tmp_path, name, content):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError):
        contents(tmp_path / name)


def test_a_capture_that_cannot_be_written_is_asked_wrongly(tmp_path):
    with pytest.raises(UsageError, match="cannot be written: No such file or directory"):
        write(tmp_path / "no" / "folder", [])


def test_a_full_disk_ends_the_capture_with_a_note():
    notes = []
    with CaptureWriter(Path("/dev/full"), HEADER, notes.append) as writer:
        for _ in range(100):
            writer.write(batch(1, False, [bytes(500)] * 100))
    assert notes == [
        "/dev/full cannot be written: No space left on device: it ends here, recording goes on"
    ]


@pytest.mark.parametrize("name", ["a.ctkcap", "a.ctkcap.gz"])
def test_a_capture_that_ended_for_want_of_room_is_read_up_to_there(tmp_path, name):
    whole = [(at_ns, False, [os.urandom(500) for _ in range(20)]) for at_ns in range(20)]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with CaptureWriter(tmp_path / name, HEADER) as writer:
        before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
        try:
            for one in whole:
                writer.write(batch(*one))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            signal.signal(signal.SIGXFSZ, before)
    notes = []
    _, found = contents(tmp_path / name, notes.append)
    written, kept = (
        [message for _, _, messages in batches for message in messages]
        for batches in (whole, found)
    )
    assert kept == written[: len(kept)]
    assert (0 < len(kept) < len(written), len(notes)) == (True, 1)


def test_a_disk_that_is_full_at_the_end_is_one_error():
    with pytest.raises(SourceError, match="cannot be written: No space left on device"):
        write(Path("/dev/full"), [(1, False, [bytes(500)])])


@given(st.data())
def test_a_mutated_capture_ends_with_its_batches_or_one_error(folder, data):
    name = data.draw(st.sampled_from(["a.ctkcap", "a.ctkcap.gz"]))
    path = write(folder / name, [(1, False, [b"message"] * 3), (2, True, [bytes(100)])])
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    with contextlib.suppress(CtkError):
        contents(path)


@given(st.binary(max_size=2000))
def test_any_bytes_behind_a_header_end_with_batches_or_one_error(folder, content):
    path = folder / "random.ctkcap"
    path.write_bytes(GOOD + content)
    with contextlib.suppress(CtkError):
        contents(path)
