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


def packer(compression: Compression) -> Callable[[bytes], bytes]:
    """
    Give what makes a gzip member, or a zstd frame, of some bytes.

    A file of several is one that `zcat` and `zstdcat` read. Since each is whole, a file that was
    cut between two of them goes on.
    """
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
