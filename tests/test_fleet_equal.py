"""
Merged and shipped, drawn files say the same, and the truth: quiet spans, gaps, older snapshots.

The files of a few nodes are drawn with what recorders run into, merged in one order and shipped in
another, some of them twice. What is asked of both is drawn, too.
"""

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from fleetworld import SINCE, World, row
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import ctk
from ctk.ask.caveats import Caveat, SeenTo, SummedUp
from ctk.ask.failures import Failures
from ctk.ask.recording import Recording
from ctk.fleet.clickhouse import ddl
from ctk.fleet.clickhouse.client import opened
from ctk.fleet.clickhouse.ship import shipper_of
from ctk.fleet.clickhouse.target import parse_target
from ctk.fleet.merge import merge
from ctk.model import FlowRow
from ctk.store import connect as store
from ctk.timespan import MINUTE

NODES, LENGTH = 3, 130  # minutes
KINDS = ("pod_to_pod", "to_service", "out", "node_port", "local_node_port")
Span = tuple[int, int]  # minutes


@dataclass(frozen=True)
class Drawn:
    seed: int
    quiet: list[Span]
    gaps: dict[int, tuple[str, Span]]  # of a node
    recorded: list[int]
    snapshots: list[Span]  # a node, and up to when
    merged: list[int]  # the order of files, as far as there are so many
    shipped: list[int]
    asked: list[Span]


def spans(longest: int = 60) -> st.SearchStrategy[Span]:
    """Draw spans that may begin with the recordings, and end with them."""
    start = st.sampled_from([0, 0, 1, 30, 59, 60, 61, 90, 119, 120]) | st.integers(0, LENGTH - 1)
    return st.tuples(start, st.integers(1, longest)).map(
        lambda at: (at[0], min(at[0] + at[1], LENGTH))
    )


DRAWN = st.builds(
    Drawn,
    seed=st.integers(0, 1_000),
    quiet=st.lists(spans(), max_size=3),
    gaps=st.dictionaries(
        st.integers(0, NODES - 1),
        st.tuples(st.sampled_from(["disk full", "file locked", "events lost"]), spans()),
        max_size=2,
    ),
    recorded=st.lists(st.integers(0, NODES - 1), min_size=1, max_size=NODES, unique=True),
    snapshots=st.lists(
        st.tuples(st.integers(0, NODES - 1), st.integers(1, LENGTH - 1)), max_size=2
    ),
    merged=st.permutations(range(NODES + 2)),
    shipped=st.lists(st.integers(0, NODES + 1), min_size=NODES + 2, max_size=NODES + 4),
    asked=st.lists(spans(), min_size=2, max_size=2),
)


@settings(max_examples=3, phases=[Phase.generate])
@given(drawn=DRAWN)
def test_merged_and_shipped_say_the_same_and_the_truth(drawn):
    with TemporaryDirectory() as folder:
        files, truth = written(Path(folder), drawn)
        merged, target = Path(folder) / "all.db", f"chdb://{folder}/ch"
        merge([files[n] for n in drawn.merged if n < len(files)], merged)
        with opened(parse_target(target, {}), database=False) as client:
            ddl.make(client, dict.fromkeys(("1m", "1h", "1d")))
        with opened(parse_target(target, {})) as client:
            for n in [*drawn.shipped, *range(len(files))]:
                if n < len(files):
                    with shipper_of(files[n], target, None, 40) as shipper:
                        shipper.ship(client)
        with ctk.open(merged) as one, ctk.open(target) as other:
            for span in [(0, LENGTH), *drawn.asked, *drawn.quiet, (-60, 0), (LENGTH + 1, 900)]:
                compare(one, other, span, truth)


Counted = list[tuple[int, int, int]]  # when, connections, bytes


def written(folder: Path, drawn: Drawn) -> tuple[list[Path], Counted]:
    """Write the files of nodes, and older snapshots of them; give what counts."""
    world = World(NODES, seed=drawn.seed, services=3)
    rows: dict[int, list[FlowRow]] = {node: [] for node in drawn.recorded}
    truth = []
    for talk in world.talks(70, LENGTH * MINUTE, KINDS):
        minute = (talk.at_ns - SINCE) // MINUTE
        if any(since <= minute < until for since, until in drawn.quiet):
            continue
        sees = [sight for sight in talk.sights if records(drawn, sight.node, minute)]
        for sight in sees:
            made = row(talk, sight.edge, 0)
            rows[sight.node].append(made._replace(refused=talk.connections // 5))
        if sees:
            truth.append((talk.at_ns, talk.connections, talk.bytes_in))
    files = []
    for node in drawn.recorded:
        files.append(folder / f"n{node}.db")
        write(world, files[-1], drawn, node, rows[node], LENGTH)
    for number, (node, until) in enumerate(drawn.snapshots):
        if node in rows:
            files.append(folder / f"older{number}.db")
            early = [each for each in rows[node] if each.started_ns < SINCE + until * MINUTE]
            write(world, files[-1], drawn, node, early, until)
    return files, truth


def records(drawn: Drawn, node: int, minute: int) -> bool:
    kind, (since, until) = drawn.gaps.get(node, ("", (0, 0)))
    return node in drawn.recorded and (kind == "events lost" or not since <= minute < until)


def write(
    world: World, path: Path, drawn: Drawn, node: int, rows: list[FlowRow], until: int
) -> None:
    world.write_node(path, node, rows, until * MINUTE)
    kind, (since, end) = drawn.gaps.get(node, ("", (0, 0)))
    if kind and since < until:
        gap = (kind, SINCE + since * MINUTE, SINCE + min(end, until) * MINUTE)
        with store.writer(path) as conn:
            conn.execute(
                "INSERT INTO gap(recording_id, kind, started_ns, ended_ns, lost)"
                " VALUES (1, ?, ?, ?, 7)",
                gap,
            )


def failures_of(of: Recording, how: dict[str, int]) -> tuple[Failures, set[Caveat]]:
    """Give what failed but for how exact the times are, and what is said of that."""
    found = of.failures(**how)
    when = {each for each in found.caveats if isinstance(each, SeenTo)}
    return found._replace(
        rows=tuple(row._replace(exact_to_ns=0) for row in found.rows),
        caveats=tuple(each for each in found.caveats if each not in when),
    ), when


def compare(one: Recording, other: Recording, span: Span, truth: Counted) -> None:
    since_ns, until_ns = (SINCE + end * MINUTE for end in span)
    how = {"since": since_ns, "until": until_ns}
    counted = [talk for talk in truth if since_ns <= talk[0] < until_ns]
    for by in ("node", ("src_workload", "service"), "dst_labels"):
        found = other.top(by=by, limit=None, **how)
        assert found == one.top(by=by, limit=None, **how)
        assert found.totals.connections == sum(talk[1] for talk in counted)
        assert (found.totals.bytes_in or 0) == sum(talk[2] for talk in counted)
    for step in ("1m", "7m"):
        series = other.series(by="service", step=step, **how)
        assert series == one.series(by="service", step=step, **how)
    (failed, when), (expected_failed, _) = (failures_of(each, how) for each in (other, one))
    assert failed == expected_failed
    assert when <= {SeenTo(MINUTE)}  # of what was shipped a row is a minute
    assert other.gaps(**how).rows == one.gaps(**how).rows
    flows, expected = other.flows(**how), one.flows(**how)
    sums = [sum(each.connections for each in some) for some in (flows, expected)]
    assert sums == [sum(talk[1] for talk in counted)] * 2
    said = [each for each in flows.caveats if each != SummedUp()]
    assert said == list(expected.caveats)
