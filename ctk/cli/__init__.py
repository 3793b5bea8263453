"""
The command line: a group that imports a command when it is called, and the one place that shows
an error.
"""

import atexit
import errno
import gc
import io
import os
import re
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from typing import Any, NoReturn, TextIO

# What is imported stays: to look for garbage at each 700 objects is a tenth of a short command.
gc.set_threshold(50_000)

from ctk.cli.late import late  # noqa: E402

with late():
    import click

from ctk.errors import CtkError, MissingFileError, UsageError  # noqa: E402

# Name and short help of every command, by what it is for, so that `ctk --help` imports none.
GROUPS: dict[str, dict[str, str]] = {
    "Record": {
        "record": "Record what this node's connections do into DB.",
        "collect": "Record on nodes of a cluster for a while, and fetch the files.",
        "doctor": "Find what keeps ctk from recording here, and what it would not see.",
    },
    "Ask": {
        "query": "List the flows in DB, or ask it in SQL.",
        "top": "Rank who moved most in DB.",
        "failures": "Say what failed, from whom, since when.",
        "diff": "Say what changed between two spans, or two files.",
        "new": "List who talked to whom for the first time.",
        "series": "Sum DB up over time: steps without holes.",
        "balance": "Say how evenly a service's backends are used.",
        "idle": "List live connections that move nothing.",
        "pressure": "Say how full the kernel's table was, and who held it.",
        "schema": "Say what may be asked in SQL: views and columns.",
        "info": "Say what DB holds.",
    },
    "Look": {
        "timeline": "Draw bytes, connections and failures over time.",
        "report": "Make one HTML file of DB, to attach and to look at.",
        "serve": "Show DB as a page, while it is being written or afterwards.",
    },
    "Copy": {
        "export": "Write the flows in DB out, for other programs.",
        "cursor": "List or forget how far exports with --cursor are.",
        "snapshot": "Copy DB safely while it is being written.",
        "merge": "Merge the files of several nodes into one.",
        "ship": "Ship the files of nodes to ClickHouse, each row once.",
    },
    "Help": {
        "help": "Show the help of a command, or its manual page.",
        "completion": "Print a script that completes ctk in your shell.",
    },
}
COMMANDS = {name: said for commands in GROUPS.values() for name, said in commands.items()}

# What a shell reports for a program that SIGINT or SIGPIPE ended.
INTERRUPTED = 130
BROKEN_PIPE = 141
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_NAME = (errno.ENAMETOOLONG, errno.ELOOP)
DEFECT = 70  # EX_SOFTWARE of sysexits.h: ctk itself failed where it should not


class Commands(click.Group):
    """
    The commands of `GROUPS`.

    A failure is `Error:` and `Try:` on stderr. A traceback comes before them only where the
    failure is a defect of ctk.
    """

    groups = GROUPS

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name the commands in the order of the help, not of the alphabet."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command; None where there is none by that name."""
        if cmd_name not in COMMANDS:
            return None
        command = getattr(import_module(f"ctk.cli.{cmd_name}"), cmd_name)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or suggest what was meant."""
        if args[0] not in COMMANDS:
            from ctk.cli import meant

            near = meant.command(args[0], COMMANDS)
            hint = f"ctk {near or '--help'}"
            raise UsageError(f"No such command {args[0]!r}", hint=hint)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        width = max(map(len, COMMANDS))
        for title, commands in GROUPS.items():
            with formatter.section(title):
                formatter.write_dl([(f"{name:<{width}}", said) for name, said in commands.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; where its reader went away (`| head`), exit without a word."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except click.BadOptionUsage as error:  # of click's parser, which names no command
            hint = f"ctk {ctx.invoked_subcommand} --help"
            raise UsageError(error.format_message().rstrip("."), hint=hint) from error
        except BrokenPipeError:
            from ctk.render.place import forget_output

            forget_output()  # at exit, what is buffered would fail again
            ctx.exit(BROKEN_PIPE)
        return result

    def main(self, args: Sequence[str] | None = None, *rest: Any, **extra: Any) -> Any:
        """Run, and exit with 0 or the code of the error that was shown."""
        extra["standalone_mode"] = False
        program = "ctk"
        # kubectl's way to find its plugins
        if os.path.basename(sys.argv[0]) == "kubectl-ctk":  # noqa: PTH119 - pathlib takes 5 ms
            program = extra["prog_name"] = "kubectl ctk"
        _make_streams_usable()
        try:
            code = super().main(args, *rest, **extra) or 0
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            code = error.exit_code
        except click.ClickException as error:
            code = _show(_from_click(error), program)
        except click.Abort:
            code = INTERRUPTED
        except CtkError as error:
            code = _show(error, program)
        except Exception as error:  # noqa: BLE001 - a defect is told, not hidden
            code = _show(_known(error) or _defect(error), program)
        if args is None:  # the words are those of this process, so it is ours to end
            _leave(code)
        sys.exit(code)


def _leave(code: int) -> NoReturn:
    """End the process without taking its modules apart, a tenth of a short command."""
    watched = sys.getprofile() is not None or sys.gettrace() is not None
    # A daemon does not keep a process: one that asks chDB would, where its library is taken apart.
    watched = watched or sum(not thread.daemon for thread in threading.enumerate()) > 1
    if not watched:
        atexit._run_exitfuncs()
    code = _flush(code)
    if watched:
        sys.exit(code)
    os._exit(code)


def _flush(code: int) -> int:
    """Write what is left to write, and give the exit code."""
    if code == INTERRUPTED:
        from ctk.cli.streams import try_to_flush

        try_to_flush()
        return code
    try:
        sys.stdout.flush()
    except OSError as error:
        from ctk.render.place import forget_output

        forget_output()
        shown = _known(error)
        if shown is not None and not code:  # else a failure was told already
            code = _show(shown, "ctk")
    with suppress(OSError):
        sys.stderr.flush()
    return code


def _make_streams_usable() -> None:
    """Have three standard streams, which take all that is written to them."""
    streams = [sys.stdin, sys.stdout, sys.stderr]
    if None in streams or not all(map(_takes_all, streams[1:])):
        from ctk.cli.streams import open_what_is_closed, take_all_where_they_do_not

        open_what_is_closed()
        take_all_where_they_do_not(_takes_all)


def _takes_all(stream: TextIO) -> bool:
    """Say whether a write to a stream waits until there is room, and writes the rest then."""
    if isinstance(getattr(stream, "buffer", None), io.RawIOBase):
        return False
    try:
        return os.get_blocking(stream.fileno())
    except (OSError, ValueError):  # a test's, which is in memory
        return True


def _show(error: CtkError, program: str) -> int:
    """Print the error, with commands of ctk as this program's, and return its exit code."""
    from ctk.render.cells import told

    with suppress(OSError):  # nobody reads: its terminal was hung up
        click.echo(told(f"Error: {error.message}"), err=True)
        if error.hint:
            hint = re.sub("^ctk ", f"{program} ", error.hint)
            click.echo(told(f"Try: {hint}"), err=True)
    return error.exit_code


def _from_click(error: click.ClickException) -> CtkError:
    from ctk.cli import meant

    hint = None
    message = error.format_message()
    context = getattr(error, "ctx", None)
    if isinstance(error, click.MissingParameter) and error.param is not None:
        if error.param.envvar:
            return MissingFileError()
        if isinstance(error.param.type, click.Choice) and context is not None:
            message = message.partition(". Choose from:")[0]
            hint = f"{context.command_path} {error.param.type.choices[0]}"
    elif isinstance(error, click.NoSuchOption) and context is not None:
        name = error.option_name
        hint = meant.elsewhere(name, context) or meant.flag(name, context)
        message = error.message
    elif isinstance(error, click.BadParameter):
        message, hint = meant.choice(error) or (message, None)
    elif context is not None:
        hint = meant.extra(message, context)
    if not hint and context is not None:
        hint = f"{context.command_path} --help"
    shown = CtkError(message.rstrip("."), hint=hint)
    shown.exit_code = error.exit_code
    return shown


def _known(error: Exception) -> CtkError | None:
    """Give the sentence for a failure of the system or of SQLite; None for any other."""
    # Importing sqlite3 takes 5 ms, and without it there is no error of SQLite.
    sqlite3 = sys.modules.get("sqlite3")
    # What breaks a constraint, or misuses the module, is a defect of ours.
    ours = sqlite3 is not None and isinstance(
        error, sqlite3.IntegrityError | sqlite3.ProgrammingError
    )
    if sqlite3 is not None and isinstance(error, sqlite3.Error) and not ours:
        return _from_sqlite(str(error))
    if isinstance(error, OSError) and not error.filename and error.errno in _NO_ROOM:
        message = f"standard output cannot be written: {error.strerror}"
        return CtkError(message, hint="make room where it goes")
    # Of a link that leads to itself pathlib makes a RuntimeError, before Python 3.13.
    if isinstance(error, RuntimeError) and str(error).startswith("Symlink loop from "):
        error = OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(error)[19:-1])
    if isinstance(error, OSError) and error.errno in _NO_NAME:
        name = os.path.basename(str(error.filename))  # noqa: PTH119 - pathlib takes 5 ms
        return UsageError(f"{name[:80]}: {error.strerror}", hint="name another file")
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        hint = "check who may read and write it" if isinstance(error, PermissionError) else None
        return CtkError(f"{where}{error.strerror}", hint=hint)
    # What Python makes of a word's bytes that are no UTF-8.
    if isinstance(error, UnicodeEncodeError) and error.reason == "surrogates not allowed":
        word = error.object[:80].encode(errors="surrogateescape").decode(errors="replace")
        return UsageError(f"{word!r} is not UTF-8", hint="the names in a file are UTF-8")
    return None


def _defect(error: Exception) -> CtkError:
    """Log the traceback of a defect in ctk, and give the sentence for it."""
    import logging

    logging.getLogger("ctk").critical("a defect in ctk", exc_info=error)
    shown = CtkError(
        f"ctk failed where it should not: {type(error).__name__}: {error}",
        hint="report it, with the traceback above",
    )
    shown.exit_code = DEFECT
    return shown


def _from_sqlite(message: str) -> CtkError:
    hints = {
        "locked": "try again: another program holds the file",
        "full": "make room on the file's disk",
        "malformed": "copy what can be read with `sqlite3 FILE .recover`",
        "not a database": "name a file that `ctk record` made",
    }
    hint = next((text for word, text in hints.items() if word in message), None)
    return CtkError(f"the file could not be read: {message}", hint=hint)


def _version(ctx: click.Context, param: click.Parameter, wanted: bool) -> None:
    if wanted:
        import ctk

        click.echo(f"ctk {ctk.__version__}")
        ctx.exit()


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "-V",
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_version,
    help="Show the version and exit.",
)
def main() -> None:
    """
    Who talked to whom on this Kubernetes node, when, how much, and what failed.

    Record on a node, copy the file off, and ask it anywhere.

    \b
    ctk record node.db --kubeconfig ~/.kube/config --enable-accounting
    ctk top node.db --since 1h
    ctk query node.db --failed --from-namespace shop --last 20

    Where CTK_DB names a file, DB may be left out of what reads it.
    """
