"""
Who speaks for a connection that several nodes recorded, so that it counts once.

Cut a connection's path where its source is rewritten. Within one segment every observer sees the
same source, and those behind the last rewriting of its destination the same backend:

1. The node that opened it, where it recorded, counts and all others of the segment defer to it.
2. Else the node that ends the segment, which rewrites the source, counts: it knows that it does.
3. Else the node of the backend counts, and the others defer to it.
4. Else nobody at either end recorded, and each that forwarded it counts.

The next segment's source is the node that rewrote. Where that one recorded, it counted or deferred
in its own segment already, and by (1) it is who all observers of the next segment defer to, while
it has no row there: so one row counts of the whole path. It takes no clocks, no matching of tuples
and no source ports, and the opener sees most: the service that was dialled, and SYNs that never
arrived.

What counts more than once: a path that a node rewrote which did not record, once for each
segment; a path that several nodes forwarded between ends that did not record; a destination that
was rewritten behind an observer, where the opener did not record. What counts too little: what the
opener's recorder missed while it ran, since the others defer to it.
"""

from collections.abc import Container
from typing import TypeVar

N = TypeVar("N")


def speaker(
    observer: N, *, src_node: N | None, dst_node: N | None, rewrites: bool, recorded: Container[N]
) -> N:
    """
    Give the node whose row of a connection counts, told from the row of one observer.

    `src_node` and `dst_node` are where the source and the backend are, `rewrites` is whether the
    observer changed the source, and `recorded` has the nodes that recorded at the row's time.
    """
    if src_node is not None and src_node in recorded:
        return src_node
    if rewrites:
        return observer
    if dst_node is not None and dst_node in recorded:
        return dst_node
    return observer
