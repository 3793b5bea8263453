"""How full the kernel's table of connections was, what it refused, and who held its entries."""

from collections.abc import Mapping
from typing import NamedTuple


class TableCounters(NamedTuple):
    """What `conntrack -S` counts, summed over processors. Some names would be words of SQL."""

    found: int
    invalid: int
    inserted: int  # insert
    insert_failed: int
    dropped: int  # drop
    early_dropped: int  # early_drop
    errors: int  # error
    search_restarts: int
    clash_resolved: int
    chain_too_long: int


class TableUse(NamedTuple):
    """
    A look at the table.

    `peak` is the most entries seen since the look before; `counters` grew by so much since then.
    None where it is not known: of a capture, or where the kernel does not tell.
    """

    at_ns: int
    entries: int
    peak: int
    most: int | None  # nf_conntrack_max
    counters: TableCounters | None


class Holder(NamedTuple):
    """
    Whose entries are counted together.

    A client or backend is a workload ("namespace/name"), a pod without one, or a node; None for
    what is external or unknown.
    """

    proto: str | None
    client_kind: str
    client: str | None
    service: str | None
    backend_kind: str | None
    backend: str | None
    port: int | None  # that was dialled


# The entries of all holders that hold too few to stand alone.
OTHER_HOLDERS = Holder(None, "other", None, None, None, None, None)
# Entries that the recording's filters leave out, and those that ended while they were listed.
LEFT_OUT = Holder(None, "left out", None, None, None, None, None)


class Held(NamedTuple):
    """Who held the entries that one dump listed, by holder and state: they add up to all of it."""

    at_ns: int
    entries: Mapping[tuple[Holder, str], int]


TableLook = TableUse | Held
