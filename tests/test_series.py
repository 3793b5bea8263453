"""Sums by steps of time, against sums of the flows one by one."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from emptyfile import new
from hypothesis import given
from hypothesis import strategies as st
from questions import (
    EDGES,
    FOLDED,
    KEYS,
    MOMENT,
    ROWS,
    SMALL,
    START,
    finish,
    fits,
    flows,
    sum_up,
    terms,
    write,
)
from recorded import T, file, flow_row, lost

import ctk
from ctk.ask.caveats import Coarse, Widened
from ctk.ask.series import Series, parse_step, series
from ctk.ask.sums import NOTHING, Counts
from ctk.ask.top import top
from ctk.errors import UsageError
from ctk.model import Filters, FlowRow, GapKind, Term
from ctk.store import prune, rollup
from ctk.store.columns import FlowRecord
from ctk.store.levels import LEVELS
from ctk.store.orphans import Orphans
from ctk.timespan import DAY, HOUR, MINUTE, SECOND

STEPS = st.sampled_from([1, 5, 30, 60, 90, 120, 7 * 60, 24 * 60, 3 * 24 * 60]).map(
    lambda minutes: minutes * MINUTE
)


def _summed(answer: Series) -> dict[tuple[Any, ...], list[int | None]]:
    """Sum the steps of each group; what was measured in none of them stays None."""
    sums: dict[tuple[Any, ...], list[int | None]] = defaultdict(lambda: list(NOTHING))
    for step in answer.rows:
        so_far = sums[step.keys]
        for i, count in enumerate(step.counts or ()):
            if count is not None:
                so_far[i] = count + (so_far[i] or 0)
    return dict(sums)


def _by_step(
    records: list[FlowRecord], keys: tuple[str, ...], step_ns: int
) -> dict[tuple[Any, ...], list[Any]]:
    steps: dict[int, list[FlowRecord]] = defaultdict(list)
    for record in records:
        steps[record.started_ns - record.started_ns % step_ns].append(record)
    return {
        (at_ns, *group): counts
        for at_ns, found in steps.items()
        for group, counts in sum_up(found, keys).items()
    }


@given(ROWS, terms(), MOMENT, MOMENT, st.one_of(st.just(()), KEYS), STEPS, FOLDED)
def test_every_step_is_the_sum_of_the_finest_rows_in_it(
    rows: list[FlowRow],
    terms: tuple[Term, ...],
    since_ns: int | None,
    until_ns: int | None,
    keys: tuple[str, ...],
    step_ns: int,
    folded: int | None,
) -> None:
    conn = new()
    write(conn, rows)
    if folded is not None:
        finish(rollup.fold(conn, START + folded))
    filters = Filters(since_ns=since_ns, until_ns=until_ns, terms=terms)
    answer = series(conn, filters, keys, step_ns)
    expected = _by_step(list(flows(conn, filters)), keys, step_ns)
    told = {(row.started_ns, *row.keys): row.counts and list(row.counts) for row in answer.rows}
    assert {at: counts for at, counts in told.items() if at in expected} == expected
    # Nothing was recorded beside these rows, so no other count is known.
    assert all(told[at] is None for at in told.keys() - expected.keys())
    starts = [row.started_ns for row in answer.rows]
    assert starts == sorted(starts)
    assert set(starts) == set(range(starts[0], starts[-1] + 1, step_ns) if starts else [])
    assert answer.caveats == top(conn, filters, keys or ("proto",)).caveats
    conn.close()


@given(
    ROWS,
    MOMENT,
    MOMENT,
    STEPS,
    st.integers(0, 4 * DAY),
    st.tuples(*[st.integers(0, 3 * DAY)] * 3),
    st.booleans(),
)
def test_the_sums_over_all_steps_are_those_of_a_ranking_whatever_was_pruned(
    rows: list[FlowRow],
    since_ns: int | None,
    until_ns: int | None,
    step_ns: int,
    folded: int,
    ages_ns: tuple[int, int, int],
    tail: bool,
) -> None:
    conn = new()
    write(conn, rows)
    everything = list(flows(conn))
    finish(rollup.fold(conn, START + folded, SMALL if tail else LEVELS))
    retain = dict(zip(("flow", "1m", "1h"), ages_ns, strict=True)) | {"1d": 10 * DAY}
    finish(prune.by_age(conn, START + 3 * DAY, retain, Orphans(conn, lambda table, ids: None)))
    filters = Filters(since_ns=since_ns, until_ns=until_ns)
    answer = series(conn, filters, ("proto",), step_ns)
    ranked = top(conn, filters, ("proto",))
    found = _summed(answer)
    assert found == {row.keys: list(row.counts) for row in ranked.rows}
    for caveat in answer.caveats:
        if isinstance(caveat, Widened):
            filters = Filters(since_ns=caveat.since_ns, until_ns=caveat.until_ns)
    assert found == sum_up([record for record in everything if fits(record, filters)], ("proto",))
    conn.close()


def test_where_no_bucket_fits_into_a_step_counts_stand_at_the_start_of_theirs() -> None:
    conn = new()
    rows = [
        FlowRow(EDGES[0], START + i * 20 * MINUTE, START + i * 20 * MINUTE, None, *(1,) * 10)
        for i in range(9)
    ]
    write(conn, rows)
    finish(rollup.fold(conn, START + 3 * HOUR))
    for name, table in (("flow", "flow"), ("1m", "flow_1m")):
        conn.execute(f"DELETE FROM {table} WHERE started_ns < ?", (START + 2 * HOUR,))
        conn.execute("UPDATE level SET pruned_ns = ? WHERE name = ?", (START + 2 * HOUR, name))
    answer = series(conn, Filters(), (), 30 * MINUTE)
    counts = {n: Counts(n, 3 * n, 2 * n, 2 * n, 2 * n, n, n, n, n, None, None) for n in (1, 2, 3)}
    half_hours = [row.counts for row in answer.rows]
    assert half_hours == [counts[3], None, counts[3], None, counts[2], counts[1]]
    assert answer.caveats == (Coarse(START + 2 * HOUR, HOUR),)
    assert answer.caveats[0].text == (
        "before 2023-11-15T02:00:00Z counts stand at the start of their 1h: there are no finer rows"
    )
    assert series(conn, Filters(), (), HOUR).caveats == ()
    conn.close()


@pytest.mark.parametrize(
    ("step", "step_ns"),
    [("1m", MINUTE), ("90m", 90 * MINUTE), ("2d", 2 * DAY), ("30s", 30 * SECOND)],
)
def test_a_step_is_whole_minutes(step: str | int, step_ns: int) -> None:
    assert parse_step(step) == step_ns


@pytest.mark.parametrize("step", ["0", "15s", "90s", 0, -MINUTE, 1])
def test_what_is_no_step_says_how_to_write_one(step: str | int) -> None:
    with pytest.raises(UsageError) as error:
        parse_step(step)
    assert (error.value.message, error.value.hint) == (
        f"{step!r} is not a step",
        "10s, 20s, 30s, or whole minutes: 1m, 15m, 1h, 1d",
    )


# Steps without holes.


def _told(answer: Series) -> list[tuple[int, int | None, bool]]:
    return [
        ((row.started_ns - T) // MINUTE, row.counts and row.counts.connections, row.is_whole)
        for row in answer.rows
    ]


def test_a_step_without_flows_is_0_where_it_was_recorded_and_unknown_where_not() -> None:
    conn = file(
        (0, 240), (360, 400), gaps=[lost(130), lost(62)], rows=[flow_row(70), flow_row(380)]
    )
    answer = series(conn, Filters(since_ns=T - MINUTE, until_ns=T + 8 * MINUTE), (), MINUTE)
    assert _told(answer) == [
        (-1, None, False),  # before the first recording
        (0, 0, True),
        (1, 3, False),  # a gap: there may have been more
        (2, None, False),  # a gap, and nothing else
        (3, 0, True),
        (4, None, False),  # no recorder ran
        (5, None, False),
        (6, 3, True),  # all there is of it: 40 s
        (7, None, False),
    ]
    assert [row.recorded_ns // SECOND for row in answer.rows] == [0, 60, 60, 60, 60, 0, 0, 40, 0]
    conn.close()


@pytest.mark.parametrize(("kind", "known"), [("metadata stale", 0), ("disk full", None)])
def test_only_a_gap_that_may_hide_flows_makes_a_step_unknown(
    kind: GapKind, known: int | None
) -> None:
    conn = file((0, 60), gaps=[lost(30, kind)], rows=[])
    assert [
        row.counts and row.counts.connections for row in series(conn, Filters(), (), MINUTE).rows
    ] == [known]
    conn.close()


def test_every_step_has_every_group_and_a_0_only_where_it_is_known() -> None:
    conn = file(
        (0, 180), gaps=[lost(130)], rows=[flow_row(5), flow_row(125), flow_row(65, 1, 9_000)]
    )
    answer = series(conn, Filters(), ("src_name",), MINUTE)
    assert [(row.keys[0], row.counts and row.counts.bytes) for row in answer.rows] == [
        *(("web-2", 0), ("web-1", 1_500)),
        *(("web-2", 9_000), ("web-1", 0)),
        *(("web-2", None), ("web-1", 1_500)),
    ]
    assert answer.sort == "bytes"
    largest = series(conn, Filters(), ("src_name",), MINUTE, None, 1)
    assert ({row.keys for row in largest.rows}, largest.groups) == ({("web-2",)}, 2)
    by_connections = series(conn, Filters(), ("src_name",), MINUTE, "connections", 1)
    assert {row.keys for row in by_connections.rows} == {("web-1",)}
    conn.close()


def test_bytes_of_a_step_without_flows_are_not_0_where_nothing_counts_them() -> None:
    conn = file((0, 120), rows=[flow_row(5, 0, None)._replace(packets_out=None, bytes_in=None)])
    answer = series(conn, Filters(), (), MINUTE)
    assert [row.counts and row.counts.bytes for row in answer.rows] == [None, None]
    assert [row.counts and row.counts.connections for row in answer.rows] == [3, 0]
    conn.close()


def test_rates_are_by_the_time_that_was_recorded() -> None:
    conn = file((0, 90), rows=[flow_row(5), flow_row(65)])
    answer = series(conn, Filters(), (), MINUTE)
    assert [row.per_s("bytes") for row in answer.rows] == [25.0, 50.0]
    [first, _] = answer.records()
    assert {name: first[name] for name in list(first)[-4:]} == {
        "connections_per_s": 0.05,
        "bytes_per_s": 25.0,
        "recorded_ns": MINUTE,
        "is_whole": True,
    }
    conn.close()


def test_steps_that_nobody_reads_are_refused() -> None:
    conn = file((0, 60), rows=[flow_row(5)])
    with pytest.raises(UsageError) as error:
        series(conn, Filters(since_ns=T - 366 * DAY), (), MINUTE)
    assert error.value.message == "527,041 steps are too many"
    conn.close()


@pytest.mark.parametrize(
    ("minutes", "step_ns"), [(1, MINUTE), (59, MINUTE), (61, 5 * MINUTE), (60 * 48, HOUR)]
)
def test_without_a_step_one_is_chosen_that_parts_the_span_in_60_or_fewer(
    minutes: int, step_ns: int
) -> None:
    conn = file((0, minutes * 60), rows=[flow_row(5)])
    answer = series(conn, Filters(), (), None)
    assert answer.step_ns == step_ns
    assert len(answer.rows) <= 60
    conn.close()


def test_among_reads_some_groups_alone(shop: Path) -> None:
    with ctk.open(shop) as recording:
        every = recording.series(by="pods", step="10s", side="from").rows
        some = recording.series(by="pods", step="10s", side="from", among=[("shop/web-1",)]).rows
        assert some == tuple(row for row in every if row.keys == ("shop/web-1",)) != ()
        nobody = recording.series(by="service", step="1m", among=[(None,)])
        assert {row.keys for row in nobody.rows} == {(None,)}
        assert recording.series(by="service", step="1m", among=[]).rows == ()


@pytest.mark.parametrize(("most", "step_ns"), [(2, 60), (5, 20), (9, 10), (1, 120)])
def test_most_steps_chooses_one_as_short_as_ten_seconds(
    shop: Path, most: int, step_ns: int
) -> None:
    with ctk.open(shop) as recording:
        assert recording.series(step=None, most_steps=most).step_ns == step_ns * SECOND
