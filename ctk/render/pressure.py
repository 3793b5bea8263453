"""How full the kernel's table was and who held it: two tables for people, or for programs."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, BinaryIO

from ctk.render import layout
from ctk.render.cells import Head
from ctk.render.encode import harmless
from ctk.render.overtime import blocks
from ctk.render.tables import Output, answer
from ctk.timespan import format_time

if TYPE_CHECKING:
    from ctk.ask.pressure import Pressure, PressureLook

_STEPS = 24  # blocks of a line, at most

_NODE = (
    Head("node", "name"),
    Head("use", "text", 1, title="ENTRIES OVER TIME"),
    Head("peak", "count"),
    Head("most", "count", title="OF"),
    Head("share", "share", title="%"),
    Head("peak_ns", "time", title="PEAK AT"),
    Head("dropped", "failures"),
    Head("early_dropped", "failures", 2, title="EARLY DROPPED"),
    Head("insert_failed", "failures", 3, title="INSERT FAILED"),
)


def pressure(found: "Pressure", most_rows: int | None, output: Output, out: BinaryIO) -> None:
    """Write nodes and holders; `most_rows` is of holders. JSON has all that there is."""
    if output.format == "json":
        _write_json(found, out)
        return
    rows = [(*each.keys, each.at_peak, each.at_end) for each in found.holders[:most_rows]]
    if output.columns or not output.for_people or output.format == "vertical":
        heads = [Head(key, "name") for key in (*found.by, "at_peak", "at_end")]
        answer(heads, rows, output, out)
        return
    with output.paged(out) as sink:
        layout.table(_NODE, _nodes(found), output.screen, sink)
        if not found.holders:
            return  # a caveat says why
        sink.write(b"\n")
        at_peak = sum(each.at_peak for each in found.holders)
        at_end = sum(each.at_end for each in found.holders)
        columns = (
            *(Head(key, "name") for key in found.by),
            Head("at_peak", "count"),
            Head("share", "share", 1, title="%"),
            Head("at_end", "count"),
        )
        shown = [
            (*each.keys, each.at_peak, _percent(each.at_peak, at_peak), each.at_end)
            for each in found.holders[:most_rows]
        ]
        blank = (None,) * (len(found.by) - 1)
        if left := found.holders[len(shown) :]:
            peak, end = sum(each.at_peak for each in left), sum(each.at_end for each in left)
            others = f"others ({len(left):,})"
            shown.append((others, *blank, peak, _percent(peak, at_peak), end))
        if shown:
            shown.append(("total", *blank, at_peak, _percent(at_peak, at_peak), at_end))
        layout.table(columns, shown, output.screen, sink)


def _percent(part: int, whole: int) -> float | None:
    return 100 * part / whole if whole else None


def _nodes(found: "Pressure") -> Iterator[tuple[object, ...]]:
    for each in found.nodes:
        use = _line([look for look in found.looks if look.node == each.node])
        share = None if each.share is None else 100 * each.share
        yield (
            *(each.node, use, each.peak, each.most, share, each.peak_ns),
            *(each.dropped, each.early_dropped, each.insert_failed),
        )


def _line(looks: "Sequence[PressureLook]") -> str:
    """Draw the peaks over time, the highest block the most; `·` is a time without a look."""
    first_ns, last_ns = looks[0].at_ns, looks[-1].at_ns
    count = min(_STEPS, len(looks))
    steps: list[float | None] = [None] * count
    for look in looks:
        step = (look.at_ns - first_ns) * count // (last_ns - first_ns + 1)
        steps[step] = max(steps[step] or 0, look.peak)
    return blocks(steps, max(look.peak for look in looks))


def _write_json(found: "Pressure", out: BinaryIO) -> None:
    from orjson import OPT_INDENT_2, dumps

    named = {
        "nodes": [{**each._asdict(), "peak_at": format_time(each.peak_ns)} for each in found.nodes],
        "looks": [{"at": format_time(each.at_ns), **each._asdict()} for each in found.looks],
        "by": found.by,
        "holders": [
            {
                **dict(zip(found.by, each.keys, strict=True)),
                "at_peak": each.at_peak,
                "at_end": each.at_end,
            }
            for each in found.holders
        ],
        "peaks_at": {node: format_time(at_ns) for node, at_ns in found.peaks_ns.items()},
        "ends_at": {node: format_time(at_ns) for node, at_ns in found.ends_ns.items()},
    }
    out.write(harmless(dumps(named, option=OPT_INDENT_2)) + b"\n")
