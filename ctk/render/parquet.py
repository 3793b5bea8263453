"""Flows as a Parquet file, with types: times are timestamps in UTC, counts are integers."""

from collections.abc import Iterator, Mapping, Sequence
from io import RawIOBase
from pathlib import Path
from typing import Any, get_args, get_type_hints

from ctk.ask.edges import EdgeValues
from ctk.ask.flows import record_of
from ctk.ask.pages import Row
from ctk.errors import UsageError
from ctk.render.lines import TimeUnit, in_unit
from ctk.store.columns import FLOW_KEYS, FlowRecord

_GROUP_ROWS = 65_536  # of one row group: some 40 MB of values before they are encoded


class ParquetEncoder:
    """Makes row groups: what `lines` gives is the file in pieces, most of them empty."""

    header = b""
    text = None

    def __init__(self, time: TimeUnit, group_rows: int = _GROUP_ROWS) -> None:
        try:
            import pyarrow as pa
            from pyarrow import parquet
        except ImportError as error:
            raise UsageError(
                "pyarrow is not installed here", hint="pip install 'ctk[parquet]', or --format csv"
            ) from error
        hints = get_type_hints(FlowRecord)
        self._columns: list[tuple[str, str, Any]] = []  # the name, the key of a flow, the type
        for key in FLOW_KEYS:
            name = in_unit(key, time)
            if name is None:
                continue
            whole = int in (hints[key], *get_args(hints[key]))
            kind = pa.int64() if whole else pa.string()
            if key in ("started_at", "ended_at"):
                kind = pa.timestamp("ns", tz="UTC")
            self._columns.append((name, key, kind))
        self._pa = pa
        self._group_rows = group_rows
        self._rows: list[tuple[Any, ...]] = []
        self._out = _Pieces()
        self._schema = pa.schema([(name, kind) for name, _, kind in self._columns])
        self._writer = parquet.ParquetWriter(self._out, self._schema, compression="zstd")

    def of_edge(self, values: EdgeValues) -> EdgeValues:
        return values

    def lines(self, rows: Sequence[Row], edges: Mapping[int, EdgeValues]) -> list[bytes]:
        self._rows += [record_of(row, edges[row[2]]) for row in rows]
        if len(self._rows) < self._group_rows:
            return [b""] * len(rows)
        self._write_group()
        return [self._out.take(), *[b""] * (len(rows) - 1)]

    def taken_over(self, path: Path, before_ns: int) -> Iterator[bytes]:
        """Yield, before any others, the rows of an earlier file that began before a time."""
        from pyarrow import compute, parquet

        with parquet.ParquetFile(path) as earlier:
            if not earlier.schema_arrow.equals(self._schema):
                raise UsageError(
                    f"{path} has other columns", hint="--time as before, or another folder"
                )
            for rows in earlier.iter_batches():
                began_ns = compute.cast(rows["started_at"], self._pa.int64())
                taken = rows.filter(compute.less(began_ns, before_ns))
                if not taken.num_rows:
                    return
                self._writer.write_batch(taken)
                yield self._out.take()

    def end(self) -> bytes:
        """End the file: what is left, and Parquet's own index of it."""
        if self._rows:
            self._write_group()
        self._writer.close()
        return self._out.take()

    def _write_group(self) -> None:
        by_key = dict(zip(FLOW_KEYS, zip(*self._rows, strict=True), strict=True))
        self._rows.clear()
        arrays = [self._array(by_key, name, key, kind) for name, key, kind in self._columns]
        self._writer.write_table(self._pa.Table.from_arrays(arrays, schema=self._schema))

    def _array(
        self, by_key: Mapping[str, Sequence[Any]], name: str, key: str, kind: object
    ) -> object:
        if key.endswith("_at"):  # the same time, as the number it is
            times = self._pa.array(by_key[key.replace("_at", "_ns")], self._pa.int64())
            return times.cast(kind)
        values = by_key[key]
        if name != key:
            values = [value // 1000 for value in values]
        return self._pa.array(values, kind)


class _Pieces(RawIOBase):
    """A file that is handed out while it is written: what was taken is gone from memory."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._bytes = 0

    def writable(self) -> bool:
        return True

    def write(self, piece: Any, /) -> int:
        self._pieces.append(bytes(piece))
        self._bytes += len(self._pieces[-1])
        return len(self._pieces[-1])

    def tell(self) -> int:
        """Say where the file is: its index points there."""
        return self._bytes

    def take(self) -> bytes:
        taken = b"".join(self._pieces)
        self._pieces.clear()
        return taken
