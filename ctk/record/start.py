"""
From what was asked to a running recording: opens what it reads and what it writes.

What can be refused comes first. So an error is the only thing that is said, no file is made for
it, and the warnings about this host are those of a recording that runs.
"""

import logging
import os
import socket
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Protocol

from ctk.conntrack import table
from ctk.conntrack.bypass import bypass, interface_names
from ctk.conntrack.capture import Capture, CaptureWriter, Header
from ctk.conntrack.filters import program
from ctk.conntrack.listen import Listener, Replay
from ctk.conntrack.socket import Socket
from ctk.errors import CtkError, UsageError
from ctk.kube.objects import Change
from ctk.kube.parse import read_objects
from ctk.record import loop
from ctk.record.followers import RecordLog, RecordPrinter
from ctk.record.options import Options
from ctk.record.plan import Listening, Plan, Status
from ctk.record.ready import ReadyFile
from ctk.record.rows import ToldRow, as_record
from ctk.record.signals import Stop
from ctk.render.place import Place
from ctk.render.rotate import RotatingFile
from ctk.store import connect
from ctk.store.prune import MANY_ROWS, outdated, staying
from ctk.store.recordings import overlaps, pods_version, recorded_until
from ctk.store.rollup import floor, peers_within
from ctk.timespan import DAY, SECOND, format_time

if TYPE_CHECKING:
    from ctk.kube.watch import Watch
    from ctk.record.metrics import Metrics

log = logging.getLogger("ctk")

_NAMES = {
    "flow": "flows",
    "1m": "sums by minute",
    "1h": "sums by hour",
    "1d": "sums by day",
}
_SYSCTLS = ("nf_conntrack_acct", "nf_conntrack_timestamp", "nf_conntrack_events")


class ProgressView(Protocol):
    """Where a person sees how the recording goes."""

    def show(self, status: Status) -> None: ...

    def clear(self) -> None:
        """Make room on the terminal for a line that stays."""

    def told(self, text: str) -> None:
        """Say what a log is to have, and a person at a terminal knows."""


def record(options: Options, stop: Stop, progress: ProgressView, *, asks: bool) -> None:
    """
    Record until `stop` says so, or the capture ends.

    With `asks` somebody is there to say whether a file that would lose all is the right one.
    """
    changes: SimpleQueue[Change] = SimpleQueue()
    for change in read_objects(options.objects) if options.objects else ():
        changes.put(change)
    with ExitStack() as stack:
        warnings: list[str] = []
        watch = _watch(options, warnings)
        stream, node = _stream(stack, options, stop, warnings)
        plan = _plan(options, node, watch, stop)
        printer = _printer(options, stop, progress)
        with _gone_if_refused(options.log, options.capture):
            metrics = _metrics(stack, options)
            record_log = _record_log(stack, options, stop)
            conn = stack.enter_context(connect.writer(options.db))
            ready_file = options.ready_file
            ready = stack.enter_context(ReadyFile(ready_file)) if ready_file else None
            _refuse_a_second_time(conn, options.db, plan, stream)
            warnings += _going(conn, options.db, plan, stream.started_ns, asks=asks)
            # A capture file is begun anew. Without the lock on DB it may be another recorder's.
            capture = _capture_writer(stack, options, plan, stream, warnings)
        for warning in warnings:
            log.warning("%s", warning)
        if watch is not None:
            watch.start(changes, pods_version(conn, plan.node))
            stack.callback(watch.stop)

        def show(status: Status) -> None:
            progress.show(status)
            if record_log is not None:
                record_log.reopen_if_asked()

        followers = [follower for follower in (printer, record_log) if follower is not None]
        listening = Listening(
            rows=_teller(followers, plan.node) if followers else None,
            pods=printer.pod if printer is not None else lambda pod: None,
            status=show,
            told=progress.told,
            capture=capture,
            metrics=metrics,
            ready=ready.committed if ready is not None else lambda until_ns: None,
        )
        loop.run(conn, stream, plan, changes, listening)
        if printer is not None:
            printer.end()


@contextmanager
def _gone_if_refused(*paths: Path | None) -> Iterator[None]:
    """Remove those of these files that were not there before, where the recording is refused."""
    new = [path for path in paths if path is not None and not os.path.lexists(path)]
    try:
        yield
    except CtkError:
        for path in new:
            path.unlink(missing_ok=True)
        raise


def _metrics(stack: ExitStack, options: Options) -> "Metrics | None":
    """Listen for who asks for metrics; before anything is recorded, for the port may be taken."""
    if options.metrics is None:
        return None
    from ctk.record.metrics import Metrics, require

    require()
    from ctk.record.exporterprocess import ExporterProcess

    return Metrics(stack.enter_context(ExporterProcess(options.metrics, options.db)).tell)


def _stream(
    stack: ExitStack, options: Options, stop: Stop, warnings: list[str]
) -> tuple[Listener | Replay, str]:
    """Open the kernel or a capture; the second is the name of its node."""
    if options.from_capture is None:
        return _listener(stack, options, stop, warnings), socket.gethostname()
    capture = stack.enter_context(Capture(options.from_capture, note=log.warning))
    return Replay(capture, stopping=stop, events=options.events), capture.header.node


def _plan(options: Options, node: str, watch: "Watch | None", stop: Stop) -> Plan:
    event_filter = options.event_filter()
    peers = _peers(options)
    live = options.from_capture is None
    around = bypass(interface_names()) if live else None
    return Plan(
        node=options.node_name or node,
        source=str(options.from_capture or "kernel"),
        live=live,
        cluster=watch is not None,
        cluster_name=options.cluster_name or (watch.cluster_name if watch else None),
        window_ns=options.window_ns,
        aggregation=options.aggregate,
        wanted=event_filter.wants if event_filter else None,
        peers=peers,
        retain=options.retain,
        max_bytes=options.max_bytes,
        settings={
            **options.settings(),
            "peers": "all" if peers is None else peers,
            **({} if around is None else {"bypass": around}),
        },
        left_s=stop.left_s,
    )


def _peers(options: Options) -> int | None:
    """Give how many strangers a window keeps: no more than --max-size has room for."""
    if options.max_bytes is None:
        return options.peers
    most = peers_within(options.max_bytes)
    if options.peers is not None and options.peers <= most:
        return options.peers
    log.warning("with this --max-size a window keeps %s strangers, not more", f"{most:,}")
    return most


def _refuse_a_second_time(
    conn: sqlite3.Connection, db: Path, plan: Plan, stream: Listener | Replay
) -> None:
    """
    Raise UsageError where DB already has what the node did in the time of a capture.

    A replay that was interrupted cannot go on: which connections lived where it stopped is not in
    the file, and another filter, window or cluster may be asked for now. A whole replay is quick.
    """
    if isinstance(stream, Replay) and overlaps(conn, plan.node, stream.started_ns, stream.last_ns):
        until_ns = recorded_until(conn, plan.node, plan.source)
        if until_ns is not None and until_ns < stream.last_ns():
            raise UsageError(
                f"{db} has {plan.source} up to {format_time(until_ns)} only: that was interrupted",
                hint=f"record all of {plan.source} into another DB, and remove this one if it has"
                " nothing else: nothing is to be counted twice",
            )
        raise UsageError(
            f"{db} already has what {plan.node} did then",
            hint=f"record {plan.source} into another DB, for nothing is to be counted twice",
        )


def _going(
    conn: sqlite3.Connection, db: Path, plan: Plan, now_ns: int, *, asks: bool
) -> Iterator[str]:
    """
    Say which levels of DB lose all that they hold, since ages count from now.

    Raises UsageError where that is the whole file and somebody is asked: a copy of years ago is
    not what he meant. A recorder that a service starts records, whatever is in its file.
    """
    found = outdated(conn, now_ns, plan.retain)
    if not found:
        return
    what = _and(
        f"{'at least ' * (each.rows == MANY_ROWS)}{each.rows:,} {_NAMES[each.level.name]}"
        for each in found
    )
    first_ns = min(each.first_ns for each in found)
    last_ns = max(each.last_ns for each in found)
    what = f"{what}, of {_second(first_ns)} to {_second(last_ns)}"
    days = (now_ns - first_ns) // DAY + 2
    keeps = " ".join(
        f"--retain {'flows' if each.level.name == 'flow' else each.level.name}={days}d"
        for each in found
    )
    stay = staying(conn, now_ns, plan.retain)
    if asks and not stay:
        raise UsageError(
            f"{db} would lose all that it holds, which is older than --retain keeps: {what}",
            hint=f"record into another file, or {keeps}",
        )
    widest_ns = found[-1].level.width_ns
    kept = _and(
        _NAMES[level.name] + f" since {_second(since_ns)}" * (floor(since_ns, widest_ns) > first_ns)
        for level, since_ns in stay
        if since_ns < last_ns
    )
    yield (
        f"{db} loses {what}, older than --retain keeps{f'; {kept} stay' if kept else ''};"
        f" to keep all: {keeps}, or another file"
    )


def _and(texts: Iterable[str]) -> str:
    *others, last = [*texts] or [""]
    return " and ".join([", ".join(others), last] if others else [last])


def _second(at_ns: int) -> str:
    return f"{format_time(at_ns)[:19]}Z"


def _capture_writer(
    stack: ExitStack,
    options: Options,
    plan: Plan,
    stream: Listener | Replay,
    warnings: list[str],
) -> CaptureWriter | None:
    if options.capture is None:
        return None
    if replaced := Place.of(options.capture).replaced:
        warnings.append(replaced)
    header = Header(
        node=plan.node,
        addresses=stream.local_addresses,
        sysctls={name: table.sysctl(name) for name in _SYSCTLS},
    )
    return stack.enter_context(CaptureWriter(options.capture, header, log.warning))


def _watch(options: Options, warnings: list[str]) -> "Watch | None":
    """Follow the cluster that was named, or the one this runs in."""
    if options.no_kube or options.objects:
        return None
    is_inside = "KUBERNETES_SERVICE_HOST" in os.environ and options.from_capture is None
    if options.kubeconfig is None and not is_inside:
        warnings.append("no cluster to ask for names: give --kubeconfig, --objects or --no-kube")
        return None
    from ctk.kube.watch import Watch

    node = options.node_name or socket.gethostname()
    only_node = node if options.scope == "node" else None
    return Watch(options.kubeconfig, options.context, only_node=only_node)


def _listener(stack: ExitStack, options: Options, stop: Stop, warnings: list[str]) -> Listener:
    """Listen to the kernel; then make it count, or warn once that it does not."""
    event_filter = options.event_filter()
    compiled = program(event_filter) if event_filter else []
    if compiled is None:
        warnings.append("the filter is too long for the kernel: events are filtered here")
    sizes = {
        "buffer_bytes": options.buffer_bytes,
        "buffer_max_bytes": options.buffer_max_bytes or options.buffer_bytes,
    }
    started_ns = time.time_ns()
    sock = Socket(
        events=options.events,
        program=compiled or (),
        note=warnings.append,
        **{name: size for name, size in sizes.items() if size is not None},
    )
    stack.enter_context(sock)
    if options.enable_accounting:
        for setting in table.enable_accounting():
            warnings.append(f"{setting} is set now, for connections from here on")
    elif table.sysctl("nf_conntrack_acct") == 0:
        warnings.append(
            "bytes and packets are not counted here (net.netfilter.nf_conntrack_acct=0):"
            " record with --enable-accounting, or run sysctl -w net.netfilter.nf_conntrack_acct=1"
        )
    every_ns = options.dump_every_ns
    return Listener(
        sock,
        started_ns=started_ns,
        window_ns=options.window_ns,
        dump_every_s=every_ns / SECOND if every_ns is not None else None,
        stopping=stop,
        asked_s=lambda: stop.asked_s,
        counting=lambda: table.sysctl("nf_conntrack_acct") != 0,
    )


def _printer(options: Options, stop: Stop, progress: ProgressView) -> RecordPrinter | None:
    if not options.prints:
        return None
    return RecordPrinter(stop, progress.clear, accounting=options.log_accounting)


def _record_log(stack: ExitStack, options: Options, stop: Stop) -> RecordLog | None:
    if options.log is None:
        return None
    file = RotatingFile(
        options.log,
        max_bytes=options.log_max_bytes,
        keep=options.log_keep,
        compress=options.log_compress,
        note=log.warning,
    )
    record_log = RecordLog(file, stop, accounting=options.log_accounting)
    stack.callback(record_log.end)
    return record_log


def _teller(
    followers: list[RecordPrinter | RecordLog], node: str
) -> Callable[[Iterable[ToldRow]], None]:
    """Give what hands each row of a window to each follower, as a record."""

    def tell(rows: Iterable[ToldRow]) -> None:
        for follower in followers:
            follower.begin_window()
        for told in rows:
            record = as_record(told, node)
            for follower in followers:
                follower.write(record)

    return tell
