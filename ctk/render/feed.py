"""
Flows written to a place, and how far they are written kept under a name.

What is kept is never ahead of what is on the disk. So whatever ends an export, the next one by
that name writes no flow twice in a file that goes on, and leaves none out; standard output may
have been told some flows that the next one tells again.
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO, Protocol

from ctk.ask.flows import Flows
from ctk.ask.pages import BEFORE_ALL, Position, Row
from ctk.errors import UsageError
from ctk.render.compress import Packer
from ctk.render.cursor import Cursor
from ctk.render.lines import Encoder

_KEEP_S = 5.0  # what a killed export wrote since is written again


class Sink(Protocol):
    """Where lines go; `lines` of them are there, and `size` bytes, where it goes on."""

    @property
    def lines(self) -> int: ...

    @property
    def size(self) -> int: ...

    @property
    def began_s(self) -> float | None: ...

    def write_lines(self, lines: Sequence[bytes]) -> None: ...

    def flush(self) -> None:
        """Let no line wait, for more that are compressed with it say."""

    def sync(self) -> None:
        """Flush, and be sure that the lines stay."""


class Stream:
    """A sink that is a pipe, a terminal or the like: what is gone is gone."""

    size = 0
    began_s = None

    def __init__(self, out: BinaryIO, packer: Packer | None = None) -> None:
        self._out = out
        self._packer = packer
        self.lines = 0

    def write_header(self, header: bytes) -> None:
        """Write what is no flow's line."""
        self.write_lines((header,))
        self.flush()
        self.lines = 0

    def write_lines(self, lines: Sequence[bytes]) -> None:
        if self._packer is None:
            self._out.write(b"".join(lines))
            self.lines += len(lines)
            return
        for line in lines:
            self._packer.add(line)
            if self._packer.is_full:
                self._write_packed(self._packer)

    def flush(self) -> None:
        if self._packer is not None and self._packer.lines:
            self._write_packed(self._packer)
        self._out.flush()

    sync = flush

    def _write_packed(self, packer: Packer) -> None:
        lines = packer.lines
        self._out.write(packer.packed())
        self.lines += lines


class Written:
    """How far the flows of a file are written and, with `path`, kept for the next export."""

    def __init__(self, path: Path | None, recording: str, filters: str, form: str) -> None:
        """Go on where `path`, the file of a cursor, says; from the start where there is none."""
        self._path = path
        self.recording = recording
        self._filters, self._form = filters, form
        self._given: deque[tuple[int, Sequence[Row], Flows]] = deque()
        self._count = 0
        self.after: Position | None = None
        # A file that goes on is cut where the last export knew to be.
        self.output_bytes: int | None = None
        self.began_s: float | None = None
        last = Cursor.load(path) if path else None
        # A file without a recording may have got its first one since.
        self.goes_on = last is not None and last.recording in ("", recording)
        self.is_of_another = last is not None and not self.goes_on
        if last is not None and self.goes_on:
            self._check(last)
            self.after = Position(last.started_ns, last.number, last.late_id)
            self.output_bytes, self.began_s = last.output_bytes, last.output_began_s

    @property
    def is_kept(self) -> bool:
        """Whether the next export goes on from here."""
        return self._path is not None

    @property
    def count(self) -> int:
        """How many flows were given."""
        return self._count

    def write(self, flows: Flows, encoder: Encoder, sink: Sink, stops: Callable[[], bool]) -> None:
        """Write flows to their end, or until `stops` says so, a page at a time."""
        keep_at_s = time.monotonic() + _KEEP_S
        for rows, edges in flows.pages(encoder.of_edge, text=encoder.text):
            self._count += len(rows)
            if self._path is not None:
                self._given.append((self._count, rows, flows))
            sink.write_lines(encoder.lines(rows, edges))
            self._advance(sink)
            if stops():
                return
            if time.monotonic() > keep_at_s:
                self.keep(sink)
                keep_at_s = time.monotonic() + _KEEP_S

    def keep(self, sink: Sink) -> None:
        """Keep that all lines so far are written; they are then."""
        sink.sync()
        self.note(sink)

    def note(self, sink: Sink) -> None:
        """Keep which lines are in the sink, and how long it is."""
        self._advance(sink)
        if self._given:
            count, rows, flows = self._given[0]
            there = sink.lines - (count - len(rows))
            if there > 0:
                self.after = flows.position_of(rows[there - 1])
        if self._path is not None:
            Cursor(
                recording=self.recording,
                **(self.after or BEFORE_ALL)._asdict(),
                filters=self._filters,
                form=self._form,
                output_bytes=sink.size,
                output_began_s=sink.began_s,
            ).save(self._path)

    def _advance(self, sink: Sink) -> None:
        """Let go of the rows whose lines are all in the sink."""
        while self._given and self._given[0][0] <= sink.lines:
            _, rows, flows = self._given.popleft()
            self.after = flows.position_of(rows[-1])

    def _check(self, last: Cursor) -> None:
        if last.filters != self._filters:
            raise UsageError(
                f"the cursor {self._path} goes by {last.filters or 'no filter'}: by another it"
                " would skip flows for good",
                hint="give the same filters, or another --cursor",
            )
        if last.form and last.form != self._form:  # older cursors do not say theirs
            raise UsageError(
                f"the cursor {self._path} goes by --format {last.form}: lines of two formats do"
                " not go into one file",
                hint=f"--format {last.form}, or another --cursor",
            )
