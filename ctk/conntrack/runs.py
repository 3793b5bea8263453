"""
Many messages of one layout, at equal distances: what a flood is, and what a dump of its entries is.

Their attribute headers are compared a column at a time, and one call takes the values of all.
"""

import struct
from collections.abc import Iterator, Sequence
from typing import Any

AT_ONCE = 128  # messages, so that a mixed batch has runs too
_WORD = 4  # netlink aligns every header to it


class Run:
    """How to read messages that are like `template` in `compared`: offsets and sizes in it."""

    __slots__ = ("_columns", "_format", "_size", "_structs")

    def __init__(
        self,
        template: bytes,
        compared: Sequence[tuple[int, int]],
        values: Sequence[tuple[int, str]],
    ) -> None:
        words = [
            word for at, size in compared for word in range(at // _WORD, -(-(at + size) // _WORD))
        ]
        self._columns = [
            (word, template[word * _WORD : (word + 1) * _WORD] * AT_ONCE) for word in words
        ]
        self._format, end = ">", 0
        for at, code in values:
            self._format += f"{at - end}x{code}"
            end = at + struct.calcsize(">" + code)
        self._size = end
        self._structs: dict[int, struct.Struct] = {}  # by the distance of messages

    def read(
        self, buffer: bytearray, first: int, distance: int, count: int
    ) -> Iterator[tuple[Any, ...]] | None:
        """
        Give the values of `count` messages from `first` on; None where one is of another layout.

        At most AT_ONCE, and all within the buffer.
        """
        end = first + distance * count
        if (first | distance | len(buffer)) % _WORD or end > len(buffer) or distance < self._size:
            return None
        view = memoryview(buffer)
        words, step = view.cast("I"), distance // _WORD
        start, stop = first // _WORD, end // _WORD
        for word, column in self._columns:
            if words[start + word : stop : step].tobytes() != column[: count * _WORD]:
                return None
        unpack = self._structs.get(distance)
        if unpack is None:
            padding = distance - self._size
            unpack = self._structs[distance] = struct.Struct(f"{self._format}{padding}x")
        return unpack.iter_unpack(view[first:end])
