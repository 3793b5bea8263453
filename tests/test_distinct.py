"""Counts of different values: exact while few, near enough when many, and mergeable."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctk.model.distinct import EXACT, Distinct


def addresses(first: int, count: int) -> list[bytes]:
    return [(0x0800_0000 + n).to_bytes(4, "big") for n in range(first, first + count)]


@pytest.mark.parametrize("count", [0, 1, EXACT - 1, EXACT])
def test_few_are_counted_exactly(count: int) -> None:
    counted = Distinct(addresses(0, count) * 2)
    assert (len(counted), counted.is_exact) == (count, True)


@pytest.mark.parametrize("count", [EXACT + 1, 1_000, 5_000, 20_000, 100_000])
def test_many_are_counted_to_a_few_percent(count: int) -> None:
    """The standard error is 2.3 %; these values are the same in every run."""
    counted = Distinct(addresses(0, count))
    assert not counted.is_exact
    assert abs(len(counted) - count) < 0.06 * count


_parts = st.lists(st.tuples(st.integers(0, 2_000), st.integers(0, 400)), max_size=5)


@given(_parts)
def test_merged_counts_are_the_count_of_all(parts: list[tuple[int, int]]) -> None:
    """In any order, stored between or not."""
    whole, merged, backwards = Distinct(), Distinct(), Distinct()
    counted = [Distinct(addresses(*part)) for part in parts]
    for part in parts:
        for value in addresses(*part):
            whole.add(value)
    for each in counted:
        merged.merge(Distinct.unpack(each.pack()))
    for each in reversed(counted):
        backwards.merge(each)
    assert merged.pack() == backwards.pack() == whole.pack()
    assert len(merged) == len(whole)


def test_the_hash_is_the_same_on_every_machine() -> None:
    """What one recorder stored is merged with what another stores, maybe years later."""
    assert Distinct([b"\x08\x08\x08\x08"]).pack().hex() == "6801dbdc10493df6fe"


def test_what_is_stored_is_small() -> None:
    assert len(Distinct(addresses(0, 100_000)).pack()) < 1_100


@pytest.mark.parametrize(
    "packed",
    [b"", b"x", b"h1234567", b"h" + bytes(8 * (EXACT + 1)), b"r", b"rxyz", Distinct().pack()[1:]],
)
def test_what_is_no_count_is_refused(packed: bytes) -> None:
    with pytest.raises(ValueError, match="broken"):
        Distinct.unpack(packed)
