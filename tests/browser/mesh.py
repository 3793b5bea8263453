"""A file of many workloads that dial each other, to see how a page bears it."""

from pathlib import Path
from random import Random

from edges import edge, with_ids
from sample import AT

from ctk.model import Endpoint, EventCounts, FlowRow
from ctk.store import connect
from ctk.store.write import Writer
from ctk.timespan import SECOND


def mesh_file(path: Path, workloads: int, edges: int) -> None:
    """Write a file with so many workloads, one pod each, in 12 namespaces, and so many edges."""
    chosen = Random(1)
    pods = [
        Endpoint(
            address=f"10.{at >> 14 & 63}.{at >> 6 & 255}.{(at & 63) + 1}",
            kind="pod",
            valid_from_ns=0,
            namespace=f"team-{at % 12}",
            name=f"service-{at}-7c65d6cfc9-abcde",
            workload=f"service-{at}",
            workload_kind="Deployment",
            node=f"node-{at % 7}",
        )
        for at in range(workloads)
    ]
    rows = []
    for at in range(edges):
        src, dst = pods[at % workloads], pods[chosen.randrange(workloads)]
        of = edge("tcp", 0, src, dst, 8000 + at // workloads, None, dst, None, None, None)
        moved = chosen.randrange(1, 1 << 20)
        refused = int(at % 40 == 0)
        at_ns = AT + at % 600 * SECOND
        rows.append(FlowRow(of, at_ns, at_ns, None, 3, 3, 0, 3, 0, refused, moved, 9, moved, 9))
    end_ns = AT + 610 * SECOND
    with connect.writer(path) as conn:
        writer = Writer(conn, node="n1", source="kernel", settings={}, started_ns=AT, boot_id=None)
        counters = EventCounts(edges * 3, 0)
        writer.window(with_ids(writer, rows), gaps=(), committed_ns=end_ns, counters=counters)
        writer.finish(end_ns)
