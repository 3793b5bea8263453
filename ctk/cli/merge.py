"""`ctk merge`: the files of several nodes, as one in which each connection counts once."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ctk.cli.bar import Bar
from ctk.cli.options import Db, refuse_dash, remark

if TYPE_CHECKING:
    from ctk.fleet.merge import Merged

_PATH: Any = Db()


@click.command(short_help="Merge the files of several nodes into one.")
@click.argument("dbs", nargs=-1, required=True, metavar="DB...", type=_PATH)
@click.option(
    "-o",
    "--output",
    "out",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Where to: a new file, or a merged one that is merged again.",
)
@click.option(
    "--since",
    metavar="TIME",
    help="Leave out what is older: 7d, yesterday, 2024-11-25T18:47Z; ages count from the end.",
)
@click.option(
    "--levels",
    metavar="LEVELS",
    help="Which tables of flows, with commas between.  [default: flows,1m,1h,1d]",
)
@click.option(
    "--all-observers",
    is_flag=True,
    help="Keep what does not count, for who asks for all observers.",
)
def merge(
    dbs: tuple[Path, ...], out: Path, since: str | None, levels: str | None, all_observers: bool
) -> None:
    """
    Merge the files of several nodes into one, in which each connection counts once.

    Two nodes see most connections between pods. The one that opened it counts; where its node was
    not recorded, the other. Every command works on the merged file, and `ctk info` says what was
    left out, and why.

    Of several snapshots of one node's file the newest is taken. A merged file may be merged again,
    and be what is written. What one file could not name is named where another does.

    \b
    ctk merge node.db other.db -o all.db
    ctk merge all.db node.db -o all.db
    ctk merge node.db other.db -o month.db --since 30d --levels 1h,1d
    """
    refuse_dash("--output", out, "name a file: all.db")
    from ctk.ask.recording import Recording
    from ctk.fleet.merge import LEVEL_NAMES
    from ctk.fleet.merge import merge as merged

    since_ns = None
    if since is not None:
        from ctk.ask.keywords import as_flag
        from ctk.ask.moments import Reference, span_of

        def reference() -> Reference:
            return max((Recording(db).reference() for db in dbs), key=lambda each: each.at_ns)

        span = span_of(
            {"since": since},
            now_ns=time.time_ns(),
            reference=reference,
            zone=None,
            spelled=as_flag,
        )
        since_ns = span.since_ns
    names = LEVEL_NAMES if levels is None else [name.strip() for name in levels.split(",")]
    with Bar(shown=True) as bar:
        found = merged(
            dbs,
            out,
            since_ns=since_ns,
            levels=names,
            aside=all_observers,
            progress=lambda done, total: bar.show(done / (total or 1), done),
        )
    say(found, out)


def say(found: "Merged", out: Path) -> None:
    """Say what became of it, in a few lines."""
    recordings = f"{found.recordings:,} recording{'' if found.recordings == 1 else 's'}"
    nodes = f"{found.nodes:,} node{'' if found.nodes == 1 else 's'}"
    remark(f"{out}: {recordings} of {nodes}")
    for text in found.said:
        remark(text)
