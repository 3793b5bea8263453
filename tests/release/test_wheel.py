"""The wheel and the sdist: whole, installed as a person installs them, and the same each time."""

import json
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

from ctk import __version__
from ctk.cli import COMMANDS

ROOT = Path(__file__).parents[2]


def test_two_builds_are_the_same_bytes(released, tmp_path):
    import distributions

    again = distributions.build(tmp_path)
    assert [path.name for path in again] == [released.sdist.name, released.wheel.name]
    assert [path.read_bytes() for path in again] == [
        released.sdist.read_bytes(),
        released.wheel.read_bytes(),
    ]


def test_the_wheel_has_all_that_the_checkout_has(released):
    with zipfile.ZipFile(released.wheel) as archive:
        inside = set(archive.namelist())
    tracked = subprocess.run(
        ["git", "-C", ROOT, "ls-files", "ctk", "migrations"],
        check=True, capture_output=True, text=True,
    ).stdout.split()  # fmt: skip
    wanted = {name if name.startswith("ctk/") else f"ctk/{name}" for name in tracked}
    assert wanted - inside == set()
    share = f"ctk-{__version__}.data/data/share"
    pages = {f"{share}/man/man1/ctk{name}.1" for name in ("", *(f"-{each}" for each in COMMANDS))}
    assert pages - inside == set()


def test_the_sdist_names_nobody_and_one_time(released):
    import distributions

    with tarfile.open(released.sdist) as archive:
        members = archive.getmembers()
    assert {(each.uid, each.gid, each.uname, each.gname) for each in members} == {(0, 0, "", "")}
    assert {each.mtime for each in members} == {distributions.epoch_s()}
    assert [each.name for each in members] == sorted(each.name for each in members)


@pytest.mark.parametrize("contents", ["wheel_contents", "file_contents"])
def test_what_is_in_it_is_said_in_cyclonedx(released, contents):
    # It compiles grammars: 5 s, which each worker would take where it only collects.
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    text = getattr(released, contents).read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    told = json.loads(text)
    names = {each["name"] for each in told["components"]}
    assert told["metadata"]["component"]["version"] == __version__
    assert {"kubernetes", "pyroute2", "orjson"} <= names
    assert ("libc.so.6" in names, "aiohttp" in names) == (
        (False, True) if contents == "wheel_contents" else (True, False)
    )


def test_the_wheel_in_an_empty_environment_passes_the_demo(installed, pipx, tmp_path):
    ctk = str(installed / "bin" / "ctk")
    kube = ROOT / "fixtures" / "kube"
    parts = ("pods.page1", "pods.page2", "services", "endpointslices", "nodes")
    names = [word for part in parts for word in ("--objects", kube / f"{part}.json")]
    capture = ROOT / "fixtures" / "captures" / "demo.ctkcap.gz"

    def run(*words: object) -> str:
        done = subprocess.run(
            [ctk, *map(str, words)], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("record", "demo.db", "--from-capture", capture, *names)
    readme = (ROOT / "README.md").read_text()
    asked = "$ ctk top demo.db --limit 8\n"
    assert asked + run("top", "demo.db", "--limit", 8) + "```" in readme
    run("report", "demo.db", "--output", "demo.html")
    assert "uPlot" in (tmp_path / "demo.html").read_text()  # the page's vendored files
    linked = {each.name for each in (pipx.home / "bin_dir").iterdir()}
    assert linked == {"ctk", "kubectl-ctk"}
    assert (pipx.home / "man_dir" / "man1" / "ctk-top.1").exists()
    script = installed / "share" / "bash-completion" / "completions" / "ctk"
    assert script.read_text().strip() == run("completion", "bash").strip()
    assert (installed / "share" / "man" / "man1" / "ctk-top.1").exists()
    assert run("--version") == f"ctk {__version__}\n"


def test_pipx_runs_it_without_an_installation(released, pipx):
    assert pipx.run("run", "--spec", released.wheel, "ctk", "--version") == f"ctk {__version__}\n"
