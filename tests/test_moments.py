"""What ages and clocks count from."""

from pathlib import Path

import pytest
from emptyfile import new
from sample import AT

import ctk
from ctk.ask.caveats import CountedFromEnd
from ctk.ask.keywords import filters_of
from ctk.ask.moments import Reference, reference_of
from ctk.errors import UsageError
from ctk.timespan import HOUR, MINUTE, SECOND, parse_time

NOW = AT


@pytest.mark.parametrize(
    ("recordings", "reference"),
    [
        ([], (NOW, False)),
        ([(NOW - 5 * SECOND, None)], (NOW, False)),  # it is written
        ([(NOW - HOUR, NOW - MINUTE)], (NOW, False)),  # it was a minute ago
        ([(NOW - HOUR, NOW - HOUR)], (NOW - HOUR, True)),
        ([(NOW - HOUR, None)], (NOW - HOUR, True)),  # a crash
        ([(NOW - 5 * MINUTE, None)], (NOW, False)),  # its window is two minutes
        ([(NOW - 2 * HOUR, NOW - HOUR), (NOW - 3 * HOUR, None)], (NOW - HOUR, True)),
        ([(NOW - HOUR, NOW - HOUR), (NOW - 5 * SECOND, None)], (NOW, False)),
        ([(NOW + HOUR, NOW + HOUR)], (NOW + HOUR, True)),  # this clock is behind
    ],
)
def test_ages_count_from_now_while_the_file_is_written_else_from_its_end(
    recordings: list[tuple[int, int | None]], reference: tuple[int, bool]
) -> None:
    conn = new()
    conn.execute("INSERT INTO recorder(id, node) VALUES (1, 'n1')")
    for committed_ns, ended_ns in recordings:
        conn.execute(
            "INSERT INTO recording(recorder_id, started_ns, committed_ns, ended_ns, version,"
            " source, settings) VALUES (1, 0, ?, ?, '', 'kernel', ?)",
            (committed_ns, ended_ns, f'{{"window_ns": {2 * MINUTE}}}'),
        )
    assert reference_of(conn, NOW) == Reference(*reference)
    conn.close()


END = parse_time("2024-11-25T17:47:22Z", NOW)


@pytest.mark.parametrize(
    ("asked", "since", "until", "counted"),
    [
        ({"since": "15m"}, "2024-11-25T17:32:22Z", None, True),
        ({"since": "18:00Z", "until": "18:10Z"}, "2024-11-24T18:00Z", "2024-11-24T18:10Z", True),
        ({"since": "today 09:00Z"}, "2024-11-25T09:00Z", None, True),
        (
            {"since": "2024-11-25T18:00Z", "until": "18:10Z"},
            *("2024-11-25T18:00Z", "2024-11-25T18:10Z", False),
        ),
        ({"since": "2024-11-25T09:00Z"}, "2024-11-25T09:00Z", None, False),
        ({"until": "now"}, None, "now", False),
    ],
)
def test_what_is_relative_counts_from_the_files_end(
    asked: dict[str, object], since: str | None, until: str | None, counted: bool
) -> None:
    found = filters_of(asked, now_ns=NOW, reference=lambda: Reference(END, True))
    since_ns, until_ns = (
        None if text is None else parse_time(text, NOW) for text in (since, until)
    )
    assert (found.since_ns, found.until_ns) == (since_ns, until_ns)
    assert found.counted_from_ns == (END if counted else None)


def test_clocks_that_are_the_wrong_way_round_are_refused() -> None:
    asked = {"since": "09:00Z", "until": "08:00Z"}
    with pytest.raises(UsageError, match="--since is later than --until"):
        filters_of(asked, now_ns=NOW, reference=lambda: Reference(END, True), spelled="--{}".format)


def test_an_answer_says_that_ages_counted_from_the_end(shop: Path) -> None:
    with ctk.open(shop) as recording:
        end = recording.reference()
        assert end == Reference(AT + 70 * SECOND, True)
        said = CountedFromEnd(end.at_ns)
        assert said in recording.top(since="5m").caveats
        assert recording.gaps(since="5m").caveats == (said,)
        assert said in recording.flows(since="5m").caveats
