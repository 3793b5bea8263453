"""Two things never share a name: a reader who looks one up finds one."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]


def types_of(module: ast.Module) -> Iterator[str]:
    """The classes, aliases of types and the like that a module makes."""
    for node in module.body:
        match node:
            case ast.ClassDef(name=name):
                yield name
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                if name.strip("_")[:1].isupper() and not name.isupper():
                    yield name


def test_no_two_types_share_a_name() -> None:
    homes: defaultdict[str, list[str]] = defaultdict(list)
    for path in sorted((ROOT / "ctk").rglob("*.py")):
        for name in types_of(ast.parse(path.read_text("utf-8"))):
            homes[name.strip("_")].append(str(path.relative_to(ROOT)))
    assert len(homes) > 400
    assert {name: places for name, places in homes.items() if len(places) > 1} == {}
