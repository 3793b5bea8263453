"""
The span that is asked about: what `since`, `until` and `for` are, as nanoseconds.

Ages and clocks count from now while the file is being written, else from its end: a file that was
copied off a node last week has nothing of the last 15 minutes.
"""

import sqlite3
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta, tzinfo
from typing import NamedTuple

from ctk.errors import UsageError
from ctk.timespan import FOREVER_NS, MINUTE, format_time, is_relative, parse_age, parse_time

Moment = str | int | datetime

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# A recorder commits each window, and every 30 s where it has nothing to say.
_WRITTEN_LATELY_NS = 2 * MINUTE


AskedSpan = str | tuple[Moment | None, Moment | None]


def ends_of(span: AskedSpan | None) -> tuple[Moment | None, Moment | None]:
    """Part "2h..1h" into its ends, either of which may be left out; a pair is one already."""
    if span is None:
        return None, None
    if not isinstance(span, str):
        return span
    since, dots, until = span.partition("..")
    if not dots:
        raise UsageError(f"{span!r} is not a span", hint="2h..1h, 09:00..10:00, or 1h.. until now")
    return since.strip() or None, until.strip() or None


class Reference(NamedTuple):
    """What ages and clocks count from: the end of a file that nobody writes, or now."""

    at_ns: int
    is_end: bool


class SpanBounds(NamedTuple):
    since_ns: int | None
    until_ns: int | None
    counted_from_ns: int | None  # the file's end, where that is what a time counted from


def reference_of(conn: sqlite3.Connection, now_ns: int) -> Reference:
    """Give what ages count from: now, unless the file's end is not of these minutes."""
    end_ns, window_ns = now_ns, 0
    for last_ns, asked_ns in conn.execute(
        "SELECT MAX(committed_ns, COALESCE(ended_ns, committed_ns)) AS last_ns,"
        " CASE WHEN ended_ns IS NULL THEN json_extract(settings, '$.window_ns') END"
        " FROM recording ORDER BY last_ns DESC LIMIT 1"
    ):
        end_ns, window_ns = last_ns, asked_ns or 0
    return reference_at(end_ns, window_ns, now_ns)


def reference_at(end_ns: int, window_ns: int, now_ns: int) -> Reference:
    """Give what ages count from where the newest recording ends then; 0 ns if it was stopped."""
    # A clock that is behind the recorder's is no reason to miss its last minutes.
    if abs(now_ns - end_ns) <= _WRITTEN_LATELY_NS + 2 * window_ns:
        return Reference(now_ns, False)
    return Reference(end_ns, True)


def span_of(
    asked: Mapping[str, object],
    *,
    now_ns: int,
    reference: Callable[[], Reference],
    zone: tzinfo | None,
    spelled: Callable[[str], str],
) -> SpanBounds:
    """Read `since`, `until` and `for_`; a time without an offset is of `zone`, or the local one."""
    found: list[Reference] = []

    def moment(name: str, after_ns: int | None = None) -> int | None:
        value = asked.get(name)
        if not isinstance(value, str):
            return _of_value(value, now_ns)
        if is_relative(value, after_ns) and not found:
            found.append(reference())
        return parse_time(value, found[0].at_ns if found else now_ns, zone=zone, after_ns=after_ns)

    since_ns = moment("since")
    until_ns = moment("until", after_ns=since_ns)
    since, until = spelled("since"), spelled("until")
    lasted_ns = _length(asked.get("for_"))
    if lasted_ns is not None:
        if (since_ns is None) == (until_ns is None):
            flag = spelled("for_")
            raise UsageError(
                f"{flag} needs {since} or {until}, and not both", hint=f"{since} 09:00 {flag} 10m"
            )
        if since_ns is not None:
            until_ns = min(since_ns + lasted_ns, FOREVER_NS)
        elif until_ns is not None:
            since_ns = max(until_ns - lasted_ns, -FOREVER_NS)
    if since_ns is not None and until_ns is not None and since_ns > until_ns:
        raise UsageError(f"{since} is later than {until}", hint=f"{since} 2h {until} 1h")
    ends = [each.at_ns for each in found if each.is_end]
    return SpanBounds(since_ns, until_ns, ends[0] if ends else None)


def _length(value: object) -> int | None:
    if value is None:
        return None
    length_ns = parse_age(value) if isinstance(value, str) else value
    if not isinstance(length_ns, int) or isinstance(length_ns, bool) or length_ns < 0:
        raise UsageError(f"{value!r} is not a length of time", hint="write it as 90s, 15m or 2h")
    return length_ns


def _of_value(value: object, now_ns: int) -> int | None:
    if value is None:
        return None
    if isinstance(value, int) and not isinstance(value, bool):
        if not -FOREVER_NS <= value <= FOREVER_NS:
            raise UsageError(
                f"{value} is outside the years 1677 to 2262", hint="give ns since the epoch"
            )
        return value
    if isinstance(value, datetime):
        moment = value if value.tzinfo else value.replace(tzinfo=UTC)
        return (moment - _EPOCH) // timedelta(microseconds=1) * 1_000
    raise UsageError(
        f"{value!r} is no time", hint=f"an age, {format_time(now_ns)!r}, a datetime or ns"
    )
