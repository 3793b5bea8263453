"""What changed between two spans: laws over random flows, and what a gap makes unknown."""

from typing import Any

import pytest
from emptyfile import new
from hypothesis import given
from hypothesis import strategies as st
from questions import EDGES, KEYS, ROWS, START, write
from recorded import T, file, flow_row, lost

from ctk.ask.caveats import Folded
from ctk.ask.diff import BY, Diff, diff, two_spans
from ctk.ask.keywords import filters_of
from ctk.ask.top import top
from ctk.errors import UsageError
from ctk.model import Filters, FlowRow, GapKind
from ctk.store import rollup
from ctk.store.levels import LEVELS
from ctk.timespan import DAY, HOUR, MINUTE, SECOND


def _span(since_s: int | None, until_s: int | None) -> Filters:
    return Filters(
        since_ns=None if since_s is None else T + since_s * SECOND,
        until_ns=None if until_s is None else T + until_s * SECOND,
    )


def _states(answer: Diff) -> dict[tuple[Any, ...], str]:
    return {change.keys: change.state for change in answer.rows}


WEB1_DB, WEB2_DB, OTHER = ("web-1", "shop/db"), ("web-2", "shop/db"), ("web-1", "blog/web")
NAMES = ("src_name", "service")


def test_each_group_is_new_or_vanished_or_changed_or_the_same() -> None:
    rows = [
        flow_row(10, 0),
        flow_row(20, 2),
        flow_row(70, 0),
        flow_row(80, 1),
        flow_row(30, 6),
        flow_row(90, 6, 1_500, 4),
    ]
    conn = file((0, 120), rows=rows)
    answer = diff((conn, _span(0, 60)), (conn, _span(60, 120)), ("src_name", "dst_name"))
    assert _states(answer) == {
        ("web-2", "db-0"): "new",
        ("web-1", "db"): "vanished",
        ("db-0", "web-1"): "changed",
        ("web-1", "db-0"): "same",
    }
    assert answer.states == {"new": 1, "vanished": 1, "unknown": 0, "changed": 1, "same": 1}
    assert not answer.by_rate
    conn.close()


@pytest.mark.parametrize(
    ("kind", "state"),
    [
        ("events lost", "unknown"),
        ("recorder down", "unknown"),
        ("metadata stale", "unknown"),  # it may stand there under an old name
        ("counters reset", None),  # bytes are short, but who talked is known
    ],
)
def test_a_gap_makes_unknown_who_is_absent_on_its_side_only(
    kind: GapKind, state: str | None
) -> None:
    rows = [flow_row(10, 0), flow_row(80, 1)]
    for at_s, absent in ((30, ("web-2",)), (90, ("web-1",))):
        conn = file((0, 120), gaps=[lost(at_s, kind)], rows=rows)
        found = _states(diff((conn, _span(0, 60)), (conn, _span(60, 120)), ("src_name",)))
        plain = {("web-2",): "new", ("web-1",): "vanished"}
        assert found == plain | ({absent: state} if state else {})
        conn.close()


def test_a_time_without_a_recorder_is_a_gap_too() -> None:
    conn = file((0, 60), (90, 120), rows=[flow_row(10, 0)])
    assert _states(diff((conn, _span(0, 60)), (conn, _span(60, 120)), ("src_name",))) == {
        ("web-1",): "unknown"
    }
    # What is before and after all recordings is cut off: nothing is known of it.
    answer = diff((conn, _span(-60, 60)), (conn, _span(90, 999)), ("src_name",))
    assert _states(answer) == {("web-1",): "vanished"}
    assert (answer.before.recorded_ns, answer.after.recorded_ns) == (60 * SECOND, 30 * SECOND)
    conn.close()


def test_spans_of_different_length_are_compared_by_rate() -> None:
    conn = file((0, 180), rows=[flow_row(10, 0, 600), flow_row(70, 0, 600), flow_row(130, 0, 600)])
    answer = diff((conn, _span(0, 60)), (conn, _span(60, 180)), ("src_name",))
    assert (_states(answer), answer.by_rate) == ({("web-1",): "same"}, True)
    answer = diff((conn, _span(0, 60)), (conn, _span(100, 140)), ("src_name",))
    [change] = answer.rows
    assert (change.state, change.per_s) == ("changed", 600 / 40 - 600 / 60)
    conn.close()


def test_what_changed_most_comes_first_by_the_count_that_is_asked_for() -> None:
    rows = [
        flow_row(10, 0, 100, 9),
        flow_row(10, 6, 9_000),
        flow_row(70, 0, 200, 1),
        flow_row(70, 6, 1_000),
    ]
    rows = [*rows, flow_row(80, 6, 0, 0, refused=7)]
    conn = file((0, 120), rows=rows)
    order = {
        sort: [
            change.keys[0]
            for change in diff(
                (conn, _span(0, 60)), (conn, _span(60, 120)), ("src_name",), sort, limit
            ).rows
        ]
        for sort, limit in (("bytes", None), ("connections", None), ("failed", 1))
    }
    assert order == {
        "bytes": ["db-0", "web-1"],
        "connections": ["web-1", "db-0"],
        "failed": ["db-0"],
    }
    conn.close()


def test_an_external_address_that_may_be_folded_is_unknown() -> None:
    conn = file((0, 120), rows=[flow_row(10, i) for i in (0, 7, 8, 9)] + [flow_row(70, 11)])
    small = tuple(level._replace(peers=2) for level in LEVELS)
    for _ in rollup.fold(conn, T + MINUTE, small):
        pass
    answer = diff((conn, _span(0, 60)), (conn, _span(60, 120)), ("dst",))
    states = _states(answer)
    assert any(isinstance(caveat, Folded) for caveat in answer.caveats)
    assert (states["203.0.113.4",], states["10.96.0.7",]) == ("unknown", "vanished")
    conn.close()


@given(ROWS, st.integers(1, 3 * DAY), KEYS)
def test_the_other_way_round_new_is_vanished_and_every_group_is_there_once(
    rows: list[FlowRow], cut_ns: int, keys: tuple[str, ...]
) -> None:
    conn = new()
    write(conn, rows)
    conn.execute("UPDATE recording SET committed_ns = ?", (START + 3 * DAY + HOUR,))
    spans = [Filters(until_ns=START + cut_ns), Filters(since_ns=START + cut_ns)]
    there, back = (
        diff((conn, one), (conn, other), keys) for one, other in (spans, reversed(spans))
    )
    swapped = {"new": "vanished", "vanished": "new"}
    assert _states(back) == {
        each: swapped.get(state, state) for each, state in _states(there).items()
    }
    assert {change.keys: change.per_s for change in back.rows} == {
        change.keys: None if change.per_s is None else -change.per_s for change in there.rows
    }
    for counts, span in (("before", spans[0]), ("after", spans[1])):
        ranked = {one.keys: one.counts for one in top(conn, span, keys, limit=None).rows}
        found = {change.keys: getattr(change, counts) for change in there.rows}
        assert {key: each for key, each in found.items() if each is not None} == ranked
    conn.close()


# Spans, as they are asked for.


def _of(since: Any, until: Any) -> Filters:
    return filters_of({"since": since, "until": until}, now_ns=T + 600 * SECOND)


@pytest.mark.parametrize(
    ("before", "after", "seconds"),
    [
        ("10m..5m", "5m..", ((0, 300), (300, None))),
        (None, "2m..1m", ((420, 480), (480, 540))),
        ("2m..1m", None, ((480, 540), (540, 600))),
        (("10m", "9m"), (T + 540 * SECOND, None), ((0, 60), (540, None))),
        (None, "1m..", ((480, 540), (540, None))),
    ],
)
def test_of_one_file_one_span_may_be_left_out(
    before: Any, after: Any, seconds: tuple[tuple[int | None, int | None], ...]
) -> None:
    conn = file((0, 600))
    assert two_spans(conn, before, after, False, _of, _of) == tuple(
        _span(*ends) for ends in seconds
    )
    conn.close()


def test_two_files_are_compared_as_wholes() -> None:
    conn, other = file((0, 60), rows=[flow_row(5, 0)]), file((60, 120), rows=[flow_row(65, 1)])
    spans = two_spans(conn, None, None, True, _of, _of)
    answer = diff((conn, spans[0]), (other, spans[1]), ("src_name",))
    assert _states(answer) == {("web-1",): "vanished", ("web-2",): "new"}
    conn.close()
    other.close()


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (None, None, "there are no two spans, or files, to compare"),
        ("2h", None, "'2h' is not a span"),
        ("2h..1h", "5m..", "nothing was recorded in the span before"),
    ],
)
def test_spans_that_cannot_be_compared_say_why(
    before: str | None, after: str | None, message: str
) -> None:
    conn = file((0, 600))

    def ask() -> None:
        one, other = two_spans(conn, before, after, False, _of, _of)
        diff((conn, one), (conn, other), BY)

    with pytest.raises(UsageError) as error:
        ask()
    assert error.value.message == message
    conn.close()


def test_keys_that_are_none_are_those_of_peers() -> None:
    conn = file((0, 120), rows=[FlowRow(EDGES[0], T, T, None, *(1,) * 10)])  # type: ignore[arg-type]
    [change] = diff((conn, _span(0, 60)), (conn, _span(60, 120))).rows
    assert change.keys == ("shop/web", "shop/db", 5432, "tcp")
    conn.close()
