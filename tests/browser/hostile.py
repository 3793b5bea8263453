"""A file whose names are what an attacker would put there."""

from pathlib import Path

from edges import edge, with_ids
from sample import AT

from ctk.model import Endpoint, EventCounts, FlowRow
from ctk.store import connect
from ctk.store.write import Writer
from ctk.timespan import SECOND

NAMES = (
    "</script><script>globalThis.pwned=1</script>",
    "<img src=x onerror=globalThis.pwned=1>",
    "\"><svg onload='globalThis.pwned=1'>",
    "__proto__",
    "constructor",
    "=cmd|' /C calc'!A0",
    "\u202egnp.exe",
    "${globalThis.pwned=1}",
    "n" * 253,
)


def hostile_file(path: Path) -> None:
    """Write a file in which each of NAMES is a pod, a workload, a namespace and a service."""
    pods = [
        Endpoint(
            address=f"10.244.9.{i}",
            kind="pod",
            valid_from_ns=0,
            namespace=name,
            name=name,
            workload=name,
            workload_kind=name,
            node=name,
            labels={name: name, "__proto__": "polluted"},
        )
        for i, name in enumerate(NAMES, 1)
    ]
    with connect.writer(path) as conn:
        writer = Writer(
            conn, node=NAMES[0], source="kernel", settings={}, started_ns=AT, boot_id=None
        )
        rows = []
        for i, (src, dst) in enumerate(zip(pods, pods[1:] + pods[:1], strict=True)):
            name = f"{dst.namespace}/{dst.name}"
            of = edge("tcp", 0, src, dst, 80, None, dst, None, name, "endpoint")
            at_ns = AT + i * SECOND
            rows.append(FlowRow(of, at_ns, at_ns, None, 2, 2, 0, 2, 0, 1, 10, 1, 20, 2))
        end_ns = AT + 60 * SECOND
        writer.window(
            with_ids(writer, rows), gaps=(), committed_ns=end_ns, counters=EventCounts(18, 0)
        )
        writer.finish(end_ns)
