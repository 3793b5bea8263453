"""Manual pages, made from the help: nothing in them is written twice."""

import inspect
import re
from collections.abc import Iterator

import click

import ctk
from ctk.cli.sections import SectionedCommand


def page(ctx: click.Context) -> str:
    """Give the manual page of a command in the language of man(7)."""
    command = ctx.command
    name = ctx.command_path.replace(" ", "-")
    lines = [
        f'.TH {_word(name.upper())} 1 "" {_word(f"ctk {ctk.__version__}")}',
        ".SH NAME",
        rf"{_text(name)} \- {_text(command.get_short_help_str(1_000))}",
        ".SH SYNOPSIS",
        f".B {_text(ctx.command_path)}",
        _text(" ".join(command.collect_usage_pieces(ctx))),
        ".SH DESCRIPTION",
        *_body(inspect.cleandoc(command.help or "").split("\n\n")),
    ]
    if isinstance(command, click.Group):
        lines += _commands(command, ctx)
    for title, records in _sections(ctx).items():
        lines.append(f".SH {_word(title.upper())}")
        for flags, said in records:
            lines += [".TP", rf"\fB{_text(flags)}\fR", _text(said)]
        if isinstance(command, SectionedCommand) and title in command.notes:
            lines += [".PP", _text(command.notes[title])]
    if ctx.parent is not None:
        lines += [".SH SEE ALSO", r"\fBctk\fR(1)"]
    return "\n".join(lines) + "\n"


def _body(paragraphs: list[str]) -> Iterator[str]:
    for text in paragraphs:
        yield ".PP"
        if text.startswith("\b\n"):  # to be left as it is: examples
            yield ".nf"
            yield from map(_text, text.splitlines()[1:])
            yield ".fi"
        else:
            yield _text(" ".join(text.split()))


def _commands(group: click.Group, ctx: click.Context) -> Iterator[str]:
    found = {name: group.get_command(ctx, name) for name in group.list_commands(ctx)}
    groups = getattr(group, "groups", None) or {
        "Commands": {name: each.get_short_help_str(1_000) for name, each in found.items() if each}
    }
    for title, commands in groups.items():
        yield f".SH {_word(title.upper())}"
        for name, said in commands.items():
            yield from (".TP", rf"\fB{_text(f'{ctx.command_path} {name}')}\fR", _text(said))


def _sections(ctx: click.Context) -> dict[str, list[tuple[str, str]]]:
    if isinstance(ctx.command, SectionedCommand):
        return ctx.command.sections(ctx)
    records = [
        record
        for param in ctx.command.get_params(ctx)
        if isinstance(param, click.Option) and (record := param.get_help_record(ctx))
    ]
    return {"Options": records}


def _text(text: str) -> str:
    """Write text so that troff takes none of it for a request."""
    text = text.replace("\\", r"\e").replace("-", r"\-")
    return re.sub(r"^([.'])", r"\\&\1", text, flags=re.MULTILINE)


def _word(text: str) -> str:
    return '"' + _text(text).replace('"', r"\(dq") + '"'
