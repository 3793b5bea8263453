"""`ctk top`: who moved most."""

import sys

import click

import ctk
from ctk.ask.sums import SORTS, check_keys
from ctk.cli.options import (
    Dbs,
    FilterCommand,
    dbs_argument,
    filter_options,
    output_options,
    print_caveats,
)
from ctk.model import Filters
from ctk.numbers import parse_count
from ctk.render import tables as render
from ctk.render.tables import Output


@click.command(cls=FilterCommand, short_help="Rank who moved most in DB.")
@dbs_argument
@click.option(
    "--by",
    default="source,destination",
    show_default=True,
    metavar="KEYS",
    help="What to rank, comma-separated: src_workload, service, dst_port, node, ...",
)
@click.option(
    "--sort",
    type=click.Choice(tuple(SORTS)),
    help="The largest first of.  [default: bytes, or connections if none were counted]",
)
@click.option(
    "--limit", type=parse_count, metavar="N", default=20, show_default=True, help="How many rows."
)
@filter_options
@output_options
def top(db: Dbs, by: str, sort: str | None, limit: int, filters: Filters, output: Output) -> None:
    """
    Rank who moved most in DB.

    KEYS are those of `ctk query -o jsonl` that are no times or counts, and source and
    destination: the two sides by the finest name that is known.

    \b
    ctk top node.db --since 24h
    ctk top node.db --by src_workload,service --sort failed
    """
    keys = [key.strip() for key in by.split(",")]
    check_keys(keys, "--by")
    with ctk.open(db) as recording:
        ranked = recording.top(
            filters, by=keys, sort=sort, limit=limit, seen=output.format != "table"
        )
    render.top(ranked, output, sys.stdout.buffer)
    print_caveats(ranked.caveats)
