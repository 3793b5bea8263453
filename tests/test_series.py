"""Sums by steps of time, against sums of the flows one by one."""

from collections import defaultdict
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
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
    new,
    sum_up,
    terms,
    write,
)

from ctk.ask.caveats import Coarse, Widened
from ctk.ask.series import Series, SeriesRow, parse_step, series
from ctk.ask.sums import NOTHING, Counts
from ctk.ask.top import top
from ctk.errors import UsageError
from ctk.model import Filters, FlowRow, Term
from ctk.store import prune, rollup
from ctk.store.columns import FlowRecord
from ctk.store.orphans import Orphans
from ctk.store.rollup import LEVELS
from ctk.timespan import DAY, HOUR, MINUTE

STEPS = st.sampled_from([1, 5, 30, 60, 90, 120, 7 * 60, 24 * 60, 3 * 24 * 60]).map(
    lambda minutes: minutes * MINUTE
)


def _summed(answer: Series) -> dict[tuple[Any, ...], list[int | None]]:
    """Sum the steps of each group; what was measured in none of them stays None."""
    sums: dict[tuple[Any, ...], list[int | None]] = defaultdict(lambda: list(NOTHING))
    for row in answer.rows:
        so_far = sums[row.keys]
        for i, count in enumerate(row.counts):
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


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
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
    assert {(row.started_ns, *row.keys): list(row.counts) for row in answer.rows} == expected
    assert [row.started_ns for row in answer.rows] == sorted(row.started_ns for row in answer.rows)
    assert answer.caveats == top(conn, filters, keys or ("proto",)).caveats
    conn.close()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
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
    assert answer.rows == (
        SeriesRow(START, (), counts[3]),
        SeriesRow(START + HOUR, (), counts[3]),
        SeriesRow(START + 2 * HOUR, (), counts[2]),
        SeriesRow(START + 2 * HOUR + 30 * MINUTE, (), counts[1]),
    )
    assert answer.caveats == (Coarse(START + 2 * HOUR, HOUR),)
    assert answer.caveats[0].text == (
        "before 2023-11-15T02:00:00Z counts stand at the start of their 1h: finer rows were pruned"
    )
    assert series(conn, Filters(), (), HOUR).caveats == ()
    conn.close()


@pytest.mark.parametrize(
    ("step", "step_ns"), [("1m", MINUTE), ("90m", 90 * MINUTE), ("2d", 2 * DAY), (HOUR, HOUR)]
)
def test_a_step_is_whole_minutes(step: str | int, step_ns: int) -> None:
    assert parse_step(step) == step_ns


@pytest.mark.parametrize("step", ["0", "30s", "90s", 0, -MINUTE, 1])
def test_what_is_no_step_says_how_to_write_one(step: str | int) -> None:
    with pytest.raises(UsageError) as error:
        parse_step(step)
    assert (error.value.message, error.value.hint) == (
        f"{step!r} is not a step of whole minutes",
        "1m, 15m, 1h or 1d",
    )
