"""`ctk failures`: what failed, from whom, since when."""

import sys
from itertools import islice

import click

import ctk
from ctk.cli.filters import FilterCommand, filter_options
from ctk.cli.limits import limit_option, most_rows, remark_cut
from ctk.cli.options import (
    Targets,
    is_of_nothing,
    output_options,
    print_caveats,
    remark,
    targets_argument,
)
from ctk.model import Filters
from ctk.render import failed as render
from ctk.render.tables import Output

_TOLD = 3  # services of which one backend fails, below a table that has no room for it


@click.command(cls=FilterCommand, cuts=False, short_help="Say what failed, from whom, since when.")
@targets_argument
@limit_option
@filter_options
@output_options
def failures(db: Targets, limit: int | None, filters: Filters, output: Output) -> None:
    """
    Say what failed: by client workload, service, backend and port, most failures first.

    A refused connection was reset at once; one without a reply ended unanswered, minutes later. %
    is of the connections that began in the span. What a network policy drops before the kernel
    confirms it is in no conntrack event, so it is not here.

    \b
    ctk failures node.db --since 1h
    ctk failures node.db --to-service shop/web --refused
    """
    with ctk.open(db) as recording:
        found = recording.failures(filters, limit=most_rows(limit, output))
    alone = render.failures(found, output, sys.stdout.buffer)
    told = dict.fromkeys((row.service, row.backends, row.backend) for row in alone)
    for service, backends, backend in islice(told, _TOLD):
        remark(f"{service}: only {backend} of its {backends:,} backends fails")
    if not found.rows and output.for_people and not is_of_nothing(found.caveats):
        remark("nothing failed")
    remark_cut(len(found.rows), found.found)
    print_caveats(found.caveats)
