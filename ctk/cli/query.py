"""`ctk query`: flows by filters, or an answer in SQL."""

import re
import sys
from dataclasses import replace
from pathlib import Path

import click

import ctk
from ctk.cli.options import (
    FilterCommand,
    db_argument,
    filter_options,
    output_options,
    print_caveats,
    remark,
)
from ctk.errors import UsageError
from ctk.model import Filters
from ctk.render import tables as render
from ctk.render.tables import Output
from ctk.timespan import SECOND, parse_age


@click.command(cls=FilterCommand, short_help="List the flows in DB, or ask it in SQL.")
@db_argument
@click.argument("sql", required=False)
@click.option("-p", "--param", nargs=2, multiple=True, metavar="NAME VALUE", help="Value of :NAME.")
@click.option(
    "--timeout",
    type=parse_age,
    metavar="AGE",
    default="30s",
    show_default=True,
    help="How long SQL may take.",
)
@filter_options
@output_options
def query(
    db: Path,
    sql: str | None,
    param: tuple[tuple[str, str], ...],
    timeout: int,
    filters: Filters,
    output: Output,
) -> None:
    """
    List the flows in DB, oldest first.

    Or ask DB in SQL: its views are flows, flows_1m, flows_1h and flows_1d with the keys of
    -o jsonl, and pods, services, endpoints, nodes, gaps and recordings.

    \b
    ctk query node.db --since 15m --to-service shop/web --failed
    ctk query node.db "select dst, sum(bytes_out) from flows group by 1"
    """
    if param and sql is None:
        raise UsageError(
            "-p is for SQL", hint='"select * from flows where src = :ip" -p ip 10.0.0.1'
        )
    with ctk.open(db) as recording:
        if sql is not None:
            if filters != Filters():
                raise UsageError("filters and SQL exclude each other", hint="filter in its WHERE")
            params = {name: _value(text) for name, text in param}
            answer = recording.sql(sql, params, limit_s=timeout / SECOND)
            written = render.rows(answer.columns, answer, output, sys.stdout.buffer)
            if written == output.most and next(answer, None) is not None:
                remark(f"only the first {written:,} rows are shown: -o csv writes all")
            return
        if (filters.first, filters.last) != (None, None):
            output = replace(output, most=None)
        flows = recording.flows(filters)
        written = render.flows(flows, output, sys.stdout.buffer)
        if written == output.most and next(flows, None) is not None:
            remark(
                f"only the first {written:,} flows are shown: --last 50 shows the end, -o csv all"
            )
        print_caveats(flows.caveats)


def _value(text: str) -> str | int | float:
    """Read a number as one: to SQL the text '5' is larger than any number."""
    if re.fullmatch(r"-?(0|[1-9][0-9]{0,17})", text):
        return int(text)
    return float(text) if re.fullmatch(r"-?[0-9]+\.[0-9]+", text) else text
