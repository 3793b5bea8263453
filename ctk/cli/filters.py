"""The filters that commands share: a command gets one `Filters`, never the flags themselves."""

import functools
import time
from collections.abc import Callable, Iterable
from datetime import UTC
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

import click

import ctk
from ctk.ask.keywords import NAMES, SPAN, FilterName, as_flag, filters_of
from ctk.ask.moments import Reference
from ctk.cli.sections import SectionedCommand
from ctk.errors import UsageError
from ctk.model import Field, Filters
from ctk.model.numbers import parse_count

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

F = TypeVar("F", bound=Callable[..., Any])

_SPAN = ("since", "until", "for_")
_CUTS = ("filter_last", "filter_first")
_SHORT = f"{__name__}.short"

_SIDES_NOTE = (
    "The same flag twice, or values with commas between, is 'or'; different flags are 'and'. In a"
    " name * is any text, ? one character. Flags from --namespace to --port look at both sides;"
    " --from-pod, --to-pod and so on at one. A time without an offset is local; ages count from"
    " the end of a file that nobody writes."
)


class FilterCommand(SectionedCommand):
    """
    A command with filters.

    `--not --pod web` is parsed as the hidden flag `--not-pod web`, since click's own parser
    forgets the order in which different flags came.
    """

    notes = MappingProxyType({"Filters": _SIDES_NOTE})

    def __init__(self, *args: Any, cuts: bool = True, **given: Any) -> None:
        """Make it; where `cuts` is False, --last and --first are refused, and not in its help."""
        super().__init__(*args, **given)
        for param in self.params:
            if param.name in _CUTS and isinstance(param, click.Option):
                param.hidden = not cuts

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Join each --not to the filter behind it, then parse."""
        args = _join_not(args, halfway=ctx.resilient_parsing)
        # To make and to parse the 60 flags of one side, or negated, takes 4 ms.
        ctx.meta[_SHORT] = not ctx.resilient_parsing and not any(map(_is_hidden, args))
        try:
            return super().parse_args(ctx, args)
        finally:
            ctx.meta[_SHORT] = False

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Give all parameters, those that the help hides too; none of these where none is there."""
        params = super().get_params(ctx)
        return params if ctx.meta.get(_SHORT) else [*params, *_hidden_params()]

    def heading(self, param: click.Parameter) -> str:
        """List the filters under a heading of their own."""
        is_filter = (param.name or "").startswith("filter_")
        return "Filters" if is_filter else super().heading(param)

    def sections(self, ctx: click.Context) -> dict[str, list[tuple[str, str]]]:
        """List the filters first."""
        found = super().sections(ctx)
        return {"Filters": found.pop("Filters"), **found}

    def shell_complete(self, ctx: click.Context, incomplete: str) -> "list[CompletionItem]":
        """Complete a flag; those of one side are hidden from the help only."""
        from click.shell_completion import CompletionItem

        sides = [
            CompletionItem(as_flag(name), help=named.asked.help)
            for name, named in NAMES.items()
            if named.side != "any" and not named.negated and as_flag(name).startswith(incomplete)
        ]
        return super().shell_complete(ctx, incomplete) + (sides if incomplete[:2] == "--" else [])


# Flags that have a letter, by it.
_LETTERS = {"n": "namespace", "l": "label"}


def _join_not(args: list[str], *, halfway: bool) -> list[str]:
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
        elif not halfway:  # or it is being written, and is to be completed
            raise UsageError("--not needs a filter behind it", hint="--not --pod NAME")
    return joined


def _is_filter(long_name: str) -> bool:
    name = long_name.replace("-", "_")
    return name in NAMES and not NAMES[name].negated


def _is_hidden(arg: str) -> bool:
    named = NAMES.get(arg[2:].partition("=")[0].replace("-", "_")) if arg[:2] == "--" else None
    return named is not None and _hides(named)


def _hides(named: FilterName) -> bool:
    return named.negated or named.side != "any"


def filter_options(command: F) -> F:
    """Give a `FilterCommand` the filter flags; it is called with `filters`, a `Filters`."""

    @functools.wraps(command)
    def collect(**given: Any) -> Any:
        if given.pop("filter_all") and given["filter_namespace"]:
            raise UsageError("-A and --namespace exclude each other", hint="give one of them")
        return command(filters=_chosen(given, (*SPAN, *NAMES)), **given)

    for option in reversed(_filter_params()):
        collect = option(collect)
    return collect  # type: ignore[return-value]


def span_options(command: F) -> F:
    """Give a command --since, --until and --for; it is called with `filters`, a `Filters`."""

    @functools.wraps(command)
    def collect(**given: Any) -> Any:
        return command(filters=_chosen(given, _SPAN), **given)

    for option in reversed(_span_params()):
        collect = option(collect)
    return collect  # type: ignore[return-value]


def _chosen(given: dict[str, Any], names: Iterable[str]) -> Filters:
    """Take the values of these filters out of what was given, and make the filters of them."""
    asked = {name: given.pop(f"filter_{name}", ()) for name in names}

    def reference() -> Reference:
        with ctk.open(given["db"]) as recording:
            return recording.reference()

    return filters_of(
        {name: value for name, value in asked.items() if value != ()},
        now_ns=time.time_ns(),
        reference=reference,
        zone=UTC if given.get("utc") else None,  # of the options of the output
        spelled=as_flag,
    )


def _filter_params() -> list[Callable[[Any], Any]]:
    number: dict[str, Any] = {"type": parse_count, "metavar": "N"}
    params = [
        *_span_params(),
        click.option("--last", "filter_last", **number, help="Only the last N flows."),
        click.option("--first", "filter_first", **number, help="Only the first N flows."),
    ]
    for name, named in NAMES.items():
        if not _hides(named):
            words, terms = _declared(name, named)
            params.append(click.option(*words, **terms))
    text = "Negate the filter behind it: --not --pod web-1."
    params.append(click.option("--not", "filter_not", is_flag=True, expose_value=False, help=text))
    text = "Of all namespaces, as without it."
    params.append(click.option("-A", "filter_all", "--all-namespaces", is_flag=True, help=text))
    return params


@functools.cache
def _hidden_params() -> list[click.Option]:
    declared = [_declared(name, named) for name, named in NAMES.items() if _hides(named)]
    return [click.Option(words, **terms, hidden=True) for words, terms in declared]


def _declared(name: str, named: FilterName) -> tuple[list[str], dict[str, Any]]:
    """Give how a filter's flag is written, and of what kind it is."""
    letter = [f"-{letter}" for letter, long_name in _LETTERS.items() if long_name == name]
    kind: dict[str, Any] = {"is_flag": True}
    if named.asked.form is not None:
        complete = functools.partial(_complete, named.asked.field)
        kind = {"multiple": True, "metavar": named.asked.form, "shell_complete": complete}
    return [*letter, as_flag(name), f"filter_{name}"], {**kind, "help": named.asked.help}


def _span_params() -> list[Callable[[Any], Any]]:
    moment: dict[str, Any] = {"metavar": "TIME"}
    text = "From then on: 15m, '10 min ago', 09:00, yesterday, 2024-11-25T18:47:22Z."
    return [
        click.option("--since", "filter_since", **moment, help=text),
        click.option("--until", "filter_until", **moment, help="Before then: written the same."),
        click.option(
            "--for",
            "filter_for_",
            metavar="DURATION",
            help="So long from --since, or up to --until.",
        ),
    ]


def _complete(
    field: Field, ctx: click.Context, _param: click.Parameter, incomplete: str
) -> "list[CompletionItem]":
    from ctk.cli.complete import values

    return values(ctx, field, incomplete)
