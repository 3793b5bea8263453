"""What `top` found: groups, what part of the whole each moved, and the whole."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from ctk.ask.sums import COUNTS, SEEN, SORTS, Counts, Value
from ctk.errors import UsageError
from ctk.render.cells import UNKNOWN, Head
from ctk.render.layout import TableRow, spare_width
from ctk.render.tables import Output, answer
from ctk.timespan import SECOND, format_time

if TYPE_CHECKING:
    from ctk.ask.top import Top

# Newer counts follow the older keys, whose order programs may rely on.
_OLDER = COUNTS.index("bytes") + 1
_TIMES = COUNTS.index(SEEN[0])
_KEYS = (
    *COUNTS[:_OLDER],
    "percent",
    *COUNTS[_OLDER:_TIMES],
    *(count.removesuffix("_ns") for count in SEEN),
    *SEEN,
)
# A count that is wide is shown in a table where it is what ranks.
_HEADS = (
    Head("connections", "count", 2, title="CONNS"),
    Head("failed", "failures", 1),
    Head("refused", "failures", 2, wide=True),
    Head("unreplied", "failures", 2, wide=True),
    Head("events", "count", 2, wide=True),
    Head("packets", "count", 4),
    Head("bytes", "bytes", 1),
    Head("bytes_out", "bytes", 2, wide=True, title="OUT"),
    Head("bytes_in", "bytes", 2, wide=True, title="IN"),
    Head("first_seen", "time", 2, wide=True),
    Head("last_seen", "time", 2, wide=True),
)
# What a table needs, beside what it is sorted by.
SHOWN = tuple(head.key for head in _HEADS if not head.wide)

# What a rate is made of, a second of the span that was answered.
_RATED = ("connections", "failed", "packets", "bytes")


class Drawn(NamedTuple):
    """A column of pictures, by the keys of their rows."""

    title: str
    of: Mapping[tuple[object, ...], str]


def top(
    ranked: "Top",
    output: Output,
    out: BinaryIO,
    *,
    rate: bool = False,
    drawn: Drawn | None = None,
) -> None:
    """
    Write groups; a table ends with what the limit cut, and with the whole.

    With `rate`, a table has what happened in a second in place of the counts, and programs have
    both. A table has the pictures of `drawn` as its last column.
    """
    if output.for_people or output.format == "name":
        heads, found, foot = _for_people(ranked, rate)
        if drawn is not None:
            heads = [*heads, Head("series", title=drawn.title)]
            found = [
                (*line, drawn.of.get(row.keys, ""))
                for line, row in zip(found, ranked.rows, strict=True)
            ]
            foot = [(*line, "") for line in foot]
        answer(heads, found, output, out, foot=foot)
        return
    columns, records = _for_programs(ranked, rate)
    answer([Head(column) for column in columns], records, output, out)


def spare(ranked: "Top", output: Output, *, rate: bool = False) -> int:
    """Give how wide a further column may be, so that no other gets narrower."""
    heads, found, foot = _for_people(ranked, rate)
    shown = [i for i, head in enumerate(heads) if not head.wide]
    rows = [[row[i] for i in shown] for row in (*found, *foot)]
    return spare_width([heads[i] for i in shown], rows, output.screen)


def tops(
    ranked: Sequence["Top"],
    output: Output,
    out: BinaryIO,
    *,
    rate: bool = False,
    drawn: Sequence[Drawn | None] = (),
) -> None:
    """
    Write several lists, an empty line between them.

    JSON has an object with a list for each of the keys that were asked for, and lines of JSON say
    by which keys they are.
    """
    if output.format in ("csv", "tsv"):
        raise UsageError(
            f"-o {output.format} has one list", hint="--by once, or -o json, or -o jsonl"
        )
    from json import dumps

    for i, each in enumerate(ranked):
        by = ",".join(each.by)
        if output.format == "json":
            out.write(f"{',' if i else '{'}\n{dumps(by)}: ".encode())
        elif i and output.for_people:
            out.write(b"\n")
        if output.format == "jsonl":
            columns, found = _for_programs(each, rate)
            heads = [Head("by"), *map(Head, columns)]
            answer(heads, ((by, *row) for row in found), output, out)
        else:
            top(each, output, out, rate=rate, drawn=drawn[i] if drawn else None)
    if output.format == "json":
        out.write(b"}\n")


def _for_programs(
    ranked: "Top", rate: bool
) -> tuple[Sequence[str], Iterator[tuple[Value | float, ...]]]:
    rated = _RATED if rate else ()
    columns = (*ranked.by, *_KEYS, *(f"{count}_per_s" for count in rated))
    found = (
        (
            *row.keys,
            *row.counts[:_OLDER],
            None if share is None else round(share, 2),
            *row.counts[_OLDER:_TIMES],
            *(None if at_ns is None else format_time(at_ns) for at_ns in row.counts[_TIMES:]),
            *row.counts[_TIMES:],
            *(_per_s(row.counts, count, ranked) for count in rated),
        )
        for row in ranked.rows
        for share in (_percent(row.counts, ranked),)
    )
    return columns, found


def _for_people(ranked: "Top", rate: bool) -> tuple[list[Head], list[TableRow], list[TableRow]]:
    """Give the columns of a table, its rows, and those below them."""
    counts = [
        head._replace(rank=0, wide=False) if head.key == ranked.sort else head for head in _HEADS
    ]
    if rate:
        counts = [
            head._replace(
                key=f"{head.key}_per_s",
                kind="bytes_rate" if head.kind == "bytes" else "rate",
                title=f"{head.name}/S",
                wide=False,
            )
            for head in counts
            if head.key in _RATED
        ]
    heads = [
        *(Head(key, "name") for key in ranked.by),
        *counts,
        Head("percent", "share", 3, title="%"),
    ]
    if _percent(ranked.totals, ranked) is None:
        heads.pop()

    def line(keys: Sequence[Value], counted: Counts) -> tuple[Value | float, ...]:
        cells: list[Value | float] = [*keys]
        for head in counts:
            count = head.key.removesuffix("_per_s")
            each = counted[COUNTS.index(SORTS[count])]
            cells.append(_per_s(counted, count, ranked) if rate else each)
        # Of the times of others nothing is known.
        for i, (head, cell) in enumerate(zip(heads, cells, strict=False)):
            if head.kind == "time" and cell is None:
                cells[i] = UNKNOWN
        return (*cells, _percent(counted, ranked))[: len(heads)]

    blank = [""] * (len(ranked.by) - 1)
    foot: list[TableRow] = [line(("total", *blank), ranked.totals)] if ranked.rows else []
    if ranked.groups > len(ranked.rows):
        cut = f"others ({ranked.groups - len(ranked.rows):,})"
        foot.insert(0, line((cut, *blank), ranked.others))
    return heads, [line(row.keys, row.counts) for row in ranked.rows], foot


def _percent(counts: Counts, ranked: "Top") -> float | None:
    """Give what part of the whole this is; None where there is no whole, or it is not known."""
    at = COUNTS.index(SORTS[ranked.sort])
    part, whole = counts[at], ranked.totals[at]
    return None if COUNTS[at] in SEEN or part is None or not whole else 100 * part / whole


def _per_s(counts: Counts, count: str, ranked: "Top") -> float | None:
    """Give a count a second; None where it, or how long the span is, is not known."""
    value = counts[COUNTS.index(count)]
    if value is None or ranked.span is None or ranked.span[0] >= ranked.span[1]:
        return None
    return value / ((ranked.span[1] - ranked.span[0]) / SECOND)
