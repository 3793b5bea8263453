"""What completes the words of a command line: names from the file, keys, protocols."""

import os
import re
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import get_args

import click
from click.shell_completion import CompletionItem

from ctk.conntrack.names import PROTOCOL_NUMBERS
from ctk.errors import CtkError
from ctk.model import Field, Kind

_MOST = 200  # that a shell is to list
# A shell puts what completes a word into its line as it is: no name from a file may be more.
_SAFE = re.compile(r"[A-Za-z0-9._/=-]+")


def values(ctx: click.Context, field: Field, incomplete: str) -> list[CompletionItem]:
    """Complete the value of a filter; behind a comma, the next one."""
    if field == "kind":
        return _listed(incomplete, get_args(Kind))
    if field == "protocol":
        return _listed(incomplete, PROTOCOL_NUMBERS)
    if field == "label":
        return [CompletionItem(name) for name in _matching(incomplete, _in_file(ctx, field))]
    return _listed(incomplete, _in_file(ctx, field))


def keys(incomplete: str) -> list[CompletionItem]:
    """Complete the keys of `--by`."""
    from ctk.ask.presets import EITHER_KEYS, PRESETS
    from ctk.ask.sums import KEYS

    return _listed(incomplete, dict.fromkeys([*PRESETS, *EITHER_KEYS, *KEYS]))


def _listed(incomplete: str, known: Iterable[str]) -> list[CompletionItem]:
    before, comma, last = incomplete.rpartition(",")
    return [CompletionItem(f"{before}{comma}{name}") for name in _matching(last, known)]


def _matching(begun: str, known: Iterable[str]) -> list[str]:
    """Give the names that begin so, or that do without their namespace."""
    names = [name for name in known if _SAFE.fullmatch(name)]
    found = [name for name in names if name.startswith(begun)]
    if begun and "/" not in begun:
        bare = (name.rpartition("/")[2] for name in names if "/" in name)
        found += dict.fromkeys(name for name in bare if name.startswith(begun))
    return found[:_MOST]


def _in_file(ctx: click.Context, field: Field) -> list[str]:
    from ctk.ask.recording import Recording

    try:
        with Recording(_path(ctx)) as recording:
            return recording.names(field)
    except (CtkError, OSError, sqlite3.Error):
        return []  # there is nobody to tell


def _path(ctx: click.Context) -> Path:
    """Give the file that the line names so far, or CTK_DB does."""
    named = ctx.params.get("db") or ctx.params.get("words") or os.environ.get("CTK_DB", "")
    if isinstance(named, tuple):
        named = named[0]
    return Path(named)
