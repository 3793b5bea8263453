"""What `top` found: groups, what part of the whole each moved, and the whole."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, BinaryIO

from ctk.ask.sums import COUNTS, SEEN, SORTS, Counts, Value
from ctk.render.cells import UNKNOWN, Head
from ctk.render.tables import Output, answer
from ctk.timespan import format_time

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


def top(ranked: "Top", output: Output, out: BinaryIO) -> None:
    """Write groups; a table ends with what the limit cut, and with the whole."""
    if output.for_people or output.format == "name":
        _for_people(ranked, output, out)
        return
    heads = [Head(key) for key in (*ranked.by, *_KEYS)]
    found = (
        (
            *row.keys,
            *row.counts[:_OLDER],
            None if share is None else round(share, 2),
            *row.counts[_OLDER:_TIMES],
            *(None if at_ns is None else format_time(at_ns) for at_ns in row.counts[_TIMES:]),
            *row.counts[_TIMES:],
        )
        for row in ranked.rows
        for share in (_percent(row.counts, ranked),)
    )
    answer(heads, found, output, out)


def _for_people(ranked: "Top", output: Output, out: BinaryIO) -> None:
    counts = [
        head._replace(rank=0, wide=False) if head.key == ranked.sort else head for head in _HEADS
    ]
    heads = [
        *(Head(key, "name") for key in ranked.by),
        *counts,
        Head("percent", "share", 3, title="%"),
    ]
    if _percent(ranked.totals, ranked) is None:
        heads.pop()

    def line(keys: Sequence[Value], counted: Counts) -> tuple[Value | float, ...]:
        cells = [*keys, *(counted[COUNTS.index(SORTS[head.key])] for head in counts)]
        # Of the times of others nothing is known.
        for i, (head, cell) in enumerate(zip(heads, cells, strict=False)):
            if head.kind == "time" and cell is None:
                cells[i] = UNKNOWN
        return (*cells, _percent(counted, ranked))[: len(heads)]

    blank = [""] * (len(ranked.by) - 1)
    foot = [line(("total", *blank), ranked.totals)] if ranked.rows else []
    if ranked.groups > len(ranked.rows):
        cut = f"others ({ranked.groups - len(ranked.rows):,})"
        foot.insert(0, line((cut, *blank), ranked.others))
    found = [line(row.keys, row.counts) for row in ranked.rows]
    answer(heads, found, output, out, foot=foot)


def _percent(counts: Counts, ranked: "Top") -> float | None:
    """Give what part of the whole this is; None where there is no whole, or it is not known."""
    at = COUNTS.index(SORTS[ranked.sort])
    part, whole = counts[at], ranked.totals[at]
    return None if COUNTS[at] in SEEN or part is None or not whole else 100 * part / whole
