"""What was shipped, asked in chDB: as the merged file of the same nodes answers."""

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import Result
from examples import few
from fleetworld import SINCE, World, row
from hypothesis import given
from hypothesis import strategies as st

import ctk
from ctk.ask.caveats import HasGaps, SummedUp, Unrecorded, WholeMinutes, Widened
from ctk.ask.recording import Recording
from ctk.ask.sums import NOTHING
from ctk.errors import CtkError, UsageError
from ctk.fleet.clickhouse import brought, ddl, sql
from ctk.fleet.clickhouse.client import Client, opened
from ctk.fleet.clickhouse.client import connect as connect_to
from ctk.fleet.clickhouse.ship import shipper_of
from ctk.fleet.clickhouse.target import parse_target
from ctk.fleet.merge import merge
from ctk.model import FlowRow
from ctk.store import connect
from ctk.timespan import HOUR, MINUTE, SECOND

Invoke = Callable[..., Result]
SPAN = 130 * MINUTE
QUIET = range(112, 124)  # the minutes in which no node saw a flow: an hour begins within
STOPPED = (SINCE + 114 * MINUTE, SINCE + 118 * MINUTE)  # within: no node recorded
FOR_EVER = dict.fromkeys(("1m", "1h", "1d"))


def ship(files: list[Path], client: Client) -> None:
    for file in files:
        with shipper_of(file, client.target.said, None, 4_000) as shipper:
            shipper.ship(client)


class Fleet:
    """Four of five nodes; one wrote nothing for a while, later none. Shipped, and merged."""

    def __init__(self, folder: Path) -> None:
        self.world = World(5, seed=3)
        self.talks = self.world.talks(900, SPAN)
        rows: dict[int, list[FlowRow]] = {node: [] for node in range(4)}
        gap = SINCE + 30 * MINUTE, SINCE + 50 * MINUTE
        for talk in self.talks:
            if (talk.at_ns - SINCE) // MINUTE in QUIET:
                continue
            for sight in talk.sights:
                if sight.node == 2 and gap[0] <= talk.at_ns < gap[1]:
                    continue
                if sight.node in rows:
                    rows[sight.node].append(row(talk, sight.edge, 0))
        self.files = [folder / f"n{node}.db" for node in rows]
        for node, path in enumerate(self.files):
            self.world.write_node(path, node, rows[node], SPAN)
        with connect.writer(self.files[2]) as conn:
            conn.execute(
                "INSERT INTO gap(recording_id, kind, started_ns, ended_ns, lost)"
                " VALUES (1, 'disk full', ?, ?, 7)",
                gap,
            )
        for path in self.files:
            with connect.writer(path) as conn:
                conn.execute(
                    "INSERT INTO recording(recorder_id, started_ns, committed_ns, ended_ns,"
                    " boot_id, version, source, settings, events, cluster_uid)"
                    " SELECT recorder_id, ?, committed_ns, ended_ns, boot_id, version, source,"
                    " settings, events, cluster_uid FROM recording",
                    STOPPED[1:],
                )
                conn.execute(
                    "UPDATE recording SET committed_ns = ?1, ended_ns = ?1 WHERE id = 1",
                    STOPPED[:1],
                )
        self.merged = folder / "all.db"
        merge(self.files, self.merged, aside=True)
        self.target = f"chdb://{folder / 'ch'}"
        with opened(parse_target(self.target, {}), database=False) as client:
            ddl.make(client, FOR_EVER)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    made = Fleet(tmp_path_factory.mktemp("fleet"))
    # The folder stays open for as long as one client is.
    with opened(parse_target(made.target, {})) as client:
        ship(made.files, client)
        ship(made.files, client)  # again changes nothing
        yield made


@pytest.fixture(scope="module")
def both(fleet: Fleet) -> Iterator[tuple[Recording, Recording]]:
    with ctk.open(fleet.merged) as file, ctk.open(fleet.target) as shipped:
        yield file, shipped


@pytest.fixture(scope="module")
def everybody(fleet: Fleet) -> Iterator[tuple[Recording, Recording]]:
    with (
        ctk.open(fleet.merged, all_observers=True) as file,
        ctk.open(fleet.target, all_observers=True) as shipped,
    ):
        yield file, shipped


KEYS = (
    *("source", "destination", "pod", "workload", "namespace", "external_ip", "endpoint_node"),
    *("endpoint_zone", "client", "server", "backend", "backend_port", "node", "cluster", "proto"),
    *("ip_version", "zone", "src", "dst", "dst_port", "nat_src", "nat_dst", "src_kind", "dst_kind"),
    *("src_node", "dst_node_zone", "service", "service_via", "src_workload_kind", "dst_labels"),
)
VALUES = {
    "namespace": ["shop", "p*", "nowhere"],
    "pod": ["app-0", "shop/app-1-*", "?pp-3*"],
    "workload": ["app-2", "pay/app-*"],
    "service": ["svc-1", "shop/*", "pay/svc-4"],
    "node": ["n0", "n4", "n[2"],
    "zone": ["zone-1", "zone-*"],
    "kind": ["pod", "external", "service", "node", "unknown"],
    "ip": ["10.128.1.0/24", "203.0.113.3", "10.96.*", "fd00::/8", "10.0.0.2"],
    "port": ["80", "8080", "400-500", "30000-30002"],
    "label": ["app=app-1", "app in (app-1,app-2),!x", "app!=app-3", "x"],
}
FLAGS = ("cross_namespace", "cross_zone")
SIDED = ("namespace", "pod", "workload", "node", "zone", "kind", "ip", "label")


@st.composite
def asked(draw: st.DrawFn) -> dict[str, object]:
    """Draw filters, as keyword arguments."""
    found: dict[str, object] = {}
    for field in draw(st.lists(st.sampled_from(sorted(VALUES)), max_size=2, unique=True)):
        sides = ["", "from_", "to_"] if field in SIDED else [""]
        name = draw(st.sampled_from(["", "not_"])) + draw(st.sampled_from(sides)) + field
        found[name] = draw(st.lists(st.sampled_from(VALUES[field]), min_size=1, max_size=2))
    for flag in FLAGS:
        if draw(st.sampled_from([False] * 5 + [True])):
            found[flag] = True
    if draw(st.booleans()):
        found["since"] = SINCE + draw(st.integers(-5, 100)) * MINUTE
    if draw(st.booleans()):
        found["until"] = SINCE + draw(st.integers(20, 140)) * MINUTE
        if found["until"] < found.get("since", 0):
            del found["since"]
    return found


QUESTION = {
    "by": st.lists(st.sampled_from(KEYS), min_size=1, max_size=3, unique=True),
    "sort": st.sampled_from([None, "bytes", "connections", "failed", "packets", "bytes_in"]),
    "limit": st.sampled_from([None, 0, 3, 20]),
    "side": st.sampled_from(["both", "from", "to"]),
    "filters": asked(),
    "of_all": st.booleans(),
}


@few
@given(**QUESTION)
def test_any_question_of_sums_has_the_answer_of_the_merged_file(
    both, everybody, by, sort, limit, side, filters, of_all
):
    file, shipped = everybody if of_all else both
    how = {"by": by, "sort": sort, "limit": limit, "side": side, **filters}
    assert shipped.top(**how) == file.top(**how)


@given(by=QUESTION["by"], filters=asked(), step=st.sampled_from(["1m", "7m", "1h", "1d"]))
def test_any_series_is_that_of_the_merged_file(both, by, filters, step):
    file, shipped = both
    how = {"by": by[:1], "step": step, "limit": 5, **filters}
    assert shipped.series(**how) == file.series(**how)


@pytest.mark.parametrize(
    ("since", "until"), [(120, 122), (113, 121), (119, 124), (-540, -60), (-60, 0), (131, 900)]
)
def test_a_quiet_span_has_no_flows_though_its_hour_and_day_have(both, since, until):
    how = {"since": SINCE + since * MINUTE, "until": SINCE + until * MINUTE}
    for by in ("node", "dst_labels"):
        one, other = (each.top(by=by, **how) for each in both)
        assert (one.rows, one.totals) == (other.rows, other.totals) == ((), NOTHING)
        assert not any(isinstance(each, Widened) for each in other.caveats)
        if until <= 0 or since > 130:
            assert {each.text for each in one.caveats} <= {each.text for each in other.caveats}
    assert list(both[1].flows(**how)) == []


def test_what_is_brought_in_hours_begins_with_the_bucket_that_the_span_begins_in(
    both, fleet, monkeypatch
):
    ((hours,),) = both[1].sql("SELECT count() FROM flows_1h WHERE hour >= 1732528800")
    monkeypatch.setattr(brought, "MOST_ROWS", hours)
    how = {"by": ["dst_labels"], "since": SINCE + 70 * MINUTE}
    with ctk.open(fleet.target) as shipped:
        found = shipped.top(**how)
    assert Widened(SINCE + HOUR, SINCE + 3 * HOUR) in found.caveats
    assert found.rows == both[0].top(**how | {"since": SINCE + HOUR}).rows


def test_the_whole_was_first_seen_when_the_first_of_its_groups_was(both):
    found = both[1].top(by="pod", sort="first_seen", limit=None)
    assert found.totals.first_seen_ns == min(row.counts.first_seen_ns for row in found.rows)
    assert both[1].top(by="pod", seen=True, namespace="nowhere").totals.first_seen_ns is None


def test_past_the_bound_sums_are_answered_and_what_needs_rows_says_to_narrow(fleet, monkeypatch):
    monkeypatch.setattr(brought, "MOST_ROWS", 10)
    with ctk.open(fleet.target) as shipped, ctk.open(fleet.merged) as file:
        assert shipped.top(by="service") == file.top(by="service")
        assert shipped.top(by="service", pod="nobody").caveats[-1].text == "no flows fit"
        told, known = shipped.describe(), file.describe()
        assert (told.since, told.nodes, told.gaps) == (known.since, known.nodes, known.gaps)
        assert told.merged[-1].endswith("was not added up here")
        for ask in (shipped.flows, shipped.series):
            with pytest.raises(UsageError, match="rows are too many to bring here") as refused:
                list(ask().caveats)
            assert refused.value.hint


def test_flows_are_sums_of_minutes_and_add_up_to_those_of_the_file(both):
    file, shipped = both
    flows = shipped.flows(from_kind="pod", since=SINCE + 10 * MINUTE)
    found = list(flows)
    assert SummedUp() in flows.caveats
    assert [each.started_ns for each in found] == sorted(each.started_ns for each in found)
    expected = list(file.flows(from_kind="pod", since=SINCE + 10 * MINUTE))
    for key in ("connections", "bytes_out", "packets_in", "new_events"):
        assert sum(getattr(each, key) for each in found) == sum(
            getattr(each, key) for each in expected
        )
    assert {each[5:10] for each in found} == {each[5:10] for each in expected}


def test_a_span_is_widened_to_whole_minutes_and_that_is_said(both):
    _, shipped = both
    asked = {"since": SINCE + 90 * SECOND, "until": SINCE + 200 * SECOND}
    found = shipped.top(by="node", **asked)
    whole = shipped.top(by="node", since=SINCE + MINUTE, until=SINCE + 4 * MINUTE)
    assert (found.rows, WholeMinutes() in found.caveats) == (whole.rows, True)
    assert WholeMinutes() not in whole.caveats


def test_what_was_shipped_is_described_as_the_merged_file_is(both, fleet):
    file, shipped = both
    one, other = file.describe(), shipped.describe()
    for name in ("since", "until", "nodes", "clusters", "recordings", "gaps", "merged"):
        assert getattr(one, name) == getattr(other, name), name
    assert [level.level for level in other.levels] == ["1m", "1h", "1d"]
    assert {table.table for table in other.tables} >= {"flows_1m", "flows_1h", "recordings"}
    assert shipped.gaps().rows == file.gaps().rows
    assert shipped.reference() == file.reference()
    assert HasGaps(file.gaps().rows) in shipped.top(by="node").caveats


def test_between_recordings_each_answer_says_that_nothing_was_recorded(both):
    span = {"since": SINCE + 115 * MINUTE, "until": SINCE + 140 * MINUTE}
    hole = Unrecorded(((SINCE + 115 * MINUTE, STOPPED[1]),))
    for each, sql_of_span in zip(
        both,
        ("SELECT :since_ns, :until_ns", "SELECT {since_ns:Int64}, {until_ns:Int64}"),
        strict=True,
    ):
        assert Unrecorded((STOPPED,)) in each.top(by="node").caveats
        answers = (
            each.top(by="node", **span),
            each.series(step="1m", **span),
            each.flows(**span),
            each.sql(sql_of_span, **span),
        )
        for answer in answers:
            assert hole in answer.caveats
        assert not each.sql("SELECT 1").caveats


def test_sql_is_clickhouse_s_own_and_only_reads(both, fleet):
    _, shipped = both
    answer = shipped.sql(
        "SELECT node, sum(connections) AS n FROM flows_1h WHERE dst_port = {port:UInt16}"
        " AND hour >= toDateTime(intDiv({since_ns:Int64}, 1000000000))"
        " GROUP BY node ORDER BY node",
        port=8080,
        since=SINCE,
    )
    assert answer.columns == ("node", "n")
    assert [name for name, _ in answer] == ["n0", "n1", "n2", "n3"]
    (counted,) = shipped.sql("SELECT count() % 7 < 7 FROM flows_1m WHERE src_name LIKE '%app%'")
    assert counted == (1,)
    for text, said in (
        ("DROP TABLE flows_1m", "the SQL may only read"),
        ("INSERT INTO gaps SELECT * FROM gaps", "the SQL may only read"),
        ("SELECT 1 frm a b", r"bad SQL: Syntax error: .*: a b\n"),
        ("SELECT nope FROM flows_1m", "bad SQL: Unknown expression"),
        ("SELECT sum(sipHash64(number)) FROM numbers(100000000000)", "took longer than 0.2 s"),
    ):
        with pytest.raises(UsageError, match=said) as refused:
            list(shipped.sql(text, limit_s=0.2))
        assert refused.value.hint
    with pytest.raises(UsageError, match=r"the SQL has no \{ip:String\}"):
        shipped.sql("SELECT 1", ip="10.0.0.1")


OUTSIDE = (
    "insert into function file('/tmp/x', 'CSV', 'a UInt8') values (1)",
    "select 1 into outfile '{out}'",
    "select 1 /* a /* b */ */ InTo--\nOutfile '{out}'",
    "select 1 AS a$x$, '$x$' into outfile '{out}' -- $x$",
    "select * from file('{secret}', 'LineAsString')",
    "select * from flows_1d, `file`('{secret}', 'LineAsString')",
    "select file('{secret}')",
    "describe file('{secret}', 'LineAsString')",
    "describe (select * from flows_1d, url ('http://127.0.0.1:9/', 'LineAsString'))",
    "select * from url('http://127.0.0.1:9/', 'LineAsString')",
    "select * from remote('127.0.0.1:9', system.one)",
    "select 1 settings max_execution_time = 0",
    "select 1 settings readonly, `max_memory_usage` = 0",
    "select 1 settings\u200blimit, max_execution_time = 0",
    "select 1 format CSV",
    "select 1; drop table flows_1d",
    "set max_execution_time = 0",
    "/* select */ drop table flows_1d",
)


@pytest.mark.parametrize("form", ["json", "csv", "table"])
def test_values_of_any_type_are_shown(invoke: Invoke, fleet, form):
    sql = (
        "SELECT toDecimal64(1.25, 4) AS d, toIPv4('1.2.3.4') AS ip, [toDate('2020-01-01')] AS days,"
        " map(1, toDecimal64(1.5, 1)) AS m, (1, 'a') AS pair"
    )
    found = invoke("query", fleet.target, sql, "-o", form)
    days, pair = '["2020-01-01"]', '[1,"a"]'
    assert (found.exit_code, found.stderr) == (0, "")
    document = f'[{{"d":"1.2500","ip":"1.2.3.4","days":{days},"m":{{"1":"1.5"}},"pair":{pair}}}]'
    assert (
        found.stdout.splitlines()[-1].split("  ")
        == {
            "json": [document],
            "csv": ['1.2500,1.2.3.4,"[""2020-01-01""]","{""1"":""1.5""}","[1,""a""]"'],
            "table": ["1.2500", "1.2.3.4", days, '{"1":"1.5"}', pair],
        }[form]
    )


def test_bytes_that_are_no_utf8_are_said_to_be_none(invoke: Invoke, fleet):
    found = invoke("query", fleet.target, "SELECT '\udcff'")
    assert (found.exit_code, found.stdout) == (2, "")
    assert found.stderr.startswith("Error: \"SELECT '\ufffd'\" is not UTF-8\n")


@pytest.mark.parametrize("text", OUTSIDE)
def test_sql_neither_writes_nor_reads_outside_nor_takes_limits_off(both, tmp_path, text):
    secret, out = tmp_path / "secret", tmp_path / "out"
    secret.write_text("secret\n")
    text = text.replace("{secret}", str(secret)).replace("{out}", str(out))
    with pytest.raises(UsageError, match=r"^the SQL (may|is more)"):
        both[1].sql(text)
    assert not out.exists()


def test_words_that_only_look_like_settings_or_formats_are_answered(both):
    for text in (
        "select settings from recordings where settings = '' limit 1",
        "select format('{}', settings), settings as a from recordings order by settings desc",
        "select 'into outfile x settings a = 1 format CSV' -- insert into\n, `outfile` from"
        ' (select 1 as "outfile") ;',
        "with a as (select 1) select * from a, numbers(2) as b",
    ):
        list(both[1].sql(text))


def test_a_question_that_does_not_end_is_left_behind(fleet, monkeypatch):
    monkeypatch.setattr(sql, "_GRACE_S", -0.9)
    with (
        ctk.open(fleet.target) as shipped,
        pytest.raises(CtkError, match=r"did not answer in 0\.1 s"),
    ):
        shipped.sql("select sleep(2)", limit_s=1)
    for each in threading.enumerate():
        if each.name == "ctk-sql":
            each.join()


@pytest.mark.parametrize("question", ["follow", "diff", "new", "idle", "pressure", "schema"])
def test_what_only_a_file_answers_is_one_clear_line(both, question):
    with pytest.raises(UsageError) as refused:
        getattr(both[1], question)()
    assert refused.value.hint


def test_the_command_line_asks_a_target_as_it_asks_a_file(invoke: Invoke, fleet, tmp_path):
    words = (
        "--by",
        "workloads",
        "--sort",
        "connections",
        "-o",
        "json",
        "--since",
        "2024-11-25T10:00Z",
    )
    one, other = (invoke("top", each, *words) for each in (fleet.merged, fleet.target))
    assert (one.exit_code, one.stdout, one.stderr) == (0, other.stdout, other.stderr)
    assert invoke("info", fleet.target).stdout.startswith("nodes       n0, n1, n2, n3\n")
    found = invoke("query", fleet.target, "--to-service", "svc-1", "-o", "jsonl")
    assert {json.loads(line)["service"] for line in found.stdout.splitlines()} <= {
        f"{space}/svc-1" for space in ("shop", "pay", "search")
    }
    assert found.stderr.endswith("flows are sums of a minute: so they were shipped\n")
    counted = invoke("query", fleet.target, "SELECT count() > 0 AS some FROM flows_1m", "-o", "csv")
    assert counted.stdout == "some\n1\n"
    documents = []
    for number, each in enumerate((fleet.merged, fleet.target)):
        page = tmp_path / f"{number}.json"
        assert invoke("report", each, "--format", "json", "-o", page).exit_code == 0
        documents.append(json.loads(page.read_text()))
    unlike = {key for key in documents[0] if documents[0][key] != documents[1][key]}
    assert unlike <= {"source", "made_at"}
    refused = invoke("export", fleet.target, "--format", "jsonl")
    assert (refused.exit_code, refused.stderr.splitlines()[0]) == (
        2,
        f"Error: {fleet.target} is no file",
    )
    assert "src_port" in invoke("top", fleet.target, "--by", "src_port").stderr


def test_a_folder_that_is_no_chdb_is_refused_and_none_is_made(invoke: Invoke, fleet, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "file").write_text("")
    for folder, said in (
        (tmp_path / "none", f"there is no database chdb://{tmp_path}/none"),
        (other, f"chdb://{other} has no tables of ctk"),
        (other / "file", f"{other}/file is no folder"),
    ):
        found = invoke("top", f"chdb://{folder}")
        assert (found.exit_code, found.stderr.splitlines()[0]) == (2, f"Error: {said}")
    assert [each.name for each in tmp_path.iterdir()] == ["other"]
    assert [each.name for each in other.iterdir()] == ["file"]
    with pytest.raises(UsageError, match="has other files"):
        connect_to(parse_target(f"chdb://{other}", {}), database=False)
    assert (Path(fleet.target.removeprefix("chdb://")).stat().st_mode & 0o777) == 0o700


@pytest.mark.parametrize(
    "words",
    [("serve",), ("export",), ("diff",), ("snapshot", "copy.db"), ("merge", "-o", "all.db")],
)
def test_what_is_of_files_says_that_a_target_is_none(invoke: Invoke, fleet, words):
    found = invoke(words[0], fleet.target, *words[1:])
    assert (found.exit_code, found.stderr.splitlines()[0]) == (
        2,
        f"Error: {fleet.target} is no file",
    )


def test_the_tables_there_are_what_the_ddl_says(invoke: Invoke, fleet):
    assert invoke("schema", fleet.target).stderr == (
        "Error: the views are those of a file\n"
        "Try: ctk ship --to TARGET --init --ddl prints its tables\n"
    )
    ddl = invoke("ship", "--to", fleet.target, "--init", "--ddl")
    assert (ddl.exit_code, "CREATE TABLE" in ddl.stdout) == (0, True)


def test_two_processes_on_one_chdb_are_told_so_in_one_line(fleet):
    command = [sys.executable, "-m", "ctk", "info", fleet.target]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    said = f"Error: another process has {fleet.target} open\nTry: one process at a time has it\n"
    assert (found.returncode, found.stdout, found.stderr) == (1, "", said)


def test_a_table_that_lacks_is_named_with_what_makes_it(tmp_path):
    target = f"chdb://{tmp_path / 'ch'}"
    made = (
        "from ctk.fleet.clickhouse import client, ddl, target\n"
        f"made = client.connect(target.parse_target({target!r}), database=False)\n"
        "ddl.make(made)\n"
        "made.command('DROP TABLE ctk.gaps')"
    )
    subprocess.run([sys.executable, "-c", made], check=True)
    command = [sys.executable, "-m", "ctk", "top", target]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    error, hint = found.stderr.splitlines()
    assert (found.returncode, found.stdout) == (2, "")
    assert error.startswith(f"Error: {target}: ")
    assert "'gaps'" in error
    assert hint == f"Try: ctk ship --init --to {target}, makes what lacks"
