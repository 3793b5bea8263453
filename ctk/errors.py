"""
What a user can act on: one message, a hint, an exit code.

Raised where the cause is known and shown in one place, the command-line group, as
`Error: MESSAGE` and `Try: HINT` on stderr.
"""

from collections.abc import Iterable


def nearest(text: str, known: Iterable[str]) -> str | None:
    """Give what is known and written most like a text, for a hint; None where nothing is."""
    from difflib import get_close_matches

    spelled = {name.lower(): name for name in known}
    near = get_close_matches(text.lower(), spelled, 1)
    return spelled[near[0]] if near else None


class CtkError(Exception):
    """A failure with a sentence for the user; `exit_code` 1 is for what failed."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        if hint:
            self.add_note(f"Try: {hint}")  # for a traceback, in a notebook say


class UsageError(CtkError):
    """What was asked wrongly: a bad flag, bad SQL, no such file, not a ctk file."""

    exit_code = 2


class MissingFileError(UsageError):
    """A command was not told which file to ask."""

    def __init__(self) -> None:
        super().__init__("no file is named", hint="name one, or set CTK_DB: CTK_DB=node.db")


class SourceError(CtkError):
    """The kernel or a capture file could not be read."""


class KubeError(CtkError):
    """The API server or an objects file could not be read."""


class StoreError(CtkError):
    """The SQLite file could not be written or read."""


class FileBusyError(StoreError):
    """Another process holds the lock on the file: the same write may succeed later."""


class DiskFullError(StoreError):
    """Nothing was written for want of room: the same write may succeed later."""
