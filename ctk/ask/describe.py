"""What a file holds, and what a span of it lacks."""

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from ctk.ask.spans import Held, clip, extent, held
from ctk.ask.top import Ranking
from ctk.model import Filters
from ctk.timespan import format_age, format_time


class StoredGap(NamedTuple):
    """A row of `gaps`."""

    started_at: str
    ended_at: str
    started_ns: int
    ended_ns: int
    node: str
    kind: str
    lost: int | None
    detail: str | None


def gaps(
    conn: sqlite3.Connection, since_ns: int | None = None, until_ns: int | None = None
) -> Iterator[StoredGap]:
    """Yield the gaps that touch a span, oldest first."""
    found = conn.execute(
        f"SELECT {', '.join(StoredGap._fields)} FROM gaps"
        " WHERE (:until IS NULL OR started_ns < :until) AND (:since IS NULL OR ended_ns >= :since)"
        " ORDER BY started_ns, ended_ns",
        {"since": since_ns, "until": until_ns},
    )
    return map(StoredGap._make, found)


def gaps_in_words(found: Iterable[StoredGap], where: str = "") -> str | None:
    """Sum gaps up in a line: "2 gaps: 1,204 events lost"; None for none."""
    count = 0
    lost = 0
    lasted: dict[str, int] = {}
    for gap in found:
        count += 1
        if gap.lost is None:
            lasted[gap.kind] = lasted.get(gap.kind, 0) + gap.ended_ns - gap.started_ns
        lost += gap.lost or 0
    if not count:
        return None
    parts = [f"{lost:,} events lost"] if lost else []
    parts += [f"{kind} for {format_age(ns)}" if ns else kind for kind, ns in lasted.items()]
    return f"{count:,} gap{'' if count == 1 else 's'}{where}: {', '.join(parts)}"


def _gaps_of(conn: sqlite3.Connection, filters: Filters) -> list[str]:
    found = gaps(conn, filters.since_ns, filters.until_ns)
    words = gaps_in_words(found, " in this window")
    return [words] if words else []


def without_recording(conn: sqlite3.Connection) -> list[str]:
    """Say where nothing was ever recorded, or nothing that came along."""
    if conn.execute("SELECT 1 FROM recording").fetchone():
        return []
    return ["no recording is in it: if it was copied without its -wal, copy it with ctk snapshot"]


def lacks(
    conn: sqlite3.Connection, filters: Filters, reach: tuple[int, int] | None = None
) -> list[str]:
    """
    Say in a line each what the flows of a span lack: what was lost, and what was pruned.

    `reach` is when the first and the last flow started, where --first or --last cut the span.
    """
    if reach is not None and filters.last is not None:
        filters = replace(filters, since_ns=reach[0])
    if reach is not None and filters.first is not None:
        filters = replace(filters, until_ns=reach[1] + 1)
    said = without_recording(conn) + _gaps_of(conn, filters)
    levels = held(conn)
    pruned_ns = levels[0].pruned_ns
    span = clip(conn, levels, filters.since_ns, filters.until_ns)
    if span is not None and span[0] < pruned_ns:
        said.append(f"flows before {_short(pruned_ns)} were pruned: only rollups hold them")
    return said


def caveats_of_top(conn: sqlite3.Connection, filters: Filters, ranked: Ranking) -> list[str]:
    """Say in a line each what a ranking lacks, or counts beyond what was asked."""
    if ranked.one_by_one:
        return lacks(conn, filters)
    said = without_recording(conn) + _gaps_of(conn, filters)
    if ranked.widened:
        since, until = map(_short, ranked.widened)
        said.append(f"counted from {since} to {until}: finer rows were pruned")
    if ranked.folded:
        said.append("some external addresses, each with little, are counted together as 'other'")
    return said


def _short(time_ns: int) -> str:
    return format_time(time_ns).replace(".000000000", "")


def first_recording(conn: sqlite3.Connection) -> str:
    """Give what tells this file, and every copy of it, from others: its first recording."""
    sql = "SELECT node || ' ' || started_at FROM recordings ORDER BY id LIMIT 1"
    found = conn.execute(sql).fetchone()
    return str(found[0]) if found else ""


def describe(conn: sqlite3.Connection) -> dict[str, Any]:
    """
    Give what the file holds: its span, nodes, recordings, gaps, endpoints, levels and tables.

    Sizes come from a look at every page: 0.2 s for ten million flows.
    """
    levels = held(conn)
    span = _span(conn, levels)
    tables = _tables(conn)
    rows = {table["table"]: table["rows"] for table in tables}
    (pages,) = conn.execute("PRAGMA page_count").fetchone()
    (page_bytes,) = conn.execute("PRAGMA page_size").fetchone()
    return {
        "since": format_time(span[0]) if span else None,
        "until": format_time(span[1]) if span else None,
        "bytes": pages * page_bytes,
        "nodes": [node for (node,) in conn.execute("SELECT node FROM recorder ORDER BY node")],
        "recordings": _dicts(
            conn,
            "SELECT node, started_at, committed_at, ended_at, version, source, events, lost,"
            " malformed FROM recordings ORDER BY started_ns",
        ),
        "gaps": _dicts(
            conn,
            "SELECT kind, COUNT(*) AS gaps, SUM(lost) AS lost, SUM(ended_ns - started_ns) AS"
            " lasted_ns FROM gap GROUP BY kind ORDER BY kind",
        ),
        "gaps_in_words": gaps_in_words(gaps(conn)),
        "endpoints": _dicts(
            conn,
            "SELECT kind, COUNT(*) AS endpoints FROM endpoint WHERE id > 0 GROUP BY kind"
            " ORDER BY kind",
        ),
        "levels": [
            {
                "level": level.name,
                "rows": rows[level.table],
                "since": _time(conn, f"SELECT MIN(started_ns) FROM {level.table}"),
                "folded_until": _time(conn, "SELECT folded_ns FROM level WHERE name = ?", level),
                "pruned_until": _time(conn, "SELECT pruned_ns FROM level WHERE name = ?", level),
            }
            for level in levels
        ],
        "tables": tables,
    }


def _span(conn: sqlite3.Connection, levels: Sequence[Held]) -> tuple[int, int] | None:
    """Give from when to when there are rows, as exactly as those that are left tell."""
    whole = extent(conn, levels)
    if whole is None:
        return None
    finest = next((level for level in levels if level.pruned_ns < whole[0]), levels[-1])
    first = extent(conn, [finest])
    last = extent(conn, levels[:1])
    return (first or whole)[0], (last or whole)[1]


def _dicts(conn: sqlite3.Connection, sql: str) -> list[dict[str, Any]]:
    cursor = conn.execute(sql)
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor]


def _time(conn: sqlite3.Connection, sql: str, level: Held | None = None) -> str | None:
    (time_ns,) = conn.execute(sql, (level.name,) if level else ()).fetchone()
    return None if time_ns is None else format_time(time_ns)


def _tables(conn: sqlite3.Connection) -> list[dict[str, Any]]:
    """Count the rows of each table, and its bytes with those of its indexes."""
    trees = conn.execute(
        "SELECT tbl_name, name FROM sqlite_schema WHERE rootpage > 0 ORDER BY rootpage"
    ).fetchall()
    sizes: dict[str, int] = {}
    try:
        for table, name in trees:
            if name != "flow":
                sizes[table] = sizes.get(table, 0) + _pages(conn, name)
        # What all others leave of the file: to look at its pages too would double the time.
        sizes["flow"] = _used_bytes(conn) - sum(sizes.values()) - _pages(conn, "sqlite_schema")
    except sqlite3.OperationalError as error:
        if "dbstat" not in str(error):  # a SQLite that was built without it
            raise
    return [
        {
            "table": table,
            "rows": conn.execute(f'SELECT COUNT(*) FROM "{table}"').fetchone()[0],
            "bytes": sizes.get(table),
        }
        for table in dict.fromkeys(table for table, _ in trees)
        if not table.startswith(("sqlite_", "_"))
    ]


def _pages(conn: sqlite3.Connection, name: str) -> int:
    sql = "SELECT pgsize FROM dbstat WHERE aggregate = TRUE AND name = ?"
    found = conn.execute(sql, (name,)).fetchone()
    return int(found[0]) if found else 0


def _used_bytes(conn: sqlite3.Connection) -> int:
    pages, page_bytes, free, vacuums = (
        conn.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("page_count", "page_size", "freelist_count", "auto_vacuum")
    )
    # Then each page of 5-byte pointers is followed by the pages it points to.
    pointers = -(-(pages - 1) // (page_bytes // 5 + 1)) if vacuums else 0
    return int(page_bytes * (pages - free - pointers))
