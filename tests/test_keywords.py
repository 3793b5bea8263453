"""Keyword arguments and flags: one table, one meaning."""

from collections.abc import Iterable
from typing import get_type_hints

import pytest
from emptyfile import new
from hypothesis import given
from hypothesis import strategies as st
from questions import FITS, ROWS, fits, flows, write

from ctk.ask.keywords import NAMES, SPAN, Asked, as_flag, filters_of, flags_of
from ctk.errors import UsageError
from ctk.model import Filters, FlowRow, Term

NOW = 1_732_560_442_852_716_307


def test_every_filter_is_a_keyword_argument_that_a_type_checker_knows() -> None:
    assert set(get_type_hints(Asked)) == {*NAMES, *SPAN}


@pytest.mark.parametrize(
    ("asked", "term"),
    [
        ({"namespace": "shop,load"}, Term("namespace", "any", ("shop", "load"))),
        ({"namespace": ["shop", "load, dev"]}, Term("namespace", "any", ("shop", "load", "dev"))),
        ({"to_port": [80, "8000-8999"]}, Term("port", "to", ("80", "8000-8999"))),
        ({"label": "app=web,tier in (a,b)"}, Term("label", "any", ("app=web,tier in (a,b)",))),
        ({"not_cross_namespace": True}, Term("cross_namespace", "any", (), True)),
        ({"min_bytes": 4096}, Term("min_bytes", "any", ("4096",))),
    ],
)
def test_commas_are_between_values_but_in_a_selector(asked: dict[str, object], term: Term) -> None:
    assert filters_of(asked, now_ns=NOW) == Filters(terms=(term,))


def test_a_length_of_time_goes_with_one_end() -> None:
    span = filters_of({"since": NOW, "for_": "1m"}, now_ns=NOW)
    assert (span.since_ns, span.until_ns) == (NOW, NOW + 60 * 10**9)
    span = filters_of({"until": NOW, "for_": 10**9}, now_ns=NOW)
    assert (span.since_ns, span.until_ns) == (NOW - 10**9, NOW)
    for asked in ({"for_": "1m"}, {"for_": "1m", "since": 0, "until": 1}):
        with pytest.raises(UsageError, match="for_ needs since or until, and not both"):
            filters_of(asked, now_ns=NOW)


@st.composite
def asked(draw: st.DrawFn) -> dict[str, object]:
    """Some filters with some values each, as a list, or with commas where these are between."""
    found: dict[str, object] = {}
    for name in draw(st.lists(st.sampled_from(sorted(NAMES)), max_size=4, unique=True)):
        field = NAMES[name].asked
        _, values, _ = FITS[field.field]
        if field.form is None:
            found[name] = draw(st.booleans())
            continue
        chosen = draw(st.lists(st.sampled_from(values), min_size=1, max_size=3))
        split = field.field not in ("label", "min_bytes", "min_connections")
        found[name] = ",".join(chosen) if split and draw(st.booleans()) else chosen
    return found


def _every(asked: dict[str, object]) -> Iterable[Term]:
    for name, value in asked.items():
        field, side, negated = NAMES[name]
        if value is False:
            continue
        given = value.split(",") if isinstance(value, str) else value
        values = tuple(given) if isinstance(given, list) else ()
        yield Term(field.field, side, values, negated)


@given(ROWS, asked())
def test_any_filters_by_name_choose_what_python_chooses(
    rows: list[FlowRow], asked: dict[str, object]
) -> None:
    conn = new()
    write(conn, rows)
    filters = filters_of(asked, now_ns=NOW)
    meant = Filters(terms=tuple(_every(asked)))
    assert list(flows(conn, filters)) == [row for row in flows(conn) if fits(row, meant)]
    conn.close()


def test_filters_are_written_as_flags() -> None:
    filters = filters_of(
        {"from_pod": "web-1,web-2", "not_cross_namespace": True, "min_bytes": "1MiB"}, now_ns=NOW
    )
    assert flags_of(filters) == (
        "--from-pod web-1 --from-pod web-2 --not --cross-namespace --min-bytes 1MiB"
    )
    assert as_flag("for_") == "--for"
