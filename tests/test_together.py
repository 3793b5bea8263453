"""Several files asked as one: what each of them holds, put together."""

import json
import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from edges import with_ids
from examples import few
from hypothesis import given
from hypothesis import strategies as st
from sample import AT, GAPS, ROWS

import ctk
from ctk.ask.caveats import CountedFromEnd, HasGaps, NothingFits, OfFiles, SeenByEach, Unrecorded
from ctk.ask.sums import KEYS, SORTS
from ctk.errors import UsageError
from ctk.model import EventCounts, FlowRow
from ctk.store import connect
from ctk.store.write import Writer
from ctk.timespan import MINUTE, SECOND

Invoke = Callable[..., Result]
_LATER = AT + 21 * MINUTE, AT + 22 * MINUTE


def _record(path: Path, node: str, rows: list[FlowRow], gaps: tuple[Any, ...] = ()) -> Path:
    with connect.writer(path) as conn:
        writer = Writer(conn, node=node, source="kernel", settings={}, started_ns=AT, boot_id=None)
        end_ns = AT + 20 * MINUTE
        counters = EventCounts(40, 0)
        writer.window(with_ids(writer, rows), gaps=gaps, committed_ns=end_ns, counters=counters)
        for _ in writer.maintain(end_ns, {}):
            pass
        writer.finish(end_ns)
    return path


def _moved(row: FlowRow, by_ns: int) -> FlowRow:
    return row._replace(started_ns=row.started_ns + by_ns, ended_ns=row.ended_ns + by_ns)


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """Two nodes that saw much the same, one of them a second later and three minutes longer."""
    later = [_moved(row, SECOND) for row in ROWS] + [_moved(ROWS[1], 180 * SECOND)]
    return (
        _record(tmp_path / "a.db", "n1", list(ROWS), GAPS),
        _record(tmp_path / "b.db", "n2", later),
    )


@pytest.fixture
def merged(tmp_path: Path, files: tuple[Path, Path]) -> list[ctk.FlowRecord]:
    """The flows of both files, in their order."""
    found = [flow for path in files for flow in ctk.open(path).flows()]
    return sorted(found, key=lambda flow: flow.started_ns)


@pytest.mark.parametrize(
    ("asked", "chosen"),
    [
        ({}, slice(None)),
        ({"first": 5}, slice(5)),
        ({"last": 4}, slice(-4, None)),
        ({"last": 0}, slice(0)),
        ({"last": 99}, slice(None)),
    ],
)
def test_flows_are_those_of_all_files_by_time(
    files: tuple[Path, Path], merged: list[ctk.FlowRecord], asked: dict[str, Any], chosen: slice
) -> None:
    with ctk.open(files) as recordings:
        flows = recordings.flows(**asked)
        assert list(flows) == merged[chosen]
        assert {flow.node for flow in merged} == {"n1", "n2"}
        top = recordings.top(by="node", **asked)
        connections = Counter[str]()
        for flow in merged[chosen]:
            connections[flow.node] += flow.connections
        counted = {row["node"]: row["connections"] for row in top.records()}
        assert counted == {node: n for node, n in connections.items() if node in counted}
        assert top.totals.connections == connections.total()


@pytest.fixture(scope="module")
def halves(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[ctk.Recording, ctk.Recording]:
    """One file with all flows of a node, and two that have them between them."""
    folder = tmp_path_factory.mktemp("files")
    first, second = list(ROWS[:4]), [_moved(row, SECOND) for row in ROWS[2:]]
    files = [_record(folder / f"{len(rows)}.db", "n1", rows) for rows in (first, second)]
    with closing(sqlite3.connect(files[1])) as conn:  # one recording holds one start only
        conn.execute("UPDATE recording SET started_ns = started_ns + 1")
        conn.commit()
    return ctk.open(_record(folder / "one.db", "n1", first + second)), ctk.open(files)


@few
@given(
    by=st.lists(st.sampled_from(sorted(KEYS)), min_size=1, max_size=3, unique=True),
    sort=st.none() | st.sampled_from([name for name in SORTS if not name.endswith("_seen")]),
    limit=st.none() | st.integers(0, 5),
    since_s=st.none() | st.integers(-5, 80),
)
def test_sums_are_those_of_one_file_with_all_flows(
    halves: tuple[ctk.Recording, ctk.Recording],
    by: list[str],
    sort: str | None,
    limit: int | None,
    since_s: int | None,
) -> None:
    one, both = halves
    asked: dict[str, Any] = {} if since_s is None else {"since": AT + since_s * SECOND}
    expected = one.top(by=by, sort=sort, limit=limit, **asked)
    found = both.top(by=by, sort=sort, limit=limit, **asked)
    assert (found.rows, found.totals, found.groups, found.sort) == (
        expected.rows,
        expected.totals,
        expected.groups,
        expected.sort,
    )
    assert both.series(by=by, **asked).rows == one.series(by=by, **asked).rows
    assert list(both.flows(**asked)) == list(one.flows(**asked))


@pytest.mark.parametrize("since_s", [None, 0, 2, 60])
def test_what_failed_and_is_new_and_uneven_is_that_of_one_file(
    halves: tuple[ctk.Recording, ctk.Recording], since_s: int | None
) -> None:
    one, both = halves
    asked: dict[str, Any] = {} if since_s is None else {"since": AT + since_s * SECOND}
    for limit, more in ((None, {}), (1, {}), (None, {"not_refused": True}), (None, {"port": 80})):
        expected = one.failures(limit=limit, **asked, **more)
        found = both.failures(limit=limit, **asked, **more)
        assert found._replace(caveats=()) == expected._replace(caveats=())
    assert both.new(**asked).rows == one.new(**asked).rows
    assert both.balance(**asked).services == one.balance(**asked).services
    assert (both.idle().rows, both.idle().as_of_ns) == ((), None)


@pytest.mark.parametrize("command", ["failures", "balance", "new", "idle"])
def test_every_question_names_the_nodes_whose_files_it_was_asked_of(
    invoke: Invoke, files: tuple[Path, Path], command: str
) -> None:
    asked = invoke(command, *files, "-o", "csv")
    assert asked.exit_code == 0
    assert "of 2 nodes: a connection that two of them saw counts twice" in asked.stderr
    assert asked.stdout == invoke(command, *reversed(files), "-o", "csv").stdout


def test_two_files_are_compared_and_no_more(invoke: Invoke, files: tuple[Path, Path]) -> None:
    told = invoke("diff", *files).stderr.splitlines()[-1]
    assert told == (
        "n1 recorded only before, n2 only after:"
        " what a node does not see looks new, vanished or changed"
    )
    asked = invoke("diff", *files, files[0])
    assert (asked.exit_code, asked.stderr) == (
        2,
        "Error: only two files can be compared\nTry: ctk diff a.db b.db\n",
    )


def test_gaps_are_one_caveat_and_what_is_true_of_one_file_names_it(
    files: tuple[Path, Path],
) -> None:
    with ctk.open(files) as recordings:
        caveats = recordings.top().caveats
        assert [type(caveat) for caveat in caveats] == [HasGaps, SeenByEach]
        twice = "a connection that two of them saw counts twice: ctk merge counts it once"
        assert caveats[1].text == f"of 2 nodes: {twice}"
        assert [gap.kind for gap in recordings.gaps()] == ["recorder down", "events lost"]
        assert recordings.gaps().caveats == ()
    with closing(sqlite3.connect(files[1])) as conn:
        conn.execute("UPDATE recording SET started_ns = ?, committed_ns = ?", _LATER)
        conn.execute("UPDATE recording SET ended_ns = committed_ns")
        conn.commit()
    with ctk.open(files) as recordings:  # what none of them recorded is told as of one file
        hole = Unrecorded(((AT + 20 * MINUTE, _LATER[0]),))
        assert [recordings.top().caveats[1], recordings.series().caveats[1]] == [hole, hole]
        assert recordings.failures().caveats[1] == hole
        assert hole not in recordings.top(until=AT + MINUTE).caveats
    with closing(sqlite3.connect(files[1])) as conn:
        conn.execute("UPDATE level SET pruned_ns = ? WHERE name = 'flow'", (AT + 5 * SECOND,))
        conn.commit()
    with ctk.open(files) as recordings:
        flows = recordings.flows(until=AT + 9 * SECOND)
        list(flows)
        pruned = [caveat for caveat in flows.caveats if isinstance(caveat, OfFiles)]
        assert [caveat.text for caveat in pruned] == [
            f"{files[1]}: flows before 2024-11-25T18:47:27.852716307Z were pruned: only rollups"
            " hold them"
        ]


@pytest.mark.parametrize(("last", "gaps"), [(2, 0), (9, 1), (12, 2), (16, 2)])
def test_the_gaps_are_those_of_the_flows_that_are_given(
    files: tuple[Path, Path], last: int, gaps: int
) -> None:
    with ctk.open(files) as recordings:
        flows = recordings.flows(last=last)
        assert len(list(flows)) == min(last, 15)
        found = [len(caveat.gaps) for caveat in flows.caveats if isinstance(caveat, HasGaps)]
        assert found == ([gaps] if gaps else [])


def test_sql_is_of_the_views_of_all_files(files: tuple[Path, Path]) -> None:
    with ctk.open(files) as recordings:
        counted = recordings.sql("SELECT node, count(*) FROM flows GROUP BY 1 ORDER BY 1")
        assert list(counted) == [("n1", 7), ("n2", 8)]
        assert list(recordings.sql("SELECT count(*) FROM recordings")) == [(2,)]
        with pytest.raises(UsageError, match="may only read"):
            recordings.sql("DROP VIEW flows")
        plan = recordings.sql("SELECT src FROM flows WHERE started_ns > 5", explain=True)
        steps = [str(step) for *_, step in plan]
        assert sum(step.startswith("SEARCH f USING PRIMARY KEY") for step in steps) == 2
        assert not [step for step in steps if step.startswith("SCAN")]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM flows",
        "SELECT f.* FROM flows_1m AS f",
        'SELECT "SRC_NAME", Started_At FROM flows',
        "SELECT count( * ), dst_name, min(started_at) FROM flows GROUP BY dst_name, node",
        "SELECT src, dst FROM flows NATURAL JOIN (SELECT 'udp' AS proto)",
        "SELECT address, name FROM endpoints",
        "WITH a AS (SELECT src_name AS n, node FROM flows) SELECT n FROM a GROUP BY n, node",
    ],
)
def test_sql_over_files_gives_what_it_gives_of_each(files: tuple[Path, Path], sql: str) -> None:
    each = [row for path in files for row in ctk.open(path).sql(sql)]
    with ctk.open(files) as recordings:
        assert Counter(recordings.sql(sql)) == Counter(each)


@pytest.mark.parametrize("method", ["describe", "identity"])
def test_what_is_of_one_file_is_not_asked_of_several(files: tuple[Path, Path], method: str) -> None:
    with ctk.open(files) as recordings, pytest.raises(UsageError, match="one file at a time"):
        getattr(recordings, method)()


def test_one_recording_is_not_counted_twice(files: tuple[Path, Path], tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    shutil.copy(files[0], copy)
    with pytest.raises(UsageError) as error:
        ctk.open([*files, copy])
    assert error.value.message == f"{copy} and {files[0]} hold the same recording"
    with pytest.raises(UsageError, match="no file to open"):
        ctk.open([])


def test_the_command_line_asks_several_files(
    invoke: Invoke, files: tuple[Path, Path], merged: list[ctk.FlowRecord]
) -> None:
    result = invoke("query", *files, "-o", "jsonl")
    assert [json.loads(line)["started_ns"] for line in result.stdout.splitlines()] == [
        flow.started_ns for flow in merged
    ]
    assert result.stderr.endswith(
        "of 2 nodes: a connection that two of them saw counts twice: ctk merge counts it once\n"
    )
    shown = invoke("query", *files, "--last", "2").stdout.splitlines()
    assert [line.split()[2] for line in shown[1:]] == ["n2", "n2"]
    assert "NODE" not in invoke("query", files[0]).stdout
    result = invoke("query", *files, "SELECT sum(connections) FROM flows", "-o", "tsv")
    assert (result.stdout, result.stderr) == (
        "37\n",
        "of 2 nodes: a connection that two of them saw counts twice: ctk merge counts it once\n",
    )
    result = invoke("top", *files, "--by", "node", "--sort", "connections", "-o", "jsonl")
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(row["node"], row["connections"]) for row in rows] == [("n2", 20), ("n1", 17)]


def test_a_file_of_another_kind_is_attached_by_name(
    invoke: Invoke, shop: Path, tmp_path: Path
) -> None:
    teams = tmp_path / "teams.db"
    with closing(sqlite3.connect(teams)) as conn:
        conn.execute("CREATE TABLE owner (namespace TEXT, team TEXT)")
        conn.execute("INSERT INTO owner VALUES ('shop', 'Baskets')")
        conn.commit()
    sql = (
        "SELECT team, sum(connections) FROM flows JOIN teams.owner"
        " ON owner.namespace = src_namespace GROUP BY 1"
    )
    result = invoke("query", shop, sql, "--attach", "teams", teams, "-o", "tsv")
    assert (result.exit_code, result.stdout) == (0, "Baskets\t14\n")
    result = invoke("query", shop, "DELETE FROM teams.owner", "--attach", "teams", teams)
    assert result.stderr.startswith("Error: the SQL may only read\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--attach main a.db", "'main' is not a name to attach a file by"),
        ("--attach a-b a.db", "'a-b' is not a name to attach a file by"),
        ("--attach a a.db --attach a b.db", "two files are attached by one name"),
        ("--attach a a.db --attach A b.db", "two files are attached by one name"),
        ("--attach a none.db", "there is no file none.db"),
    ],
)
def test_what_cannot_be_attached_is_one_clear_error(
    invoke: Invoke, shop: Path, words: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(shop.parent)
    for name in ("a.db", "b.db"):
        with closing(sqlite3.connect(name)) as conn:
            conn.execute("CREATE TABLE t (x)")
    result = invoke("query", shop, "SELECT 1", *words.split())
    assert (result.exit_code, result.stderr.splitlines()[0]) == (2, f"Error: {message}")


def test_a_word_is_sql_or_a_file(invoke: Invoke, shop: Path, tmp_path: Path) -> None:
    named_so = tmp_path / "select 1"
    shutil.copy(shop, named_so)
    assert invoke("query", named_so, "SELECT 7", "-o", "tsv").stdout == "7\n"
    result = invoke("query", shop, named_so)
    assert result.stderr.startswith(f"Error: {named_so} and {shop} hold the same recording\n")
    result = invoke("query", shop, "none.db")
    assert result.stderr.startswith("Error: there is no file none.db\n")
    assert invoke("query", shop, "values(7)", "-o", "tsv").stdout == "7\n"


def test_sql_reads_eleven_files_and_the_others_any_number(invoke: Invoke, tmp_path: Path) -> None:
    files = [_record(tmp_path / f"{i}.db", f"n{i}", list(ROWS[:1])) for i in range(12)]
    result = invoke("query", *files, "SELECT 1 FROM flows")
    assert (result.exit_code, result.stderr.splitlines()[0]) == (
        2,
        "Error: SQL reads at most 11 files at once",
    )
    result = invoke("query", *files[:11], "SELECT count(*) FROM flows", "-o", "tsv")
    assert result.stdout == "11\n"
    assert len(invoke("query", *files, "-o", "jsonl").stdout.splitlines()) == 12


def test_sql_may_be_longer_than_a_name(invoke: Invoke, shop: Path) -> None:
    sql = f"SELECT 7 -- {'x' * 5_000}"
    assert invoke("query", shop, sql, "-o", "tsv").stdout == "7\n"


def test_ages_count_from_the_end_of_the_file_that_ends_last(files: tuple[Path, Path]) -> None:
    with ctk.open(files) as recordings:
        end = recordings.reference()
        assert end == max(ctk.open(path).reference() for path in files)
        assert CountedFromEnd(end.at_ns) in recordings.top(since="1h").caveats
        assert CountedFromEnd(end.at_ns) in recordings.gaps(since="1h").caveats


def test_nothing_fits_only_where_it_fits_in_no_file(files: tuple[Path, Path]) -> None:
    with ctk.open(files) as recordings:
        late = recordings.top(since=AT + 100 * SECOND)
        assert late.groups
        assert not [each for each in late.caveats if isinstance(each, NothingFits)]
        none = NothingFits(("no pod named nobody in this file",))
        assert none.text in str([each.text for each in recordings.top(pod="nobody").caveats])
