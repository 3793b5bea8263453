"""
What is inside, in CycloneDX 1.6: ctk, its libraries at the versions that were tested, and of the
one file also the interpreter and the shared libraries.
"""

from collections.abc import Collection, Iterable, Iterator
from datetime import UTC, datetime
from functools import cache
from hashlib import sha256
from importlib.metadata import Distribution, distribution
from pathlib import Path
from uuid import NAMESPACE_URL, uuid5

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def write(
    path: Path,
    subject: Path,
    at_s: int,
    *,
    extras: Collection[str] = (),
    but: Collection[str] = (),
    libraries: Iterable[Path] = (),
) -> None:
    """Write the list of what is in `subject`, the same bytes for the same subject."""
    ctk, *needed = (each for each in closure("ctk", extras) if name_of(each) not in but)
    digest = sha256(subject.read_bytes()).hexdigest()
    root = _component(ctk, ComponentType.APPLICATION)
    root.hashes.add(HashType(alg=HashAlgorithm.SHA_256, content=digest))
    components = [_component(each) for each in needed]
    components += [_library(each) for each in libraries]
    bom = Bom(components=components, serial_number=uuid5(NAMESPACE_URL, f"{subject.name}#{digest}"))
    bom.metadata.component = root
    bom.metadata.timestamp = datetime.fromtimestamp(at_s, UTC)
    by_name = {each.name: each for each in (root, *components)}
    for each in (ctk, *needed):
        wanted = [
            by_name[name_of(found)]
            for found in _requirements(each, extras if each is ctk else ())
            if name_of(found) in by_name
        ]
        bom.register_dependency(by_name[name_of(each)], wanted)
    if native := components[len(needed) :]:
        bom.register_dependency(root, native)
    path.write_text(JsonV1Dot6(bom).output_as_string(indent=2) + "\n", encoding="utf-8")


def closure(name: str, extras: Collection[str]) -> list[Distribution]:
    """Find what `name` needs here, itself first, the others by name."""
    found: dict[str, Distribution] = {}
    waiting: list[tuple[Distribution, Collection[str]]] = [(_distribution(name), extras)]
    while waiting:
        each, its_extras = waiting.pop()
        if name_of(each) not in found:
            found[name_of(each)] = each
            waiting += [(need, ()) for need in _requirements(each, its_extras)]
    first, *others = found.values()
    return [first, *sorted(others, key=name_of)]


# Metadata is parsed anew each time that it is asked for.
_distribution = cache(distribution)


def _requirements(of: Distribution, extras: Collection[str]) -> Iterator[Distribution]:
    for text in of.requires or ():
        wanted = Requirement(text)
        marks = ({"extra": extra} for extra in ("", *extras))
        if wanted.marker is None or any(wanted.marker.evaluate(each) for each in marks):
            yield _distribution(wanted.name)


def _component(of: Distribution, kind: ComponentType = ComponentType.LIBRARY) -> Component:
    licence = of.metadata.get("License-Expression")
    return Component(
        type=kind,
        name=name_of(of),
        version=of.version,
        bom_ref=f"{name_of(of)}@{of.version}",
        purl=PackageURL("pypi", None, name_of(of), of.version),
        licenses=[LicenseFactory().make_from_string(licence)] if licence else (),
    )


def _library(path: Path) -> Component:
    digest = sha256(path.read_bytes()).hexdigest()
    return Component(
        type=ComponentType.LIBRARY,
        name=path.name,
        bom_ref=f"{path.name}@{digest[:12]}",
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=digest)],
    )


@cache
def name_of(of: Distribution) -> str:
    return canonicalize_name(of.metadata["Name"])
