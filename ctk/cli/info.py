"""`ctk info`: what a file holds."""

import sys
from pathlib import Path

import click

import ctk
from ctk.cli.options import db_argument, output_options, print_caveats, remark
from ctk.render import tables as render
from ctk.render.description import description as describe
from ctk.render.tables import Output


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
    with ctk.open(db) as recording:
        if gaps:
            found = recording.gaps()
            render.gaps(found, output, sys.stdout.buffer)
            if not found and output.for_people:
                remark("no gaps")
            print_caveats(found.caveats)
        else:
            description = recording.describe()
            describe(description, output, sys.stdout.buffer)
            print_caveats(description.caveats)
