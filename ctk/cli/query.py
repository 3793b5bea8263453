"""`ctk query`: flows by filters, or an answer in SQL."""

import re
import sys
from itertools import chain, takewhile
from pathlib import Path

import click

import ctk
from ctk.ask.recording import Recording
from ctk.cli.filters import FilterCommand, filter_options
from ctk.cli.interrupt import interrupts, nobody_reads
from ctk.cli.options import (
    Targets,
    observers_option,
    output_options,
    print_caveats,
    print_new_caveats,
    remark,
    sql_arguments,
)
from ctk.errors import UsageError
from ctk.model import Filters
from ctk.model.numbers import parse_size
from ctk.render import tables as render
from ctk.render.tables import Output
from ctk.timespan import SECOND, parse_age

_BEFORE = 10  # flows that are listed before those that come, as `tail -f` has it


@click.command(cls=FilterCommand, short_help="List the flows in DB, or ask it in SQL.")
@sql_arguments
@click.option("-p", "--param", nargs=2, multiple=True, metavar="NAME VALUE", help="Value of :NAME.")
@click.option(
    "--timeout",
    type=parse_age,
    metavar="DURATION",
    default="30s",
    show_default=True,
    help="How long SQL may take.",
)
@click.option(
    "--memory",
    type=parse_size,
    metavar="SIZE",
    default="256MiB",
    show_default=True,
    help="How much memory SQL may take.",
)
@click.option(
    "--attach",
    nargs=2,
    multiple=True,
    metavar="NAME FILE",
    help="Another SQLite file for SQL, by NAME.",
)
@click.option("--explain", is_flag=True, help="Say how SQLite would answer the SQL.")
@click.option(
    "-f",
    "--follow",
    is_flag=True,
    help="List the last 10 flows, or those --since, and what comes, until Ctrl-C.",
)
@observers_option
@filter_options
@output_options
def query(
    db: Targets,
    sql: str | None,
    param: tuple[tuple[str, str], ...],
    timeout: int,
    memory: int,
    attach: tuple[tuple[str, str], ...],
    explain: bool,
    follow: bool,
    all_observers: bool,
    filters: Filters,
    output: Output,
) -> None:
    """
    List the flows in DB, oldest first.

    Or ask DB in SQL, given as a word, as @FILE, or as - on standard input. `ctk schema` tells of
    its views and their columns. Times compare as numbers: started_ns >= ago('1h'),
    started_ns >= ns('2024-11-25'), started_ns >= :since_ns and started_ns < :until_ns with
    --since and --until.

    \b
    ctk query node.db --since 15m --to-service shop/web --failed
    ctk query node.db "select dst, sum(bytes_out) from flows
      where started_ns > ago('1h') group by 1"
    """
    if sql is None:
        for flag, given in (("-p", param), ("--attach", attach), ("--explain", explain)):
            if given:
                hint = '"select * from flows where src = :ip" -p ip 10.0.0.1'
                raise UsageError(f"{flag} is for SQL", hint=hint)
    elif (filters.first, filters.last, filters.terms) != (None, None, ()):
        raise UsageError("filters and SQL exclude each other", hint="filter in its WHERE")
    if follow:
        _refuse_to_follow(sql, filters, output)
    with ctk.open(db, all_observers=all_observers) as recording:
        if sql is not None:
            answer = recording.sql(
                _statement(sql),
                {name: _value(text) for name, text in param},
                filters,
                limit_s=timeout / SECOND,
                memory_bytes=memory,
                explain=explain,
                attach=_by_name(attach),
            )
            if explain and output.for_people:
                render.plan(answer, sys.stdout.buffer)
                return
            written = render.rows(answer.columns, answer, output, sys.stdout.buffer)
            if written == output.most and next(answer, None) is not None:
                remark(f"only the first {written:,} rows are shown: -o csv writes all")
            print_caveats(answer.caveats)
            return
        if follow:
            _follow(recording, filters, output)
            return
        if (filters.first, filters.last) != (None, None):
            output = output._replace(most=None)
        flows = recording.flows(filters)
        written = render.flows(flows, output, sys.stdout.buffer, nodes=not isinstance(db, Path))
        if written == output.most and next(flows, None) is not None:
            remark(
                f"only the first {written:,} flows are shown: --last 50 shows the end, -o csv all"
            )
        print_caveats(flows.caveats)


def _refuse_to_follow(sql: str | None, filters: Filters, output: Output) -> None:
    if sql is not None:
        raise UsageError("what is followed are flows, not SQL", hint="filters, or no --follow")
    if output.format == "json":
        raise UsageError("json is one array: it cannot be gone on with", hint="-o jsonl")
    if filters.first is not None or filters.until_ns is not None:
        raise UsageError("--follow has no end", hint="--since 15m, or no --follow")


def _follow(recording: Recording, filters: Filters, output: Output) -> None:
    """List flows as they come, under one head, until somebody interrupts it."""
    if (filters.since_ns, filters.last) == (None, None):
        filters = filters._replace(last=_BEFORE)
    output = output._replace(most=None, screen=output.screen._replace(pager=""))
    told: set[str] = set()
    with interrupts() as interrupted:

        def wait(seconds: float) -> bool:
            if nobody_reads(sys.stdout):  # `| head` has what it wants
                raise BrokenPipeError
            return interrupted.wait(seconds)

        for flows in recording.follow(filters, wait=wait).rounds():
            going_on = takewhile(lambda _: not interrupted.is_set(), flows)
            for first in going_on:
                render.flows(chain((first,), going_on), output, sys.stdout.buffer)
                # What was said above the first flows is not said again.
                screen = output.screen._replace(left_out=lambda titles: None)
                output = output._replace(titled=False, screen=screen)
            sys.stdout.buffer.flush()
            print_new_caveats(flows.caveats, told)
            if interrupted.is_set():
                return


def _by_name(attach: tuple[tuple[str, str], ...]) -> dict[str, str]:
    files = dict(attach)
    if len(files) < len(attach):
        raise UsageError(
            "two files are attached by one name", hint="--attach a a.db --attach b b.db"
        )
    return files


def _statement(word: str) -> str:
    """Give the SQL itself: from standard input for -, and from FILE for @FILE."""
    if word == "-":
        raw = sys.stdin.buffer.read()
    elif word.startswith("@"):
        try:
            raw = Path(word[1:]).read_bytes()
        except OSError as error:
            raise UsageError(
                f"{word[1:] or 'the file behind @'} cannot be read: {error.strerror}",
                hint="@FILE is a file of SQL",
            ) from error
    else:
        return word
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise UsageError(f"the SQL in {word} is not UTF-8", hint="save it as UTF-8") from error


def _value(text: str) -> str | int | float:
    """Read a number as one: to SQL the text '5' is larger than any number."""
    if re.fullmatch(r"-?(0|[1-9][0-9]*)", text):
        if not -(2**63) <= int(text) < 2**63:
            raise UsageError(f"{text} is more than SQLite counts", hint="write it into the SQL")
        return int(text)
    return float(text) if re.fullmatch(r"-?[0-9]+\.[0-9]+", text) else text
