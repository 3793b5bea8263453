"""Which recordings ClickHouse has been told of, and their gaps."""

import json
from typing import NamedTuple

from ctk.ask.coverage import untold
from ctk.ask.moments import Reference, reference_at
from ctk.ask.storedgaps import StoredGap
from ctk.fleet.clickhouse.client import Client
from ctk.timespan import format_time


class ToldRecording(NamedTuple):
    """A recording, as far as it is shipped; `recording` is the file that it is in."""

    recording: str
    id: int
    cluster: str | None
    cluster_uid: str | None
    node: str
    boot_id: str | None
    started_ns: int
    committed_ns: int
    ended_ns: int | None
    version: str
    source: str
    settings: str
    events: int
    lost: int
    malformed: int


class ToldGap(NamedTuple):
    """A gap, of a recording of a file."""

    recording: str
    recording_id: int
    node: str
    cluster: str | None
    kind: str
    started_ns: int
    ended_ns: int
    lost: int | None
    detail: str | None


class Told(NamedTuple):
    """All recordings, and their gaps, oldest first."""

    recordings: tuple[ToldRecording, ...]
    gaps: tuple[ToldGap, ...]

    def reference(self, now_ns: int) -> Reference:
        """Give what ages count from: now, unless the newest end is not of these minutes."""
        end_ns, window_ns = now_ns, 0
        if self.recordings:
            newest = max(self.recordings, key=lambda each: each.ended_ns or each.committed_ns)
            end_ns = max(newest.committed_ns, newest.ended_ns or 0)
            if newest.ended_ns is None:
                window_ns = int(json.loads(newest.settings).get("window_ns", 0))
        return reference_at(end_ns, window_ns, now_ns)

    def gaps_in(self, since_ns: int | None, until_ns: int | None) -> tuple[StoredGap, ...]:
        """Give the gaps that touch a span, oldest first."""
        return tuple(
            StoredGap(
                format_time(gap.started_ns),
                format_time(gap.ended_ns),
                gap.started_ns,
                gap.ended_ns,
                gap.node,
                gap.kind,
                gap.lost,
                gap.detail,
            )
            for gap in self.gaps
            if (until_ns is None or gap.started_ns < until_ns)
            and (since_ns is None or gap.ended_ns >= since_ns)
        )

    def unrecorded_in(
        self, since_ns: int | None, until_ns: int | None
    ) -> tuple[tuple[int, int], ...]:
        """Give the parts of a span, between recordings, that no gap tells of."""
        recorded = (
            (each.started_ns, max(each.committed_ns, each.ended_ns or 0))
            for each in self.recordings
        )
        return untold(recorded, self.gaps_in(None, None), since_ns, until_ns)


def read(client: Client) -> Told:
    """Read what was told last of each."""
    recordings = client.query(
        f"SELECT {', '.join(ToldRecording._fields)} FROM recordings FINAL ORDER BY started_ns, node"
    ).rows
    gaps = client.query(
        f"SELECT {', '.join(ToldGap._fields)} FROM gaps FINAL ORDER BY started_ns, ended_ns"
    ).rows
    return Told(
        tuple(ToldRecording._make(row) for row in recordings),
        tuple(ToldGap._make(row) for row in gaps),
    )
