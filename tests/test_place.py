"""A file that a command writes: what stood there is replaced by what is whole, or stays."""

import fcntl
import os
import resource
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from kubelets import until

from ctk.render.rotate import RotatingFile

Invoke = Callable[..., Any]
COMMANDS = pytest.mark.parametrize("command", ["export", "report"])


@contextmanager
def no_file_longer_than(most: int) -> Iterator[None]:
    """Let the kernel refuse more, as a disk does that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@COMMANDS
def test_what_is_replaced_is_said_and_new_only_when_it_is_whole(
    invoke: Invoke, shop: Path, tmp_path: Path, command: str
) -> None:
    out = tmp_path / "out"
    out.write_text("older")
    before = sorted(tmp_path.iterdir())
    with no_file_longer_than(100):
        result = invoke(command, shop, "--output", out)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        f"Error: {out} cannot be written: File too large\nTry: check its directory and its disk\n"
    )
    assert (out.read_text(), sorted(tmp_path.iterdir())) == ("older", before)
    result = invoke(command, shop, "--output", out)
    assert result.exit_code == 0
    assert f"{out} was replaced: 5 bytes were there\n" in result.stderr
    assert (out.stat().st_size > 100, sorted(tmp_path.iterdir())) == (True, before)


@COMMANDS
def test_what_a_link_points_to_is_replaced_and_the_link_stays(
    invoke: Invoke, shop: Path, tmp_path: Path, command: str
) -> None:
    link, target = tmp_path / "link", tmp_path / "target"
    link.symlink_to(target)
    for _ in range(2):  # it need not be there yet
        assert invoke(command, shop, "--output", link).exit_code == 0
        assert (link.readlink(), stat.S_IMODE(target.lstat().st_mode)) == (target, 0o600)


@COMMANDS
def test_a_pipe_is_written_and_stays(
    invoke: Invoke, shop: Path, tmp_path: Path, command: str
) -> None:
    pipe, plain, read = tmp_path / "pipe", tmp_path / "plain", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    assert invoke(command, shop, "--output", pipe).exit_code == 0
    reader.join()
    assert pipe.is_fifo()
    invoke(command, shop, "--output", plain)
    if command == "export":  # a report says when it was made
        assert read == [plain.read_bytes()]
    else:
        assert read[0].startswith(b"<!doctype html>")


class Small:
    """A pipe with room for less than an export, its reader, and that export, which waits."""

    def __init__(self, db: Path, folder: Path, *, opened: bool = True) -> None:
        self.path = folder / "small"
        os.mkfifo(self.path)
        self.reader = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK) if opened else None
        if self.reader is not None:
            fcntl.fcntl(self.reader, fcntl.F_SETPIPE_SZ, 4096)
        self.words = ["export", str(db), "--format=otel", f"--output={self.path}", "--cursor=c"]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ctk", *self.words], stderr=subprocess.PIPE, text=True
        )
        until(self._waits, "the export to wait")

    def _waits(self) -> bool:
        at = Path(f"/proc/{self.process.pid}/wchan").read_text()
        return at in ("wait_for_partner", "pipe_write", "anon_pipe_write")

    def ended(self) -> tuple[int, str]:
        """Give its exit code, and what it said."""
        assert self.process.stderr is not None
        with self.process:
            return self.process.wait(20), self.process.stderr.read()


def test_a_pipe_whose_reader_goes_away_ends_it_quietly_and_its_cursor_stays(
    invoke: Invoke, shop: Path, tmp_path: Path
) -> None:
    small = Small(shop, tmp_path)
    assert small.reader is not None
    os.close(small.reader)
    assert small.ended() == (141, "")
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(small.path.read_bytes()))
    reader.start()
    assert invoke(*small.words).exit_code == 0
    reader.join()
    assert read[0].count(b"\n") == 7


def test_ctrl_c_ends_what_waits_for_a_pipe(shop: Path, tmp_path: Path) -> None:
    folders = [tmp_path / "full", tmp_path / "unread"]
    for folder in folders:
        folder.mkdir()
    waiting = [Small(shop, folder, opened=folder == folders[0]) for folder in folders]
    for small in waiting:
        small.process.send_signal(signal.SIGINT)
    assert [small.ended() for small in waiting] == [(130, "\n")] * 2
    assert waiting[0].reader is not None
    os.close(waiting[0].reader)


@pytest.mark.parametrize(
    "words",
    [
        ("export", "DB", "--output", "LONG"),
        ("merge", "DB", "-o", "LONG"),
        ("snapshot", "DB", "LONG"),
        ("query", "LONG"),
        ("merge", "DB", "-o", "LOOP"),
        ("merge", "LOOP", "DB", "-o", "out.db"),
    ],
    ids=" ".join,
)
def test_a_name_that_cannot_be_is_asked_wrongly(
    invoke: Invoke, shop: Path, tmp_path: Path, words: tuple[str, ...]
) -> None:
    loop, long = tmp_path / "loop", tmp_path / ("x" * 300)
    loop.symlink_to(loop)
    places = {"DB": shop, "LONG": long, "LOOP": loop}
    before = sorted(tmp_path.iterdir())
    result = invoke(*(places.get(word, word) for word in words))
    why = "File name too long" if "LONG" in words else "Too many levels of symbolic links"
    name = long.name[:80] if "LONG" in words else loop.name
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == f"Error: {name}: {why}\nTry: name another file\n"
    assert sorted(tmp_path.iterdir()) == before


@COMMANDS
def test_a_device_stays_and_its_failure_is_one_line(
    invoke: Invoke, shop: Path, tmp_path: Path, command: str
) -> None:
    link = tmp_path / "full"
    link.symlink_to("/dev/full")
    result = invoke(command, shop, "--output", link)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        f"Error: {link} cannot be written: No space left on device\n"
        "Try: check its directory and its disk\n"
    )
    assert link.is_symlink()
    assert Path("/dev/full").is_char_device()


@COMMANDS
def test_links_that_go_round_are_an_error(
    invoke: Invoke, shop: Path, tmp_path: Path, command: str
) -> None:
    link = tmp_path / "link"
    link.symlink_to(link)
    result = invoke(command, shop, "--output", link)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == (
        f"Error: {link} cannot be written: Too many levels of symbolic links\n"
        "Try: check its directory\n"
    )
    assert link.is_symlink()


def test_what_is_no_file_is_not_put_aside(invoke: Invoke, shop: Path, tmp_path: Path) -> None:
    link, pipe = tmp_path / "null", tmp_path / "pipe"
    link.symlink_to("/dev/null")
    with RotatingFile(link, max_bytes=2, keep=0) as file:
        for line in (b"a", b"b", b"c"):
            file.write(line)
    assert sorted(tmp_path.iterdir()) == sorted([shop, link])
    os.mkfifo(pipe)
    result = invoke("export", shop, "--output", pipe, "--max-size", "1MiB")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == (
        f"Error: {pipe} cannot be put aside: it is no file\nTry: no --max-size\n"
    )


def test_what_is_no_file_is_not_asked_and_not_recorded_into(invoke: Invoke, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe, 0o644)
    result = invoke("top", pipe)
    assert (result.exit_code, result.stdout, result.stderr) == (
        2,
        "",
        f"Error: {pipe} is no file\nTry: copy what it gives into one\n",
    )
    result = invoke("record", pipe, "--from-capture", "fixtures/captures/demo.ctkcap.gz")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == f"Error: {pipe} is no file\nTry: name one that is, or is to be\n"
    assert list(tmp_path.iterdir()) == [pipe]
    assert stat.S_IMODE(pipe.stat().st_mode) == 0o644


def test_standard_output_without_room_is_one_line(shop: Path) -> None:
    with open("/dev/full", "wb") as full:  # noqa: PTH123
        asked = (sys.executable, "-m", "ctk", "top", shop)
        ended = subprocess.run(asked, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stderr == (
        "Error: standard output cannot be written: No space left on device\n"
        "Try: make room where it goes\n"
    )


def test_a_folder_of_days_without_room_is_one_line_and_no_part_is_left(
    invoke: Invoke, shop: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "days"
    with no_file_longer_than(100):
        result = invoke("export", shop, "--format", "parquet", "--output", f"{folder}/")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        f"Error: {folder} cannot be written: File too large\n"
        "Try: check its directory and its disk\n"
    )
    assert [each for each in folder.rglob("*") if each.is_file()] == []
