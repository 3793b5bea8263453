"""`ctk pressure`: how full the kernel's table was, and who held it."""

import sys
from pathlib import Path

import click

import ctk
from ctk.cli.filters import span_options
from ctk.cli.limits import limit_option, most_rows, remark_cut
from ctk.cli.options import db_argument, output_options, print_caveats, remark
from ctk.model import Filters
from ctk.render import pressure as render
from ctk.render.tables import Output
from ctk.timespan import SECOND, format_time


@click.command(short_help="Say how full the kernel's table was, and who held it.")
@db_argument
@span_options
@click.option(
    "--by",
    metavar="KEYS",
    default="client,service,state",
    show_default=True,
    help="What holders are summed up by: also node, proto, backend, port, backend_kind.",
)
@limit_option
@output_options
def pressure(db: Path, by: str, limit: int | None, filters: Filters, output: Output) -> None:
    """
    Say how full the kernel's table of connections was over time, what it refused, and who held it.

    A recorder looks once a minute, in its first minute every 10 s; a peak is of each second.
    DROPPED are packets that found no place, EARLY DROPPED entries that had to make room. Holders
    are of the dump that listed most (AT PEAK) and of the last one (AT END), and add up to all that
    these listed: who holds little is together in "other".

    \b
    ctk pressure node.db
    ctk pressure node.db --since 1h --by client,backend,port
    ctk pressure node.db -o json
    """
    with ctk.open(db) as recording:
        found = recording.pressure(filters, by=by)
    most = most_rows(limit, output)
    render.pressure(found, most, output, sys.stdout.buffer)
    if output.for_people and len(found.peaks_ns) == 1:
        peak, end = (
            format_time(at_ns // SECOND * SECOND).replace(".000000000", "")
            for each in (found.peaks_ns, found.ends_ns)
            for at_ns in each.values()
        )
        remark(f"at peak: the fullest dump, as of {peak}; at end: the last dump, as of {end}")
        listed = sum(each.at_peak for each in found.holders)
        if (most_entries := max(each.peak for each in found.nodes)) > listed:
            remark(
                f"the fullest dump listed {listed:,} entries, {most_entries - listed:,} fewer than"
                " the peak: a dump is of one moment, a peak of each second"
            )
    remark_cut(len(found.holders[:most]), len(found.holders))
    print_caveats(found.caveats)
