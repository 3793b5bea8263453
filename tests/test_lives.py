"""
Pods that come, go and pass addresses on, under a recorder that comes and goes itself.

Drawn lives are played as a kubelet tells them; the recorder is started again with what its file
knew, and its watch breaks off. No answer may end as a pod that did not have the address, and a
pod's connections are its own wherever it was told.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from ctk.kube.endpoints import Endpoints
from ctk.kube.objects import Applied, Deleted, Listed, Lost, Pod, Recovered
from ctk.model import Completed, Endpoint, KnownObject, ObjectClosed, ObjectRecord

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
        if self.how == "graceful":
            yield self.asked_to_end, replace(pod, terminating=True)
        final_ns = second(self.ended) + S
        yield self.unwired + 2, replace(running, phase="Failed", ended_ns=final_ns)
        yield self.unwired + 40, None


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
            how = draw(st.sampled_from(("forced", "graceful", "completed")))
            asked = ran + draw(ticks(1, 300))
            ended = asked + (0 if how == "completed" else draw(ticks(0, 20)))
            unwired = ended + draw(ticks(1, 6))
            told = ran + draw(ticks(2, 24))
            node = draw(st.sampled_from(("n1", "n2")))
            name = f"pod-{len(lives)}"
            life = Life(name, address, node, how, created, wired, ran, told, asked, ended, unwired)
            lives.append(life)
            free = unwired
    return lives


@dataclass
class File:
    """The history of pods, kept as the store keeps it."""

    rows: list[list[Any]] = field(default_factory=list)  # record, end, closed by a restart
    until_ns: int = 0

    def write(self, history: Iterable[object]) -> None:
        for each in history:
            if isinstance(each, ObjectClosed):
                for row in self.rows:
                    if row[0].uid == each.uid and row[1] is None:
                        row[1] = each.valid_to_ns
            elif isinstance(each, ObjectRecord):
                mine = [row for row in self.rows if row[0].uid == each.uid]
                if mine and content(mine[-1][0]) == content(each) and mine[-1][2]:
                    mine[-1][1:] = [None, False]
                else:
                    self.rows.append([each, None, False])

    def begin(self) -> list[KnownObject]:
        known = [KnownObject(record, to_ns) for record, to_ns, _ in self.rows]
        for row in self.rows:
            row[2] = row[1] is None
            if row[1] is None:
                row[1] = max(self.until_ns, row[0].valid_from_ns)
        return known


def content(record: ObjectRecord) -> object:
    return record.addresses, record.labels, record.phase, record.node


@dataclass
class Dial:
    """A connection from a pod, and who it is said to be from."""

    life: Life
    at: int
    answer: Endpoint | None = field(default=None, repr=False)


class Recorder:
    """One recording: the table of endpoints, and what was asked of it."""

    def __init__(self, file: File, at: int) -> None:
        self._file = file
        self.endpoints = Endpoints("n1", [], T0 + at * TICK, kube=True)
        self.endpoints.recall(file.begin(), file.until_ns)
        self.dials: list[Dial] = []
        self.told: set[str] = {row[0].uid for row in file.rows if row[0].addresses}

    def ask(self, dial: Dial) -> None:
        dial.answer = self.endpoints.at(dial.life.address, T0 + dial.at * TICK)
        self.dials.append(dial)

    def apply(self, change: Any) -> None:
        self.endpoints.apply(change)
        objects = (
            change.objects if isinstance(change, Listed) else [getattr(change, "object", None)]
        )
        self.told.update(each.uid for each in objects if each is not None and each.addresses)

    def stop(self, at: int, *, killed: bool) -> list[tuple[Dial, str | None]]:
        if not killed:
            self.endpoints.finish(T0 + at * TICK)
        history = self.endpoints.drain()
        self._file.write(history)
        self._file.until_ns = T0 + at * TICK
        known = {each.unknown: each.known for each in history if isinstance(each, Completed)}
        finally_ = []
        for dial in self.dials:
            assert dial.answer is not None
            finally_.append((dial, known.get(dial.answer, dial.answer).name))
        return finally_


def shared_second(dial: Dial, lives: list[Life], unseen: bool) -> bool:
    """Whether another pod may have had the address in the second in which this one dialled."""
    mine = T0 + dial.at * TICK
    if unseen and second(dial.at) == second(dial.life.wired):
        return True
    for other in lives:
        if other is dial.life or other.address != dial.life.address:
            continue
        earliest, latest = min(second(other.wired), second(other.ran)), second(other.ended) + S
        if other.how == "forced":
            latest = max(latest, second(other.asked_to_end) + 3 * S)
        if earliest - S <= mine < latest + S:
            return True
    return False


# To shrink what fails takes minutes, and the lives say enough.
@settings(max_examples=200, deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate))
@given(
    drawn_lives(),
    st.lists(st.tuples(st.integers(0, 15), st.integers(0, 400)), min_size=10, max_size=60),
    st.lists(st.integers(10, 300), max_size=8),
    st.lists(st.tuples(st.integers(0, END), st.integers(1, 200)), max_size=2),
)
def test_an_answer_is_the_pod_that_had_the_address_or_none(
    lives: list[Life],
    dialled: list[tuple[int, int]],
    turns: list[int],
    outages: list[tuple[int, int]],
) -> None:
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
    # Recorders run in the even spans; each hears of pods a moment after it starts.
    for n, at in enumerate(starts):
        events.append((at, 2, "start" if n % 2 == 0 else "stop"))
        if n % 2 == 0:
            events.append((at + 3, 2, "list"))
    for at, lasts in outages:
        events += [(at, 2, "lost"), (at + lasts, 2, "found")]
    events.append((END * 2, 3, "stop"))
    events.sort(key=lambda each: each[:2])

    file, recorder, heard, lost_ns = File(), None, False, None
    there: dict[str, Pod] = {}
    waiting: list[Dial] = []  # made while nobody recorded; the kernel's table still has them
    finally_: list[tuple[Dial, str | None]] = []
    named: set[int] = set()  # those of pods whose address was told
    unheard: set[int] = set()  # no list, or no end of the recording, said what was left
    for at, _, what in events:
        now_ns = T0 + at * TICK
        if isinstance(what, Dial):
            if recorder is None:
                waiting.append(what)
            else:
                recorder.ask(what)
        elif isinstance(what, tuple):
            name, pod = what
            before = there.pop(name, None)
            if pod is not None:
                there[name] = pod
            if recorder is not None and heard:
                change: Any = Applied(pod, now_ns) if pod else None
                if pod is None and before is not None:
                    change = Deleted(before, now_ns)
                recorder.apply(change)
        elif what == "start":
            recorder, heard, lost_ns = Recorder(file, at), False, None
            for dial in waiting:
                recorder.ask(dial)
            waiting.clear()
        elif recorder is None:
            continue
        elif what == "stop":
            told = recorder.told
            killed = at % 2 == 1
            for dial, name_ in recorder.stop(at, killed=killed):
                finally_.append((dial, name_))
                if dial.life.name in told:
                    named.add(id(dial))
                    if killed or not heard:
                        unheard.add(id(dial))
            recorder, heard = None, False
        elif what == "lost":
            if heard:
                heard, lost_ns = False, now_ns
                recorder.apply(Lost("pods", now_ns, "away"))
        elif not heard:
            for resource in ("services", "nodes", "endpointslices"):
                recorder.apply(Listed(resource, (), now_ns))  # type: ignore[arg-type]
            recorder.apply(Listed("pods", tuple(there.values()), now_ns))
            if lost_ns is not None:
                recorder.apply(Recovered("pods", lost_ns, now_ns, "away"))
            heard, lost_ns = True, None
    wrong = [
        f"at {dial.at} {name} for {dial.life}"
        for dial, name in finally_
        if id(dial) in named and name not in (None, dial.life.name)
    ]
    assert wrong == []
    if not outages:
        nameless = [
            f"at {dial.at} none for {dial.life}"
            for dial, name in finally_
            if name is None
            and id(dial) in named - unheard
            and not shared_second(dial, lives, bool(turns))
        ]
        assert nameless == []
