"""What several test files share: the command line, called in process, and a small file to ask."""

import ctypes
import gc
import os
import pty
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from shutil import copy2, disk_usage
from typing import Any

import pytest
from click.testing import CliRunner, Result
from edges import with_ids
from hypothesis import HealthCheck, settings
from sample import AT, GAPS, ROWS

from ctk.cli import DEFECT, main
from ctk.model import EventCounts
from ctk.store import connect
from ctk.store.write import Writer
from ctk.timespan import SECOND

with connect._hidden("pandas", "numpy"):  # as a recorder does: else a second, in each worker
    import sqlite_utils  # noqa: F401

Invoke = Callable[..., Result]

# Times for people are those of the local zone.
os.environ["TZ"] = "UTC"
time.tzset()

# What the allocator gives back it asks for again: of 1,400,000 page faults three in four, a tenth
# of the time of some tests. (M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD of <malloc.h>.)
if hasattr(libc := ctypes.CDLL(None), "mallopt"):
    for option, size in ((-1, 256 << 20), (-2, 16 << 20), (-3, 32 << 20)):
        libc.mallopt(option, size)

PRIORITY = os.getpriority(os.PRIO_PROCESS, 0)

# Files that a crash of the machine may take need no disk: without its syncs, and the kernel's work
# for them, tests take a fifth less CPU and a third less time. A run leaves 60 MB for a look at it.
MEMORY = Path("/dev/shm")
if MEMORY.is_dir() and disk_usage(MEMORY).free > 4 << 30:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))

# Tests run beside others, so what takes long tells nothing of the code. Drawn examples are few, and
# the same in each run: what fails, fails for a change. New ones, and more of them, are drawn with
# `pytest --hypothesis-profile explore`.
settings.register_profile(
    "ctk",
    max_examples=25,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.register_profile(
    "explore", settings.get_profile("ctk"), derandomize=False, max_examples=2000
)
settings.load_profile("ctk")


def pytest_addoption(parser: pytest.Parser) -> None:
    text = "how often an export is killed and gone on with"
    parser.addoption("--kills", type=int, default=4, help=text)


# Live tests that want all of both cores, or what comes of them in time: one after another, the
# floods first.
BUSY = (
    "test_live_floods.py",
    "test_loss.py",
    "test_live_readers.py",
    "test_live_pressure.py",
    "test_restart.py",
    "test_live_record.py",
    "test_live_counting.py",
    "test_dumps.py",  # all namespaces share one hash table: beside a flood a dump takes too long
    "test_live_merge.py",
)
# The others mostly wait, and go beside them. By the time of the last no flood is left.
LAST = "test_live_churn.py"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> object:
    """
    Give the live tests to two workers, and each other file to the next that is free.

    Two of the busy ones at a time would be four processes that want two cores, where what a
    recorder keeps up with is tested. What a file's tests share is made once, and the controller
    has 130 things to hand out, not 2,600.
    (`--dist loadgroup` of 3.8 groups nothing with pytest 9.2.)
    """
    from xdist.scheduler import LoadScopeScheduling

    class LiveApart(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            if nodeid.startswith("tests/release/"):
                return "release"  # what is released is built once
            file = nodeid.partition("::")[0]
            if file.startswith("tests/live/"):
                return "busy" if file.rpartition("/")[2] in BUSY else "waiting"
            return file

    config.option.loadscopereorder = False  # what takes longest comes first as it is
    return LiveApart(config, log)


def pytest_collection(session: pytest.Session) -> None:
    """
    Let each worker import another part of the tests first, and so compile it for all.

    Else, in a new checkout, each compiles all of them, at the same time: 12 s of CPU, not 4.
    """
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker is None or session.config.args_source is not pytest.Config.ArgsSource.TESTPATHS:
        return
    files = sorted(Path(__file__).parent.glob("test_*.py"))
    for path in files[int(worker[2:]) :: int(os.environ["PYTEST_XDIST_WORKER_COUNT"])]:
        with suppress(Exception):  # collecting meets it again, and tells it
            import_module(path.stem)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the live tests, then those in folders: nothing that takes long is left over."""

    def turn(item: pytest.Item) -> tuple[bool, bool, int]:
        name = item.path.name
        at = BUSY.index(name) if name in BUSY else 0
        return "tests/live/" not in item.nodeid, name == LAST, at

    items.sort(key=turn)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Let live tests go first: where they run, we are root and may take priority back."""
    if os.geteuid() == 0 and "PYTEST_XDIST_WORKER" in os.environ:
        less = 0 if item.get_closest_marker("live") else 10
        os.setpriority(os.PRIO_PROCESS, 0, PRIORITY + less)  # and of what is started from now on


def pytest_collection_finish() -> None:
    """Keep the garbage collector off what is there until the end: 600,000 objects by now."""
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def reachable(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Let other users into the tests' folders, for tests of what they may and may not do."""
    base = tmp_path_factory.getbasetemp()
    for folder in (base, *base.parents):
        if folder.name.startswith(("pytest-", "popen-")):  # and not the system's
            folder.chmod(folder.stat().st_mode | 0o011)


@pytest.fixture(scope="session")
def shop_made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `shop` is a copy of: to make it takes longer than most tests that ask it."""
    path = tmp_path_factory.mktemp("shop") / "shop.db"
    with connect.writer(path) as conn:
        writer = Writer(conn, node="n1", source="kernel", settings={}, started_ns=AT, boot_id=None)
        end_ns = AT + 70 * SECOND
        writer.window(
            with_ids(writer, ROWS), gaps=GAPS, committed_ns=end_ns, counters=EventCounts(40, 1_204)
        )
        for _ in writer.maintain(end_ns, {}):
            pass
        for _ in writer.fold_open():
            pass
        writer.finish(end_ns)
    return path


@pytest.fixture
def shop(shop_made: Path, tmp_path: Path) -> Path:
    """A file of seven flows on node n1, two gaps among them."""
    return Path(copy2(shop_made, tmp_path))


@pytest.fixture(scope="session")
def invoke() -> Invoke:
    """Call `ctk` with these words; what it shows as a defect of its own fails the test."""

    def run(*words: object) -> Result:
        result = CliRunner().invoke(main, [str(word) for word in words], prog_name="ctk")
        assert result.exit_code != DEFECT, result.stderr
        return result

    return run


@pytest.fixture(scope="session")
def on_a_terminal() -> Callable[..., list[str]]:
    """Run ctk with a terminal for its output, and give the lines that were shown."""

    def run(*words: object, columns: int = 200) -> list[str]:
        shown, terminal = pty.openpty()
        with subprocess.Popen(
            [sys.executable, "-m", "ctk", *map(str, words)],
            stdout=terminal,
            stderr=terminal,
            env=os.environ | {"COLUMNS": str(columns), "CTK_PAGER": "", "NO_COLOR": "1"},
        ):
            os.close(terminal)
            text = b""
            with suppress(OSError), os.fdopen(shown, "rb", buffering=0) as file:  # ends with EIO
                while some := file.read(1 << 16):
                    text += some
        return text.decode().splitlines()

    return run


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the sizes of what is released, which its tests have found."""
    passed = terminalreporter.stats.get("passed", ())
    found = [value for each in passed for name, value in each.user_properties if name == "size"]
    for size in dict.fromkeys(found):
        terminalreporter.write_line(f"size: {size}")
