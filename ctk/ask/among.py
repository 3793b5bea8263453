"""Which edges some groups are made of: so that a question about a few of many reads only theirs."""

import sqlite3
from collections.abc import Iterable, Sequence

from ctk.ask.connection import choose_edges
from ctk.ask.presets import FlowEnds, RankedSide
from ctk.ask.selectors import Condition
from ctk.ask.sums import KEYS, Value
from ctk.store.columns import joins_of

# A row of a flow has this, its edge does not.
_OF_ROWS = "src_port"
# More groups than these are looked for one by one for longer than all edges take to read; and
# SQLite binds 32,766 values.
_MOST = 500


def choose_among(
    conn: sqlite3.Connection, by: Sequence[str], side: RankedSide, groups: Iterable[Sequence[Value]]
) -> None:
    """Fill the temporary table `among` with the edges that have an end in one of the groups."""
    known = [i for i, key in enumerate(by) if key != _OF_ROWS]
    wanted = [[group[i] for i in known] for group in groups]
    if not known or not 0 < len(wanted) <= _MOST:
        choose_edges(conn, "among", Condition("1" if wanted else "0"))
        return
    arms = []
    # An IN finds no NULL; no key is a blob.
    one = ", ".join(["IFNULL(?, x'00')"] * len(known))
    rows = ", ".join([f"({one})"] * len(wanted))
    firsts = ", ".join(["(IFNULL(?, x'00'))"] * len(wanted))
    for of_end, where, _ in FlowEnds(by, side).arms():
        first, *others = [f"IFNULL({of_end.get(by[i]) or KEYS[by[i]]}, x'00')" for i in known]
        keys = ", ".join([first, *others])
        joins = joins_of(f"{keys} {where}")
        # The first alone leaves few edges, of which the other side is looked up: a third of the
        # time for pairs.
        arms.append(
            f"id IN (SELECT edge.id FROM edge {joins} WHERE ({where})"
            f" AND {first} IN (VALUES {firsts}) AND ({keys}) IN (VALUES {rows}))"
        )
    of_firsts = [group[0] for group in wanted]
    bound = (*of_firsts, *(value for group in wanted for value in group)) * len(arms)
    choose_edges(conn, "among", Condition(" OR ".join(arms), bound))
