"""What earlier recordings left: whom they could not name, and under which edge they counted."""

import sqlite3

from ctk.model import Edge, Endpoint, FlowTuple
from ctk.model.history import KnownUnknown
from ctk.store.columns import EDGE_OWN
from ctk.store.endpointids import CACHED
from ctk.store.identities import own_columns
from ctk.store.values import ENDPOINT_FIELDS, endpoint_of
from ctk.timespan import SECOND

# Of several the one whose endpoints came last: what was unknown may have got a name meanwhile.
# Where pods are told of, an address is unknown for a second, and then asked about anew. Which
# service a dialled pod backs changes: where its own row is not there, or is one of several that
# were merged, it is that of all edges or none.
_EARLIER = f"""
    SELECT edge.id, service, service_via IS 'endpoint', src.valid_from_ns + backend.valid_from_ns,
        IFNULL(edge.first_ns <= :at_ns, 1) AS had_begun,
        EXISTS (SELECT 1 FROM flow WHERE started_ns = :at_ns AND edge_id = edge.id) AS has_row
    FROM endpoint AS src CROSS JOIN endpoint AS dialled
    CROSS JOIN edge ON edge.dialled_id = dialled.id AND edge.src_id = src.id
    CROSS JOIN endpoint AS backend ON backend.id = edge.backend_id
    WHERE {
    " AND ".join(
        f"{side}.packed = :{side} AND {side}.valid_from_ns <= :at_ns"
        f" AND IFNULL({side}.valid_to_ns > :at_ns, 1)"
        f" AND NOT (:told AND {side}.kind = 'unknown'"
        f" AND {side}.valid_from_ns / {SECOND} < :at_ns / {SECOND})"
        for side in ("src", "dialled", "backend")
    )
} AND edge.recorder_id = :recorder_id AND {
    " AND ".join(f"edge.{name} IS :{name}" for name in EDGE_OWN if not name.startswith("service"))
}
    AND (edge.service_via IS NOT 'endpoint' OR had_begun)
    AND EXISTS (SELECT 1 FROM recording WHERE recording.recorder_id = :recorder_id
        AND started_ns <= :last_ns AND committed_ns > MAX(started_ns, :at_ns))
    ORDER BY 4 DESC, has_row DESC, had_begun DESC, 3, service IS NULL DESC
"""
# An address is asked about anew after a time, so each of its rows ends where the next begins; and
# in each recording, so what was unknown ends with the last commit of its own.
_UNKNOWN = f"""
    SELECT IIF(undecided, over_ns, MAX(valid_from_ns, MIN(over_ns, next_ns) - 1)) AS asked_ns,
        undecided, {", ".join(ENDPOINT_FIELDS)}
    FROM (
        SELECT *, kind = 'unknown' AND end_inferred AS undecided,
            IFNULL(IIF(kind = 'unknown', valid_to_ns, NULL), :last_ns) AS over_ns,
            IFNULL(LEAD(valid_from_ns) OVER (PARTITION BY packed ORDER BY valid_from_ns, id),
                :last_ns) AS next_ns
        FROM endpoint WHERE kind IN ('unknown', 'pod', 'node') AND id > 0
    ) WHERE kind IN ('unknown', 'pod') AND valid_from_ns >= :since_ns AND asked_ns >= valid_from_ns
    ORDER BY valid_from_ns DESC LIMIT {CACHED // 4}
"""


def provisional(conn: sqlite3.Connection, since_ns: int, last_ns: int | None) -> list[KnownUnknown]:
    """
    Return the newest endpoints that were unknown, or a pod, from `since_ns` on, oldest first.

    `last_ns` is up to when the file has events.
    """
    found = conn.execute(_UNKNOWN, {"since_ns": since_ns, "last_ns": last_ns})
    return [
        KnownUnknown(endpoint_of(columns), asked_ns, bool(undecided))
        for asked_ns, undecided, *columns in found
    ][::-1]


def edge_id(
    conn: sqlite3.Connection,
    recorder_id: int,
    flow: FlowTuple,
    at_ns: int,
    last_ns: int,
    *,
    told: bool,
) -> int | None:
    """
    Return the id of an edge whose endpoints had these addresses then, as a recording knew them.

    It may have heard of the connection when that began, or have found it by its first dump; the
    last of them began at `last_ns`. `told`: one of them heard of pods. None where nobody recorded
    since: what the file says of that time is inferred.
    """
    # Only the tuples are asked for: the endpoints are those of the file.
    nobody = Endpoint(address="", kind="unknown", valid_from_ns=at_ns)
    own = own_columns(Edge(flow, nobody, nobody, nobody, None, None))
    sides = {"src": flow.src, "dialled": flow.dst, "backend": flow.reply_src}
    bound = dict(zip(EDGE_OWN, own, strict=True)) | sides
    bound |= {"recorder_id": recorder_id, "at_ns": at_ns, "last_ns": last_ns, "told": told}
    found = conn.execute(_EARLIER, bound).fetchall()
    if not found:
        return None
    first_id, service, is_endpoint, *rank, has_row = found[0]
    others = {each[1] for each in found if each[3:5] == tuple(rank)} - {service}
    return None if others and is_endpoint and not has_row else int(first_id)
