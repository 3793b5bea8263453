"""Strangers past a cap: which are kept, and where all others count."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest
from edges import packed
from hypothesis import given
from hypothesis import strategies as st
from test_aggregate import Row, plus
from wire import CLOSE, CONFIRMED, SECOND, TCP, UDP, Connection, Counted, batch

from ctk.conntrack import alike
from ctk.conntrack.aggregate import Aggregator, Window
from ctk.conntrack.baseline import Baseline
from ctk.conntrack.connections import Connections
from ctk.conntrack.counting import Aggregation
from ctk.conntrack.decode import Decoder
from ctk.conntrack.groups import FoldedGroup, Group, Totals
from ctk.conntrack.strangers import Strangers
from ctk.model import FlowTuple, Kind
from ctk.model.distinct import Distinct

T = 1_000 * SECOND  # a time at which a window starts
POD, OTHER_POD, SERVICE = "10.244.0.21", "10.244.0.22", "10.96.0.80"
ONE_EACH = (1, 40, 0, 0)  # what a packet without an answer moves


def kind_of(address: bytes) -> Kind | None:
    if address in map(packed, (POD, OTHER_POD, SERVICE)):
        return None
    return "unknown" if address[0] == 10 else "external"


def client(n: int, *, port: int = 1, dst: str = POD, dst_port: int = 80, **more: Any) -> Connection:
    src = f"8.8.{n >> 8}.{n & 255}"
    return Connection(src=src, dst=dst, dst_port=dst_port, port=port, ct_id=n * 64 + port, **more)


class Recording:
    """An aggregator that keeps so many strangers, and what its windows held."""

    def __init__(
        self,
        most: int | None,
        aggregation: Aggregation = "ports",
        *,
        may_be_named: bool = False,
        wanted: Callable[[FlowTuple], bool] | None = None,
    ) -> None:
        strangers = None
        if most is not None:
            strangers = Strangers(kind_of, most=most, may_be_named=may_be_named)
        self.connections = Connections(wanted, strangers)
        self.aggregator = Aggregator(
            self.connections,
            Baseline.after_first_dump(),
            window_ns=10 * SECOND,
            aggregation=aggregation,
        )
        self.decoder = Decoder()
        self.windows: list[Window] = []
        self._flows: dict[int, Any] = {}

    def events(self, *messages: bytes, at_ns: int) -> None:
        read = self.decoder.read(batch(*messages, at_ns=at_ns))
        self.windows += self.aggregator.add(read, at_ns)

    def dump(self, *listed: bytes, at_ns: int) -> None:
        self.events(at_ns=at_ns)
        self.connections.begin_dump()
        self.aggregator.add_dump(self.decoder.read(batch(*listed, at_ns=at_ns)))
        self.connections.end_dump(at_ns)

    def end(self) -> list[Window]:
        self.windows += self.aggregator.close()
        assert self.decoder.malformed == self.connections.malformed == 0
        return self.windows


def row(totals: Totals) -> Row:
    moved = (totals.packets_out, totals.bytes_out, totals.packets_in, totals.bytes_in)
    return Row(
        totals.connections,
        totals.new_events,
        totals.update_events,
        totals.destroy_events,
        totals.unreplied,
        totals.refused,
        moved if totals.measured else None,
    )


def total(windows: Iterable[Window]) -> Row:
    found = Row()
    for window in windows:
        for totals in window.totals:
            found = plus(found, row(totals))
    return found


def kept(window: Window) -> dict[bytes, Row]:
    """What the strangers have that a window keeps, by who they are."""
    found: defaultdict[bytes, Row] = defaultdict(Row)
    for totals in window.totals:
        if totals.group.other is not None:
            assert totals.group.ends is not None
            found[totals.group.ends[0]] = plus(found[totals.group.ends[0]], row(totals))
    return found


def folded(window: Window) -> dict[tuple[int | None, bool], tuple[Row, int]]:
    """What is folded, by port and whether it failed; with how many addresses dialled."""
    rows: defaultdict[tuple[int | None, bool], Row] = defaultdict(Row)
    addresses: defaultdict[tuple[int | None, bool], Distinct] = defaultdict(Distinct)
    for totals in window.totals:
        group = totals.group
        if isinstance(group, FoldedGroup):
            assert group.flow is not None
            assert totals.addresses is not None
            key = (group.flow.tuple.dst_port, group.failed)
            rows[key] = plus(rows[key], row(totals))
            addresses[key].merge(totals.addresses.src or Distinct())
    return {key: (each, len(addresses[key])) for key, each in rows.items()}


def spans(window: Window) -> dict[tuple[int | None, bool], tuple[int, int]]:
    """When what is folded had its first and its last event, by port and whether it failed."""
    found: dict[tuple[int | None, bool], tuple[int, int]] = {}
    for totals in window.totals:
        group = totals.group
        assert totals.started_ns <= totals.ended_ns
        if isinstance(group, FoldedGroup):
            assert group.flow is not None
            key = (group.flow.tuple.dst_port, group.failed)
            first_ns, last_ns = found.get(key, (totals.started_ns, totals.ended_ns))
            found[key] = min(first_ns, totals.started_ns), max(last_ns, totals.ended_ns)
    return found


def test_up_to_the_cap_every_stranger_is_kept() -> None:
    recording = Recording(5)
    recording.events(*(client(n).new() for n in range(5)), at_ns=T)
    [window] = recording.end()
    assert (len(kept(window)), folded(window)) == (5, {})


def test_of_a_flood_of_equals_nobody_is_kept_and_each_address_counts() -> None:
    recording = Recording(5)
    recording.events(*(client(n).new() for n in range(100)), at_ns=T)
    [window] = recording.end()
    assert kept(window) == {}
    assert folded(window) == {(80, False): (Row(100, 100), 100)}
    assert len(recording.connections.live) == 100


def test_the_biggest_are_kept_by_bytes_and_then_by_connections() -> None:
    recording = Recording(2)
    big, busy, small = client(1), client(2), [client(n) for n in range(3, 6)]
    recording.events(
        big.new(),
        big.destroy(counted=(5, 5_000, 5, 5_000)),
        *(client(2, port=port).new() for port in range(2, 5)),
        busy.new(),
        *(each.new() for each in small),
        at_ns=T,
    )
    [window] = recording.end()
    assert kept(window) == {
        packed("8.8.0.1"): Row(1, 1, 0, 1, 0, 0, (5, 5_000, 5, 5_000)),
        packed("8.8.0.2"): Row(4, 4),
    }
    assert folded(window) == {(80, False): (Row(3, 3), 3)}


def test_with_a_filter_a_flood_is_folded_at_once_and_what_is_unwanted_is_left_out() -> None:
    recording = Recording(5, wanted=lambda flow: flow.dst == packed(POD))
    to_both = [client(n, dst=POD if n % 2 else OTHER_POD) for n in range(400)]
    recording.events(*(each.new() for each in to_both), at_ns=T)
    assert len(recording.aggregator.connections.live) == 200
    groups = set(recording.connections.live.values())
    assert sum(isinstance(group, FoldedGroup) for group in groups) == 1
    assert len(groups) < 15  # those that came before the window was full are folded, too
    recording.events(*(each.destroy(counted=ONE_EACH) for each in to_both), at_ns=T + SECOND)
    [window] = recording.end()
    assert folded(window) == {(80, False): (Row(200, 200, 0, 200, moved=(200, 8_000, 0, 0)), 200)}
    assert recording.connections.live == {}


def test_what_comes_later_of_a_folded_connection_is_folded_with_it() -> None:
    recording = Recording(2)
    clients = [client(n) for n in range(50)]
    recording.events(*(each.new() for each in clients), at_ns=T)
    recording.events(*(each.update() for each in clients), at_ns=T + 15 * SECOND)
    recording.dump(*(each.listed(ONE_EACH) for each in clients), at_ns=T + 25 * SECOND)
    recording.events(*(each.destroy(counted=ONE_EACH) for each in clients), at_ns=T + 35 * SECOND)
    windows = recording.end()
    assert [folded(window) for window in windows] == [
        {(80, False): (Row(50, 50), 50)},
        {(80, False): (Row(0, 0, 50), 50)},
        {(80, False): (Row(moved=(50, 2_000, 0, 0)), 50)},
        {(80, False): (Row(destroy=50, moved=(0, 0, 0, 0)), 50)},
    ]
    groups = {totals.group for window in windows for totals in window.totals}
    assert {(group.flow.tuple, group.began_ns) for group in groups if group.flow} == {
        (next(iter(groups)).flow.tuple, T)  # one edge
    }
    assert recording.connections.live == {}


def test_failures_stand_apart() -> None:
    recording = Recording(2)
    refused = [client(n) for n in range(50)]
    recording.events(*(each.new() for each in refused), at_ns=T)
    recording.events(
        *(each.destroy(status=CONFIRMED, state=CLOSE) for each in refused), at_ns=T + SECOND
    )
    [window] = recording.end()
    found = folded(window)
    assert plus(found[80, False][0], found[80, True][0]) == Row(50, 50, 0, 50, 0, 50)
    assert found[80, False][0].refused == 0
    assert found[80, True][1] == 50


def test_a_known_address_is_never_folded() -> None:
    recording = Recording(0)
    inside = Connection(src=OTHER_POD, dst=POD, ct_id=9)
    recording.events(inside.new(), *(client(n).new() for n in range(9)), at_ns=T)
    [window] = recording.end()
    whole = [totals for totals in window.totals if not totals.group.folded]
    assert [row(totals) for totals in whole] == [Row(1, 1)]
    assert folded(window) == {(80, False): (Row(9, 9), 9)}


def test_one_that_opens_many_connections_in_a_flood_comes_out() -> None:
    recording = Recording(5)
    recording.events(*(client(n).new() for n in range(100)), at_ns=T)
    recording.events(*(client(500, port=port).new() for port in range(40)), at_ns=T + SECOND)
    [window] = recording.end()
    # The first of its connections was as small as all others.
    assert kept(window) == {packed("8.8.1.244"): Row(39, 39)}
    assert folded(window)[80, False] == (Row(101, 101), 101)


@pytest.mark.parametrize("told_by", ["dump", "destroy"])
def test_a_folded_connection_that_moves_much_comes_out(told_by: str) -> None:
    recording = Recording(5)
    clients = [client(n) for n in range(100)]
    recording.events(*(each.new() for each in clients), at_ns=T)
    much = (100, 1_000_000, 100, 1_000)
    if told_by == "dump":
        recording.dump(clients[7].listed(much), at_ns=T + 15 * SECOND)
    else:
        recording.events(clients[7].destroy(counted=much), at_ns=T + 15 * SECOND)
    _, window = recording.end()
    assert kept(window) == {packed("8.8.0.7"): Row(destroy=int(told_by == "destroy"), moved=much)}
    assert folded(window) == {}


def test_dialled_strangers_are_folded_by_the_pod_that_dials_and_by_port() -> None:
    recording = Recording(1)
    recording.events(
        *(
            Connection(
                src=POD, dst=f"8.8.4.{n}", dst_port=443, masquerade="10.0.0.1", ct_id=n
            ).new()
            for n in range(20)
        ),
        at_ns=T,
    )
    [window] = recording.end()
    [totals] = window.totals
    group = totals.group
    assert isinstance(group, FoldedGroup)
    assert group.flow is not None
    flow = group.flow.tuple
    assert (flow.src, flow.dst, flow.dst_port) == (packed(POD), b"", 443)
    assert (flow.reply_src, flow.reply_dst) == (b"", packed("10.0.0.1"))
    assert totals.addresses is not None
    assert (totals.addresses.src, len(totals.addresses.dst or ())) == (None, 20)


def test_a_scan_of_many_ports_is_not_told_apart_by_port_past_a_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ctk.conntrack.strangers.MOST_OTHERS", 10)
    recording = Recording(2)
    scan = [client(1, port=n, dst_port=n) for n in range(1, 60)]
    recording.events(*(each.new() for each in scan), at_ns=T)
    [window] = recording.end()
    found = folded(window)
    assert len(found) == 11
    assert sum((each.connections for each, _ in found.values())) == 59
    assert found[None, False][1] == 1  # one address


def test_while_a_flood_of_equals_goes_on_a_window_folds_from_its_begin() -> None:
    recording = Recording(5)
    recording.events(*(client(n).new() for n in range(100)), at_ns=T)
    later = T + 10 * SECOND
    recording.events(*(client(n).new() for n in range(100, 103)), at_ns=later)
    busy = [client(200, port=port).new() for port in range(4)]
    recording.events(*busy, at_ns=later + SECOND)
    recording.events(*(client(n).new() for n in range(300, 303)), at_ns=T + 20 * SECOND)
    _, flood, after = recording.end()
    # Three strangers and the first of the busy one's connections, folded as they began.
    assert folded(flood) == {(80, False): (Row(4, 4), 4)}
    assert kept(flood) == {packed("8.8.0.200"): Row(3, 3)}
    # So few of them were no flood: there is room again.
    assert (len(kept(after)), folded(after)) == (3, {})


def test_what_is_told_in_a_flood_is_asked_about_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    recording = Recording(2)
    recording.events(*(client(n).new() for n in range(50)), at_ns=T)
    strangers = recording.connections.strangers
    assert strangers is not None
    pods = {packed("8.8.0.60"), packed(OTHER_POD)}
    monkeypatch.setattr(
        strangers, "_kind_of", lambda address: None if address in pods else kind_of(address)
    )
    recording.aggregator.regroup()
    recording.events(*(client(n).new() for n in range(55, 65)), at_ns=T + SECOND)
    [window] = recording.end()
    whole = [totals for totals in window.totals if not totals.group.folded]
    assert [row(totals) for totals in whole] == [Row(1, 1)]
    assert folded(window) == {(80, False): (Row(59, 59), 59)}


def test_those_that_may_be_named_later_are_folded_last() -> None:
    """A new pod's connections come before its address is told."""
    recording = Recording(3, may_be_named=True)
    maybe_pods = [Connection(src=f"10.9.9.{n}", dst=POD, ct_id=n).new() for n in range(3)]
    recording.events(*(client(n).new() for n in range(50)), *maybe_pods, at_ns=T)
    [window] = recording.end()
    assert kept(window) == {packed(f"10.9.9.{n}"): Row(1, 1) for n in range(3)}


def test_one_that_was_named_meanwhile_is_not_folded(monkeypatch: pytest.MonkeyPatch) -> None:
    recording = Recording(2)
    recording.events(*(client(n).new() for n in range(4)), at_ns=T)
    named = packed("8.8.0.3")
    strangers = recording.connections.strangers
    assert strangers is not None
    monkeypatch.setattr(
        strangers, "_kind_of", lambda address: None if address == named else kind_of(address)
    )
    recording.aggregator.regroup()
    [window] = recording.end()
    whole = [totals for totals in window.totals if not totals.group.folded]
    assert [totals.group.ends[0] for totals in whole if totals.group.ends] == [named]
    assert folded(window) == {(80, False): (Row(3, 3), 3)}


_sides = st.sampled_from(["in", "out", "inside"])
_moves = st.sampled_from([None, (1, 40, 0, 0), (2, 90, 1, 50), (9, 9_000, 9, 90_000)])
_ONE = (
    st.sampled_from(["new", "new", "new", "update", "destroy", "refused", "listed"]),
    st.integers(0, 30),
    _sides,
)
_steps = st.lists(
    st.tuples(*_ONE, st.integers(0, 4), _moves),  # the number: seconds later
    max_size=120,
)


def _connection(n: int, side: str) -> Connection:
    port, proto = n % 3, UDP if n % 5 == 0 else TCP
    if side == "in":
        return client(n // 2, port=port, dst_port=80 + n % 2, proto=proto)
    if side == "out":
        dst = f"9.9.9.{n // 2}"
        return Connection(src=POD, dst=dst, dst_port=443, port=port, proto=proto, ct_id=2_000 + n)
    return Connection(src=POD, dst=OTHER_POD, port=port, proto=proto, ct_id=3_000 + n)


def _play(
    recording: Recording, steps: Sequence[tuple[Any, ...]], *, pressed: bool = False
) -> list[Window]:
    """Counters only grow, as the kernel's do. `pressed`: --max-size is, after each step."""
    at_ns, moved = T, Counter[tuple[int, str]]()
    for what, n, side, after_s, moves in steps:
        at_ns += after_s * SECOND
        message = _message(what, n, side, moves, moved)
        if what == "listed":
            recording.dump(message, at_ns=at_ns)
        else:
            recording.events(message, at_ns=at_ns)
        if pressed:
            for totals in (each for window in recording.windows for each in window.totals):
                if not totals.group.folded:
                    totals.group.forget_flow()  # the window is in the file
            recording.aggregator.fold_oldest(1)
    return recording.end()


def _message(
    what: str,
    n: int,
    side: str,
    moves: Counted | None,
    moved: Counter[tuple[int, str]],
    when: int | None = None,
) -> bytes:
    one = _connection(n, side)
    if moves is not None:
        moved[n, side] += 1
    counted = None if moves is None else tuple(moved[n, side] * each for each in moves)
    if what == "new":
        return one.new(when)
    if what == "update":
        return one.update(when)
    if what == "destroy":
        return one.destroy(when, counted)
    if what == "refused":
        return one.destroy(when, counted, status=CONFIRMED, state=CLOSE)
    return one.listed(counted)


def test_a_flow_that_is_folded_later_still_tells_the_edge_of_a_window_that_waits() -> None:
    recording = Recording(2)
    recording.events(*(client(n).new() for n in range(2)), at_ns=T)
    recording.events(at_ns=T + 10 * SECOND)
    (window,) = recording.windows
    big = (100, 40_000, 0, 0)
    recording.events(
        *(client(n).update() for n in range(2)),
        *(client(n).new() for n in range(10, 13)),
        *(client(n).destroy(counted=big) for n in range(10, 13)),
        at_ns=T + 11 * SECOND,
    )
    recording.end()
    assert [totals.group.folded for totals in window.totals] == [True, True]
    for totals in window.totals:
        assert totals.group.flow is not None
        assert totals.group.flow.tuple.dst_port == 80


@given(_steps, st.integers(0, 4), st.sampled_from(["ports", "connections", "none"]), st.booleans())
def test_sums_are_those_without_folding(
    steps: list[tuple[Any, ...]], most: int, aggregation: Aggregation, pressed: bool
) -> None:
    """Window by window, and each connection lives or not as it does without."""
    plain, capped = Recording(None, aggregation), Recording(most, aggregation)
    played = _play(capped, steps, pressed=pressed)
    for one, other in zip(_play(plain, steps), played, strict=True):
        assert (one.started_ns, total([one])) == (other.started_ns, total([other]))
        assert len(kept(other)) <= most
        for totals in other.totals:
            if totals.addresses is not None and totals.group.flow is not None:
                counts = (totals.addresses.src, totals.addresses.dst)
                assert all(len(each) >= 1 for each in counts if each is not None)
    assert plain.connections.live.keys() == capped.connections.live.keys()
    assert plain.connections.states == capped.connections.states


@given(
    st.lists(st.tuples(st.integers(1, 5), st.integers(0, 9)), min_size=1, max_size=15),
    st.integers(12, 15),
)
def test_the_kept_are_the_biggest(sizes: list[tuple[int, int]], most: int) -> None:
    """Where a window has no more strangers than it keeps, and a quarter."""
    recording = Recording(most)
    for n, (connections, hundreds) in enumerate(sizes):
        each = [client(n, port=port) for port in range(connections)]
        recording.events(*(one.new() for one in each), at_ns=T)
        recording.events(each[0].destroy(counted=(1, 100 * hundreds, 0, 0)), at_ns=T)
    [window] = recording.end()
    expected = sorted(((100 * hundreds, n) for n, hundreds in sizes), reverse=True)
    found = sorted(
        ((each.moved[1], each.connections) for each in kept(window).values() if each.moved),
        reverse=True,
    )
    assert found == expected[: len(found)]
    if len(sizes) <= most:
        assert len(found) == len(sizes)
    elif found:
        assert found[-1] > expected[len(found)]
    else:
        assert expected[0] == expected[most]


def test_windows_in_parts_keep_no_more_than_one_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """With `--aggregate none` a window is handed over in parts, by its events."""
    monkeypatch.setattr("ctk.conntrack.aggregate.MOST_EVENTS", 10)
    recording = Recording(6, "none")
    for second in range(5):
        some = [client(second * 10 + n, port=n).new() for n in range(4)]
        more = [client(second * 10, port=port).new() for port in range(10, 10 + second)]
        recording.events(*some, *more, at_ns=T + second * SECOND)
    windows = recording.end()
    assert len(windows) > 1
    assert sum(len(kept(window)) for window in windows) <= 6
    assert total(windows) == Row(30, 30)


def test_what_a_clean_stop_keeps_goes_on_folded() -> None:
    before, after = Recording(2), Recording(2)
    clients = [client(n) for n in range(40)]
    before.events(*(each.new() for each in clients), at_ns=T)
    before.dump(*(each.listed(ONE_EACH) for each in clients), at_ns=T + SECOND)
    [window] = before.end()
    for number, totals in enumerate(window.totals):
        totals.group.edge_id = -5 - number
    exported = list(before.connections.export())
    assert len(exported) == 1  # packed together
    after.connections.restore(exported, by_port=False)
    assert after.connections.live.keys() == before.connections.live.keys()
    after.events(*(each.destroy(counted=(2, 80, 0, 0)) for each in clients), at_ns=T + 20 * SECOND)
    [later] = after.end()
    [totals] = later.totals
    group: Group = totals.group
    assert (group.edge_id, group.folded) == (-5, True)
    assert row(totals) == Row(destroy=40, moved=(40, 1_600, 0, 0))
    assert totals.addresses is not None
    assert len(totals.addresses.src or ()) == 40


@given(
    st.lists(st.tuples(st.lists(st.tuples(*_ONE, _moves), max_size=25), st.integers(0, 12))),
    st.integers(0, 4),
    st.sampled_from(["ports", "none"]),
    st.booleans(),
)
def test_many_at_once_are_counted_as_one_by_one(
    batches: list[tuple[list[tuple[Any, ...]], int]],
    most: int,
    aggregation: Aggregation,
    timed: bool,
) -> None:
    """Window by window, by what they are folded into, to the number of addresses, and in time."""
    found = []
    for few in (1, 1_000):
        recording, at_ns, moved = Recording(most, aggregation), T, Counter[tuple[int, str]]()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(alike, "FEW", few)
            patch.setattr(alike, "_PAUSE", 0)
            for steps, after_s in batches:
                at_ns += after_s * SECOND
                events, listed = list[bytes](), list[bytes]()
                for number, step in enumerate(steps):
                    when = at_ns - SECOND // 2 + number if timed else None
                    message = _message(*step, moved, when)
                    (listed if step[0] == "listed" else events).append(message)
                recording.events(*events, at_ns=at_ns)
                recording.dump(*listed, at_ns=at_ns)
        windows, connections = recording.end(), recording.connections
        found.append(
            (
                [
                    (each.started_ns, total([each]), kept(each), folded(each), spans(each))
                    for each in windows
                ],
                connections.live.keys(),
                connections.states,
                {key: connections.counters(key) for key in connections.live},
                recording.aggregator.counters_reset,
            )
        )
    assert found[0] == found[1]


def _flooded() -> Recording:
    """60 connections that fill the window, and 60 (from number 100 on) that are folded."""
    recording = Recording(5)
    recording.events(*(client(n).new() for n in range(60)), at_ns=T)
    recording.events(*(client(n).new() for n in range(100, 160)), at_ns=T + 1)
    return recording


@pytest.mark.parametrize("few", [1, 1_000])
def test_a_begin_that_is_told_again_in_one_batch_with_the_end_counts_once(
    few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a dump had found the connections, and their events waited."""
    monkeypatch.setattr(alike, "FEW", few)
    recording = _flooded()
    told = [(client(n).new(), client(n).destroy(counted=ONE_EACH)) for n in range(100, 160)]
    recording.events(*(each for both in told for each in both), at_ns=T + SECOND)
    assert len(recording.connections.live) == 60
    [window] = recording.end()
    assert total([window])[:4] == Row(120, 180, 0, 60)[:4]


@pytest.mark.parametrize("few", [1, 1_000])
def test_the_first_and_the_last_event_are_told_whatever_is_counted_first(
    few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that begin and are updated in one batch are counted after those that only begin."""
    monkeypatch.setattr(alike, "FEW", few)
    recording, at_ns = _flooded(), T + 2 * SECOND
    early = [(client(n).new(at_ns + 1), client(n).update(at_ns + 2)) for n in range(200, 230)]
    late = [client(n).new(at_ns + 300) for n in range(300, 370)]
    recording.events(*(each for both in early for each in both), *late, at_ns=at_ns + 400)
    [window] = recording.end()
    of_second = {each.group.began_ns // SECOND: each for each in window.totals}
    assert [(each.started_ns - T, each.ended_ns - T) for each in of_second.values()] == [
        (0, 1),
        (2 * SECOND + 1, 2 * SECOND + 300),
    ]


@pytest.mark.parametrize("few", [1, 1_000])
def test_counters_that_are_told_in_part_are_not_measured(
    few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel tells all four or none; a capture may come from anywhere."""
    monkeypatch.setattr(alike, "FEW", few)
    recording = _flooded()
    read = recording.decoder.read(
        batch(*(client(n).destroy(counted=ONE_EACH) for n in range(100, 160)), at_ns=T + SECOND)
    )
    in_part = [(*event[:11], None, *event[12:]) if n else event for n, event in enumerate(read)]
    recording.windows += recording.aggregator.add(in_part, T + SECOND)
    assert len(recording.connections.live) == 60
    [window] = recording.end()
    assert total([window])[:4] == Row(120, 120, 0, 60)[:4]


def test_a_flood_whose_connections_end_goes_on_to_be_folded_as_it_begins() -> None:
    """What moved little and began before is bigger by bytes, and says nothing of connections."""
    recording = Recording(5)
    for second in range(4):
        numbers = range(second * 50, second * 50 + 50)
        recording.events(*(client(n).new() for n in numbers), at_ns=T + second * SECOND)
        ended = [client(n).destroy(counted=ONE_EACH) for n in numbers]
        recording.events(*ended, at_ns=T + second * SECOND + 1)
        if second == 0:
            entered = len(recording.connections.flows)
    assert len(recording.connections.flows) == entered
    [window] = recording.end()
    assert (kept(window), total([window])) == ({}, Row(200, 200, 0, 200, 0, 0, (200, 8_000, 0, 0)))


def test_a_flood_is_counted_at_once_again_as_soon_as_one_of_it_was_looked_up_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recording = _flooded()
    recording.aggregator.regroup()
    strangers = recording.connections.strangers
    assert strangers is not None
    recording.events(*(client(n).new() for n in range(200, 260)), at_ns=T + 2)
    monkeypatch.delattr(strangers.__class__, "other_of")  # who looks at one stranger by itself
    recording.events(*(client(n).new() for n in range(300, 360)), at_ns=T + 3)
    [window] = recording.end()
    assert total([window]) == Row(240, 240)


@pytest.mark.parametrize("few", [1, 1_000])
def test_what_a_dump_lists_of_folded_connections_is_what_they_moved(
    few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the counters of some went back, or moved enough to stand out."""
    monkeypatch.setattr(alike, "FEW", few)
    recording, clients = Recording(5), [client(n) for n in range(60)]
    recording.events(*(one.new() for one in clients), at_ns=T)
    recording.events(*(client(n).new() for n in range(100, 110)), at_ns=T + 1)
    recording.dump(*(one.listed((1, 40, 0, 0)) for one in clients), at_ns=T + SECOND)
    recording.dump(*(one.listed((3, 120, 0, 0)) for one in clients), at_ns=T + 2 * SECOND)
    recording.dump(*(one.listed((3, 120, 0, 0)) for one in clients), at_ns=T + 3 * SECOND)
    recording.dump(
        clients[0].listed((2, 80, 0, 0)),
        *(one.listed((4, 160, 0, 0)) for one in clients[1:59]),
        clients[59].listed((9, 9_000, 9, 9_000)),
        at_ns=T + 4 * SECOND,
    )
    at_ns, ended = T + 5 * SECOND, clients[1:59]
    recording.connections.begin_dump()
    recording.events(
        *(one.destroy(counted=(5, 200, 0, 0), status=CONFIRMED) for one in ended), at_ns=at_ns
    )
    listed = batch(*(one.listed((5, 200, 0, 0)) for one in ended), at_ns=at_ns)
    recording.aggregator.add_dump(recording.decoder.read(listed))
    recording.connections.end_dump(at_ns)
    [window] = recording.end()
    moved = (58 * 5 + 3 + 9, 58 * 200 + 120 + 9_000, 9, 9_000)
    assert total([window]) == Row(70, 70, 0, 58, 58, 0, moved)
    assert {port: addresses for port, (_, addresses) in folded(window).items()} == {
        (80, False): 70,
        (80, True): 57,  # one stood out before so much was folded
    }
    assert kept(window)[packed("8.8.0.59")].moved == (6, 8_880, 9, 9_000)
    assert len(recording.connections.live) == 2
