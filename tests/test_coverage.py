"""What of a span was recorded."""

import pytest
from recorded import T, file, flow_row, lost

from ctk.ask.caveats import NothingFits
from ctk.ask.coverage import Coverage, coverage_of
from ctk.ask.nothing import why_nothing
from ctk.model import Filters
from ctk.timespan import SECOND


@pytest.fixture
def covered() -> Coverage:
    """Recorded from 0 to 100 s with events lost at 50 s, and from 200 to 300 s."""
    conn = file((0, 100), (200, 300), gaps=[lost(50), lost(250, "metadata stale")])
    found = coverage_of(conn)
    conn.close()
    return found


def _at(*seconds: int) -> tuple[int, ...]:
    return tuple(T + at * SECOND for at in seconds)


def test_the_extent_is_from_the_first_recording_to_the_end_of_the_last(covered: Coverage) -> None:
    assert covered.recorded == [_at(0, 100), _at(200, 300)]
    assert covered.extent == _at(0, 300)
    assert Coverage((), ()).extent is None


@pytest.mark.parametrize(
    ("span", "recorded_s", "is_whole"),
    [
        ((0, 50), 50, True),
        ((0, 51), 51, False),  # the gap touches it
        ((51, 100), 49, True),
        ((90, 210), 20, False),
        ((100, 200), 0, False),
        ((200, 300), 100, True),  # names may be old, but nothing is hidden
        ((-20, 10), 10, False),
        ((290, 400), 10, False),
        ((60, 60), 0, False),
    ],
)
def test_a_span_is_whole_where_all_of_it_was_recorded_and_nothing_was_lost(
    covered: Coverage, span: tuple[int, int], recorded_s: int, is_whole: bool
) -> None:
    assert covered.recorded_ns(*_at(*span)) == recorded_s * SECOND
    assert covered.is_whole(*_at(*span)) is is_whole


def test_names_may_be_old_where_a_watch_was_down(covered: Coverage) -> None:
    assert covered.misnames(*_at(240, 260))
    assert not covered.misnames(*_at(0, 240))


def test_recordings_that_overlap_are_one_span() -> None:
    conn = file((0, 100), (200, 300))
    conn.execute("UPDATE recording SET started_ns = ? WHERE id = 2", _at(90))
    assert coverage_of(conn).recorded == [_at(0, 300)]
    conn.close()


def test_where_nothing_was_recorded_no_flow_can_fit() -> None:
    conn = file((0, 60), (600, 660), rows=[flow_row(5), flow_row(605)])
    between = Filters(since_ns=T + 100 * SECOND, until_ns=T + 200 * SECOND)
    assert list(why_nothing(conn, between)) == [NothingFits(("nothing was recorded then",))]
    within = Filters(since_ns=T + 30 * SECOND, until_ns=T + 40 * SECOND)
    assert list(why_nothing(conn, within)) == [NothingFits()]
