"""
Room that is kept for the gap and the end of a recording, for when the disk is full.

A commit needs no room in the database file: it is appended to the -wal, which is copied over later.
So the reserve is a part of the -wal behind its last commit, which is allocated ahead: blocks of a
file cannot be taken by another program, as free ones can. Before each window the reserve is filled
up; where that fails the disk is full, the window is not begun, and the reserve is there for the
few pages of a gap and a recording's end. A window that fails half-way leaves it as it was.

Where a file system writes every block anew (btrfs, ZFS), allocating ahead promises nothing.
"""

import os
import struct
from pathlib import Path

from ctk.store.connect import PAGE_BYTES

# Two commits of a gap take 12 frames at most, with the split of a page in each; then some to
# keep the gap's end up to date.
RESERVE_BYTES = 128 * 1024
_MOST_GROWTH_BYTES = 1024 * 1024
# What the end of a recording takes: two pages that change in place, and as many to spare.
LAST_BYTES = 4 * (PAGE_BYTES + 24)

# https://www.sqlite.org/fileformat2.html#the_write_ahead_log
_HEADER_BYTES, _FRAME_HEADER_BYTES = 32, 24
_FRAME_BYTES = _FRAME_HEADER_BYTES + PAGE_BYTES


class Reserve:
    """The -wal of a database that only this process writes."""

    def __init__(self, database: Path, max_bytes: int | None = None) -> None:
        self._path = Path(f"{database}-wal")
        self._salts = b""
        self._used_bytes = 0
        self._growth_bytes = 0
        self._most_growth_bytes = _MOST_GROWTH_BYTES
        if max_bytes is not None:  # the -wal is a part of it
            self._most_growth_bytes = min(_MOST_GROWTH_BYTES, max_bytes // 32)

    def fill_up(self) -> bool:
        """
        Allocate what is missing of the reserve, and what a commit may take; False where full.

        That is the most that was taken so far between two calls. A commit that takes no more, or
        fails, leaves the reserve.
        """
        try:
            # SQLite's locks are on the file and its -shm, so that closing this drops none.
            wal = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return True  # nothing was written yet
        try:
            used_bytes = self._used_bytes
            self._read_used(wal)
            growth_bytes = min(self._used_bytes - used_bytes, self._most_growth_bytes)
            self._growth_bytes = max(self._growth_bytes, growth_bytes)
            size = os.fstat(wal).st_size
            wanted = self._used_bytes + self._growth_bytes + RESERVE_BYTES
            if size < wanted:
                os.posix_fallocate(wal, size, wanted - size)
        except OSError:
            return False
        finally:
            os.close(wal)
        return True

    def room_bytes(self) -> int:
        """How much of the -wal is allocated behind the last commit."""
        try:
            wal = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return 0
        try:
            self._read_used(wal)
            return os.fstat(wal).st_size - self._used_bytes
        finally:
            os.close(wal)

    def _read_used(self, wal: int) -> None:
        """
        Find the end of the last commit.

        Frames of this round of the -wal carry the salts of its header; the last of a commit says
        how many pages the database has, the others 0. What was rolled back has no such last one.
        """
        salts = os.pread(wal, 8, 16)
        if salts != self._salts:
            self._salts, self._used_bytes = salts, _HEADER_BYTES
        at = self._used_bytes
        while True:
            header = os.pread(wal, 16, at)
            if len(header) < 16 or header[8:] != salts:
                return
            at += _FRAME_BYTES
            if struct.unpack_from(">I", header, 4)[0]:
                self._used_bytes = at
