"""
Ages, clocks, days and RFC 3339 times in, nanoseconds since the epoch out.

`now` is always an argument. Where a time has no offset it is of `zone`, and without one of the
local zone, as the variable TZ has it.
"""

import re
from datetime import UTC, date, datetime, timedelta, tzinfo
from functools import lru_cache

from ctk.errors import UsageError, nearest

SECOND = 1_000_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR
WEEK = 7 * DAY
YEAR = 365 * DAY

# The last moment that SQLite's integers hold, in the year 2262: an end that has not come. Below
# -FOREVER_NS there is no time.
FOREVER_NS = 2**63 - 1

Span = tuple[int, int]  # from when to before when

_UNITS = {"s": SECOND, "m": MINUTE, "h": HOUR, "d": DAY, "w": WEEK, "y": YEAR}
# Patterns are texts, which `re` compiles once, when they are asked: that is 1 ms each.
_AGE = r"(?:[0-9]{1,19}[smhdwy])+"
# A unit in words starts with the letter of the short one.
_UNIT = (
    r"(?:s(?:ec(?:ond)?s?)?|m(?:in(?:ute)?s?)?|h(?:(?:ou)?rs?)?|d(?:ays?)?|w(?:eeks?)?|y(?:ears?)?)"
)
_AGO = rf"(?:[0-9]{{1,19}}\s*{_UNIT}(?![a-z])(?:\s*,)?(?:\s+and)?\s*)+(?:ago)?"
_TIME = (
    r"(?P<day>[0-9]{4}-[0-9]{2}-[0-9]{2}|today|yesterday)?"
    r"(?:(?(day)[t ])(?P<clock>[0-9]{1,2}:[0-9]{2}(?::[0-9]{2})?)(?:\.(?P<fraction>[0-9]{1,9}))?"
    r"(?P<offset>z|[+-][0-9]{2}:?[0-9]{2})?)?"
)
_SINCE_EPOCH = r"@?(?P<count>[0-9]{9,19})(?:\.(?P<fraction>[0-9]{1,9}))?"
_WORDS = ("now", "today", "yesterday", "epoch")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TIME_HINT = "write it as 15m, '10 min ago', 09:00, yesterday or 2024-11-25T18:47:22Z"


def parse_age(text: str) -> int:
    """Turn "90s", "15m", "2h", "7d" or "1h30m" into nanoseconds."""
    if not re.fullmatch(_AGE, text) and text != "0":
        raise UsageError(f"{text!r} is not a duration", hint="write it as 90s, 15m, 2h or 7d")
    return _age(text)


def _age(text: str) -> int:
    age_ns = sum(int(n) * _UNITS[unit] for n, unit in re.findall(r"([0-9]+)\s*(.)", text))
    if age_ns > FOREVER_NS:
        raise UsageError(f"{text!r} is longer than time goes back", hint="write it as 7d or 2y")
    return age_ns


def is_relative(text: str, after_ns: int | None = None) -> bool:
    """Say whether `parse_time` counts from its now: an age, a clock alone, today or yesterday."""
    text = text.strip().lower()
    if not text or re.fullmatch(_AGO, text):
        return bool(text)
    match = re.fullmatch(_TIME, text)
    if match is None or match["day"] is None:
        return match is not None and after_ns is None
    return match["day"] in ("today", "yesterday")


def parse_time(
    text: str, now_ns: int, *, zone: tzinfo | None = None, after_ns: int | None = None
) -> int:
    """
    Turn a time into nanoseconds since the epoch.

    That is an age before `now_ns` ("15m", "10 min ago"), RFC 3339, a day (its first moment), a
    clock, or a number since the epoch: seconds, or milli-, micro- or nanoseconds by how many
    digits it has. A clock alone is the last such before `now_ns`, or, as the end of a span, the
    first after `after_ns`; where that would be of a day to come, the one before it: such ends are
    the wrong way round.
    """
    asked = text.strip().lower()
    if asked in ("now", "epoch"):
        return now_ns if asked == "now" else 0
    if asked and re.fullmatch(_AGO, asked):
        return now_ns - _age(asked)
    if match := re.fullmatch(_SINCE_EPOCH, asked):
        time_ns = _since_epoch(match["count"], match["fraction"])
    elif asked and (match := re.fullmatch(_TIME, asked)):
        try:
            time_ns = _moment(match, now_ns, zone, after_ns)
        except (ValueError, OverflowError, OSError) as error:
            raise UsageError(
                f"{text!r} is not a time: {error}", hint="write it as 2024-11-25T18:47:22Z"
            ) from error
    else:
        raise UsageError(f"{text!r} is neither an age nor a time", hint=_meant(asked))
    if not -FOREVER_NS <= time_ns <= FOREVER_NS:
        raise UsageError(
            f"{text!r} is outside the years 1677 to 2262", hint="that is what 64 bits of ns hold"
        )
    return time_ns


def _since_epoch(count: str, fraction: str | None) -> int:
    # Of our time there are 10 digits in seconds, 13 in milliseconds, and so on.
    unit_ns = (SECOND, 1_000_000, 1_000, 1)[min(len(count) // 3 - 3, 3)]
    return int(count) * unit_ns + int(f"0{fraction or ''}".ljust(10, "0")) * unit_ns // SECOND


def _moment(match: re.Match[str], now_ns: int, zone: tzinfo | None, after_ns: int | None) -> int:
    fraction_ns = int((match["fraction"] or "").ljust(9, "0"))
    hour, _, minutes = (match["clock"] or "0:00").partition(":")
    clock = f"{hour:0>2}:{minutes}"
    if match["offset"]:
        zone = datetime.fromisoformat(f"2000-01-01T00:00{match['offset'].upper()}").tzinfo

    def at(day: date, later: int = 0) -> int:
        # The day after may be 23 or 25 hours later: where clocks change.
        moment = datetime.fromisoformat(f"{day + timedelta(days=later)}T{clock}")
        aware = moment.replace(tzinfo=zone) if zone else moment.astimezone()
        seconds: int = (aware - _EPOCH) // timedelta(seconds=1)
        return seconds * SECOND + fraction_ns

    named = match["day"]
    if named and named[0].isdecimal():
        return at(date.fromisoformat(named))
    today = _day(now_ns, zone)
    if named:
        return at(today, -1 if named == "yesterday" else 0)
    if after_ns is None:
        return at(today) if at(today) <= now_ns else at(today, -1)
    first = _day(after_ns, zone)
    return at(first) if at(first) > after_ns or first >= today else at(first, 1)


def _day(at_ns: int, zone: tzinfo | None) -> date:
    return datetime.fromtimestamp(at_ns // SECOND, zone).date()


def _meant(asked: str) -> str:
    if asked.isdecimal():
        return f"{asked}s, {asked}m, {asked}h or {asked}d"
    near = nearest(asked, _WORDS)
    return near if near and near[0] == asked[0] else _TIME_HINT  # monday is not today


def format_time(time_ns: int) -> str:
    """Write nanoseconds since the epoch as RFC 3339, UTC, to the nanosecond."""
    minute, in_minute_ns = divmod(time_ns, MINUTE)
    second, fraction_ns = divmod(in_minute_ns, SECOND)
    return f"{minute_text(minute)}{second:02d}.{fraction_ns:09d}Z"


@lru_cache(maxsize=1024)
def minute_text(minute: int) -> str:
    """Spell a minute since the epoch up to its seconds. Rows come in order, so most share it."""
    day, in_day = divmod(minute, 24 * 60)
    return f"{_day_text(day)}T{in_day // 60:02d}:{in_day % 60:02d}:"


@lru_cache(maxsize=64)
def _day_text(day: int) -> str:  # strftime takes 40 us, and a sparse file has a minute a row
    return (_EPOCH + timedelta(days=day)).date().isoformat()


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
