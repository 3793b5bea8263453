"""Flows read in pages, while a recorder writes, folds and prunes beside."""

import tempfile
from functools import partial
from itertools import count, islice
from pathlib import Path

from edges import with_ids
from examples import few
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from questions import MOMENT, ROWS, START, finish, fits, flows, terms

from ctk.ask.caveats import PrunedMeanwhile
from ctk.ask.flows import Flows
from ctk.model import EventCounts, Filters, FlowRow, Term
from ctk.store import connect
from ctk.store.write import Writer
from ctk.timespan import DAY

# What the recorder does while a reader stands still: rows of another window, late ones among them,
# and how old rows may get (None: nothing is folded or pruned).
STEP = st.tuples(ROWS, st.one_of(st.none(), st.tuples(*[st.integers(0, 3 * DAY)] * 3)))


# Without shrinking, which would take minutes: an example is a file and its recorder.
@settings(few, phases=[Phase.generate])
@given(
    ROWS,
    terms(),
    MOMENT,
    st.lists(st.tuples(st.integers(1, 9), STEP), max_size=4),
    st.integers(1, 4),
)
def test_flows_are_those_of_the_start_but_for_what_a_caveat_says_was_pruned(
    rows: list[FlowRow],
    terms: tuple[Term, ...],
    since_ns: int | None,
    steps: list[tuple[int, tuple[list[FlowRow], tuple[int, int, int] | None]]],
    page_rows: int,
) -> None:
    filters = Filters(since_ns=since_ns, terms=terms)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "node.db"
        with connect.writer(path) as conn:
            writer = Writer(
                conn, node="n1", source="kernel", settings={}, started_ns=START, boot_id=None
            )
            numbers = count()  # no row is like another
            rows = [row._replace(packets_in=next(numbers)) for row in rows]
            writer.window(with_ids(writer, rows), committed_ns=START, counters=EventCounts())
            expected = [record for record in flows(conn) if fits(record, filters)]
            # Connections that read turn their right to write off; this one is the recorder's.
            conn.execute("PRAGMA query_only = OFF")
            reading = Flows(partial(connect.reader, path), filters, page_rows=page_rows)
            found = []
            for some, (more, ages_ns) in steps:
                found += islice(reading, some)
                writer.window(with_ids(writer, more), committed_ns=START, counters=EventCounts())
                if ages_ns is not None:
                    retain = dict(zip(("flow", "1m", "1h"), ages_ns, strict=True))
                    finish(writer.maintain(START + 3 * DAY, retain))
            found += reading
            missed = [each for each in reading.caveats if isinstance(each, PrunedMeanwhile)]
    had = set(found)
    assert [record for record in expected if record in had] == found
    for record in expected:
        assert record in had or missed[0].since_ns <= record.started_ns < missed[0].until_ns
