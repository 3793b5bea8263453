"""`ctk collect`: the flags, and what is said of what came."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ctk.cli.options import kubeconfig_that_is_there, remark
from ctk.errors import CtkError, UsageError
from ctk.model.numbers import parse_file_size
from ctk.timespan import parse_age

if TYPE_CHECKING:
    from ctk.fleet.collect import Collected, CollectOptions

_HOME_CONFIG = "~/.kube/config"
_MERGED = "all.db"


@click.command(short_help="Record on nodes of a cluster for a while, and fetch the files.")
@click.option(
    "--kubeconfig",
    type=click.Path(path_type=Path),
    callback=kubeconfig_that_is_there,
    metavar="FILE",
    help=f"The cluster.  [default: $KUBECONFIG, then {_HOME_CONFIG}]",
)
@click.option("--context", metavar="NAME", help="A context of the kubeconfig.")
@click.option("--nodes", multiple=True, metavar="NAMES", help="These nodes.  [default: all]")
@click.option("-l", "--selector", metavar="LABELS", help="Nodes with these labels: pool=web,gpu.")
@click.option(
    "--for",
    "for_ns",
    type=parse_age,
    default="10m",
    show_default=True,
    metavar="DURATION",
    help="How long, from when all nodes record.",
)
@click.option(
    "-o",
    "--output",
    "out",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    metavar="DIR",
    help="Where the files go: DIR/NODE.db.",
)
@click.option("--image", metavar="IMAGE", help="Of the recorders.  [default: ctk:VERSION]")
@click.option(
    "--image-pull-policy",
    "pull_policy",
    type=click.Choice(("IfNotPresent", "Always", "Never")),
    default="IfNotPresent",
    show_default=True,
    help="When nodes pull it.",
)
@click.option(
    "--start-timeout",
    "start_timeout_ns",
    type=parse_age,
    default="2m",
    show_default=True,
    metavar="DURATION",
    help="Give up a node whose pod has not started by then.",
)
@click.option(
    "--max-size",
    "max_bytes",
    type=parse_file_size,
    default="1GiB",
    show_default=True,
    metavar="SIZE",
    help="Of a node's file: the oldest and finest rows go first.",
)
@click.option("--merge", "merges", is_flag=True, help=f"Merge them, too: DIR/{_MERGED}.")
def collect(nodes: tuple[str, ...], image: str | None, merges: bool, **given: Any) -> None:
    """
    Record on nodes of a cluster for a while, and fetch their files to DIR.

    Makes a namespace with a recorder pod on each node, and deletes all of it at the end, whatever
    happened. Ctrl-C ends the recording early and keeps what there is.

    \b
    ctk collect --for 10m -o incident
    ctk collect --context prod --nodes worker-1,worker-2 -o incident --merge
    """
    from ctk.cli.nodelines import NodeLines
    from ctk.fleet import collect as fleet
    from ctk.fleet.manifests import default_image

    flags = [
        word
        for name in ("kubeconfig", "context")
        if given[name]
        for word in (f"--{name}", str(given[name]))
    ]
    given["kubeconfig"] = given["kubeconfig"] or _kubeconfig()
    options = fleet.CollectOptions(
        nodes=tuple(name for words in nodes for name in words.split(",") if name),
        image=image or default_image(),
        flags=tuple(flags),
        **given,
    )
    _refuse_contradictions(options)
    merged = options.out / _MERGED
    if merges and merged.exists():
        raise UsageError(f"{merged} is there already", hint="name another folder, or remove it")
    stop = fleet.Ending(None)
    with stop.on_signals(), NodeLines() as shown:
        outcome = fleet.collect(options, stop, shown)
    _print_files(outcome)
    problems = []
    if merges:
        try:
            _merge(outcome, merged)
        except CtkError as error:  # what nodes failed of is to be said, too
            problems.append(error)
    _raise_last([*problems, *_problems(outcome, options)])


def _kubeconfig() -> Path | None:
    """Find what kubectl would; None inside a cluster."""
    named = os.environ.get("KUBECONFIG")
    if named:
        return Path(named)
    home = Path(_HOME_CONFIG).expanduser()
    if home.exists():
        return home
    if "KUBERNETES_SERVICE_HOST" in os.environ:
        return None
    raise UsageError("no cluster is named", hint="--kubeconfig FILE")


def _refuse_contradictions(options: "CollectOptions") -> None:
    if options.nodes and options.selector:
        raise UsageError("--nodes and --selector exclude each other", hint="give one of them")
    if options.for_ns <= 0:
        raise UsageError("--for is no time", hint="--for 10m")


def _print_files(outcome: "Collected") -> None:
    """List the files that came, as a table."""
    from ctk.render.cells import scaled

    rows = [("NODE", "FILE", "SIZE")]
    for each in outcome.recorders:
        if each.path is not None:
            rows.append((each.node, str(each.path), scaled(each.path.stat().st_size)))
    if len(rows) == 1:
        return
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for node, path, size in rows:
        click.echo(f"{node:<{widths[0]}}  {path:<{widths[1]}}  {size:>{widths[2]}}")


def _merge(outcome: "Collected", out: Path) -> None:
    """Make one file of those that came."""
    from ctk.cli.bar import Bar
    from ctk.cli.merge import say
    from ctk.fleet.merge import merge

    paths = [each.path for each in outcome.recorders if each.path is not None]
    if paths:
        with Bar(shown=True) as bar:
            found = merge(
                paths, out, progress=lambda done, total: bar.show(done / (total or 1), done)
            )
        say(found, out)


def _raise_last(problems: Sequence[CtkError]) -> None:
    """Say each problem in a line, and exit with 1 where there is one."""
    for error in problems[:-1]:
        remark(error.message)
        if error.hint:
            remark(f"Try: {error.hint}")
    if problems:
        raise problems[-1]


def _problems(outcome: "Collected", options: "CollectOptions") -> Iterator[CtkError]:
    from ctk.fleet.recorders import by_reason

    recorders = outcome.recorders
    cut = [(each.node, each.problem) for each in recorders if each.path and each.problem]
    if cut:
        yield CtkError(f"kept, but not all is in it: {by_reason(cut)}")
    failed = [(each.node, each.why) for each in recorders if each.path is None]
    if failed:
        count = f"{len(failed)} of {len(recorders)} node{'s' if len(recorders) > 1 else ''}"
        yield CtkError(f"{count} gave no file: {by_reason(failed)}")
    if outcome.left is not None:
        yield CtkError(outcome.left.said, hint=options.deleting(outcome.left))
