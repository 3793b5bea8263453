"""What may be asked in SQL, for people: a paragraph a view, a line a column."""

import shutil
import textwrap
from collections.abc import Sequence
from itertools import groupby
from operator import attrgetter
from typing import BinaryIO

from ctk.ask.schema import ViewColumn
from ctk.render.cells import safe as cell
from ctk.render.tables import Output, rows
from ctk.store.meanings import VIEWS

_WIDEST = 100  # lines that are longer are hard to read


def schema(found: Sequence[ViewColumn], output: Output, out: BinaryIO) -> None:
    """Write the views and their columns; what has the columns of the view before it is short."""
    if output.format != "table":
        rows(ViewColumn._fields, found, output, out)
        return
    width = min(shutil.get_terminal_size().columns, _WIDEST)
    name_width = max(len(cell(each.column)) for each in found)
    before: list[str] = []
    with output.paged(out) as page:
        for view, columns in groupby(found, attrgetter("view")):
            listed = list(columns)
            lines = [cell(view), *_wrapped(VIEWS.get(view, ""), "  ", "  ", width)]
            if (names := [each.column for each in listed]) != before:
                for each in listed:
                    head = f"  {cell(each.column):<{name_width}}  {cell(each.type):<7}  "
                    lines += _wrapped(each.meaning or "", head, " " * len(head), width)
            before = names
            page.write("".join(f"{line.rstrip()}\n" for line in [*lines, ""]).encode())


def _wrapped(text: str, first: str, others: str, width: int) -> list[str]:
    filled = textwrap.wrap(
        text, max(width, len(first) + 20), initial_indent=first, subsequent_indent=others
    )
    return filled or ([first] if first.strip() else [])
