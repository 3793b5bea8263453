"""`ctk record`: what to record, where from, and who else is told."""

import logging
import os
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, get_args

import click

from ctk.cli.options import (
    cluster_options,
    db_argument,
    parse_size,
    refuse_one_file_twice,
    refuse_two_clusters,
)
from ctk.cli.progress import Progress
from ctk.conntrack.aggregate import Aggregation
from ctk.conntrack.filters import EventFilter
from ctk.errors import UsageError
from ctk.model import EVENT_NAMES
from ctk.record.signals import Stop
from ctk.timespan import SECOND, parse_age

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ctk.conntrack.listen import Listener
    from ctk.kube.objects import Change
    from ctk.kube.watch import Watch
    from ctk.model import Edge, FlowRow
    from ctk.record.followers import RecordLog, RecordPrinter
    from ctk.record.loop import Status

log = logging.getLogger("ctk")

_LEVELS = ("flows", "1m", "1h", "1d")


def _events(text: str) -> tuple[str, ...]:
    chosen = tuple(dict.fromkeys(text.split(",")))
    for name in chosen:
        if name not in EVENT_NAMES:
            raise UsageError(f"{name!r} is not an event", hint="write new,update,destroy")
    return chosen


def _retention(text: str) -> tuple[str, int]:
    level, _, age = text.partition("=")
    if level not in _LEVELS or not age:
        raise UsageError(
            f"{text!r} is not a retention", hint="write it as flows=24h, 1m=7d, 1h=90d or 1d=730d"
        )
    return ("flow" if level == "flows" else level), parse_age(age)


@click.command()
@db_argument
@cluster_options
@click.option(
    "--scope",
    type=click.Choice(("cluster", "node")),
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
    type=parse_age,
    default="10s",
    show_default=True,
    metavar="AGE",
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
@click.option("--cidr", multiple=True, metavar="CIDR", help="Only flows that touch it.")
@click.option("--exclude-cidr", multiple=True, metavar="CIDR", help="No flows that touch it.")
@click.option("--protocol", multiple=True, metavar="NAME", help="Only this protocol.")
@click.option(
    "--port", multiple=True, metavar="PORT", help="Only flows to this port, dialled or backend's."
)
@click.option("--max-time", type=parse_age, metavar="AGE", help="Stop after that long.")
@click.option(
    "--max-size", type=parse_size, metavar="SIZE", help="Prune the oldest rows to stay under it."
)
@click.option(
    "--retain",
    multiple=True,
    type=_retention,
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
    type=parse_age,
    default="30s",
    show_default=True,
    metavar="AGE",
    help="How often live connections' counters are read.",
)
@click.option("--buffer-size", type=parse_size, metavar="SIZE", help="Of the netlink socket.")
@click.option("--buffer-max", type=parse_size, metavar="SIZE", help="It grows so far on a loss.")
@click.option("--print", "prints", is_flag=True, help="Print records as they are written.")
@click.option(
    "--log",
    "log_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write records as JSON lines.",
)
@click.option(
    "--log-max-size",
    type=parse_size,
    default="100MiB",
    show_default=True,
    metavar="SIZE",
    help="Roll the log over past that.",
)
@click.option(
    "--log-keep",
    type=click.IntRange(min=0),
    default=5,
    show_default=True,
    metavar="N",
    help="How many rolled files to keep.",
)
@click.option("--log-compress", is_flag=True, help="Compress rolled files.")
def record(**options: Any) -> None:
    """
    Record what this node's connections do into DB.

    Listens to the kernel until it is stopped (Ctrl-C, SIGTERM), which finishes the window.
    Recording again into the same DB goes on where the last one ended.
    """
    _refuse_contradictions(options)
    refuse_one_file_twice(
        options["db"],
        {
            "--from-capture": options["from_capture"],
            "--capture": options["capture"],
            "--log": options["log_file"],
        },
    )
    stop = Stop(options["max_time"], hangup_reopens=options["log_file"] is not None)
    with stop.on_signals(), ExitStack() as stack:
        _record(stack, stop, **options)


def _record(
    stack: ExitStack,
    stop: Stop,
    *,
    db: Path,
    window: int,
    aggregate: Aggregation,
    node_name: str | None,
    prints: bool,
    **options: Any,
) -> None:
    from ctk.conntrack import socket as kernel
    from ctk.conntrack.capture import Capture, CaptureWriter, Header
    from ctk.conntrack.listen import Replay
    from ctk.record import loop as recorder
    from ctk.record.followers import RecordPrinter
    from ctk.store import connect
    from ctk.store.recordings import overlaps

    chosen = EventFilter.parse(
        cidrs=options["cidr"],
        exclude_cidrs=options["exclude_cidr"],
        protocols=options["protocol"],
        ports=options["port"],
    )
    changes: SimpleQueue[Change] = SimpleQueue()
    status = Progress()
    stack.callback(status.end)
    for change in _objects(options["objects"]):
        changes.put(change)
    watch = _watch(options, node_name or socket.gethostname())

    stream: Listener | Replay
    if options["from_capture"] is not None:
        replayed = stack.enter_context(Capture(options["from_capture"], note=log.warning))
        stream = Replay(replayed, stopping=stop, events=options["events"])
        node = node_name or replayed.header.node
        addresses = replayed.header.addresses
    else:
        stream = _listen(stack, stop, chosen, options)
        node = node_name or socket.gethostname()
        addresses = kernel.local_addresses()

    plan = recorder.Plan(
        node=node,
        source=str(options["from_capture"] or "kernel"),
        local_addresses=addresses,
        live=options["from_capture"] is None,
        cluster=watch is not None,
        window_ns=window,
        aggregation=aggregate,
        wanted=chosen.wants if chosen else None,
        retain=dict(options["retain"]),
        max_bytes=options["max_size"],
        settings={"window_ns": window, "aggregate": aggregate, "events": options["events"]}
        | {name: options[name] for name in ("cidr", "exclude_cidr", "protocol", "port")},
    )
    printer = RecordPrinter(stop, status.clear) if prints else None
    record_log = _record_log(stack, stop, options)
    # A capture is begun anew: not before the lock, or a second recorder would take the first's.
    conn = stack.enter_context(connect.writer(db))
    if isinstance(stream, Replay) and overlaps(conn, node, stream.started_ns, stream.last_ns):
        raise UsageError(
            f"{db} already has what {node} did then",
            hint=f"record {plan.source} into another DB, for nothing is to be counted twice",
        )
    capture = None
    if options["capture"] is not None:
        names = ("nf_conntrack_acct", "nf_conntrack_timestamp", "nf_conntrack_events")
        header = Header(
            node=node, addresses=addresses, sysctls={name: kernel.sysctl(name) for name in names}
        )
        capture = stack.enter_context(CaptureWriter(options["capture"], header, log.warning))
    if watch is not None:
        watch.start(changes)
        stack.callback(watch.stop)

    def show(status_now: "Status") -> None:
        status.show(status_now)
        if record_log is not None:
            record_log.reopen_if_asked()

    listening = recorder.Listening(
        rows=_rows_told([one for one in (printer, record_log) if one is not None], node),
        pods=lambda pod: printer.pod(pod) if printer else None,
        status=show,
        capture=capture,
    )
    recorder.run(conn, stream, plan, changes, listening)
    if printer is not None:
        printer.end()


def _refuse_contradictions(options: dict[str, Any]) -> None:
    names = ("context", "kubeconfig", "objects", "no_kube")
    refuse_two_clusters(**{name: options[name] for name in names})
    if options["from_capture"] and options["capture"]:
        raise UsageError("--capture and --from-capture exclude each other", hint="give one of them")
    if options["from_capture"] and options["enable_accounting"]:
        raise UsageError("--enable-accounting is for the kernel, not for a capture")
    for name in ("window", "accounting_interval"):
        if options[name] < SECOND:
            flag = f"--{name.replace('_', '-')}"
            raise UsageError(f"{flag} is shorter than a second", hint=f"{flag} 10s")


def _objects(paths: tuple[Path, ...]) -> "list[Change]":
    if not paths:
        return []
    from ctk.kube.objects import read_objects

    return read_objects(paths)


def _watch(options: dict[str, Any], node: str) -> "Watch | None":
    """Follow a cluster: the one that was named, or the one this runs in."""
    named = options["kubeconfig"] is not None
    inside = "KUBERNETES_SERVICE_HOST" in os.environ and options["from_capture"] is None
    if options["no_kube"] or options["objects"] or not (named or inside):
        if not (options["no_kube"] or options["objects"]):
            log.warning("no cluster to ask for names: give --kubeconfig, --objects or --no-kube")
        return None
    from ctk.kube.watch import Watch

    only_node = node if options["scope"] == "node" else None
    return Watch(options["kubeconfig"], options["context"], only_node=only_node)


def _listen(
    stack: ExitStack, stopping: Callable[[], bool], chosen: EventFilter, options: dict[str, Any]
) -> "Listener":
    """Open the kernel's socket; say once what it does not count."""
    from ctk.conntrack import socket as kernel
    from ctk.conntrack.filters import program
    from ctk.conntrack.listen import Listener

    if options["enable_accounting"]:
        for setting in kernel.enable_accounting():
            log.warning("%s is set now, for connections from here on", setting)
    elif kernel.sysctl("nf_conntrack_acct") == 0:
        log.warning(
            "bytes and packets are not counted here (net.netfilter.nf_conntrack_acct=0):"
            " record with --enable-accounting, or run sysctl -w net.netfilter.nf_conntrack_acct=1"
        )
    compiled = program(chosen) if chosen else []
    if compiled is None:
        log.warning("the filter is too long for the kernel: events are filtered after they arrive")
    sizes = {
        "buffer_bytes": options["buffer_size"],
        "buffer_max_bytes": options["buffer_max"] or options["buffer_size"],
    }
    started_ns = time.time_ns()
    sock = kernel.Socket(
        events=options["events"],
        program=compiled or (),
        note=log.warning,
        **{name: size for name, size in sizes.items() if size is not None},
    )
    return Listener(
        stack.enter_context(sock),
        started_ns=started_ns,
        dump_every_s=options["accounting_interval"] / SECOND,
        stopping=stopping,
        counting=lambda: kernel.sysctl("nf_conntrack_acct") != 0,
    )


def _record_log(stack: ExitStack, stop: Stop, options: dict[str, Any]) -> "RecordLog | None":
    if options["log_file"] is None:
        return None
    from ctk.record.followers import RecordLog
    from ctk.render.rotate import RotatingFile

    record_log = RecordLog(
        RotatingFile(
            options["log_file"],
            max_bytes=options["log_max_size"],
            keep=options["log_keep"],
            compress=options["log_compress"],
            note=log.warning,
        ),
        stop,
    )
    stack.callback(record_log.end)
    return record_log


def _rows_told(
    followers: "list[RecordPrinter | RecordLog]", node: str
) -> "Callable[[Iterable[tuple[FlowRow, Edge]]], None] | None":
    """Who gets the records of a window: standard output, a log file, both or nobody."""
    from ctk.record.attribution import as_record

    if not followers:
        return None

    def tell(rows: "Iterable[tuple[FlowRow, Edge]]") -> None:
        for follower in followers:
            follower.begin_window()
        for row, edge in rows:
            record = as_record(row, edge, node)
            for follower in followers:
                follower.write(record)

    return tell
