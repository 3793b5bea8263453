"""What failed, as a table and for programs."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, BinaryIO

from ctk.render.cells import Head
from ctk.render.layout import TableRow, shown_of
from ctk.render.tables import Output, answer
from ctk.timespan import format_time

if TYPE_CHECKING:
    from ctk.ask.failures import Failure, Failures

_HEADS = (
    Head("client", "name"),
    Head("service", "name"),
    Head("backend", "name", 1),
    Head("port", "whole"),
    Head("connections", "count", 3, title="CONNS"),
    Head("refused", "failures"),
    Head("unreplied", "failures"),
    Head("percent", "share", -2, title="%"),
    Head("first_failed", "time", -1, title="SINCE"),
    Head("last_failed", "time", 4, title="LAST"),
    Head("note", "gap", 2),
)
_KEYS = (
    *("client", "service", "backend", "port", "proto", "connections", "failed", "refused"),
    *("unreplied", "share", "first_failed_at", "first_failed_ns", "last_failed_at"),
    *("last_failed_ns", "exact_to_ns", "backends", "failing_backends"),
)


def failures(found: "Failures", output: Output, out: BinaryIO) -> "list[Failure]":
    """
    Write what failed; a note says where of a service's backends not all do.

    Give those that alone fail, where a table had no room for the notes.
    """
    if output.for_people or output.format == "name":
        lines = [_line(row) for row in found.rows]
        noted = any(line[-1] for line in lines) or output.format != "table" or output.columns
        heads: Sequence[Head] = _HEADS if noted else _HEADS[:-1]
        lines = [line[: len(heads)] for line in lines]
        if output.format == "table" and not output.columns:
            heads, lines = _fitting(heads, lines, output)
        answer(heads, lines, output, out)
        if heads[-1].key == "note" and output.format == "table" and not output.columns:
            shown = shown_of(heads, lines, output.screen)
            return [row for row in found.rows if row.stands_out and heads[-1] not in shown]
    else:
        answer([Head(key) for key in _KEYS], map(_values, found.rows), output, out)
    return []


def _fitting(
    heads: Sequence[Head], lines: list[TableRow], output: Output
) -> tuple[Sequence[Head], list[TableRow]]:
    """
    Where backends have no room, services go for them; one that had no backend stands there.

    Since when it fails is shown always: for that refused and unreplied are one count.
    """
    keys = [head.key for head in heads]
    service, backend = keys.index("service"), keys.index("backend")
    if heads[backend] in shown_of(heads, lines, output.screen):
        return heads, lines
    rank = max(head.rank for head in heads) + 1
    ranks = {"service": rank, "backend": 0}
    heads = [head._replace(rank=ranks.get(head.key, head.rank)) for head in heads]
    lines = [
        (*line[:backend], line[backend] or line[service], *line[backend + 1 :]) for line in lines
    ]
    refused, unreplied = keys.index("refused"), keys.index("unreplied")
    if any(head.key == "first_failed" for head in shown_of(heads, lines, output.screen)):
        return heads, lines
    ranks = {"first_failed": 0, "refused": rank, "unreplied": rank}
    heads = [head._replace(rank=ranks.get(head.key, head.rank)) for head in heads]
    heads.insert(refused, Head("failed", "failures"))
    return heads, [
        (*line[:refused], line[refused] + line[unreplied], *line[refused:]) for line in lines
    ]


def _line(row: "Failure") -> TableRow:
    counts = row.counts
    return (
        row.client,
        row.service,
        row.backend,
        row.proto if row.port is None else f"{row.port}/{row.proto}",
        counts.connections,
        counts.refused,
        counts.unreplied,
        None if row.share is None else 100 * row.share,
        row.first_ns,
        row.last_ns,
        _note(row),
    )


def _note(row: "Failure") -> str:
    if row.backends is None or row.backends < 2:
        return ""
    if row.stands_out:
        return f"only this backend of {row.backends:,} fails"
    if row.failing == row.backends:
        return f"all {row.backends:,} backends fail"
    return f"{row.failing:,} of {row.backends:,} backends fail"


def _values(row: "Failure") -> tuple[object, ...]:
    counts = row.counts
    return (
        *(row.client, row.service, row.backend, row.port, row.proto),
        *(counts.connections, counts.failed, counts.refused, counts.unreplied),
        *(row.share, format_time(row.first_ns), row.first_ns),
        *(format_time(row.last_ns), row.last_ns, row.exact_to_ns),
        *(row.backends, row.failing),
    )
