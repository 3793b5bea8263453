"""`ctk series`: what moved when."""

import sys

import click

import ctk
from ctk.ask.series import SERIES_COUNTS, parse_step
from ctk.ask.sums import check_keys
from ctk.cli.filters import FilterCommand, filter_options
from ctk.cli.limits import remark_cut
from ctk.cli.options import (
    Targets,
    complete_keys,
    observers_option,
    output_options,
    print_caveats,
    targets_argument,
)
from ctk.model import Filters
from ctk.model.numbers import parse_count
from ctk.render import overtime as render
from ctk.render.tables import Output

_SHOWN = 10


@click.command(cls=FilterCommand, short_help="Sum DB up over time: steps without holes.")
@targets_argument
@click.option(
    "--by",
    metavar="KEYS",
    shell_complete=complete_keys,
    help="A line for each of these, too: service, src_node, ...",
)
@click.option(
    "--step",
    type=parse_step,
    metavar="DURATION",
    help="Whole minutes: 1m, 15m, 1h.  [default: 60 steps or fewer]",
)
@click.option(
    "--sort",
    type=click.Choice(SERIES_COUNTS),
    metavar="COUNT",
    help="What is drawn, and ranks: connections, failed, ...  [default: bytes, if measured]",
)
@click.option("--sparkline", is_flag=True, help="Draw a line of blocks for each group.")
@click.option(
    "--limit",
    type=parse_count,
    metavar="N",
    help=f"How many groups; 0 for all.  [default: {_SHOWN} in tables, all for programs]",
)
@observers_option
@filter_options
@output_options
def series(
    db: Targets,
    by: str | None,
    step: int | None,
    sort: str | None,
    sparkline: bool,
    limit: int | None,
    all_observers: bool,
    filters: Filters,
    output: Output,
) -> None:
    """
    Sum DB up over time. Steps have no holes: a 0 is known to be one.

    Where nothing was recorded, or a gap may hide what was, a step has no counts. Rates are by the
    time that was recorded.

    \b
    ctk series node.db --since 1h --service shop/web
    ctk series node.db --by src_workload --step 1h --sparkline
    """
    keys = [key.strip() for key in by.split(",")] if by else []
    check_keys(keys, "--by")
    if limit is None:
        limit = _SHOWN if output.for_people else 0
    with ctk.open(db, all_observers=all_observers) as recording:
        found = recording.series(filters, by=keys, step=step, sort=sort, limit=limit or None)
    write = render.sparklines if sparkline else render.series
    write(found, output, sys.stdout.buffer)
    remark_cut(min(found.groups, limit or found.groups), found.groups)
    print_caveats(found.caveats)
