"""When dumps are due, by what they cost."""

import math
from itertools import pairwise

import pytest

from ctk.conntrack.schedule import LONGEST_S, DumpSchedule

SECOND = 1_000_000_000
T = 1_699_992_000.0  # a multiple of every window used here


def dumps(
    *,
    window_s: float = 10,
    cpu_s: float,
    lasts_s: float = 0.01,
    first_s: float = 3,
    every_s: float | None = None,
    counting: bool = True,
    until_s: float = 100,
) -> list[float]:
    """Begin each dump when it is due, from `first_s` into a window on; return when they began."""
    now_s = T + first_s
    schedule = DumpSchedule(window_ns=int(window_s * SECOND), every_s=every_s, now_s=now_s)
    began = []
    while now_s < T + until_s:
        began.append(round(now_s - T, 3))
        schedule.begun()
        schedule.ended(
            began_s=now_s,
            now_s=now_s + lasts_s,
            now_ns=int((now_s + lasts_s) * SECOND),
            cpu_s=cpu_s,
            counting=counting,
        )
        assert schedule.due_s >= now_s + lasts_s
        now_s = schedule.due_s
    return began


def test_cheap_dumps_end_shortly_before_each_window_does():
    lead = 0.05 + 1.5 * 0.01
    expected = [3, *(round(n * 10 - lead, 3) for n in range(1, 11))]
    assert dumps(cpu_s=0.01) == expected


@pytest.mark.parametrize(
    ("cpu_s", "windows"),
    [(0.001, 1), (0.09, 1), (0.11, 2), (0.19, 2), (0.21, 3), (0.29, 3), (2.9, 3)],
)
def test_dumps_take_a_hundredth_of_a_core_but_come_every_30_s(cpu_s, windows):
    began = dumps(cpu_s=cpu_s, first_s=9.935)[1:]
    assert began == [round(19.935 + 10 * windows * n, 3) for n in range(len(began))]
    assert len(began) == math.ceil(80.065 / (10 * windows))


@pytest.mark.parametrize("window_s", [1, 7, 10, 20, 30, 45, 60, 3600])
@pytest.mark.parametrize("cpu_s", [0.0001, 0.15, 0.25, 5])
def test_no_two_dumps_are_further_apart_than_30_s_or_a_tenth_of_a_core_allows(window_s, cpu_s):
    began = dumps(cpu_s=cpu_s, window_s=window_s, until_s=500)
    apart = [later - earlier for earlier, later in pairwise(began)]
    assert max(apart) <= max(LONGEST_S, 10 * cpu_s) + 0.001
    assert min(apart[1:]) >= min(window_s / 2, 100 * cpu_s, LONGEST_S) - 0.1


@pytest.mark.parametrize("window_s", [1, 10, 60, 90])
def test_a_window_has_a_dump_at_its_end(window_s):
    began = dumps(cpu_s=0.001, window_s=window_s, first_s=0, until_s=400)
    ends = {n * window_s for n in range(1, int(400 // window_s))}
    assert ends <= {round(at + 0.065, 3) for at in began}


def test_a_slow_dump_begins_earlier():
    began = dumps(cpu_s=0.01, lasts_s=2)
    assert began[1:4] == [10 - 3.05, 20 - 3.05, 30 - 3.05]


def test_where_nothing_is_counted_they_come_every_30_s():
    assert dumps(cpu_s=0.001, counting=False) == [3, 33, 63, 93]


def test_a_fixed_interval_is_kept_whatever_a_dump_costs():
    assert dumps(cpu_s=9, every_s=5, until_s=20) == [3, 8.01, 13.02, 18.03]


def test_what_the_first_dump_costs_says_nothing_of_the_next():
    schedule = DumpSchedule(window_ns=10 * SECOND, every_s=None, now_s=T)
    for began_s, cpu_s in ((T, 5.0), (T + 9.95, 0.01)):
        schedule.begun()
        now_s = began_s + 0.01
        schedule.ended(
            began_s=began_s, now_s=now_s, now_ns=int(now_s * SECOND), cpu_s=cpu_s, counting=True
        )
        expected_s = T + 10 if began_s == T else T + 20
        assert schedule.due_s == pytest.approx(expected_s - 0.065)


def one_dump(cpu_s: float) -> DumpSchedule:
    schedule = DumpSchedule(window_ns=10 * SECOND, every_s=30, now_s=T)
    schedule.begun()
    schedule.ended(began_s=T, now_s=T + 1, now_ns=int(T + 1) * SECOND, cpu_s=cpu_s, counting=True)
    return schedule


def test_one_that_is_asked_for_comes_at_once():
    schedule = one_dump(cpu_s=0.5)
    schedule.soon(T + 20)
    assert schedule.due_s == T + 20


def test_those_that_are_asked_for_take_a_tenth_of_a_core():
    schedule = one_dump(cpu_s=0.5)
    schedule.soon(T + 1)
    assert schedule.due_s == T + 5


def test_one_that_is_asked_for_during_a_dump_comes_after_it():
    schedule = DumpSchedule(window_ns=10 * SECOND, every_s=30, now_s=T)
    schedule.begun()
    schedule.soon(T + 0.5)
    schedule.ended(began_s=T, now_s=T + 1, now_ns=int(T + 1) * SECOND, cpu_s=0.01, counting=True)
    assert schedule.due_s == T + 1
