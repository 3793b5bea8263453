"""How a connection is counted that is first seen by a dump or an event, its begin unseen."""

from dataclasses import dataclass
from typing import NamedTuple, Self

from ctk.model import Previous


class FirstSight(NamedTuple):
    """What a first sight counts as."""

    counted: bool  # as a connection
    whole: bool  # all it has moved is counted; otherwise its counters so far are only a baseline


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """
    What is known of connections that began before they were first seen.

    `whole_from_ns`: one that began then or later has moved everything since, so all of it is
    counted. `undated_whole`: the same of one whose start the kernel does not tell
    (nf_conntrack_timestamp=0). `count_older`: whether an older one is counted as a connection.
    `over_from_ns`: one that is over at the first sight (TIME_WAIT, CLOSE, or its destroy event) is
    counted only if it is known to have begun then or later; None counts it as any other.
    A dump at the start is full of such: 5,000 of the 7,000 entries of a busy node were over.
    """

    whole_from_ns: int
    undated_whole: bool
    count_older: bool = True
    over_from_ns: int | None = None

    @classmethod
    def first_start(cls, started_ns: int) -> Self:
        """Nothing recorded here before: what older connections moved is not of this recording."""
        return cls(whole_from_ns=started_ns, undated_whole=False, over_from_ns=started_ns)

    @classmethod
    def after_reboot(cls, started_ns: int, previous: Previous) -> Self:
        """The kernel's table is new since the recording before: everything began meanwhile."""
        return cls(whole_from_ns=previous.committed_ns, undated_whole=True, over_from_ns=started_ns)

    @classmethod
    def after_crash(cls, started_ns: int, previous: Previous) -> Self:
        """
        The recording before counted the older connections, up to its last commit.

        What they have moved since is not told apart: it is in the gap "recorder down".
        """
        return cls(
            whole_from_ns=previous.committed_ns,
            undated_whole=False,
            count_older=False,
            over_from_ns=started_ns,
        )

    @classmethod
    def after_clean_stop(cls, started_ns: int, previous: Previous) -> Self:
        """The recording before left its live connections, so all others began after its end."""
        whole_from_ns = previous.committed_ns if previous.ended_ns is None else previous.ended_ns
        return cls(whole_from_ns=whole_from_ns, undated_whole=True, over_from_ns=started_ns)

    @classmethod
    def after_first_dump(cls) -> Self:
        """The first dump showed what is older: whatever is found later began since, untold."""
        return cls(whole_from_ns=0, undated_whole=True)

    def first_sight(self, start_ns: int | None, *, over: bool) -> FirstSight:
        """Say how a connection counts; `start_ns` is CTA_TIMESTAMP_START, None where not sent."""
        if over and self.over_from_ns is not None:
            began_here = start_ns is not None and start_ns >= self.over_from_ns
            return FirstSight(began_here, began_here)
        whole = self.undated_whole if start_ns is None else start_ns >= self.whole_from_ns
        return FirstSight(whole or self.count_older, whole)

    def began_ns(self, start_ns: int | None, seen_ns: int, *, whole: bool) -> int:
        """Return when it began, as far as that is known: its owner is asked for by that time."""
        if start_ns is not None:
            return start_ns
        return seen_ns if whole else min(seen_ns, self.whole_from_ns - 1)
