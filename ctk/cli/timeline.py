"""`ctk timeline`: bytes, connections and failures over time, drawn as text."""

import sys

import click

import ctk
from ctk.ask.series import parse_step
from ctk.cli.filters import FilterCommand, filter_options
from ctk.cli.options import Dbs, dbs_argument, output_options, print_caveats
from ctk.model import Filters
from ctk.render import overtime
from ctk.render import timeline as render
from ctk.render.tables import Output


@click.command(cls=FilterCommand, short_help="Draw bytes, connections and failures over time.")
@dbs_argument
@click.option(
    "--step",
    type=parse_step,
    metavar="DURATION",
    help="10s, 20s, 30s or whole minutes.  [default: the shortest that fits the screen]",
)
@click.option("--ascii", "plain", is_flag=True, help="Draw with +, -, | and # alone.")
@filter_options
@output_options
def timeline(db: Dbs, step: int | None, plain: bool, filters: Filters, output: Output) -> None:
    """
    Draw what DB holds over time: bytes, connections and failures.

    A column is a step, or several are where there is room. What was not recorded is hatched, and
    what a gap makes too small is marked below. Programs get the steps, as of `ctk series`.

    \b
    ctk timeline node.db --since 1h
    ctk timeline node.db --service shop/web --failed
    ctk timeline node.db --step 1m -o csv
    """
    drawn = output.format == "table" and not output.columns
    most = render.steps_that_fit(output.screen) if drawn else None
    with ctk.open(db) as recording:
        found = recording.series(filters, step=step, most_steps=most)
    if drawn:
        render.timeline(found, output.screen, sys.stdout.buffer, plain=plain or output.screen.ascii)
    else:
        overtime.series(found, output, sys.stdout.buffer)
    print_caveats(found.caveats)
