"""`ctk cursor`: what exports with `--cursor` keep of how far they are."""

import sys
from pathlib import Path

import click

from ctk.cli.options import DB_VARIABLE, of_variable, output_options, remark
from ctk.errors import UsageError
from ctk.render import tables as render
from ctk.render.cells import Head
from ctk.render.cursor import Cursor, beside, path_of
from ctk.render.tables import Output

_COLUMNS = (
    Head("name", "name"),
    Head("until_ns", "time", title="UNTIL"),
    Head("format"),
    Head("filters", rank=1),
    Head("bytes", "bytes", title="IN FILE"),
    Head("file", wide=True),
)
_RESET = "ctk cursor reset node.db siem"
_PATH = click.Path(path_type=Path, readable=False)


class _Cursors(click.Group):
    """Its commands; a file in the place of one is what they are asked of."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or say which takes a file."""
        if args[0] not in self.commands and not args[0].startswith("-") and Path(args[0]).exists():
            hint = f"ctk cursor list {args[0]}"
            raise UsageError("a command comes before the file: list or reset", hint=hint)
        return super().resolve_command(ctx, args)


@click.group(cls=_Cursors, short_help="List or forget how far exports with --cursor are.")
def cursor() -> None:
    """
    List or forget how far exports with --cursor are.

    A cursor stands beside the FILE of --output, or beside DB where there was none: give FILE in
    place of DB for these.
    """


@cursor.command("list", short_help="List the cursors beside DB.")
@click.argument("db", type=_PATH, metavar="DB", envvar=DB_VARIABLE)
@output_options
def list_(db: Path, output: Output) -> None:
    """List the cursors beside DB: up to when each has the flows, in which format and filters."""
    _refuse_nothing(db)
    found = [(name, Cursor.load(path), path) for name, path in beside(db)]
    rows = [
        (
            name,
            kept.started_ns if kept.started_ns >= 0 else None,
            kept.form or None,
            kept.filters or None,
            kept.output_bytes,
            str(path),
        )
        for name, kept, path in found
        if kept is not None
    ]
    if not rows:
        remark(f"no cursor is kept beside {db}: that of an export to --output FILE is beside FILE")
    render.answer(_COLUMNS, rows, output, sys.stdout.buffer)


@cursor.command(short_help="Forget the cursor NAME.")
@click.argument("words", nargs=-1, metavar="DB NAME")
def reset(words: tuple[str, ...]) -> None:
    """Forget the cursor NAME: the next export by it writes all flows anew."""
    if len(words) == 1:
        words = *of_variable(), *words
    if len(words) != 2:
        raise UsageError("one file and the NAME of its cursor are wanted", hint=_RESET)
    db, name = Path(words[0]), words[1]
    if not db.exists() and Path(name).exists():
        raise UsageError(f"there is no file {db}", hint=f"ctk cursor reset {name} {db}")
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
