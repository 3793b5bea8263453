"""
Pods that come, go and pass addresses on, under a recorder that comes and goes itself.

Drawn lives are played as a kubelet tells them; the recorder is started again with what its file
knew, and its watch breaks off. `played` tells which pod each connection is said to be from.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from hypothesis import strategies as st

from ctk.kube.endpoints import Endpoints
from ctk.kube.objects import Applied, Deleted, Listed, Lost, Missed, Node, Pod, Recovered
from ctk.model import Endpoint
from ctk.model.history import (
    Closed,
    Completed,
    KnownObject,
    KnownUnknown,
    ObjectClosed,
    ObjectRecord,
    PodsTold,
    PodTimes,
)

S = 1_000_000_000
TICK = S // 20  # the drawn numbers are of these
T0 = 1795501200 * S
END = 40 * 20


@dataclass
class Life:
    """A pod as it was, in ticks; it uses its address from `ran` to `ended`."""

    name: str
    address: str
    node: str
    how: str
    created: int
    wired: int
    ran: int
    told: int
    asked_to_end: int
    ended: int
    unwired: int

    def states(self) -> Iterator[tuple[int, Pod | None]]:
        """What the API says of it, and from when on; None: it is gone."""
        pod = Pod(
            uid=self.name,
            namespace="shop",
            name=self.name,
            labels={},
            node=self.node,
            workload=None,
            workload_kind=None,
            phase="Pending",
            host_network=False,
            addresses=(),
            started_ns=second(self.created),
            ended_ns=None,
        )
        yield self.created, pod
        running = replace(
            pod,
            phase="Running",
            addresses=(self.address,),
            networked_ns=second(self.wired),
            running_ns=second(self.ran),
        )
        if self.told < min(self.asked_to_end, self.ended):
            pod = running
            yield self.told, pod
        if self.how == "forced":
            yield self.asked_to_end, None
            return
        if self.how in ("graceful", "unsaid"):
            pod = replace(pod, terminating=True)
            yield self.asked_to_end, pod
        if self.how == "unsaid":  # as kubelets did before 1.27
            yield self.unwired + 2, None
            return
        # What was done before its kubelet looked at it has no address in the end, either.
        last = pod if self.how == "hasty" else running
        final_ns = second(self.ended) + S
        yield self.unwired + 2, replace(last, phase="Failed", ended_ns=final_ns)
        yield self.unwired + 40, None

    @property
    def left_ns(self) -> int:
        """Up to when it may have used its address, for all that is told of its end."""
        if self.how == "forced":
            return T0 + self.asked_to_end * TICK + 2 * S
        return T0 + (self.unwired + 2) * TICK + (2 * S if self.how == "unsaid" else 0)


NODE = Node(
    uid="n1", name="n1", labels={}, addresses=(), pod_cidrs=("10.244.0.0/24",), started_ns=T0
)


def second(tick: int) -> int:
    """The API's times have whole seconds."""
    return T0 + tick * TICK // S * S


@st.composite
def drawn_lives(draw: st.DrawFn) -> list[Life]:
    """Pods one after the other on two addresses, each made before or after the last one's end."""
    lives = []
    ticks = st.integers
    for address in ("10.244.0.1", "10.244.0.2"):
        free = 0
        while free < END - 100 and len(lives) < 16:
            created = max(0, free + draw(ticks(-60, 100)))
            wired = max(free, created + draw(ticks(4, 12)))
            ran = wired + draw(ticks(5, 14))
            how = draw(st.sampled_from(("forced", "graceful", "completed", "unsaid", "hasty")))
            asked = ran + draw(ticks(1, 10 if how == "hasty" else 300))
            ended = asked + (0 if how in ("completed", "hasty") else draw(ticks(0, 20)))
            unwired = ended + draw(ticks(1, 6))
            told = ran + draw(ticks(2, 24))
            node = draw(st.sampled_from(("n1", "n2")))
            name = f"pod-{len(lives)}"
            life = Life(name, address, node, how, created, wired, ran, told, asked, ended, unwired)
            lives.append(life)
            free = unwired
    return lives


Key = tuple[object, ...]


def key(each: Endpoint) -> Key:
    return each.kind, each.uid, each.address, each.valid_from_ns


@dataclass
class State:
    """A row of a pod's history."""

    record: ObjectRecord
    to_ns: int | None = None
    inferred: bool = False
    sure_until_ns: int | None = None

    def open_at(self, told_ns: int) -> bool:
        """Whether it was open when the knowledge of the recordings ended."""
        if self.to_ns is None:
            return True
        return self.inferred and self.to_ns == max(self.record.valid_from_ns, told_ns)

    @property
    def last_ns(self) -> int:
        """When it had its address at the latest."""
        grace_s = self.record.times.grace_s if self.record.times else None
        return (self.to_ns or 0) + (grace_s or 0) * S


@dataclass
class File:
    """The history of pods and who was named, kept as the store keeps it."""

    states: list[State] = field(default_factory=list)
    kept_ns: int | None = None  # for how long a recorder wants to know who owned addresses
    told_ns: int | None = None  # up to when pods are known
    whole_ns: int = 0  # of the recording that was told them last: since when nothing broke off
    last_ns: int = 0  # up to when somebody recorded
    endpoints: dict[Key, list[Endpoint]] = field(default_factory=dict)  # each the one it is now
    undecided: dict[Key, int] = field(default_factory=dict)  # with up to when they were given
    over: dict[int, int] = field(default_factory=dict)  # rows by id: when their recording ended

    def write(self, history: Iterable[object], told: Iterable[PodsTold]) -> None:
        for each in history:
            if isinstance(each, ObjectClosed):
                for state in self.states:
                    if state.record.uid == each.uid and state.open_at(self.told_ns or 0):
                        state.to_ns, state.inferred = each.valid_to_ns, each.inferred
                        state.sure_until_ns = each.sure_until_ns
            elif isinstance(each, ObjectRecord) and each.kind == "pod":
                mine = [state for state in self.states if state.record.uid == each.uid]
                goes_on = mine and mine[-1].open_at(self.told_ns or 0)
                if goes_on and content(mine[-1].record) == content(each):
                    times = [
                        old if new is None else new
                        for old, new in zip(mine[-1].record.times, each.times, strict=True)
                    ]
                    times[:2] = mine[-1].record.times[:2]
                    record = replace(mine[-1].record, times=PodTimes._make(times))
                    mine[-1].record, mine[-1].to_ns, mine[-1].inferred = record, None, False
                else:
                    self.states.append(State(each))
            elif isinstance(each, Completed):
                row = self.row(each.unknown)
                row[0] = each.known
                self.over.pop(id(row), None)
            elif isinstance(each, Closed) and each.endpoint.kind == "unknown":
                if each.inferred:
                    self.undecided[key(each.endpoint)] = each.valid_to_ns
                else:
                    self.undecided.pop(key(each.endpoint), None)
        for each in told:
            self.told_ns = each.at_ns

    def row(self, endpoint: Endpoint) -> list[Endpoint]:
        """The row of an endpoint; what it turns out to be is written over it."""
        for row in self.endpoints.values():
            if key(row[0]) == key(endpoint):
                return row
        return self.endpoints.setdefault(key(endpoint), [endpoint])

    @property
    def since_ns(self) -> int:
        """From when on a recorder knows who owned addresses."""
        return 0 if self.kept_ns is None else (self.told_ns or 0) - self.kept_ns

    @property
    def watched_ns(self) -> int | None:
        """Since when pods were watched, up to when they are known."""
        times = [state.record.times for state in self.states if state.record.times]
        told = [each for each in times if each.told_ns >= self.whole_ns]
        return max(told, key=lambda each: each.told_ns).watched_ns if told else None

    def known(self) -> list[KnownObject]:
        told_ns = self.told_ns or 0
        known = [
            KnownObject(
                state.record,
                None if state.open_at(told_ns) else state.to_ns,
                state.inferred and not state.open_at(told_ns),
                state.sure_until_ns,
            )
            for state in self.states
            if state.open_at(told_ns) or state.last_ns >= self.since_ns
        ]
        for state in self.states:
            if state.to_ns is None:
                state.to_ns, state.inferred = max(told_ns, state.record.valid_from_ns), True
        return known

    def provisional(self) -> list[KnownUnknown]:
        by_begin = {id(row): row for row in self.endpoints.values()}.values()
        rows = sorted(by_begin, key=lambda row: begin(row[0]))
        given = []
        for row in rows:
            [each] = row
            over_ns = self.last_ns
            if each.kind == "unknown":
                over_ns = self.over.setdefault(id(row), over_ns)
            others = (other[0] for other in rows if other[0].address == each.address)
            later = (begin(other) for other in others if begin(other) > begin(each))
            asked_ns = max(begin(each), min(over_ns, *later, over_ns) - 1)
            undecided_ns = self.undecided.get(key(each))
            given.append(KnownUnknown(each, undecided_ns or asked_ns, undecided_ns is not None))
        return given


def begin(endpoint: Endpoint) -> int:
    return endpoint.valid_from_ns


def content(record: ObjectRecord) -> object:
    return record.addresses, record.labels, record.phase, record.node


@dataclass
class Dial:
    """A connection from a pod, and the row of the one it is said to be from."""

    life: Life
    at: int
    row: list[Endpoint] = field(default_factory=list, repr=False)

    @property
    def name(self) -> str | None:
        return self.row[0].name


class Recorder:
    """One recording: the table of endpoints, and what was asked of it."""

    def __init__(self, file: File, at: int) -> None:
        self._file, self.whole_ns = file, T0 + at * TICK
        self.endpoints = Endpoints("n1", [], T0 + at * TICK, kube=True)
        self.told: set[str] = {each.record.uid for each in file.states if each.record.addresses}
        known = file.known()
        if file.told_ns is not None:
            since_ns, watched_ns = file.since_ns, file.watched_ns
            self.endpoints.recall(known, file.told_ns, since_ns=since_ns, watched_ns=watched_ns)
        self.endpoints.recall_unknown(file.provisional())
        self.dials: list[Dial] = []

    def ask(self, dial: Dial) -> None:
        answer = self.endpoints.at(dial.life.address, T0 + dial.at * TICK)
        self._file.write(self.endpoints.drain(), ())
        dial.row = self._file.row(answer)
        self.dials.append(dial)

    def apply(self, change: Any) -> None:
        self.endpoints.apply(change)
        if isinstance(change, Recovered):
            self.whole_ns = change.to_ns
        told = change.changes if isinstance(change, Missed) else [change]
        for each in told:
            objects = each.objects if isinstance(each, Listed) else [getattr(each, "object", None)]
            self.told.update(each.uid for each in objects if each is not None and each.addresses)

    def stop(self, at: int, *, killed: bool) -> None:
        now_ns = T0 + at * TICK
        if not killed:
            self.endpoints.finish(now_ns)
        told = self.endpoints.told(now_ns)
        self._file.write(self.endpoints.drain(), told)
        if told:
            self._file.whole_ns = self.whole_ns
        self._file.last_ns = now_ns


def shared_second(dial: Dial, lives: list[Life], unseen: bool) -> bool:
    """Whether another pod may have had the address in the second in which this one dialled."""
    mine = T0 + dial.at * TICK
    if unseen and second(dial.at) == second(dial.life.wired):
        return True
    for other in lives:
        if other is dial.life or other.address != dial.life.address:
            continue
        earliest, latest = min(second(other.wired), second(other.ran)), second(other.ended) + S
        if other.how in ("forced", "unsaid"):  # nothing tells the one from the other
            latest = max(latest, second(other.asked_to_end) + 3 * S)
        if earliest - S <= mine < latest + S:
            return True
    return False


@dataclass
class Played:
    """What is said in the end of each connection that was recorded."""

    lives: list[Life]
    dials: list[Dial]
    told: set[str]  # the pods whose address was told to any recording
    # The connections whose pod was told to a recording that had them.
    named: set[int]
    unheard: set[int]  # of those the ones of which no list, or no end, said what was left
    away: set[int]  # the connections that were made while nobody recorded
    seen: bool  # by one recorder all the time, to whom the API server told all

    def wrong(self) -> list[str]:
        """Connections that are said to be another pod's than they are."""
        return [
            f"at {dial.at} {dial.name} for {dial.life}"
            for dial in self.dials
            if dial.row
            and dial.name not in (None, dial.life.name)
            and (dial.life.name in self.told or self.seen_beside(dial))
        ]

    def seen_beside(self, dial: Dial) -> bool:
        """Whether it is from a pod of the named one's node, which was seen, without an address."""
        named = next(life for life in self.lives if life.name == dial.name)
        return self.seen and named.node == dial.life.node

    def nameless(self) -> list[str]:
        """Connections that are nobody's, though nobody else can have made them."""
        return [
            f"at {dial.at} none for {dial.life}"
            for dial in self.dials
            if dial.row
            and dial.name is None
            and id(dial) in self.named - self.unheard
            and not shared_second(dial, self.lives, not self.seen)
            and not self.beside_untold(dial)
            and not self.after_untold(dial)
        ]

    def beside_untold(self, dial: Dial) -> bool:
        """Whether a pod that never told its address may have had this one's, which was going."""
        going = second(dial.at) >= second(dial.life.asked_to_end) or id(dial) in self.away
        return going and any(
            other.node == dial.life.node
            and other.name not in self.told
            and second(other.created) <= T0 + dial.at * TICK
            for other in self.lives
        )

    def after_untold(self, dial: Dial) -> bool:
        """Whether one that never told its address may have left this one's when it passed on."""
        gained_ns = second(dial.life.wired)
        return second(dial.at) == gained_ns and any(
            other.node == dial.life.node
            and other.name not in self.told
            and second(other.created) <= gained_ns < other.left_ns
            for other in self.lives
        )


def played(
    lives: list[Life],
    dialled: Iterable[tuple[int, int]],
    turns: list[int],
    outages: list[tuple[int, int]],
    *,
    keeps: bool,
    kept: int | None = None,
) -> Played:
    """
    Play lives to recorders that run and pause for `turns` ticks each.

    `dialled` are which life and how long after it ran, `outages` when the API server is away and
    for how long; `keeps`: it still has what happened while nobody watched. A recorder forgets
    pods that ended more than `kept` ticks ago.
    """
    dials = []
    for which, after in dialled:
        life = lives[which % len(lives)]
        dials.append(Dial(life, min(life.ran + after, life.ended)))
    events: list[tuple[int, int, Any]] = [(dial.at, 1, dial) for dial in dials]
    states = [(at, life.name, pod) for life in lives for at, pod in life.states()]
    events += [(at, 0, (name, pod)) for at, name, pod in states]
    starts = [0]
    for turn in turns:
        starts.append(starts[-1] + turn)
    if len(starts) % 2 == 0:
        starts.append(starts[-1] + 20)  # one decides what was left to the next recording
    # Recorders run in the even spans; each hears of pods a moment after it starts.
    for n, at in enumerate(starts):
        events.append((at, 2, "start" if n % 2 == 0 else "stop"))
        if n % 2 == 0:
            events.append((at + 3, 2, "list"))
    for at, lasts in outages:
        events += [(at, 2, "lost"), (at + lasts, 2, "found")]
    events.append((max(END * 2, starts[-1] // 2 * 2 + 20), 3, "stop"))
    events.sort(key=lambda each: each[:2])

    file = File(kept_ns=None if kept is None else kept * TICK)
    recorder, heard, lost_ns = None, False, None
    there: dict[str, Pod] = {}
    happened: list[Applied | Deleted] = []  # since somebody heard of it
    waiting: list[Dial] = []  # made while nobody recorded; the kernel's table still has them
    told: set[str] = set()  # the pods whose address was told, in time for a dial's recorder
    named: set[int] = set()
    away: set[int] = set()
    unheard: set[int] = set()  # no list, or no end of the recording, said what was left
    for n, (at, _, what) in enumerate(events):
        now_ns = T0 + at * TICK + n  # of several at one time the order is kept
        if recorder is not None and kept is not None:
            recorder.endpoints.expire(now_ns - kept * TICK)
        if isinstance(what, Dial):
            if recorder is None:
                waiting.append(what)
                away.add(id(what))
            else:
                recorder.ask(what)
        elif isinstance(what, tuple):
            name, pod = what
            before = there.pop(name, None)
            if pod is not None:
                there[name] = pod
                change: Applied | Deleted = Applied(pod, now_ns)
            else:
                assert before is not None
                change = Deleted(before, now_ns)
            if recorder is not None and heard:
                recorder.apply(change)
            else:
                happened.append(change)
        elif what == "start":
            recorder, heard, lost_ns = Recorder(file, at), False, None
            for dial in waiting:
                recorder.ask(dial)
            waiting.clear()
        elif recorder is None:
            continue
        elif what == "stop":
            killed = at % 2 == 1
            recorder.stop(at, killed=killed)
            told |= recorder.told
            for dial in recorder.dials:
                if dial.life.name in recorder.told:
                    named.add(id(dial))
                    if killed or not heard:
                        unheard.add(id(dial))
            recorder, heard = None, False
        elif what == "lost":
            if heard:
                heard, lost_ns = False, now_ns
                recorder.apply(Lost("pods", now_ns, "away"))
        elif not heard:
            recorder.apply(Listed("nodes", (NODE,), now_ns))
            recorder.apply(Listed("services", (), now_ns))
            if keeps and (file.told_ns is not None or lost_ns is not None):
                recorder.apply(Missed(tuple(happened), now_ns, whole=True))
            happened.clear()
            recorder.apply(Listed("pods", tuple(there.values()), now_ns))
            if lost_ns is not None:
                recorder.apply(Recovered("pods", lost_ns, now_ns, "away"))
            heard, lost_ns = True, None
    return Played(lives, dials, told, named, unheard, away, not (turns or outages))
