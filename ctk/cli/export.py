"""`ctk export`: flows for other programs, each of them once."""

import re
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import BinaryIO

import click

import ctk
from ctk.ask.flows import Flows
from ctk.ask.keywords import flags_of
from ctk.ask.pages import BEFORE_ALL, Position
from ctk.cli.options import (
    FilterCommand,
    db_argument,
    filter_options,
    print_caveats,
    refuse_one_file_twice,
    remark,
)
from ctk.errors import UsageError
from ctk.model import Filters
from ctk.numbers import parse_count, parse_size
from ctk.render import eventlog
from ctk.render import tables as render
from ctk.render.cursor import Cursor
from ctk.render.rotate import RotatingFile, cannot_write
from ctk.render.tables import Output
from ctk.store.columns import FLOW_KEYS, FlowRecord

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@click.command(cls=FilterCommand, short_help="Write the flows in DB out, for other programs.")
@db_argument
@click.option(
    "-o",
    "--format",
    "form",
    type=click.Choice(["jsonl", "log", "csv", "tsv", "json"]),
    default="jsonl",
    show_default=True,
    help="log is the event log's form: one JSON object a line, empty fields left out.",
)
@click.option("--output", type=click.Path(path_type=Path), metavar="FILE", help="Not to stdout.")
@click.option("--max-size", type=parse_size, metavar="SIZE", help="Put FILE aside when it is full.")
@click.option(
    "--keep", type=parse_count, metavar="N", default=5, show_default=True, help="How many of them."
)
@click.option("--compress", is_flag=True, help="Compress what is put aside.")
@click.option("--cursor", metavar="NAME", help="Go on where the last export by this NAME stopped.")
@filter_options
def export(
    db: Path,
    form: str,
    output: Path | None,
    max_size: int | None,
    keep: int,
    compress: bool,
    cursor: str | None,
    filters: Filters,
) -> None:
    """
    Write the flows in DB out, oldest first.

    With --cursor every flow is written exactly once, however often this runs. What NAME had is
    kept in a file beside FILE, or beside DB: DB itself is never written.

    \b
    ctk export node.db --format log --output flows.log --max-size 64MiB --cursor siem
    """
    if form == "json" and (cursor or max_size):
        raise UsageError("json is one array: it cannot be gone on with", hint="--format jsonl")
    if max_size is not None and output is None:
        raise UsageError("--max-size needs a file to put aside", hint="--output FILE")
    if cursor is not None and not _NAME.fullmatch(cursor):
        raise UsageError(f"{cursor!r} is not a name for a cursor", hint="--cursor siem")
    if cursor is not None and filters.last is not None:
        raise UsageError("--last would skip flows for good", hint="--first 1000 --cursor siem")
    refuse_one_file_twice(db, {"--output": output})
    with ctk.open(db) as recording:
        went = _Export(db, output, cursor, recording.identity(), flags_of(filters))
        flows = recording.flows(filters, after=went.after)
        if form == "json":
            with _opened(output) as out:
                render.rows(FLOW_KEYS, flows, Output(format="json"), out)
        else:
            encode = eventlog.log_line if form == "log" else render.encoder(form, FLOW_KEYS)
            header = b"" if form == "log" else render.header(form, FLOW_KEYS)
            if output is None:
                _to_stdout(flows, encode, header, went)
            else:
                with RotatingFile(
                    output,
                    max_bytes=max_size,
                    keep=keep,
                    compress=compress,
                    header=header,
                    start_bytes=went.output_bytes,
                    on_size=went.keep,
                ) as file:
                    went.keep(file.size)
                    went.write(flows, encode, file.write)
                    went.keep(file.size)
        print_caveats(flows.caveats)


class _Export:
    """How far an export is, and, with a cursor, where the last one by that name stopped."""

    def __init__(
        self, db: Path, output: Path | None, name: str | None, recording: str, flags: str
    ) -> None:
        beside = output or db
        self._path = beside.with_name(f"{beside.name}.{name}.cursor") if name else None
        self._recording = recording
        self._flags = flags
        self.after: Position | None = None
        # A file that goes on is cut where the last export knew to be; else it starts anew.
        self.output_bytes: int | None = None if name else 0
        last = Cursor.load(self._path) if self._path else None
        # A file without a recording may have got its first one since.
        goes_on = last is not None and last.recording in ("", recording)
        self.is_new = not goes_on
        if last is not None and goes_on:
            if last.filters != flags:
                raise UsageError(
                    f"the cursor {self._path} goes by {last.filters or 'no filter'}: by another it"
                    " would skip flows for good",
                    hint="give the same filters, or another --cursor",
                )
            self.after = Position(last.started_ns, last.number, last.late_id)
            self.output_bytes = last.output_bytes
        elif last is not None:
            remark(f"{db} is another file than the one {self._path} was kept for: read anew")

    def write(
        self,
        flows: Flows,
        encode: Callable[[FlowRecord], bytes],
        write: Callable[[bytes], object],
    ) -> None:
        """Write flows, a line each; what is kept from then on is that they are written."""
        for flow in flows:
            write(encode(flow))
            self.after = flows.position

    def keep(self, output_bytes: int) -> None:
        """Keep for the next export by this name what is written by now."""
        if self._path is not None:
            Cursor(
                recording=self._recording,
                **(self.after or BEFORE_ALL)._asdict(),
                filters=self._flags,
                output_bytes=output_bytes,
            ).save(self._path)


def _to_stdout(
    flows: Flows,
    encode: Callable[[FlowRecord], bytes],
    header: bytes,
    went: _Export,
) -> None:
    out = sys.stdout.buffer
    went.keep(0)  # where that cannot be, nothing is to go out
    if went.is_new:
        out.write(header)
    went.write(flows, encode, lambda line: out.write(line + b"\n"))
    out.flush()
    went.keep(0)


def _opened(output: Path | None) -> AbstractContextManager[BinaryIO]:
    if output is None:
        return nullcontext(sys.stdout.buffer)
    try:
        return output.open("wb")
    except OSError as error:
        raise cannot_write(output, error) from error
