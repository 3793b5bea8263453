"""`ctk cursor`: what exports with `--cursor` keep of how far they are."""

import sys
from pathlib import Path
from typing import get_args

import click

from ctk.cli.options import remark
from ctk.errors import UsageError
from ctk.render import tables as render
from ctk.render.cursor import Cursor, beside, path_of
from ctk.render.tables import Format, Output
from ctk.timespan import format_time

_COLUMNS = ("name", "until", "format", "filters", "bytes", "file")
_place = click.argument("db", type=click.Path(path_type=Path), metavar="DB")


@click.group(short_help="List or forget how far exports with --cursor are.")
def cursor() -> None:
    """
    List or forget how far exports with --cursor are.

    A cursor stands beside the FILE of --output, or beside DB where there was none: give FILE in
    place of DB for these.
    """


@cursor.command("list")
@_place
@click.option(
    "-o",
    "--format",
    "form",
    type=click.Choice(get_args(Format)),
    default="table",
    show_default=True,
    help="The form of the answer.",
)
def list_(db: Path, form: Format) -> None:
    """List the cursors beside DB: up to when each has the flows, in which format and filters."""
    _refuse_nothing(db)
    rows = []
    for name, path in beside(db):
        kept = Cursor.load(path)
        if kept is not None:
            until = format_time(kept.started_ns) if kept.started_ns >= 0 else None
            facts = (kept.form or None, kept.filters or None, kept.output_bytes or None)
            rows.append((name, until, *facts, str(path)))
    if not rows:
        remark(f"no cursor is kept beside {db}: that of an export to --output FILE is beside FILE")
    if rows or form != "table":
        render.rows(_COLUMNS, rows, Output(format=form), sys.stdout.buffer)


@cursor.command()
@_place
@click.argument("name")
def reset(db: Path, name: str) -> None:
    """Forget the cursor NAME: the next export by it writes all flows anew."""
    _refuse_nothing(db)
    names = [found for found, _ in beside(db)]
    if name not in names:
        hint = f"one of {', '.join(names)}" if names else f"ctk cursor list {db}"
        raise UsageError(f"no cursor {name!r} is kept beside {db}", hint=hint)
    path_of(db, name).unlink()
    remark(f"{name} is forgotten: the next export by it writes all flows anew")


def _refuse_nothing(db: Path) -> None:
    if not db.exists():
        raise UsageError(f"there is no file {db}", hint="name DB, or the FILE of --output")
