"""
The one file: ctk, its libraries, CPython and every shared library that these need, the C library
and its loader among them, so that it runs on any Linux of its machine's kind.

The libraries are those of the environment that builds it, as constraints.txt names them; ctk
itself is the wheel's. What is left out is named here, with the reason.
"""

import hashlib
import importlib.util
import io
import marshal
import os
import platform
import re
import shutil
import subprocess
import sysconfig
import tarfile
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from gzip import GzipFile
from pathlib import Path
from tempfile import TemporaryDirectory

import sbom

HERE = Path(__file__).parent
# pyarrow alone would double it, and chDB make it five times as large.
EXTRAS = frozenset({"fleet", "metrics", "serve", "zstd"})
# ctk reads kubeconfigs and asks for JSON itself: of `kubernetes` it uses neither the asynchronous
# client, which alone asks for aiohttp, nor the generated models and calls. sqlite-utils asks for
# pip to install plugins, pydantic for tzdata where a system has none.
NO_DISTRIBUTIONS = frozenset(
    {
        *("aiohappyeyeballs", "aiohttp", "aiohttp-retry", "aiosignal", "attrs", "frozenlist"),
        *("multidict", "propcache", "yarl", "tzdata", "pip"),
    }
)
NO_FILES = re.compile(
    r"^kubernetes/(aio/|client/(models|api)/(?!__init__))"
    r"|^pyroute2/(dhcp|decoder|nftables|fixtures|wirouting)/"
    r"|(^|/)tests?/|_test\.py$"
    r"|\.(pyi|pyx|pxd|c|h|typed)$"
    r"|\.dist-info/(RECORD|INSTALLER|REQUESTED|direct_url\.json|WHEEL|top_level\.txt)$"
)
NO_STDLIB = re.compile(
    r"(test|idlelib|tkinter|turtledemo|lib2to3|ensurepip|distutils|pydoc_data|site-packages|venv"
    r"|lib-dynload|config-[^/]*|__pycache__|dbm|xmlrpc)(/|$)"
    r"|.*/(tests?|__pycache__)/"
    # Of encodings, those of UTF, of host names and of archives.
    r"|encodings/(?!__init__|aliases|ascii|charmap|cp437|idna|latin_1|punycode|utf)"
    r"|(turtle|antigravity|this|__hello__|doctest|idle|smtpd|nntplib|telnetlib|_pydecimal|pickletools|_pyio)\.py$"
)
NO_DYNLOAD = re.compile(
    r"_test|_tkinter|_codecs_|_multibytecodec|_crypt|_lsprof|_xx|xx|audioop|nis|ossaudio"
    r"|readline|spwd|_dbm|_gdbm|_ctypes_test"
)
_PLACEHOLDER = "/" + "x" * 254  # a path for the loader, which the launcher writes over
LOADER = "ld.so"


def build(wheel: Path, out: Path, at_s: int) -> tuple[Path, Path]:
    """Build the file, and beside it the list of what is in it."""
    version = wheel.name.split("-")[1]
    name = f"ctk-{version}-linux-{platform.machine()}"
    with TemporaryDirectory(prefix="ctk-onefile-") as folder:
        tree, work = Path(folder, "tree"), Path(folder, "work")
        work.mkdir()
        _collect_python(tree)
        _collect_site(tree, wheel)
        _compile_program(tree / "ctk")
        libraries = _collect_libraries(tree)
        size = sum(path.stat().st_size for path in tree.rglob("*"))
        packed = work / "payload"
        packed.write_bytes(_packed(tree, at_s))
        file = out / name
        _compile_launcher(packed, file, version, size)
        contents = out / f"{name}.cdx.json"
        sbom.write(contents, file, at_s, extras=EXTRAS, but=NO_DISTRIBUTIONS, libraries=libraries)
    return file, contents


def _collect_python(tree: Path) -> None:
    stdlib = Path(sysconfig.get_path("stdlib"))
    (tree / "lib" / "dynload").mkdir(parents=True)
    with zipfile.ZipFile(tree / "lib" / "python.zip", "w") as archive:  # stored: read as it is
        for path in sorted(stdlib.rglob("*.py")):
            name = path.relative_to(stdlib).as_posix()
            if not NO_STDLIB.match(name):
                archive.writestr(zipfile.ZipInfo(f"{name}c"), _compiled(path.read_bytes(), name))
    for path in sorted((stdlib / "lib-dynload").glob("*.so")):
        if not NO_DYNLOAD.match(path.name):
            shutil.copy(path, tree / "lib" / "dynload")
    licences = tree / "licences"
    licences.mkdir()
    shutil.copy(stdlib / "LICENSE.txt", licences / "python")


def _collect_site(tree: Path, wheel: Path) -> None:
    site = tree / "lib" / "site"
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            _, _, shared = name.partition(".data/data/")  # share/man/man1/ctk.1
            if shared:
                (tree / shared).parent.mkdir(parents=True, exist_ok=True)
                (tree / shared).write_bytes(archive.read(name))
            else:
                _put(site, name, archive.read(name))
    _, *others = sbom.closure("ctk", EXTRAS)
    for each in others:
        if sbom.name_of(each) in NO_DISTRIBUTIONS:
            continue
        for file in each.files or ():
            if not file.as_posix().startswith("..") and "__pycache__" not in file.parts:
                _put(site, file.as_posix(), Path(str(file.locate())).read_bytes())


def _put(site: Path, name: str, content: bytes) -> None:
    if NO_FILES.search(name):
        return
    path = site / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".py":
        path.with_suffix(".pyc").write_bytes(_compiled(content, name))
    else:
        path.write_bytes(content)


def _compiled(source: bytes, name: str) -> bytes:
    """Compile to what Python imports without a look at the source, which is not there."""
    code = compile(source, name, "exec", dont_inherit=True, optimize=0)
    # https://peps.python.org/pep-0552/: hash-based, and not to be checked.
    head = importlib.util.MAGIC_NUMBER + (0b01).to_bytes(4, "little")
    return head + importlib.util.source_hash(source) + marshal.dumps(code)


def _compile_program(path: Path) -> None:
    library = Path(sysconfig.get_config_var("LIBDIR"), sysconfig.get_config_var("LDLIBRARY"))
    _run(
        "cc",
        "-O2",
        "-s",
        f"-I{sysconfig.get_path('include')}",
        HERE / "program.c",
        "-o",
        path,
        library,
        "-Wl,--disable-new-dtags,-rpath,$ORIGIN/lib",
        f"-Wl,--dynamic-linker={_PLACEHOLDER}",
        "-Wl,--build-id=none",
    )


def _collect_libraries(tree: Path) -> list[Path]:
    """Copy what everything there is linked with, by the name that it is asked for by."""
    found = dict(_needed([tree / "ctk", *sorted(tree.rglob("*.so"))]))
    for name, library in found.items():
        shutil.copy(library, tree / "lib" / name)
    _add_licences(found.values(), tree / "licences")
    linked = sorted(tree.rglob("*.so*"))
    _run("strip", "--strip-unneeded", *linked)
    # Where the libraries were on the machine that built them.
    _run("patchelf", "--remove-rpath", *(path for path in linked if path.name != LOADER))
    return [tree / "lib" / name for name in sorted(found)]


def _needed(paths: Sequence[Path]) -> Iterator[tuple[str, Path]]:
    where = {"LD_LIBRARY_PATH": str(sysconfig.get_config_var("LIBDIR"))}
    for line in _run("ldd", *paths, env=where).splitlines():
        if told := re.match(r"\s+(\S+)(?: => (\S+))? \(0x", line):
            name, at = told.groups()
            if name.startswith("/"):  # the loader, which a program names by its path
                yield LOADER, Path(at or name).resolve()
            elif at:
                yield name, Path(at).resolve()
        elif "not found" in line:
            raise SystemExit(line.strip())


def _add_licences(libraries: Iterable[Path], licences: Path) -> None:
    """Keep what Debian says of the libraries' licences beside them."""
    command = ["dpkg-query", "--search", *libraries]
    told = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    for package in {line.partition(":")[0] for line in told.splitlines()}:
        copyright = Path("/usr/share/doc", package, "copyright")
        if copyright.exists():
            shutil.copy(copyright, licences / package)


def _packed(tree: Path, at_s: int) -> bytes:
    """Pack the tree: sorted, of nobody in particular, of one time."""
    packed = io.BytesIO()
    with (
        GzipFile("", "wb", 6, packed, mtime=at_s) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.USTAR_FORMAT) as archive,
    ):
        for path in sorted(tree.rglob("*")):
            member = tarfile.TarInfo(path.relative_to(tree).as_posix())
            member.mtime = at_s
            if path.is_dir():
                member.type, member.mode = tarfile.DIRTYPE, 0o755
                archive.addfile(member)
            else:
                member.mode = 0o755 if path.name in ("ctk", LOADER) else 0o644
                member.size = path.stat().st_size
                with path.open("rb") as content:
                    archive.addfile(member, content)
    return packed.getvalue()


def _compile_launcher(payload: Path, file: Path, version: str, size: int) -> None:
    digest = hashlib.sha256(payload.read_bytes()).hexdigest()[:12]
    macros: dict[str, str] = {
        "PAYLOAD": str(payload),
        "NAME": f"ctk-{version}-{digest}",
        "INTERPRETER": _PLACEHOLDER,
        "SIZE": f"{size / (1 << 20):.0f} MiB",
    }
    _run(
        "cc",
        "-O2",
        "-s",
        "-static",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-Wl,--build-id=none",
        *(f'-D{name}="{value}"' for name, value in macros.items()),
        HERE / "launcher.c",
        "-o",
        file,
        "-lz",
    )


def _run(*command: str | Path, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | (env or {})
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


def missing() -> list[str]:
    """Name what this machine lacks to build it."""
    lacking = [tool for tool in ("cc", "ldd", "patchelf", "strip") if shutil.which(tool) is None]
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        lacking.append(f"Python.h of Python {platform.python_version()}")
    return lacking
