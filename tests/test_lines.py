"""Lines that are filled into templates are those that a record's own encoding gives."""

import csv
import io
import json
import sqlite3
from functools import partial
from pathlib import Path
from typing import Any, get_args

import orjson
import pytest
from edges import edge, with_ids
from sample import AT, CLIENT, PING, WEB, WEB_TO_DB

import ctk
from ctk.ask.flows import Flows
from ctk.ask.pages import TEXT_KEYS
from ctk.errors import StoreError
from ctk.model import Endpoint, EventCounts, Filters, FlowRow
from ctk.render.lines import Templates, TimeUnit
from ctk.render.tables import encoder
from ctk.store import connect
from ctk.store.columns import FLOW_KEYS, ROW_KEYS, FlowRecord
from ctk.store.write import Writer
from ctk.timespan import SECOND

# The file may come from anywhere: names that would break a template, or a line.
ODD = [
    edge("tcp", 0, Endpoint(
        address="10.244.0.9", kind="pod", valid_from_ns=0, namespace="a%sb", name=name,
        labels={name: "%d"},
    ), CLIENT, 80, None, CLIENT, None, "x/%s", "address")
    for name in ("per%cent", "nul\0nul", 'quo"te,\n', "\\n\ttab", "ünï")
]  # fmt: skip
# Before 1970, in its first second, and later.
TIMES = (-SECOND - 1, -1, 0, 7, SECOND - 1, SECOND, AT, AT + 1, AT + 61 * SECOND)
COUNTS = ((1, 2, 3, 4, 0, 1, None, None, None, None), (0, 0, 1, 0, 0, 0, 0, 2**60, 1, 9))


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("odd") / "odd.db"
    rows = [
        FlowRow(edge, at_ns, at_ns + 5, 8080 if at_ns % 2 else None, *counts)
        for edge in (*ODD, WEB_TO_DB, PING)
        for at_ns in TIMES
        for counts in COUNTS
    ]
    with connect.writer(path) as conn:
        writer = Writer(conn, node="n1", source="kernel", settings={}, started_ns=0, boot_id=None)
        writer.window(with_ids(writer, rows), committed_ns=AT, counters=EventCounts())
    return path


ALL = Filters()


def lines(path: Path, form: Any, time: TimeUnit, filters: Filters = ALL) -> list[bytes]:
    made = Templates(form, time)
    pages = Flows(partial(connect.reader, path), filters, page_rows=10).pages(
        made.of_edge, text=made.text
    )
    return [line for rows, edges in pages for line in made.lines(rows, edges)]


def records(path: Path, filters: Filters = ALL) -> list[FlowRecord]:
    return list(Flows(partial(connect.reader, path), filters))


@pytest.mark.parametrize("since_ns", [None, SECOND])  # with the times that are odd, and without
@pytest.mark.parametrize("form", ["jsonl", "csv", "tsv"])
def test_a_line_is_that_of_the_record(odd: Path, form: str, since_ns: int | None) -> None:
    filters = Filters(since_ns=since_ns)
    encode = encoder(form, FLOW_KEYS)
    expected = [encode(record) + b"\n" for record in records(odd, filters)]
    assert len(expected) > 50
    assert lines(odd, form, "ns", filters) == expected


@pytest.mark.parametrize("time", get_args(TimeUnit))
def test_times_are_texts_and_numbers_of_the_unit(odd: Path, time: TimeUnit) -> None:
    for line, record in zip(lines(odd, "jsonl", time), records(odd), strict=True):
        expected = json.loads(encoder("jsonl", FLOW_KEYS)(record))
        started_ns, ended_ns = expected.pop("started_ns"), expected.pop("ended_ns")
        if time == "ns":
            expected |= {"started_ns": started_ns, "ended_ns": ended_ns}
        elif time == "us":
            expected |= {"started_us": started_ns // 1000, "ended_us": ended_ns // 1000}
        assert orjson.loads(line) == expected


def test_an_array_is_one_whatever_is_in_it(odd: Path) -> None:
    made = Templates("json", "ns")
    pages = Flows(partial(connect.reader, odd), ALL, page_rows=10).pages(
        made.of_edge, text=made.text
    )
    text = b"".join(line for rows, edges in pages for line in made.lines(rows, edges))
    expected = [orjson.loads(encoder("jsonl", FLOW_KEYS)(record)) for record in records(odd)]
    assert orjson.loads(text + made.end()) == expected
    assert Templates("json", "ns").end() == b"[]\n"


def test_what_is_no_number_in_a_file_breaks_no_line(odd: Path, tmp_path: Path) -> None:
    path = tmp_path / "harm.db"
    path.write_bytes(odd.read_bytes())
    with sqlite3.connect(path) as conn:
        for column in ("src_port", "connections", "bytes_out", "packets_in"):
            conn.execute(f"UPDATE flow SET {column} = ? WHERE n % 2", (f'0,"{column}":\n1',))
    conn.close()
    made = lines(path, "jsonl", "ns", Filters(since_ns=SECOND))
    assert all(list(orjson.loads(line)) == list(FLOW_KEYS) for line in made)
    assert not any(b"\n" in line[:-1] for line in made)


def test_a_time_that_is_no_whole_number_is_damage(odd: Path, tmp_path: Path) -> None:
    path = tmp_path / "harm.db"
    path.write_bytes(odd.read_bytes())
    with sqlite3.connect(path) as conn:
        conn.execute(f"UPDATE flow SET started_ns = {SECOND}.5 WHERE started_ns = {SECOND}")
    conn.close()
    with pytest.raises(StoreError, match="is damaged"), ctk.open(path):
        lines(path, "jsonl", "ns")


@pytest.mark.parametrize("count", [1, 25, 10_000])
def test_the_last_ones_are_those_of_all(odd: Path, count: int) -> None:
    assert lines(odd, "csv", "ns", Filters(last=count)) == lines(odd, "csv", "ns")[-count:]


@pytest.mark.parametrize(("form", "delimiter"), [("csv", ","), ("tsv", "\t")])
def test_a_head_names_the_columns(form: Any, delimiter: str) -> None:
    [names] = csv.reader(io.StringIO(Templates(form, "us").header.decode()), delimiter=delimiter)
    assert names[:5] == ["started_at", "ended_at", "started_us", "ended_us", "cluster"]


def test_what_a_row_says_itself_is_numbers() -> None:
    """They become text all at once, with nothing to quote; but for its times they end the line."""
    hints = FlowRecord.__annotations__
    assert all("int" in str(hints[key]) for key in ROW_KEYS)
    assert FLOW_KEYS[-len(TEXT_KEYS) :] == TEXT_KEYS


def test_flows_of_one_edge_share_what_they_have_in_common(odd: Path) -> None:
    made = []
    list(Flows(partial(connect.reader, odd), ALL).pages(made.append))
    assert len(made) == len({*ODD, WEB_TO_DB, PING})
    assert WEB.name in {name for values in made for name in values}
