"""What is released, built once for all tests of it, and a Debian without Python."""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parents[2]
# What a shell and `kubectl cp` need. No Python.
PACKAGES = ("bash", "coreutils", "dash", "findutils", "grep", "tar")
PARTS = ("sdist", "wheel", "wheel_contents", "file", "file_contents")


@contextmanager
def made_once(path: Path, make: Callable[[Path], object]) -> Iterator[Path]:
    """Give a folder that `make` has filled, here or in another process; hold it meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        if not path.exists():
            with TemporaryDirectory(dir=path.parent) as folder:
                made = Path(folder, "made")
                made.mkdir()
                make(made)
                made.rename(path)
        yield path


@pytest.fixture(scope="session")
def released(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Build all that `make dist` builds, once for all processes that run tests."""
    import dist  # what it imports takes a second, which each worker would where it only collects

    import onefile

    if lacking := onefile.missing():
        refuse = pytest.fail if os.environ.get("CTK_LIVE") == "required" else pytest.skip
        refuse(f"the one file can't be built here: no {', '.join(lacking)}")
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # of all workers of this run

    def build(out: Path) -> None:
        names = [path.name for path in dist.build(out)]
        (out / "names").write_text("\n".join(names))

    with made_once(folder / "dist", build) as out:
        names = (out / "names").read_text().splitlines()
    return SimpleNamespace(**{part: out / name for part, name in zip(PARTS, names, strict=True)})


class Pipx:
    """pipx with a home of its own, empty, and the libraries' versions that were tested."""

    def __init__(self, home: Path) -> None:
        self.home = home
        names = ("HOME", "BIN_DIR", "MAN_DIR")
        self._environment = {
            **{f"PIPX_{name}": str(home / name.lower()) for name in names},
            "HOME": str(home),
        }

    def run(self, verb: str, *words: object) -> str:
        pip = f"--no-compile --constraint {ROOT / 'constraints.txt'}"
        done = subprocess.run(
            [sys.executable, "-m", "pipx", verb, "--pip-args", pip, *map(str, words)],
            env=os.environ | self._environment,
            capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="session")
def pipx(tmp_path_factory: pytest.TempPathFactory) -> Pipx:
    return Pipx(tmp_path_factory.mktemp("pipx"))


@pytest.fixture(scope="session")
def installed(released: SimpleNamespace, pipx: Pipx) -> Path:
    """Install the wheel into an empty environment, as a person does; give that."""
    pipx.run("install", released.wheel)
    return pipx.home / "home" / "venvs" / "ctk"


@pytest.fixture(scope="session")
def debian(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """
    Unpack a minimal Debian, which nothing in it was run to configure.

    debootstrap makes the same in a minute and a half, and most of that is configuring. It is kept
    in build/ for as long as Debian has the same packages.
    """
    root = tmp_path_factory.mktemp("debian") / "root"
    with TemporaryDirectory() as folder:
        archives = Path(folder)
        (archives / "partial").mkdir()
        (archives / "status").touch()

        def unpack(root: Path) -> None:
            _apt(archives, "--download-only")
            for archive in sorted(archives.glob("*.deb")):
                subprocess.run(["dpkg-deb", "--extract", archive, root], check=True)

        name = hashlib.sha256(_apt(archives, "--print-uris").encode()).hexdigest()[:12]
        with made_once(ROOT / "build" / "tools" / f"debian-{name}", unpack) as kept:
            shutil.copytree(kept, root, symlinks=True)
    assert not [*root.rglob("python3*")]
    return root


def _apt(archives: Path, *how: str) -> str:
    """
    Ask apt to install the packages as if nothing was installed.

    Of one folder, it reads what Debian has once: 2 s.
    """
    options = {
        "APT::Install-Recommends": "false",
        "APT::Sandbox::User": "root",
        "Debug::NoLocking": "true",
        "Dir::Cache::archives": archives,
        "Dir::Cache::pkgcache": archives / "pkgcache.bin",
        "Dir::State::status": archives / "status",  # nothing is installed
    }
    chosen = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    apt = ["apt-get", "-qq", "-y", *chosen, "install", *how, *PACKAGES]
    return subprocess.run(apt, check=True, capture_output=True, text=True, timeout=200).stdout
