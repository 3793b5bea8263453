"""
Many messages of one layout, at equal distances: what a flood is, and what a dump of its entries is.

Their attribute headers are compared a column at a time, and one call takes the values of all. Most
of what a flood tells is said by three columns: the tuples, the source ports and the kernel's ids.
So these can be had without the rest, and no event of theirs is ever made.
"""

import struct
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple, TypeVar

# Messages, so that a mixed batch has runs too, and so that what is made of them stays in the
# nearest cache until it is counted: of 1,024 at once each costs twice as much.
AT_ONCE = 128
_WORD, _HALF = 4, 2  # netlink aligns every header to a word

_T = TypeVar("_T")


class Places(NamedTuple):
    """Where the columns of a flood are in a message."""

    what: int
    tuples: int  # from the begin of `orig` to the end of `reply`, with the source port in between
    port: int
    reply: int
    tuples_end: int
    ct_id: int
    at: int | None  # the kernel's time, where it sends one


class Run:
    """How to read messages that are like `template` in `compared`: offsets and sizes in it."""

    __slots__ = ("_columns", "_format", "_size", "_structs", "places")

    def __init__(
        self,
        template: bytes,
        compared: Sequence[tuple[int, int]],
        values: Sequence[tuple[int, str]],
        places: Places | None,
    ) -> None:
        """`places` is None where a flow is not told by the tuples alone."""
        words = [
            word for at, size in compared for word in range(at // _WORD, -(-(at + size) // _WORD))
        ]
        self._columns = [
            (word, template[word * _WORD : (word + 1) * _WORD] * AT_ONCE) for word in words
        ]
        self._format, end = "", 0
        for at, code in values:
            self._format += f"{at - end}x{code}"
            end = at + struct.calcsize(">" + code)
        self._size = end
        # By the distance of messages, and how many are read together.
        self._structs: dict[tuple[str, int, int], struct.Struct] = {}
        self.places = places

    def fits(self, buffer: bytearray, first: int, distance: int, count: int) -> bool:
        """
        Say whether `count` messages from `first` on are of this layout.

        At most AT_ONCE, and all within the buffer.
        """
        end = first + distance * count
        if (first | distance | len(buffer)) % _WORD or end > len(buffer) or distance < self._size:
            return False
        words, step = memoryview(buffer).cast("I"), distance // _WORD
        start, stop = first // _WORD, end // _WORD
        for word, column in self._columns:
            if words[start + word : stop : step].tobytes() != column[: count * _WORD]:
                return False
        return True

    def values(self, messages: memoryview, distance: int) -> Iterator[tuple[Any, ...]]:
        """Give the values of every message."""
        return self.unpacked(self._format, messages, distance)

    def unpacked(
        self, layout: str, messages: memoryview, distance: int, together: int = 1
    ) -> Iterator[tuple[Any, ...]]:
        """Give of every message, or of so many together, what a Struct of this layout takes."""
        made = self._structs.get((layout, distance, together))
        if made is None:
            padding = distance - struct.calcsize(">" + layout)
            made = struct.Struct(">" + f"{layout}{padding}x" * together)
            self._structs[layout, distance, together] = made
        return made.iter_unpack(messages)


class Columns:
    """
    At most AT_ONCE messages that fit one Run, to be read while their buffer has them.

    `events` of all of them are made when asked for.
    """

    __slots__ = (
        "_all",
        "_distance",
        "_halves",
        "_messages",
        "_pick",
        "_run",
        "_stand_ins",
        "_whats",
        "at_ns",
    )

    def __init__(
        self,
        run: Run,
        messages: memoryview,
        distance: int,
        pick: Any,
        stand_ins: tuple[None, int, int],
    ) -> None:
        self._run, self._messages, self._distance = run, messages, distance
        self._halves = messages.cast("H")
        self._pick, self._stand_ins = pick, stand_ins
        self._whats: list[int] | None = None
        self._all: bytes | None = None  # what each of them is; empty where they are not the same
        self.at_ns = stand_ins[2]  # when they were received

    def __len__(self) -> int:
        return len(self._messages) // self._distance

    def events(self) -> list[Any]:
        """Return each as a tuple shaped as Event."""
        pick, stand_ins = self._pick, self._stand_ins
        return [pick(each + stand_ins) for each in self._run.values(self._messages, self._distance)]

    @property
    def places(self) -> Places | None:
        return self._run.places

    def _column(self, at: int, code: str) -> Iterator[Any]:
        # A tuple of eight takes a quarter less than eight of one.
        together = 1 if len(self) % 8 else 8
        rows = self._run.unpacked(f"{at}x{code}", self._messages, self._distance, together)
        return chain.from_iterable(rows)

    def whats(self, places: Places) -> list[int]:
        if self._whats is None:
            self._whats = list(self._column(places.what, "I"))
        return self._whats

    def is_all(self, what: bytes, places: Places) -> bool:
        """Say whether each is this: `what` as it stands in a message."""
        if self._all is None:  # it is asked twice
            column = self._messages.cast("I")[places.what // _WORD :: self._distance // _WORD]
            first = column[:1].tobytes()
            self._all = first if column.tobytes() == first * len(self) else b""
        return self._all == what

    def times(self, places: Places) -> list[int]:
        """Return when each happened."""
        if places.at is None:
            return [self.at_ns] * len(self)
        return list(self._column(places.at, "Q"))

    def first_ns(self) -> int:
        """Return when the first of them happened."""
        places = self.places
        return self.at_ns if places is None or places.at is None else self.times(places)[0]

    def own(self, places: Places) -> tuple[int, ...]:
        """Return the bits of a key that are a connection's own: `ct_id << 16 | port`."""
        packed = bytearray(8 * len(self))
        own, step = memoryview(packed).cast("H"), self._distance // _HALF
        ct_id = places.ct_id // _HALF
        own[1::4] = self._halves[ct_id::step]
        own[2::4] = self._halves[ct_id + 1 :: step]
        own[3::4] = self._halves[places.port // _HALF :: step]
        return struct.unpack(f">{len(self)}Q", packed)

    def flows(self, places: Places, flow_of: Callable[[bytes], _T]) -> list[_T]:
        """Ask for each flow by the bytes of both tuples, with 0 for the source port."""
        halves = self._halves
        ports = slice(places.port // _HALF, None, self._distance // _HALF)
        kept = halves[ports].tobytes()
        # They are out of the way while the bytes around them are taken as one.
        halves[ports] = memoryview(bytes(len(kept))).cast("H")
        size = places.tuples_end - places.tuples
        # None of them is kept: they stay in the nearest cache.
        flows = list(map(flow_of, self._column(places.tuples, f"{size}s")))
        halves[ports] = memoryview(kept).cast("H")
        return flows
