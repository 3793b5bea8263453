"""Commands whose help has their options under headings, as a manual page has them."""

import re
from collections.abc import Mapping
from types import MappingProxyType

import click

_WIDEST = 36  # of a flag with its choices: with more, the choices stand in what is said of it


class SectionedCommand(click.Command):
    """A command with its options under headings; what stands under none is an option."""

    # By the name of a parameter, in the order of the help.
    headings: Mapping[str, str] = MappingProxyType({})
    # What is said below a heading's options.
    notes: Mapping[str, str] = MappingProxyType({})

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse; where a line is being completed, without the flag whose value is to come."""
        if ctx.resilient_parsing and args and args[-1].startswith("-"):
            args = args[:-1]  # click would forget the words before it
        return super().parse_args(ctx, args)

    def heading(self, param: click.Parameter) -> str:
        """Give the heading of a parameter."""
        return self.headings.get(param.name or "", "Options")

    def sections(self, ctx: click.Context) -> dict[str, list[tuple[str, str]]]:
        """Give each heading's options, as the help writes them, and what it says of each."""
        titles = dict.fromkeys([*self.headings.values(), "Options"])
        found: dict[str, list[tuple[str, str]]] = {title: [] for title in titles}
        for param in self.get_params(ctx):
            if isinstance(param, click.Option) and (record := param.get_help_record(ctx)):
                found.setdefault(self.heading(param), []).append(_narrow(*record))
        return {title: records for title, records in found.items() if records}

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, heading by heading."""
        for title, records in self.sections(ctx).items():
            with formatter.section(title):
                formatter.write_dl(records)
            if title in self.notes:
                formatter.write_paragraph()
                with formatter.indentation():
                    formatter.write_text(self.notes[title])


def _narrow(flags: str, said: str) -> tuple[str, str]:
    choices = re.search(r"\[([^][]+\|[^][]+)\]$", flags)
    if choices is None or len(flags) <= _WIDEST:
        return flags, said
    first, last = choices[1].replace("|", ", ").rsplit(", ", 1)
    named = f" One of {first} and {last}."
    said, default, rest = said.partition("  [default")
    return f"{flags[: choices.start()]}NAME", f"{said}{named}{default}{rest}"
