"""What a clean stop keeps of live connections, within the room there is."""

from math import inf

import pytest

from ctk.conntrack.connections import Connections
from ctk.conntrack.groups import Group
from ctk.kube.endpoints import Endpoints
from ctk.record import keep
from ctk.record.attribution import Attribution
from ctk.store import connect, live
from ctk.store.sizes import used_bytes


def test_what_is_kept_takes_no_more_than_the_room(tmp_path):
    """Of flows with one connection, too: a row is more than what it holds."""
    connections = Connections()
    for n in range(20_000):
        group = Group(None, 1_795_501_200 * 10**9)
        group.edge_id = n
        connections.live[n << 48 | 1] = group
    endpoints = Endpoints("n1", frozenset(), 0, kube=False)
    attribution = Attribution(endpoints, lambda edge: 0, lambda ids: {})
    with connect.writer(tmp_path / "node.db") as conn:
        before = used_bytes(conn)
        live.keep(conn, keep.living(connections, attribution, inf, lambda: inf))
        taken = used_bytes(conn) - before
    with pytest.raises(keep.NotKeptError):
        list(keep.living(connections, attribution, inf, lambda: taken - 1))
