"""What changed, and who is new, as tables and for programs."""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, BinaryIO

from ctk.ask.sums import Counts, Value
from ctk.render.cells import CellKind, Clock, Head, spell
from ctk.render.tables import Output, answer
from ctk.timespan import SECOND, format_time

if TYPE_CHECKING:
    from ctk.ask.diff import ComparedSpan, Diff, Difference
    from ctk.ask.new import NewPeer

# The counts that are compared, how they are called, and their kind; and that of their rate.
_COMPARED: tuple[tuple[str, str, CellKind, CellKind], ...] = (
    ("connections", "CONNS", "count", "rate"),
    ("failed", "FAILED", "count", "rate"),
    ("bytes", "BYTES", "bytes", "bytes_rate"),
)
# What changed most is always shown; who fails is asked next, and names are cut for it.
_RANKS = {"failed": -1, "connections": 2}


def diff(found: "Diff", output: Output, out: BinaryIO) -> None:
    """Write changes: what was before, and what came after; by the second where spans differ."""
    if output.for_people or output.format == "name":
        compared = _COMPARED
        if found.sort not in [name for name, *_ in _COMPARED]:
            kind: CellKind = "bytes" if found.sort.startswith("bytes") else "count"
            rate: CellKind = "bytes_rate" if kind == "bytes" else "rate"
            compared = (*_COMPARED, (found.sort, found.sort.upper(), kind, rate))
        per_s = "/S" if found.by_rate else ""
        named = [key for key in found.by if not (key == "proto" and "dst_port" in found.by)]
        heads = [
            Head("change", "text"),
            *(
                Head(key, "whole", title="PORT") if key == "dst_port" else Head(key, "name")
                for key in named
            ),
            *(
                Head(
                    name,
                    "whole",
                    0 if name == found.sort else _RANKS.get(name, 3),
                    title=_title(title, kind, per_s),
                )
                for name, title, kind, _ in compared
            ),
        ]
        arrow = " -> " if output.screen.ascii else " → "
        lines = (
            (
                change.state,
                *_named(found.by, named, change.keys),
                *(
                    arrow.join(_moved(found, change, name, kind, rate))
                    for name, _, kind, rate in compared
                ),
            )
            for change in found.rows
        )
        answer(heads, lines, output, out)
    else:
        names = ["change", *found.by, *(f"{side}_{name}" for side, name in _SIDES)]
        names += [f"{name}_per_s_change" for name, *_ in _COMPARED]
        answer([Head(name) for name in names], map(_values(found), found.rows), output, out)


def _named(by: Sequence[str], shown: Sequence[str], keys: Sequence[Value]) -> Iterator[Value]:
    """Give the keys that are shown; a port says its protocol, where that is a key too."""
    values = dict(zip(by, keys, strict=True))
    for key in shown:
        if key == "dst_port" and "proto" in values:
            yield port_of(values["dst_port"], values["proto"])
        else:
            yield values[key]


def port_of(port: Value, proto: Value) -> str:
    """Write a port as people do: 443/tcp, or the protocol alone."""
    return str(proto) if port is None else f"{port}/{proto}"


_SIDES = [(side, name) for name, *_ in _COMPARED for side in ("before", "after")]


def _title(title: str, kind: CellKind, per_s: str) -> str:
    return title if kind == "bytes" else title + per_s  # a rate of bytes has its own sign


def _moved(
    found: "Diff", change: "Difference", name: str, kind: CellKind, rate: CellKind
) -> list[str]:
    """Write a count before and after, one where there is but one."""
    cells = []
    for counts, side in ((change.before, found.before), (change.after, found.after)):
        if counts is None:
            continue
        value = getattr(counts, name)
        if value is not None and found.by_rate:
            value = value * SECOND / side.recorded_ns
        cells.append(spell(rate if found.by_rate else kind, value, _CLOCK, ""))
    return cells[:1] if len(set(cells)) == 1 else cells


_CLOCK = Clock(utc=True)


def _values(found: "Diff") -> Callable[["Difference"], tuple[object, ...]]:
    def values(change: "Difference") -> tuple[object, ...]:
        counts = [
            None if each is None else getattr(each, name)
            for side, name in _SIDES
            for each in [change.before if side == "before" else change.after]
        ]
        changes = [
            _per_s(change.after, found.after, name, _per_s(change.before, found.before, name, 0.0))
            for name, *_ in _COMPARED
        ]
        return (change.state, *change.keys, *counts, *changes)

    return values


def _per_s(
    counts: Counts | None, side: "ComparedSpan", name: str, less: float | None
) -> float | None:
    counted = 0 if counts is None else getattr(counts, name)
    if counted is None or less is None:
        return None
    return float(counted * SECOND / side.recorded_ns - less)


_NEW = (
    Head("first_seen", "time"),
    Head("client", "name"),
    Head("server", "name"),
    Head("port", "whole"),
    Head("connections", "count", 1, title="CONNS"),
    Head("failed", "failures", 1),
    Head("bytes", "bytes", 2),
)
_NEW_KEYS = (
    *("first_seen_at", "first_seen_ns", "client", "server", "port", "proto"),
    *("connections", "failed", "bytes"),
)


def new(found: Sequence["NewPeer"], output: Output, out: BinaryIO) -> None:
    """Write new peers, the oldest first."""
    if output.for_people or output.format == "name":
        answer(_NEW, map(_new_line, found), output, out)
    else:
        answer([Head(key) for key in _NEW_KEYS], map(_new_values, found), output, out)


def _new_line(row: "NewPeer") -> tuple[Value, ...]:
    peer, counts = row.peer, row.counts
    moved = counts.connections, counts.failed, counts.bytes
    port = port_of(peer.dst_port, peer.proto)
    return (row.first_ns, peer.client, peer.server, port, *moved)


def _new_values(row: "NewPeer") -> tuple[Value, ...]:
    counts = row.counts
    moved = counts.connections, counts.failed, counts.bytes
    return (format_time(row.first_ns), row.first_ns, *row.peer, *moved)
