"""
Record on many nodes for a while, bring the files here, and leave nothing in the cluster.

    choose nodes -> make -> start -> record -> fetch -> delete

The only part of ctk that makes objects in a cluster. A node that fails costs that node.
"""

import math
import shlex
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ctk.errors import CtkError, KubeError, UsageError
from ctk.fleet import manifests
from ctk.fleet.choose import choose
from ctk.fleet.cluster import ApiAwayError, Cluster, CutShortError, path_of_pod
from ctk.fleet.made import Left, Made
from ctk.fleet.recorders import NodeRecorder, reasons
from ctk.fleet.transfer import TransferError, end, fetch
from ctk.fleet.waits import Waits
from ctk.kube.api import BrokenError, RefusedError
from ctk.record.signals import Stop
from ctk.timespan import SECOND, format_age

_AT_A_TIME = 3  # files; the pool of connections has four
_LOGS_AT_A_TIME = 20  # read in one look
_ENDED_AT_A_TIME = 64  # recorders
_FORBIDDEN = 403
_NAMED = 5  # nodes of which the same is said
_ENDED_EARLY = "it was ended before its pod had started"


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectOptions:
    """
    What `ctk collect` was asked.

    `kubeconfig` None is the cluster that it runs in; `flags` are what kubectl is to be told to find
    the same.
    """

    kubeconfig: Path | None
    context: str | None
    flags: tuple[str, ...]
    nodes: tuple[str, ...]
    selector: str | None
    image: str
    pull_policy: str
    for_ns: int
    start_timeout_ns: int
    max_bytes: int
    out: Path

    def deleting(self, left: Left) -> str:
        """Write the command that deletes what is left."""
        return shlex.join(["kubectl", *self.flags, "delete", *left.names])


class AbandonedError(KeyboardInterrupt):
    """A second signal: what is done now is dropped where it stands."""


class Ending(Stop):
    """Ends the recording at the first signal, and everything at the second."""

    def _again(self, number: int) -> None:
        raise AbandonedError


class Shown(Protocol):
    """Where a person sees how it goes."""

    def show(self, doing: str, recorders: Sequence[NodeRecorder]) -> None: ...

    def say(self, text: str) -> None:
        """Say something that stays."""


@dataclass(frozen=True, slots=True)
class Collected:
    """What became of each node; `left` is what could not be deleted."""

    recorders: Sequence[NodeRecorder]
    left: Left | None


def collect(
    options: CollectOptions, stop: Stop, shown: Shown, waits: Waits | None = None
) -> Collected:
    """
    Record on the nodes until the time is over or `stop` says so, and fetch their files.

    Whatever happens, all that was made is deleted; of what could not be, `shown` is told before
    an error is raised. A second signal ends it at once.
    """
    waits = waits or Waits()
    cluster = Cluster(options.kubeconfig, options.context, waits, stop, shown.say)
    recorders = _chosen(cluster, options)
    _prepare(options.out, recorders)
    cluster.patience_s, cluster.is_making = waits.away_s, True
    made = Made(cluster, waits)
    collection = _Collection(options, stop, shown, waits, cluster, made, recorders)
    failed: BaseException | None = None
    try:
        try:
            collection.run()
        except AbandonedError:
            raise
        except BaseException as error:  # noqa: BLE001 - raised again when all is deleted
            failed = error
            if isinstance(error, CutShortError):  # who did not wait then does not want to now
                cluster.patience_s = waits.first_s
        left = collection.delete()
    except AbandonedError:
        collection.drop_parts()
        raise _abandoned(made.left("nobody waited for it"), options) from None
    if failed is not None:
        if left is not None:
            shown.say(f"{left.said}; delete it with: {options.deleting(left)}")
        raise failed
    return Collected(recorders, left)


def _abandoned(left: Left | None, options: CollectOptions) -> CtkError:
    said = f"; {left.said}" if left else ""
    return _ended(f"ended at once{said}", hint=options.deleting(left) if left else None)


def _ended(message: str, *, hint: str | None = None) -> CtkError:
    error = CtkError(message, hint=hint)
    error.exit_code = 130  # as a shell says of SIGINT
    return error


def _chosen(cluster: Cluster, options: CollectOptions) -> list[NodeRecorder]:
    try:
        return choose(cluster, options.nodes, options.selector)
    except CutShortError:
        raise _ended("ended before anything was made") from None
    except ApiAwayError as error:
        hint = shlex.join(["kubectl", *options.flags, "cluster-info"])
        raise KubeError(error.message, hint=hint) from error


def _prepare(out: Path, recorders: Sequence[NodeRecorder]) -> None:
    """Make the folder, and refuse to write over a file, before anything is made in the cluster."""
    for each in recorders:
        if (out / f"{each.node}.db").exists():
            raise UsageError(
                f"{out / each.node}.db is there already", hint="name another folder, or remove it"
            )
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{out} cannot be made: {error.strerror}") from error


class _Collection:
    """One collection under way."""

    def __init__(
        self,
        options: CollectOptions,
        stop: Stop,
        shown: Shown,
        waits: Waits,
        cluster: Cluster,
        made: Made,
        recorders: Sequence[NodeRecorder],
    ) -> None:
        self._options, self._stop, self._shown, self._waits = options, stop, shown, waits
        self._cluster, self._made, self._recorders = cluster, made, recorders
        self._away = ""  # why nothing was heard at the last look
        self._refused: RefusedError | None = None  # the pods, at the last look
        self._told: set[tuple[str, str]] = set()
        self._looking = threading.Event()
        self._next_log = 0

    def run(self) -> None:
        """Do all but delete."""
        if not self._stop():
            self._made.make()
        for each in self._in("starting"):
            if self._stop():
                break
            self._start(each)
        looks = threading.Thread(target=self._look, daemon=True)
        looks.start()
        try:
            self._wait_for_start()
            self._wait_for_end()
        finally:
            self._looking.set()
        looks.join(self._waits.answer_s)
        self._end()
        self._fetch()

    def delete(self) -> Left | None:
        """Delete all that was made."""
        self._shown.show("deleting", self._recorders)
        return self._made.delete()

    def _in(self, *states: str) -> list[NodeRecorder]:
        return [each for each in self._recorders if each.state in states]

    def _start(self, recorder: NodeRecorder) -> None:
        options, waits = self._options, self._waits
        fetch_s = waits.fetch_s + waits.fetch_node_s * len(self._recorders)
        lasts_s = (options.start_timeout_ns + options.for_ns) // SECOND + fetch_s
        pod = manifests.recorder(
            recorder.node,
            self._made.namespace,
            image=options.image,
            pull_policy=options.pull_policy,
            cluster_name=self._cluster.name,
            max_bytes=options.max_bytes,
            progress=f"{max(1, round(waits.look_s))}s",
            deadline_s=int(lasts_s),
        )
        try:
            self._made.make_pod(pod)
        except RefusedError as error:
            recorder.fail(f"its pod is refused: {error.answer.message}")

    # While it records: a thread that looks, and this one that waits.

    def _look(self) -> None:
        """Look at the pods and their logs, until there is no need."""
        while not self._looking.wait(self._waits.look_s):
            try:
                self._look_once()
                self._away, self._refused = "", None
            except BrokenError as error:
                self._away = f"the API server is away: {error}"
            except RefusedError as error:
                self._away = f"pods cannot be listed: {error.answer.message}"
                self._refused = error if error.answer.code == _FORBIDDEN else None

    def _look_once(self) -> None:
        listed = self._cluster.pods(self._made.namespace)
        pods = {each["metadata"]["name"]: each for each in listed}
        for recorder in self._recorders:
            recorder.look_at(pods.get(recorder.node))
        running = [each for each in self._in("starting", "recording", "ended") if each.runs]
        for _ in range(min(_LOGS_AT_A_TIME, len(running))):
            self._next_log = (self._next_log + 1) % len(running)
            recorder = running[self._next_log]
            try:
                self._listen(recorder)
            except RefusedError as error:
                recorder.record()  # it runs, unheard
                recorder.remark(f"its log cannot be read: {error.answer.message}")

    def _listen(self, recorder: NodeRecorder) -> None:
        pod = path_of_pod(self._made.namespace, recorder.node)
        recorder.listen_to(self._cluster.log(pod, manifests.NAME, recorder.unread_since()))

    def _wait_for_start(self) -> None:
        timeout_s = self._options.start_timeout_ns / SECOND
        until_s = time.monotonic() + timeout_s
        while self._in("starting") and not self._stop():
            if time.monotonic() > until_s:
                for each in self._in("starting"):
                    age = format_age(self._options.start_timeout_ns)
                    why = each.why or self._why_not(each)
                    each.fail(f"its pod did not start within {age}" + (f": {why}" if why else ""))
                break
            if self._refused is not None:
                raise KubeError(
                    f"pods cannot be listed: {self._refused.answer.message}",
                    hint="kubectl auth can-i list pods --all-namespaces",
                ) from self._refused
            self._tick("starting")
        for each in self._in("starting"):
            each.fail(_ENDED_EARLY)
        if not self._in("recording", "ended"):
            if self._stop():
                return
            raise KubeError(f"no node records: {reasons(self._recorders)}")

    def _why_not(self, recorder: NodeRecorder) -> str:
        """Say what keeps a pod from starting where its status does not: a volume, say."""
        if recorder.runs:
            return "its recorder says nothing"
        try:
            return self._cluster.last_warning(self._made.namespace, recorder.node)
        except BrokenError as error:
            return f"the API server is away: {error}"
        except RefusedError:
            return ""  # events may not be read

    def _wait_for_end(self) -> None:
        until_s = time.monotonic() + self._options.for_ns / SECOND
        while self._in("recording") and not self._stop():
            left_s = until_s - time.monotonic()
            if left_s <= 0:
                break
            self._tick(f"recording, {format_age(round(left_s) * SECOND)} to go")

    def _tick(self, doing: str) -> None:
        if self._away:
            doing += f"; {self._away}"
        self._show(doing)
        time.sleep(self._waits.tick_s)

    def _show(self, doing: str) -> None:
        new: dict[str, list[str]] = {}
        for each in self._recorders:
            for remark in list(each.remarks):
                if (each.node, remark) not in self._told:
                    self._told.add((each.node, remark))
                    new.setdefault(remark, []).append(each.node)
        for remark, nodes in new.items():
            more = f" and {len(nodes) - _NAMED} more" if len(nodes) > _NAMED else ""
            self._shown.say(f"{', '.join(nodes[:_NAMED])}{more}: {remark}")
        self._shown.show(doing, self._recorders)

    def drop_parts(self) -> None:
        """Remove what has come of files that are not whole."""
        for each in self._recorders:
            for part in self._options.out.glob(f".{each.node}.db.*"):
                part.unlink(missing_ok=True)

    # Then.

    def _end(self) -> None:
        """
        Have all recorders finish now: one that is fetched late is to record no longer.

        A node that is silent keeps the others' files waiting no longer than an answer may take.
        """
        self._each("ending", self._end_one, _ENDED_AT_A_TIME, self._waits.answer_s)

    def _fetch(self) -> None:
        """Fetch what there is, some files at a time."""
        self._each("fetching", self._fetch_one, _AT_A_TIME)
        self._show("fetched")

    def _each(
        self,
        doing: str,
        do: Callable[[NodeRecorder, threading.Semaphore], None],
        at_a_time: int,
        most_s: float = math.inf,
    ) -> None:
        """Do something with each that has a file, so many at a time, and wait for all of them."""
        waiting, until_s = threading.Semaphore(at_a_time), time.monotonic() + most_s
        threads = []
        for each in self._in("recording", "ended"):
            thread = threading.Thread(target=do, args=(each, waiting), daemon=True)
            thread.start()
            threads.append(thread)
        while any(thread.is_alive() for thread in threads) and time.monotonic() < until_s:
            self._show(doing)
            time.sleep(self._waits.tick_s)

    def _end_one(self, recorder: NodeRecorder, waiting: threading.Semaphore) -> None:
        # To fetch its file ends it, too, and says what is in the way.
        with waiting, suppress(BrokenError, RefusedError):
            end(self._cluster, self._made.namespace, recorder.node)

    def _fetch_one(self, recorder: NodeRecorder, waiting: threading.Semaphore) -> None:
        out = self._options.out / f"{recorder.node}.db"

        def received(size: int) -> None:
            recorder.fetched_bytes = size

        with waiting:
            recorder.state = "fetching"
            try:
                fetch(self._cluster, self._made.namespace, recorder.node, out, received)
                recorder.path = out
                self._hear_the_end(recorder)
                recorder.state = "kept"
            except (TransferError, CtkError, BrokenError, RefusedError, OSError) as error:
                recorder.fail(getattr(error, "message", str(error)))

    def _hear_the_end(self, recorder: NodeRecorder) -> None:
        """Read what it said as it ended: what is not in its file, say."""
        try:
            self._listen(recorder)
        except (BrokenError, RefusedError) as error:
            recorder.remark(f"its last words were not heard: {error}")
