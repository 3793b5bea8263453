"""Files of lines that are put aside when they are full, whatever happens meanwhile."""

import gzip
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ctk.errors import StoreError, UsageError
from ctk.render.rotate import RotatingFile


def _aside(path: Path) -> list[Path]:
    """The files of a log, the oldest first."""
    numbered = path.parent.glob(f"{path.name}.*")
    return sorted(
        numbered, key=lambda file: -int(file.name.removeprefix(f"{path.name}.").split(".")[0])
    )


def _text(file: Path) -> bytes:
    return gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()


@settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
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
