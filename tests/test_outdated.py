"""What is said to stay of a file of long ago, against what folding and pruning leave."""

from emptyfile import new
from hypothesis import example, given, settings
from hypothesis import strategies as st
from questions import EDGES, ROWS, START, finish, write

from ctk.model import FlowRow
from ctk.store import prune, rollup
from ctk.store.levels import LEVELS
from ctk.store.orphans import Orphans
from ctk.timespan import DAY

AGES = st.fixed_dictionaries({level.name: st.integers(0, 4 * DAY) for level in LEVELS})

ONE = FlowRow(EDGES[0], START, START + 1, None, *(1,) * 10)  # type: ignore[arg-type]
FLOWS_ONLY = {"flow": 9 * DAY, "1m": 0, "1h": 0, "1d": 0}
DAYS_ONLY = {"flow": 0, "1m": 0, "1h": 0, "1d": 9 * DAY}


@example([ONE], 0, FLOWS_ONLY, 4, DAYS_ONLY)  # as a recorder that was killed leaves it
@example([ONE], 2 * DAY, FLOWS_ONLY, 4, DAYS_ONLY)  # was in the sums, which are gone
@settings(max_examples=10)
@given(ROWS, st.integers(0, 4 * DAY), AGES, st.integers(4, 6), AGES)
def test_what_is_said_to_stay_is_what_is_left_whatever_was_folded_before(
    rows: list[FlowRow], folded: int, before: dict[str, int], days: int, retain: dict[str, int]
) -> None:
    conn = new()
    write(conn, rows)
    orphans = Orphans(conn, lambda table, ids: None)
    finish(rollup.fold(conn, START + folded))
    finish(prune.by_age(conn, START + folded, before, orphans))
    now_ns = START + days * DAY
    said = {level.name: since_ns for level, since_ns in prune.staying(conn, now_ns, retain)}
    finish(rollup.fold(conn, now_ns))
    finish(prune.by_age(conn, now_ns, retain, orphans))
    left = {
        level.name: conn.execute(f"SELECT MIN(started_ns) FROM {level.table}").fetchone()[0]
        for level in LEVELS
    }
    assert said == {name: at_ns for name, at_ns in left.items() if at_ns is not None}
    conn.close()
