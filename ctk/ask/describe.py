"""What a file holds."""

import sqlite3
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ctk.ask.caveats import Caveat, nothing_recorded, unrecorded_of
from ctk.ask.connection import one_moment
from ctk.ask.coverage import extent_of
from ctk.ask.pressure import NodePressure, nearly_full, of_nodes
from ctk.ask.spans import HeldLevel, exact_extent, held
from ctk.ask.storedgaps import gaps_in_words, gaps_of
from ctk.store import merged
from ctk.store.sizes import content_bytes, database_bytes
from ctk.timespan import format_time

_NAMED = 5  # nodes that are named in a line


class DescribedRecording(NamedTuple):
    """
    One run of a recorder. `ended_at` is None while it runs, and after a crash.

    Of its events `lost` are those that the kernel dropped, `unwritten` those that the file had no
    room for.
    """

    node: str
    started_at: str
    committed_at: str
    ended_at: str | None
    version: str
    source: str
    events: int
    lost: int
    malformed: int
    unwritten: int


class GapsOfKind(NamedTuple):
    """How many gaps of a kind there are; `lost` in events, None where it is not known of any."""

    kind: str
    gaps: int
    lost: int | None
    lasted_ns: int


class EndpointsOfKind(NamedTuple):
    kind: str
    endpoints: int


class DescribedLevel(NamedTuple):
    """A level: flows, or their rollup, how far it is folded and from when on it is kept."""

    level: str
    rows: int
    since: str | None
    folded_until: str | None
    pruned_until: str | None


class DescribedTable(NamedTuple):
    """A table and its indexes; `bytes` is None where SQLite was built without dbstat."""

    table: str
    rows: int
    bytes: int | None


class Description(NamedTuple):
    """What a file holds, from its first row until its last recording ends; in RFC 3339 UTC."""

    since: str | None
    until: str | None
    bytes: int
    nodes: tuple[str, ...]
    clusters: tuple[str, ...]
    recordings: tuple[DescribedRecording, ...]
    gaps: tuple[GapsOfKind, ...]
    gaps_in_words: str | None
    merged: tuple[str, ...]  # of several nodes' files: what of them does not count, and why
    endpoints: tuple[EndpointsOfKind, ...]
    levels: tuple[DescribedLevel, ...]
    tables: tuple[DescribedTable, ...]
    pressure: tuple[NodePressure, ...]  # on the kernel's table, by node
    caveats: tuple[Caveat, ...]


def describe(conn: sqlite3.Connection, *, sizes: bool = True) -> Description:
    """
    Give what the file holds: its span, nodes, recordings, gaps, endpoints, levels and tables.

    The last two come from a look at every page, 0.2 s for ten million flows: not without `sizes`.
    """
    with one_moment(conn):
        levels = held(conn)
        span = exact_extent(conn, levels)
        recorded = extent_of(conn)
        tables = _tables(conn) if sizes else ()
        pressure = of_nodes(conn)
        asides, notes = merged.read(conn)
        return Description(
            since=format_time(span[0]) if span else None,
            until=format_time((recorded or span)[1]) if span else None,
            bytes=database_bytes(conn),
            nodes=tuple(
                node for (node,) in conn.execute("SELECT DISTINCT node FROM recorder ORDER BY node")
            ),
            clusters=tuple(
                name
                for (name,) in conn.execute(
                    "SELECT DISTINCT cluster FROM recorder"
                    " WHERE cluster IS NOT NULL ORDER BY cluster"
                )
            ),
            recordings=tuple(
                DescribedRecording(*row)
                for row in conn.execute(
                    "SELECT node, started_at, committed_at, ended_at, version, source, events,"
                    " lost, malformed, (SELECT IFNULL(SUM(lost), 0) FROM gap WHERE"
                    " recording_id = recordings.id AND kind IN ('disk full', 'file locked'))"
                    " FROM recordings ORDER BY started_ns"
                )
            ),
            gaps=tuple(
                GapsOfKind(*row)
                for row in conn.execute(
                    "SELECT kind, COUNT(*), SUM(lost), SUM(ended_ns - started_ns) FROM gap"
                    " GROUP BY kind ORDER BY kind"
                )
            ),
            gaps_in_words=gaps_in_words(gaps_of(conn)),
            merged=(*merged.in_words(asides), *_short_of(conn), *notes),
            endpoints=tuple(
                EndpointsOfKind(*row)
                for row in conn.execute(
                    "SELECT kind, COUNT(*) FROM endpoint WHERE id > 0 GROUP BY kind ORDER BY kind"
                )
            ),
            levels=tuple(_level(conn, level, tables) for level in levels) if sizes else (),
            tables=tables,
            pressure=pressure,
            caveats=(
                *nothing_recorded(conn),
                *unrecorded_of([conn], None, None),
                *nearly_full(pressure),
            ),
        )


def _short_of(conn: sqlite3.Connection) -> Iterator[str]:
    """Say of merged nodes which of them lost events: the other side deferred to them then, too."""
    if not merged.is_merged(conn):
        return
    nodes = [
        node
        for (node,) in conn.execute(
            "SELECT DISTINCT node FROM gaps WHERE kind IN ('events lost', 'malformed')"
            " ORDER BY node"
        )
    ]
    if nodes:
        more = f" and {len(nodes) - _NAMED:,} more" if len(nodes) > _NAMED else ""
        yield (
            f"events were lost on {', '.join(nodes[:_NAMED])}{more}: what was opened there in those"
            " gaps is counted too little"
        )


def _level(
    conn: sqlite3.Connection, level: HeldLevel, tables: Sequence[DescribedTable]
) -> DescribedLevel:
    (since_ns,) = conn.execute(f"SELECT MIN(started_ns) FROM {level.table}").fetchone()
    folded_ns, pruned_ns = conn.execute(
        # A bucket that is folded when a recording ends may reach beyond that end.
        "SELECT MIN(folded_ns, (SELECT IFNULL(MAX(committed_ns), folded_ns) FROM recording)),"
        " pruned_ns FROM level WHERE name = ?",
        (level.name,),
    ).fetchone()
    (rows,) = (table.rows for table in tables if table.table == level.table)
    since, folded, pruned = (
        None if at_ns is None else format_time(at_ns) for at_ns in (since_ns, folded_ns, pruned_ns)
    )
    return DescribedLevel(level.name, rows, since, folded, pruned)


def _tables(conn: sqlite3.Connection) -> tuple[DescribedTable, ...]:
    """Count the rows of each table, and its bytes with those of its indexes."""
    trees = conn.execute(
        "SELECT tbl_name, name FROM sqlite_schema WHERE rootpage > 0 ORDER BY rootpage"
    ).fetchall()
    sizes: dict[str, int] = {}
    try:
        for table, name in trees:
            if name != "flow":
                sizes[table] = sizes.get(table, 0) + _tree_bytes(conn, name)
        # What all others leave of the file: to look at its pages too would double the time.
        others = sum(sizes.values()) + _tree_bytes(conn, "sqlite_schema")
        sizes["flow"] = content_bytes(conn) - others
    except sqlite3.OperationalError as error:
        if "dbstat" not in str(error):  # a SQLite that was built without it
            raise
    return tuple(
        DescribedTable(
            table, conn.execute(f'SELECT COUNT(*) FROM "{table}"').fetchone()[0], sizes.get(table)
        )
        for table in dict.fromkeys(table for table, _ in trees)
        if not table.startswith(("sqlite_", "_"))
    )


def _tree_bytes(conn: sqlite3.Connection, name: str) -> int:
    sql = "SELECT pgsize FROM dbstat WHERE aggregate = TRUE AND name = ?"
    found = conn.execute(sql, (name,)).fetchone()
    return int(found[0]) if found else 0
