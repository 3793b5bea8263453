"""What may be in the file: a no must be true."""

from hypothesis import given
from hypothesis import strategies as st

from ctk.store.bloom import BloomFilter

_values = st.lists(st.binary(max_size=16) | st.tuples(st.integers(), st.integers() | st.none()))


@given(_values, _values)
def test_what_was_added_is_never_denied(first, later):
    added = BloomFilter(first)
    for value in later:
        added.add(value)
    assert all(value in added for value in first + later)


def test_few_strangers_are_taken_for_known():
    added = BloomFilter(range(100_000))
    assert sum(value in added for value in range(10**9, 10**9 + 10_000)) < 1_000
