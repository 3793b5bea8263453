"""
Option decorators that commands share, and what they make of the words they are given.

A command gets one `Filters` and one `Output`, never the flags themselves.
"""

import functools
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, get_args

import click

from ctk.errors import UsageError
from ctk.model import Field, Filters, Kind, Side, Term
from ctk.render.tables import Format, Output
from ctk.timespan import parse_time

F = TypeVar("F", bound=Callable[..., Any])

_SIZE = re.compile(r"([0-9]+)(?:([KMGT])(iB|B)?|B)?", re.IGNORECASE)
_POWERS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}


def parse_size(text: str) -> int:
    """Turn "4096", "16MiB", "1G" or "500MB" into bytes: a K is 1,024, and 1,000 in KB."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise UsageError(f"{text!r} is not a size", hint="write it as 512K, 16MiB or 1G")
    thousand = 1000 if (match[3] or "").upper() == "B" else 1024
    return int(match[1]) * int(thousand ** _POWERS[(match[2] or "").upper()])


def parse_count(text: str | int) -> int:
    """Turn "50" into a number that is not negative."""
    if not str(text).isdecimal():
        raise UsageError(f"{text!r} is not a number", hint="write it as 50")
    return int(text)


def _time_from_now(text: str) -> int:
    return parse_time(text, time.time_ns())


# More rows than these of a table on a terminal are not read by anybody.
TERMINAL_ROWS = 1_000

# Who may not read it is told by the store: that failed, and was not asked wrongly.
db_argument = click.argument("db", type=click.Path(path_type=Path, readable=False))


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
    named = [f"--{name.replace('_', '-')}" for name, value in given.items() if value]
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


class _Flag(NamedTuple):
    """One filter flag in its plain form, and the sides it can be asked about."""

    name: Field
    metavar: str | None
    help: str
    sides: Sequence[Side] = ("any", "from", "to")


_FLAGS = (
    _Flag("namespace", "NAME", "Pods of a namespace."),
    _Flag("pod", "[NS/]NAME", "A pod; web-* for all that start so."),
    _Flag("workload", "[NS/]NAME", "Pods of a Deployment, DaemonSet, CronJob, ..."),
    _Flag("service", "[NS/]NAME", "What was dialled by this service.", ("any", "to")),
    _Flag("label", "SELECTOR", "A Kubernetes selector: 'app=web,tier in (a,b),!old'."),
    _Flag("node", "NAME", "A node, and the pods on it."),
    _Flag("kind", "|".join(get_args(Kind)), "What an address belongs to."),
    _Flag("ip", "ADDRESS|CIDR", "An address: who dialled, was dialled or answered."),
    _Flag("port", "PORT", "The port dialled or answered on; --from-port: the source's."),
    _Flag("protocol", "NAME", "tcp, udp, icmp, ... or the number.", ("any",)),
    _Flag("failed", None, "Only what was refused or got no reply.", ("any",)),
)


def _long_name(flag: _Flag, side: Side) -> str:
    return flag.name if side == "any" else f"{side}-{flag.name}"


# Every filter flag but --not, by its long name: "pod", "from-pod", "to-pod", ...
_FILTERS: dict[str, tuple[_Flag, Side]] = {
    _long_name(flag, side): (flag, side) for flag in _FLAGS for side in flag.sides
}


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
        if negated.startswith("-n"):
            joined += ["--not-namespace", *([negated[2:]] if negated != "-n" else [])]
        elif negated[:2] == "--" and negated[2:].partition("=")[0] in _FILTERS:
            joined.append(f"--not-{negated[2:]}")
        else:
            raise UsageError("--not needs a filter behind it", hint="--not --pod NAME")
    return joined


def filter_options(command: F) -> F:
    """Give a `FilterCommand` the filter flags; it is called with `filters`, a `Filters`."""

    @functools.wraps(command)
    def collect(**given: Any) -> Any:
        span = {name: given.pop(f"filter_{name}") for name in ("since_ns", "until_ns")}
        ends = {name: given.pop(f"filter_{name}") for name in ("first", "last")}
        terms = []
        for long_name, (flag, side) in _FILTERS.items():
            for negated in (False, True):
                if values := given.pop(_param_name(long_name, negated)):
                    if flag.metavar and "" in values:
                        raise UsageError(
                            f"--{long_name} is empty", hint=f"give it a {flag.metavar}"
                        )
                    texts = tuple(values) if flag.metavar else ()
                    terms.append(Term(flag.name, side, texts, negated))
        if None not in ends.values():
            raise UsageError("--first and --last exclude each other", hint="give one of them")
        if None not in span.values() and span["since_ns"] > span["until_ns"]:
            raise UsageError("--since is later than --until", hint="--since 2h --until 1h")
        return command(filters=Filters(**span, **ends, terms=tuple(terms)), **given)

    for option in reversed(_filter_params()):
        collect = option(collect)
    return collect  # type: ignore[return-value]


def as_flags(filters: Filters) -> str:
    """The terms of a filter as they would be given; not the span, which may move on."""
    words = []
    for term in filters.terms:
        name = f"--{term.field}" if term.side == "any" else f"--{term.side}-{term.field}"
        flag = f"--not {name}" if term.negated else name
        words += [f"{flag} {value}" for value in term.values] or [flag]
    return " ".join(words)


def _param_name(long_name: str, negated: bool) -> str:
    return f"filter_{'not' if negated else 'is'}_{long_name.replace('-', '_')}"


def _filter_params() -> list[Callable[[Any], Any]]:
    moment: dict[str, Any] = {"type": _time_from_now, "metavar": "AGE|TIME"}
    number: dict[str, Any] = {"type": parse_count, "metavar": "N"}
    params = [
        click.option("--since", "filter_since_ns", **moment, help="From then on: 15m, 2h, 7d."),
        click.option("--until", "filter_until_ns", **moment, help="Before then: an age or time."),
        click.option("--last", "filter_last", **number, help="Only the last N."),
        click.option("--first", "filter_first", **number, help="Only the first N."),
    ]
    for long_name, (flag, side) in _FILTERS.items():
        for negated in (False, True):
            names = [f"--{'not-' if negated else ''}{long_name}", _param_name(long_name, negated)]
            if long_name == "namespace" and not negated:
                names.append("-n")
            kind: dict[str, Any] = {"is_flag": True}
            if flag.metavar:
                kind = {"multiple": True, "metavar": flag.metavar}
            hidden = negated or side != "any"
            params.append(click.option(*names, **kind, help=flag.help, hidden=hidden))
    text = "Negate the filter behind it: --not --pod web-1."
    params.append(click.option("--not", "filter_not", is_flag=True, expose_value=False, help=text))
    return params


def output_options(command: F) -> F:
    """Give a command `-o`; it is called with `output`, an `Output`."""

    @functools.wraps(command)
    def collect(**given: Any) -> Any:
        most = TERMINAL_ROWS if sys.stdout.isatty() else None
        output = Output(format=given.pop("output_format"), most=most)
        return command(output=output, **given)

    return click.option(  # type: ignore[return-value]
        "-o",
        "--format",
        "output_format",
        type=click.Choice(get_args(Format)),
        default="table",
        show_default=True,
        help="The form of the answer.",
    )(collect)


def remark(text: str) -> None:
    """Say on stderr what an answer lacks, in a line."""
    click.echo(text, err=True)
