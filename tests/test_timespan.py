"""Ages, times and how they are written."""

from contextlib import suppress
from time import tzset
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctk.errors import UsageError
from ctk.timespan import (
    DAY,
    HOUR,
    MINUTE,
    SECOND,
    WEEK,
    YEAR,
    format_age,
    format_time,
    is_relative,
    parse_age,
    parse_time,
)

NOW = 1_732_560_442_852_716_307


@pytest.mark.parametrize(
    ("text", "age_ns"),
    [
        ("0", 0),
        ("90s", 90 * SECOND),
        ("15m", 15 * MINUTE),
        ("2h", 2 * HOUR),
        ("7d", 7 * DAY),
        ("3w", 3 * WEEK),
        ("2y", 2 * YEAR),
        ("1h30m", 90 * MINUTE),
    ],
)
def test_an_age_is_numbers_with_units(text: str, age_ns: int) -> None:
    assert parse_age(text) == age_ns


@pytest.mark.parametrize("text", ["", "15", "m", "-5m", "1.5h", "5 m", "5M", "soon", "1h-", "٣m"])
def test_what_is_no_age_says_how_to_write_one(text: str) -> None:
    with pytest.raises(UsageError) as error:
        parse_age(text)
    assert (error.value.message, error.value.hint) == (
        f"{text!r} is not a duration",
        "write it as 90s, 15m, 2h or 7d",
    )


def test_an_age_longer_than_time_goes_back_is_refused() -> None:
    with pytest.raises(UsageError, match="longer than time goes back"):
        parse_age("300y")


@pytest.mark.parametrize(
    ("text", "time_ns"),
    [
        ("now", NOW),
        ("15m", NOW - 15 * MINUTE),
        ("2024-11-25T18:47:22.852716307Z", NOW),
        ("2024-11-25T19:47:22.852716307+01:00", NOW),
        ("2024-11-25t13:17:22.852716307-05:30", NOW),
        ("2024-11-25T18:47:22.5Z", NOW - 352_716_307),
        ("2024-11-25T18:47Z", NOW - 22_852_716_307),
        ("1969-12-31T23:59:59.5Z", -SECOND // 2),
        ("10 min ago", NOW - 10 * MINUTE),
        ("1 hour, 30 minutes ago", NOW - 90 * MINUTE),
        ("2h ago", NOW - 2 * HOUR),
        ("3 days", NOW - 3 * DAY),
        ("epoch", 0),
        ("1732560442", NOW - 852_716_307),
        ("@1732560442.5", NOW - 352_716_307),
        ("1732560442852", NOW - 716_307),
        ("1732560442852716", NOW - 307),
        ("1732560442852716307", NOW),
        ("18:00Z", NOW - 47 * MINUTE - 22_852_716_307),
    ],
)
def test_a_time_with_an_offset_is_the_same_everywhere(text: str, time_ns: int) -> None:
    assert parse_time(text, NOW) == time_ns


# NOW is 19:47 there.
BERLIN = ZoneInfo("Europe/Berlin")


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2024-11-25", "2024-11-24T23:00:00Z"),
        ("2024-07-25", "2024-07-24T22:00:00Z"),
        ("2024-11-25 19:47:22.852716307", "2024-11-25T18:47:22.852716307Z"),
        ("today", "2024-11-24T23:00:00Z"),
        ("Yesterday", "2024-11-23T23:00:00Z"),
        ("yesterday 9:05", "2024-11-24T08:05:00Z"),
        ("09:00", "2024-11-25T08:00:00Z"),
        ("19:47:22.5", "2024-11-25T18:47:22.5Z"),
        ("20:00", "2024-11-24T19:00:00Z"),  # not yet today
        ("2024-03-31T02:30", "2024-03-31T01:30:00Z"),  # which no clock there showed
    ],
)
def test_a_time_without_an_offset_is_of_the_zone(text: str, time: str) -> None:
    assert parse_time(text, NOW, zone=BERLIN) == parse_time(time, NOW)


@pytest.mark.parametrize(
    ("since", "until", "time"),
    [
        ("22:00", "02:00", "2024-11-25T01:00:00Z"),
        ("09:00", "17:00", "2024-11-25T16:00:00Z"),
        ("20:00", "20:00", "2024-11-25T19:00:00Z"),
        ("09:00", "09:00", "2024-11-25T08:00:00Z"),
        ("09:00", "23:00", "2024-11-25T22:00:00Z"),  # still to come
        ("09:00", "08:00", "2024-11-25T07:00:00Z"),  # not tomorrow's: the wrong way round
    ],
)
def test_a_clock_that_ends_a_span_is_the_first_after_its_start(
    since: str, until: str, time: str
) -> None:
    after_ns = parse_time(since, NOW, zone=BERLIN)
    assert parse_time(until, NOW, zone=BERLIN, after_ns=after_ns) == parse_time(time, NOW)


def test_the_local_zone_is_that_of_the_variable_tz(monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        for name, time in (("Europe/Berlin", "08:00Z"), ("Asia/Kolkata", "03:30Z")):
            monkeypatch.setenv("TZ", name)
            tzset()
            assert parse_time("09:00", NOW) == parse_time(time, NOW)
    finally:
        monkeypatch.undo()
        tzset()


@pytest.mark.parametrize(
    ("text", "relative"),
    [
        *(("15m", True), ("10 min ago", True), ("09:00", True), ("today", True)),
        *(("yesterday 09:00", True), ("now", False), ("epoch", False), ("2024-11-25", False)),
        *(("1732560442", False), ("soon", False), ("", False)),
    ],
)
def test_a_time_that_counts_from_now_is_told(text: str, relative: bool) -> None:
    assert is_relative(text) is relative


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("soon", "'soon' is neither an age nor a time"),
        ("", "'' is neither an age nor a time"),
        ("25:00", "'25:00' is not a time: hour must be in 0..23"),
        ("1 month ago", "is neither an age nor a time"),
        ("9" * 5000, "is neither an age nor a time"),
        ("9223372036854775808", "is outside the years 1677 to 2262"),
        ("0001-01-01", "is not a time"),
        ("2024-11-25T18", "'2024-11-25T18' is neither an age nor a time"),
        ("2024-11-25T18:47:22.1234567890Z", "is neither an age nor a time"),
        ("2024-13-01", "'2024-13-01' is not a time: month must be in 1..12"),
        ("2024-02-30T00:00:00Z", "is not a time: day is out of range for month"),
        ("2024-02-03T00:00:00+25:00", "is not a time"),
        ("9999-01-01", "'9999-01-01' is outside the years 1677 to 2262"),
    ],
)
def test_what_is_no_time_is_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError) as error:
        parse_time(text, NOW)
    assert message in error.value.message


@given(st.integers(-(2**62), 2**63 - 1))
def test_a_time_that_was_written_is_read_back(time_ns: int) -> None:
    assert parse_time(format_time(time_ns), NOW) == time_ns


@pytest.mark.parametrize(
    ("age_ns", "text"),
    [
        (0, "0s"),
        (SECOND // 2, "0.5s"),
        (59 * SECOND, "59s"),
        (15 * MINUTE, "15m"),
        (90 * MINUTE, "1h 30m"),
        (30 * DAY, "30d"),
        (2 * DAY + 3 * HOUR + 5 * MINUTE, "2d 3h"),
    ],
)
def test_an_age_is_written_in_its_two_largest_units(age_ns: int, text: str) -> None:
    assert format_age(age_ns) == text


@given(st.text(max_size=30))
def test_any_text_is_a_time_or_an_error_of_the_user(text: str) -> None:
    with suppress(UsageError):
        parse_time(text, NOW)
