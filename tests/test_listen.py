"""The stream of events and dumps, from a kernel that is played: no root, and time as it is told."""

from collections.abc import Callable, Generator, Iterator

import pytest
from wire import UDP, Connection, batch

from ctk.conntrack.capture import Capture, CaptureWriter, Header
from ctk.conntrack.listen import Listener, Replay
from ctk.model import Datagrams, Gap

SECOND = 1_000_000_000
EPOCH_S = 1_700_000_000.0
READ_S = 0.001  # what a read takes, and a chunk of a dump
SLOTS = 4  # messages that a read takes at most


class Kernel:
    """
    The kernel's side of a socket, its table and its clock.

    `rate` events come each second, by themselves; those past `room` are dropped until a read finds
    the queue empty.
    """

    def __init__(
        self,
        *,
        rate: float = 0,
        read_s: float = READ_S,
        chunks: int = 3,
        chunk_s: float = READ_S,
        room: int = 10**9,
    ) -> None:
        self.now_s = EPOCH_S
        self.cpu_s = 0.0
        self.rate, self.room, self.read_s = rate, room, read_s
        self.chunks, self.chunk_s = chunks, chunk_s
        self.queue: list[int] = []  # events by number
        self.read: list[int] = []  # what was taken from it
        self.dropped = 0
        self.dumps: list[float] = []  # when each was asked for
        self.addresses: frozenset[str] = frozenset(["127.0.0.1"])
        self.malformed = 0
        self.more_waits = False
        self._sent = 0
        self._due = 0.0
        self._gap: Gap | None = None
        self._told = 0

    # The clock.
    def monotonic(self) -> float:
        return self.now_s

    def time_ns(self) -> int:
        return int(self.now_s * SECOND)

    def thread_time(self) -> float:
        return self.cpu_s

    def pass_time(self, seconds: float, *, working: bool = True) -> None:
        self.now_s += seconds
        self.cpu_s += seconds if working else 0
        self._due += self.rate * seconds
        self.send(int(self._due) - self._sent)

    def send(self, events: int) -> None:
        for number in range(self._sent, self._sent + events):
            if self.dropped == self._told and len(self.queue) < self.room:
                self.queue.append(number)
            else:
                self.dropped += 1
        self._sent += events
        self._due = max(self._due, self._sent)

    # The socket.
    def receive(self, timeout_s: float) -> Datagrams | None:
        if not self.queue and timeout_s:
            self.pass_time(timeout_s, working=False)
        if not self.queue:
            self.more_waits = False
            if self.dropped > self._told:
                at_ns = self.time_ns()
                self._gap = Gap("events lost", at_ns, at_ns, self.dropped - self._told)
                self._told = self.dropped
            return None
        taken, self.queue = self.queue[:SLOTS], self.queue[SLOTS:]
        self.more_waits = len(taken) == SLOTS or self.dropped > self._told
        self.read += taken
        at_ns = self.time_ns()
        self.pass_time(self.read_s)
        return batch(*map(event, taken), at_ns=at_ns)

    def lost(self) -> Gap | None:
        gap, self._gap = self._gap, None
        return gap

    def unread(self) -> Gap | None:
        now_ns = self.time_ns()
        return Gap("events lost", now_ns, now_ns, None, "unread") if self.more_waits else None

    # The table.
    def dump(self) -> Generator[Datagrams, None, None]:
        self.dumps.append(self.now_s)
        for number in range(self.chunks):
            self.pass_time(self.chunk_s)
            yield batch(entry(number), at_ns=self.time_ns(), dumped=True)
        self.pass_time(self.chunk_s)


def event(number: int) -> bytes:
    return Connection(proto=UDP, ct_id=number).new()


def entry(number: int) -> bytes:
    return Connection(proto=UDP, ct_id=number).listed()


def listener(
    kernel: Kernel,
    *,
    stop_after_s: float = 1,
    every_s: float | None = 30,
    counting: Callable[[], bool] = lambda: True,
    dump: Callable[[], Generator[Datagrams, None, None]] | None = None,
) -> Listener:
    stop_at_s = kernel.now_s + stop_after_s
    return Listener(
        kernel,
        started_ns=kernel.time_ns(),
        window_ns=10 * SECOND,
        dump_every_s=every_s,
        stopping=lambda: kernel.now_s >= stop_at_s,
        asked_s=lambda: stop_at_s,
        counting=counting,
        dump=dump or kernel.dump,
        addresses=lambda: kernel.addresses,
        clock=kernel,
    )


def told(stream: Listener) -> list[str]:
    """Each batch in a word: "3" events, a "chunk", a dump's "end", or a "tick"."""
    return [word(each) for each in stream]


def word(each: Datagrams) -> str:
    if each.dumped:
        return "chunk" if each.lengths else "end"
    return str(len(each.lengths)) if each.lengths else "tick"


def events_of(batches: Iterator[Datagrams]) -> int:
    return sum(len(each.lengths) for each in batches if not each.dumped)


def test_the_first_dump_comes_at_once_and_a_last_one_at_the_stop():
    kernel = Kernel()
    dumped = ["tick", "chunk", "chunk", "chunk", "tick", "end"]
    assert told(listener(kernel)) == [*dumped, *["tick"] * 4, "tick", *dumped, "tick"]
    assert [round(at - EPOCH_S, 1) for at in kernel.dumps] == [0, 1]


def test_events_and_a_dump_take_turns():
    kernel = Kernel(rate=100, chunks=6, chunk_s=0.01)
    words = told(listener(kernel, stop_after_s=0.05))[:6]
    assert words == ["tick", "chunk", "chunk", "2", "chunk", "chunk"]


def overloaded() -> Kernel:
    """More comes than a read takes in its time, so the queue is never empty."""
    return Kernel(rate=200, read_s=0.04)


def test_every_batch_that_was_read_is_handed_on_whatever_a_dump_finds_waiting():
    kernel = overloaded()
    stream = listener(kernel, every_s=1, stop_after_s=25)
    handed_on = 0
    for each in stream:
        handed_on += events_of(iter([each]))
        assert word(each) != "tick" or not kernel.queue  # what waits is of an earlier time
    assert handed_on == len(kernel.read)
    assert kernel.read == list(range(len(kernel.read)))


def test_what_waits_when_a_stop_runs_out_of_time_is_a_gap():
    kernel = overloaded()
    stream = listener(kernel)
    assert events_of(iter(stream)) == len(kernel.read)
    assert 8 <= kernel.now_s - EPOCH_S - 1 < 8.1
    assert kernel.queue
    assert len(kernel.dumps) == 1  # what is not read is lost; what a dump tells is told later
    assert [(gap.kind, gap.lost) for gap in stream.gaps()] == [("events lost", None)]


def test_the_time_of_a_stop_is_counted_from_when_it_was_asked_for():
    """What was in hand then took three seconds of it."""
    kernel = overloaded()
    stream = iter(listener(kernel))
    while kernel.now_s < EPOCH_S + 0.9:
        next(stream)
    kernel.now_s += 3
    assert events_of(stream) > 0
    assert 8 <= kernel.now_s - EPOCH_S - 1 < 8.1


def test_a_load_that_can_be_read_leaves_no_gap_at_the_stop():
    kernel = Kernel(rate=SLOTS / READ_S / 2)
    stream = listener(kernel)
    assert events_of(iter(stream)) == len(kernel.read)
    assert kernel.now_s - EPOCH_S - 1 < 0.1
    assert len(kernel.queue) < SLOTS
    assert stream.gaps() == []


def test_a_dump_is_over_when_the_events_that_waited_at_its_end_were_told():
    kernel = Kernel(chunks=1, chunk_s=0.005)
    words = []
    for each in listener(kernel, stop_after_s=0.005):
        words.append(word(each))
        if words == ["tick", "chunk"]:
            kernel.send(6)  # ends that the dump brought about
    assert words[:5] == ["tick", "chunk", "4", "2", "end"]


def test_a_last_dump_that_takes_too_long_is_not_told_as_whole():
    kernel = Kernel(chunks=30)
    words = []
    for each in listener(kernel):
        words.append(word(each))
        if len(kernel.dumps) == 1:
            kernel.chunk_s = 1 if "end" in words else READ_S
    assert words.count("end") == 1
    assert words[-9:].count("chunk") >= 3
    assert kernel.now_s - EPOCH_S - 1 <= 10


def test_a_dump_that_is_under_way_at_the_stop_is_finished_before_the_last_one():
    kernel = Kernel(chunks=49, chunk_s=0.1)
    words = told(listener(kernel, stop_after_s=0.5))
    assert (words.count("end"), 49 < words.count("chunk") < 98) == (1, True)
    assert kernel.now_s - EPOCH_S - 0.5 <= 8.2


def test_where_nothing_is_counted_there_is_no_last_dump():
    kernel = Kernel()
    told(listener(kernel, counting=lambda: False))
    assert len(kernel.dumps) == 1


def test_a_dump_that_is_due_comes_at_the_stop_whatever_is_counted():
    kernel = Kernel()
    stream = listener(kernel, stop_after_s=2, counting=lambda: False)
    for _ in stream:
        if kernel.now_s - EPOCH_S >= 2 and len(kernel.dumps) == 1:
            stream.dump_soon()
    assert len(kernel.dumps) == 2


def test_a_dump_that_is_asked_for_comes_at_once():
    kernel = Kernel()
    stream = listener(kernel, stop_after_s=5)
    asked_s = 0.0
    for _ in stream:
        if not asked_s and kernel.now_s >= EPOCH_S + 2:
            asked_s = kernel.now_s
            stream.dump_soon()
    assert kernel.dumps[1] == asked_s


def test_a_loss_is_a_gap_and_brings_a_dump_at_once():
    kernel = Kernel(room=10)
    stream = listener(kernel, stop_after_s=5)
    events = 0
    for each in stream:
        events += events_of(iter([each]))
        if len(kernel.dumps) == 1 and kernel.now_s >= EPOCH_S + 2 and not kernel.dropped:
            kernel.send(25)
    [gap] = stream.gaps()
    assert (gap.kind, gap.lost, events) == ("events lost", 15, 10)
    assert len(kernel.dumps) == 3
    assert kernel.dumps[1] == pytest.approx(gap.ended_ns / SECOND, abs=0.001)


def test_a_loss_during_a_dump_brings_another_one_after_it():
    kernel = Kernel(room=10, chunks=100, chunk_s=0.01)
    stream = listener(kernel, stop_after_s=20)
    for each in stream:
        if word(each) == "chunk" and not kernel.dropped:
            kernel.send(25)
    # The first takes a second, so the next comes ten later: a tenth of a core.
    assert [round(at - EPOCH_S) for at in kernel.dumps] == [0, 10, 20]
    assert [gap.lost for gap in stream.gaps()] == [15]


def test_addresses_are_looked_up_at_the_begin_of_each_dump():
    kernel = Kernel()
    stream = listener(kernel, stop_after_s=3, every_s=2)
    bridged = kernel.addresses | {"10.244.0.1"}
    found = []
    for each in stream:
        if word(each) == "end":
            found.append(stream.local_addresses)
            kernel.addresses = bridged
    assert found == [frozenset(["127.0.0.1"]), bridged, bridged]


@pytest.mark.parametrize(
    ("chunk_s", "began"),
    [
        (0.001, [0, 9.94, 19.94, 29.94, 39.94, 49.94, 59.94]),
        (0.04, [0, 9.71, 29.71, 49.71]),
        (1, [0, 5, 45]),  # each takes four seconds: a tenth of a core
    ],
)
def test_dumps_come_as_often_as_a_hundredth_of_a_core_allows(chunk_s, began):
    kernel = Kernel(chunk_s=chunk_s)
    told(listener(kernel, every_s=None, stop_after_s=65))
    assert [round(at - EPOCH_S, 2) for at in kernel.dumps[:-1]] == pytest.approx(began, abs=0.02)


def test_the_work_of_who_takes_the_chunks_is_part_of_what_a_dump_costs():
    kernel = Kernel()
    for each in listener(kernel, every_s=None, stop_after_s=65):
        if each.dumped:
            kernel.pass_time(0.04)
    assert [round(at - EPOCH_S) for at in kernel.dumps[:-1]] == [0, 10, 30, 50]


def test_a_window_that_is_written_during_a_dump_is_no_part_of_what_the_dump_costs():
    kernel, window = Kernel(chunks=50), 0
    for each in listener(kernel, every_s=None, stop_after_s=65):
        if each.at_ns // (10 * SECOND) != window:
            window = each.at_ns // (10 * SECOND)
            kernel.pass_time(0.2)
    assert [round(at - EPOCH_S) for at in kernel.dumps[:-1]] == [0, 10, 20, 30, 40, 50, 60]


def test_what_came_while_a_dump_was_held_up_is_told_before_its_window_is_over():
    kernel = Kernel(chunks=1)

    def held_up() -> Generator[Datagrams, None, None]:
        kernel.send(1)
        kernel.pass_time(12, working=False)
        for chunk in kernel.dump():
            kernel.pass_time(READ_S)
            yield chunk

    stream = listener(kernel, stop_after_s=12, dump=held_up)
    batches = list(stream)
    assert [word(each) for each in batches[:3]] == ["tick", "1", "chunk"]
    times = [each.at_ns for each in batches]
    assert times == sorted(times)


def test_a_replay_has_the_addresses_that_the_live_run_had(tmp_path):
    path, first, then = tmp_path / "a.ctkcap", frozenset(["::1"]), frozenset(["::1", "10.244.0.1"])
    with CaptureWriter(path, Header(node="n", addresses=first)) as writer:
        for at_ns, addresses in enumerate((first, then, then)):
            writer.write(batch(event(at_ns), at_ns=at_ns), addresses)
    with Capture(path) as capture:
        stream = Replay(capture, stopping=lambda: False)
        assert stream.local_addresses == first
        found = [(each.at_ns, stream.local_addresses) for each in stream]
    assert found == [(0, first), (1, then), (2, then)]
