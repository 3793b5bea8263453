"""What may be asked in SQL: the views, their columns, and what each means."""

import sqlite3
from typing import NamedTuple

from ctk.store.meanings import COLUMNS, VIEWS, type_of


class ViewColumn(NamedTuple):
    """A column of a view. What a view is that ctk did not make has no meaning here."""

    view: str
    column: str
    type: str
    meaning: str | None


def schema() -> tuple[ViewColumn, ...]:
    """Give the views of a file that this ctk makes."""
    return tuple(
        ViewColumn(view, column, type_of(view, column), meaning)
        for view, columns in COLUMNS.items()
        for column, meaning in columns.items()
    )


def schema_of(conn: sqlite3.Connection) -> tuple[ViewColumn, ...]:
    """Give the views that a file has: those of ctk in their order, then what others added."""
    views = [name for (name,) in conn.execute("SELECT name FROM sqlite_schema WHERE type = 'view'")]
    known = {(each.view, each.column): each for each in schema()}
    found = []
    for view in sorted(views, key=lambda name: [*VIEWS, name].index(name)):
        columns = conn.execute("SELECT name, lower(type) FROM pragma_table_info(?)", (view,))
        found += [
            known.get((view, name), ViewColumn(view, name, kind, None)) for name, kind in columns
        ]
    return tuple(found)
