"""How a recording says how it goes, and how that is read back from the log of a pod."""

import re
from typing import NamedTuple

from ctk.record.plan import Status


class Going(NamedTuple):
    """What one line says."""

    events_s: int
    flows: int
    live: int
    gaps: int
    mib: float


def written(status: Status, events_s: float) -> str:
    """Give the line."""
    return (
        f"{events_s:,.0f} events/s, {status.flows:,} flows, {status.live:,} live connections,"
        f" {_gaps(status)}, {status.file_bytes / 2**20:,.1f} MiB"
    )


def ended(status: Status) -> str:
    """Give the line that tells what a capture came to."""
    gaps = f", {_gaps(status)}" if status.gaps else ""
    return f"recorded {status.events:,} events in {status.flows:,} flows{gaps}"


def _gaps(status: Status) -> str:
    return "1 gap" if status.gaps == 1 else f"{status.gaps:,} gaps"


# What a recorder that lingers says at its end; behind a colon, what ended it otherwise than asked.
ENDED = "recording has ended"

_LINE = re.compile(
    r"([0-9,]+) events/s, ([0-9,]+) flows, ([0-9,]+) live connections, ([0-9,]+) gaps?,"
    r" ([0-9,.]+) MiB"
)


def read(text: str) -> Going | None:
    """Read such a line; None where it is another."""
    match = _LINE.fullmatch(text)
    if match is None:
        return None
    events_s, flows, live, gaps, mib = (each.replace(",", "") for each in match.groups())
    return Going(int(events_s), int(flows), int(live), int(gaps), float(mib))
