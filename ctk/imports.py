"""Importing a part of a large package without the rest of it."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec, module_from_spec


@contextmanager
def bare(*packages: str) -> Iterator[None]:
    """
    Within, a submodule of these is imported without what its package's __init__ imports.

    A package is known to others as not yet imported afterwards. Give outer packages first; one
    that is not installed raises ModuleNotFoundError where its submodule is imported.
    """
    added = []
    for name in packages:
        spec = None if name in sys.modules else find_spec(name)
        if spec is not None:
            sys.modules[name] = module_from_spec(spec)
            added.append(name)
    try:
        yield
    finally:
        for name in added:
            del sys.modules[name]
