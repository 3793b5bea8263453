"""Ages, times and how they are written."""

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
        f"{text!r} is not an age",
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
        ("2024-11-25 18:47:22.852716307", NOW),
        ("2024-11-25T18:47:22.5Z", NOW - 352_716_307),
        ("2024-11-25T18:47Z", NOW - 22_852_716_307),
        ("2024-11-25", 1_732_492_800 * SECOND),
        ("1969-12-31T23:59:59.5Z", -SECOND // 2),
    ],
)
def test_a_time_is_an_age_or_rfc_3339(text: str, time_ns: int) -> None:
    assert parse_time(text, NOW) == time_ns


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("soon", "'soon' is neither an age nor a time"),
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
