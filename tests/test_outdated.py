"""What is said to stay of a file of long ago, against what folding and pruning leave."""

from emptyfile import new
from hypothesis import given
from hypothesis import strategies as st
from questions import ROWS, START, finish, write

from ctk.model import FlowRow
from ctk.store import prune, rollup
from ctk.store.levels import LEVELS
from ctk.store.orphans import Orphans
from ctk.timespan import DAY

AGES = st.fixed_dictionaries({level.name: st.integers(0, 4 * DAY) for level in LEVELS})


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
