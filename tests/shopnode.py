"""
Two days of a made-up shop, for docs/questions.md: a file in which there is something to find.

One node, written as a recorder writes it, a window each five minutes. On the second day at 09:10
one of the two backends of pay/api begins to refuse, and visitors who try again fill the kernel's
table; at 08:40 the shop begins to call an address that it never called before, and three
connections to the database have stood still since 07:30. Every two hours each client of the
database leaves a connection open.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

from edges import edge, with_ids

from ctk.model import Edge, Endpoint, EventCounts, FlowRow, IdleConnections
from ctk.model.tableuse import (
    OTHER_HOLDERS,
    Held,
    Holder,
    TableCounters,
    TableLook,
    TableUse,
)
from ctk.store import connect
from ctk.store.write import Writer
from ctk.timespan import HOUR, MINUTE, SECOND

DAY_2 = 1_795_478_400 * SECOND  # 2026-11-24T00:00:00Z
BEGAN, ENDED = DAY_2 - 16 * HOUR, DAY_2 + 10 * HOUR
STEP = 5 * MINUTE
NODE = "kl-worker"


def _pod(
    namespace: str, workload: str, which: str, address: str, kind: str = "Deployment"
) -> Endpoint:
    return Endpoint(
        address=address,
        kind="pod",
        valid_from_ns=0,
        namespace=namespace,
        name=f"{workload}-{which}",
        workload=workload,
        workload_kind=kind,
        node=NODE,
        labels={"app": workload},
    )


def _external(address: str) -> Endpoint:
    return Endpoint(address=address, kind="external", valid_from_ns=0)


def _service(name: str, address: str) -> Endpoint:
    namespace, _, short = name.partition("/")
    return Endpoint(
        address=address, kind="service", valid_from_ns=0, namespace=namespace, name=short
    )


WEB = [
    _pod("shop", "web", f"6c9d8b7f5-{x}", f"10.244.1.1{i}")
    for i, x in enumerate(("4kzqp", "9wmtx"))
]
CART = _pod("shop", "cart", "7d4b9c6f8-h2v5n", "10.244.1.20")
DB = _pod("shop", "db", "0", "10.244.1.30", "StatefulSet")
API = [
    _pod("pay", "api", f"5f7c8d9b6-{x}", f"10.244.2.1{i}") for i, x in enumerate(("c7rkd", "x8ptl"))
]
DNS = _pod("kube-system", "coredns", "5d78c9869d-ccccc", "10.244.0.2")
PROMETHEUS = _pod("monitoring", "prometheus", "0", "10.244.3.5", "StatefulSet")
BANK = _external("203.0.113.7")
UPDATES = _external("198.51.100.20")
VISITOR = _external("192.0.2.44")
STRANGER = _external("203.0.113.99")
WORKER = Endpoint(address="172.18.0.3", kind="node", valid_from_ns=0, name=NODE, node=NODE)


def _to(
    src: Endpoint,
    backend: Endpoint,
    port: int,
    service: str | None = None,
    dialled: Endpoint | None = None,
    dialled_port: int | None = None,
    proto: str = "tcp",
) -> Edge:
    other = dialled_port if dialled_port is not None else port
    target = port if other != port else None
    via = "address" if service else None
    return edge(proto, 0, src, dialled or backend, other, None, backend, target, service, via)


_WEB, _DB, _API, _DNS = (
    _service("shop/web", "10.96.0.80"),
    _service("shop/db", "10.96.0.30"),
    _service("pay/api", "10.96.1.10"),
    _service("kube-system/kube-dns", "10.96.0.10"),
)
_TO_WEB = [_to(VISITOR, pod, 8080, "shop/web", WORKER, 30080) for pod in WEB]
_TO_CART = [_to(pod, CART, 8080) for pod in WEB]
_TO_DB = [_to(pod, DB, 5432, "shop/db", _DB) for pod in (*WEB, CART)]
_TO_API = [_to(CART, pod, 8443, "pay/api", _API, 443) for pod in API]
_TO_BANK = [_to(pod, BANK, 443) for pod in API]
_TO_DNS = [
    _to(pod, DNS, 53, "kube-system/kube-dns", _DNS, proto="udp") for pod in (*WEB, CART, *API)
]
_TO_UPDATES = _to(CART, UPDATES, 443)
_TO_STRANGER = _to(CART, STRANGER, 8443)
_SCRAPES = [_to(PROMETHEUS, pod, 9090) for pod in (*WEB, CART, *API)]


def _rows(at_ns: int) -> Iterator[FlowRow]:
    """Yield what moved in one step: more by day than by night."""
    hour = at_ns // HOUR % 24
    busy = 4 if 7 <= hour < 20 else 1

    def row(
        one: Edge, count: int, out: int, back: int, refused: int = 0, left_open: int = 0
    ) -> FlowRow:
        moved = (count * out, count * 6, count * back, count * 8)
        counts = (count, count, count, count - left_open, 0, refused)
        return FlowRow(one, at_ns, at_ns + 4 * MINUTE, None, *counts, *moved)  # type: ignore[arg-type]

    for one, share in zip(_TO_WEB, (7, 3), strict=True):
        yield row(one, share * busy + (at_ns // STEP) ** 2 % 11, 900, 24_000)
    for one in _TO_CART:
        yield row(one, 3 * busy, 700, 5_000)
    for one in _TO_DB:
        yield row(one, busy, 2_000, 60_000, left_open=at_ns % (2 * HOUR) == 0)
    fails = at_ns >= DAY_2 + 9 * HOUR + 10 * MINUTE
    yield row(_TO_API[0], 2 * busy, 1_500, 900)
    yield row(
        _TO_API[1], 2 * busy, 60 if fails else 1_500, 40 if fails else 900, 2 * busy if fails else 0
    )
    for one in _TO_BANK:
        yield row(one, busy, 3_000, 1_200)
    for one in _TO_DNS:
        yield row(one, 2 * busy, 70, 160)
    for one in _SCRAPES:
        yield row(one, 1, 400, 30_000)
    if hour in (3, 9):
        yield row(_TO_UPDATES, 1, 2_000, 400_000)
    if at_ns >= DAY_2 + 8 * HOUR + 40 * MINUTE:
        yield row(_TO_STRANGER, 1, 250_000, 600)


def _looks(at_ns: int) -> list[TableLook]:
    """Look at the kernel's table: visitors try again, and what is over stays for two minutes."""
    busy = 4 if 7 <= at_ns // HOUR % 24 < 20 else 1
    failing = max(0, (at_ns - DAY_2 - 9 * HOUR - 10 * MINUTE) // STEP)
    web, api, dns = "shop/web", "pay/api", "kube-system/kube-dns"
    held = {
        (Holder("tcp", "external", None, web, "pod", web, 30080), "TIME_WAIT"): 290 * busy
        + 1_240 * failing,
        (Holder("tcp", "pod", web, None, "pod", "shop/cart", 8080), "TIME_WAIT"): 80 * busy,
        (Holder("tcp", "pod", web, "shop/db", "pod", "shop/db", 5432), "ESTABLISHED"): 40,
        (Holder("tcp", "pod", "shop/cart", api, "pod", api, 443), "TIME_WAIT"): 55 * busy,
        (Holder("udp", "pod", web, dns, "pod", "kube-system/coredns", 53), "REPLIED"): 60 * busy,
        (OTHER_HOLDERS, "TIME_WAIT"): 11 * busy,
    }
    entries = sum(held.values())
    refused = TableCounters(*(0,) * len(TableCounters._fields))
    use = TableUse(at_ns, entries, entries + 7 * busy, 16_384, refused)
    return [use, Held(at_ns, {row: count for row, count in held.items() if count})]


def write(path: Path) -> None:
    """Write the two days into a file that is not there yet."""
    with connect.writer(path) as conn:
        writer = Writer(
            conn, node=NODE, source="kernel", settings={}, started_ns=BEGAN, boot_id=None
        )
        counters = EventCounts()
        for at_ns in range(BEGAN, ENDED, STEP):
            rows = with_ids(writer, _rows(at_ns))
            counters = EventCounts(counters.events + 40 * len(rows))
            looks = _looks(at_ns)
            writer.window(rows, looks=looks, committed_ns=at_ns + STEP, counters=counters)
            for _ in writer.maintain(at_ns + STEP, {}):
                pass
        since_ns = DAY_2 + 7 * HOUR + 30 * MINUTE
        still = [(40_000 + i, since_ns - i * MINUTE, since_ns, 4_096) for i in range(3)]
        found = {writer.edge_id(_TO_DB[0]): still}
        writer.keep_idle(IdleConnections(at_ns=ENDED, by_edge=found, more=0, unmeasured=0))
        for _ in writer.fold_open():
            pass
        writer.finish(ENDED)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
