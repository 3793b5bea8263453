"""
The live table, without a terminal: what is looked at, what a key does to that, and the lines shown.

`ctk.report.terminal` draws these with curses; a test draws them as text.
"""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from io import BytesIO
from typing import Literal, NamedTuple

from ctk.ask.keywords import NAMES, filters_of, flags_of
from ctk.ask.sums import Counts, Value
from ctk.ask.top import Top
from ctk.errors import CtkError, UsageError
from ctk.model import Filters, Term
from ctk.render import tables
from ctk.render.cells import NONE, UNKNOWN, safe, scaled, shorten, width
from ctk.render.layout import Screen
from ctk.render.tables import Output
from ctk.report.drill import PEERS, terms_of
from ctk.store.columns import FlowRecord

Style = Literal["head", "plain", "selected", "quiet", "bad"]

# The counts shown, each with what `ctk top --sort` calls it; those behind go first where there is
# no room.
SHOWN: Mapping[str, str] = {
    "connections": "CONNS",
    "failed": "FAILED",
    "bytes": "BYTES",
    "bytes_out": "OUT",
    "bytes_in": "IN",
    "packets": "PACKETS",
    "refused": "REFUSED",
    "unreplied": "UNREPLIED",
}
_NARROWEST = 18  # of a column of names: legible when shortened
_COUNT_WIDTH = 11
HELP = (
    "q          leave",
    "Space      pause, and go on",
    "< >        sort by the column before, behind",
    "r          turn the order round",
    "/          filter: part of a pod's name, a port, an address,",
    "           or by the flags of `ctk top`: namespace shop, not port 53",
    "c          totals, or rates since the last look",
    "Up Down    choose a row; PgUp PgDn a page",
    "Enter      look into a row: its peers and ports, then their flows",
    "Esc        back",
    "?          this",
)


class Line(NamedTuple):
    text: str
    style: Style


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What is looked at."""

    by: tuple[str, ...]
    filters: Filters
    sort: str = ""  # what the answer is sorted by: bytes, or connections where none were measured
    flows: bool = False  # not groups of flows, but these, the newest first
    reverse: bool = False
    rates: bool = False
    paused: bool = False
    chosen: int = 0  # the row, from the first
    typing: str | None = None  # a filter that is being typed
    wrong: str = ""  # what was wrong with the last one
    helping: bool = False
    before: "Look | None" = None  # what Esc goes back to


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """An answer, the one before it, and what stands above the table."""

    top: Top
    earlier: Mapping[tuple[Value, ...], Counts] = field(default_factory=dict)
    apart_s: float = 0.0  # between the two; 0 where there is one only
    title: str = ""
    notes: tuple[str, ...] = ()
    flows: tuple[FlowRecord, ...] = ()

    def rows(self, look: Look) -> int:
        return len(self.flows if look.flows else self.top.rows)

    def sort(self, look: Look) -> str:
        return look.sort or self.top.sort


def ordered(look: Look, seen: Seen) -> list[tuple[tuple[Value, ...], Counts]]:
    """Give the rows in the order that is asked for; what was not measured comes last."""

    def rank(row: tuple[tuple[Value, ...], Counts]) -> tuple[bool, float, list[str]]:
        value = _number(look, seen, seen.sort(look), *row)
        falling = -(value or 0) if not look.reverse else (value or 0)
        return value is None, falling, [str(key) for key in row[0]]

    return sorted(((row.keys, row.counts) for row in seen.top.rows), key=rank)


def press(look: Look, key: str, seen: Seen, page: int) -> Look | None:  # noqa: PLR0911, PLR0912
    """Give what is looked at after a key; None where it ends."""
    if look.typing is not None:
        return _typed(look, key)
    if look.helping:
        return replace(look, helping=False)
    last = max(seen.rows(look) - 1, 0)
    look = replace(look, wrong="")
    match key:
        case "q":
            return None
        case "?":
            return replace(look, helping=True)
        case " ":
            return replace(look, paused=not look.paused)
        case "<" | ">":
            names = list(SHOWN)
            sort = seen.sort(look)
            at = names.index(sort) if sort in names else 0
            return replace(look, sort=names[(at + (1 if key == ">" else -1)) % len(names)])
        case "r":
            return replace(look, reverse=not look.reverse)
        case "c":
            return replace(look, rates=not look.rates)
        case "/":
            return replace(look, typing="", wrong="")
        case "up" | "k":
            return replace(look, chosen=max(look.chosen - 1, 0))
        case "down" | "j":
            return replace(look, chosen=min(look.chosen + 1, last))
        case "pgup":
            return replace(look, chosen=max(look.chosen - page, 0))
        case "pgdn":
            return replace(look, chosen=min(look.chosen + page, last))
        case "enter":
            return _into(look, seen)
        case "esc":
            return look.before or look
        case _:
            return look


def _typed(look: Look, key: str) -> Look:
    text = look.typing or ""
    if key == "esc":
        return replace(look, typing=None)
    if key == "backspace":
        return replace(look, typing=text[:-1])
    if key != "enter":
        return replace(look, typing=text + key) if len(key) == 1 and len(text) < 200 else look
    try:
        terms = (*look.filters.terms, *_terms(text))
    except CtkError as error:
        return replace(look, typing=None, wrong=f"{error.message}; try {error.hint or '?'}")
    if len(terms) == len(look.filters.terms):
        return replace(look, typing=None)
    filters = look.filters._replace(terms=terms)
    return replace(look, typing=None, filters=filters, chosen=0, before=replace(look, typing=None))


def _terms(text: str) -> tuple[Term, ...]:
    """Turn "namespace shop not port 53", with or without dashes, into terms."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UsageError(f"{text!r} is not closed", hint="namespace shop") from error
    if len(words) == 1 and (named := _bare(words[0])):
        words = named
    asked: dict[str, object] = {}
    negated = ""
    at = 0
    while at < len(words):
        name = words[at].lstrip("-").replace("-", "_")
        at += 1
        if name == "not":
            negated = "not_"
            continue
        name, negated = f"{negated}{name}", ""
        if name not in NAMES:
            raise UsageError(f"{name!r} is not a filter", hint="namespace shop, pod web-*, failed")
        if NAMES[name].asked.form is None:
            asked[name] = True
        elif at < len(words):
            asked[name] = words[at]
            at += 1
        else:
            raise UsageError(f"{name} wants a value", hint=f"{name} {NAMES[name].asked.form}")
    return filters_of(asked, now_ns=0).terms


def _bare(word: str) -> list[str] | None:
    """Give the filter that a word alone stands for: an address, a port, a part of a pod's name."""
    if word.startswith("-") or word.replace("-", "_") in NAMES or word == "not":
        return None
    if re.fullmatch(r"[0-9a-fA-F:.]*[:.][0-9a-fA-F:./]*", word):
        return ["ip", word]
    return ["port", word] if word.isdecimal() else ["pod", f"*{word}*"]


def _into(look: Look, seen: Seen) -> Look:
    """Look into the chosen row: at its peers, then at their flows."""
    rows = ordered(look, seen)
    if look.flows or look.chosen >= len(rows):
        return look
    terms = terms_of(look.by, rows[look.chosen][0])
    if terms is None:
        return replace(look, wrong="this row cannot be looked into: no filter tells its flows")
    filters = look.filters._replace(terms=(*look.filters.terms, *terms))
    into = replace(look, filters=filters, chosen=0, before=look)
    # What the rows before were told by is the same in all of these.
    looked: set[str] = set()
    earlier: Look | None = look
    while earlier is not None:
        looked.update(earlier.by)
        earlier = earlier.before
    by = tuple(key for key in PEERS if key not in looked)
    return replace(into, by=by) if by else replace(into, flows=True)


def screen(look: Look, seen: Seen, columns: int, rows: int) -> list[Line]:
    """Give the lines of a screen: none wider than it is, and as many as fit."""
    lines = [Line(seen.title, "head"), *(Line(note, "bad") for note in seen.notes[:2])]
    flags = flags_of(look.filters)
    state = [
        *(
            ["flows, the newest first"]
            if look.flows
            else [f"by {','.join(look.by)}", "rates" if look.rates else "totals"]
        ),
        *(["paused"] if look.paused else []),
        *([flags] if flags else []),
    ]
    if look.typing is not None:
        lines.append(Line(f"filter: {look.typing}_", "plain"))
    elif look.wrong:
        lines.append(Line(look.wrong, "bad"))
    else:
        lines.append(Line("  ".join(state), "quiet"))
    room = rows - len(lines)
    if look.helping:
        lines += [Line(text, "plain") for text in HELP[:room]]
    else:
        table = _flows if look.flows else _table
        lines += table(look, seen, columns, room - 1)
        lines = lines[: rows - 1]
        lines.append(Line("q leave  ? help  Enter into  Esc back  / filter  < > sort", "quiet"))
    return [line._replace(text=_cut(line.text, columns)) for line in lines[:rows]]


def _flows(look: Look, seen: Seen, columns: int, room: int) -> list[Line]:
    """Give the flows as `ctk query` shows them, from the chosen one on."""
    out = BytesIO()
    first = max(0, look.chosen - max(room - 2, 0))
    output = Output(format="table", screen=Screen(width=columns))
    tables.flows(seen.flows[first : first + max(room - 1, 1)], output, out)
    head, *texts = out.getvalue().decode().splitlines()
    chosen = look.chosen - first
    lines = [Line(head, "head")]
    for at, text in enumerate(texts):
        flow = seen.flows[first + at] if first + at < len(seen.flows) else None
        failed = flow is not None and flow.unreplied + flow.refused
        lines.append(Line(text, "selected" if at == chosen else "bad" if failed else "plain"))
    return lines if texts else [*lines, Line("no flows fit", "quiet")]


def _table(look: Look, seen: Seen, columns: int, room: int) -> list[Line]:
    rows = ordered(look, seen)
    sort = seen.sort(look)
    counts = list(SHOWN)
    least = len(look.by) * (_NARROWEST + 2)
    while len(counts) > 1 and least + len(counts) * _COUNT_WIDTH > columns:
        # The column that is sorted by stays.
        counts.remove(next(name for name in reversed(counts) if name != sort))
    texts = [[NONE if key is None else safe(key) for key in keys] for keys, _ in rows]
    needed = [
        max([width(key), *(width(text[at]) for text in texts)]) for at, key in enumerate(look.by)
    ]
    wide = _shared(needed, columns - len(counts) * _COUNT_WIDTH - 2 * (len(needed) - 1))
    arrow = "^" if look.reverse else "v"
    names = [f"{SHOWN[name]}{arrow if name == sort else ''}" for name in counts]
    head = _line(
        [shorten(key.upper().replace("_", " "), wide[i]) for i, key in enumerate(look.by)],
        wide,
        names,
    )
    lines = [Line(head, "head")]
    # The chosen row stays on the screen.
    first = max(0, look.chosen - max(room - 2, 0))
    for at in range(first, min(len(rows), first + max(room - 1, 0))):
        keys, moved = rows[at]
        cells = [shorten(text, wide[i]) for i, text in enumerate(texts[at])]
        values = [_cell(look, seen, name, keys, moved) for name in counts]
        style: Style = "selected" if at == look.chosen else "bad" if moved.failed else "plain"
        lines.append(Line(_line(cells, wide, values), style))
    if not rows:
        lines.append(Line("no flows fit", "quiet"))
    return lines


def _shared(needed: Sequence[int], room: int) -> list[int]:
    """Give each column what it needs while there is room; what is short is shared evenly."""
    wide = list(needed)
    for left, at in enumerate(sorted(range(len(needed)), key=needed.__getitem__), -len(needed)):
        wide[at] = min(needed[at], max(room // -left, 4))
        room -= wide[at]
    return wide


def _line(keys: Sequence[str], wide: Sequence[int], counts: Sequence[str]) -> str:
    left = "  ".join(
        text + " " * (most - width(text)) for text, most in zip(keys, wide, strict=True)
    )
    return left + "".join(f"{text:>{_COUNT_WIDTH}}" for text in counts)


def _number(
    look: Look, seen: Seen, name: str, keys: tuple[Value, ...], counts: Counts
) -> float | None:
    value: float | None = getattr(counts, name)
    if not look.rates:
        return value
    if value is None or not seen.apart_s:
        return None
    before = seen.earlier.get(keys)
    return (value - (getattr(before, name) or 0 if before else 0)) / seen.apart_s


def _cell(look: Look, seen: Seen, name: str, keys: tuple[Value, ...], counts: Counts) -> str:
    value = _number(look, seen, name, keys, counts)
    if value is None:
        return UNKNOWN
    in_bytes = name.startswith("bytes")
    if look.rates:
        return f"{scaled(value)}/s" if in_bytes else f"{value:,.1f}/s"
    before = seen.earlier.get(keys)
    # What moved since the last look is marked.
    mark = "+" if seen.apart_s and before is not None and getattr(before, name) != value else ""
    return f"{mark}{scaled(value)}" if in_bytes else f"{mark}{value:,}"


def _cut(text: str, columns: int) -> str:
    if width(text) <= columns:
        return text
    while width(text) >= columns and text:
        text = text[:-1]
    return f"{text.rstrip()}…"
