"""What a file holds, for people and for programs."""

from collections.abc import Iterable
from datetime import datetime
from itertools import chain, repeat, zip_longest
from typing import TYPE_CHECKING, BinaryIO

from ctk.render import layout
from ctk.render.cells import NONE, Clock, Head, safe, scaled, shorten, width
from ctk.render.encode import harmless
from ctk.render.tables import Output, answer
from ctk.timespan import SECOND

if TYPE_CHECKING:
    from ctk.ask.describe import Description


def description(held: "Description", output: Output, out: BinaryIO) -> None:
    """Write what a file holds: for people, as one JSON object, or as the rows of its tables."""
    if output.format in ("json", "jsonl"):
        from orjson import OPT_INDENT_2, dumps

        # The caveats go to stderr.
        named = held._asdict()
        del named["caveats"]
        option = OPT_INDENT_2 if output.format == "json" else None
        # A NamedTuple is an object here, too.
        out.write(harmless(dumps(named, lambda value: value._asdict(), option)) + b"\n")
    elif output.columns or output.format not in ("table", "wide"):
        found = ((table.table, table.rows, table.bytes) for table in held.tables)
        answer(_TABLE, found, output, out)
    else:
        screen = output.screen
        clock = Clock(utc=screen.utc)
        with output.paged(out) as sink:
            for name, fact in _facts(held, clock):
                for title, line in zip_longest([name], _fitting(fact, screen.width), fillvalue=""):
                    sink.write(f"{title:<{_NAMES}} {line}\n".encode())
            sink.write(b"\n")
            levels = (
                (
                    level.level,
                    *map(_ns, (level.since, level.folded_until, level.pruned_until)),
                    level.rows,
                )
                for level in held.levels
            )
            layout.table(_LEVEL, levels, screen, sink)
            sink.write(b"\n")
            sizes = ((table.table, table.rows, table.bytes) for table in held.tables)
            layout.table(_TABLE, sizes, screen, sink)


_NAMES = 11  # columns that the names of facts take
_LEAST = 40  # of a fact: what is narrower is wrapped by the terminal
_LEVEL = (
    Head("level", "name"),
    Head("since", "time", title="FROM"),
    Head("folded_until", "time"),
    Head("pruned_until", "time"),
    Head("rows", "count"),
)
_TABLE = (Head("table", "name"), Head("rows", "count"), Head("bytes", "bytes"))


def _fitting(fact: str, most: int | None) -> list[str]:
    """Part a fact into lines that fit the screen, with words that are longer cut in the middle."""
    if most is None or width(fact) <= (room := max(most - _NAMES - 1, _LEAST)):
        return [fact]
    from textwrap import wrap

    words = (shorten(word, room) for word in fact.split(" "))
    return wrap(" ".join(words), room, break_long_words=False, break_on_hyphens=False)


def _facts(held: "Description", clock: Clock) -> Iterable[tuple[str, str]]:
    def moment(text: str | None) -> str:
        at_ns = _ns(text)
        return NONE if at_ns is None else clock.spell(at_ns, zone)

    first_ns = _ns(held.since)
    zone = "UTC" if first_ns is None else clock.zone(first_ns)
    yield "nodes", ", ".join(map(safe, held.nodes)) or NONE
    yield "from", f"{moment(held.since)} {zone if held.since else ''}".rstrip()
    yield "until", moment(held.until)
    yield "file", scaled(held.bytes)
    counts = [f"{found.endpoints:,} {safe(found.kind)}" for found in held.endpoints]
    yield "endpoints", ", ".join(counts) or NONE
    yield "recordings", f"{len(held.recordings):,}"
    for recording in held.recordings[-3:]:
        ended = recording.ended_at
        end = f"to {moment(ended)}" if ended else f"committed {moment(recording.committed_at)}"
        events = f"{recording.events:,} events, {recording.lost:,} lost"
        if recording.unwritten:
            events += f", {recording.unwritten:,} not written"
        source = safe(recording.source)
        yield "", f"{moment(recording.started_at)} {end}, {source}: {events}"
    yield "gaps", safe(held.gaps_in_words or "none")
    for title, each in zip(chain(("conntrack",), repeat("")), held.pressure, strict=False):
        of = "" if each.most is None else f" of {each.most:,} ({each.share:.0%})"
        node = f", {safe(each.node)}" if len(held.pressure) > 1 else ""
        yield title, f"at most {each.peak:,}{of} entries, {clock.spell(each.peak_ns, zone)}{node}"
    for title, text in zip_longest(["merged"], map(safe, held.merged), fillvalue=""):
        if text:
            yield title, text


def _ns(text: str | None) -> int | None:
    return None if text is None else int(datetime.fromisoformat(text).timestamp()) * SECOND
