"""Files of recordings with known starts, ends and gaps, for tests of what is known of a time."""

import sqlite3
from collections.abc import Sequence

from edges import with_ids
from emptyfile import new
from questions import EDGES

from ctk.model import EventCounts, FlowRow, Gap, GapKind
from ctk.store.write import Writer
from ctk.timespan import SECOND

T = 1_732_560_000 * SECOND  # a whole minute, and a whole hour


def file(
    *spans: tuple[int, int], gaps: Sequence[Gap] = (), rows: Sequence[FlowRow] = ()
) -> sqlite3.Connection:
    """A file of recordings from and to these seconds, with their gaps and rows."""
    conn = new()
    for start_s, end_s in spans:
        started_ns, ended_ns = T + start_s * SECOND, T + end_s * SECOND
        writer = Writer(
            conn, node="n1", source="k", settings={}, started_ns=started_ns, boot_id=None
        )
        own = [row for row in rows if started_ns <= row.started_ns < ended_ns]
        writer.window(
            with_ids(writer, own),
            gaps=[gap for gap in gaps if started_ns <= gap.started_ns < ended_ns],
            committed_ns=ended_ns,
            counters=EventCounts(),
        )
        writer.finish(ended_ns)
    return conn


def flow_row(
    at_s: int, i: int = 0, moved: int | None = 1_500, connections: int = 3, refused: int = 0
) -> FlowRow:
    """A row of EDGES[i], with one unreplied connection."""
    at_ns = T + at_s * SECOND
    counts = (connections, connections, 0, connections, 1, refused)
    return FlowRow(EDGES[i], at_ns, at_ns, None, *counts, moved, 10, 0, 0)


def lost(at_s: int, kind: GapKind = "events lost") -> Gap:
    """A gap of a second."""
    return Gap(kind, T + at_s * SECOND, T + at_s * SECOND + SECOND, 5)
