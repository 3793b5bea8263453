"""`ctk info`: what a file holds."""

import sys
from pathlib import Path

import click

from ctk.ask import describe
from ctk.cli.options import db_argument, output_options, remark
from ctk.render import tables as render
from ctk.render.tables import Output
from ctk.store import connect


@click.command(short_help="Say what DB holds.")
@db_argument
@click.option("--gaps", is_flag=True, help="List what was lost or unknown, and when.")
@output_options
def info(db: Path, gaps: bool, output: Output) -> None:
    """
    Say what DB holds: its span, nodes, recordings, gaps, and the size of each table.

    A level is folded until the last bucket that is finished, and pruned until the first that is
    kept.
    """
    with connect.reader(db) as conn:
        if gaps:
            written = render.gaps(describe.gaps(conn), output, sys.stdout.buffer)
            if not written and output.format == "table":
                remark("no gaps")
        else:
            render.description(describe.describe(conn), output, sys.stdout.buffer)
        for line in describe.without_recording(conn):
            remark(line)
