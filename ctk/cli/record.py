"""`ctk record`: the flags, and what they refuse."""

import sys
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_args

import click
from click.core import ParameterSource

from ctk.cli.options import (
    cluster_options,
    refuse_dash,
    refuse_one_file_twice,
    refuse_two_clusters,
)
from ctk.cli.sections import SectionedCommand
from ctk.conntrack.counting import Aggregation
from ctk.conntrack.filters import Cidr
from ctk.conntrack.names import EVENT_NAMES, EventName, parse_protocol
from ctk.conntrack.strangers import MOST_PEERS
from ctk.errors import UsageError
from ctk.model.numbers import parse_count, parse_file_size, parse_port, parse_size
from ctk.record.exporter import parse_address
from ctk.record.options import Options, Scope
from ctk.render.place import is_no_file
from ctk.timespan import SECOND, parse_age

_LEVELS = ("flows", "1m", "1h", "1d")


def _events(text: str) -> tuple[EventName, ...]:
    given = dict.fromkeys(text.split(","))
    for name in given:
        if name not in EVENT_NAMES:
            raise UsageError(f"{name!r} is not an event", hint="write new,update,destroy")
    return tuple(name for name in EVENT_NAMES if name in given)


def _retention(text: str) -> tuple[str, int]:
    level, _, age = text.partition("=")
    if level not in _LEVELS or not age:
        raise UsageError(
            f"{text!r} is not a retention", hint="write it as flows=24h, 1m=7d, 1h=90d or 1d=730d"
        )
    return ("flow" if level == "flows" else level), parse_age(age)


def _peers(text: str) -> int | None:
    if text == "all":
        return None
    if not (text.isdecimal() and text.isascii() and len(text) <= 9):
        raise UsageError(f"{text!r} is not a number of peers", hint="write it as 10000, or all")
    return int(text)


class RecordCommand(SectionedCommand):
    """`record`, with its options by what they are about."""

    headings = MappingProxyType(
        {
            name: heading
            for heading, names in (
                ("Names", "kubeconfig context scope objects no_kube cluster_name node_name"),
                ("What is recorded", "from_capture capture events cidr exclude_cidr protocol port"),
                ("How it is kept", "window_ns aggregate max_time_ns max_bytes peers retain"),
                ("The kernel", "enable_accounting dump_every_ns buffer_bytes buffer_max_bytes"),
                (
                    "Records as they come",
                    "prints log log_accounting log_max_bytes log_keep log_compress",
                ),
                ("How it is watched", "metrics progress_every_ns ready_file lingers"),
            )
            for name in names.split()
        }
    )


# Not by CTK_DB, which names what is asked: what is written is named where it is.
@click.command(cls=RecordCommand)
@click.argument("db", type=click.Path(path_type=Path, readable=False))
@cluster_options
@click.option(
    "--scope",
    type=click.Choice(get_args(Scope)),
    default="cluster",
    show_default=True,
    help="Watch all pods, or only this node's.",
)
@click.option(
    "--objects",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Names from a file: kubectl get pods,services,endpointslices,nodes -A -o json.",
)
@click.option("--no-kube", is_flag=True, help="No names: addresses only.")
@click.option(
    "--cluster-name",
    metavar="NAME",
    help="The cluster's name in the file.  [default: the kubeconfig context's cluster]",
)
@click.option(
    "--from-capture",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Read events from a capture instead of the kernel.",
)
@click.option(
    "--capture",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write what the kernel sent to a capture, too (.gz compresses).",
)
@click.option(
    "--window",
    "window_ns",
    type=parse_age,
    default="10s",
    show_default=True,
    metavar="DURATION",
    help="The span one row of flows covers.",
)
@click.option(
    "--aggregate",
    type=click.Choice(get_args(Aggregation)),
    default="ports",
    show_default=True,
    help="A row a flow, a connection, or an event.",
)
@click.option(
    "--events",
    type=_events,
    default="new,update,destroy",
    show_default=True,
    metavar="LIST",
    help="Which events to listen to.",
)
@click.option(
    "--cidr", multiple=True, type=Cidr.parse, metavar="CIDR", help="Only flows that touch it."
)
@click.option(
    "--exclude-cidr", multiple=True, type=Cidr.parse, metavar="CIDR", help="No flows that touch it."
)
@click.option(
    "--protocol", multiple=True, type=parse_protocol, metavar="NAME", help="Only this protocol."
)
@click.option(
    "--port",
    multiple=True,
    type=parse_port,
    metavar="PORT",
    help="Only flows to this port, dialled or backend's.",
)
@click.option(
    "--max-time", "max_time_ns", type=parse_age, metavar="DURATION", help="Stop after that long."
)
@click.option(
    "--max-size",
    "max_bytes",
    type=parse_file_size,
    metavar="SIZE",
    help="Keep DB and its -wal within it, 2MiB or more: the oldest and finest rows go first.",
)
@click.option(
    "--peers",
    type=_peers,
    default=str(MOST_PEERS),
    show_default=True,
    metavar="N|all",
    help="External and unknown peers that a window keeps, the biggest; others are summed up.",
)
@click.option(
    "--retain",
    multiple=True,
    type=_retention,
    callback=lambda ctx, option, pairs: dict(pairs),
    metavar="LEVEL=AGE",
    help="How long rows stay: flows=24h, 1m=7d, 1h=90d, 1d=730d are the defaults.",
)
@click.option(
    "--node-name",
    envvar="NODE_NAME",
    metavar="NAME",
    help="This node's name in Kubernetes.  [default: $NODE_NAME, then the host's]",
)
@click.option(
    "--enable-accounting",
    is_flag=True,
    help="Make the kernel count bytes (nf_conntrack_acct) and keep times (.._timestamp).",
)
@click.option(
    "--accounting-interval",
    "dump_every_ns",
    type=parse_age,
    metavar="DURATION",
    help="How often live connections' counters are read.  [default: as often as a hundredth of a"
    " core allows, each window at best, every 30s at worst]",
)
@click.option(
    "--buffer-size",
    "buffer_bytes",
    type=parse_size,
    metavar="SIZE",
    help="Of the netlink socket.",
)
@click.option(
    "--buffer-max",
    "buffer_max_bytes",
    type=parse_size,
    metavar="SIZE",
    help="It grows so far where it fills up.",
)
@click.option("--print", "prints", is_flag=True, help="Print records as they are written.")
@click.option(
    "--log",
    "log",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write records as JSON lines; SIGHUP opens it anew.",
)
@click.option(
    "--log-max-size",
    "log_max_bytes",
    type=parse_size,
    default="100MiB",
    show_default=True,
    metavar="SIZE",
    help="Roll the log over past that.",
)
@click.option(
    "--log-keep",
    type=parse_count,
    default=5,
    show_default=True,
    metavar="N",
    help="How many rolled files to keep.",
)
@click.option("--log-compress", is_flag=True, help="Compress rolled files.")
@click.option(
    "--log-accounting",
    is_flag=True,
    help="Log and print also what no event tells: bytes of connections that go on.",
)
@click.option(
    "--progress",
    "progress_every_ns",
    type=parse_age,
    metavar="DURATION",
    help="How often a line says how it goes.  [default: 1s on a terminal, 60s elsewhere]",
)
@click.option(
    "--linger",
    "lingers",
    is_flag=True,
    help="Stay after the end until a signal: DB can be fetched from the container.",
)
@click.option(
    "--metrics",
    type=parse_address,
    metavar="[ADDRESS:]PORT",
    help="Answer Prometheus at /metrics; without an address on this host alone.",
)
@click.option(
    "--ready-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Touch it at each commit, once there are names; for probes: find FILE -mmin -1.",
)
def record(progress_every_ns: int | None, lingers: bool, **given: Any) -> None:
    """
    Record what this node's connections do into DB.

    Listens to the kernel until it is stopped (Ctrl-C, SIGTERM, the end of its session), which
    finishes the window. Recording again into the same DB goes on where the last one ended.
    """
    options = Options(**given)
    _refuse_contradictions(options)
    from ctk.cli.progress import Progress
    from ctk.record import start
    from ctk.record.signals import LingeringStop, Stop

    kind = LingeringStop if lingers else Stop
    stop = kind(options.max_time_ns, hangup_reopens=options.log is not None)
    with stop.on_signals(), Progress(progress_every_ns) as progress, stop.lingering(options.db):
        start.record(options, stop, progress, asks=sys.stderr.isatty())
        if options.from_capture is not None:
            progress.ended()


def _refuse_contradictions(options: Options) -> None:
    refuse_two_clusters(
        options.context,
        kubeconfig=options.kubeconfig,
        objects=options.objects,
        no_kube=options.no_kube,
    )
    if options.from_capture and options.capture:
        raise UsageError("--capture and --from-capture exclude each other", hint="give one of them")
    if options.from_capture and options.enable_accounting:
        raise UsageError("--enable-accounting is for the kernel, not for a capture")
    if options.from_capture and options.ready_file:
        raise UsageError("--ready-file is for the kernel, not for a capture")
    for flag, age_ns in (
        ("--window", options.window_ns),
        ("--accounting-interval", options.dump_every_ns),
    ):
        if age_ns is not None and age_ns < SECOND:
            raise UsageError(f"{flag} is shorter than a second", hint=f"{flag} 10s")
    _refuse_rolling_of_no_file(options.log)
    written = {
        "--capture": options.capture,
        "--log": options.log,
        "--ready-file": options.ready_file,
    }
    refuse_dash("DB", options.db, "name a file: node.db")
    for flag, path in written.items():
        refuse_dash(flag, path, "/dev/stdout is standard output")
    refuse_one_file_twice(options.db, {"--from-capture": options.from_capture, **written})


def _refuse_rolling_of_no_file(log: Path | None) -> None:
    """What is said of rolled files is of none where the log is a device or a pipe."""
    source = click.get_current_context().get_parameter_source
    for name, flag in (
        ("log_max_bytes", "--log-max-size"),
        ("log_keep", "--log-keep"),
        ("log_compress", "--log-compress"),
    ):
        if source(name) != ParameterSource.COMMANDLINE:
            continue
        if log is None:
            raise UsageError(f"{flag} is for --log", hint="--log FILE")
        if is_no_file(log) and not log.is_dir():
            raise UsageError(f"{log} is not rolled over: it is no file", hint=f"no {flag}")
