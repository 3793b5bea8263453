"""`ctk info`: what a file holds, and how fresh it is."""

import sys
import time
from pathlib import Path

import click

import ctk
from ctk.cli.options import output_options, print_caveats, remark, target_argument
from ctk.errors import CtkError, UsageError
from ctk.render import tables as render
from ctk.render.description import description as describe
from ctk.render.tables import Output
from ctk.store.lock import is_written
from ctk.timespan import SECOND, format_age, parse_age


@click.command(short_help="Say what DB holds.")
@target_argument
@click.option("--gaps", is_flag=True, help="List what was lost or unknown, and when.")
@click.option(
    "--fresh",
    "fresh_ns",
    type=parse_age,
    metavar="DURATION",
    help="Say only how old DB's last commit is: exit 1 if older, or if nobody writes it.",
)
@output_options
def info(db: Path | str, gaps: bool, fresh_ns: int | None, output: Output) -> None:
    """
    Say what DB holds: its span, nodes, recordings, gaps, and the size of each table.

    A level is folded until the last bucket that is finished, and pruned until the first that is
    kept. A recorder commits each window, and at least every 30 s and a window.

    \b
    ctk info node.db
    ctk info node.db --gaps
    """
    if gaps and fresh_ns is not None:
        raise UsageError("--gaps and --fresh exclude each other", hint="give one of them")
    with ctk.open(db) as recording:
        if fresh_ns is not None:
            _tell_freshness(db, recording.committed()[0], fresh_ns)
        elif gaps:
            found = recording.gaps()
            render.gaps(found, output, sys.stdout.buffer)
            if not found and output.for_people:
                remark("no gaps")
            print_caveats(found.caveats)
        else:
            description = recording.describe()
            describe(description, output, sys.stdout.buffer)
            print_caveats(description.caveats)


def _tell_freshness(db: Path | str, committed_ns: int, fresh_ns: int) -> None:
    """Print how old the last commit is; a CtkError where that is too old."""
    # A clock that was set back makes nothing old.
    age_ns = max(0, time.time_ns() - committed_ns) // SECOND * SECOND
    # What is shipped is as fresh as the node that shipped last.
    written = isinstance(db, str) or is_written(db)
    if committed_ns == 0:
        said = f"{db} has no commit yet"
    else:
        said = f"{db} was last committed {format_age(age_ns)} ago"
    if not written:
        raise CtkError(f"{said}, and nobody writes it", hint=f"ctk record {db}")
    if age_ns > fresh_ns or committed_ns == 0:
        raise CtkError(said, hint="look at what its recorder says")
    click.echo(said)
