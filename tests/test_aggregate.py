"""Events to flows by window, on messages as the kernel writes them."""

from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wire import CLOSE, CONFIRMED, SECOND, SYN_SENT, TIME_WAIT, UDP, Connection, Counted, batch

from ctk.conntrack.aggregate import Aggregator, Window
from ctk.conntrack.baseline import Baseline
from ctk.conntrack.connections import Connections
from ctk.conntrack.counting import Aggregation
from ctk.conntrack.decode import DESTROY, NEW, UPDATE, Decoder, Event
from ctk.conntrack.outcome import ZONE
from ctk.model import (
    COUNTS_CONNECTION,
    COUNTS_DESTROY,
    COUNTS_NEW,
    COUNTS_REFUSED,
    COUNTS_UPDATE,
    Previous,
)

WIDTH = 10 * SECOND
T = 1_000 * SECOND  # a time at which a window starts

# What a first recording knows of a connection that is older than itself: nothing before T.
FIRST = Baseline.first_start(T)
AFTER_A_CRASH = Baseline.after_crash(T, Previous(0, T, None, "boot"))
AFTER_A_STOP = Baseline.after_clean_stop(T, Previous(0, T, T, "boot"))
LATER = Baseline.after_first_dump()


class Row(NamedTuple):
    """What a flow, or a connection, came to in a window."""

    connections: int = 0
    new: int = 0
    update: int = 0
    destroy: int = 0
    unreplied: int = 0
    refused: int = 0
    moved: Counted | None = None


class Recording:
    """An aggregator that is fed with messages."""

    def __init__(self, aggregation: Aggregation = "ports", baseline: Baseline = LATER) -> None:
        self.connections = Connections()
        self.aggregator = Aggregator(
            self.connections, baseline, window_ns=WIDTH, aggregation=aggregation
        )
        self.decoder = Decoder()
        self.windows: list[Any] = []
        self.by_port = aggregation == "connections"

    def events(self, *messages: bytes, at_ns: int) -> None:
        self._over(self.aggregator.add(self.decoder.read(batch(*messages, at_ns=at_ns)), at_ns))

    def dump(
        self,
        *listed: bytes,
        at_ns: int,
        meanwhile: Iterable[bytes] = (),
        then: Iterable[bytes] = (),
    ) -> int:
        """
        Take a dump, and events that are read before what it lists, and after it.

        Returns how many ended.
        """
        self.events(at_ns=at_ns)
        self.connections.begin_dump()
        self.events(*meanwhile, at_ns=at_ns)
        self.aggregator.add_dump(self.decoder.read(batch(*listed, at_ns=at_ns)))
        self.events(*then, at_ns=at_ns)
        return self.aggregator.end_dump(at_ns)

    def end(self) -> list[Any]:
        self._over(self.aggregator.close())
        assert self.decoder.malformed == 0
        return self.windows

    def _over(self, windows: Iterable[Window]) -> None:
        for window in windows:
            self.windows.append(
                (window.started_ns, window.ended_ns, rows(window, by_port=self.by_port))
            )


def rows(window: Window, *, by_port: bool) -> dict[Any, Row]:
    """A window's rows by dialled port, or by source port where it tells rows apart."""
    found: dict[Any, Row] = {}
    for each in window.totals:
        name = each.port if by_port else each.group.flow.tuple.dst_port
        row = Row(
            each.connections,
            each.new_events,
            each.update_events,
            each.destroy_events,
            each.unreplied,
            each.refused,
            (each.packets_out, each.bytes_out, each.packets_in, each.bytes_in)
            if each.measured
            else None,
        )
        found[name] = row if name not in found else plus(found[name], row)
    return found


def plus(one: Row, other: Row) -> Row:
    moved = one.moved or other.moved
    if one.moved and other.moved:
        moved = tuple(map(sum, zip(one.moved, other.moved, strict=True)))
    return Row(*map(sum, zip(one[:6], other[:6], strict=True)), moved)


def total(windows: Iterable[tuple[int, int, dict[Any, Row]]]) -> Row:
    everything = Row()
    for _, _, found in windows:
        for row in found.values():
            everything = plus(everything, row)
    return everything


A, B = Connection(port=1, ct_id=1), Connection(port=2, ct_id=2)
MOVED = (3, 300, 2, 200)


def test_all_events_of_a_connection_are_one_row():
    recording = Recording()
    recording.events(A.new(T), A.update(T + 1), A.destroy(T + 2, MOVED), at_ns=T + 3)
    assert recording.end() == [(T, T + WIDTH, {80: Row(1, 1, 1, 1, moved=MOVED)})]


def tagged(mark: int, *messages: bytes, at_ns: int) -> list[Any]:
    """Events with what a mark would be: bits above those of the zone."""
    events = Decoder().read(batch(*messages, at_ns=at_ns))
    return [Event(*each)._replace(zone=each[ZONE] | mark << 16) for each in events]


@pytest.mark.parametrize("zone", [0, 5])
def test_a_connection_whose_mark_changes_counts_once_under_what_it_began_with(zone):
    one, recording = Connection(zone=zone), Recording()
    messages = one.new(T), one.update(T + 1), one.destroy(T + 2, MOVED)
    for mark, message in enumerate(messages, 1):
        assert list(recording.aggregator.add(tagged(mark, message, at_ns=T), T)) == []
    [window] = recording.aggregator.close()
    [totals] = window.totals
    assert rows(window, by_port=False) == {80: Row(1, 1, 1, 1, moved=MOVED)}
    assert totals.group.flow.tuple.zone == zone | 1 << 16
    assert not recording.connections.live


def test_connections_of_two_marks_that_a_dump_finds_are_of_two_flows():
    recording = Recording()
    for mark in (1, 2):
        one = Connection(ct_id=mark, port=1000 + mark)
        recording.aggregator.add_dump(tagged(mark, one.listed(), at_ns=T))
    [window] = recording.aggregator.close()
    assert sorted(each.group.flow.tuple.zone for each in window.totals) == [1 << 16, 2 << 16]
    assert len({each.group.flow.base for each in window.totals}) == 1


def test_changing_source_ports_are_one_row():
    recording = Recording()
    recording.events(A.new(T), B.new(T + 1), B.update(T + 2), at_ns=T + 3)
    assert recording.end() == [(T, T + WIDTH, {80: Row(2, 2, 1)})]


def test_with_connections_each_is_a_row():
    recording = Recording("connections")
    recording.events(A.new(T), B.new(T + 1), B.update(T + 2), at_ns=T + 3)
    assert recording.end() == [(T, T + WIDTH, {1: Row(1, 1), 2: Row(1, 1, 1)})]


@pytest.mark.parametrize(
    ("events", "port"), [((A.new(T), A.update(T)), 1), ((A.new(T), B.new(T)), None)]
)
def test_a_source_port_is_told_unless_several_were_merged(events, port):
    recording = Recording()
    recording.events(*events, at_ns=T)
    [window] = recording.aggregator.close()
    assert [each.port for each in window.totals] == [port]


def test_with_none_each_event_is_kept():
    recording = Recording("none")
    recording.events(
        A.new(T),
        A.update(T + 1),
        A.destroy(T + 2, MOVED, status=CONFIRMED, state=CLOSE),
        at_ns=T + 3,
    )
    [window] = recording.aggregator.close()
    [totals] = window.totals
    assert [*window.lone] == [
        (T, totals.group, 1, COUNTS_CONNECTION | COUNTS_NEW),
        (T + 1, totals.group, 1, COUNTS_UPDATE),
    ]
    assert totals.apart == [(T + 2, 1, COUNTS_DESTROY | COUNTS_REFUSED, MOVED)]


@pytest.mark.parametrize(
    ("status", "state", "row"),
    [
        pytest.param(CONFIRMED, CLOSE, Row(1, 1, 0, 1, refused=1), id="reset at once: refused"),
        pytest.param(CONFIRMED, SYN_SENT, Row(1, 1, 0, 1, unreplied=1), id="never answered"),
        pytest.param(CONFIRMED, None, Row(1, 1, 0, 1, unreplied=1), id="one way, without a state"),
        pytest.param(CONFIRMED | 2, CLOSE, Row(1, 1, 0, 1), id="answered, then reset"),
        pytest.param(CONFIRMED | 2, None, Row(1, 1, 0, 1), id="answered"),
    ],
)
def test_how_a_connection_failed(status, state, row):
    recording = Recording()
    recording.events(A.new(T), A.destroy(T + 1, status=status, state=state), at_ns=T + 2)
    assert recording.end() == [(T, T + WIDTH, {80: row})]


# Windows and time.


def test_event_time_decides_the_window():
    recording = Recording()
    recording.events(A.new(T), at_ns=T)
    recording.events(A.update(T + WIDTH - 1), B.new(T + WIDTH), at_ns=T + WIDTH + 5)
    assert recording.windows == [(T, T + WIDTH, {80: Row(1, 1, 1)})]
    assert recording.end()[1:] == [(T + WIDTH, T + 2 * WIDTH, {80: Row(1, 1)})]


def test_an_event_older_than_the_open_window_counts_there():
    recording = Recording()
    recording.events(A.new(T), at_ns=T)
    recording.events(at_ns=T + WIDTH)
    recording.events(A.update(T + WIDTH - 1), at_ns=T + WIDTH + 1)
    assert recording.end() == [
        (T, T + WIDTH, {80: Row(1, 1)}),
        (T + WIDTH, T + 2 * WIDTH, {80: Row(0, 0, 1)}),
    ]


def test_a_tick_closes_a_quiet_window_once_and_empty_ones_never():
    recording = Recording()
    recording.events(A.new(T), at_ns=T)
    for tick in range(1, 50):
        recording.events(at_ns=T + tick * SECOND)
    assert recording.end() == [(T, T + WIDTH, {80: Row(1, 1)})]


def test_what_waited_in_the_socket_stands_in_the_windows_it_happened_in():
    """The recorder was held still for 35 s; what it then reads comes in two batches."""
    recording = Recording()
    recording.events(A.new(T), at_ns=T)
    now = T + 35 * SECOND
    recording.events(A.update(T + 4 * SECOND), B.new(T + 12 * SECOND), at_ns=now)
    recording.events(B.update(T + 22 * SECOND), A.update(T + 33 * SECOND), at_ns=now)
    recording.events(at_ns=now)
    assert recording.end() == [
        (T, T + WIDTH, {80: Row(1, 1, 1)}),
        (T + WIDTH, T + 2 * WIDTH, {80: Row(1, 1)}),
        (T + 2 * WIDTH, T + 3 * WIDTH, {80: Row(0, 0, 1)}),
        (T + 3 * WIDTH, T + 4 * WIDTH, {80: Row(0, 0, 1)}),
    ]


def test_a_dump_that_is_ahead_of_what_waits_counts_nothing_in_a_window_before_it_began():
    recording = Recording()
    late, now = T + 12 * SECOND, T + 13 * SECOND
    begun, older = B.listed(start_ns=late), A.listed(start_ns=T - SECOND)
    recording.events(Connection(port=3, ct_id=3).new(T + SECOND), at_ns=now)
    recording.connections.begin_dump()
    recording.aggregator.add_dump(recording.decoder.read(batch(begun, older, at_ns=now)))
    recording.aggregator.end_dump(now)
    recording.events(B.new(late), at_ns=now)
    assert recording.end() == [
        (T, T + WIDTH, {80: Row(2, 1)}),
        (T + WIDTH, T + 2 * WIDTH, {80: Row(1, 1)}),
    ]


def test_what_a_dump_told_before_its_events_were_read_counts_once():
    """They waited while it began, was listed, ended, and two dumps did not list it any more."""
    recording = Recording()
    waits, now = Connection(port=9, ct_id=9), T + 30 * SECOND
    recording.events(waits.new(T), at_ns=now)
    for listed in ([A.listed(start_ns=T + SECOND)], [], [], []):
        recording.connections.begin_dump()
        recording.aggregator.add_dump(recording.decoder.read(batch(*listed, at_ns=now)))
        assert recording.aggregator.end_dump(now) == 0
        recording.events(waits.update(T + SECOND), at_ns=now)
    recording.events(A.new(T + SECOND), A.destroy(T + 2 * SECOND), at_ns=now)
    [(_, _, window)] = recording.end()
    assert window[80] == Row(2, 2, 4, 1)


def test_a_connection_that_a_dump_found_and_the_next_missed_is_that_of_its_late_event():
    recording = Recording()
    recording.dump(A.listed(start_ns=T), at_ns=T + SECOND // 4)
    recording.dump(at_ns=T + SECOND // 2)
    recording.events(A.new(T), A.destroy(T + SECOND // 3), at_ns=T + SECOND * 3 // 4)
    [(_, _, window)] = recording.end()
    assert window[80] == Row(1, 1, 0, 1)


def test_after_a_backward_step_of_the_clock_windows_go_on_at_the_new_time():
    recording = Recording()
    recording.events(A.new(T), at_ns=T)
    back = T - 100 * WIDTH
    recording.events(A.update(back + 1), at_ns=back + 2)
    recording.events(B.new(back + WIDTH), at_ns=back + WIDTH)
    assert recording.end() == [
        (T, T + WIDTH, {80: Row(1, 1)}),
        (back, back + WIDTH, {80: Row(0, 0, 1)}),
        (back + WIDTH, back + 2 * WIDTH, {80: Row(1, 1)}),
    ]


def test_a_little_backward_does_not_open_a_window():
    recording = Recording()
    recording.events(A.new(T), at_ns=T)
    recording.events(A.update(T - 1), at_ns=T - SECOND // 2)
    assert recording.end() == [(T, T + WIDTH, {80: Row(1, 1, 1)})]


def test_a_window_with_very_many_rows_comes_in_parts(monkeypatch):
    monkeypatch.setattr("ctk.conntrack.aggregate.MOST_ROWS", 3)
    recording = Recording("connections")
    for n in range(4):
        recording.events(Connection(port=n + 1, ct_id=n).new(T), at_ns=T)
    assert recording.end() == [
        (T, T + WIDTH, {1: Row(1, 1), 2: Row(1, 1), 3: Row(1, 1)}),
        (T, T + WIDTH, {4: Row(1, 1)}),
    ]


def began(window: Window) -> list[tuple[int, int]]:
    return [(each.group.began_ns - T, each.connections) for each in window.totals]


def test_connections_that_began_in_different_seconds_may_have_different_owners():
    recording = Recording()
    for at_ns in (T, T + 1, T + SECOND, T + 3 * SECOND):
        one = Connection(port=1 + at_ns % 997, ct_id=at_ns % 997)
        recording.events(one.new(at_ns), at_ns=at_ns)
    [window] = recording.aggregator.close()
    assert began(window) == [(0, 2), (SECOND, 1), (3 * SECOND, 1)]


def test_after_a_change_connections_may_have_different_owners():
    recording = Recording()
    recording.events(A.new(T), at_ns=T)
    recording.aggregator.regroup()
    recording.events(B.new(T + 2), at_ns=T + 2)
    [window] = recording.aggregator.close()
    assert began(window) == [(0, 1), (2, 1)]


def test_later_events_come_back_to_the_group_a_connection_began_in():
    recording = Recording()
    recording.events(A.new(T), at_ns=T)
    recording.events(B.new(T + WIDTH), at_ns=T + WIDTH)
    recording.events(A.update(T + 2 * WIDTH), B.update(T + 2 * WIDTH), at_ns=T + 2 * WIDTH)
    [window] = recording.aggregator.close()
    assert began(window) == [(0, 0), (WIDTH, 0)]


# Dumps.

OLD, SINCE = T - 1, T + 1
ONCE, TWICE, LESS = (10, 1000, 9, 900), (15, 1500, 11, 1100), (5, 500, 2, 200)
MORE = (12, 1200, 10, 1000)  # than ONCE


@pytest.mark.parametrize(
    ("baseline", "start_ns", "first"),
    [
        pytest.param(FIRST, OLD, Row(1), id="first: an older one counts from here on"),
        pytest.param(FIRST, None, Row(1), id="first: so does one without a date"),
        pytest.param(FIRST, SINCE, Row(1, moved=ONCE), id="first: a younger one is whole"),
        pytest.param(AFTER_A_CRASH, OLD, Row(), id="crash: an older one was counted"),
        pytest.param(AFTER_A_CRASH, None, Row(), id="crash: so was one without a date"),
        pytest.param(AFTER_A_CRASH, SINCE, Row(1, moved=ONCE), id="crash: a younger one is whole"),
        pytest.param(AFTER_A_STOP, OLD, Row(1), id="stop: an older one was not wanted then"),
        pytest.param(AFTER_A_STOP, None, Row(1, moved=ONCE), id="stop: without a date it is whole"),
        pytest.param(LATER, None, Row(1, moved=ONCE), id="later: its events were lost"),
        pytest.param(LATER, OLD, Row(1, moved=ONCE), id="later: whatever its date"),
    ],
)
def test_what_a_dump_finds_and_what_moves_until_the_next(baseline, start_ns, first):
    recording = Recording(baseline=baseline)
    recording.dump(A.listed(ONCE, start_ns=start_ns), at_ns=T + 2)
    assert total(recording.end()) == first
    recording.dump(A.listed(TWICE, start_ns=start_ns), at_ns=T + WIDTH)
    assert total(recording.end()) == plus(first, Row(moved=LESS))


@pytest.mark.parametrize("start_ns", [None, SINCE])
@pytest.mark.parametrize("baseline", [FIRST, AFTER_A_CRASH, AFTER_A_STOP, LATER])
def test_a_connection_counts_once_whether_its_new_event_or_a_dump_comes_first(baseline, start_ns):
    for new_first in (True, False):
        recording = Recording(baseline=baseline)
        if new_first:
            recording.events(A.new(T + 1), at_ns=T + 2)
        recording.dump(A.listed((1, 100, 1, 90), start_ns=start_ns), at_ns=T + 3)
        recording.aggregator.baseline = LATER
        if not new_first:
            recording.events(A.new(T + 1), at_ns=T + 4)
        recording.events(A.destroy(T + 5, MOVED), at_ns=T + 6)
        assert recording.end() == [(T, T + WIDTH, {80: Row(1, 1, 0, 1, moved=MOVED)})]


@pytest.mark.parametrize(
    ("start_ns", "counted", "is_older"),
    [(SINCE, 1, False), (OLD, 0, True)],
    ids=["younger", "older"],
)
@pytest.mark.parametrize("by", ["dump", "end"])
def test_a_connection_that_an_update_finds_waits_for_what_tells_when_it_began(
    start_ns, counted, is_older, by
):
    """Who was there then is asked by that time, not by that of the update."""
    recording = Recording(baseline=AFTER_A_CRASH)
    recording.events(A.update(T + 1), at_ns=T + 2)
    recording.events(at_ns=T + WIDTH + 1)
    assert recording.windows == []
    if by == "dump":
        recording.dump(A.listed(ONCE, start_ns=start_ns), at_ns=T + WIDTH + 2)
    else:
        ends = A.destroy(T + WIDTH + 2, ONCE, start_ns=start_ns)
        recording.events(ends, at_ns=T + WIDTH + 3)
    [window] = recording.aggregator.close()
    [totals] = window.totals
    assert (totals.group.began_ns, totals.group.is_older) == (start_ns, is_older)
    assert totals.connections == counted
    assert totals.measured == bool(counted)


def test_what_no_dump_tells_the_begin_of_is_handed_over_when_the_dump_is_whole():
    recording = Recording(baseline=AFTER_A_STOP)
    recording.events(A.update(T + 1), at_ns=T + 2)
    recording.aggregator.end_dump(T + 2)
    recording.events(at_ns=T + WIDTH + 1)
    assert recording.windows == [(T, T + WIDTH, {80: Row(1, update=1)})]


def test_between_two_dumps_only_what_moved_counts():
    recording = Recording()
    recording.events(A.new(T), at_ns=T)
    recording.dump(A.listed(LESS), at_ns=T + 1)
    recording.dump(A.listed(LESS), at_ns=T + WIDTH)
    recording.dump(A.listed(TWICE), at_ns=T + 2 * WIDTH)
    recording.events(A.destroy(T + 3 * WIDTH, TWICE), at_ns=T + 3 * WIDTH)
    assert recording.end() == [
        (T, T + WIDTH, {80: Row(1, 1, moved=LESS)}),
        (T + 2 * WIDTH, T + 3 * WIDTH, {80: Row(moved=(10, 1000, 9, 900))}),
        (T + 3 * WIDTH, T + 4 * WIDTH, {80: Row(destroy=1, moved=(0, 0, 0, 0))}),
    ]


def test_counters_that_another_tool_zeroed_are_never_less_than_nothing():
    recording = Recording()
    recording.events(A.new(T), at_ns=T)
    recording.dump(A.listed(TWICE), at_ns=T + 1)
    recording.dump(A.listed(LESS), at_ns=T + 2)
    recording.events(A.destroy(T + 3, LESS), at_ns=T + 3)
    assert total(recording.end()) == Row(1, 1, 0, 1, moved=(20, 2000, 13, 1300))

    assert recording.aggregator.counters_reset == 1


@pytest.mark.parametrize(
    ("start_ns", "listed"),
    [(None, LESS), (T + 30 * SECOND, LESS), (T + 30 * SECOND, TWICE)],
    ids=["lower counters", "lower counters, with its start", "higher counters, with its start"],
)
def test_a_key_that_comes_again_before_a_dump_lists_it_is_another_connection(start_ns, listed):
    """The dump is ahead of the events: the end of the one and the new event of the other wait."""
    recording = Recording()
    recording.events(A.new(T), at_ns=T)
    recording.dump(A.listed(ONCE, start_ns=T), at_ns=T + SECOND)
    at_ns = T + 31 * SECOND
    ended, began = A.destroy(at_ns - 2, MORE), A.new(at_ns - 1)
    recording.dump(A.listed(listed, start_ns=start_ns), at_ns=at_ns, then=[ended, began])
    recording.events(A.destroy(at_ns + SECOND, TWICE), at_ns=at_ns + SECOND)
    moved = tuple(map(sum, zip(MORE, TWICE, strict=True)))
    assert total(recording.end()) == Row(2, 2, 0, 2, moved=moved)
    assert recording.aggregator.counters_reset == 0


def test_a_key_that_comes_again_and_whose_events_were_lost_is_another_connection():
    recording = Recording()
    recording.events(A.new(T), at_ns=T)
    recording.dump(A.listed(TWICE, start_ns=T), at_ns=T + SECOND)
    recording.dump(A.listed(ONCE, start_ns=T + 30 * SECOND), at_ns=T + 31 * SECOND)
    recording.events(A.destroy(T + 32 * SECOND, MORE), at_ns=T + 32 * SECOND)
    moved = tuple(map(sum, zip(TWICE, MORE, strict=True)))
    assert total(recording.end()) == Row(2, 1, 0, 1, moved=moved)
    assert recording.aggregator.counters_reset == 0


@pytest.mark.parametrize("state", [TIME_WAIT, CLOSE])
@pytest.mark.parametrize(
    ("baseline", "start_ns", "counted"),
    [
        pytest.param(FIRST, None, 0, id="first"),
        pytest.param(FIRST, OLD, 0, id="first: it began before"),
        pytest.param(FIRST, SINCE, 1, id="first: it began since"),
        pytest.param(AFTER_A_CRASH, OLD, 0, id="crash"),
        pytest.param(AFTER_A_STOP, None, 0, id="stop: it began and was over meanwhile"),
        pytest.param(LATER, None, 1, id="later: its events were lost"),
    ],
)
def test_what_is_over_when_a_dump_first_sees_it_is_not_counted(baseline, start_ns, counted, state):
    recording = Recording(baseline=baseline)
    recording.dump(A.listed(ONCE, start_ns=start_ns, state=state), at_ns=T + 2)
    recording.aggregator.baseline = LATER
    recording.dump(A.listed(ONCE, start_ns=start_ns, state=state), at_ns=T + 3)
    recording.events(A.destroy(T + 4, ONCE, state=state), at_ns=T + 4)
    moved = ONCE if counted else (0,) * 4
    assert total(recording.end()) == Row(counted, 0, 0, 1, moved=moved)


def test_what_began_and_was_over_before_the_first_dump_listed_it_is_counted_by_its_new_event():
    recording = Recording(baseline=FIRST)
    recording.dump(A.listed(ONCE, state=TIME_WAIT), at_ns=T + 2)
    recording.events(A.new(T + 1), at_ns=T + 3)
    recording.events(A.destroy(T + 4, ONCE), at_ns=T + 4)
    assert total(recording.end()) == Row(1, 1, 0, 1, moved=ONCE)


def test_without_counters_a_dump_measures_nothing():
    recording = Recording(baseline=FIRST)
    recording.dump(A.listed(), at_ns=T + 1)
    recording.dump(A.listed(), at_ns=T + WIDTH)
    recording.events(A.destroy(T + WIDTH), at_ns=T + WIDTH)
    assert recording.end() == [
        (T, T + WIDTH, {80: Row(1)}),
        (T + WIDTH, T + 2 * WIDTH, {80: Row(destroy=1)}),
    ]


def test_what_ends_while_a_dump_goes_on_is_not_found_by_it():
    recording = Recording(baseline=FIRST)
    recording.events(A.new(T), at_ns=T)
    ended = A.destroy(T + 1, MOVED)
    recording.dump(A.listed(LESS), B.listed(LESS), at_ns=T + 2, meanwhile=[ended])
    assert recording.end() == [(T, T + WIDTH, {80: Row(2, 1, 0, 1, moved=MOVED)})]
    assert len(recording.connections.live) == 1


def test_what_begins_while_a_dump_goes_on_is_not_missed_by_it():
    recording = Recording()
    for n in range(3):
        recording.dump(at_ns=T + n, meanwhile=[Connection(port=n + 1, ct_id=n).new(T + n)])
    assert len(recording.connections.live) == 2  # the first was missed by two dumps


def test_what_two_dumps_do_not_have_is_over():
    recording = Recording()
    recording.events(A.new(T), B.new(T), at_ns=T)
    ended = [recording.dump(B.listed(), at_ns=T + n) for n in range(3)]
    assert (ended, len(recording.connections.live)) == ([0, 1, 0], 1)


def test_a_destroy_that_was_still_queued_when_a_dump_missed_it_is_of_a_known_connection():
    recording = Recording()
    recording.events(A.new(T), at_ns=T)
    recording.dump(at_ns=T + 2)
    recording.events(A.destroy(T + 1, MOVED), at_ns=T + 3)
    assert total(recording.end()) == Row(1, 1, 0, 1, moved=MOVED)


def test_an_id_that_comes_again_is_another_connection():
    recording = Recording()
    for n in range(3):
        recording.events(A.new(T + n), A.destroy(T + n, MOVED), at_ns=T + n)
    assert total(recording.end()) == Row(3, 3, 0, 3, moved=(9, 900, 6, 600))


def test_an_id_that_comes_again_after_its_end_was_lost_is_another_connection():
    recording = Recording()
    recording.events(A.new(T), at_ns=T)
    recording.dump(A.listed(LESS), at_ns=T + 1)
    recording.dump(at_ns=T + 2)  # its destroy event was lost
    recording.events(A.new(T + 3), A.destroy(T + 4, MOVED), at_ns=T + 5)
    assert total(recording.end()) == Row(2, 2, 0, 1, moved=(8, 800, 4, 400))


@pytest.mark.parametrize(
    ("baseline", "start_ns", "row"),
    [
        pytest.param(LATER, None, Row(1, 0, 0, 1, moved=ONCE), id="its events were lost"),
        pytest.param(FIRST, SINCE, Row(1, 0, 0, 1, moved=ONCE), id="first: it began since"),
        pytest.param(FIRST, OLD, Row(0, 0, 0, 1, moved=(0,) * 4), id="first: it is older"),
        pytest.param(FIRST, None, Row(0, 0, 0, 1, moved=(0,) * 4), id="first: without a date"),
        pytest.param(AFTER_A_CRASH, OLD, Row(0, 0, 0, 1, moved=(0,) * 4), id="crash: counted then"),
        pytest.param(AFTER_A_CRASH, SINCE, Row(1, 0, 0, 1, moved=ONCE), id="crash: since"),
    ],
)
def test_the_end_of_a_connection_nobody_knows(baseline, start_ns, row):
    recording = Recording(baseline=baseline)
    recording.events(A.destroy(T + 2, ONCE, start_ns=start_ns), at_ns=T + 2)
    assert total(recording.end()) == row
    assert recording.connections.live == {}


@pytest.mark.parametrize(("baseline", "connections"), [(FIRST, 1), (AFTER_A_CRASH, 0)])
@pytest.mark.parametrize("listed", [True, False])
def test_an_event_of_an_older_connection_is_no_reason_to_count_its_past(
    baseline, connections, listed
):
    recording = Recording(baseline=baseline)
    recording.events(A.update(T + 1), at_ns=T + 1)
    if listed:
        recording.dump(A.listed(ONCE), at_ns=T + 2)
    recording.events(A.destroy(T + 3, TWICE), at_ns=T + 3)
    assert total(recording.end()) == Row(connections, 0, 1, 1, moved=LESS if listed else None)


# Laws.


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[str, list[bytes], int]]:
    """Batches of events and dumps in order of time: connections as a kernel would have them."""
    at_ns = T
    steps: list[tuple[str, list[bytes], int]] = []
    counters: dict[Connection, list[int]] = {}
    for _ in range(draw(st.integers(1, 25))):
        at_ns += draw(st.sampled_from((1, SECOND // 3, SECOND, WIDTH, 3 * WIDTH)))
        if draw(st.integers(0, 4)) == 0:
            listed = [one.listed(tuple(moved)) for one, moved in counters.items()]
            steps.append(("dump", listed, at_ns))
            continue
        events = []
        for _ in range(draw(st.integers(0, 4))):
            port = draw(st.integers(1, 3))
            one = Connection(
                proto=draw(st.sampled_from((6, UDP))), port=port, ct_id=port, dst_port=80
            )
            if one not in counters:
                counters[one] = [0] * 4
                events.append(one.new(at_ns))
            elif draw(st.booleans()):
                events.append(one.update(at_ns))
            else:
                events.append(one.destroy(at_ns, tuple(counters.pop(one))))
            for moved in counters.values():
                for place in range(4):
                    moved[place] += draw(st.integers(0, 3))
        # An event may be read long after it happened.
        steps.append(("events", events, at_ns + draw(st.sampled_from((0, 0, 20 * SECOND)))))
        at_ns = steps[-1][2]
    return steps


def played(steps: Iterable[tuple[str, list[bytes], int]], aggregation: Aggregation) -> Recording:
    recording = Recording(aggregation)
    for what, messages, at_ns in steps:
        if what == "dump":
            recording.dump(*messages, at_ns=at_ns)
        else:
            recording.events(*messages, at_ns=at_ns)
    return recording


def by_window(recording: Recording) -> dict[int, Row]:
    """The sums of each window, without its rows of nothing."""
    sums: dict[int, Row] = {}
    for started_ns, _, found in recording.end():
        for row in found.values():
            sums[started_ns] = plus(sums.get(started_ns, Row()), row)
    return sums


@given(histories())
def test_however_it_is_aggregated_each_window_has_the_same_sums(steps):
    ports = by_window(played(steps, "ports"))
    assert by_window(played(steps, "connections")) == ports
    assert by_window(played(steps, "none")) == ports


@given(histories())
def test_each_event_and_each_connection_is_counted_once(steps):
    kinds: Counter[object] = Counter()
    for what, messages, at_ns in steps:
        if what == "events":
            kinds.update(event[0] for event in Decoder().read(batch(*messages, at_ns=at_ns)))
    row = total(played(steps, "ports").end())
    assert row[:4] == (kinds[NEW], kinds[NEW], kinds[UPDATE], kinds[DESTROY])


@given(histories())
def test_windows_do_not_overlap_and_are_in_order(steps):
    starts = [started_ns for started_ns, _, _ in played(steps, "ports").end()]
    assert starts == sorted(starts)
    assert all(started_ns % WIDTH == 0 for started_ns in starts)
