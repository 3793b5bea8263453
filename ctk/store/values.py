"""Edges and endpoints made again from their rows."""

import json
from collections.abc import Sequence
from typing import Any

from ctk.model import NO_LABELS, Edge, Endpoint, FlowTuple
from ctk.model.addresses import packed
from ctk.store.columns import EDGE_OWN, ENDPOINT_IDENTITY, EdgeRow

ENDPOINT_FIELDS = ("address", *ENDPOINT_IDENTITY, "valid_from_ns")


def edge_of(row: EdgeRow, src: Endpoint, dialled: Endpoint, backend: Endpoint) -> Edge:
    """Make an edge again from its row and its three endpoints."""
    port = row.dst_port if row.nat_dst_port is None else row.nat_dst_port
    tuples: dict[str, Any] = {
        name: getattr(row, name) for name in FlowTuple._fields if name in EDGE_OWN
    }
    flow = FlowTuple(
        **tuples,
        src=packed(src.address),
        dst=packed(dialled.address),
        reply_src=packed(backend.address),
        reply_src_port=port,
        reply_dst=packed(row.nat_src or src.address),
    )
    return Edge(flow, src, dialled, backend, row.service, row.service_via, row.failed)


def endpoint_of(columns: Sequence[Any]) -> Endpoint:
    """Make an endpoint again from ENDPOINT_FIELDS."""
    fields = dict(zip(ENDPOINT_FIELDS, columns, strict=True))
    labels = fields.pop("labels")
    return Endpoint(**fields, labels=json.loads(labels) if labels else NO_LABELS)
