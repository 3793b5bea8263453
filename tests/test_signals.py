"""How a recording is told to stop."""

import math
import signal
import time
from collections.abc import Iterator

import pytest

from ctk.record.signals import Stop
from ctk.timespan import SECOND


@pytest.fixture(autouse=True)
def signals_as_before() -> Iterator[None]:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_asks_to_stop_within_20_seconds(number: signal.Signals) -> None:
    stop = Stop(None)
    with stop.on_signals():
        assert (stop(), stop.left_s()) == (False, math.inf)
        signal.raise_signal(number)
        assert stop()
        assert 19 < stop.left_s() <= 20
    # `timeout` sends it again, when the recording may have ended already.
    signal.raise_signal(number)


def test_signals_are_given_back_where_none_came() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Stop(None).on_signals():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


def test_what_is_left_is_counted_from_the_first_ask() -> None:
    stop = Stop(SECOND // 20)
    assert not stop()
    time.sleep(0.1)
    stop.ask()
    assert stop()
    assert 19 < stop.left_s() < 19.96


def test_where_there_is_a_log_a_hangup_is_counted_and_does_not_stop() -> None:
    stop = Stop(None, hangup_reopens=True)
    with stop.on_signals():
        signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGHUP)
    assert (stop(), stop.hangups) == (False, 2)


def test_a_hangup_that_is_ignored_stays_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    stop = Stop(None)
    with stop.on_signals():
        signal.raise_signal(signal.SIGHUP)
    assert not stop()
