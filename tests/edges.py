"""Edges and rows as tests write them down: with text for addresses, and edges for their ids."""

from collections.abc import Iterable
from socket import AF_INET, AF_INET6, inet_pton

from ctk.model import Edge, Endpoint, FlowRow, FlowTuple, Via
from ctk.store.write import Writer


def edge(
    proto: str,
    zone: int,
    src: Endpoint,
    dialled: Endpoint,
    dst_port: int | None,
    nat_src: str | None,
    backend: Endpoint,
    nat_dst_port: int | None,
    service: str | None,
    service_via: Via | None,
) -> Edge:
    """An edge of these endpoints, with the tuples that the kernel would have for it."""
    flow = FlowTuple(
        proto,
        zone,
        packed(src.address),
        packed(dialled.address),
        dst_port,
        packed(backend.address),
        nat_dst_port or dst_port,
        packed(nat_src or src.address),
    )
    return Edge(flow, src, dialled, backend, service, service_via)


def packed(address: str) -> bytes:
    return inet_pton(AF_INET6 if ":" in address else AF_INET, address)


def with_ids(writer: Writer, rows: Iterable[FlowRow]) -> list[FlowRow]:
    """Rows that were written down with an edge for its id, with the ids that the writer gives."""
    return [row._replace(edge_id=writer.edge_id(row.edge_id)) for row in rows]
