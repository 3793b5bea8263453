"""
Files of several nodes, merged into one in which each connection counts once.

What is merged is written beside its name, and gets it when it is whole: a merge that is broken off
leaves nothing, and is done again. It takes as much memory for a hundred files as for two.
"""

import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from ctk.errors import StoreError, UsageError
from ctk.fleet import history, identities
from ctk.fleet.attached import Attached
from ctk.fleet.classes import Classes
from ctk.fleet.inputs import Chosen, Input, choose, open_inputs
from ctk.fleet.rows import LevelCopier, fold, fold_counts
from ctk.fleet.slices import LevelRows
from ctk.store import connect, merged
from ctk.store.damage import blaming
from ctk.store.levels import LEVELS, Level
from ctk.store.merged import Aside, aside_of
from ctk.store.prune import give_back, width_ns
from ctk.store.rollup import floor, move_watermark
from ctk.timespan import FOREVER_NS

LEVEL_NAMES = ("flows", *(level.name for level in LEVELS[1:]))
_CACHE_KIB = 32 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged:
    """What came of a merge."""

    nodes: int
    recordings: int
    completed: int  # endpoints that one file could not name, and another did
    asides: Sequence[Aside]
    notes: Sequence[str]

    @property
    def said(self) -> Iterator[str]:
        """What was left out, and why, a line each."""
        yield from merged.in_words(self.asides)
        if self.completed:
            yield f"{self.completed:,} unknown addresses are named by another node's file"
        yield from self.notes


def merge(
    paths: Sequence[Path],
    out: Path,
    *,
    since_ns: int | None = None,
    levels: Sequence[str] = LEVEL_NAMES,
    aside: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Merged:
    """
    Merge files into `out`, which is not there yet, or is one of them that was merged before.

    `since_ns` leaves out what is older, up to the edge of a bucket, and `levels` the tables that
    are not named. `aside` keeps the rows of observers who defer to another, for who asks for all.
    `progress` gets rows done and in all.
    """
    if not paths:
        raise UsageError("there is nothing to merge", hint="ctk merge a.db b.db -o all.db")
    wanted = _wanted(levels)
    if (out.exists() or out.is_symlink()) and not _is_merged_again(paths, out):
        raise UsageError(f"{out} is there already", hint="name another file")
    out = out.resolve()  # what is replaced is the file, not a link to it
    with ExitStack() as stack:
        inputs = open_inputs(paths, stack, out.parent if out.parent.is_dir() else Path())
        for each in inputs:
            stack.enter_context(blaming(each.path, each.source.reader))
        chosen = choose(inputs)
        part = _made(out)
        try:
            with connect.explained(out):
                found = _merge(part, inputs, chosen, since_ns, wanted, aside, progress)
            _publish(part, out)
        finally:
            for left in (part, part.with_name(f"{part.name}-journal")):
                left.unlink(missing_ok=True)
    return found


def _is_merged_again(paths: Iterable[Path], out: Path) -> bool:
    """Say whether what is written over is a merged file, all of which goes on in the new one."""
    if not any(path.exists() and path.samefile(out) for path in paths):
        return False
    with connect.reader(out, older=True) as conn:
        return merged.is_merged(conn)


def _wanted(names: Iterable[str]) -> list[Level]:
    wanted = []
    for name in names:
        if name not in LEVEL_NAMES:
            raise UsageError(f"{name!r} is not a level", hint=f"some of {','.join(LEVEL_NAMES)}")
        wanted.append(LEVELS[LEVEL_NAMES.index(name)])
    if not wanted:
        raise UsageError("no level is left", hint=f"some of {','.join(LEVEL_NAMES)}")
    return [level for level in LEVELS if level in wanted]


def _made(out: Path) -> Path:
    try:
        made, name = tempfile.mkstemp(prefix=f".{out.name}.", dir=out.parent)
    except FileNotFoundError:
        raise UsageError(f"there is no directory {out.parent}") from None
    except OSError as error:
        raise StoreError(f"{out} cannot be made: {error.strerror}") from error
    os.close(made)
    return Path(name)


def _publish(part: Path, out: Path) -> None:
    """Give what is whole its name, in one step."""
    for path in (part, out.parent):
        opened = os.open(path, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)
        if path == part:
            part.replace(out)


def _open(part: Path) -> sqlite3.Connection:
    conn = sqlite3.connect(part, uri=True, isolation_level=None)
    conn.execute(f"PRAGMA page_size = {connect.PAGE_BYTES}")
    conn.execute("PRAGMA auto_vacuum = INCREMENTAL")
    # It has no name yet: if anything fails half-way it is removed.
    conn.execute("PRAGMA journal_mode = OFF")
    conn.execute("PRAGMA synchronous = OFF")
    connect.migrate(conn)
    conn.execute("PRAGMA locking_mode = EXCLUSIVE")
    conn.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
    # What is sorted, and what ids are here, may be more than memory should hold.
    conn.execute("PRAGMA temp_store = FILE")
    conn.execute(f"PRAGMA temp.cache_size = -{_CACHE_KIB}")
    return conn


def _merge(
    part: Path,
    inputs: Sequence[Input],
    chosen: Chosen,
    since_ns: int | None,
    wanted: Sequence[Level],
    aside: bool,
    progress: Callable[[int, int], None],
) -> Merged:
    conn = _open(part)
    try:
        merged.make(conn, aside=aside)
        identities.prepare(conn, len(inputs))
        attached = Attached(conn, inputs)
        starts = starts_of(inputs, wanted, since_ns)
        completed = _identify(conn, attached, inputs, chosen)
        rows = _copy(conn, attached, inputs, chosen, starts, aside, progress)
        _finish(conn, attached, inputs, chosen, starts, wanted, aside)
        notes = list(chosen.notes)
        notes += _beside(conn, attached, inputs, chosen, since_ns)
        asides = rows.asides()
        merged.write(conn, asides, notes)
        for _ in give_back(conn):
            pass
        (recordings,) = conn.execute("SELECT COUNT(*) FROM main.recording").fetchone()
    finally:
        conn.close()
    return Merged(
        nodes=len({each.node for each in chosen.taken}),
        recordings=recordings,
        completed=completed,
        asides=asides,
        notes=notes,
    )


def starts_of(
    inputs: Sequence[Input], wanted: Sequence[Level], since_ns: int | None
) -> Mapping[str, int]:
    """
    Give from when on each level is in the merged file: from where all files have it.

    What is older is in the coarser levels. So a time is answered from one level for all nodes.
    """
    starts: dict[str, int] = {}
    before: Level | None = None
    for level, coarser in zip(LEVELS, [*LEVELS[1:], None], strict=True):
        start_ns = max(each.marks[level.name].pruned_ns or -FOREVER_NS for each in inputs)
        if since_ns is not None:
            start_ns = max(start_ns, floor(since_ns, width_ns(level)))
        if level not in wanted and coarser is not None:
            # Only what is not folded yet is needed of it.
            folded = [each.marks[coarser.name].folded_ns or -FOREVER_NS for each in inputs]
            start_ns = max(start_ns, min(folded))
        if before is not None and start_ns > starts[before.name]:
            # It was pruned further than the finer one, and is folded anew from that.
            start_ns = -floor(-starts[before.name], width_ns(level))
        starts[level.name] = start_ns
        before = level
    return starts


def _identify(
    conn: sqlite3.Connection, attached: Attached, inputs: Sequence[Input], chosen: Chosen
) -> int:
    """Give everything ids here: nodes, endpoints, edges."""
    for file in range(len(inputs)):
        taken = chosen.of_file(file)
        identities.recorders(
            conn, file, [(each.recorder_id, each.node, each.cluster) for each in taken]
        )
        identities.endpoints(conn, file, attached[file])
    completed = identities.complete(conn)
    next_id = other_id = 0
    for file in range(len(inputs)):
        identities.edges(conn, file, attached[file], next_id, other_id)
        next_id, other_id = conn.execute(
            "SELECT MAX(?, IFNULL(MAX(new_id), 0)), MIN(?, IFNULL(MIN(new_id), 0))"
            f" FROM temp.edge_{file}",
            (next_id, other_id),
        ).fetchone()
    return completed


def _copy(
    conn: sqlite3.Connection,
    attached: Attached,
    inputs: Sequence[Input],
    chosen: Chosen,
    starts: Mapping[str, int],
    aside: bool,
    progress: Callable[[int, int], None],
) -> LevelCopier:
    """Copy each level from where no file has finer rows up to where all have."""
    done, finer_ns = 0, FOREVER_NS
    found: list[tuple[Level, LevelRows, int]] = []
    for level in LEVELS:
        span = (starts[level.name], FOREVER_NS)
        found.append((level, LevelRows(conn, attached, inputs, level, span), finer_ns))
        finer_ns = starts[level.name]
    total = sum(rows.rows for _, rows, _ in found)

    def advance(rows: int) -> None:
        nonlocal done
        done += rows
        progress(done, total)

    classes = Classes(conn, chosen.recorded)
    changes = chosen.recorded.changes()
    rows = LevelCopier(conn, attached, inputs, classes, changes, aside=aside, progress=advance)
    for level, of_level, fold_ns in found:
        spans = rows.copy(level, of_level, fold_ns)
        fold(conn, level, spans)
        if aside:
            fold(conn, level, spans, aside_of)
    progress(total, total)
    _carry(conn, inputs, chosen, rows)
    for each in chosen.taken:
        looked = [held.idle_ns for held in each.recordings if held.idle_ns is not None]
        if looked:
            classes.as_of(max(looked), max(looked) + 1)
            history.idle(conn, each.file, attached[each.file], each.recorder_id)
    return rows


def _carry(
    conn: sqlite3.Connection, inputs: Sequence[Input], chosen: Chosen, rows: LevelCopier
) -> None:
    """Go on to say what an earlier merge left out for good."""
    for each in chosen.taken:
        (recorder_id,) = conn.execute(
            f"SELECT new_id FROM temp.recorder_{each.file} WHERE id = ?", (each.recorder_id,)
        ).fetchone()
        of = inputs[each.file]
        for aside in of.asides:
            if aside.recorder_id == each.recorder_id and aside.why == "left out" and not of.aside:
                rows.add((recorder_id, aside.why), aside[2:])


def _finish(
    conn: sqlite3.Connection,
    attached: Attached,
    inputs: Sequence[Input],
    chosen: Chosen,
    starts: Mapping[str, int],
    wanted: Sequence[Level],
    aside: bool,
) -> None:
    """Fold, say how far each level is, drop what is not wanted, and write whose rows they are."""
    fold_counts(conn, starts)
    end_ns = max(
        (
            floor(last_ns, level.width_ns) + level.width_ns
            for level in LEVELS
            if (last_ns := _last_ns(conn, level)) is not None
        ),
        default=0,
    )
    for level in LEVELS:
        last_ns = _last_ns(conn, level)
        if level not in wanted:
            for table in (level.table, *([aside_of(level.table)] if aside else ())):
                conn.execute(f"DELETE FROM main.{table}")
            conn.execute("DELETE FROM main.folded WHERE level = ?", (level.name,))
            move_watermark(conn, level, "pruned_ns", end_ns)
            continue
        if level.width_ns and last_ns is not None:
            move_watermark(conn, level, "folded_ns", last_ns + level.width_ns)
        if starts[level.name] > -FOREVER_NS:
            move_watermark(conn, level, "pruned_ns", starts[level.name])
    conn.execute("CREATE TEMP TABLE edge_in_use (id INTEGER PRIMARY KEY)")
    # A coarser level has the edges of all finer ones: they were folded into it.
    table = wanted[-1].table
    for of in (table, *([aside_of(table)] if aside else ()), "idle"):
        conn.execute(f"INSERT OR IGNORE INTO edge_in_use SELECT DISTINCT edge_id FROM main.{of}")
    for file in range(len(inputs)):
        if chosen.of_file(file):
            identities.copy_edges(conn, file, attached[file])
    identities.drop_unused(conn)


def _last_ns(conn: sqlite3.Connection, level: Level) -> int | None:
    found: int | None = conn.execute(f"SELECT MAX(started_ns) FROM main.{level.table}").fetchone()[
        0
    ]
    return found


def _beside(
    conn: sqlite3.Connection,
    attached: Attached,
    inputs: Sequence[Input],
    chosen: Chosen,
    since_ns: int | None,
) -> list[str]:
    """Copy what is told beside flows; give what is to be said of it."""
    zones: dict[str, dict[str | None, str]] = {}
    for file in sorted(
        range(len(inputs)),
        key=lambda file: max((each.newest_ns for each in chosen.of_file(file)), default=0),
    ):
        taken = chosen.of_file(file)
        if not taken:
            continue
        schema = attached[file]
        history.recordings(conn, schema, taken, since_ns)
        history.objects(conn, schema)
        history.peers(conn, schema)
        for node, zone in conn.execute(f"SELECT node, zone FROM {schema}.node_zone"):
            for each in taken:
                zones.setdefault(node, {})[each.node.cluster] = zone
    history.unite(conn)
    attached.close()
    ambiguous = history.zones(conn, zones)
    return [
        f"{node} is a node of several clusters, in several zones: it has none here"
        for node in ambiguous
    ]
