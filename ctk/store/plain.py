"""
A file and its -wal as one plain file, page by page, where there is no room for a copy.

A recorder that ends on a full disk leaves a -wal: SQLite would have to make the file longer to take
it in. So the newest committed version of each page is read from where it is.
https://www.sqlite.org/fileformat2.html#the_write_ahead_log
"""

import struct
import sys
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_HEADER, _FRAME = struct.Struct(">8I"), struct.Struct(">6I")
_MAGIC = 0x377F0682  # and 1 more where checksums are big-endian
_PAGE_SIZE_AT, _MODE_AT = 16, 18  # in the file's header; the mode is two bytes, 1 for plain
_CHUNK_BYTES = 1 << 20
_HOST = "<" if sys.byteorder == "little" else ">"


class _Wal(NamedTuple):
    """Where in a -wal each page is that it has, and how many pages the file has with it."""

    at: dict[int, int]
    pages: int


def plain(path: Path) -> Iterator[bytes]:
    """Yield all of a file that nobody writes."""
    wal_path = path.with_name(f"{path.name}-wal")
    with path.open("rb") as file:
        head = file.read(_MODE_AT)
        file.seek(0)
        (page_bytes,) = struct.unpack_from(">H", head, _PAGE_SIZE_AT)
        page_bytes = 1 << 16 if page_bytes == 1 else page_bytes
        wal = _read(wal_path, page_bytes) if wal_path.exists() else _Wal({}, 0)
        if not wal.at:
            yield _as_plain(file.read(page_bytes))
            yield from iter(lambda: file.read(_CHUNK_BYTES), b"")
            return
        with wal_path.open("rb") as newer:
            for number in range(1, wal.pages + 1):
                source = newer if number in wal.at else file
                source.seek(wal.at.get(number, (number - 1) * page_bytes))
                page = source.read(page_bytes)
                yield _as_plain(page) if number == 1 else page


def _as_plain(first: bytes) -> bytes:
    """Give the first page with a header that says that there is no -wal."""
    return first[:_MODE_AT] + b"\1\1" + first[_MODE_AT + 2 :]


def _read(path: Path, page_bytes: int) -> _Wal:
    """Find what was committed: frames with the header's salts, as far as the checksums hold."""
    found, newest = _Wal({}, 0), dict[int, int]()
    with path.open("rb") as file:
        head = file.read(_HEADER.size)
        if len(head) < _HEADER.size:
            return found
        magic, _, size, _, *rest = _HEADER.unpack(head)
        salts, told = rest[:2], tuple(rest[2:])
        order = ">" if magic & 1 else "<"
        sums = _checksum((0, 0), head[:24], order)
        if magic & ~1 != _MAGIC or size != page_bytes or sums != told:
            return found
        while True:
            at = file.tell() + _FRAME.size
            frame, page = file.read(_FRAME.size), file.read(page_bytes)
            if len(page) < page_bytes:
                return found
            number, pages, *more = _FRAME.unpack(frame)
            sums = _checksum(_checksum(sums, frame[:8], order), page, order)
            if more[:2] != salts or tuple(more[2:]) != sums:
                return found
            newest[number] = at
            if pages:  # a commit
                found = _Wal(dict(newest), pages)


def _checksum(sums: tuple[int, int], data: bytes, order: str) -> tuple[int, int]:
    words = array("I", data)
    if order != _HOST:
        words.byteswap()
    first, second = sums
    for at in range(0, len(words), 2):
        first = (first + words[at] + second) & 0xFFFFFFFF
        second = (second + words[at + 1] + first) & 0xFFFFFFFF
    return first, second
