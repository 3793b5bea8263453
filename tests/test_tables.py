"""Rows in every form."""

import io

import orjson
import pytest

from ctk.render.cells import scaled
from ctk.render.tables import Format, Output, rows


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (None, "?"),
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1_048_524, "1023.9 KiB"),
        (1_048_575, "1.0 MiB"),
        (5 * 2**30, "5.0 GiB"),
        (2**63 - 1, "8.0 EiB"),
        (2**80, "1048576.0 EiB"),
    ],
)
def test_bytes_are_scaled_for_people(size: int | None, text: str) -> None:
    assert scaled(size) == text


COLUMNS = ("name", "n")
FOUND = [("a\tb", 1), (None, None), ('"q", 1', 2**62), (b"\x00\xff", 0.5)]


@pytest.mark.parametrize(
    ("form", "text"),
    [
        (
            "jsonl",
            '{"name":"a\\tb","n":1}\n{"name":null,"n":null}\n'
            '{"name":"\\"q\\", 1","n":4611686018427387904}\n{"name":"00ff","n":0.5}\n',
        ),
        (
            "json",
            '[{"name":"a\\tb","n":1},\n{"name":null,"n":null},\n'
            '{"name":"\\"q\\", 1","n":4611686018427387904},\n{"name":"00ff","n":0.5}]\n',
        ),
        ("csv", 'name,n\na\tb,1\n,\n"""q"", 1",4611686018427387904\n00ff,0.5\n'),
        ("tsv", 'a\\tb\t1\n\t\n"q", 1\t4611686018427387904\n00ff\t0.5\n'),
        (
            "table",
            "name                      n\n"
            "a\\tb                      1\n"
            "-                         -\n"
            '"q", 1  4611686018427387904\n'
            "00ff                    0.5\n",
        ),
    ],
)
def test_any_rows_can_be_written_in_any_form(form: Format, text: str) -> None:
    out = io.BytesIO()
    assert rows(COLUMNS, FOUND, Output(format=form), out) == 4
    assert out.getvalue().decode() == text


def test_a_table_stops_where_it_is_told_to() -> None:
    out = io.BytesIO()
    found = iter([(i,) for i in range(10)])
    assert rows(("n",), found, Output(format="table", most=3), out) == 3
    assert out.getvalue() == b"n\n0\n1\n2\n"


def test_a_table_is_written_a_batch_at_a_time() -> None:
    out = io.BytesIO()
    assert rows(("n",), ((i,) for i in range(2500)), Output(format="table"), out) == 2500
    lines = out.getvalue().decode().splitlines()
    assert (len(lines), lines[0], lines[1], lines[-1]) == (2501, "  n", "  0", "2499")


def test_a_table_shows_what_would_command_a_terminal_as_text() -> None:
    out = io.BytesIO()
    rows(("name",), [("\x1b[2J\n",), ("a\u009bb\u202e",)], Output(format="table"), out)
    assert out.getvalue() == b"name\n\\x1b[2J\\n\na\\x9bb\\u202e\n"


class Terminal(io.BytesIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("form", ["table", "vertical", "markdown", "csv", "tsv", "json", "jsonl"])
def test_no_name_or_value_tells_a_terminal_what_to_do(form: Format) -> None:
    out = Terminal()
    rows(["\x1b[31mx"], [("\x1b]0;a\x07\u009b2J\u202e",)], Output(format=form), out)
    assert not set(out.getvalue().decode()) & set("\x1b\x07\u009b\u202e")


def test_csv_into_a_pipe_is_what_is_there() -> None:
    out = io.BytesIO()
    rows(["\x1bx"], [("\x1b",)], Output(format="csv"), out)
    assert out.getvalue() == b"\x1bx\n\x1b\n"


def test_json_into_a_pipe_has_no_control_that_a_terminal_behind_it_would_obey() -> None:
    out = io.BytesIO()
    rows(["a"], [("\u009b2J\x7fé\u00a0",)], Output(format="jsonl"), out)
    assert out.getvalue() == '{"a":"\\u009b2J\\u007fé\u00a0"}\n'.encode()
    assert orjson.loads(out.getvalue()) == {"a": "\u009b2J\x7fé\u00a0"}
