"""The table of live connections: what is kept of them over a restart, and what is forgotten."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_aggregate import (
    AFTER_A_CRASH,
    AFTER_A_STOP,
    LATER,
    ONCE,
    TWICE,
    WIDTH,
    Recording,
    Row,
    T,
    total,
)
from wire import ICMP, UDP, Connection, batch, events

from ctk.conntrack import connections as table
from ctk.conntrack.connections import Connections
from ctk.model import FlowTuple
from ctk.model.kept import LiveConnections

MOVED = (5, 500, 2, 200)  # from ONCE to TWICE


def stopped(*made: Connection, listed: bool = True) -> list[LiveConnections]:
    """What a recording keeps that saw these begin and, where `listed`, one dump of them."""
    recording = Recording()
    recording.events(*(one.new(T - WIDTH) for one in made), at_ns=T - WIDTH)
    if listed:
        recording.dump(*(one.listed(ONCE) for one in made), at_ns=T - 1)
    for group in recording.connections.live.values():
        group.edge_id = 7
    return list(recording.connections.export())


def started(kept: list[LiveConnections], aggregation: str = "ports") -> Recording:
    """A recording that takes up what was kept."""
    recording = Recording(aggregation, AFTER_A_STOP)
    recording.connections.restore(kept, by_port=aggregation == "connections")
    return recording


A, B, PING = (
    Connection(port=1),
    Connection(port=2, ct_id=2),
    Connection(proto=ICMP, port=3, ct_id=3),
)


@pytest.mark.parametrize("aggregation", ["ports", "connections", "none"])
def test_a_connection_that_goes_on_is_not_counted_again_and_only_the_rest_of_its_bytes(aggregation):
    recording = started(stopped(A, B), aggregation)
    recording.dump(A.listed(TWICE), B.listed(ONCE), at_ns=T + 1)
    recording.aggregator.baseline = LATER
    recording.events(A.update(T + 2), A.destroy(T + 3, TWICE), at_ns=T + 3)
    row = sum_of(recording)
    assert row == Row(0, 0, 1, 1, moved=MOVED)


def sum_of(recording: Recording) -> Row:
    """As `total`, where the flow of a restored connection is not known."""
    row = Row()
    for window in recording.aggregator.close():
        for each in window.totals:
            row = Row(
                row.connections + each.connections,
                row.new + each.new_events,
                row.update + each.update_events,
                row.destroy + each.destroy_events,
                moved=(each.packets_out, each.bytes_out, each.packets_in, each.bytes_in)
                if each.measured
                else row.moved,
            )
    return row


def test_what_was_never_measured_is_whole_after_a_restart():
    """Its new event was the last that was read: no dump has listed it."""
    recording = started(stopped(A, listed=False))
    recording.dump(A.listed(ONCE), at_ns=T + 1)
    assert sum_of(recording) == Row(moved=ONCE)


def test_what_ended_meanwhile_is_gone_after_two_dumps():
    recording = started(stopped(A, B))
    assert [recording.dump(B.listed(ONCE), at_ns=T + n) for n in range(3)] == [0, 1, 0]
    assert len(recording.connections.live) == 1


@pytest.mark.parametrize("by_event", [True, False])
def test_an_id_that_came_again_meanwhile_is_another_connection(by_event):
    recording = started(stopped(A))
    if by_event:
        recording.events(A.new(T + 1), at_ns=T + 1)
    recording.dump(A.listed(ONCE, start_ns=T + 1), at_ns=T + 2)
    assert total(recording.end()) == Row(1, int(by_event), moved=ONCE)


def test_with_connections_each_is_on_its_own_again():
    recording = started(stopped(A, B, PING), "connections")
    assert len({id(group) for group in recording.connections.live.values()}) == 3


def test_connections_whose_owner_is_not_known_are_not_kept():
    recording = Recording()
    recording.events(A.new(T), at_ns=T)
    assert list(recording.connections.export()) == []


@given(
    st.lists(
        st.builds(
            Connection,
            proto=st.sampled_from((6, UDP, ICMP)),
            port=st.integers(1, 0xFFFF),
            dst_port=st.sampled_from((53, 80)),
            zone=st.sampled_from((0, 7, 0xFFFF)),
            ct_id=st.integers(0, 0xFFFF_FFFF),
        ),
        max_size=20,
        unique_by=lambda one: one.ct_id,
    ),
    st.booleans(),
)
def test_what_is_kept_comes_back_as_it_was(made, listed):
    kept = stopped(*made, listed=listed)
    back = Connections()
    back.restore(kept, by_port=False)
    assert len(back.live) == len(made)
    again = list(back.export())
    assert sorted(map(unpacked, again)) == sorted(map(unpacked, kept))


def unpacked(some: LiveConnections) -> tuple[object, ...]:
    return some.flow, some.began_ns, some.has_ports, some.keys, some.counters or b""


# Flows.


def key(one: Connection) -> tuple[bytes, bytes, int]:
    [event] = events(one.new())
    return event[1], event[3], event[4]


def test_a_flow_that_was_forgotten_comes_back_with_the_same_connections(monkeypatch):
    monkeypatch.setattr(table, "MOST_FLOWS", 3)
    recording = Recording()
    recording.events(A.new(T), at_ns=T)
    for n in range(20):
        other = Connection(dst_port=1000 + n)
        at_ns = T + n * WIDTH
        recording.events(other.new(at_ns), other.destroy(at_ns), at_ns=at_ns)
    assert key(A) not in recording.connections.flows
    recording.events(A.update(T + 20 * WIDTH), at_ns=T + 20 * WIDTH)
    assert recording.end()[-1][2] == {80: Row(0, 0, 1)}


def test_a_flow_that_is_not_wanted_is_asked_about_once():
    asked: list[FlowTuple] = []
    recording = Recording()
    recording.connections = recording.aggregator.connections = Connections(
        lambda flow: bool(asked.append(flow))
    )
    recording.events(A.new(T), A.update(T), B.new(T), at_ns=T)
    recording.dump(A.listed(ONCE), at_ns=T + 1)
    assert (recording.end(), len(asked)) == ([], 1)


def test_a_malformed_tuple_is_counted_each_time():
    connections = Connections()
    assert [connections.flow(b"", b"", 0) for _ in range(3)] == [None] * 3
    assert connections.malformed == 3


def test_a_dump_of_what_lives_does_not_fill_the_cache_of_flows():
    recording = Recording()
    several = [Connection(port=1, dst_port=n, ct_id=n) for n in range(1, 50)]
    recording.events(*(each.new(T) for each in several), at_ns=T)
    recording.connections.flows.clear()
    recording.dump(*(each.listed(ONCE) for each in several), at_ns=T + 1)
    assert recording.connections.flows == {}
    assert sum_of(recording) == Row(49, 49, moved=ONCE)


def test_what_another_filter_wanted_is_handed_on_uncounted_and_not_found_again():
    kept = stopped(A, B, PING)
    narrow = Recording("ports", AFTER_A_STOP)
    narrow.connections = Connections(lambda flow: flow.proto == "udp")
    narrow.aggregator.connections = narrow.connections
    narrow.connections.restore(kept, by_port=False)
    for n in range(3):
        narrow.dump(A.listed(TWICE), B.listed(TWICE), PING.listed(ONCE), at_ns=T + 1 + n)
        narrow.aggregator.baseline = LATER
    assert sum_of(narrow) == Row()
    again = started(list(narrow.connections.export()))
    again.dump(A.listed(TWICE), B.listed(TWICE), PING.listed(TWICE), at_ns=T + 9)
    assert sum_of(again) == Row(moved=MOVED)


def test_a_dump_finds_one_that_an_event_told_of_and_whose_flow_is_forgotten():
    """After a crash: it began after the last commit, so the dump counts what the event did not."""
    recording = Recording("ports", AFTER_A_CRASH)
    recording.connections.begin_dump()
    recording.events(A.update(T + 5), at_ns=T + 5)
    recording.connections.flows.clear()
    recording.aggregator.add_dump(
        recording.decoder.read(batch(A.listed(ONCE, start_ns=T + 1), at_ns=T + 6))
    )
    [window] = recording.aggregator.close()
    assert all(each.group.flow is not None for each in window.totals)
    assert sum(each.connections for each in window.totals) == 1
