"""
The capture file: a recording of the source, and a source itself.

It holds what a socket handed over, batch by batch, dumps included, and the host's addresses as
they changed, so replaying it gives what the live run gave. All integers are little-endian:

    magic      8 bytes   b"ctkcap1\\n"
    header     u32 length, then that much JSON: what Header holds
    batch      u64 at_ns; u16 flags (1: dumped); u16 count;
               count u16 lengths; then as many netlink messages, each as long as its length says;
               a dumped batch of none ends a dump
    addresses  as a batch, with flags 2; instead of messages the addresses that the host's
               interfaces have from here on, as text
    ...        batches and addresses up to the end of the file

Where addresses stay as the header has them, no others are written: the file is as older versions
wrote it. A name that ends in .gz is compressed. A file that was cut off is read up to its last
whole message.
"""

import gzip
import json
import os
import platform
import struct
import sys
import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from io import BufferedIOBase
from itertools import accumulate, pairwise
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from ctk.errors import SourceError, UsageError
from ctk.model import Datagrams

MAGIC = b"ctkcap1\n"
_HEADER = struct.Struct("<I")
_BATCH = struct.Struct("<qHH")
_DUMPED, _ADDRESSES = 1, 2  # flags

# Limits for a file of unknown origin, far above what a socket hands over.
_HEADER_MAX_BYTES = 4 << 20
_BATCH_MAX_BYTES = 32 << 20

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """Where a capture was made: what a reader needs to know that the messages don't say."""

    node: str
    addresses: frozenset[str] = frozenset()  # of the host's interfaces, when it began
    kernel: str = field(default_factory=platform.release)
    sysctls: Mapping[str, int | None] = field(default_factory=dict)


class CaptureWriter:
    """
    Writes a capture, mode 0600, over a file of that name.

    Where its disk is full the capture ends, as `note` is told; the recording beside it goes on.
    """

    def __init__(
        self, path: Path, header: Header, note: Callable[[str], None] = lambda text: None
    ) -> None:
        self._path = path
        self._note = note
        self._ended = False
        self._addresses = header.addresses
        text = json.dumps(asdict(header) | {"addresses": sorted(header.addresses)}).encode()
        try:
            fileno = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            raw = os.fdopen(fileno, "wb")
        except OSError as error:
            raise UsageError(f"{path} cannot be written: {error.strerror}") from error
        self._files: list[BufferedIOBase] = [raw]
        if path.name.endswith(".gz"):
            # mtime=0: the same messages give the same file.
            zipped = gzip.GzipFile(filename="", fileobj=raw, mode="wb", compresslevel=6, mtime=0)
            self._files.insert(0, zipped)
        self._write(MAGIC + _HEADER.pack(len(text)) + text)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def write(self, batch: Datagrams, addresses: frozenset[str] | None = None) -> None:
        """Append one batch, and before it the host's `addresses` where they have changed."""
        if addresses is not None and addresses != self._addresses:
            self._addresses = addresses
            texts = [address.encode("ascii") for address in sorted(addresses)]
            self._append(batch.at_ns, _ADDRESSES, [len(text) for text in texts], texts)
        with memoryview(batch.buffer) as view:
            places = zip(batch.offsets, batch.lengths, strict=True)
            messages = [view[offset : offset + length] for offset, length in places]
            self._append(batch.at_ns, _DUMPED * batch.dumped, batch.lengths, messages)

    def _append(
        self, at_ns: int, flags: int, lengths: Sequence[int], parts: Sequence[bytes | memoryview]
    ) -> None:
        if self._ended:
            return
        packed = array("H", lengths)
        if sys.byteorder == "big":
            packed.byteswap()
        head = _BATCH.pack(at_ns, flags, len(packed))
        try:
            self._write(b"".join((head, packed.tobytes(), *parts)))
        except SourceError as error:
            self._ended = True
            # Nothing is to follow what is missing once there is room again.
            nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
            os.dup2(nowhere, self._files[-1].fileno(), inheritable=False)
            os.close(nowhere)
            self._note(f"{error.message}: it ends here, recording goes on")

    def close(self) -> None:
        try:
            with ExitStack() as stack:
                for file in reversed(self._files):
                    stack.callback(file.close)
        except OSError as error:
            raise self._failed(error) from error

    def _write(self, content: bytes) -> None:
        try:
            self._files[0].write(content)
        except OSError as error:
            raise self._failed(error) from error

    def _failed(self, error: OSError) -> SourceError:
        return SourceError(f"{self._path} cannot be written: {error.strerror}")


class Capture:
    """
    Reads a capture: its header at once, its batches by iterating, once.

    `addresses` are the host's as of the batch that was read last. `note` is told where the file
    turns out to be cut off.
    """

    def __init__(self, path: Path, *, note: Callable[[str], None] = lambda sentence: None) -> None:
        self.path = path
        self._note = note
        try:
            self._file: BufferedIOBase = (
                gzip.GzipFile(path, "rb") if path.name.endswith(".gz") else path.open("rb")
            )
        except OSError as error:
            raise UsageError(f"{path} cannot be read: {error.strerror}") from error
        try:
            self.header = self._read_header()
        except BaseException:
            self._file.close()
            raise
        self.addresses = self.header.addresses

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()

    def __iter__(self) -> Iterator[Datagrams]:
        """Yield the batches as they were recorded, each with a buffer of its own."""
        while head := self._read(_BATCH.size):
            if len(head) < _BATCH.size:
                break
            at_ns, flags, count = _BATCH.unpack(head)
            if at_ns < 0 or flags not in (0, _DUMPED, _ADDRESSES):
                raise self._damaged()
            lengths = array("H")
            lengths_bytes = self._read(2 * count)
            if len(lengths_bytes) < 2 * count:
                break
            lengths.frombytes(lengths_bytes)
            if sys.byteorder == "big":
                lengths.byteswap()
            total = sum(lengths)
            if total > _BATCH_MAX_BYTES:
                raise self._damaged()
            buffer = self._read(total)
            ends = list(accumulate(lengths))
            cut_off = len(buffer) < total
            if cut_off:
                ends = [end for end in ends if end <= len(buffer)]
            if flags == _ADDRESSES:
                if not cut_off:
                    self.addresses = self._read_addresses(buffer, lengths)
            elif ends or not cut_off:  # a batch of none ends a dump
                kept = lengths[: len(ends)].tolist()
                yield Datagrams(at_ns, bool(flags & _DUMPED), buffer, [0, *ends][:-1], kept)
            if cut_off:
                break
        else:
            return
        self._note(f"{self.path} was cut off: read up to its last whole message")

    def _read_header(self) -> Header:
        if self._read(len(MAGIC)) != MAGIC:
            raise UsageError(
                f"{self.path} is not a ctk capture", hint="make one with: ctk record --capture"
            )
        length_bytes = self._read(_HEADER.size)
        length = _HEADER.unpack(length_bytes)[0] if len(length_bytes) == _HEADER.size else 0
        text = self._read(min(length, _HEADER_MAX_BYTES))
        try:
            fields = json.loads(text)
            return Header(
                node=_checked(fields["node"], str),
                addresses=frozenset(_checked(a, str) for a in fields["addresses"]),
                kernel=_checked(fields["kernel"], str),
                sysctls={
                    name: value if value is None else _checked(value, int)
                    for name, value in _checked(fields["sysctls"], dict).items()
                },
            )
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise self._damaged() from error

    def _read_addresses(self, buffer: bytearray, lengths: Iterable[int]) -> frozenset[str]:
        ends = list(accumulate(lengths, initial=0))
        try:
            return frozenset(buffer[start:end].decode("ascii") for start, end in pairwise(ends))
        except UnicodeDecodeError as error:
            raise self._damaged() from error

    def _read(self, size: int) -> bytearray:
        """Read `size` bytes; fewer only where the file ends or was cut off."""
        content = bytearray()
        try:
            # Not read(): in a compressed file that was cut off it raises, and what came before
            # the cut is lost.
            while len(content) < size and (piece := self._file.read1(size - len(content))):
                content += piece
        except EOFError:  # gzip raises it where a file was cut off
            pass
        except gzip.BadGzipFile as error:
            raise UsageError(f"{self.path} is not a ctk capture") from error
        except zlib.error as error:
            raise self._damaged() from error
        except OSError as error:
            raise SourceError(f"{self.path} cannot be read: {error.strerror}") from error
        return content

    def _damaged(self) -> SourceError:
        return SourceError(f"{self.path} is a damaged ctk capture")


def _checked(value: object, kind: type[_T]) -> _T:
    if not isinstance(value, kind):
        raise TypeError(f"{value!r} is not of type {kind.__name__}")
    return value
