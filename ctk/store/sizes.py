"""How big a file is, and how much of it is used."""

import sqlite3
from pathlib import Path

from ctk.store.connect import path_of


def pragma(conn: sqlite3.Connection, name: str) -> int:
    """Return what a PRAGMA says, as a number."""
    return int(conn.execute(f"PRAGMA {name}").fetchone()[0])


def database_bytes(conn: sqlite3.Connection) -> int:
    """Return the size of the file as SQLite knows it: part of it may be in the -wal only."""
    return pragma(conn, "page_count") * pragma(conn, "page_size")


def used_bytes(conn: sqlite3.Connection) -> int:
    """Return the size of all pages that hold something."""
    used = pragma(conn, "page_count") - pragma(conn, "freelist_count")
    return used * pragma(conn, "page_size")


def content_bytes(conn: sqlite3.Connection) -> int:
    """Return the size of all tables and indexes: used pages without those of auto_vacuum."""
    pages, page_bytes = pragma(conn, "page_count"), pragma(conn, "page_size")
    # With auto_vacuum each page of 5-byte pointers is followed by the pages it points to.
    pointers = -(-(pages - 1) // (page_bytes // 5 + 1)) if pragma(conn, "auto_vacuum") else 0
    return used_bytes(conn) - page_bytes * pointers


def wal_bytes(conn: sqlite3.Connection) -> int:
    """Return the size of the -wal beside the file, with what is allocated ahead."""
    try:
        return Path(f"{path_of(conn)}-wal").stat().st_size
    except FileNotFoundError:
        return 0
