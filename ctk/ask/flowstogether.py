"""The flows of several files, by time."""

from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from functools import partial
from heapq import merge
from itertools import islice, repeat
from operator import attrgetter
from typing import Any

from ctk.ask.caveats import Caveat, PrunedMeanwhile
from ctk.ask.edges import MOST_EDGES, EdgeValues
from ctk.ask.flows import FlowPage, Flows, T
from ctk.ask.pages import PAGE_ROWS, TEXT_KEYS, Position, Row, RowText
from ctk.ask.recording import Recording
from ctk.model import Filters
from ctk.store.columns import EDGE_KEYS, ROW_KEYS, FlowRecord
from ctk.timespan import FOREVER_NS


class FlowsTogether(Flows):
    """The flows of several files, by time."""

    def __init__(
        self,
        parts: Sequence[Recording],
        filters: Filters,
        together: Callable[[Iterable[Iterable[Caveat]], Filters], tuple[Caveat, ...]],
    ) -> None:
        self._parts = parts
        self._each = [part.flows(filters) for part in parts]
        self._together = together
        self.given: Counter[int] = Counter()  # how many of each part
        super().__init__(parts[0].source.reader, filters)

    @property
    def position(self) -> Position | None:
        """There is none: it would be one in each file."""
        return None

    @property
    def caveats(self) -> tuple[Caveat, ...]:
        """What the flows of each file lack; complete after the last one."""
        since_ns, until_ns = self._filters.since_ns, self._filters.until_ns
        if (self._filters.first, self._filters.last) == (None, None) or self._reach is None:
            return self._together((flows.caveats for flows in self._each), self._filters)
        # Each file has read more of itself than was given of it.
        if self._filters.last is not None:
            since_ns = self._reach[0]
        if self._filters.first is not None:
            until_ns = self._reach[1] + 1
        span = self._filters._replace(since_ns=since_ns, until_ns=until_ns, first=None, last=None)
        found = (
            [
                *part.flows(span).caveats,
                *(each for each in flows.caveats if isinstance(each, PrunedMeanwhile)),
            ]
            for part, flows in zip(self._parts, self._each, strict=True)
        )
        return self._together(found, span)

    def pages(
        self, of_edge: Callable[[EdgeValues], T], *, text: RowText | None = None
    ) -> Iterator[FlowPage[T]]:
        """Give the flows as rows; each file numbers its edges, so here they are numbered anew."""
        numbers: dict[tuple[Any, ...], int] = {}
        edges: dict[int, T] = {}
        of_row = _of_row if text is None else partial(_text_of_row, text)
        while some := list(islice(self, PAGE_ROWS)):
            if len(numbers) > MOST_EDGES:
                numbers, edges = {}, {}
            rows: list[Row] = []
            for record in some:
                values = _of_edge(record)
                number = numbers.setdefault(values, len(numbers))
                if number not in edges:
                    edges[number] = of_edge(values)
                rows.append((None, 0, number, *of_row(record)))
            yield rows, edges

    def _read(self) -> Generator[FlowRecord, None, None]:
        each = (zip(flows, repeat(at)) for at, flows in enumerate(self._each))
        found: Iterable[tuple[FlowRecord, int]] = merge(*each, key=_start)
        if self._filters.first is not None:
            found = islice(found, self._filters.first)
        if self._filters.last is not None:
            found = deque(found, self._filters.last)
        first_ns, last_ns = FOREVER_NS, -FOREVER_NS
        try:
            for flow, at in found:
                self.given[at] += 1
                first_ns, last_ns = min(first_ns, flow.started_ns), max(last_ns, flow.started_ns)
                self._reach = first_ns, last_ns
                yield flow
        finally:
            for flows in self._each:
                flows.close()


_of_edge = attrgetter(*EDGE_KEYS)
_of_row = attrgetter(*ROW_KEYS)


_of_text = attrgetter(*TEXT_KEYS)


def _text_of_row(text: RowText, record: FlowRecord) -> tuple[int, int, int | None, bytes]:
    port = record.src_port if isinstance(record.src_port, int) else None
    return record.started_ns, record.ended_ns, port, text.of(_of_text(record))


def _start(found: tuple[FlowRecord, int]) -> int:
    return found[0].started_ns
