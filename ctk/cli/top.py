"""`ctk top`: who moved most."""

import sys

import click

import ctk
from ctk.ask.caveats import each_once
from ctk.ask.presets import EITHER_KEYS, PRESETS, SIDES, RankedSide, expanded
from ctk.ask.recording import Recording
from ctk.ask.sums import KEYS, SEEN, SORTS, check_keys
from ctk.ask.top import Top
from ctk.cli.filters import FilterCommand, filter_options
from ctk.cli.options import (
    Targets,
    complete_keys,
    observers_option,
    output_options,
    print_caveats,
    remark,
    targets_argument,
)
from ctk.errors import UsageError
from ctk.model import Filters
from ctk.model.numbers import parse_count
from ctk.render import ranking as render
from ctk.render.tables import Output
from ctk.timespan import SECOND, format_age, parse_age

_SHOWN = 20  # of a table, unless --limit says otherwise
_STEPS = 12, 24  # of a picture: at least so many columns, and at most
_SPAN_HINT = "--since 1h in place of --first, --last"
_MOST_DRAWN = 200  # rows, where nobody asked for pictures

_HELP = f"""
Rank who moved most in DB.

KEYS is a preset: {", ".join(PRESETS)}. Or comma-separated keys, of either side:
{", ".join(EITHER_KEYS)}; of the two sides, by the finest name that is known: source, destination;
of a flow: {", ".join(key for key in KEYS if key not in (*EITHER_KEYS, "source", "destination"))}.

A flow between two pods counts for both of them, or for the one of --side; the total counts it once.
By src_port every flow of the span is read: some seconds for each million.

\b
ctk top node.db --since 24h
ctk top node.db --by pods --by services --sort failed
ctk top node.db --by src_workload,dst_port --from-namespace shop --rate
ctk top node.db --by pods --to-kind external
ctk top node.db --watch
"""


@click.command(cls=FilterCommand, help=_HELP, short_help="Rank who moved most in DB.")
@targets_argument
@click.option(
    "--by",
    multiple=True,
    default=("pairs",),
    metavar="KEYS",
    shell_complete=complete_keys,
    help="What to rank; again for a further list.  [default: pairs]",
)
@click.option(
    "--sort",
    type=click.Choice(tuple(SORTS)),
    metavar="COUNT",
    help=f"The largest or latest first: {', '.join(SORTS)}."
    "  [default: bytes, or connections if none were counted]",
)
@click.option(
    "--side",
    type=click.Choice(SIDES),
    default="both",
    show_default=True,
    help="Whose pod, workload, namespace, ... it is: who dialled, who answered, or both.",
)
@click.option("--rate", is_flag=True, help="Each count a second of the span that was recorded.")
@click.option(
    "--limit",
    type=parse_count,
    metavar="N",
    help=f"How many rows; 0 for all.  [default: {_SHOWN} of a table, else all]",
)
@click.option(
    "--spark/--no-spark",
    default=None,
    help="When it moved, as a line of blocks.  [default: where the terminal has room]",
)
@click.option(
    "--watch",
    metavar="DURATION",
    is_flag=False,
    flag_value="2s",
    help="Look again every so often; on a terminal a table that keys move: ? shows them.  [2s]",
)
@observers_option
@filter_options
@output_options
def top(
    db: Targets,
    by: tuple[str, ...],
    sort: str | None,
    side: RankedSide,
    rate: bool,
    limit: int | None,
    spark: bool | None,
    watch: str | None,
    all_observers: bool,
    filters: Filters,
    output: Output,
) -> None:
    """Rank."""
    lists = [[key.strip() for key in keys.split(",")] for keys in by]
    for keys in lists:
        check_keys(keys, "--by")
    if watch is not None and isinstance(db, str):
        raise UsageError("--watch looks at a node's file", hint="leave --watch out")
    if watch is not None and all_observers:
        raise UsageError("nothing is added to what was merged", hint="leave --watch out")
    if watch is not None and (rate or side != "both" or limit is not None):
        raise UsageError(
            "--watch shows all rows, of both sides, in totals",
            hint="leave --rate, --side and --limit out; in it, c shows rates",
        )
    if watch is not None and sort is not None and SORTS[sort] in SEEN:
        raise UsageError(f"--watch cannot sort by {sort}", hint="leave --watch out")
    if watch is not None:
        _watch(db, lists, sort, filters, output, watch)
        return
    if rate and (filters.first, filters.last) != (None, None):
        raise UsageError("--rate needs a span of time", hint=_SPAN_HINT)
    if limit is None and output.for_people:
        limit = _SHOWN
    if spark is None and isinstance(db, str):
        spark = False  # the rows of all steps would be brought here
    is_plain = output.format in ("table", "name") and not output.columns
    with ctk.open(db, all_observers=all_observers) as recording:
        ranked = [
            recording.top(
                filters,
                by=keys,
                sort=sort,
                side=side,
                limit=limit or None,
                seen=not is_plain,
                counts=render.SHOWN if is_plain else None,
            )
            for keys in lists
        ]
        # Pictures are in every list, or in none: what one has room for, they all have.
        room = min(render.spare(each, output, rate=rate) for each in ranked)
        drawn = [_drawn(recording, filters, each, output, side, spark, room) for each in ranked]
    if len(ranked) == 1:
        render.top(ranked[0], output, sys.stdout.buffer, rate=rate, drawn=drawn[0])
    else:
        render.tops(ranked, output, sys.stdout.buffer, rate=rate, drawn=drawn)
    _say(ranked, output, rate)


def _drawn(
    recording: Recording,
    filters: Filters,
    ranked: Top,
    output: Output,
    side: RankedSide,
    wanted: bool | None,
    room: int,
) -> render.Drawn | None:
    """Give when each row moved what ranks it, by one question for all of them; None for none."""
    if wanted and not output.for_people:
        raise UsageError(f"-o {output.format} has no pictures", hint="ctk series has the steps")
    if wanted is False or not output.for_people or not ranked.rows or output.columns:
        return None
    if (filters.first, filters.last) != (None, None):
        if wanted:
            raise UsageError("--spark needs a span of time", hint=_SPAN_HINT)
        return None
    most = _STEPS[1]
    if not wanted:
        if output.format != "table" or len(ranked.rows) > _MOST_DRAWN:
            return None
        most = min(room, most)
        if most < _STEPS[0]:
            return None
    from ctk.render.overtime import drawn

    # Where all groups are shown, there is nothing to leave out.
    rows = [row.keys for row in ranked.rows] if ranked.groups > len(ranked.rows) else None
    found = recording.series(
        filters,
        by=ranked.by,
        step=None,
        sort=None if SORTS[ranked.sort] in SEEN else ranked.sort,
        most_steps=most - 1,  # a span may begin within one
        side=side,
        among=rows,
    )
    return render.Drawn(f"EACH {format_age(found.step_ns)}", drawn(found))


def _say(ranked: list[Top], output: Output, rate: bool) -> None:
    """Say what the rows do not: what was cut, and what a rate is of."""
    for each in ranked:
        if each.groups > len(each.rows) and not output.has_foot:
            remark(f"only the first {len(each.rows):,} of {each.groups:,}: --limit 0 has all")
    if rate and ranked[0].span is not None:
        remark(f"rates are of {format_age(ranked[0].span[1] - ranked[0].span[0])}")
    print_caveats(each_once(caveat for each in ranked for caveat in each.caveats))


def _watch(
    db: Targets,
    lists: list[list[str]],
    sort: str | None,
    filters: Filters,
    output: Output,
    age: str,
) -> None:
    """Show the first list again and again: as a table that moves, or, piped, one after another."""
    from ctk.report.livetable import Look, Seen
    from ctk.report.terminal import stream, watch

    if len(lists) > 1:
        raise UsageError("--watch shows one list", hint="give --by once")
    every_s = parse_age(age) / SECOND
    if not every_s:
        raise UsageError(f"{age!r} is too short to look", hint="--watch 2s")
    with ctk.open(db) as recording:
        if not isinstance(recording, Recording):
            raise UsageError("--watch looks at one file", hint="name one")
        look = Look(by=expanded(lists[0]), filters=filters, sort=sort or "")
        if sys.stdin.isatty() and sys.stdout.isatty() and output.format == "table":
            watch(recording, look, every_s)
            return

        def show(seen: Seen) -> None:
            render.top(seen.top, output, sys.stdout.buffer)
            _say([seen.top], output, rate=False)

        stream(recording, look, every_s, show)
