"""What is not shipped, and so is asked of a file alone: each such question says so, and where."""

from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from ctk.ask.recording import Recording
from ctk.ask.sums import keys_of
from ctk.errors import UsageError


class NotShipped(Recording):
    """A recording, in no file, of which these questions are refused."""

    def _files(self) -> tuple[()]:
        return ()

    def follow(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse: rows come minutes later, and not in order."""
        raise _not_here("what is followed is a node's file", "ctk query FILE --follow, on the node")

    def diff(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse: it looks at two spans, which may be far apart."""
        raise _not_here("what is compared are files", "ctk top, of each span")

    def new(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse: who talked to whom before is not shipped."""
        raise _not_here("what is new, a file knows", "ctk new FILE, of a node or merged")

    def idle(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse: single connections are not shipped."""
        raise _not_here("idle connections are not shipped", "ctk idle FILE, of a node or merged")

    def pressure(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse: how full tables were is not shipped."""
        raise _not_here("how full tables were is not shipped", "ctk pressure FILE, of a node")

    def schema(self) -> NoReturn:
        """Refuse: its tables are those that `ctk ship --to TARGET --init --ddl` prints."""
        hint = "ctk ship --to TARGET --init --ddl prints its tables"
        raise _not_here("the views are those of a file", hint)


def told_apart(by: str | Iterable[str]) -> Sequence[str]:
    """Give keys that rows are told apart by: source ports were summed up on the way."""
    keys = keys_of(by)
    if "src_port" in keys:
        raise _not_here("source ports are not shipped", "leave src_port out")
    return keys


def _not_here(what: str, hint: str) -> UsageError:
    return UsageError(what, hint=hint)
