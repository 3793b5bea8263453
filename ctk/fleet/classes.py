"""
Which edges count, as of a time.

The edges of one observer that have their ends on the same two nodes are of one class: who speaks is
asked for a class, and again where a node begins or ends to be recorded.
"""

import sqlite3
from typing import NamedTuple

from ctk.fleet.recorded import Recorded, RecordedNode
from ctk.fleet.speaker import speaker
from ctk.store.merged import Why


class _Class(NamedTuple):
    id: int
    observer: RecordedNode
    src_node: RecordedNode | None
    dst_node: RecordedNode | None
    rewrites: bool
    unrecorded: bool  # the source is a node, or unknown: it may have rewritten the source


class Classes:
    """Keeps `counts` of temp.class as of the span that was asked for last."""

    def __init__(self, conn: sqlite3.Connection, recorded: Recorded) -> None:
        self._conn = conn
        self._recorded = recorded
        # The classes whose rows are added up, to be told of.
        conn.execute("CREATE TEMP TABLE told (class INTEGER PRIMARY KEY)")
        nodes = {
            recorder_id: RecordedNode(cluster, name)
            for recorder_id, name, cluster in conn.execute("SELECT id, node, cluster FROM nodes")
        }
        self.recorder_ids: dict[int, int] = {}
        self._all: list[_Class] = []
        self._now: frozenset[RecordedNode] | None = None
        self._counts: dict[int, bool] = {}
        self.why: dict[int, Why] = {}  # of the classes that do not count, or may count twice
        for found, recorder_id, src_node, dst_node, rewrites, unrecorded in conn.execute(
            "SELECT id, recorder_id, src_node, dst_node, rewrites, unrecorded FROM temp.class"
        ):
            observer = nodes[recorder_id]
            src, dst = (
                None if name is None else RecordedNode(observer.cluster, name)
                for name in (src_node, dst_node)
            )
            self.recorder_ids[found] = recorder_id
            self._all.append(_Class(found, observer, src, dst, bool(rewrites), bool(unrecorded)))

    def as_of(self, since_ns: int, until_ns: int) -> None:
        """Say of each class whether its rows of a span count."""
        now = self._recorded.at(since_ns, until_ns)
        if now == self._now:
            return
        self._now = now
        changed = []
        for each in self._all:
            counts = each.observer == speaker(
                each.observer,
                src_node=each.src_node,
                dst_node=each.dst_node,
                rewrites=each.rewrites,
                recorded=now,
            )
            if not counts:
                self.why[each.id] = "left out"
            elif each.unrecorded and each.src_node not in now:
                self.why[each.id] = "unrecorded"
            else:
                self.why.pop(each.id, None)
            if self._counts.get(each.id) != counts:
                self._counts[each.id] = counts
                changed.append((counts, each.id))
        self._conn.executemany("UPDATE temp.class SET counts = ? WHERE id = ?", changed)
        self._conn.execute("DELETE FROM temp.told")
        self._conn.executemany("INSERT INTO temp.told VALUES (?)", [(each,) for each in self.why])
