"""
The files of a merge: which recordings are in them, and which file each node is taken from.

A recording is known by cluster, node, boot and start, wherever files meet.
"""

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from ctk.conntrack.names import EVENT_NAMES
from ctk.errors import UsageError
from ctk.fleet.recorded import SILENT, Recorded, RecordedNode, RecordingRun, recorded_of
from ctk.store.levels import LEVELS, Watermarks, watermarks
from ctk.store.lock import is_written
from ctk.store.merged import Aside, aside_of, keeps_aside, read
from ctk.store.snapshot import snapshot
from ctk.store.source import Source, source
from ctk.timespan import Span

# What narrows what a recording has seen.
_NARROWING = ("events", "cidr", "exclude_cidr", "protocol", "port")
_ALL = json.dumps({"events": EVENT_NAMES})


class HeldRecording(NamedTuple):
    """A recording as its file has it."""

    id: int
    recorder_id: int
    node: str
    cluster: str | None
    cluster_uid: str | None
    boot_id: str | None
    started_ns: int
    ended_ns: int  # or up to when it is committed
    idle_ns: int | None
    events: int
    narrowed: str | None  # by which filters, as JSON; None where its ctk did not say
    bypass: str | None  # the data plane that goes around conntrack there
    silent: Sequence[Span]

    @property
    def run(self) -> tuple[str | None, int]:
        """What tells it from the other recordings of its node."""
        return self.boot_id, self.started_ns


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """A file that is merged, with all that its tables of names are needed for."""

    path: Path
    source: Source
    recordings: Sequence[HeldRecording]
    marks: Mapping[str, Watermarks]
    aside: bool  # it is merged, and keeps what does not count
    asides: Sequence[Aside]
    notes: Sequence[str]

    def tables(self, table: str) -> Sequence[str]:
        """Give where its rows of a table of flows are."""
        return (table, aside_of(table)) if self.aside else (table,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """A node, as one file has it: its row of `recorder` there, and its recordings."""

    file: int
    recorder_id: int
    node: RecordedNode
    cluster: str | None  # its name
    recordings: Sequence[HeldRecording]

    @property
    def newest_ns(self) -> int:
        return max(each.ended_ns for each in self.recordings)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """Which nodes are taken from which file, when they recorded, and what is to be said of it."""

    taken: Sequence[Taken]
    recorded: Recorded
    notes: Sequence[str]

    def of_file(self, file: int) -> Sequence[Taken]:
        return [each for each in self.taken if each.file == file]


def open_inputs(paths: Iterable[Path], stack: ExitStack, beside: Path) -> list[Input]:
    """Open the files, each once; of one that is being written, a copy as it is now."""
    opened: list[Input] = []
    known: set[Path] = set()
    for path in paths:
        if path.exists() and path.resolve() in known:
            continue
        known.add(path.resolve())
        readable = path
        if path.exists() and is_written(path.resolve()):
            folder = stack.enter_context(TemporaryDirectory(prefix=".ctk-merge-", dir=beside))
            readable = Path(folder) / "snapshot.db"
            snapshot(path, readable, lambda done, total: None)
        # There may be a hundred of an older schema: their copies are on the disk.
        opened.append(_opened(path, source(readable, in_memory_bytes=0)))
    return opened


def _opened(path: Path, of: Source) -> Input:
    with of.reader() as conn:
        asides, notes = read(conn)
        return Input(
            path=path,
            source=of,
            recordings=list(_recordings(conn)),
            marks=watermarks(conn),
            aside=keeps_aside(conn),
            asides=asides,
            notes=notes,
        )


def _recordings(conn: sqlite3.Connection) -> Iterator[HeldRecording]:
    found = conn.execute(
        "SELECT recording.id, recorder_id, node, cluster, cluster_uid, boot_id, started_ns,"
        " MAX(committed_ns, IFNULL(ended_ns, 0)), idle_ns, events, settings"
        " FROM recording JOIN recorder ON recorder.id = recorder_id ORDER BY started_ns"
    ).fetchall()
    for *row, settings in found:
        silent = conn.execute(
            "SELECT started_ns, ended_ns FROM gap WHERE recording_id = ?"
            f" AND kind IN ({', '.join('?' * len(SILENT))})",
            (row[0], *SILENT),
        ).fetchall()
        yield HeldRecording._make((*row, *narrowed_of(settings), silent))


def narrowed_of(settings: str) -> tuple[str | None, str | None]:
    """Give by which filters a recording was narrowed, and what goes around conntrack there."""
    asked = json.loads(settings)
    narrowed = json.dumps({key: asked[key] for key in _NARROWING if asked.get(key)})
    is_known = all(key in asked for key in _NARROWING)
    bypass = asked.get("bypass")
    return narrowed if is_known else None, bypass if isinstance(bypass, str) else None


def choose(inputs: Sequence[Input]) -> Chosen:
    """
    Choose the file that each node is taken from: of snapshots of one file, the newest.

    A UsageError where two recorders of one node ran at once: nothing tells what both saw.
    """
    clusters = _clusters(held for each in inputs for held in each.recordings)
    nodes: dict[RecordedNode, list[Taken]] = {}
    notes: list[str] = []
    for file, each in enumerate(inputs):
        of_recorder: dict[int, list[HeldRecording]] = {}
        for held in each.recordings:
            of_recorder.setdefault(held.recorder_id, []).append(held)
        for recorder_id, recordings in of_recorder.items():
            # The last one that knew which cluster it is in speaks for those that did not yet.
            keys = [clusters[one.cluster, one.cluster_uid] for one in recordings]
            cluster = next((key for key in reversed(keys) if key is not None), None)
            node = RecordedNode(cluster, recordings[0].node)
            if len(set(keys) - {None}) > 1:
                # Whose rows are whose is not in the file: a recorder's edges are of all of these.
                notes.append(
                    f"{node.name} was recorded in several clusters: all counts as of the last"
                )
            nodes.setdefault(node, []).append(
                Taken(
                    file=file,
                    recorder_id=recorder_id,
                    node=node,
                    cluster=recordings[-1].cluster,
                    recordings=recordings,
                )
            )
    taken: list[Taken] = []
    for node, found in nodes.items():
        kept = _newest(inputs, node, found, notes)
        taken += kept
    heard, unheard = _heard([(each, held) for each in taken for held in each.recordings])
    notes += unheard
    notes += [f"{each.path} holds no recording" for each in inputs if not each.recordings]
    return Chosen(
        taken=sorted(taken, key=lambda each: (each.file, each.recorder_id)),
        recorded=recorded_of(heard),
        notes=list(dict.fromkeys([*(note for each in inputs for note in each.notes), *notes])),
    )


def _clusters(
    recordings: Iterable[HeldRecording],
) -> dict[tuple[str | None, str | None], str | None]:
    """Give what tells a cluster by its name and UID: the UID, where one alone has the name."""
    asked = {(held.cluster, held.cluster_uid) for held in recordings}
    uids: dict[str | None, set[str]] = {}
    for name, uid in asked:
        if uid is not None:
            uids.setdefault(name, set()).add(uid)
    keys: dict[tuple[str | None, str | None], str | None] = {}
    for name, uid in asked:
        known = uids.get(name, set()) if name is not None else set()
        keys[name, uid] = uid or (next(iter(known)) if len(known) == 1 else name)
    return keys


def _newest(
    inputs: Sequence[Input], node: RecordedNode, found: Sequence[Taken], notes: list[str]
) -> list[Taken]:
    """Keep of the files that share a recording of a node the newest, and finest, one."""

    def order(each: Taken) -> tuple[int, int]:
        marks = inputs[each.file].marks
        return -each.newest_ns, sum(marks[level.name].pruned_ns or 0 for level in LEVELS)

    kept: list[Taken] = []
    for each in sorted(found, key=order):
        runs = {held.run for held in each.recordings}
        newer = [one for one in kept if runs & {held.run for held in one.recordings}]
        if not newer:
            kept.append(each)
        elif runs - {held.run for one in newer for held in one.recordings}:
            notes.append(
                f"{inputs[each.file].path} has older recordings of {node.name} than"
                f" {inputs[newer[0].file].path}: they are left out"
            )
    spans = sorted(
        (held.started_ns, held.ended_ns, each.file) for each in kept for held in each.recordings
    )
    for (_, ended_ns, one), (started_ns, _, other) in pairwise(spans):
        if started_ns < ended_ns and one != other:
            raise UsageError(
                f"{inputs[one].path} and {inputs[other].path} are of {node.name} at the same time",
                hint="give one of them",
            )
    return kept


def _heard(held: Sequence[tuple[Taken, HeldRecording]]) -> tuple[list[RecordingRun], list[str]]:
    """
    Give the recordings that may speak for others: what one does not see, the others count.

    That is none that heard nothing at all; none whose data plane goes around conntrack, where
    another's does not; and where some left out by a filter what others did not, only those that
    were filtered the most common way, or not at all. Where an older ctk did not say how, nothing
    speaks against it.
    """
    found = [one.narrowed for _, one in held if one.events and one.narrowed is not None]
    common = max(found, key=lambda each: (each == _ALL, found.count(each), each), default=None)
    all_bypass = all(one.bypass for _, one in held)
    bypassing = {} if all_bypass else {each.node: one.bypass for each, one in held if one.bypass}
    runs: list[RecordingRun] = []
    silent = {each.node for each, _ in held}
    filtered: set[RecordedNode] = set()
    unknown: set[RecordedNode] = set()
    for each, one in held:
        if not one.events:
            continue
        silent.discard(each.node)
        if one.bypass and not all_bypass:
            continue
        if one.narrowed is None and common is not None:
            unknown.add(each.node)
        elif one.narrowed != common:
            filtered.add(each.node)
            continue
        span = {"started_ns": one.started_ns, "ended_ns": one.ended_ns}
        runs.append(RecordingRun(node=each.node, silent=one.silent, **span))
    notes = [
        f"{node.name} heard no event: no other node defers to it"
        for node in sorted(silent, key=str)
    ]
    notes += [
        f"{what} is on {node.name}, and may go around conntrack: no other node defers to it"
        for node, what in sorted(bypassing.items(), key=str)
    ]
    notes += [
        f"{node.name} recorded by filters of its own: no other node defers to it then"
        for node in sorted(filtered, key=str)
    ]
    notes += [
        f"by which filters {node.name} recorded is not known: it counts as by those of the others"
        for node in sorted(unknown, key=str)
    ]
    return runs, notes
