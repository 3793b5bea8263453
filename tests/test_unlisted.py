"""What a dump did not list."""

from hypothesis import given, settings
from hypothesis import strategies as st

from ctk.conntrack.unlisted import Unlisted

KEYS = st.integers(0, 30)


@settings(max_examples=60)
@given(
    live=st.sets(KEYS),
    parts=st.lists(st.lists(KEYS, max_size=5), max_size=8),
    most=st.integers(1, 9),
)
def test_what_is_left_is_what_lived_and_was_not_listed(live, parts, most):
    """However the entering of them and the parts of the dump meet."""
    unlisted = Unlisted(sorted(live))
    for part in parts:
        unlisted.enter(most)
        assert unlisted.take_all(part) == part
    assert set(unlisted.left()) == live - {key for part in parts for key in part}


def test_a_key_that_is_listed_is_given_as_the_object_that_lives():
    """So that its counters need no other: 48 bytes a connection."""
    lives = 1 << 100
    unlisted = Unlisted([lives])
    unlisted.enter()
    assert unlisted.take((1 << 99) * 2) is lives
