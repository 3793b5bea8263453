"""`ctk.open`: questions that don't disturb each other, nor the recorder that goes on writing."""

import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from edges import with_ids
from sample import AT, CLIENT_TO_WEB, ROWS

import ctk
from ctk.ask.caveats import HasGaps, NothingRecorded, PrunedMeanwhile
from ctk.ask.keywords import NAMES, SPAN, Asked
from ctk.ask.pages import PAGE_ROWS
from ctk.errors import UsageError
from ctk.model import EventCounts, Field, FlowRow
from ctk.store import connect
from ctk.store.connect import WAL_BYTES
from ctk.store.write import Writer
from ctk.timespan import DAY, HOUR, MINUTE, SECOND, format_time


@pytest.fixture
def recording(shop: Path) -> Iterator[ctk.Recording]:
    with ctk.open(shop) as opened:
        yield opened


def _writer(conn: Any) -> Writer:
    return Writer(conn, node="n1", source="kernel", settings={}, started_ns=AT, boot_id=None)


def _row(at_ns: int) -> FlowRow:
    return ROWS[0]._replace(started_ns=at_ns, ended_ns=at_ns)


def _write(writer: Writer, starts: range) -> None:
    rows = [_row(at_ns) for at_ns in starts]
    writer.window(with_ids(writer, rows), committed_ns=starts[-1], counters=EventCounts())


def _wal_bytes(path: Path) -> int:
    return path.with_name(f"{path.name}-wal").stat().st_size


def test_a_path_may_be_text_or_a_path(shop: Path) -> None:
    with ctk.open(str(shop)) as by_text, ctk.open(shop) as by_path:
        assert list(by_text.flows()) == list(by_path.flows())


@pytest.mark.parametrize(
    ("target", "message", "hint"),
    [
        ("no.db", "there is no file no.db", "`ctk record` makes one"),
        (
            "clickhouse://me:secret@host/db",
            "a password in the address would be seen by others",
            "set CTK_CLICKHOUSE_PASSWORD instead",
        ),
        (
            "chdb://dir",
            "the folder of a chDB is a whole path",
            "chdb:///var/lib/ctk",
        ),
    ],
)
def test_what_cannot_be_opened_is_one_clear_error(target: str, message: str, hint: str) -> None:
    with pytest.raises(UsageError) as error:
        ctk.open(target)
    assert (error.value.message, error.value.hint) == (message, hint)
    assert error.value.__notes__ == [f"Try: {hint}"]


def test_after_its_block_a_recording_answers_nothing(shop: Path) -> None:
    with ctk.open(shop) as recording:
        began = recording.flows()
        first = next(began)
    assert [first, *began] == list(ctk.open(shop).flows())
    for ask in (recording.flows, recording.top, recording.series, recording.gaps):
        with pytest.raises(UsageError, match="was closed"):
            ask()


def test_several_answers_are_read_at_once(recording: ctk.Recording) -> None:
    asked: list[dict[str, Any]] = [
        {"pod": "web-1"},
        {"service": "shop/db"},
        {"not_pod": "web-1"},
        {"failed": True},
        {},
    ]
    alone = [list(recording.flows(**words)) for words in asked]
    assert len({len(found) for found in alone}) > 2
    answers = [recording.flows(**words) for words in asked]
    interleaved: list[list[ctk.FlowRecord]] = [[] for _ in asked]
    for _ in range(len(ROWS)):
        for answer, found in zip(answers, interleaved, strict=True):
            found += [flow for flow in [next(answer, None)] if flow is not None]
            recording.top(by="proto", to_pod="db-0")
    assert interleaved == alone


def test_several_threads_ask_at_once(recording: ctk.Recording) -> None:
    asked: list[dict[str, Any]] = [
        {"pod": "web-1"},
        {"service": "shop/db"},
        {"namespace": "kube-system"},
        {"not_pod": "web-1", "last": 1},
    ]

    def answers(words: dict[str, Any]) -> tuple[object, ...]:
        return (
            list(recording.flows(**words)),
            recording.top(by=["src", "dst"], **words),
            recording.series(by="service", **words),
            list(recording.sql("SELECT count(*) FROM flows")),
        )

    alone = [answers(words) for words in asked]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(10):
            assert list(pool.map(answers, asked)) == alone


def test_a_reader_that_stands_still_holds_nothing_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "node.db"
    with connect.writer(path) as conn:
        writer = _writer(conn)
        _write(writer, range(AT, AT + 5_000))
        with ctk.open(path) as recording:
            flows = recording.flows()
            found = [next(flows) for _ in range(10)]
            largest_bytes = 0
            for window in range(1, 16):
                at_ns = AT + window * SECOND
                _write(writer, range(at_ns, at_ns + 15_000))
                largest_bytes = max(largest_bytes, _wal_bytes(path))
            _, pages, copied = conn.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            found += flows
    # A window may be written behind what is about to be copied.
    assert largest_bytes < 2 * WAL_BYTES
    assert copied == pages
    assert [flow.started_ns for flow in found] == list(range(AT, AT + 5_000))


def test_sql_that_stands_still_lets_go_of_the_file_at_its_time_limit(tmp_path: Path) -> None:
    path = tmp_path / "node.db"
    with connect.writer(path) as conn:
        writer = _writer(conn)
        _write(writer, range(AT, AT + 5_000))
        with ctk.open(path) as recording:
            answer = recording.sql("SELECT started_ns FROM flows", limit_s=4)
            assert next(answer) == (AT,)
            _write(writer, range(AT + SECOND, AT + SECOND + 5_000))
            _, pages, copied = conn.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            assert copied < pages
            time.sleep(4.5)
            _, pages, copied = conn.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            assert copied == pages
            with pytest.raises(UsageError) as error:
                list(answer)
    assert error.value.message == "the answer to the SQL was not read to its end in 4 s"


def test_an_answer_in_sql_that_was_read_ahead_holds_nothing(tmp_path: Path) -> None:
    path = tmp_path / "node.db"
    with connect.writer(path) as conn:
        writer = _writer(conn)
        _write(writer, range(AT, AT + 100))
        with ctk.open(path) as recording:
            answer = recording.sql("SELECT started_ns FROM flows")
            _write(writer, range(AT + SECOND, AT + SECOND + 100))
            _, pages, copied = conn.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            assert copied == pages
            assert [started_ns for (started_ns,) in answer] == list(range(AT, AT + 100))


def test_flows_are_those_of_the_moment_the_first_was_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "node.db"
    with connect.writer(path) as conn:
        writer = _writer(conn)
        _write(writer, range(AT, AT + 3_000, 2))
        with ctk.open(path) as recording:
            flows = recording.flows()
            found = [next(flows)]
            # Later ones, late ones between those still to be read, and late ones before.
            _write(writer, range(AT + SECOND, AT + SECOND + 10))
            _write(writer, range(AT + 2_001, AT + 2_021, 2))
            _write(writer, range(AT - 10, AT))
            found += flows
            assert [flow.started_ns for flow in found] == list(range(AT, AT + 3_000, 2))
            # Who goes on from there has them all, once: the late ones first.
            rest = list(recording.flows(after=flows.position))
            assert [flow.started_ns for flow in rest] == [
                *range(AT + 2_001, AT + 2_021, 2),
                *range(AT - 10, AT),
                *range(AT + SECOND, AT + SECOND + 10),
            ]


def test_flows_that_were_pruned_before_they_were_read_are_a_caveat(tmp_path: Path) -> None:
    path = tmp_path / "node.db"
    start_ns = AT - AT % MINUTE
    with connect.writer(path) as conn:
        writer = _writer(conn)
        _write(writer, range(start_ns, start_ns + 10 * MINUTE, MINUTE // 500))
        for _ in writer.maintain(start_ns + 10 * MINUTE, {}):
            pass
        with ctk.open(path) as recording:
            flows = recording.flows()
            assert flows.caveats == ()
            found = [next(flows)]
            for _ in writer.maintain(start_ns + DAY, {"flow": DAY - 8 * MINUTE}):
                pass
            found += flows
            caveats = flows.caveats
    starts = [flow.started_ns for flow in found]
    # The first page was read before.
    last_ns = start_ns + (PAGE_ROWS - 1) * (MINUTE // 500)
    assert starts[:PAGE_ROWS] == list(range(start_ns, last_ns + 1, MINUTE // 500))
    assert starts[PAGE_ROWS:] == list(
        range(start_ns + 8 * MINUTE, start_ns + 10 * MINUTE, MINUTE // 500)
    )
    assert caveats == (PrunedMeanwhile(last_ns, start_ns + 8 * MINUTE),)
    assert caveats[0].text == (
        f"flows from {format_time(last_ns)} to 2024-11-25T18:55:00Z"
        " were pruned before they were read"
    )


def test_what_is_folded_while_flows_are_read_is_found_all_the_same(tmp_path: Path) -> None:
    """The rollups, which say where flows that fit may be, change between two pages."""
    path = tmp_path / "node.db"
    start_ns = AT - AT % HOUR
    peer = CLIENT_TO_WEB.src
    with connect.writer(path) as conn:
        writer = _writer(conn)
        starts = [start_ns + i * MINUTE for i in range(2_000)]
        rows = [_row(at_ns)._replace(edge_id=CLIENT_TO_WEB) for at_ns in starts]
        writer.window(with_ids(writer, rows), committed_ns=starts[-1], counters=EventCounts())
        with ctk.open(path) as recording:
            flows = recording.flows(ip=peer.address)
            found = [next(flows)]
            for _ in writer.maintain(starts[-1] + DAY, {"flow": 9 * DAY, "1m": DAY}):
                pass
            found += flows
    assert [flow.started_ns for flow in found] == starts


def test_sql_leaves_nothing_on_other_questions(recording: ctk.Recording) -> None:
    before = list(recording.flows(pod="web-1"))
    with pytest.raises(UsageError, match="took longer than"):
        list(
            recording.sql(
                "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)"
                " SELECT MAX(i) FROM n",
                limit_s=0.2,
            )
        )
    with pytest.raises(UsageError, match="may only read"):
        recording.sql("DELETE FROM flow")
    time.sleep(0.3)
    assert list(recording.flows(pod="web-1")) == before
    assert recording.top(by="proto", pod="web-1").groups == 2


def test_sql_binds_its_parameters_by_name(recording: ctk.Recording) -> None:
    text = "SELECT DISTINCT dst, :limit_s AS a FROM flows WHERE src = :ip AND dst_port = :port"
    answer = recording.sql(text, {"limit_s": 1}, ip="10.244.0.5", port=443)
    assert answer.columns == ("dst", "a")
    assert list(answer.records()) == [{"dst": "203.0.113.9", "a": 1}]


@pytest.mark.parametrize(
    ("words", "flags"),
    [
        ({}, ""),
        ({"pod": "web-1"}, "--pod web-1"),
        ({"pod": ["web-1", "db-0"]}, "--pod web-1 --pod db-0"),
        ({"to_pod": "db-0", "not_from_pod": "web-1"}, "--to-pod=db-0 --not --from-pod=web-1"),
        ({"port": 443, "not_failed": True}, "--port 443 --not --failed"),
        ({"failed": True, "protocol": ("tcp", 17)}, "--failed --protocol=tcp --protocol=17"),
        ({"failed": False, "namespace": None, "last": 3}, "--last 3"),
        ({"label": "app=web", "node": "n1"}, "--label app=web --node n1"),
        ({"ip": ip_network("10.244.1.0/24"), "kind": "pod"}, "--ip 10.244.1.0/24 --kind pod"),
        ({"ip": [ip_address("10.244.1.7"), "10.9.9.9"]}, "--ip 10.244.1.7 --ip 10.9.9.9"),
        ({"since": "2024-11-25T18:48Z", "first": 1}, "--since 2024-11-25T18:48Z --first 1"),
        ({"until": datetime(2024, 11, 25, 18, 48, tzinfo=UTC)}, "--until 2024-11-25T18:48Z"),
        ({"until": datetime(2024, 11, 25, 18, 48)}, "--until 2024-11-25T18:48Z"),
        ({"since": AT + 30 * SECOND}, "--since 2024-11-25T18:47:52.852716307Z"),
    ],
)
def test_keyword_arguments_are_the_flags(
    shop: Path, invoke: Any, words: dict[str, Any], flags: str
) -> None:
    lines = invoke("query", shop, "-o", "tsv", *flags.split()).stdout.splitlines()
    with ctk.open(shop) as recording:
        found = recording.flows(**words)
        assert [flow.started_at for flow in found] == [line.split("\t")[0] for line in lines]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"podd": "web"}, "'podd' is not a keyword argument here: did you mean 'pod'?"),
        ({"not_form_pod": "x"}, "'not_form_pod' is not a keyword argument here:"
         " did you mean 'not_from_pod'?"),
        ({"afte": None}, "'afte' is not a keyword argument here: did you mean 'after'?"),
        ({"xyzzy": 1}, "'xyzzy' is not a keyword argument here"),
    ],
)  # fmt: skip
def test_a_wrong_name_is_a_type_error_with_the_nearest(
    recording: ctk.Recording, words: dict[str, Any], message: str
) -> None:
    with pytest.raises(TypeError) as error:
        recording.flows(**words)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"pod": ""}, "pod is empty"),
        ({"pod": []}, "pod is empty"),
        ({"not_pod": ["web", ""]}, "not_pod is empty"),
        ({"pod": 1.5}, "1.5 is neither a text nor a number"),
        ({"port": True}, "True is neither a text nor a number"),
        ({"port": 65536}, "'65536' is not a port"),
        ({"kind": "Pod"}, "'Pod' is not a kind of endpoint"),
        ({"failed": "yes"}, "failed is 'yes'"),
        ({"first": -1}, "-1 is not a number of flows"),
        ({"first": 1, "last": 1}, "first and last exclude each other"),
        ({"since": 2, "until": 1}, "since is later than until"),
        ({"since": "soon"}, "'soon' is neither an age nor a time"),
        ({"since": 10**20}, "100000000000000000000 is outside the years 1677 to 2262"),
        ({"since": 1.5}, "1.5 is no time"),
    ],
)
def test_a_value_that_makes_no_sense_is_refused_at_once(
    recording: ctk.Recording, words: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError) as error:
        recording.flows(**words)
    assert error.value.message == message
    assert error.value.hint


def test_what_is_asked_of_a_ranking_wrongly_is_refused(recording: ctk.Recording) -> None:
    for words, message in (
        ({"by": "servce"}, "'servce' is not a key to group by"),
        ({"by": []}, "by is empty"),
        ({"sort": "size"}, "'size' is not a count to sort by"),
        ({"limit": -1}, "-1 is not a number of rows"),
    ):
        with pytest.raises(UsageError) as error:
            recording.top(**words)  # type: ignore[arg-type]
        assert error.value.message == message


def test_every_filter_is_a_keyword_that_a_type_checker_knows() -> None:
    assert list(get_type_hints(Asked)) == [*SPAN, *NAMES]
    assert {name.asked.field for name in NAMES.values()} == set(get_args(Field))


def test_caveats_are_complete_when_the_flows_are_read(recording: ctk.Recording) -> None:
    flows = recording.flows(last=3, not_port=514)
    assert [len(caveat.gaps) for caveat in flows.caveats if isinstance(caveat, HasGaps)] == [2]
    list(flows)
    assert [caveat.text for caveat in flows.caveats] == ["1 gap in this window: 1,204 events lost"]


def test_a_file_without_a_recording_says_so_in_every_answer(tmp_path: Path) -> None:
    with connect.writer(tmp_path / "new.db"):
        pass
    with ctk.open(tmp_path / "new.db") as recording:
        answers = (
            recording.flows(),
            recording.top(),
            recording.series(),
            recording.gaps(),
            recording.describe(),
        )
        assert [answer.caveats for answer in answers] == [(NothingRecorded(),)] * 5


def test_records_are_what_a_data_frame_takes(recording: ctk.Recording) -> None:
    counts = {"connections": 4, "events": 15, "failed": 0, "packets": 71, "bytes": 65600}
    counts |= {"bytes_out": 1600, "bytes_in": 64000, "refused": 0, "unreplied": 0}
    asked = {"service": "shop/db"}
    top = recording.top(by="src_workload", **asked)  # type: ignore[arg-type]
    assert top.records() == [{"src_workload": "web"} | counts]
    [seen] = recording.top(by="src_workload", seen=True, **asked).records()  # type: ignore[arg-type]
    times = {"first_seen_ns": AT + 10 * SECOND, "last_seen_ns": 1_732_560_504_852_716_307}
    assert seen == {"src_workload": "web"} | counts | times
    series = recording.series(by="src_workload", step="1h", **asked)  # type: ignore[arg-type]
    at = {"started_at": "2024-11-25T18:00:00.000000000Z", "started_ns": AT - AT % HOUR}
    rates = {"connections_per_s": 4 / 70, "bytes_per_s": 65600 / 70, "recorded_ns": 70 * SECOND}
    [hour] = series.records()
    assert hour == at | {"src_workload": "web"} | counts | rates | {"is_whole": False}  # two gaps


def test_importing_ctk_imports_no_sqlite() -> None:
    code = "import sys, ctk; print(*{'sqlite3', 'click', 'orjson', 'ctk.ask'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "\n"


def test_its_types_are_shipped() -> None:
    root = Path(__file__).parents[1]
    assert (root / "ctk" / "py.typed").read_bytes() == b""
    tools = tomllib.loads((root / "pyproject.toml").read_text())["tool"]
    assert tools["setuptools"]["package-data"]["ctk"] == ["py.typed"]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"limit": 10**30}, f"{10**30} is not a number of rows"),
        ({"limit": "3"}, "'3' is not a number of rows"),
        ({"last": 10**30}, f"{10**30} is not a number of flows"),
    ],
)
def test_a_number_that_is_none_is_asked_wrongly(shop, asked, message):
    with ctk.open(shop) as recording, pytest.raises(ctk.UsageError, match=message):
        recording.top(**asked)


def test_a_step_that_is_no_age_is_asked_wrongly(shop):
    with ctk.open(shop) as recording, pytest.raises(ctk.UsageError, match="is not a step"):
        recording.series(step=timedelta(minutes=1))
