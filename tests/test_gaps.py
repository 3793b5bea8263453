"""The gap ledger: what is kept until the file has it."""

from ctk.model import EventCounts, Gap
from ctk.record.gaps import GapLedger
from ctk.timespan import SECOND


def test_each_gap_is_handed_on_until_it_is_written_and_counted_once():
    ledger = GapLedger(0)
    lost = Gap("events lost", 1, 2, 7)
    ledger.add([lost])
    assert [ledger.to_write(3), ledger.to_write(4)] == [[lost], [lost]]
    ledger.written()
    assert (ledger.to_write(5), ledger.count, ledger.event_counts(9)) == ([], 1, EventCounts(9, 7))


def test_what_is_malformed_and_whose_counters_went_back_is_told_once():
    ledger = GapLedger(0)
    for _ in range(2):
        ledger.count_malformed(3, 10, 20)
        ledger.count_resets(2, 10, 20)
    detail = "2 connections: another tool zeroed their counters"
    assert ledger.to_write(20) == [
        Gap("malformed", 10, 20, 3),
        Gap("counters reset", 10, 20, None, detail),
    ]


def test_a_step_of_the_clock_of_a_second_or_more_is_a_gap():
    ledger = GapLedger(clock_offset_ns=0)
    ledger.watch_clock(SECOND // 2, 100 * SECOND)
    ledger.watch_clock(-SECOND, 100 * SECOND)
    assert ledger.to_write(0) == [
        Gap("clock step", 100 * SECOND, 101 * SECOND + SECOND // 2, None, "the clock went -1.500 s")
    ]


def test_a_full_disk_is_one_gap_that_grows_and_has_what_was_given_up():
    ledger = GapLedger(0)
    ledger.failed("disk full", "no room", 10, 20, 3)
    ledger.failed("disk full", "no room", 10, 30, 4)
    assert ledger.to_write(40) == [Gap("disk full", 10, 40, 7)]
    ledger.written()
    assert (ledger.to_write(50), ledger.count) == ([], 1)


def test_a_lock_that_was_waited_for_is_no_gap_unless_something_was_given_up():
    ledger = GapLedger(0)
    ledger.failed("file locked", "locked", 10, 20, 0)
    assert ledger.to_write(30) == []
    ledger.failed("file locked", "locked", 10, 40, 5)
    assert ledger.to_write(50) == [Gap("file locked", 10, 50, 5)]
