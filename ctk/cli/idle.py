"""`ctk idle`: live connections that move nothing."""

import sys
from collections.abc import Sequence

import click

import ctk
from ctk.ask.idle import LEAST_NS
from ctk.cli.filters import FilterCommand, filter_options
from ctk.cli.limits import limit_option, most_rows, remark_cut
from ctk.cli.options import (
    Dbs,
    dbs_argument,
    output_options,
    print_caveats,
    remark,
)
from ctk.model import Filters
from ctk.render import shares as render
from ctk.render.tables import Output
from ctk.timespan import SECOND, format_age, format_time, parse_age


@click.command(cls=FilterCommand, cuts=False, short_help="List live connections that move nothing.")
@dbs_argument
@click.option(
    "--min-idle",
    type=parse_age,
    metavar="DURATION",
    default=format_age(LEAST_NS),
    show_default=True,
    help="Only those that have moved nothing for so long.",
)
@limit_option
@filter_options
@output_options
def idle(db: Dbs, min_idle: int, limit: int | None, filters: Filters, output: Output) -> None:
    """
    List the live connections that have moved nothing for long, the longest idle first.

    It is what a recorder last saw: it looks every five minutes, and at its end, so the kernel must
    count what connections move. A keep-alive probe moves something. --since and --until are of
    when they began.

    \b
    ctk idle node.db
    ctk idle node.db --min-idle 1h --from-namespace shop --port 5432
    """
    with ctk.open(db) as recording:
        found = recording.idle(filters, min_idle=min_idle)
    rows = found.rows[: most_rows(limit, output)]
    render.idle(rows, output, sys.stdout.buffer)
    if found.looks and output.for_people:
        count = f"{len(found.rows):,} idle" if found.rows else "none idle"
        remark(f"{count} as of {_as_of(found.looks)}")
    remark_cut(len(rows), len(found.rows))
    print_caveats(found.caveats)


_NAMED = 4  # nodes whose looks are told


def _as_of(looks: Sequence[tuple[str, int]]) -> str:
    """Say when it was looked: once where that was one moment, else of each node."""
    told = [(node, _second(at_ns)) for node, at_ns in looks]
    if len({at for _, at in told}) == 1:
        return told[0][1]
    named = ", ".join(f"{at} ({node})" for node, at in told[:_NAMED])
    return named + (f" and {len(told) - _NAMED:,} more" if len(told) > _NAMED else "")


def _second(at_ns: int) -> str:
    return format_time(at_ns // SECOND * SECOND).replace(".000000000", "")
