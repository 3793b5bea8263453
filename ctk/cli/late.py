"""
What click imports and a short command has no use for: it is imported when something asks for it.

`inspect` brings Python's own parser and tokenizer with it, 8 ms of the 60 that `ctk --help` takes;
`platform`, which `uuid` asks for the system's name, compiles ten patterns: 2 ms.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any


class Late(ModuleType):
    """A module of Python's, imported for anything but what stands here."""

    def __getattr__(self, name: str) -> Any:
        return getattr(import_module(self.__name__), name)


class Inspect(Late):
    """`inspect`, for the help of each option."""

    @staticmethod
    def cleandoc(doc: str) -> str:
        """Take the margin of all lines but the first off, as `inspect.cleandoc` does."""
        first, *others = doc.expandtabs().split("\n")
        margin = min((len(line) - len(line.lstrip()) for line in others if line.strip()), default=0)
        return "\n".join([first.lstrip(), *(line[margin:] for line in others)]).strip("\n")


class Platform(Late):
    """`platform`, for `uuid`."""

    @staticmethod
    def system() -> str:
        """Name the system, as `platform.system` does where there is `uname`."""
        return os.uname().sysname


@contextmanager
def late() -> Iterator[None]:
    """What is imported meanwhile gets an `Inspect` and a `Platform`, unless they are there."""
    stand_ins = {
        name: kind(name)
        for name, kind in (("inspect", Inspect), ("platform", Platform))
        if name not in sys.modules
    }
    sys.modules.update(stand_ins)
    try:
        yield
    finally:
        for name in stand_ins:
            del sys.modules[name]
