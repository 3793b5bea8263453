"""`ctk snapshot`: a copy that is safe to take while the file is written."""

import sys
from pathlib import Path

import click

from ctk.cli.options import db_and_out_arguments


@click.command(short_help="Copy DB safely while it is being written.")
@db_and_out_arguments
def snapshot(db: Path, out: Path) -> None:
    """
    Copy DB to OUT, as of one moment, while a recorder goes on writing it.

    OUT is one file, whole or not there, and must not be there yet.
    """
    from ctk.store.snapshot import snapshot as copy

    copy(db, out, _progress if sys.stderr.isatty() else lambda done, total: None)


def _progress(done: int, total: int) -> None:
    percent = 100 * done // (total or 1)
    click.echo(f"\rcopied {percent} %", err=True, nl=done >= total)
