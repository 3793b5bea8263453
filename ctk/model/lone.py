"""
Kernel events that are rows of their own (`--aggregate none`), by column.

Rows come by the million. As a tuple each, sorted under their edges, one took 0.5 us more on its way
from the kernel to the file.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import compress
from typing import Generic, TypeVar

# Whose they are: a group of connections, and the id of its edge once that is known.
T = TypeVar("T")


class LoneEvents(Generic[T]):
    """Events in the order they came; `counts` says what each counts as, by the bits COUNTS_*."""

    __slots__ = ("counts", "owners", "src_ports", "started_ns")

    def __init__(self, events: Iterable[tuple[int, T, int | None, int]] = ()) -> None:
        self.started_ns: list[int] = []
        self.owners: list[T] = []
        self.src_ports: list[int | None] = []
        self.counts: list[int] = []
        for event in events:
            self.add(*event)

    def __len__(self) -> int:
        return len(self.started_ns)

    def __iter__(self) -> Iterator[tuple[int, T, int | None, int]]:
        columns = (self.started_ns, self.owners, self.src_ports, self.counts)
        return zip(*columns, strict=True)

    def add(self, started_ns: int, owner: T, src_port: int | None, counts: int) -> None:
        self.started_ns.append(started_ns)
        self.owners.append(owner)
        self.src_ports.append(src_port)
        self.counts.append(counts)

    def extend(
        self,
        started_ns: Iterable[int],
        owners: Iterable[T],
        src_ports: Iterable[int | None],
        counts: Iterable[int],
    ) -> None:
        self.started_ns += started_ns
        self.owners += owners
        self.src_ports += src_ports
        self.counts += counts

    def take(self, other: "LoneEvents[T]") -> None:
        self.extend(other.started_ns, other.owners, other.src_ports, other.counts)

    def chosen(self, chosen: Sequence[bool]) -> "LoneEvents[T]":
        """Give some of them."""
        some = LoneEvents[T]()
        columns = (self.started_ns, self.owners, self.src_ports, self.counts)
        some.extend(*(compress(column, chosen) for column in columns))  # type: ignore[arg-type]
        return some

    def by_time(self) -> "LoneEvents[T]":
        """Give them by when they started, as they most often are."""
        if self.started_ns == sorted(self.started_ns):
            return self
        return LoneEvents(sorted(self, key=lambda event: event[0]))

    def part(self, first: int, end: int | None = None) -> "LoneEvents[T]":
        """Give those from one place to another."""
        some = LoneEvents[T]()
        at = slice(first, end)
        some.extend(self.started_ns[at], self.owners[at], self.src_ports[at], self.counts[at])
        return some
