"""`ctk diff`: what changed between two spans, or two files."""

import sys
from contextlib import ExitStack
from pathlib import Path

import click

import ctk
from ctk.ask.diff import BY, DIFF_SORTS, Diff
from ctk.ask.sums import check_keys
from ctk.cli.filters import FilterCommand, filter_options
from ctk.cli.limits import limit_option, most_rows
from ctk.cli.options import (
    Dbs,
    complete_keys,
    dbs_argument,
    output_options,
    print_caveats,
    remark,
)
from ctk.errors import UsageError
from ctk.model import Filters
from ctk.render import changes as render
from ctk.render.tables import Output
from ctk.timespan import format_age

_SPAN = "SINCE..UNTIL"


@click.command(
    cls=FilterCommand, cuts=False, short_help="Say what changed between two spans, or two files."
)
@dbs_argument
@click.option("--before", metavar=_SPAN, help="The one span: 2h..1h, or 09:00..10:00.")
@click.option("--after", metavar=_SPAN, help="The other: 1h.. is until now.")
@click.option(
    "--by",
    default=",".join(BY),
    show_default=True,
    metavar="KEYS",
    shell_complete=complete_keys,
    help="What is compared.",
)
@click.option(
    "--sort",
    type=click.Choice(DIFF_SORTS),
    metavar="COUNT",
    help="The largest change first of connections, failed, ...  [default: bytes, if measured]",
)
@limit_option
@filter_options
@output_options
def diff(
    db: Dbs,
    before: str | None,
    after: str | None,
    by: str,
    sort: str | None,
    limit: int | None,
    filters: Filters,
    output: Output,
) -> None:
    """
    Say what changed in DB between two spans, or between two files: `ctk diff a.db b.db`.

    Of two spans one may be left out: it is as long as the other, right beside it. Where they differ
    in length, what is counted by the second compares. Who is on one side only is new or vanished,
    or unknown where a gap may have hidden it. --limit is of each of these. More than two files are
    not compared: put what belongs together into one by `ctk merge`.

    \b
    ctk diff node.db --before 1m..30s --after 30s..
    ctk diff node.db demo.db --by client,server --sort failed
    """
    paths = (db,) if isinstance(db, Path) else db
    if len(paths) > 2:
        raise UsageError("only two files can be compared", hint="ctk diff a.db b.db")
    keys = [key.strip() for key in by.split(",")]
    check_keys(keys, "--by")
    with ExitStack() as stack:
        recording, *others = (stack.enter_context(ctk.open(path)) for path in paths)
        found = recording.diff(
            filters,
            before=before,
            after=after,
            other=others[0] if others else None,
            by=keys,
            sort=sort,
            limit=most_rows(limit, output),
        )
    render.diff(found, output, sys.stdout.buffer)
    if output.for_people:
        remark(_summary(found))
    most, shown, there = most_rows(limit, output), len(found.rows), sum(found.states.values())
    if shown < there:
        remark(f"only the first {most:,} of each, {shown:,} of {there:,}: --limit 0 has all")
    print_caveats(found.caveats)


def _summary(found: Diff) -> str:
    counts = ", ".join(f"{count:,} {state}" for state, count in found.states.items() if count)
    long = (format_age(side.recorded_ns) for side in (found.before, found.after))
    return f"{counts or 'nothing on either side'}: {' before, '.join(long)} after"
