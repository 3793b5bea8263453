"""
PATH.lock: who writes a file.

The kernel lets go of the lock when its holder dies, so a lock file that was left behind is no
obstacle. It is beside the file because closing any descriptor of the file itself would drop
SQLite's own locks.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ctk.errors import StoreError, UsageError

_READER_S = 0.05  # a reader that looks whether somebody has the lock has it for microseconds
_ENDS_S = 60.0  # a recorder takes 20 s at most, and what it waits for may be slow


@contextmanager
def locked(
    path: Path,
    *,
    called: Path | None = None,
    doing: str = "recorded to",
    hint: str = "stop that recorder, or record to another file",
) -> Iterator[None]:
    """Hold PATH.lock, or say who does; `doing` is what is done meanwhile to PATH, or `called`."""
    lock = _beside(path)
    while True:
        try:
            held = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            if not path.parent.exists():
                raise UsageError(f"there is no directory {path.parent}") from None
            # /proc is there, and says of each new file that there is none.
            no_entry = isinstance(error, FileNotFoundError)
            why = f"{path.parent} takes no new files" if no_entry else error.strerror
            raise StoreError(
                f"{path} cannot be written: {why}", hint="check who may write there"
            ) from error
        try:
            _take(held)
        except BlockingIOError:
            pid = os.pread(held, 32, 0).decode("ascii", "replace").strip()
            os.close(held)
            raise StoreError(
                f"{called or path} is being {doing}" + (f" by process {pid}" if pid else ""),
                hint=hint,
            ) from None
        try:
            current = lock.stat().st_ino == os.fstat(held).st_ino
        except FileNotFoundError:
            current = False
        if current:
            break
        os.close(held)  # its last holder removed it between our open and our lock
    try:
        os.ftruncate(held, 0)
        os.pwrite(held, f"{os.getpid()}\n".encode(), 0)
    except OSError:
        pass  # a full disk: the lock holds without the number
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
        os.close(held)


def is_written(path: Path) -> bool:
    """Whether a recorder holds PATH.lock."""
    try:
        lock = os.open(_beside(path), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(lock)


def end_recorder(path: Path) -> None:
    """Have the recorder of PATH finish, as Ctrl-C does, and wait until it has; none is no error."""
    until_s = time.monotonic() + _ENDS_S
    if is_written(path):
        _interrupt_holder(path)
    while is_written(path):
        if time.monotonic() > until_s:
            raise StoreError(
                f"{path} is still being recorded to after {_ENDS_S:.0f} s",
                hint="stop that recorder",
            )
        time.sleep(_READER_S)


def _interrupt_holder(path: Path) -> None:
    """
    Send SIGINT to who holds PATH.lock.

    The number in it may be of another PID namespace, where it is another process: 1 is a
    container's recorder inside it and init outside. So the process must have the lock file open.
    """
    from signal import SIGINT  # 1 ms, and readers look at locks

    lock = _beside(path)
    try:
        wanted = lock.stat()
        pid = int(lock.read_text("ascii"))
    except FileNotFoundError:
        return  # it has just ended
    except (OSError, ValueError):
        raise _unreachable(path) from None
    if not _has_open(pid, wanted):
        raise _unreachable(path)
    with suppress(ProcessLookupError):  # it has just ended
        os.kill(pid, SIGINT)


def _has_open(pid: int, wanted: os.stat_result) -> bool:
    try:
        opened = list(Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return False
    for each in opened:
        try:
            found = each.stat()
        except OSError:
            continue  # closed meanwhile
        if (found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino):
            return True
    return False


def _unreachable(path: Path) -> StoreError:
    return StoreError(
        f"{path} is recorded to by a process that cannot be told to finish from here",
        hint="run this where that recorder runs, as the same user",
    )


def _take(lock: int) -> None:
    """Lock at once, or after a reader that looks."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        time.sleep(_READER_S)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.lock")
