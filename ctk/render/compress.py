"""What is compressed: by gzip or zstd, in pieces that each can be read by itself."""

import gzip
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Literal, cast

from ctk.errors import UsageError

if TYPE_CHECKING:
    from types import ModuleType

Compression = Literal["gzip", "zstd"]
SUFFIXES: dict[str, Compression] = {".gz": "gzip", ".zst": "zstd"}

_READ_BYTES = 1 << 20
_PACK_BYTES = 1 << 20  # of lines that are compressed together


class Packer:
    """
    Makes a gzip member, or a zstd frame, of the lines it was given.

    A file of several is one that `zcat` and `zstdcat` read. Since each is whole, a file that was
    cut between two of them goes on.
    """

    def __init__(self, compression: Compression, most_bytes: int | None = None) -> None:
        self._compress = _compressor(compression)
        self._most_bytes = min(_PACK_BYTES, most_bytes or _PACK_BYTES)
        self._lines: list[bytes] = []
        self._bytes = 0

    @property
    def lines(self) -> int:
        return len(self._lines)

    @property
    def is_full(self) -> bool:
        return self._bytes >= self._most_bytes

    def add(self, line: bytes) -> None:
        self._lines.append(line)
        self._bytes += len(line)

    def packed(self) -> bytes:
        """Give the lines so far, compressed, and begin anew."""
        plain = b"".join(self._lines)
        self._lines.clear()
        self._bytes = 0
        return self._compress(plain)


def _compressor(compression: Compression) -> Callable[[bytes], bytes]:
    if compression == "gzip":
        return lambda plain: gzip.compress(plain, 6, mtime=0)
    compress: Callable[[bytes], bytes] = _zstd().compress
    return compress


def lines_in(path: Path) -> int:
    """Count the lines of a file that is compressed as its name says."""
    with _opened(path) as file:
        return sum(chunk.count(b"\n") for chunk in _chunks(file))


def _opened(path: Path) -> IO[bytes]:
    match SUFFIXES.get(path.suffix):
        case "gzip":
            return cast("IO[bytes]", gzip.open(path))
        case "zstd":
            return cast("IO[bytes]", _zstd().open(path))
        case _:
            return path.open("rb")


def _chunks(file: IO[bytes]) -> Iterator[bytes]:
    while chunk := file.read(_READ_BYTES):
        yield chunk


def _zstd() -> "ModuleType":
    """Import zstd: the standard library has it from 3.14 on, and the extra before."""
    try:
        if sys.version_info >= (3, 14):
            from compression import zstd
        else:
            from backports import zstd
    except ImportError as error:
        raise UsageError(
            "zstd is not installed here", hint="pip install 'ctk[zstd]', or gzip"
        ) from error
    return zstd
