"""The rows of one recording: who records, since when and until when, and what was lost."""

import json
import sqlite3
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import version
from typing import NamedTuple

from ctk.model import EventCounts, Gap, Previous
from ctk.model.history import PodsTold
from ctk.store import bulk
from ctk.timespan import MINUTE

# One flood thins windows now and again.
_APART_NS = 10 * MINUTE
_THINNED = "rows came faster than --max-size keeps them: sums are whole, in coarser steps"
_GAP = bulk.plain("gap", ("recording_id", *Gap._fields))


class _FullDisk(NamedTuple):
    """The gap of a full disk as the file has it."""

    row_id: int
    started_ns: int
    ended_ns: int


class RecordingRow:
    """
    The row of the recording that goes on; nothing is written before `begin`.

    Every method that writes is part of a transaction of its caller.
    """

    def __init__(
        self,
        conn: sqlite3.Connection,
        *,
        node: str,
        cluster: str | None,
        source: str,
        settings: Mapping[str, object],
        started_ns: int,
        boot_id: str | None,
    ) -> None:
        self._conn = conn
        self._node = node
        self._cluster = cluster
        self._source = source
        self._settings = json.dumps(settings, sort_keys=True)
        self.started_ns = started_ns
        self.boot_id = boot_id
        self.id: int | None = None  # once it is in the file
        self.previous = _previous(conn, node, live=boot_id is not None)
        self.recorder_id = _recorder_id(conn, node, cluster)
        self.full: _FullDisk | None = None

    @property
    def was_down(self) -> bool:
        """Whether this recording begins with a gap, to the one before."""
        return self.previous is not None and self.previous.committed_ns < self.started_ns

    def begin(self) -> None:
        """Write that this recording started, and the gap to the one before."""
        conn, previous = self._conn, self.previous
        conn.execute(
            "INSERT INTO recorder(id, node, cluster) VALUES (?, ?, ?)"
            " ON CONFLICT(id) DO UPDATE SET cluster = IFNULL(cluster, excluded.cluster)",
            (self.recorder_id, self._node, self._cluster),
        )
        self.id = conn.execute(
            "INSERT INTO recording(recorder_id, started_ns, committed_ns, boot_id, version,"
            " source, settings) VALUES (?,?,?,?,?,?,?)",
            (
                *(self.recorder_id, self.started_ns, self.started_ns, self.boot_id),
                *(version("ctk"), self._source, self._settings),
            ),
        ).lastrowid
        if previous is not None and self.was_down:
            self._insert(Gap("recorder down", previous.committed_ns, self.started_ns))

    def advance(self, committed_ns: int, counters: EventCounts) -> None:
        """Say how far the file goes, and what the recording has seen."""
        self._conn.execute(
            "UPDATE recording SET committed_ns = MAX(committed_ns, ?), events = ?,"
            " lost = ?, malformed = ? WHERE id = ?",
            (committed_ns, *counters, self.id),
        )

    def end(self, ended_ns: int) -> None:
        """Say that the recording ended, and that it was stopped."""
        self._conn.execute("UPDATE recording SET ended_ns = ? WHERE id = ?", (ended_ns, self.id))

    def found_cluster(self, uid: str) -> None:
        """Say which cluster the recording is of."""
        self._conn.execute("UPDATE recording SET cluster_uid = ? WHERE id = ?", (uid, self.id))

    def told(self, told: PodsTold) -> None:
        """Say up to when pods are known; a watch that turns out to be down since takes it back."""
        self._conn.execute(
            "UPDATE recording SET told_ns = ?, pods_version = ? WHERE id = ?", (*told, self.id)
        )

    def insert_gaps(self, gaps: Iterable[Gap]) -> None:
        """Add gaps; the one of a full disk may be in the file already."""
        for gap in gaps:
            if gap.kind == "disk full":
                self.insert_full(gap)
            else:
                self._insert(gap)

    def insert_full(self, gap: Gap) -> _FullDisk:
        """Add the gap of a full disk, or bring its row up to date; `full` is for the caller."""
        full = self.full
        if full is None or full.started_ns != gap.started_ns:
            return _FullDisk(self._insert(gap), gap.started_ns, gap.ended_ns)
        self._conn.execute(
            "UPDATE gap SET ended_ns = ?, lost = ?, detail = ? WHERE id = ?",
            (gap.ended_ns, gap.lost, gap.detail, full.row_id),
        )
        return full._replace(ended_ns=gap.ended_ns)

    def thin(self, started_ns: int, ended_ns: int) -> bool:
        """Say that the rows of a span are folded before their time; True where a gap begins."""
        going_on = self._conn.execute(
            "UPDATE gap SET started_ns = MIN(started_ns, :since), ended_ns = MAX(ended_ns, :until)"
            " WHERE id = (SELECT MAX(id) FROM gap WHERE recording_id = :of AND kind = 'thinned')"
            " AND ended_ns >= :since - :apart AND started_ns <= :until + :apart",
            {"since": started_ns, "until": ended_ns, "of": self.id, "apart": _APART_NS},
        )
        if going_on.rowcount:
            return False
        self._insert(Gap("thinned", started_ns, ended_ns, None, _THINNED))
        return True

    def _insert(self, gap: Gap) -> int:
        return self._conn.execute(_GAP.one, (self.id, *gap)).lastrowid or 0


def _previous(conn: sqlite3.Connection, node: str, *, live: bool) -> Previous | None:
    """
    The last recording of `node`, None where there is none.

    One that is `live` goes on from a live one: a capture says nothing of the kernel's table.
    """
    row = conn.execute(
        "SELECT started_ns, committed_ns, ended_ns, boot_id, recorder_id, EXISTS (SELECT 1 FROM gap"
        " WHERE recording_id = recording.id AND kind = 'disk full'"
        " AND gap.ended_ns >= recording.ended_ns) AND NOT EXISTS (SELECT 1 FROM connection)"
        " FROM recording"
        " WHERE recorder_id IN (SELECT id FROM recorder WHERE node = ?)"
        " AND (boot_id IS NOT NULL OR NOT ?) ORDER BY id DESC LIMIT 1",
        (node, live),
    ).fetchone()
    if row is None:
        return None
    started_ns, committed_ns, ended_ns, boot_id, recorder_id, kept_nothing = row
    told_ns, watched_ns = _pods_known(conn, recorder_id)
    return Previous(
        *(started_ns, committed_ns, ended_ns, boot_id),
        told_ns=told_ns,
        watched_ns=watched_ns,
        kept_nothing=bool(kept_nothing),
    )


def _pods_known(conn: sqlite3.Connection, recorder_id: int) -> tuple[int | None, int | None]:
    """
    Up to when pods were known, and since when all of them, where that is sure.

    Each state of a pod tells since when they were watched. After a gap the last state may be older
    than the watch. What is told between two windows is written at once, and is later than the one
    that is in the file.
    """
    last = conn.execute(
        "SELECT id, started_ns, told_ns FROM recording WHERE recorder_id = ?"
        " AND told_ns IS NOT NULL ORDER BY told_ns DESC LIMIT 1",
        (recorder_id,),
    ).fetchone()
    if last is None:
        return None, None
    recording_id, started_ns, told_ns = last
    state = conn.execute(
        "SELECT watched_ns FROM pod WHERE told_ns >= ? AND NOT EXISTS (SELECT 1 FROM gap"
        " WHERE recording_id = ? AND kind = 'metadata stale' AND ended_ns > pod.told_ns)"
        " ORDER BY told_ns DESC LIMIT 1",
        (started_ns, recording_id),
    ).fetchone()
    return told_ns, state[0] if state else None


def pods_version(conn: sqlite3.Connection, node: str) -> str | None:
    """The version up to which a recording of `node` knew pods, of the last that did."""
    row = conn.execute(
        "SELECT pods_version FROM recording WHERE told_ns IS NOT NULL"
        " AND recorder_id IN (SELECT id FROM recorder WHERE node = ?) ORDER BY id DESC LIMIT 1",
        (node,),
    ).fetchone()
    return row[0] if row else None


def _recorder_id(conn: sqlite3.Connection, node: str, cluster: str | None) -> int:
    """
    The id of a node in its cluster, which has a row or will have one.

    Where no cluster is named, it is the node's last one; a node that had none gets its name.
    """
    match = conn.execute(
        "SELECT COALESCE((SELECT id FROM recorder WHERE node = :node"
        " AND (:cluster IS NULL OR IFNULL(cluster, :cluster) = :cluster)"
        " ORDER BY cluster IS NULL, id DESC LIMIT 1),"
        " (SELECT COALESCE(MAX(id), 0) + 1 FROM recorder))",
        {"node": node, "cluster": cluster},
    ).fetchone()
    return int(match[0])


def overlaps(
    conn: sqlite3.Connection, node: str, first_ns: int, last_ns: Callable[[], int]
) -> bool:
    """Whether a recording of `node` is of that span; `last_ns` is asked where it matters."""
    (next_ns,) = conn.execute(
        "SELECT MIN(started_ns) FROM recording WHERE committed_ns > ?"
        " AND recorder_id IN (SELECT id FROM recorder WHERE node = ?)",
        (first_ns, node),
    ).fetchone()
    return next_ns is not None and (next_ns <= first_ns or next_ns <= last_ns())


def recorded_until(conn: sqlite3.Connection, node: str, source: str) -> int | None:
    """Up to when a capture of `node` was recorded; None where it was not."""
    (until_ns,) = conn.execute(
        "SELECT MAX(committed_ns) FROM recording WHERE source = ?"
        " AND recorder_id IN (SELECT id FROM recorder WHERE node = ?)",
        (source, node),
    ).fetchone()
    return None if until_ns is None else int(until_ns)
