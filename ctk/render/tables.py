"""Answers in the form that was asked for: tables for people, and lines for programs."""

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from itertools import chain, islice
from typing import Any, BinaryIO, Literal, NamedTuple

from ctk.ask.storedgaps import StoredGap
from ctk.errors import UsageError
from ctk.model import Finding
from ctk.render import flowcells, layout
from ctk.render.cells import CellKind, Head, safe, shown, told
from ctk.render.encode import encoder, header
from ctk.render.layout import BATCH, Screen, TableRow
from ctk.render.pager import TableSink, paged
from ctk.store.columns import FLOW_KEYS, FlowRecord

Format = Literal["table", "wide", "vertical", "markdown", "name", "json", "jsonl", "csv", "tsv"]

FOR_PEOPLE: tuple[Format, ...] = ("table", "wide", "vertical", "markdown")


class Output(NamedTuple):
    """What form an answer takes, and after how many rows a table stops (None: after the last)."""

    format: Format
    most: int | None = None
    columns: tuple[str, ...] = ()  # only these, in this order; () for those of the form
    titled: bool = True  # tables and CSV begin with the names of their columns
    screen: Screen = Screen()

    @property
    def for_people(self) -> bool:
        return self.format in FOR_PEOPLE

    @property
    def has_foot(self) -> bool:
        """Say whether an answer may end with rows that are none of it, such as its total."""
        return self.titled and self.format in ("table", "wide", "markdown")

    def paged(self, out: BinaryIO) -> AbstractContextManager[TableSink]:
        """Give what to write a whole answer to: a pager, where it is longer than the screen."""
        return paged(out, self.screen.pager, self.screen.height)


def answer(
    heads: Sequence[Head],
    found: Iterable[TableRow],
    output: Output,
    out: BinaryIO,
    *,
    foot: Sequence[TableRow] = (),
) -> int:
    """
    Write rows of plain values, and give their number.

    Names alone are the columns of kind "name"; a table ends with the rows of `foot`.
    """
    if output.columns:
        at = chosen(output.columns, [(head.key, head.name) for head in heads])
    elif output.format == "name":
        at = [i for i, head in enumerate(heads) if head.kind == "name"] or [0]
    else:
        all_of_them = output.format not in ("table", "markdown")
        at = [i for i, head in enumerate(heads) if all_of_them or not head.wide]
    if at != list(range(len(heads))):
        heads = [heads[i] for i in at]
        found = (tuple(row[i] for i in at) for row in found)
        foot = [tuple(row[i] for i in at) for row in foot]
    return _write(heads, found, output, out, foot)


def chosen(columns: Sequence[str], offered: Sequence[tuple[str, ...]]) -> list[int]:
    """Find the columns that are asked for among the names of each that there is."""
    named = {name.lower(): i for i, names in reversed(list(enumerate(offered))) for name in names}
    for column in columns:
        if column.lower() not in named:
            from difflib import get_close_matches

            near = get_close_matches(column.lower(), named, 1, _NEAR)
            keys = near or [names[0] for names in offered][:_TOLD]
            more = ", and the keys of -o jsonl" if not near and len(offered) > _TOLD else ""
            raise UsageError(
                f"{column!r} is not a column", hint=f"--columns {','.join(keys)}{more}"
            )
    return [named[column.lower()] for column in columns]


# So many columns are told where none is near to what was asked for, as `bytes` is to `byts`.
_TOLD = 8
_NEAR = 0.8


def flows(
    records: Iterable[FlowRecord], output: Output, out: BinaryIO, *, nodes: bool = False
) -> int:
    """
    Write flows, every key of them or, in a table, what people look for; give their number.

    With `nodes`, that is also who recorded each.
    """
    if output.format == "name":
        return _names(map(flowcells.two_names, records), out)
    if not output.for_people:
        if not output.columns:
            return rows(FLOW_KEYS, records, output, out)
        titles = {head.key: head.name for head, _ in flowcells.SHOWN}
        keys = list(flowcells.FOR_PROGRAMS)
        offered = [(key, titles.get(key, key)) for key in keys]
        keys = [keys[i] for i in chosen(output.columns, offered)]
        gets = [flowcells.FOR_PROGRAMS[key] for key in keys]
        return rows(keys, flowcells.picked(gets, records), output, out)
    shown = list(flowcells.KEYS if output.format == "vertical" else flowcells.SHOWN)
    if output.format in ("table", "markdown"):
        shown = [each for each in shown if not each[0].wide or (nodes and each[0].key == "node")]
    if output.columns:
        columns = list(flowcells.FOR_PEOPLE.values())
        at = chosen(output.columns, [(head.key, head.name) for head, _ in columns])
        shown = [columns[i] for i in at]
    found = flowcells.picked([get for _, get in shown], records)
    return _write([head for head, _ in shown], found, output, out)


def rows(
    columns: Sequence[str], found: Iterable[Sequence[Any]], output: Output, out: BinaryIO
) -> int:
    """Write rows as they come, and give their number."""
    if output.for_people or output.format == "name":
        found = iter(found)
        first = list(islice(found, BATCH))
        heads = [
            Head(column, _kind(row[i] for row in first), title=safe(column))
            for i, column in enumerate(columns)
        ]
        if output.format == "name":
            return _names((row[:1] for row in chain(first, found)), out)
        return answer(heads, chain(first, found), output, out)
    encode = encoder(output.format, columns)
    for_terminal = out.isatty()
    if output.titled:
        line = header(output.format, columns)
        out.write(shown(line) if for_terminal else line)
    written = 0
    for row in found:
        line = shown(encode(row)) if for_terminal else encode(row)
        if output.format == "json":
            out.write((b",\n" if written else b"[") + line)
        else:
            out.write(line + b"\n")
        written += 1
    if output.format == "json":
        out.write(b"]\n" if written else b"[]\n")
    return written


def plan(steps: Iterable[Sequence[Any]], out: BinaryIO) -> None:
    """Write how SQLite answers a question: a line a step, below the step that it is part of."""
    depths: dict[int, int] = {}
    for number, parent, _, step in steps:
        depths[number] = depths.get(parent, -1) + 1
        out.write(f"{'  ' * depths[number]}{safe(step)}\n".encode())


def _kind(values: Iterable[object]) -> CellKind:
    some = False
    for value in values:
        if value is not None and not isinstance(value, int | float):
            return "text"
        some = some or value is not None
    return "number" if some else "text"


def _names(found: Iterable[Sequence[object]], out: BinaryIO) -> int:
    written = 0
    for row in found:
        out.write("\t".join("" if value is None else safe(value) for value in row).encode() + b"\n")
        written += 1
    return written


def _write(
    heads: Sequence[Head],
    found: Iterable[TableRow],
    output: Output,
    out: BinaryIO,
    foot: Sequence[TableRow] = (),
) -> int:
    if output.format == "name":
        return _names(found, out)
    if not output.for_people:
        return rows([head.key for head in heads], found, output, out)
    found = islice(found, output.most)
    with output.paged(out) as sink:
        if output.format == "vertical":
            return layout.blocks(heads, found, output.screen, sink)
        foot = foot if output.has_foot else ()
        if output.format == "markdown":
            return layout.markdown(heads, chain(found, foot), output.screen, sink) - len(foot)
        screen = output.screen if output.format == "table" else output.screen.unbounded()
        written, left = layout.table(heads, chain(found, foot), screen, sink, titled=output.titled)
    if left:
        out.flush()
        screen.left_out(left)
    return written - len(foot)


def findings(found: Sequence[Finding], output: Output, out: BinaryIO) -> None:
    """Write what the doctor found; for people a line each, and what to do below it."""
    if output.format != "table" or output.columns:
        rows(Finding._fields, found, output, out)
        return
    from textwrap import wrap

    check = max(len(one.check) for one in found)
    columns = output.screen.width or 1 << 20
    # The name of a setting is 38 characters, and stands whole: on a narrow screen below the check.
    is_narrow = columns < 7 + 2 + check + 2 + _SETTING
    indent = " " * (2 if is_narrow else 7 + 2 + check + 2)
    for one in found:
        head = f"{one.status:<7}  {one.check:<{check}}".rstrip()
        lines = (
            [head, f"{indent}{one.found}"] if is_narrow else [f"{head:<{len(indent)}}{one.found}"]
        )
        if one.advice:
            lines.append(f"{indent}Try: {one.advice}")
        for line in lines:
            # Folded between words: a terminal breaks them anywhere, at its edge.
            parts = [line]
            if len(line) > columns:
                parts = wrap(
                    line,
                    columns,
                    subsequent_indent=indent,
                    break_long_words=False,
                    break_on_hyphens=False,
                )
            out.writelines(told(f"{part}\n").encode() for part in parts)


_SETTING = 38

_GAP_HEADS = (
    Head("started_ns", "time", title="FROM"),
    Head("ended_ns", "time", title="TO", wide=True),
    Head("lasted", "age"),
    Head("node", "name"),
    Head("kind", "gap", title="WHAT"),
    Head("lost", "count", title="EVENTS LOST"),
    Head("detail", rank=1),
)


def gaps(found: Iterable[StoredGap], output: Output, out: BinaryIO) -> int:
    """Write gaps, and give their number."""
    if not output.for_people:
        heads = [Head(key) for key in StoredGap._fields]
        return answer(heads, found, output, out)
    lines = (
        (
            gap.started_ns,
            gap.ended_ns,
            gap.ended_ns - gap.started_ns,
            gap.node,
            gap.kind,
            gap.lost,
            gap.detail,
        )
        for gap in found
    )
    return answer(_GAP_HEADS, lines, output, out)
