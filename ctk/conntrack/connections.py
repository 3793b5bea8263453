"""
The table of live connections: what they belonged to when they began, and what was counted.

A connection is known by (id, zone, original tuple): CTA_ID is a hash and can come again. Here it
is one integer, `flow.base | ct_id << 16 | source port`, since the flow stands for the rest of the
tuple; a quarter of a million of them take 35 MB.
"""

from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from operator import sub
from typing import Any

from ctk.conntrack.decode import FlowTuple, MalformedError
from ctk.model import LiveConnections, LoneEvent

Counters = tuple[int, int, int, int]  # packets_out, bytes_out, packets_in, bytes_in
FlowKey = tuple[bytes, bytes, int]  # opening, answering, zone, as decode gives them

_SWEEP_AT_LEAST = 10_000
_OF_FLOW = (1 << 48) - 1  # a key without its flow
# Of a cohort whose events are not kept apart: nothing is ever added to these.
_NO_EVENTS: list[LoneEvent] = []
_NO_MEASURED_EVENTS: list[tuple[int, int, int, Counters]] = []


class Flow:
    """What connections with the same tuple but for the source port have in common."""

    __slots__ = ("base", "cohort", "ends", "key", "tuple")

    def __init__(self, key: FlowKey, flow_tuple: FlowTuple, number: int) -> None:
        self.key = key
        self.tuple = flow_tuple
        self.base = number << 48
        self.cohort: Cohort | None = None  # that connections beginning now belong to
        self.ends: Any = None  # the recorder's: the tuple as text


class Cohort:
    """
    Connections of one flow that began within the same second, and what they did in this window.

    Who they belonged to is asked once for all of them, by when they began; their later events
    come back to it, however long they live.
    """

    __slots__ = (
        "began_ns",
        "bytes_in",
        "bytes_out",
        "connections",
        "destroy_events",
        "edge",
        "ended_ns",
        "flow",
        "lone",
        "lone_measured",
        "measured",
        "new_events",
        "packets_in",
        "packets_out",
        "refused",
        "src_port",
        "started_ns",
        "unreplied",
        "update_events",
        "window",
    )

    def __init__(self, flow: Flow, src_port: int | None, began_ns: int) -> None:
        self.flow = flow
        self.src_port = src_port
        self.began_ns = began_ns
        self.edge: Any = None  # the recorder's: who they belonged to
        self.window = 0  # number of the window the counts below are of
        self.lone: list[LoneEvent]
        self.lone_measured: list[tuple[int, int, int, Counters]]
        self.clear()

    def clear(self) -> None:
        """Forget the counts: they were written."""
        self.started_ns = self.ended_ns = 0
        self.connections = self.new_events = self.update_events = self.destroy_events = 0
        self.unreplied = self.refused = 0
        self.measured = False
        self.packets_out = self.bytes_out = self.packets_in = self.bytes_in = 0
        self.lone, self.lone_measured = _NO_EVENTS, _NO_MEASURED_EVENTS

    def begin_window(self, number: int, at_ns: int, apart: bool) -> None:
        """The first event in a window came; `apart`: events are to be kept one by one."""
        self.window = number
        self.started_ns = self.ended_ns = at_ns
        if apart:
            self.lone, self.lone_measured = [], []

    def moved(self, now: Counters, before: Counters | None) -> Counters:
        """
        Add what moved since `before`, and return it.

        Counters that went back were zeroed by another tool: what they show moved since.
        """
        self.measured = True
        if before is not None:
            since = tuple(map(sub, now, before))
            if min(since) >= 0:
                now = since
        packets_out, bytes_out, packets_in, bytes_in = now
        self.packets_out += packets_out
        self.bytes_out += bytes_out
        self.packets_in += packets_in
        self.bytes_in += bytes_in
        return now

    def add_lone(self, at_ns: int, port: int, counts: int, moved: Counters | None) -> None:
        """Keep an event apart, with what moved if that was measured."""
        if moved is None:
            self.lone.append((at_ns, port, counts))
        else:
            self.lone_measured.append((at_ns, port, counts, moved))


@dataclass(frozen=True, slots=True, kw_only=True)
class Census:
    """
    How to count what a dump finds for the first time.

    `whole_from_ns`: a connection that started then or later moved all its bytes since, so all are
    counted; an older one's are a baseline. `undated_whole` says which holds without a start time.
    `count_older` is False after a crash: the recording before it counted them.
    """

    whole_from_ns: int
    undated_whole: bool
    count_older: bool = True


class Connections:
    """Live connections by key. Bounded: the kernel's table is, and dumps remove what it lost."""

    def __init__(self, wanted: Callable[[FlowTuple], bool] | None = None) -> None:
        self.live: dict[int, Cohort] = {}
        self.counted: dict[int, Counters] = {}  # of those whose counters a dump has shown
        # None stands for a flow that a filter does not want, or whose tuple does not parse.
        self.flows: dict[FlowKey, Flow | None] = {}
        self.malformed = 0
        self.gone: set[int] | None = None  # ended while a dump is under way
        # Taken for older than the recording, for want of a date; True where counted all the same.
        self.undated: dict[int, bool] = {}
        self._wanted = wanted
        self._numbers = 0
        self._sweep_at = _SWEEP_AT_LEAST
        self._before: set[int] = set()  # what lived when the dump under way began
        self._missed: set[int] = set()  # what the last dump did not have
        self._doubtful: set[int] = set()  # what may have ended untold: restored, or missed

    def flow(self, opening: bytes, answering: bytes, zone: int) -> Flow | None:
        """Enter a flow not seen before; None where it is not wanted or not well-formed."""
        key = (opening, answering, zone)
        try:
            flow_tuple = FlowTuple.parse(opening, answering, zone)
        except MalformedError:
            self.malformed += 1
            return None  # not kept: each of them is to be counted
        flow = None
        if self._wanted is None or self._wanted(flow_tuple):
            self._numbers += 1
            flow = Flow(key, flow_tuple, self._numbers)
        self.flows[key] = flow
        return flow

    def sweep(self) -> None:
        """Drop flows that no connection is in; called between windows, acts when they doubled."""
        if len(self.flows) < self._sweep_at:
            return
        self.flows = {cohort.flow.key: cohort.flow for cohort in set(self.live.values())}
        self._sweep_at = max(_SWEEP_AT_LEAST, 2 * len(self.flows))

    def begin_census(self) -> None:
        """A dump starts: remember what lives now, and which connections end meanwhile."""
        self._before = set(self.live)
        self.gone = set()
        self.undated.clear()

    def end_census(self, listed: set[int]) -> int:
        """
        A dump ended that listed these keys: drop what two in a row did not have. Return how many.

        One miss is not enough: the destroy event may still be in the socket, and would be taken
        for a connection never seen.
        """
        missing = (self._before & self.live.keys()) - listed  # not what began meanwhile
        ended = missing & self._missed
        for key in ended:
            del self.live[key]
            self.counted.pop(key, None)
        self._missed = self._doubtful = missing - ended
        self._before = set()
        self.gone = None
        return len(ended)

    def goes_on(self, key: int) -> bool:
        """
        Whether a connection that seems to begin while it lives is the one that lives.

        Otherwise its end was missed, and the kernel's id came again; or it was taken for older
        than the recording, and not counted.
        """
        was_counted = self.undated.pop(key, None)
        if was_counted is None and key not in self._doubtful:
            return True
        # Either way all it has moved is still to be counted.
        self._doubtful.discard(key)
        self.counted.pop(key, None)
        return bool(was_counted)

    def export(self) -> Iterator[LiveConnections]:
        """Yield the live connections whose owner is known, for a clean stop to keep."""
        # Packed: 0.3 us a connection, where a row each took 6 us and 150 bytes.
        groups: dict[tuple[Cohort, bool], list[int]] = {}
        counted = self.counted
        for key, cohort in self.live.items():
            group = (cohort, key in counted)
            if group in groups:
                groups[group].append(key)
            else:
                groups[group] = [key]
        for (cohort, measured), keys in groups.items():
            if cohort.edge is None:
                continue
            opening, answering, zone = cohort.flow.key
            yield LiveConnections(
                opening,
                answering,
                zone,
                cohort.began_ns,
                cohort.edge,
                array("Q", [key & _OF_FLOW for key in keys]).tobytes(),
                array("Q", [number for key in keys for number in counted[key]]).tobytes()
                if measured
                else None,
            )

    def restore(self, kept: Iterable[LiveConnections], *, by_port: bool) -> None:
        """
        Take up what a clean stop kept. `by_port`: each connection is a row of its own.

        Connections of one flow and edge share a cohort; what does not parse is left out.
        """
        cohorts: dict[Any, Cohort] = {}
        for some in kept:
            flow = self.flows.get(some[:3]) or self.flow(*some[:3])
            if flow is None:
                continue
            numbers = array("Q", some.counters or b"")
            for n, of_flow in enumerate(array("Q", some.keys)):
                key = flow.base | of_flow
                group = key if by_port else (flow.base, id(some.edge))
                cohort = cohorts.get(group)
                if cohort is None:
                    port = of_flow & 0xFFFF if by_port else None
                    cohort = cohorts[group] = Cohort(flow, port, some.began_ns)
                    cohort.edge = some.edge
                self.live[key] = cohort
                if numbers:
                    self.counted[key] = tuple(numbers[4 * n : 4 * n + 4])  # type: ignore[assignment]
