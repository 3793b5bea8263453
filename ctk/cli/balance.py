"""`ctk balance`: how evenly the backends of a service are used."""

import sys

import click

import ctk
from ctk.ask.caveats import NothingFits
from ctk.cli.filters import FilterCommand, filter_options
from ctk.cli.limits import limit_option, most_rows, remark_cut
from ctk.cli.options import (
    Targets,
    output_options,
    print_caveats,
    remark,
    targets_argument,
)
from ctk.model import Filters
from ctk.render import shares as render
from ctk.render.tables import Output


@click.command(cls=FilterCommand, short_help="Say how evenly a service's backends are used.")
@targets_argument
@limit_option
@filter_options
@output_options
def balance(db: Targets, limit: int | None, filters: Filters, output: Output) -> None:
    """
    Say how evenly connections and bytes go to the backends of a service.

    CONNS/EVEN and BYTES/EVEN are a backend's share to an even one: 2.00 is twice as much. A
    backend that got nothing is not here, since conntrack never saw it. --limit is of services.

    \b
    ctk balance node.db --service shop/web
    ctk balance node.db --since 1h
    """
    with ctk.open(db) as recording:
        found = recording.balance(filters)
    services = found.services[: most_rows(limit, output)]
    render.balance(services, output, sys.stdout.buffer)
    why = any(isinstance(caveat, NothingFits) for caveat in found.caveats)
    if not services and not why and output.for_people:
        remark("no service was dialled")
    remark_cut(len(services), len(found.services))
    print_caveats(found.caveats)
