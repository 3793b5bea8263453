"""
The sdist and the wheel: the same bytes for the same commit, whoever builds them and where.

The wheel is made from the sdist, so what the sdist lacks no wheel has. Nothing is fetched: the
builder's own setuptools is used, in the version that constraints.txt names.
"""

import gzip
import io
import os
import shutil
import subprocess
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory

from build import ProjectBuilder

import manuals

ROOT = Path(__file__).parent.parent
# All that a wheel is made of. A glance at the whole tree would find what lies about in it.
SOURCE = ("ctk", "migrations", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE")
_EPOCH = 315_532_800  # 1980-01-01: a zip file knows no earlier time


def build(out: Path) -> tuple[Path, Path]:
    """Build both into `out`; return their paths, the sdist's first."""
    out.mkdir(parents=True, exist_ok=True)
    at_s = epoch_s()
    os.environ["SOURCE_DATE_EPOCH"] = str(at_s)  # setuptools gives it to each member of a wheel
    with TemporaryDirectory(prefix="ctk-wheel-") as folder:
        tree, made, unpacked = (Path(folder, name) for name in ("tree", "made", "unpacked"))
        _stage(tree)
        loose = Path(ProjectBuilder(tree, runner=_quietly).build("sdist", made))
        sdist = out / loose.name
        _write_sdist(loose, sdist, at_s)
        unpacked.mkdir()
        subprocess.run(["tar", "-C", unpacked, "-xf", sdist], check=True)
        (source,) = unpacked.iterdir()
        wheel = Path(ProjectBuilder(source, runner=_quietly).build("wheel", out))
    return sdist, wheel


def epoch_s() -> int:
    """Tell the time that everything built gets: SOURCE_DATE_EPOCH, or that of the commit."""
    if given := os.environ.get("SOURCE_DATE_EPOCH"):
        return int(given)
    told = subprocess.run(
        ["git", "-C", ROOT, "log", "-1", "--format=%ct"],
        capture_output=True,
        text=True,
        check=False,
    )
    return int(told.stdout) if told.returncode == 0 else _EPOCH


def _stage(tree: Path) -> None:
    tree.mkdir()
    for name in SOURCE:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, tree / name)
    manuals.write(tree / "share")


def _write_sdist(loose: Path, sdist: Path, at_s: int) -> None:
    """Write the archive anew: sorted, owned by nobody in particular, of one time."""
    packed = io.BytesIO()
    with (
        tarfile.open(loose) as source,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as target,
    ):
        for member in sorted(source.getmembers(), key=lambda each: each.name):
            member.mtime, member.uid, member.gid = at_s, 0, 0
            member.uname = member.gname = ""
            member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
            member.pax_headers = {}
            target.addfile(member, source.extractfile(member) if member.isfile() else None)
    with sdist.open("wb") as out, gzip.GzipFile("", "wb", fileobj=out, mtime=at_s) as zipped:
        zipped.write(packed.getvalue())


def _quietly(
    command: list[str] | tuple[str, ...],
    cwd: str | None = None,
    extra_environ: dict[str, str] | None = None,
) -> None:
    done = subprocess.run(
        command,
        cwd=cwd,
        env=os.environ | (extra_environ or {}),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{done.stdout}{done.stderr}")
