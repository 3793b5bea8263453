"""Files of lines that are put aside when they are full, whatever happens meanwhile."""

import gzip
import random
import resource
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import Result
from hypothesis import given
from hypothesis import strategies as st

from ctk.errors import StoreError, UsageError
from ctk.render.compress import Compression, Packer, lines_in
from ctk.render.rotate import RotatingFile


def _aside(path: Path) -> list[Path]:
    """The files of a log, the oldest first."""
    numbered = path.parent.glob(f"{path.name}.*")
    return sorted(
        numbered, key=lambda file: -int(file.name.removeprefix(f"{path.name}.").split(".")[0])
    )


def _unpacked(file: Path) -> bytes:
    if file.suffix == ".gz":
        return gzip.decompress(file.read_bytes())
    from backports import zstd

    return zstd.decompress(file.read_bytes())


def _text(file: Path) -> bytes:
    return gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()


@given(
    lines=st.lists(st.binary(max_size=30).map(lambda line: line.replace(b"\n", b"")), max_size=40),
    max_bytes=st.integers(1, 100),
    compress=st.booleans(),
    runs=st.integers(1, 3),
)
def test_every_line_is_whole_and_in_order_in_one_file_or_another(
    tmp_path_factory: pytest.TempPathFactory,
    lines: list[bytes],
    max_bytes: int,
    compress: bool,
    runs: int,
) -> None:
    path = tmp_path_factory.mktemp("log") / "flows.log"
    for run in range(runs):
        with RotatingFile(path, max_bytes=max_bytes, keep=1000, compress=compress) as file:
            for line in lines[run::runs]:
                file.write(line)
    files = [*_aside(path), path]
    written = [line for run in range(runs) for line in lines[run::runs]]
    assert b"".join(map(_text, files)) == b"".join(line + b"\n" for line in written)
    for file in files:
        text = _text(file)
        assert len(text) <= max_bytes or text.count(b"\n") == 1
    assert not compress or all(file.suffix == ".gz" for file in files[:-1])


def test_only_so_many_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "flows.log"
    with RotatingFile(path, max_bytes=2, keep=2) as file:
        for line in (b"a", b"b", b"c", b"d"):
            file.write(line)
    assert [(file.name, file.read_bytes()) for file in (*_aside(path), path)] == [
        ("flows.log.2", b"b\n"),
        ("flows.log.1", b"c\n"),
        ("flows.log", b"d\n"),
    ]


def test_all_are_kept_where_nobody_says_how_many(tmp_path: Path) -> None:
    path = tmp_path / "flows.log"
    removed: list[int] = []
    with RotatingFile(path, max_bytes=2, on_removed=removed.append) as file:
        file.write_lines([b"%d\n" % number for number in range(9)])
        assert file.lines == 9
    assert [file.read_bytes() for file in (*_aside(path), path)] == [
        b"%d\n" % number for number in range(9)
    ]
    assert removed == []


@pytest.mark.parametrize(("keep", "removed"), [(0, [2, 2, 2]), (1, [2, 2]), (3, [])])
def test_what_goes_is_counted_in_lines_without_the_header(
    tmp_path: Path, keep: int, removed: list[int]
) -> None:
    told: list[int] = []
    with RotatingFile(
        tmp_path / "flows.csv", max_bytes=6, keep=keep, header=b"h\n", on_removed=told.append
    ) as file:
        file.write_lines([b"1\n"] * 7)
    assert told == removed


def test_an_old_file_is_put_aside_an_empty_one_stays(tmp_path: Path) -> None:
    path = tmp_path / "flows.log"
    at_s = [1_000.0]
    with RotatingFile(path, max_age_s=60, header=b"h\n", clock=lambda: at_s[0]) as file:
        for passed_s, line in ((0, b"a"), (59, b"b"), (60, b"c")):
            at_s[0] = 1_000.0 + passed_s
            file.write(line)
        assert file.began_s == 1_060
        at_s[0] = 1_120
        file.flush()  # nothing comes, and its time is over
        at_s[0] = 9_000
        file.flush()
    assert contents(path) == {
        "flows.log.2": b"h\na\nb\n",
        "flows.log.1": b"h\nc\n",
        "flows.log": b"h\n",
    }


def test_a_file_goes_on_as_old_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "flows.log"
    with RotatingFile(path, max_age_s=60, clock=lambda: 1_000.0) as file:
        file.write(b"a")
    with RotatingFile(path, max_age_s=60, began_s=1_000.0, clock=lambda: 1_061.0) as file:
        file.write(b"b")
    assert contents(path) == {"flows.log.1": b"a\n", "flows.log": b"b\n"}


def test_nobody_sees_what_is_not_whole(tmp_path: Path) -> None:
    path = tmp_path / "flows.log"
    path.write_bytes(b"before\n")
    path.chmod(0o640)
    for finishes in (False, True):
        with RotatingFile(path, whole=True, start_bytes=0) as file:
            file.write(b"a")
            assert path.read_bytes() == b"before\n"
            if finishes:
                file.finish()
            else:
                file.give_up()
    assert contents(path) == {"flows.log": b"a\n"}
    assert path.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_what_is_compressed_while_it_is_written_is_whole_after_each_flush(
    tmp_path: Path, compression: Compression
) -> None:
    suffix = {"gzip": ".gz", "zstd": ".zst"}[compression]
    path = tmp_path / f"flows.log{suffix}"
    noise = random.Random(0)
    written = [b"%d %s\n" % (n, noise.randbytes(9).hex().encode()) for n in range(400)]
    with RotatingFile(path, max_bytes=2_000, packer=Packer(compression, 2_000)) as file:
        for at in range(0, 400, 50):
            file.write_lines(written[at : at + 50])
            file.flush()
            assert file.lines == at + 50
            assert path.stat().st_size <= 2_000
            assert lines_in(path) > 0
    aside = sorted(tmp_path.glob("flows.log.*.*"), key=lambda each: -int(each.name.split(".")[2]))
    assert len(aside) == 2
    texts = [_unpacked(each) for each in (*aside, path)]
    assert b"".join(texts) == b"".join(written)


def test_none_need_be_kept(tmp_path: Path) -> None:
    path = tmp_path / "flows.log"
    with RotatingFile(path, max_bytes=2, keep=0) as file:
        file.write(b"a")
        file.write(b"b")
    assert (path.read_bytes(), _aside(path)) == (b"b\n", [])


def test_what_a_crash_left_uncompressed_moves_on_too(tmp_path: Path) -> None:
    path = tmp_path / "flows.log"
    (tmp_path / "flows.log.1").write_bytes(b"old\n")
    with RotatingFile(path, max_bytes=4, compress=True) as file:
        file.write(b"abc")
        file.write(b"def")
    assert [(file.name, _text(file)) for file in _aside(path)] == [
        ("flows.log.2", b"old\n"),
        ("flows.log.1.gz", b"abc\n"),
    ]


def test_a_line_is_there_as_soon_as_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "flows.log"
    with RotatingFile(path) as file:
        file.write(b"abc")
        assert path.read_bytes() == b"abc\n"


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("mode", [0o600, 0o640])
def test_it_is_its_owners_alone_until_he_says_otherwise(
    tmp_path: Path, mode: int, compress: bool
) -> None:
    path = tmp_path / "flows.log"
    with RotatingFile(path, max_bytes=10, compress=compress) as file:
        assert path.stat().st_mode & 0o777 == 0o600
        path.chmod(mode)
        for line in (b"one", b"another", b"third"):
            file.write(line)
    assert {file.stat().st_mode & 0o777 for file in tmp_path.iterdir()} == {mode}


def test_a_header_begins_every_file(tmp_path: Path) -> None:
    path = tmp_path / "flows.csv"
    with RotatingFile(path, max_bytes=8, header=b"h\n") as file:
        for line in (b"abc", b"de", b"fgh"):
            file.write(line)
    assert [file.read_bytes() for file in (*_aside(path), path)] == [
        b"h\nabc\n",
        b"h\nde\n",
        b"h\nfgh\n",
    ]


def test_a_directory_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / "flows.log"
    with pytest.raises(UsageError, match="cannot be written: No such file or directory"):
        RotatingFile(path)


def test_a_disk_that_is_full_is_an_error() -> None:
    with RotatingFile(Path("/dev/full")) as file, pytest.raises(StoreError, match="No space left"):
        file.write(b"abc")


@contextmanager
def limit(resource_number: int, most: int) -> Iterator[None]:
    """Let the kernel refuse this process more than `most`."""
    before = resource.getrlimit(resource_number)
    resource.setrlimit(resource_number, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource_number, before)


def refused(file: RotatingFile, line: bytes) -> str:
    with pytest.raises(StoreError) as raised:
        file.write(line)
    assert raised.value.exit_code == 1
    return raised.value.message


def contents(path: Path) -> dict[str, bytes]:
    return {file.name: _text(file) for file in path.parent.iterdir() if file.is_file()}


def test_what_cannot_be_put_aside_stays_and_is_when_it_can(tmp_path: Path) -> None:
    path, in_its_place = tmp_path / "flows.log", tmp_path / "flows.log.1"
    in_its_place.mkdir()
    with RotatingFile(path, max_bytes=2) as file:
        file.write(b"a")
        message = f"{path} cannot be put aside: flows.log.1: Is a directory"
        assert [refused(file, b"b") for _ in range(2)] == [message] * 2
        assert contents(path) == {"flows.log": b"a\n"}
        in_its_place.rmdir()
        file.write(b"c")
    assert contents(path) == {"flows.log.1": b"a\n", "flows.log": b"c\n"}


def test_an_attempt_that_fails_costs_none_of_the_files_that_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "flows.log"
    (tmp_path / "flows.log.3").mkdir()
    with RotatingFile(path, max_bytes=2, keep=3) as file:
        for line in (b"a", b"b", b"c"):
            file.write(line)
        for _ in range(3):
            assert refused(file, b"d").endswith("cannot be put aside: flows.log.3: Is a directory")
        (tmp_path / "flows.log.3").rmdir()
        file.write(b"e")
    assert contents(path) == {
        "flows.log.3": b"a\n",
        "flows.log.2": b"b\n",
        "flows.log.1": b"c\n",
        "flows.log": b"e\n",
    }


def test_what_cannot_be_opened_after_it_was_put_aside_is_when_it_can(tmp_path: Path) -> None:
    path = tmp_path / "flows.log"
    with RotatingFile(path, max_bytes=2, header=b"h\n") as file:
        path.chmod(0o640)
        file.write(b"a")
        with limit(resource.RLIMIT_NOFILE, 0):
            message = f"{path} cannot be written: Too many open files"
            assert [refused(file, b"b") for _ in range(2)] == [message] * 2
        file.write(b"c")
    assert contents(path) == {"flows.log.1": b"h\na\n", "flows.log": b"h\nc\n"}
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_directory_that_took_its_place_is_an_error_until_it_goes(tmp_path: Path) -> None:
    path = tmp_path / "flows.log"
    with RotatingFile(path, max_bytes=2) as file:
        file.write(b"a")
        path.rename(tmp_path / "elsewhere")
        path.mkdir()
        message = f"{path} cannot be written: Is a directory"
        assert [refused(file, b"b") for _ in range(2)] == [message] * 2
        path.rmdir()
        file.write(b"c")
    assert contents(path) == {"elsewhere": b"a\n", "flows.log": b"c\n"}


def test_what_another_program_put_aside_is_not_put_aside_again(tmp_path: Path) -> None:
    path = tmp_path / "flows.log"
    with RotatingFile(path, max_bytes=4) as file:
        file.write(b"abc")
        path.rename(tmp_path / "theirs")
        path.write_bytes(b"x\n")
        file.write(b"d")
    assert contents(path) == {"theirs": b"abc\n", "flows.log": b"x\nd\n"}


@pytest.mark.parametrize(("made", "mode"), [(None, 0o640), (0o644, 0o644)])
def test_it_is_opened_anew_for_who_renamed_it(tmp_path: Path, made: int | None, mode: int) -> None:
    path = tmp_path / "flows.log"
    with RotatingFile(path, header=b"h\n") as file:
        path.chmod(0o640)
        file.write(b"a")
        path.rename(tmp_path / "theirs")
        file.write(b"b")
        if made is not None:
            path.touch(made)
            path.chmod(made)
        file.reopen()
        file.write(b"c")
    assert contents(path) == {"theirs": b"h\na\nb\n", "flows.log": b"h\nc\n"}
    assert path.stat().st_mode & 0o777 == mode


def test_a_partial_line_is_taken_back(tmp_path: Path) -> None:
    path = tmp_path / "flows.log"
    with RotatingFile(path) as file:
        file.write(b"abc")
        with limit(resource.RLIMIT_FSIZE, 6):
            assert refused(file, b"defgh") == f"{path} cannot be written: File too large"
        file.write(b"ij")
    assert contents(path) == {"flows.log": b"abc\nij\n"}


def compressions() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("compress ")]


def put_a_full_one_aside(file: RotatingFile, room: int) -> None:
    """Put 2,000 bytes aside that no compression makes smaller, for a file of at most `room`."""
    noise = random.Random(0)
    while file.size + 301 < 2_000:
        file.write(noise.randbytes(300).replace(b"\n", b""))
    with limit(resource.RLIMIT_FSIZE, room):
        file.write(b"x" * 400)
        for thread in compressions():
            thread.join()


def test_a_compression_that_fails_is_told_once_and_the_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "flows.log"
    told: list[str] = []
    with RotatingFile(path, max_bytes=2_000, compress=True, note=told.append) as file:
        for room in (1_000, 1_000, 10_000, 1_000):
            put_a_full_one_aside(file, room)
    message = f"{path}.1 cannot be compressed: File too large: it stays uncompressed"
    assert told == [message, message]
    assert sorted(contents(path)) == [
        "flows.log",
        "flows.log.1",
        "flows.log.2.gz",
        "flows.log.3",
        "flows.log.4",
    ]


def test_a_compression_that_fails_is_an_error_where_nobody_is_told(tmp_path: Path) -> None:
    path = tmp_path / "flows.log"
    message = f"{path}.1 cannot be compressed: File too large"
    with pytest.raises(StoreError, match=message) as raised:  # noqa: SIM117
        with RotatingFile(path, max_bytes=2_000, compress=True) as file:
            put_a_full_one_aside(file, 1_000)
    assert raised.value.exit_code == 1
    assert sorted(contents(path)) == ["flows.log", "flows.log.1"]


def test_a_compression_that_takes_too_long_is_given_up(tmp_path: Path) -> None:
    path = tmp_path / "flows.log"
    line = random.Random(0).randbytes(64 << 20).replace(b"\n", b"")
    with RotatingFile(path, max_bytes=1, compress=True) as file:
        file.write(line)
        file.write(b"next")
        file.close(wait_s=0)
    assert sorted(contents(path)) == ["flows.log", "flows.log.1"]
    assert compressions() == []


def test_an_export_that_cannot_put_its_file_aside_is_one_error_and_exit_1(
    invoke: Callable[..., Result], shop: Path, tmp_path: Path
) -> None:
    out = tmp_path / "flows.csv"
    (tmp_path / "flows.csv.1").mkdir()
    result = invoke("export", shop, "--format", "csv", "--output", out, "--max-size", "1K")
    assert (result.exit_code, result.stdout, result.stderr) == (
        1,
        "",
        f"Error: {out} cannot be put aside: flows.csv.1: Is a directory\n"
        "Try: check its directory and its disk\n",
    )
