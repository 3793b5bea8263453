"""
When the kernel's table is dumped. Pure: the caller tells what time it is.

A dump tells how many bytes moved since the one before. It costs 4 us of CPU an entry and more, and
11 ms for the walk over an empty table of 262,144 buckets. So dumps come as often as a hundredth of
a core allows: each window at best, every 30 s at worst, or as a tenth of a core allows. Where they
can come each window, each is timed to end shortly before its window does: bytes then stand in the
window in which they moved.
"""

from ctk.timespan import SECOND

LONGEST_S = 30.0  # or as long as a tenth of a core allows, where one takes over 3 s
SHARE = 0.01  # of a core, for dumps that come by themselves
SHARE_WHEN_ASKED = 0.1  # for those that a loss, or a full table, asks for
MARGIN_S = 0.05  # from a dump's expected end to its window's
_SAME_S = 0.01  # what the wall clock and the monotonic one may differ by from one dump to the next


class DumpSchedule:
    """
    Tells when the next dump is due: `due_s`, on the monotonic clock.

    With `every_s`, one comes so long after the one before, whatever it costs.
    """

    def __init__(self, *, window_ns: int, every_s: float | None, now_s: float) -> None:
        self.due_s = now_s
        self._every_s = every_s
        # A window longer than 30 s is cut into equal parts that are not.
        self._slot_s = window_ns / SECOND / -(-window_ns // int(LONGEST_S * SECOND))
        self._lead_s = 0.0  # how long before a slot's end the last dump was to begin
        self._soonest_s = now_s
        self._is_first = True

    def soon(self, now_s: float) -> None:
        """Let the next dump come at once, or as soon as a tenth of a core allows."""
        self.due_s = min(self.due_s, max(now_s, self._soonest_s))

    def begun(self) -> None:
        """A dump has begun: what asks for one from now on asks for the next."""
        self.due_s = float("inf")

    def ended(
        self, *, began_s: float, now_s: float, now_ns: int, cpu_s: float, counting: bool
    ) -> None:
        """
        A dump that began at `began_s` is over: set when the next is due.

        `now_s` and `now_ns` are one moment on the monotonic and on the wall clock. Where the kernel
        is not `counting` bytes, dumps only show what ended unheard: every 30 s is enough.
        """
        asked = self.due_s < float("inf")
        self._soonest_s = began_s + cpu_s / SHARE_WHEN_ASKED
        if self._every_s is not None:
            self.due_s = now_s + self._every_s
        elif not counting:
            self.due_s = began_s + LONGEST_S
        else:
            # The first one enters all connections there are: the next ones cost less.
            rest_s = 0.0 if self._is_first else cpu_s / SHARE
            self.due_s = self._aligned(began_s, now_s, now_ns / SECOND, rest_s)
        self._is_first = False
        self.due_s = max(self.due_s, now_s)
        if asked:
            self.soon(now_s)

    def _aligned(self, began_s: float, now_s: float, wall_s: float, rest_s: float) -> float:
        """Shortly before the end of the first slot that is far enough from the last dump."""
        duration_s = now_s - began_s
        lead_s = min(1.5 * duration_s + MARGIN_S, self._slot_s / 2)
        # The end of the slot that this dump was for is no end for the next one.
        after_s = max(
            wall_s - duration_s + self._lead_s + _SAME_S,
            wall_s - duration_s + rest_s + lead_s,
            wall_s + lead_s,
        )
        end_s = self._slot_s * (after_s // self._slot_s + 1)
        due_s = now_s + end_s - lead_s - wall_s
        due_s = min(due_s, max(began_s + LONGEST_S, self._soonest_s))
        self._lead_s = lead_s
        return due_s
