"""`ctk snapshot`: a copy that is safe to take while the file is written."""

import shutil
import sys
import tempfile
from pathlib import Path

import click

from ctk.cli.options import db_and_out_arguments
from ctk.errors import UsageError


@click.command(short_help="Copy DB safely while it is being written.")
@db_and_out_arguments
def snapshot(db: Path, out: Path) -> None:
    """
    Copy DB to OUT, as of one moment, while a recorder goes on writing it.

    OUT is one file, whole or not there, and must not be there yet; - is standard output, so that
    it can go on through a pipe.

    \b
    ctk snapshot node.db - | gzip > node.db.gz
    """
    from ctk.store.snapshot import snapshot as copy

    progress = _progress if sys.stderr.isatty() else lambda done, total: None
    if str(out) != "-":
        copy(db, out, progress)
        return
    if sys.stdout.isatty():
        raise UsageError("a terminal cannot show a file of SQLite", hint="ctk snapshot DB - > OUT")
    with tempfile.TemporaryDirectory(prefix="ctk-") as directory:
        whole = Path(directory) / "snapshot.db"
        copy(db, whole, progress)
        with whole.open("rb") as file:
            shutil.copyfileobj(file, sys.stdout.buffer)


def _progress(done: int, total: int) -> None:
    percent = 100 * done // (total or 1)
    click.echo(f"\rcopied {percent} %", err=True, nl=done >= total)
