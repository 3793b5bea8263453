"""What is released, built once for all tests of it, and a Debian without Python."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import dist
import pytest

import onefile

ROOT = Path(__file__).parents[2]
# What a shell and `kubectl cp` need. No Python.
PACKAGES = ("bash", "coreutils", "dash", "findutils", "grep", "tar")


@pytest.fixture(scope="session")
def released(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Build all that `make dist` builds."""
    if lacking := onefile.missing():
        refuse = pytest.fail if os.environ.get("CTK_LIVE") == "required" else pytest.skip
        refuse(f"the one file can't be built here: no {', '.join(lacking)}")
    made = dist.build(tmp_path_factory.mktemp("dist"))
    return SimpleNamespace(
        **dict(
            zip(("sdist", "wheel", "wheel_contents", "file", "file_contents"), made, strict=True)
        )
    )


@pytest.fixture(scope="session")
def installed(released: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel into an empty environment, as a person does; give the environment."""
    venv = tmp_path_factory.mktemp("installed") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    pip = [sys.executable, "-m", "pip", "--python", venv / "bin" / "python", "install", "--quiet"]
    rest = ["--no-compile", "--constraint", ROOT / "constraints.txt", released.wheel]
    subprocess.run([*pip, *rest], check=True, capture_output=True, text=True, timeout=300)
    return venv


@pytest.fixture(scope="session")
def debian(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """
    Unpack a minimal Debian, which nothing in it was run to configure.

    debootstrap makes the same in a minute and a half, and most of that is configuring.
    """
    folder = tmp_path_factory.mktemp("debian")
    archives, root, empty = folder / "archives", folder / "root", folder / "status"
    (archives / "partial").mkdir(parents=True)
    empty.touch()
    options = {
        "APT::Install-Recommends": "false",
        "APT::Sandbox::User": "root",
        "Debug::NoLocking": "true",
        "Dir::Cache::archives": archives,
        "Dir::State::status": empty,  # nothing is installed
    }
    chosen = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    apt = ["apt-get", "-qq", "-y", *chosen, "install", "--download-only", *PACKAGES]
    subprocess.run(apt, check=True, capture_output=True, text=True, timeout=200)
    for archive in sorted(archives.glob("*.deb")):
        subprocess.run(["dpkg-deb", "--extract", archive, root], check=True)
        archive.unlink()
    assert not [*root.rglob("python3*")]
    return root
