"""
What failed, is new and idle in several files, as if they were one.

Each file answers for itself, and the answers are put together here; `Recordings` says which caveat
is of which file.
"""

from collections.abc import Callable, Iterable, Sequence

from ctk.ask import failures, new
from ctk.ask.caveats import Caveat
from ctk.ask.connection import Connect, one_moment
from ctk.ask.failures import Attempts, Failures, FoundFailures, SeenRow
from ctk.ask.idle import Idle, in_order
from ctk.ask.new import New
from ctk.ask.sums import Keys, Value
from ctk.ask.top import Top
from ctk.model import Filters
from ctk.store.peers import Peer
from ctk.timespan import FOREVER_NS

Together = Callable[[Iterable[Iterable[Caveat]]], tuple[Caveat, ...]]


def failures_of(
    files: Sequence[Connect], filters: Filters, limit: int | None, together: Together
) -> Failures:
    """Sum up what failed in any of the files; a backend that fails in one of them fails."""
    attempts: dict[Keys, Attempts] = {}
    backends: dict[Keys, dict[Value, bool]] = {}
    caveats: list[Sequence[Caveat]] = []
    for connect in files:
        with connect() as conn, one_moment(conn):
            # What failed in none of its attempts here may have failed in another file.
            found = failures.find(conn, filters, least=0)
        caveats.append(found.caveats)
        for keys, counts in found.rows:
            before = attempts.get(keys, Attempts(0, 0, 0))
            attempts[keys] = Attempts._make(map(int.__add__, before, counts))
        for service, of_service in found.backends.items():
            fails = backends.setdefault(service, {})
            for backend, failed in of_service.items():
                fails[backend] = fails.get(backend, False) or failed
    rows = failures.wanted(
        ((keys, each) for keys, each in attempts.items() if each.failed), filters
    )
    rows.sort(key=lambda row: (-row[1].failed, *((value is not None, value) for value in row[0])))
    seen: dict[Keys, tuple[SeenRow, SeenRow]] = {}
    for connect in files:
        with connect() as conn, one_moment(conn):
            ends = failures.when_seen(conn, filters, [keys for keys, _ in rows[:limit]])
        for keys, (first, last) in ends.items():
            one, other = seen.get(keys, (first, last))
            seen[keys] = min(one, first), max(other, last, key=lambda row: row.ended_ns)
    return failures.answer(FoundFailures(rows, backends, together(caveats)), seen, limit)


def new_of(
    files: Sequence[Connect],
    filters: Filters,
    top: Callable[[], Top],
    together: Together,
) -> New:
    """List the peers that were first seen in a span, in whichever file, and before it in none."""
    since_ns = -FOREVER_NS if filters.since_ns is None else filters.since_ns
    until_ns = FOREVER_NS if filters.until_ns is None else filters.until_ns
    first_ns: dict[Peer, int] = {}
    caveats: list[list[Caveat]] = []
    for connect in files:
        with connect() as conn:
            for peer, at_ns in new.fresh(conn, since_ns, until_ns).items():
                first_ns[peer] = min(at_ns, first_ns.get(peer, at_ns))
            caveats.append(list(new.caveats_of_new(conn, since_ns)))
    for connect in files:
        with connect() as conn:
            for peer in new.known(conn, first_ns, since_ns):
                del first_ns[peer]
    ranked = top()
    return new.answer(first_ns, ranked.rows, (*together(caveats), *ranked.caveats))


def idle_of(found: Sequence[Idle], together: Together) -> Idle:
    """Put the idle connections of several files together."""
    return Idle(
        rows=tuple(in_order(row for idle in found for row in idle.rows)),
        looks=tuple(sorted(look for idle in found for look in idle.looks)),
        caveats=together([idle.caveats for idle in found]),
    )
