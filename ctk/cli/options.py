"""
Arguments and options that commands share, and what they make of the words they are given.

A command gets one `Output`, never the flags themselves; its filters are those of filters.py.
"""

import functools
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypeVar, get_args

import click

from ctk.ask.caveats import Caveat, HasGaps, NothingFits, NothingRecorded
from ctk.ask.keywords import as_flag
from ctk.cli.folded import folded
from ctk.errors import MissingFileError, UsageError
from ctk.render.cells import takes_ascii_only, told
from ctk.render.layout import Screen
from ctk.render.pager import chosen as chosen_pager
from ctk.render.tables import FOR_PEOPLE, Format, Output

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

F = TypeVar("F", bound=Callable[..., Any])

# More rows than these of a table on a terminal are not read by anybody.
TERMINAL_ROWS = 1_000

# In place of DB in each command that reads; where several are asked, they stand with ":" between.
DB_VARIABLE = "CTK_DB"


class Db(click.Path):
    """
    The path of a file; where `targets` are asked, too, one of them as the text that it is.

    The store says who may not read a file: click would call that a wrong argument.
    """

    def __init__(self, *, targets: bool = False) -> None:
        super().__init__(path_type=Path, readable=False)
        self._targets = targets

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> "Path | str":
        """Refuse ClickHouse where only a file will do."""
        if isinstance(value, str) and "://" in value:
            from ctk.fleet.clickhouse.target import is_target

            if is_target(value):
                if self._targets:
                    return value
                raise UsageError(
                    f"{value} is no file",
                    hint="top, query, series, failures, balance, info and report ask what was"
                    " shipped",
                )
        return super().convert(value, param, ctx)  # type: ignore[return-value]

    def split_envvar_value(self, rv: str) -> list[str]:
        """Part the paths of CTK_DB; a target has colons of its own."""
        return paths_in(rv)


_PATH: Any = Db()
_TARGET: Any = Db(targets=True)
db_argument = click.argument("db", type=_PATH, envvar=DB_VARIABLE)
target_argument = click.argument("db", type=_TARGET, envvar=DB_VARIABLE)


def _dbs(kind: Db) -> Callable[[F], F]:
    """Take one path, or as many as are given; the command is called with `db`."""
    return click.argument(
        "db",
        nargs=-1,
        required=True,
        metavar="DB...",
        type=kind,
        envvar=DB_VARIABLE,
        callback=lambda _ctx, _param, paths: _one_or_all(paths),
    )


def _one_or_all(paths: "tuple[Path | str, ...]") -> "Path | str | tuple[Path | str, ...]":
    target = next((path for path in paths if isinstance(path, str)), None)
    if target is not None and len(paths) > 1:
        raise UsageError(f"{target} is asked alone", hint="it has all nodes that shipped to it")
    return paths[0] if len(paths) == 1 else paths


# What may be asked of several files, and of what was shipped.
dbs_argument = _dbs(_PATH)
targets_argument = _dbs(_TARGET)
Dbs = Path | tuple[Path, ...]
Targets = Path | str | tuple[Path, ...]


observers_option = click.option(
    "--all-observers",
    is_flag=True,
    help="Of merged nodes, what each of them saw: a connection counts for each.",
)


def sql_arguments(command: F) -> F:
    """Give a command files and, behind them, SQL; it is called with `db`, as above, and `sql`."""

    @functools.wraps(command)
    def split(words: tuple[str, ...], **given: Any) -> Any:
        sql = words[-1] if words and is_sql(words[-1]) else None
        named = words if sql is None else words[:-1]
        paths = tuple(_TARGET.convert(word, None, None) for word in named or of_variable())
        if not paths:
            raise MissingFileError
        return command(db=_one_or_all(paths), sql=sql, **given)

    words = click.argument(
        "words", nargs=-1, metavar="DB... [SQL]", shell_complete=_complete_with_files
    )
    return words(split)  # type: ignore[return-value]


def db_and_out_arguments(command: F) -> F:
    """
    Give a command a file to read and one to write; it is called with `db` and `out`.

    With `finish` it may have the first alone; `out` is None then.
    """

    @functools.wraps(command)
    def split(words: tuple[str, ...], **given: Any) -> Any:
        paths = [
            *(paths_of_variable() if len(words) < 2 else ()),
            *(_PATH.convert(word, None, None) for word in words),
        ]
        if len(paths) == 1 and given.get("finish"):
            return command(db=paths[0], out=None, **given)
        if not paths:
            raise MissingFileError
        if len(paths) == 1:
            what = "the file to copy, or where to, is not named"
            raise UsageError(what, hint="ctk snapshot node.db copy.db")
        if len(paths) > 2:
            raise UsageError("only one file is copied at a time", hint="node.db copy.db")
        return command(db=paths[0], out=paths[1], **given)

    words = click.argument("words", nargs=-1, metavar="DB OUT", shell_complete=_complete_with_files)
    return words(split)  # type: ignore[return-value]


def of_variable() -> list[str]:
    """Give what CTK_DB names."""
    return paths_in(os.environ.get(DB_VARIABLE, ""))


def paths_in(text: str) -> list[str]:
    """Part paths; a target stands alone, since it has colons of its own."""
    return [text] if "://" in text else [path for path in text.split(os.pathsep) if path]


def paths_of_variable() -> tuple[Path, ...]:
    """Give the files that CTK_DB names."""
    return tuple(map(Path, of_variable()))


def complete_keys(
    _ctx: click.Context, _param: click.Parameter, incomplete: str
) -> "list[CompletionItem]":
    """Complete the keys of `--by`."""
    from ctk.cli.complete import keys

    return keys(incomplete)


def _complete_with_files(
    _ctx: click.Context, _param: click.Parameter, incomplete: str
) -> "list[CompletionItem]":
    from click.shell_completion import CompletionItem

    return [CompletionItem(incomplete, type="file")]


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
            type=click.Path(path_type=Path),
            callback=kubeconfig_that_is_there,
            metavar="FILE",
            help="The cluster to ask for names; inside one, it is found without.",
        ),
    ):
        command = option(command)
    return command


def kubeconfig_that_is_there(
    _context: click.Context, _param: click.Parameter, path: Path | None
) -> Path | None:
    """Refuse a kubeconfig that is not there, with where there may be one."""
    if path is not None and (not path.exists() or path.is_dir()):
        what = "is a directory" if path.exists() else "is not there"
        hint = os.environ.get("KUBECONFIG") or "~/.kube/config"
        raise UsageError(f"--kubeconfig {path} {what}", hint=f"--kubeconfig {hint}")
    return path


def refuse_two_clusters(context: str | None, **given: object) -> None:
    """Take one way to know a cluster, of those given by their flags, and no stray context."""
    named = [as_flag(name) for name, value in given.items() if value]
    if len(named) > 1:
        raise UsageError(f"{' and '.join(named)} exclude each other", hint="give one of them")
    if context and not given["kubeconfig"]:
        raise UsageError("--context needs --kubeconfig", hint="--kubeconfig ~/.kube/config")


def refuse_dash(flag: str, path: Path | None, hint: str) -> None:
    """Refuse to write what others take for standard output, and would be a file here."""
    if str(path) == "-":
        raise UsageError(f"{flag} would be a file of the name -", hint=hint)


def refuse_one_file_twice(db: "Path | str", others: Mapping[str, Path | None]) -> None:
    """What is written is written over: no file is two things, and none of them a recording."""
    taken = {}
    if isinstance(db, Path):
        besides = ("", "-wal", "-shm", ".lock")
        taken = {f"{_whole(db)}{beside}": "DB itself" for beside in besides}
    for flag, path in others.items():
        if path is None:
            continue
        whole = _whole(path)
        if whole in taken:
            raise UsageError(f"{flag} is {taken[whole]}", hint="give it another name")
        if _is_database(path):
            raise UsageError(f"{path} is an SQLite file", hint=f"give {flag} another name")
        taken[whole] = flag


def _whole(path: Path) -> str:
    return os.path.realpath(path)  # Path.resolve() fails where links go round


def _is_database(path: Path) -> bool:
    with suppress(OSError):  # who writes it says what is wrong
        if path.is_file():
            with path.open("rb") as file:
                return file.read(16) == b"SQLite format 3\0"
    return False


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
        if not given["utc"] and given["output_format"] in FOR_PEOPLE:
            _warn_of_zone(os.environ.get("TZ", ""))
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


# https://man7.org/linux/man-pages/man3/tzset.3.html: a rule, "CET-1CEST", or a file's name.
_ZONE_RULE = r"(<[^>]+>|[A-Za-z]{3,})([+-]?\d.*)?"
_ZONE_FOLDERS = ("/usr/share/zoneinfo", "/usr/lib/zoneinfo", "/usr/share/lib/zoneinfo")


def _warn_of_zone(zone: str) -> None:
    """Say so where TZ names no zone: the C library takes it for UTC without a word."""
    name = zone.removeprefix(":")
    if not name or (re.fullmatch(_ZONE_RULE, name) and name == zone):
        return
    if not any(Path(folder, name).is_file() for folder in _ZONE_FOLDERS):
        remark(f"TZ={zone} is no time zone of this machine: times are in UTC")


def screen_of(stream: TextIO, *, utc: bool, paged: bool) -> Screen:
    """Say what a stream can show: its width, and colour and pages unless they are not wanted."""
    colour, ascii_only = wants_colour(stream), takes_ascii_only(stream.encoding)
    if not stream.isatty():
        return Screen(colour=colour, utc=utc, ascii=ascii_only)
    import shutil

    size = shutil.get_terminal_size()
    return Screen(
        width=size.columns,
        height=size.lines,
        colour=colour,
        pager=chosen_pager() if paged and os.environ.get("TERM") != "dumb" else "",
        utc=utc,
        ascii=ascii_only,
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
    """Say something about an answer on stderr, in a line; times are as those of its table."""
    sys.stdout.flush()  # an answer is above what is said of it, where both go one way
    click.echo(folded(_as_in_table(told(text))), err=True)


_UTC_TIME = r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z"


def _as_in_table(text: str) -> str:
    """Spell times in the zone that the table beside is in; programs get UTC, with a Z."""
    context = click.get_current_context(silent=True)
    if context is None or context.params.get("utc", True):
        return text
    if context.params.get("output_format") not in FOR_PEOPLE:
        return text

    def local(found: re.Match[str]) -> str:
        moment = datetime.fromisoformat(found[0]).astimezone()
        return found[0] if not moment.utcoffset() else moment.isoformat(timespec="seconds")

    return re.sub(_UTC_TIME, local, text)


def is_of_nothing(caveats: Iterable[Caveat]) -> bool:
    """Say whether an answer is empty since no flow could fit: a caveat says why."""
    return any(isinstance(caveat, NothingFits | NothingRecorded) for caveat in caveats)


def print_caveats(caveats: Iterable[Caveat]) -> None:
    """Say on stderr what an answer lacks, a line for each caveat, behind the answer itself."""
    sys.stdout.flush()  # where its reader went away, nobody is told
    colour = wants_colour(sys.stderr)
    for caveat in caveats:
        gap, text = isinstance(caveat, HasGaps), folded(_as_in_table(told(caveat.text)))
        click.echo(click.style(text, fg="yellow") if gap else text, err=True, color=colour)


def print_new_caveats(caveats: Iterable[Caveat], told: set[str]) -> None:
    """Say what is not told yet, and add it to what is."""
    new = [caveat for caveat in caveats if caveat.text not in told]
    told.update(caveat.text for caveat in new)
    print_caveats(new)
