"""Rows to tables for people, and to JSON, JSON lines, CSV and TSV for programs."""

import csv
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, BinaryIO, Literal

from ctk.model import FLOW_KEYS, Endpoint, FlowRecord, FlowRow
from ctk.timespan import format_time

Format = Literal["table", "json", "jsonl", "csv", "tsv"]

# More rows than this on a terminal are not read by anybody.
TERMINAL_ROWS = 1_000

_LABELS = (FLOW_KEYS.index("src_labels"), FLOW_KEYS.index("dst_labels"))
_NOTHING = "-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """What form an answer takes, and whether a person's terminal shows it."""

    format: Format
    terminal: bool = False


def flows(records: Iterable[FlowRecord], output: Output, out: BinaryIO) -> int:
    """Write flows, every key of them or, in a table, what people look for; give their number."""
    if output.format == "table":
        return _table(_FLOW_TABLE, map(_flow_cells, records), output, out)
    return rows(FLOW_KEYS, records, output, out)


def rows(
    columns: Sequence[str], found: Iterable[Sequence[Any]], output: Output, out: BinaryIO
) -> int:
    """Write rows as they come, and give their number; a table on a terminal stops somewhere."""
    if output.format == "table":
        cells = ([_cell(value) for value in row] for row in found)
        first = list(islice(cells, TERMINAL_ROWS))
        numbers = [all(_is_number(row[i]) for row in first) for i in range(len(columns))]
        heads = [(name, number) for name, number in zip(columns, numbers, strict=True)]
        return _table(heads, chain(first, cells), output, out)
    write = _WRITERS[output.format]
    return write(columns, found, out)


def _table(
    heads: Sequence[tuple[str, bool]], cells: Iterable[Sequence[str]], output: Output, out: BinaryIO
) -> int:
    """Write a table a thousand rows at a time, so that any number of them can be written."""
    from tabulate import tabulate

    written = 0
    remaining = iter(cells)
    if output.terminal:
        remaining = islice(remaining, TERMINAL_ROWS)
    names = [name for name, _ in heads]
    align = ["right" if number else "left" for _, number in heads]
    while batch := list(islice(remaining, TERMINAL_ROWS)):
        text = tabulate(
            batch,
            headers=names if not written else (),
            tablefmt="plain",
            disable_numparse=True,
            colalign=align,
        )
        out.write("".join(f"{line.rstrip()}\n" for line in text.splitlines()).encode())
        written += len(batch)
    return written


def _json_lines(columns: Sequence[str], found: Iterable[Sequence[Any]], out: BinaryIO) -> int:
    written = 0
    for line in _objects(columns, found):
        out.write(line + b"\n")
        written += 1
    return written


def _json(columns: Sequence[str], found: Iterable[Sequence[Any]], out: BinaryIO) -> int:
    written = 0
    for line in _objects(columns, found):
        out.write((b",\n" if written else b"[") + line)
        written += 1
    out.write(b"]\n" if written else b"[]\n")
    return written


def _objects(columns: Sequence[str], found: Iterable[Sequence[Any]]) -> Iterator[bytes]:
    from orjson import Fragment, dumps

    # JSON text that was stored is put in as it is.
    labels = _LABELS if tuple(columns) == FLOW_KEYS else ()
    for row in found:
        named = dict(zip(columns, row, strict=True))
        for i in labels:
            if row[i] is not None:
                named[columns[i]] = Fragment(row[i])
        try:
            yield dumps(named)
        except TypeError:  # bytes, or a whole number past 64 bits from a sum: only SQL has them
            yield dumps({name: _plain(value) for name, value in named.items()})


def _csv(columns: Sequence[str], found: Iterable[Sequence[Any]], out: BinaryIO) -> int:
    writer = csv.writer(_Encoded(out.write), lineterminator="\n")
    writer.writerow(columns)
    written = 0
    for row in found:
        writer.writerow([value.hex() if isinstance(value, bytes) else value for value in row])
        written += 1
    return written


def _tsv(columns: Sequence[str], found: Iterable[Sequence[Any]], out: BinaryIO) -> int:
    written = 0
    for row in found:
        cells = ["" if value is None else str(_plain(value)) for value in row]
        out.write("\t".join(cell.translate(_TSV) for cell in cells).encode() + b"\n")
        written += 1
    return written


# What would end a cell or a row is written as in a string.
_TSV = str.maketrans({"\t": "\\t", "\n": "\\n", "\r": "\\r", "\\": "\\\\"})
_WRITERS: dict[str, Callable[[Sequence[str], Iterable[Sequence[Any]], BinaryIO], int]] = {
    "json": _json,
    "jsonl": _json_lines,
    "csv": _csv,
    "tsv": _tsv,
}


class _Encoded:
    """The text file that csv writes to."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write

    def write(self, text: str) -> None:
        self._write(text.encode())


def _plain(value: object) -> object:
    if isinstance(value, bytes):
        return value.hex()
    return value


def _cell(value: object) -> str:
    if value is None:
        return _NOTHING
    return str(_plain(value))


def _is_number(cell: str) -> bool:
    return cell == _NOTHING or cell.replace(".", "", 1).removeprefix("-").isdecimal()


_FLOW_TABLE = (
    ("TIME (UTC)", False),
    ("SOURCE", False),
    ("DESTINATION", False),
    ("SERVICE", False),
    ("PORT", False),
    ("CONNS", True),
    ("FAILED", True),
    ("OUT", True),
    ("IN", True),
)


def _flow_cells(record: FlowRecord) -> list[str]:
    port = record.proto if record.dst_port is None else f"{record.dst_port}/{record.proto}"
    backend = record.dst if record.nat_dst is None else record.nat_dst
    failed = record.unreplied + record.refused
    return [
        record.started_at[:19].replace("T", " "),
        _side(record.src_namespace, record.src_name) or record.src,
        _side(record.dst_namespace, record.dst_name) or backend,
        record.service or _NOTHING,
        port,
        f"{record.connections:,}",
        f"{failed:,}" if failed else _NOTHING,
        scaled(record.bytes_out),
        scaled(record.bytes_in),
    ]


def _side(namespace: str | None, name: str | None) -> str | None:
    return f"{namespace}/{name}" if namespace and name else name


def scaled(size: int | None) -> str:
    """Write a number of bytes for people: 1,023 B, 12.3 KiB, 1.0 GiB."""
    if size is None:
        return _NOTHING
    if size < 1024:
        return f"{size} B"
    amount = size / 1024
    units = ["EiB", "PiB", "TiB", "GiB", "MiB", "KiB"]
    unit = units.pop()
    while amount >= 1023.95 and units:  # where rounding would say 1024.0
        amount /= 1024
        unit = units.pop()
    return f"{amount:.1f} {unit}"


def flow_record(row: FlowRow, node: str) -> FlowRecord:
    """Give a row that is not in a file yet the form in which files are read."""
    from orjson import dumps

    edge = row.edge
    ended_ns = row.ended_ns
    return FlowRecord._make(
        (
            format_time(row.started_ns),
            format_time(ended_ns),
            row.started_ns,
            ended_ns,
            node,
            edge.proto,
            6 if ":" in edge.src.address else 4,
            edge.zone,
            edge.src.address,
            row.src_port,
            edge.dialled.address,
            edge.dst_port,
            edge.nat_src,
            None if edge.backend.address == edge.dialled.address else edge.backend.address,
            edge.nat_dst_port,
            *_identity(edge.src, dumps),
            *_identity(edge.backend, dumps),
            edge.service,
            edge.service_via,
            *row[FlowRow._fields.index("connections") :],
        )
    )


def _identity(endpoint: Endpoint, dumps: Callable[[object], bytes]) -> tuple[Any, ...]:
    return (
        endpoint.kind,
        endpoint.namespace,
        endpoint.name,
        endpoint.workload,
        endpoint.workload_kind,
        endpoint.node,
        dumps(dict(endpoint.labels)).decode() if endpoint.labels else None,
    )


def log_line(record: FlowRecord) -> bytes:
    """Write the event log's form of a flow: one JSON object, empty fields left out."""
    from orjson import dumps

    line: dict[str, Any] = {"timestamp": record.started_at}
    line["src"] = record.src
    line["srcPort"] = record.src_port
    if record.src_kind == "pod":
        line["srcNs"] = record.src_namespace
        line["srcName"] = f"{record.src_namespace}:{record.src_name}"
        line["srcLbls"] = _log_labels(record.src_labels)
    elif record.src_kind == "node":
        line["srcName"] = record.src_name
    line["dst"] = record.dst
    line["dstPort"] = record.dst_port
    if record.dst_kind == "pod":
        line["dstNs"] = record.dst_namespace
        line["dstName"] = f"{record.dst_namespace}:{record.dst_name}"
        line["dstLbls"] = _log_labels(record.dst_labels)
    elif record.dst_kind == "node":
        line["dstName"] = record.dst_name
    line["proto"] = record.proto.upper()
    line["new"] = record.new_events > 0
    line["update"] = record.update_events > 0
    line["cnt"] = record.new_events + record.update_events + record.destroy_events
    # What the log's first readers did not know follows what they did.
    line["destroy"] = record.destroy_events > 0
    line["natSrc"] = record.nat_src
    line["natDst"] = record.nat_dst
    line["natDstPort"] = record.nat_dst_port
    line["service"] = record.service
    line["unreplied"] = record.unreplied
    line["refused"] = record.refused
    line["bytesOut"] = record.bytes_out
    line["packetsOut"] = record.packets_out
    line["bytesIn"] = record.bytes_in
    line["packetsIn"] = record.packets_in
    return dumps({name: value for name, value in line.items() if value})


def _log_labels(labels: str | None) -> object:
    from orjson import Fragment

    return Fragment(labels) if labels and labels != "{}" else None


def print_line(record: FlowRecord, merged: bool) -> bytes:
    """Write the live form: the tuple, whether it was merged into an open record, and the log's."""
    source = _with_port(record.src, record.src_port)
    dialled = _with_port(record.dst, record.dst_port)
    head = f"<{record.proto}, Src: {source}, Dst: {dialled}> ({str(merged).lower()}) - "
    return head.encode() + log_line(record)


def _with_port(address: str, port: int | None) -> str:
    if port is None:
        return address
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
