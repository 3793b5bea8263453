"""What filters refuse, and how a protocol may be told."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctk.ask.selectors import edge_condition
from ctk.errors import UsageError
from ctk.model import Term


@pytest.mark.parametrize(
    ("term", "message"),
    [
        (Term("ip", "any", ("10.0.0.300",)), "'10.0.0.300' is neither an address nor a CIDR"),
        (Term("ip", "any", ("10.0.0.0/33",)), "'10.0.0.0/33' is neither an address nor a CIDR"),
        (Term("port", "any", ("http",)), "'http' is not a port"),
        (Term("port", "any", ("65536",)), "'65536' is not a port"),
        (Term("kind", "any", ("Pod",)), "'Pod' is not a kind of endpoint"),
        (Term("protocol", "any", ("tpc",)), "'tpc' is not a protocol"),
        *(
            (Term("label", "any", (text,)), f"{text!r} is not a label selector")
            for text in ("", "a=b=c", "a,", ",a", "a in b", "in (a", "a b", "a'=b", "a=b)")
        ),
    ],
)
def test_a_filter_that_makes_no_sense_is_refused(term: Term, message: str) -> None:
    with pytest.raises(UsageError) as error:
        edge_condition([term])
    assert error.value.message == message


@given(st.text())
def test_any_text_is_a_selector_or_an_error_of_the_user(text: str) -> None:
    with suppress(UsageError):
        edge_condition([Term("label", "any", (text,))])


@pytest.mark.parametrize(
    ("text", "proto"), [("6", "tcp"), ("TCP", "tcp"), ("99", "99"), ("58", "icmpv6")]
)
def test_a_protocol_goes_by_name_or_number(text: str, proto: str) -> None:
    condition = edge_condition([Term("protocol", "any", (text,))])
    assert condition is not None
    assert condition.values == (proto,)
