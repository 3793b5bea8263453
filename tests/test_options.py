"""What the words of a command line become."""

import pytest

from ctk.errors import UsageError
from ctk.model.numbers import parse_count, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("4096", 4096),
        ("4096B", 4096),
        ("16MiB", 16 * 2**20),
        ("1G", 2**30),
        ("512k", 512 * 2**10),
        ("2TiB", 2 * 2**40),
        ("500MB", 500 * 10**6),
        ("1kb", 1000),
    ],
)
def test_a_size_is_a_number_with_a_unit(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "much", "-1", "1.5G", "16 MiB", "1X", "MiB"])
def test_what_is_no_size_says_how_to_write_one(text: str) -> None:
    with pytest.raises(UsageError) as error:
        parse_size(text)
    assert (error.value.message, error.value.hint) == (
        f"{text!r} is not a size",
        "write it as 512K, 16MiB or 1G",
    )


@pytest.mark.parametrize("text", ["", "-1", "many", "1.0"])
def test_what_is_no_count_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not a count"):
        parse_count(text)
