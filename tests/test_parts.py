"""Events counted many at once come to what they come to one at a time."""

from collections.abc import Iterator
from itertools import count
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wire import ESTABLISHED, SECOND, UDP, Connection, batch

from ctk.conntrack.aggregate import Aggregator, Window
from ctk.conntrack.baseline import Baseline
from ctk.conntrack.connections import Connections
from ctk.conntrack.counting import Aggregation
from ctk.conntrack.decode import Decoder, Part
from ctk.conntrack.runs import Columns
from ctk.conntrack.strangers import Strangers
from ctk.model import Datagrams, Kind

T = 1_000 * SECOND
SLOT = 512
KNOWN = [f"10.244.0.{n}" for n in range(1, 6)]


def kind_of(address: bytes) -> Kind | None:
    return None if address[0] == 10 else "external"


class Counted:
    """An aggregator; `at_once` says whether it is given runs."""

    def __init__(self, aggregation: Aggregation, *, at_once: bool) -> None:
        self.at_once = at_once
        self.decoder = Decoder()
        self.connections = Connections(strangers=Strangers(kind_of, most=4))
        self.aggregator = Aggregator(
            self.connections,
            Baseline.first_start(T),
            window_ns=2 * SECOND,
            aggregation=aggregation,
        )
        self.windows: list[Window] = []
        self.columns = 0

    def take(self, some: Datagrams) -> None:
        parts: list[Part] = self.decoder.parts(some)
        self.columns += sum(isinstance(part, Columns) for part in parts)
        if not self.at_once:
            parts = [self.decoder.read(some)]
        self.windows += self.aggregator.add_parts(parts, some.at_ns)

    def dump(self, some: Datagrams) -> None:
        self.connections.begin_dump()
        self.aggregator.add_dump(self.decoder.read(some))
        self.aggregator.end_dump(some.at_ns)

    def came_to(self) -> object:
        connections = self.connections
        live = {key: group.began_ns for key, group in connections.live.items()}
        windows = [
            (
                window.started_ns,
                sorted(map(str, map(_row, window.totals))),
                sorted((at_ns, group.flow.tuple, *event) for at_ns, group, *event in window.lone),
            )
            for window in [*self.windows, *self.aggregator.close()]
        ]
        return windows, self.aggregator.events, live, connections.states, connections.malformed


def _row(totals):
    addresses = totals.addresses
    begun = None if totals.apart is not None else (totals.connections, totals.new_events)
    return (
        totals.group.flow.tuple,
        totals.group.began_ns,
        totals.started_ns,
        totals.ended_ns,
        totals.port,
        begun,
        (totals.update_events, totals.destroy_events),
        (totals.refused, totals.unreplied, totals.measured, totals.bytes_out),
        totals.apart,
        addresses and (addresses.src and len(addresses.src), addresses.dst and len(addresses.dst)),
    )


def batches(chance: Random) -> Iterator[Datagrams]:
    """Yield what a socket may hand over: runs of one kind and of several, of few connections."""
    at_ns = T + SECOND
    proto = chance.choice([UDP, 6])
    strange = chance.choice([0, 0, 0.01, 0.5])
    ports = chance.choice([2, 300])
    fresh = count(1_000)
    alive = [Connection(proto=proto, src=KNOWN[0], port=1, ct_id=1)]
    for _ in range(chance.randrange(4, 7)):
        raws: list[bytes] = []
        timed = chance.random() < 0.5
        while len(raws) < chance.randrange(40, 500):
            kinds = chance.choice(["n", "n", "u", "nu", "nuuu", "nuuu", "d", "nud"])
            known = chance.choice([0, 0, 0, 0.01, 0.5])  # how many are new and update of any
            for _ in range(chance.choice([20, 150, 300])):
                src = chance.choice(KNOWN)
                if chance.random() < strange:
                    src = f"8.0.0.{chance.randrange(9)}"
                kind = chance.choice(kinds)
                port = chance.randrange(ports) if chance.random() < known else next(fresh)
                one = Connection(
                    proto=proto, src=src, port=port, ct_id=chance.choice([port, port, port, 7])
                )
                if kind != "n" and chance.random() >= known:
                    one = chance.choice(alive)
                when = at_ns - chance.randrange(SECOND // 4) if timed else None
                if kind == "d":
                    raws.append(one.destroy(when, state=ESTABLISHED))
                elif kind == "n":
                    alive.append(one)
                    raws.append(one.new(when))
                else:
                    raws.append(one.update(when))
        buffer = bytearray(b"".join(raw.ljust(SLOT, b"\0") for raw in raws))
        offsets = range(0, len(buffer), SLOT)
        yield Datagrams(at_ns, False, buffer, offsets, [len(raw) for raw in raws])
        at_ns += chance.choice([5_000_000, 5_000_000, 5_000_000, SECOND // 2, SECOND])


@given(st.integers(0, 1 << 32), st.sampled_from(["ports", "ports", "connections", "none"]))
@settings(max_examples=10)
def test_runs_come_to_what_their_events_come_to_one_at_a_time(seed, aggregation):
    chance = Random(seed)
    listed = [Connection(src=KNOWN[n % 5], port=n, ct_id=n).listed() for n in range(4)]
    dump_at = chance.randrange(4)
    both = [Counted(aggregation, at_once=at_once) for at_once in (True, False)]
    for n, some in enumerate(batches(chance)):
        before = bytes(some.buffer)
        for each in both:
            if n == dump_at:
                each.dump(batch(*listed, at_ns=some.at_ns, dumped=True))
            each.take(some)
        assert bytes(some.buffer) == before
    together, alone = both
    assert together.came_to() == alone.came_to()


def begins(first: int, at_ns: int, *, timed: bool) -> Datagrams:
    raws = [
        Connection(proto=UDP, src=KNOWN[n % 5], port=n, ct_id=n).new(at_ns if timed else None)
        for n in range(first, first + 256)
    ]
    buffer = bytearray(b"".join(raw.ljust(SLOT, b"\0") for raw in raws))
    return Datagrams(at_ns, False, buffer, range(0, len(buffer), SLOT), [len(raw) for raw in raws])


@pytest.mark.parametrize("timed", [False, True], ids=["as received", "as the kernel says"])
def test_a_flood_of_flows_that_are_known_makes_no_events(timed, monkeypatch):
    counted = Counted("ports", at_once=True)

    counted.take(begins(0, T + 1, timed=timed))
    monkeypatch.delattr(Columns, "events")
    counted.take(begins(256, T + 2, timed=timed))
    assert counted.columns == 3  # the first 128 tell the layout
    assert len(counted.connections.live) == 512
    [window] = counted.aggregator.close()
    assert [each.connections for each in window.totals] == [103, 103, 102, 102, 102]
    assert {each.ended_ns for each in window.totals} == {T + 2}


@pytest.mark.parametrize("listed_at", [None, 9, 6], ids=["no dump", "before", "after"])
def test_a_clock_that_steps_back_leaves_a_window_its_first_and_its_last_time(listed_at):
    both = [Counted("ports", at_once=at_once) for at_once in (True, False)]
    for each in both:
        for n, tenth in enumerate((5, 9, 6, 2, 7)):
            if tenth == listed_at:
                listed = [Connection(proto=UDP, src=src, port=1, ct_id=1).listed() for src in KNOWN]
                each.dump(batch(*listed, at_ns=T + tenth * SECOND // 10, dumped=True))
            each.take(begins(256 * n, T + tenth * SECOND // 10, timed=False))
    together, alone = both
    assert together.columns > 5
    assert (came_to := together.came_to()) == alone.came_to()
    assert f"{T + 2 * SECOND // 10}, {T + 9 * SECOND // 10}" in str(came_to)
