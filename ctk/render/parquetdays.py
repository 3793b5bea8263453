"""
Flows as a folder of Parquet files, one a day and node.

DIR/day=2024-11-25/recorder=n1/flows.parquet is what readers take for partitions.

A day that is over is written once, and its file is never touched again: its name is known before it
is written, so that who uploads the folder sends each object once. A day that goes on is in
`flows-so-far.parquet`, which is written anew each time and gets the other name in the end. What was
pruned meanwhile is taken over from it.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from ctk.ask.flows import Flows
from ctk.ask.pages import STARTED, Row
from ctk.errors import StoreError
from ctk.render.lines import TimeUnit
from ctk.render.parquet import ParquetEncoder
from ctk.store.columns import EDGE_KEYS
from ctk.timespan import DAY, format_time

_WHOLE, _SO_FAR = "flows.parquet", "flows-so-far.parquet"
_ROWS_IN_MEMORY = 65_536  # of all nodes together, before they are written
_NODE = EDGE_KEYS.index("node")


class Reach(NamedTuple):
    """From when to when a node was recorded, and up to when it is known who was who."""

    node: str
    since_ns: int
    until_ns: int
    settled_ns: int


class _DayFile:
    """The file of a node's day, under a name of its own until it is whole."""

    def __init__(
        self, folder: Path, time: TimeUnit, rows: int, *, first_ns: int, is_over: bool
    ) -> None:
        """Begin a file, with the rows before `first_ns` of the one that is there so far."""
        self.encoder = ParquetEncoder(time, rows)
        self._folder = folder
        self._is_over = is_over
        self._part = folder / f".{_WHOLE}.{os.getpid()}"
        folder.mkdir(parents=True, exist_ok=True)
        self._out = os.fdopen(
            os.open(self._part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb"
        )
        if (folder / _SO_FAR).exists():
            try:
                self.write(self.encoder.taken_over(folder / _SO_FAR, first_ns))
            except BaseException:
                self.give_up()
                raise

    def write(self, pieces: Iterable[bytes]) -> None:
        self._out.writelines(pieces)

    def finish(self) -> Path:
        """Give it its name; a day has one of the two at any time."""
        self._out.write(self.encoder.end())
        self._out.flush()
        os.fsync(self._out.fileno())
        self._out.close()
        so_far, whole = self._folder / _SO_FAR, self._folder / _WHOLE
        self._part.replace(so_far)
        return so_far.replace(whole) if self._is_over else so_far

    def give_up(self) -> None:
        """Leave nothing of it."""
        self._out.close()
        self._part.unlink(missing_ok=True)


def write_days(
    folder: Path,
    reaches: Iterable[Reach],
    span: tuple[int | None, int | None],
    time: TimeUnit,
    flows_of: Callable[[int, int], Flows],
    stops: Callable[[Flows, int], bool],
) -> Iterator[tuple[Path, int]]:
    """
    Write the days of a span that are not there yet, oldest first; yield each file and its rows.

    `flows_of` gives the flows of a day. `stops` is asked between pages, and ends it: then the day
    that is being written is not there.
    """
    known = list(reaches)
    since_ns = max([min(reach.since_ns for reach in known), *([span[0]] if span[0] else [])])
    until_ns = min([max(reach.until_ns for reach in known), *([span[1]] if span[1] else [])])
    for day_ns in range(since_ns - since_ns % DAY, until_ns, DAY):
        named = folder / f"day={format_time(day_ns)[:10]}"
        wanted = {
            reach.node: is_over
            for reach in known
            if reach.since_ns < day_ns + DAY and reach.until_ns > day_ns
            # What was cut by the question, or may go on in a newer file, is not the whole day.
            for is_over in [
                reach.settled_ns >= day_ns + DAY
                and (span[0] is None or span[0] <= day_ns)
                and (span[1] is None or span[1] >= day_ns + DAY)
            ]
            if not (_of(named, reach.node) / _WHOLE).exists()
        }
        if wanted:
            yield from _day(named, day_ns, wanted, time, flows_of, stops)


def _of(day: Path, node: str) -> Path:
    # Not `node`: the flows have that, and a reader has one column of a name. It is what the file
    # says it is, so it is quoted.
    return day / f"recorder={quote(node, safe='')}"


def _day(
    folder: Path,
    day_ns: int,
    wanted: Mapping[str, bool],
    time: TimeUnit,
    flows_of: Callable[[int, int], Flows],
    stops: Callable[[Flows, int], bool],
) -> Iterator[tuple[Path, int]]:
    files: dict[str, _DayFile] = {}
    counts: dict[str, int] = {}
    flows = flows_of(day_ns, day_ns + DAY)
    with ExitStack() as stack:
        for rows, edges in flows.pages(tuple):
            by_node: dict[str, list[Row]] = {}
            for row in rows:
                node = edges[row[2]][_NODE]
                if node in wanted:
                    by_node.setdefault(node, []).append(row)
            for node, some in by_node.items():
                if node not in files:
                    try:
                        files[node] = _DayFile(
                            _of(folder, node),
                            time,
                            _ROWS_IN_MEMORY // len(wanted) + 1,
                            first_ns=some[0][STARTED],
                            is_over=wanted[node],
                        )
                    except OSError as error:
                        raise StoreError(f"{folder}: {error.strerror}") from error
                    stack.callback(files[node].give_up)
                files[node].write(files[node].encoder.lines(some, edges))
                counts[node] = counts.get(node, 0) + len(some)
            if stops(flows, sum(counts.values())):
                return
        for node, file in sorted(files.items()):
            yield file.finish(), counts[node]
