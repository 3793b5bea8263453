"""
What click imports and a short command has no use for: it is imported when something asks for it.

`inspect` brings Python's own parser and tokenizer with it, 8 ms of the 60 that `ctk --help` takes;
`uuid` imports `platform`, which compiles ten patterns, 3 ms; `gettext` looks for a file with each
text that click says, and imports `locale` to do so, 3 ms.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any


class Late(ModuleType):
    """A module of Python's, imported for anything but what stands here."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # what an import asks of any module, while this one stands in
            raise AttributeError(name)
        return getattr(import_module(self.__name__), name)


class Inspect(Late):
    """`inspect`, for the help of each option."""

    @staticmethod
    def cleandoc(doc: str) -> str:
        """Take the margin of all lines but the first off, as `inspect.cleandoc` does."""
        first, *others = doc.expandtabs().split("\n")
        margin = min((len(line) - len(line.lstrip()) for line in others if line.strip()), default=0)
        return "\n".join([first.lstrip(), *(line[margin:] for line in others)]).strip("\n")


class Uuid(Late):
    """`uuid`, for a type of parameter that no command of ours has."""

    UUID = Any


class Gettext(Late):
    """`gettext`, for what click says: in English, as all that ctk says."""

    @staticmethod
    def gettext(message: str) -> str:
        """Give the text as it is."""
        return message

    @staticmethod
    def ngettext(one: str, several: str, n: int) -> str:
        """Give the text for so many."""
        return one if n == 1 else several


@contextmanager
def late() -> Iterator[None]:
    """What is imported meanwhile gets these, unless the modules are there."""
    kinds = (Inspect, Uuid, Gettext)
    named = {kind.__name__.lower(): kind for kind in kinds}
    stand_ins = {name: kind(name) for name, kind in named.items() if name not in sys.modules}
    sys.modules.update(stand_ins)
    try:
        yield
    finally:
        for name in stand_ins:
            del sys.modules[name]
