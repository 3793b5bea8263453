"""What may be in the file: a no must be true."""

from hypothesis import given
from hypothesis import strategies as st

from ctk.store.bloom import Seen

_values = st.lists(st.binary(max_size=16) | st.tuples(st.integers(), st.integers() | st.none()))


@given(_values, _values)
def test_what_was_added_is_never_denied(first, later):
    seen = Seen(first)
    for value in later:
        seen.add(value)
    assert all(value in seen for value in first + later)


def test_few_strangers_are_taken_for_known():
    seen = Seen(range(100_000))
    assert sum(value in seen for value in range(10**9, 10**9 + 10_000)) < 1_000
