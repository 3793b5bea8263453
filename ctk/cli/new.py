"""`ctk new`: who talked to whom for the first time."""

import sys

import click

import ctk
from ctk.cli.filters import FilterCommand, filter_options
from ctk.cli.limits import limit_option, most_rows, remark_cut
from ctk.cli.options import (
    Dbs,
    dbs_argument,
    is_of_nothing,
    output_options,
    print_caveats,
    remark,
)
from ctk.model import Filters
from ctk.render import changes as render
from ctk.render.tables import Output


@click.command(
    cls=FilterCommand, cuts=False, short_help="List who talked to whom for the first time."
)
@dbs_argument
@limit_option
@filter_options
@output_options
def new(db: Dbs, limit: int | None, filters: Filters, output: Output) -> None:
    """
    List who talked to whom for the first time, the oldest first.

    That is a client workload (or a pod without one, a node, an address), the service or workload
    that it dialled, and the port. Another pod of a workload is not new. DB remembers for longer
    than it keeps flows.

    \b
    ctk new node.db --since today
    ctk new node.db --since 1h --from-namespace shop --to-kind external
    """
    with ctk.open(db) as recording:
        found = recording.new(filters)
    rows = found.rows[: most_rows(limit, output)]
    render.new(rows, output, sys.stdout.buffer)
    if not found.rows and output.for_people and not is_of_nothing(found.caveats):
        remark("nobody is new")
    remark_cut(len(rows), len(found.rows))
    print_caveats(found.caveats)
