"""What somebody meant who wrote a flag, a command or a value that there is not: for `Try:`."""

import re
from collections.abc import Iterable, Mapping

import click

from ctk.errors import nearest

# What other tools (hubble, nfdump, kubectl, tcpdump, journalctl) call ours, the likeliest first.
_FLAGS: Mapping[str, tuple[str, ...]] = {
    "address": ("--ip",),
    "after": ("--since",),
    "all": ("--all-namespaces",),
    "app": ("--label",),
    "before": ("--until",),
    "bidirectional": ("--side",),
    "cidr": ("--ip",),
    "count": ("--last", "--limit"),
    "daemonset": ("--workload",),
    "database": ("--help",),
    "deploy": ("--workload",),
    "deployment": ("--workload",),
    "destination": ("--to-ip",),
    "dport": ("--to-port",),
    "dst": ("--to-ip",),
    "duration": ("--for",),
    "end": ("--until",),
    "error": ("--failed",),
    "errors": ("--failed",),
    "from": ("--since",),
    "group": ("--by",),
    "group-by": ("--by",),
    "head": ("--first", "--limit"),
    "host": ("--ip",),
    "iface": ("--node",),
    "job": ("--workload",),
    "json": ("--format",),
    "limit": ("--last", "--first"),
    "lines": ("--last", "--limit"),
    "net": ("--ip",),
    "ns": ("--namespace",),
    "number": ("--last", "--limit"),
    "order-by": ("--sort",),
    "out": ("--output", "--format"),
    "output": ("--output", "--format"),
    "proto": ("--protocol",),
    "reset": ("--refused",),
    "selector": ("--label",),
    "source": ("--from-ip",),
    "sport": ("--from-port",),
    "src": ("--from-ip",),
    "start": ("--since",),
    "statefulset": ("--workload",),
    "svc": ("--service",),
    "tail": ("--last",),
    "tcp": ("--protocol",),
    "to": ("--until",),
    "top": ("--limit", "--last"),
    "type": ("--kind",),
    "udp": ("--protocol",),
    "verdict": ("--failed",),
}
_COMMANDS: Mapping[str, str] = {
    "backup": "snapshot",
    "capture": "record",
    "check": "doctor",
    "copy": "snapshot",
    "dump": "export",
    "flows": "query",
    "list": "query",
    "man": "help",
    "observe": "query",
    "show": "query",
    "sql": "query",
    "start": "record",
    "stats": "top",
    "status": "info",
    "version": "--version",
    "watch": "record",
}


def command(word: str, known: Iterable[str]) -> str | None:
    """Give the command that was meant; None where none is near."""
    near = _COMMANDS.get(word.lower())
    return near if near in (*known, "--version") else nearest(word, known)


def elsewhere(word: str, ctx: click.Context) -> str | None:
    """Say which command has what was asked of this one, or None."""
    if word.startswith("--watch"):
        return "ctk top DB --watch is a table that moves, ctk query DB -f follows flows"
    if word in ("-f", "--follow"):
        return "ctk query DB -f and ctk export DB -f follow"
    return None


def extra(message: str, ctx: click.Context) -> str | None:
    """Say what to do with a second file, where a command takes one."""
    takes_db = any(param.name == "db" for param in ctx.command.params)
    extra = re.match(r"Got unexpected extra arguments? \(.*\.\w+\)", message, re.DOTALL)
    if not takes_db or extra is None:  # a word without an ending is hardly a file
        return None
    return "ctk merge DB DB -o all.db makes one file of several; ctk top and query take them all"


def flag(word: str, ctx: click.Context) -> str | None:
    """Give the flag of a command that was meant, by its meaning or its spelling, or None."""
    known = [
        name
        for param in ctx.command.get_params(ctx)
        for name in param.opts
        if isinstance(param, click.Option) and name.startswith("--")
    ]
    known = [name for name in known if not name.startswith("--not-")]
    bare = word.strip("-").lower()
    meant = [name for name in _FLAGS.get(bare, ()) if name in known]
    begun = sorted((name for name in known if name.startswith(word) and len(bare) > 1), key=len)
    near = next(iter([*meant, *begun]), None)
    if near is None and len(bare) > 2:
        near = _spelled(word, known)
    return near


def _spelled(word: str, known: Iterable[str]) -> str | None:
    from difflib import SequenceMatcher

    near = nearest(word, known)
    # The two dashes are alike in all of them.
    if near is None or SequenceMatcher(None, word.strip("-"), near.strip("-")).ratio() < 0.7:
        return None
    return near


def choice(error: click.BadParameter) -> tuple[str, str | None] | None:
    """Say that a value is none of an option's choices, and which was meant, or which there are."""
    kind = getattr(error.param, "type", None)
    value = re.match(r"'(.*)' is not one of ", error.message, re.DOTALL)
    if not isinstance(kind, click.Choice) or value is None or error.param is None:
        return None
    others = error.ctx.command.params if error.ctx is not None else []
    choices = [str(each) for each in kind.choices]
    near = nearest(value[1], choices)
    every = f"{', '.join(choices[:-1])} or {choices[-1]}"
    if not isinstance(error.param, click.Option):
        program = error.ctx.command_path if error.ctx is not None else "ctk"
        return f"{value[1]!r} is not {every}", near and f"{program} {near}"
    option = max(error.param.opts, key=len)
    message = f"{value[1]!r} is not a value of {option}"
    is_path = "-o" in error.param.opts and (near is None or re.search(r"[./]", value[1]))
    if is_path and any(param.name == "output" for param in others):
        return message, f"--output {value[1]}, if that is a file"
    return message, f"{option} {near or every}"
