"""Ages and RFC 3339 times in, nanoseconds since the epoch out. `now` is always an argument."""

import re
from datetime import UTC, datetime, timedelta

from ctk.errors import UsageError

SECOND = 1_000_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR
WEEK = 7 * DAY
YEAR = 365 * DAY

# The last moment that SQLite's integers hold, in the year 2262: an end that has not come. Below
# -FOREVER_NS there is no time.
FOREVER_NS = 2**63 - 1

_UNITS = {"s": SECOND, "m": MINUTE, "h": HOUR, "d": DAY, "w": WEEK, "y": YEAR}
_AGE = re.compile(r"(?:[0-9]+[smhdwy])+")
_TIME = re.compile(
    r"(?P<date>[0-9]{4}-[0-9]{2}-[0-9]{2})"
    r"(?:[Tt ](?P<clock>[0-9]{2}:[0-9]{2}(?::[0-9]{2})?)(?:\.(?P<fraction>[0-9]{1,9}))?"
    r"(?P<offset>[Zz]|[+-][0-9]{2}:[0-9]{2})?)?"
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def parse_age(text: str) -> int:
    """Turn "90s", "15m", "2h", "7d" or "1h30m" into nanoseconds."""
    age_ns = 0
    if _AGE.fullmatch(text):
        age_ns = sum(int(n) * _UNITS[unit] for n, unit in re.findall(r"([0-9]+)(.)", text))
    elif text != "0":
        raise UsageError(f"{text!r} is not an age", hint="write it as 90s, 15m, 2h or 7d")
    if age_ns > FOREVER_NS:
        raise UsageError(f"{text!r} is longer than time goes back", hint="write it as 7d or 2y")
    return age_ns


def parse_time(text: str, now_ns: int) -> int:
    """
    Turn an age before `now_ns`, or an RFC 3339 time, into nanoseconds since the epoch.

    A date alone is its first moment; a time without an offset is UTC.
    """
    if text == "now":
        return now_ns
    if _AGE.fullmatch(text):
        return now_ns - parse_age(text)
    match = _TIME.fullmatch(text)
    if match is None:
        raise UsageError(
            f"{text!r} is neither an age nor a time",
            hint="write it as 90s, 15m, 2h or 7d, or as 2024-11-25T18:47:22Z",
        )
    offset = (match["offset"] or "Z").upper().replace("Z", "+00:00")
    try:
        moment = datetime.fromisoformat(f"{match['date']}T{match['clock'] or '00:00'}{offset}")
        since_epoch = moment - _EPOCH
    except (ValueError, OverflowError) as error:
        raise UsageError(
            f"{text!r} is not a time: {error}", hint="write it as 2024-11-25T18:47:22Z"
        ) from error
    fraction_ns = int((match["fraction"] or "").ljust(9, "0"))
    time_ns = since_epoch // timedelta(seconds=1) * SECOND + fraction_ns
    if not -FOREVER_NS <= time_ns <= FOREVER_NS:
        raise UsageError(
            f"{text!r} is outside the years 1677 to 2262", hint="that is what 64 bits of ns hold"
        )
    return time_ns


def format_time(time_ns: int) -> str:
    """Write nanoseconds since the epoch as RFC 3339, UTC, to the nanosecond."""
    seconds, fraction_ns = divmod(time_ns, SECOND)
    return f"{_EPOCH + timedelta(seconds=seconds):%Y-%m-%dT%H:%M:%S}.{fraction_ns:09d}Z"


def format_age(age_ns: int) -> str:
    """Write a length of time for people, in its two largest units: "2d 3h", "15m", "0.5s"."""
    if age_ns < MINUTE:
        return f"{age_ns / SECOND:.3g}s"
    units = (("d", DAY), ("h", HOUR), ("m", MINUTE), ("s", SECOND))
    first = next(at for at, (_, unit_ns) in enumerate(units) if age_ns >= unit_ns)
    parts = []
    for name, unit_ns in units[first : first + 2]:
        count, age_ns = divmod(age_ns, unit_ns)
        if count:
            parts.append(f"{count}{name}")
    return " ".join(parts)
