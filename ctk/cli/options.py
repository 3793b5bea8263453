"""
Option decorators that commands share, and what they make of the words they are given.

A command gets one `Filters` and one `Output`, never the flags themselves.
"""

import functools
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO, TypeVar, get_args

import click

import ctk
from ctk.ask.caveats import Caveat, HasGaps
from ctk.ask.keywords import NAMES, SPAN, as_flag, filters_of
from ctk.ask.moments import Reference
from ctk.errors import UsageError
from ctk.numbers import parse_count
from ctk.render.layout import Screen
from ctk.render.pager import chosen as chosen_pager
from ctk.render.tables import Format, Output

F = TypeVar("F", bound=Callable[..., Any])

# More rows than these of a table on a terminal are not read by anybody.
TERMINAL_ROWS = 1_000

# The store says who may not read it: click would call that a wrong argument, with exit code 2.
db_argument = click.argument("db", type=click.Path(path_type=Path, readable=False))


# What may be asked of several files; it is called with `db`, one path or as many as were given.
dbs_argument = click.argument(
    "db",
    nargs=-1,
    required=True,
    metavar="DB...",
    type=click.Path(path_type=Path, readable=False),
    callback=lambda _ctx, _param, paths: paths[0] if len(paths) == 1 else paths,
)
Dbs = Path | tuple[Path, ...]


def sql_arguments(command: F) -> F:
    """Give a command files and, behind them, SQL; it is called with `db`, as above, and `sql`."""

    @functools.wraps(command)
    def split(words: tuple[str, ...], **given: Any) -> Any:
        *before, last = words
        sql = last if before and is_sql(last) else None
        paths = tuple(map(Path, before if sql is not None else words))
        return command(db=paths[0] if len(paths) == 1 else paths, sql=sql, **given)

    words = click.argument("words", nargs=-1, required=True, metavar="DB... [SQL]")
    return words(split)  # type: ignore[return-value]


def is_sql(word: str) -> bool:
    """Say whether a word is SQL, or where to read it, and not the path of a file."""
    if word in ("", "-") or word.startswith("@"):
        return True
    # Path.exists() fails where a word is too long for a name.
    return bool(re.search(r"[\s(;]", word)) and not os.path.exists(word)  # noqa: PTH110


def cluster_options(command: F) -> F:
    """Give a command `--kubeconfig` and `--context`."""
    for option in (
        click.option("--context", metavar="NAME", help="A context of the kubeconfig."),
        click.option(
            "--kubeconfig",
            type=click.Path(path_type=Path, exists=True, dir_okay=False),
            metavar="FILE",
            help="The cluster to ask for names; inside one, it is found without.",
        ),
    ):
        command = option(command)
    return command


def refuse_two_clusters(context: str | None, **given: object) -> None:
    """Take one way to know a cluster, of those given by their flags, and no stray context."""
    named = [as_flag(name) for name, value in given.items() if value]
    if len(named) > 1:
        raise UsageError(f"{' and '.join(named)} exclude each other", hint="give one of them")
    if context and not given["kubeconfig"]:
        raise UsageError("--context needs --kubeconfig", hint="--kubeconfig ~/.kube/config")


def refuse_one_file_twice(db: Path, others: Mapping[str, Path | None]) -> None:
    """What is written is written over: no file, nor what SQLite keeps beside DB, is two things."""
    taken = {
        Path(f"{db.resolve()}{beside}"): "DB itself" for beside in ("", "-wal", "-shm", ".lock")
    }
    for flag, path in others.items():
        if path is None:
            continue
        whole = path.resolve()
        if whole in taken:
            raise UsageError(f"{flag} is {taken[whole]}", hint="give it another name")
        taken[whole] = flag


class FilterCommand(click.Command):
    """
    A command with filters.

    `--not --pod web` is parsed as the hidden flag `--not-pod web`, since click's own parser
    forgets the order in which different flags came.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Join each --not to the filter behind it, then parse."""
        return super().parse_args(ctx, _join_not(args))

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the filters under a heading of their own."""
        sections: dict[str, list[tuple[str, str]]] = {"Filters": [], "Options": []}
        for param in self.get_params(ctx):
            if isinstance(param, click.Option) and (record := param.get_help_record(ctx)):
                filtering = (param.name or "").startswith("filter_")
                sections["Filters" if filtering else "Options"].append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)
            if title == "Filters":
                formatter.write_paragraph()
                with formatter.indentation():
                    formatter.write_text(
                        "The same flag twice is 'or', different flags are 'and'. Flags from "
                        "--namespace to --port look at both sides; --from-pod, --to-pod and so on "
                        "at one."
                    )


# Flags that have a letter, by it.
_LETTERS = {"n": "namespace", "l": "label"}


def _join_not(args: list[str]) -> list[str]:
    joined: list[str] = []
    remaining = iter(args)
    for arg in remaining:
        if arg == "--":
            return [*joined, arg, *remaining]
        if arg != "--not":
            joined.append(arg)
            continue
        negated = next(remaining, "")
        if negated[:1] == "-" and negated[1:2] in _LETTERS:
            joined += [f"--not-{_LETTERS[negated[1]]}", *([negated[2:]] if negated[2:] else [])]
        elif negated[:2] == "--" and _is_filter(negated[2:].partition("=")[0]):
            joined.append(f"--not-{negated[2:]}")
        else:
            raise UsageError("--not needs a filter behind it", hint="--not --pod NAME")
    return joined


def _is_filter(long_name: str) -> bool:
    name = long_name.replace("-", "_")
    return name in NAMES and not NAMES[name].negated


def filter_options(command: F) -> F:
    """Give a `FilterCommand` the filter flags; it is called with `filters`, a `Filters`."""

    @functools.wraps(command)
    def collect(**given: Any) -> Any:
        asked = {name: given.pop(f"filter_{name}") for name in (*SPAN, *NAMES)}
        given_flags = {name: value for name, value in asked.items() if value != ()}
        if given.pop("all_namespaces") and asked["namespace"]:
            raise UsageError("-A and --namespace exclude each other", hint="give one of them")

        def reference() -> Reference:
            with ctk.open(given["db"]) as recording:
                return recording.reference()

        filters = filters_of(
            given_flags, now_ns=time.time_ns(), reference=reference, spelled=as_flag
        )
        return command(filters=filters, **given)

    for option in reversed(_filter_params()):
        collect = option(collect)
    return collect  # type: ignore[return-value]


def _filter_params() -> list[Callable[[Any], Any]]:
    number: dict[str, Any] = {"type": parse_count, "metavar": "N"}
    moment: dict[str, Any] = {"metavar": "TIME"}
    text = "From then on: 15m, '10 min ago', 09:00, yesterday, 2024-11-25T18:47:22Z."
    params = [
        click.option("--since", "filter_since", **moment, help=text),
        click.option("--until", "filter_until", **moment, help="Before then: written the same."),
        click.option(
            "--for", "filter_for_", metavar="AGE", help="So long from --since, or up to --until."
        ),
        click.option("--last", "filter_last", **number, help="Only the last N."),
        click.option("--first", "filter_first", **number, help="Only the first N."),
    ]
    for name, (field, side, negated) in NAMES.items():
        letter = [f"-{letter}" for letter, long_name in _LETTERS.items() if long_name == name]
        names = [*letter, as_flag(name), f"filter_{name}"]
        kind: dict[str, Any] = {"is_flag": True}
        if field.form is not None:
            kind = {"multiple": True, "metavar": field.form}
        hidden = negated or side != "any"
        params.append(click.option(*names, **kind, help=field.help, hidden=hidden))
    text = "Negate the filter behind it: --not --pod web-1."
    params.append(click.option("--not", "filter_not", is_flag=True, expose_value=False, help=text))
    text = "Of all namespaces, as without it."
    params.append(click.option("-A", "--all-namespaces", is_flag=True, help=text))
    return params


_OUTPUT = (
    click.option(
        "-o",
        "--format",
        "output_format",
        type=click.Choice(get_args(Format)),
        default="table",
        show_default=True,
        help="The form of the answer; wide has more columns, name only names.",
    ),
    click.option(
        "--columns", metavar="NAMES", help="Only these columns, by the names in -o json: src,bytes."
    ),
    click.option("--no-headers", is_flag=True, help="No names of columns, and no total."),
    click.option("--utc", is_flag=True, help="Times in UTC; else TZ's zone, and JSON in UTC."),
    click.option("--no-pager", is_flag=True, help="Never page; else CTK_PAGER, PAGER or less."),
)


def output_options(command: F) -> F:
    """Give a command `-o` and how a table looks; it is called with `output`, an `Output`."""

    @functools.wraps(command)
    def collect(**given: Any) -> Any:
        columns = given.pop("columns")
        output = Output(
            format=given.pop("output_format"),
            most=TERMINAL_ROWS if sys.stdout.isatty() else None,
            columns=() if columns is None else tuple(map(str.strip, columns.split(","))),
            titled=not given.pop("no_headers"),
            screen=screen_of(sys.stdout, utc=given.pop("utc"), paged=not given.pop("no_pager")),
        )
        return command(output=output, **given)

    for option in reversed(_OUTPUT):
        collect = option(collect)
    return collect  # type: ignore[return-value]


def screen_of(stream: TextIO, *, utc: bool, paged: bool) -> Screen:
    """Say what a stream can show: its width, and colour and pages unless they are not wanted."""
    colour = wants_colour(stream)
    if not stream.isatty():
        return Screen(colour=colour, utc=utc)
    size = shutil.get_terminal_size()
    return Screen(
        width=size.columns,
        height=size.lines,
        colour=colour,
        pager=chosen_pager() if paged and os.environ.get("TERM") != "dumb" else "",
        utc=utc,
        left_out=_say_left_out,
    )


def wants_colour(stream: TextIO) -> bool:
    """Obey NO_COLOR, CLICOLOR and CLICOLOR_FORCE; otherwise a terminal has colour."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("CLICOLOR_FORCE", "0") not in ("", "0"):
        return True
    asked = os.environ.get("CLICOLOR", "1") != "0" and os.environ.get("TERM") != "dumb"
    return stream.isatty() and asked


def _say_left_out(titles: Sequence[str]) -> None:
    remark(f"too narrow for {', '.join(titles)}: -o wide or -o vertical has all")


def remark(text: str) -> None:
    """Say something about an answer on stderr, in a line."""
    click.echo(text, err=True)


def print_caveats(caveats: Iterable[Caveat]) -> None:
    """Say on stderr what an answer lacks, a line for each caveat."""
    colour = wants_colour(sys.stderr)
    for caveat in caveats:
        gap = isinstance(caveat, HasGaps)
        click.echo(
            click.style(caveat.text, fg="yellow") if gap else caveat.text, err=True, color=colour
        )
