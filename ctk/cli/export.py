"""`ctk export`: flows for other programs."""

import math
import re
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import get_args

import click

import ctk
from ctk.ask.flows import Flows
from ctk.ask.keywords import flags_of
from ctk.ask.recording import Recording
from ctk.cli.bar import Bar
from ctk.cli.filters import FilterCommand, filter_options
from ctk.cli.interrupt import interrupts
from ctk.cli.options import (
    Dbs,
    dbs_argument,
    observers_option,
    print_caveats,
    print_new_caveats,
    refuse_one_file_twice,
    remark,
)
from ctk.errors import StoreError, UsageError
from ctk.model import Filters
from ctk.model.numbers import parse_count, parse_size
from ctk.render import forms
from ctk.render.compress import SUFFIXES, Compression, Packer
from ctk.render.cursor import path_of
from ctk.render.feed import Sink, Stream, Written
from ctk.render.lines import Encoder, Records, TimeUnit
from ctk.render.place import Place, cannot_write, is_no_file
from ctk.render.rotate import RotatingFile
from ctk.timespan import SECOND, parse_age

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{,99}")  # it is a part of a file's


@click.command(cls=FilterCommand, short_help="Write the flows in DB out, for other programs.")
@dbs_argument
@click.option(
    "-o",
    "--format",
    "form",
    type=click.Choice(forms.FORMS),
    default="jsonl",
    show_default=True,
    help="log is the event log's form: one JSON object a line, empty fields left out.",
)
@click.option(
    "--time",
    type=click.Choice(get_args(TimeUnit)),
    help="Times as numbers of ns or us beside their texts, or as texts only.  [default: ns]",
)
@click.option(
    "--log-accounting",
    is_flag=True,
    help="Of the log: also what no event tells, bytes of connections that go on.",
)
@click.option("-f", "--follow", is_flag=True, help="Go on with what is written, until Ctrl-C.")
@click.option(
    "--output",
    type=click.Path(),
    metavar="FILE",
    help="Not to stdout; FILE.gz and FILE.zst are compressed, parquet in DIR/ is a file a day.",
)
@click.option("--max-size", type=parse_size, metavar="SIZE", help="Put FILE aside when it is full.")
@click.option("--max-age", type=parse_age, metavar="AGE", help="Put FILE aside when it is old.")
@click.option(
    "--keep",
    type=parse_count,
    metavar="N",
    help="Throw away what was put aside but for the newest N.  [default: keep all]",
)
@click.option(
    "--compress",
    type=click.Choice(get_args(Compression)),
    help="Compress what goes to stdout.",
)
@click.option("--cursor", metavar="NAME", help="Go on where the last export by this NAME stopped.")
@observers_option
@filter_options
def export(
    db: Dbs,
    form: forms.Form,
    time: TimeUnit | None,
    log_accounting: bool,
    follow: bool,
    output: str | None,
    max_size: int | None,
    max_age: int | None,
    keep: int | None,
    compress: Compression | None,
    cursor: str | None,
    all_observers: bool,
    filters: Filters,
) -> None:
    """
    Write the flows in DB out, oldest first.

    With --cursor an export goes on where the last one by that NAME stopped, however that ended:
    FILE, with what was put aside, has every flow exactly once, and standard output was told
    every flow at least once; of log, every flow that an event told. NAME is kept beside FILE, or
    beside DB: DB itself is never written.
    Without, FILE is replaced when all is written, which a line says.

    \b
    ctk export node.db --format log --cursor siem \\
      --output flows.log --max-size 64MiB
    ctk export node.db --format parquet --output flows/
    """
    path = None if output in (None, "-") else Path(str(output))
    dbs = (db,) if isinstance(db, Path) else db
    _refuse_form(form, time, whole_only=bool(cursor or follow or max_size or max_age))
    if log_accounting and form != "log":
        raise UsageError(f"{form} has what no event tells, too", hint="--log-accounting is for log")
    _refuse_place(form, path, compress, {"--max-size": max_size, "--max-age": max_age}, keep)
    _refuse_cursor(cursor, filters, follow=follow, several=len(dbs) > 1)
    for each in dbs:
        refuse_one_file_twice(each, {"--output": path})
    if path is not None and (str(output).endswith("/") or path.is_dir()):
        _refuse_folder(form, path, filters)
        with ctk.open(db, all_observers=all_observers) as recording, interrupts() as interrupted:
            _write_days(recording, filters, path, time or "ns", interrupted)
        return
    encoder = forms.encoder(form, time=time or "ns", accounting=log_accounting)
    place = _ExportPlace(
        path,
        max_size,
        max_age,
        keep,
        compress,
        goes_on=cursor is not None,
        whole=not (cursor or follow),
    )
    kept = path_of(path or dbs[0], cursor) if cursor else None
    flags = [form, f"--time {time}" * (time is not None), "--log-accounting" * log_accounting]
    flags.append("--all-observers" * all_observers)
    pipe = path if path is not None and path.is_fifo() else None
    with ctk.open(db, all_observers=all_observers) as recording, interrupts(pipe) as interrupted:
        identity = recording.identity() if cursor or follow else ""
        written = Written(kept, identity, flags_of(filters), " ".join(filter(None, flags)))
        if written.is_of_another:
            remark(f"{db} is another file than the one {kept} was kept for: read anew")
        with place.opened(encoder, written) as sink:
            written.keep(sink)  # where that cannot be, nothing is to go out
            if follow:
                _follow(recording, filters, encoder, written, sink, interrupted, place.tell)
                _tell_left_out(encoder)
                return
            flows = recording.flows(filters, after=written.after)
            with Bar(shown=path is not None or not sys.stdout.isatty()) as bar:

                def stops() -> bool:
                    bar.show(flows.part, written.count)
                    return interrupted.is_set()

                written.write(flows, encoder, sink, stops)
            if not interrupted.is_set() and (end := encoder.end()):
                sink.write_lines((end,))
            written.keep(sink)
            if interrupted.is_set():
                raise click.Abort
            place.is_whole = True
        place.tell()
        _tell_left_out(encoder)
        print_caveats(flows.caveats)


def _tell_left_out(encoder: Encoder) -> None:
    """Say how many flows the log has no line of."""
    if isinstance(encoder, Records) and encoder.left_out:
        flows = "1 flow" if encoder.left_out == 1 else f"{encoder.left_out:,} flows"
        remark(
            f"{flows} that no event told, bytes of connections that go on, left out:"
            " --log-accounting has them"
        )


def _refuse_folder(form: str, path: Path, filters: Filters) -> None:
    if form != "parquet":
        raise UsageError(f"{path} is a folder", hint=f"name a file: --output {path}/flows.{form}")
    if (filters.first, filters.last, filters.terms) != (None, None, ()):
        raise UsageError(
            "a folder has whole days: what is there is not written again",
            hint="leave all filters out but --since and --until",
        )


def _write_days(
    recording: Recording,
    filters: Filters,
    folder: Path,
    time: TimeUnit,
    interrupted: threading.Event,
) -> None:
    """Write the days that are not there yet, and say which."""
    from ctk.render.parquetdays import Reach, write_days
    from ctk.store.levels import SETTLED_NS

    reaches = [
        Reach(str(node), *(int(ns or 0) for ns in span))
        for node, *span in recording.sql(
            "SELECT node, MIN(started_ns), MAX(MAX(committed_ns, IFNULL(ended_ns, 0))),"
            f" MAX(IFNULL(ended_ns, committed_ns - {SETTLED_NS})) FROM recordings GROUP BY node"
        )
    ]
    if not reaches:
        raise UsageError("nothing was recorded in the file", hint="ctk info DB")

    def flows_of(since_ns: int, until_ns: int) -> Flows:
        since, until = filters.since_ns, filters.until_ns
        day = filters._replace(
            since_ns=since_ns if since is None else max(since, since_ns),
            until_ns=until_ns if until is None else min(until, until_ns),
        )
        return recording.flows(day)

    with Bar(shown=True) as bar:

        def stops(flows: Flows, count: int) -> bool:
            bar.show(flows.part, count)
            return interrupted.is_set()

        span = filters.since_ns, filters.until_ns
        try:
            written = list(write_days(folder, reaches, span, time, flows_of, stops))
        except OSError as error:
            raise cannot_write(folder, error) from error
    for path, count in written:
        remark(f"{path}: {count:,} flows")
    if interrupted.is_set():
        raise click.Abort
    print_caveats(recording.flows(filters).caveats)


def _follow(
    recording: Recording,
    filters: Filters,
    encoder: Encoder,
    written: Written,
    sink: Sink,
    interrupted: threading.Event,
    after_each: Callable[[], None],
) -> None:
    """Write what there is, and what comes, until somebody interrupts it."""
    told: set[str] = set()
    asked = recording.follow(filters, after=written.after, wait=interrupted.wait)
    for flows in asked.rounds():
        if recording.identity() != written.recording != "":
            raise StoreError(f"{recording.path} is another file now", hint="begin anew")
        written.write(flows, encoder, sink, interrupted.is_set)
        written.keep(sink)
        after_each()
        print_new_caveats(flows.caveats, told)
        if interrupted.is_set():
            return


class _ExportPlace:
    """Where the lines go: a file, which may be put aside and compressed, or standard output."""

    def __init__(
        self,
        output: Path | None,
        max_bytes: int | None,
        max_age_ns: int | None,
        keep: int | None,
        compress: Compression | None,
        *,
        goes_on: bool,
        whole: bool,
    ) -> None:
        self._replaced: str | None = None
        if output is not None:
            compress = SUFFIXES.get(output.suffix)
            place = Place.of(output)
            output, whole = place.path, whole and place.seen_whole
            if not goes_on:
                self._replaced = place.replaced
        self.is_whole = False
        self._output = output
        self._max_bytes = max_bytes
        self._max_age_s = math.inf if max_age_ns is None else max_age_ns / SECOND
        self._keep = keep
        self._packer = Packer(compress, max_bytes) if compress else None
        self._seen_whole = whole
        self._removed: list[int] = []  # lines of each file that was thrown away

    @contextmanager
    def opened(self, encoder: Encoder, written: Written) -> Iterator[Sink]:
        """Open it; where it is to be seen whole only, it is there at the end if `is_whole`."""
        if self._output is None:
            stream = Stream(sys.stdout.buffer, self._packer)
            if not written.goes_on and encoder.header:
                stream.write_header(encoder.header)
            yield stream
            return
        with RotatingFile(
            self._output,
            max_bytes=self._max_bytes,
            max_age_s=self._max_age_s,
            keep=self._keep,
            packer=self._packer,
            header=encoder.header,
            start_bytes=written.output_bytes if written.is_kept else 0,
            began_s=written.began_s,
            whole=self._seen_whole,
            on_size=lambda size: written.note(file),
            on_removed=self._removed.append,
        ) as file:
            try:
                yield file
            except StoreError as error:
                if isinstance(error.__cause__, BrokenPipeError):  # as it is of standard output
                    raise error.__cause__ from None
                raise
            finally:
                file.finish() if self.is_whole else file.give_up()

    def tell(self) -> None:
        """Say what was replaced, once, and what was thrown away since the last time."""
        if self._replaced:
            remark(self._replaced)
            self._replaced = None
        if self._removed:
            files, lines = len(self._removed), sum(self._removed)
            what = "1 file" if files == 1 else f"{files:,} files"
            remark(f"{what} put aside before, of {lines:,} lines, thrown away: --keep {self._keep}")
            self._removed.clear()


def _refuse_place(
    form: str,
    output: Path | None,
    compress: str | None,
    limits: Mapping[str, int | None],
    keep: int | None,
) -> None:
    given = [flag for flag, limit in limits.items() if limit is not None]
    if output is None:
        if given:
            raise UsageError(f"{given[0]} needs a file to put aside", hint="--output FILE")
        if (binary := "parquet" if form == "parquet" else compress) and sys.stdout.isatty():
            suffix = next((name for name, each in SUFFIXES.items() if each == compress), "")
            hint = f"--output flows.{form}{suffix}"
            raise UsageError(f"{binary} is not for a terminal", hint=hint)
    elif compress is not None:
        raise UsageError("--compress is for stdout", hint=f"--output {output}.gz")
    elif given and is_no_file(output) and not output.is_dir():
        raise UsageError(f"{output} cannot be put aside: it is no file", hint=f"no {given[0]}")
    if keep is not None and not given:
        raise UsageError("--keep is for what is put aside", hint="--max-size 64MiB --keep 5")


def _refuse_form(form: forms.Form, time: str | None, *, whole_only: bool) -> None:
    if form in forms.WHOLE and whole_only:
        what = "one array" if form == "json" else "one whole"
        raise UsageError(f"{form} is {what}: it cannot be gone on with", hint="--format jsonl")
    if time is not None and form not in forms.WITH_KEYS:
        raise UsageError(
            f"{form} has its own form of times", hint=f"--time is for {', '.join(forms.WITH_KEYS)}"
        )


def _refuse_cursor(cursor: str | None, filters: Filters, *, follow: bool, several: bool) -> None:
    if cursor is not None and not _NAME.fullmatch(cursor):
        raise UsageError(f"{cursor!r} is not a name for a cursor", hint="--cursor siem")
    if cursor is not None and several:
        raise UsageError("a cursor is of one file", hint="export each to a file of its own")
    if cursor is not None and filters.last is not None:
        raise UsageError("--last would skip flows for good", hint="--first 1000 --cursor siem")
    if follow and (filters.first is not None or filters.until_ns is not None):
        raise UsageError("--follow has no end", hint="--since 15m, or no --follow")
