"""`ctk schema`: what may be asked in SQL."""

import sys
from pathlib import Path

import click

import ctk
from ctk.ask.schema import schema as schema_here
from ctk.cli.options import DB_VARIABLE, Db, output_options
from ctk.render import schema as render
from ctk.render.tables import Output


@click.command(short_help="Say what may be asked in SQL: views and columns.")
@click.argument("db", required=False, envvar=DB_VARIABLE, type=Db(targets=True))
@output_options
def schema(db: Path | str | None, output: Output) -> None:
    """
    Say what may be asked in SQL: each view, its columns, and what they mean.

    With DB, the views in that file.

    \b
    ctk schema node.db
    ctk schema -o csv
    """
    if db is None:
        found = schema_here()
    else:
        with ctk.open(db) as recording:
            found = recording.schema()
    render.schema(found, output, sys.stdout.buffer)
