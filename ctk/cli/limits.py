"""How many rows of an answer are shown, and what is said where there are more."""

import click

from ctk.cli.options import remark
from ctk.model.numbers import parse_count
from ctk.render.tables import Output

_SHOWN = 20

limit_option = click.option(
    "--limit",
    type=parse_count,
    metavar="N",
    help=f"How many rows; 0 for all.  [default: {_SHOWN} in tables, all for programs]",
)


def most_rows(limit: int | None, output: Output) -> int | None:
    """Give how many rows are asked for; None for all."""
    if limit is None:
        return _SHOWN if output.for_people else None
    return limit or None


def remark_cut(shown: int, found: int) -> None:
    """Say how many there are where not all are shown."""
    if shown < found:
        remark(f"only the first {shown:,} of {found:,}: --limit 0 has all")
