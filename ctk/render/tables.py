"""Rows to tables for people, and to JSON, JSON lines, CSV and TSV for programs."""

import csv
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

from ctk.ask.gaps import StoredGap
from ctk.ask.sums import COUNTS, SEEN, SORTS, Counts, Value
from ctk.model import Finding
from ctk.store.columns import FLOW_KEYS, JSON_KEYS, FlowRecord
from ctk.timespan import format_age, format_time

if TYPE_CHECKING:
    from ctk.ask.describe import Description
    from ctk.ask.top import Top

Format = Literal["table", "json", "jsonl", "csv", "tsv"]

# Columns of the views that hold JSON as text.
_STORED_JSON = (*JSON_KEYS, "labels", "addresses", "ports", "settings")
_NOTHING = "-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """What form an answer takes, and after how many rows a table stops (None: after the last)."""

    format: Format
    most: int | None = None


def flows(records: Iterable[FlowRecord], output: Output, out: BinaryIO) -> int:
    """Write flows, every key of them or, in a table, what people look for; give their number."""
    if output.format == "table":
        return _table(_FLOW_TABLE, map(_flow_cells, records), output.most, out)
    return rows(FLOW_KEYS, records, output, out)


def rows(
    columns: Sequence[str], found: Iterable[Sequence[Any]], output: Output, out: BinaryIO
) -> int:
    """Write rows as they come, and give their number."""
    if output.format == "table":
        cells = ([_cell(value) for value in row] for row in found)
        first = list(islice(cells, _BATCH))
        numbers = [all(_is_number(row[i]) for row in first) for i in range(len(columns))]
        heads = list(zip(columns, numbers, strict=True))
        return _table(heads, chain(first, cells), output.most, out)
    encode = encoder(output.format, columns)
    out.write(header(output.format, columns))
    written = 0
    for row in found:
        if output.format == "json":
            out.write((b",\n" if written else b"[") + encode(row))
        else:
            out.write(encode(row) + b"\n")
        written += 1
    if output.format == "json":
        out.write(b"]\n" if written else b"[]\n")
    return written


def plan(steps: Iterable[Sequence[Any]], out: BinaryIO) -> None:
    """Write how SQLite answers a question: a line a step, below the step that it is part of."""
    depths: dict[int, int] = {}
    for number, parent, _, step in steps:
        depths[number] = depths.get(parent, -1) + 1
        out.write(f"{'  ' * depths[number]}{_cell(step)}\n".encode())


def top(ranked: "Top", output: Output, out: BinaryIO) -> None:
    """Write groups and what part of the whole each moved; a table ends with the whole."""
    at = COUNTS.index(SORTS[ranked.sort])
    shares = [
        None if COUNTS[at] in SEEN else _percent(row.counts[at], ranked.totals[at])
        for row in ranked.rows
    ]
    if output.format != "table":
        found = (
            (
                *row.keys,
                *row.counts[:_OLDER],
                None if share is None else round(share, 2),
                *row.counts[_OLDER:_TIMES],
                *(None if at_ns is None else format_time(at_ns) for at_ns in row.counts[_TIMES:]),
                *row.counts[_TIMES:],
            )
            for row, share in zip(ranked.rows, shares, strict=True)
        )
        rows((*ranked.by, *_TOP_KEYS), found, output, out)
        return
    if not ranked.groups:
        return
    counts = [count for count in _TOP_TABLE if count != "events" or ranked.sort == "events"]
    heads = [(key.upper().replace("_", " "), False) for key in ranked.by]
    heads += [(_TOP_TABLE[count], True) for count in counts]
    cells = [
        _top_cells(row.keys, row.counts, share, counts)
        for row, share in zip(ranked.rows, shares, strict=True)
    ]
    groups = f"total of {ranked.groups:,}" if ranked.groups > len(ranked.rows) else "total"
    names = (groups, *("" for _ in ranked.by[1:]))
    whole = _percent(ranked.totals[at], ranked.totals[at])
    cells.append(_top_cells(names, ranked.totals, whole, counts))
    _table([*heads, ("%", True)], cells, None, out)


# Newer counts follow the older keys, whose order programs may rely on.
_OLDER = COUNTS.index("bytes") + 1
_TIMES = COUNTS.index(SEEN[0])
_TOP_KEYS = (
    *COUNTS[:_OLDER],
    "percent",
    *COUNTS[_OLDER:_TIMES],
    *(count.removesuffix("_ns") for count in SEEN),
    *SEEN,
)


def _percent(part: int | None, whole: int | None) -> float | None:
    return 100 * part / whole if whole and part is not None else None


def findings(found: Sequence[Finding], output: Output, out: BinaryIO) -> None:
    """Write what the doctor found; for people a line each, and what to do below it."""
    if output.format != "table":
        rows(Finding._fields, found, output, out)
        return
    check = max(len(one.check) for one in found)
    for one in found:
        out.write(f"{one.status:<7}  {one.check:<{check}}  {one.found}\n".encode())
        if one.advice:
            out.write(f"{'':<7}  {'':<{check}}  Try: {one.advice}\n".encode())


def gaps(found: Iterable[StoredGap], output: Output, out: BinaryIO) -> int:
    """Write gaps, and give their number."""
    if output.format != "table":
        return rows(StoredGap._fields, found, output, out)
    heads = [("FROM (UTC)", False), ("LASTED", True), ("NODE", False), ("WHAT", False)]
    heads += [("EVENTS LOST", True), ("DETAIL", False)]
    cells = (
        [
            _moment(gap.started_at),
            format_age(gap.ended_ns - gap.started_ns),
            gap.node,
            gap.kind,
            _NOTHING if gap.lost is None else f"{gap.lost:,}",
            _cell(gap.detail),
        ]
        for gap in found
    )
    return _table(heads, cells, output.most, out)


def encoder(form: str, columns: Sequence[str]) -> Callable[[Sequence[Any]], bytes]:
    """Give the function that makes one line, without its end, of a row of these columns."""
    if form == "csv":
        return _csv_line
    if form == "tsv":
        return _tsv_line
    from orjson import dumps

    stored = [column for column in columns if column in _STORED_JSON]

    def json_line(row: Sequence[Any]) -> bytes:
        named = dict(zip(columns, row, strict=True))
        for column in stored:
            named[column] = _stored_json(named[column])
        return dumps(named, default=bytes.hex)

    return json_line


@lru_cache(maxsize=10_000)
def _stored_json(value: object) -> object:
    """Give JSON text that was stored as what is put in as it is; SQL may name other things so."""
    from orjson import Fragment, JSONDecodeError, loads

    try:
        return Fragment(value) if isinstance(value, str) and loads(value) is not None else value
    except JSONDecodeError:
        return value


def header(form: str, columns: Sequence[str]) -> bytes:
    """Give the line before the first: CSV's names of columns, and of the other forms nothing."""
    return _csv_line(columns) + b"\n" if form == "csv" else b""


class _Echo:
    """What csv writes to: it gives each line back."""

    def write(self, text: str) -> str:
        return text


_csv_writer = csv.writer(_Echo(), lineterminator="")
# What would end a cell or a row is written as in a string.
_TSV = str.maketrans({"\t": "\\t", "\n": "\\n", "\r": "\\r", "\\": "\\\\"})
# What would break a table, or tell a terminal what to do, is shown as what it is.
_CONTROLS = _TSV | {i: f"\\x{i:02x}" for i in (*range(9), 11, 12, *range(14, 32), *range(127, 160))}


def _csv_line(row: Sequence[Any]) -> bytes:
    line: Any = _csv_writer.writerow(_plain(value) for value in row)
    return str(line).encode()


def _tsv_line(row: Sequence[Any]) -> bytes:
    cells = ["" if value is None else str(_plain(value)) for value in row]
    line = "\t".join(cells)
    if line.count("\t") >= len(cells) or any(mark in line for mark in "\n\r\\"):
        line = "\t".join(cell.translate(_TSV) for cell in cells)
    return line.encode()


def _plain(value: object) -> object:
    return value.hex() if isinstance(value, bytes) else value


def _table(
    heads: Sequence[tuple[str, bool]],
    cells: Iterable[Sequence[str]],
    most: int | None,
    out: BinaryIO,
) -> int:
    """Write a table a batch at a time, so that any number of rows can be written."""
    import tabulate

    tabulate.MIN_PADDING = 0  # else a header is two wider than it looks
    names = [name for name, _ in heads]
    align = ["right" if number else "left" for _, number in heads]
    written = 0
    remaining = islice(cells, most)
    while batch := list(islice(remaining, _BATCH)):
        # Columns grow from batch to batch, and never shrink.
        longest = [max(map(len, column)) for column in zip(names, *batch, strict=True)]
        names = [
            name.rjust(width) if right else name.ljust(width)
            for name, (_, right), width in zip(names, heads, longest, strict=True)
        ]
        text = tabulate.tabulate(
            batch, names, tablefmt="plain", disable_numparse=True, colalign=align
        )
        lines = text.splitlines()[1 if written else 0 :]
        out.write("".join(f"{line.rstrip()}\n" for line in lines).encode())
        written += len(batch)
    return written


def _cell(value: object) -> str:
    return _NOTHING if value is None else str(_plain(value)).translate(_CONTROLS)


def _is_number(cell: str) -> bool:
    return cell == _NOTHING or cell.replace(".", "", 1).removeprefix("-").isdecimal()


# How many rows of a table are laid out together.
_BATCH = 1_000

_TOP_TABLE = {
    "connections": "CONNS",
    "events": "EVENTS",
    "failed": "FAILED",
    "packets": "PACKETS",
    "bytes": "BYTES",
}


def _top_cells(
    keys: Sequence[Value], row: Counts, share: float | None, counts: Sequence[str]
) -> list[str]:
    cells = [_cell(key) for key in keys]
    for count in counts:
        value = row[COUNTS.index(count)]
        cells.append(
            scaled(value) if count == "bytes" else _NOTHING if value is None else f"{value:,}"
        )
    return [*cells, _NOTHING if share is None else f"{share:.1f}"]


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


def description(held: "Description", output: Output, out: BinaryIO) -> None:
    """Write what a file holds: for people, as one JSON object, or as the rows of its tables."""
    if output.format in ("json", "jsonl"):
        from orjson import OPT_INDENT_2, dumps

        # The caveats go to stderr.
        named = {each.name: getattr(held, each.name) for each in fields(held)}
        del named["caveats"]
        option = OPT_INDENT_2 if output.format == "json" else None
        out.write(dumps(named, option=option) + b"\n")
    elif output.format != "table":
        found = ((table.table, table.rows, table.bytes) for table in held.tables)
        rows(("table", "rows", "bytes"), found, output, out)
    else:
        for name, fact in _facts(held):
            out.write(f"{name:<11} {fact}\n".encode())
        out.write(b"\n")
        heads = [("LEVEL", False), ("FROM (UTC)", False), ("FOLDED UNTIL", False)]
        heads += [("PRUNED UNTIL", False), ("ROWS", True)]
        levels = [
            [
                level.level,
                *map(_moment, (level.since, level.folded_until, level.pruned_until)),
                f"{level.rows:,}",
            ]
            for level in held.levels
        ]
        _table(heads, levels, None, out)
        out.write(b"\n")
        sizes = [[table.table, f"{table.rows:,}", scaled(table.bytes)] for table in held.tables]
        _table([("TABLE", False), ("ROWS", True), ("BYTES", True)], sizes, None, out)


def _facts(held: "Description") -> Iterable[tuple[str, str]]:
    yield "nodes", ", ".join(held.nodes) or _NOTHING
    yield "from", _moment(held.since)
    yield "until", _moment(held.until)
    yield "file", scaled(held.bytes)
    counts = [f"{found.endpoints:,} {found.kind}" for found in held.endpoints]
    yield "endpoints", ", ".join(counts) or _NOTHING
    yield "recordings", f"{len(held.recordings):,}"
    for recording in held.recordings[-3:]:
        ended = recording.ended_at
        end = f"to {_moment(ended)}" if ended else f"committed {_moment(recording.committed_at)}"
        events = f"{recording.events:,} events, {recording.lost:,} lost"
        yield "", f"{_moment(recording.started_at)} {end}, {recording.source}: {events}"
    yield "gaps", held.gaps_in_words or "none"


def _moment(text: str | None) -> str:
    return _NOTHING if text is None else text[:19].replace("T", " ")
