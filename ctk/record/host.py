"""What a recorder asks of the host it runs on, and of the C library."""

import atexit
import ctypes
import gc
import time
from pathlib import Path

_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8  # malloc.h
_LARGE_BYTES = 128 << 10


def give_memory_back() -> None:
    """
    Let glibc return large blocks to the system as soon as they are free.

    By itself it keeps up to twice the largest one for later, in each of its arenas: 30 MB after a
    flood of 250,000 connections.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
        mallopt(_M_ARENA_MAX, 1)


def end_without_collecting() -> None:
    """
    Let Python look for no cycles when the process ends.

    It does so twice, through all that a recorder knows: 0.2 s after a flood, with 10,000 pods.
    """
    atexit.register(gc.freeze)


def clock_offset_ns() -> int:
    return time.time_ns() - time.monotonic_ns()


def boot_id() -> str | None:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return None


def size_of(db: Path) -> int:
    """Return how many bytes a database and its -wal have."""
    total = 0
    for path in (db, Path(f"{db}-wal")):
        try:
            total += path.stat().st_size
        except OSError:
            continue
    return total
