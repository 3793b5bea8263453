"""What may have been added before: a no is sure, and spares a look into the file."""

from collections.abc import Hashable, Iterable

_SLOTS = 1 << 21  # a byte each: of 250,000 values, one in nine strangers is taken for known


class BloomFilter:
    """
    A set of values in 2 MiB, with one hash, from which nothing is ever removed.

    It says yes to all that was added, and to some that was not.
    """

    def __init__(self, values: Iterable[Hashable] = ()) -> None:
        self._slots = bytearray(_SLOTS)
        for value in values:
            self.add(value)

    def add(self, value: Hashable) -> None:
        self._slots[hash(value) % _SLOTS] = 1

    def __contains__(self, value: Hashable) -> bool:
        return self._slots[hash(value) % _SLOTS] == 1
