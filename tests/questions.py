"""
Flows at random, every filter told a second time in Python, and sums done by hand.

What ctk answers in SQL, from whatever level, is held against these.
"""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from fnmatch import fnmatchcase
from ipaddress import ip_address, ip_network
from typing import Any

import orjson
from edges import edge, with_ids
from hypothesis import strategies as st

from ctk.ask.flows import Flows
from ctk.ask.pages import PAGE_ROWS
from ctk.ask.sums import NOTHING
from ctk.model import Endpoint, EventCounts, Filters, FlowRow, Side, Term
from ctk.model.history import ObjectRecord
from ctk.store.columns import IDENTITY_KEYS, FlowRecord
from ctk.store.levels import LEVELS
from ctk.store.write import Writer
from ctk.timespan import DAY, HOUR, MINUTE, SECOND

START = 1_700_006_400 * SECOND  # 2023-11-15T00:00:00Z
SMALL = tuple(level._replace(peers=2) for level in LEVELS)  # "other" after two


def pod(i: int, namespace: str, name: str, workload: str, **labels: str) -> Endpoint:
    return Endpoint(
        address=f"10.244.{i}.5",
        kind="pod",
        valid_from_ns=0,
        namespace=namespace,
        name=name,
        workload=workload,
        workload_kind="Deployment",
        node=f"n{i % 2}",
        labels=labels,
    )


WEB1 = pod(1, "shop", "web-1", "web", app="web", tier="front")
WEB2 = pod(2, "shop", "web-2", "web", app="web", tier="back")
DB = pod(3, "shop", "db-0", "db", app="db")
OTHER_WEB = pod(4, "blog", "web-1", "web")
NODE = Endpoint(address="10.0.0.1", kind="node", valid_from_ns=0, name="n1", node="n1")
SERVICE = Endpoint(
    address="10.96.0.7", kind="service", valid_from_ns=0, namespace="shop", name="db"
)
EXTERNAL = [Endpoint(address=f"203.0.113.{i}", kind="external", valid_from_ns=0) for i in range(5)]
V6 = Endpoint(address="2001:db8::9", kind="unknown", valid_from_ns=0)

EDGES = [
    edge("tcp", 0, WEB1, SERVICE, 5432, None, DB, 15432, "shop/db", "address"),
    edge("tcp", 0, WEB2, SERVICE, 5432, None, DB, 15432, "shop/db", "address"),
    edge("tcp", 0, OTHER_WEB, SERVICE, 5432, None, SERVICE, None, "shop/db", "address"),
    edge("tcp", 0, EXTERNAL[0], NODE, 30080, "10.0.0.1", WEB1, 8080, "blog/web", "address"),
    edge("udp", 0, WEB1, V6, 53, None, V6, None, None, None),
    edge("icmp", 0, V6, NODE, None, None, NODE, None, None, None),
    edge("132", 7, DB, OTHER_WEB, 80, None, OTHER_WEB, None, "blog/web", "endpoint"),
    *(edge("tcp", 0, WEB2, peer, 443, None, peer, None, None, None) for peer in EXTERNAL),
]


NODES = [
    ObjectRecord(
        kind="node",
        uid=name,
        namespace=None,
        name=name,
        valid_from_ns=0,
        addresses=(),
        labels={"topology.kubernetes.io/zone": zone} if zone else {},
    )
    for name, zone in (("n0", "a"), ("n1", "b"))
]
NO_FILTERS = Filters()


def write(conn: sqlite3.Connection, rows: list[FlowRow]) -> None:
    """Write rows as node n1 of the cluster prod, where nodes stand in zones."""
    writer = Writer(
        conn,
        node="n1",
        cluster="prod",
        source="kernel",
        settings={},
        started_ns=START,
        boot_id=None,
    )
    writer.window(with_ids(writer, rows), changes=NODES, committed_ns=START, counters=EventCounts())


def flows(
    conn: sqlite3.Connection, filters: Filters = NO_FILTERS, page_rows: int = PAGE_ROWS
) -> Flows:
    return Flows(lambda: nullcontext(conn), filters, page_rows=page_rows)


def finish(steps: Iterator[None]) -> None:
    for _ in steps:
        pass


COUNT = st.integers(0, 3)
MOVED = st.one_of(st.none(), st.integers(0, 10**6))
TIMES = st.one_of(st.integers(0, 3 * DAY), st.integers(0, 3 * 24 * 60).map(lambda i: i * MINUTE))
ROW = st.builds(
    lambda edge, at, lasted, port, counts, moved: FlowRow(
        edge, START + at, START + at + lasted, port, *counts, *moved
    ),
    st.sampled_from(EDGES),
    TIMES,
    st.integers(0, 10 * SECOND),
    st.sampled_from([None, 53, 40_000]),
    st.tuples(*[COUNT] * 6),
    st.tuples(*[MOVED] * 4),
)
ROWS = st.lists(ROW, max_size=60)

Test = Callable[[FlowRecord, str, Side], bool]


def _sides(record: FlowRecord, side: Side, column: str) -> list[Any]:
    named = record._asdict()
    sides = {"from": ["src"], "to": ["dst"], "any": ["src", "dst"]}[side]
    return [named[f"{prefix}_{column}"] for prefix in sides]


def _like(pattern: str, text: str | None) -> bool:
    return text is not None and fnmatchcase(text, pattern)


def _named(
    pattern: str,
    namespace: str | None,
    name: str | None,
    like: Callable[[str, str | None], bool] = _like,
) -> bool:
    wanted, slash, own = pattern.rpartition("/")
    own = own or "*" if slash else own
    return like(own, name) and (not slash or _like(wanted, namespace))


def _begins(pattern: str, text: str | None) -> bool:
    return _like(pattern, text) or (
        not set(pattern) & set("*?") and text is not None and text.startswith(f"{pattern}-")
    )


def _owner(column: str) -> Test:
    def test(record: FlowRecord, value: str, side: Side) -> bool:
        found = zip(
            _sides(record, side, "namespace"),
            _sides(record, side, column),
            _sides(record, side, "kind"),
            strict=True,
        )
        if column == "name":
            return any(
                kind == "pod" and _named(value, namespace, name, _begins)
                for namespace, name, kind in found
            )
        return any(_named(value, namespace, name) for namespace, name, _ in found)

    return test


def _ip(record: FlowRecord, value: str, side: Side) -> bool:
    addresses = [record.src] if side != "to" else []
    if side != "from":
        addresses += [record.dst, record.nat_dst or record.dst]
    if "*" in value:
        return any(_like(value, address) for address in addresses)
    return any(ip_address(address) in ip_network(value) for address in addresses)


def _port(record: FlowRecord, value: str, side: Side) -> bool:
    first, _, last = value.partition("-")
    ports = range(int(first), int(last or first) + 1)
    if side == "from":
        return record.src_port in ports
    return record.dst_port in ports or record.nat_dst_port in ports


def _bytes(record: FlowRecord) -> int:
    moved = [each for each in (record.bytes_out, record.bytes_in) if each is not None]
    return sum(moved) if moved else -1


SELECTORS: dict[str, Callable[[dict[str, str]], bool]] = {
    "app=web": lambda labels: labels.get("app") == "web",
    "app==web,tier": lambda labels: labels.get("app") == "web" and "tier" in labels,
    "app!=web": lambda labels: labels.get("app") != "web",
    "tier in (front, back)": lambda labels: labels.get("tier") in ("front", "back"),
    "tier notin (front)": lambda labels: labels.get("tier") != "front",
    "app=w*": lambda labels: labels.get("app", "").startswith("w"),
    "app!=?eb": lambda labels: not _like("?eb", labels.get("app")),
    "!tier, app": lambda labels: "tier" not in labels and "app" in labels,
}


def _label(record: FlowRecord, value: str, side: Side) -> bool:
    found = zip(_sides(record, side, "kind"), _sides(record, side, "labels"), strict=True)
    return any(
        kind in ("pod", "node", "service") and SELECTORS[value](orjson.loads(labels or "{}"))
        for kind, labels in found
    )


FITS: dict[str, tuple[Test, list[str], list[Side]]] = {
    "namespace": (
        lambda record, value, side: any(
            _like(value, found) for found in _sides(record, side, "namespace")
        ),
        ["shop", "blog", "s*", "?log", "none"],
        ["any", "from", "to"],
    ),
    "pod": (
        _owner("name"),
        ["web-1", "shop/web-1", "shop/web-*", "db", "shop/we", "shop/web", "blog/"],
        ["any", "from", "to"],
    ),
    "workload": (_owner("workload"), ["web", "blog/web", "d*"], ["any", "from", "to"]),
    "service": (
        lambda record, value, _: (
            record.service is not None and _named(value, *record.service.split("/"))
        ),
        ["db", "shop/db", "*/web", "shop/web"],
        ["any", "to"],
    ),
    "label": (_label, list(SELECTORS), ["any", "from", "to"]),
    "node": (
        lambda record, value, side: any(
            _like(value, found) for found in _sides(record, side, "node")
        ),
        ["n0", "n1", "n?"],
        ["any", "from", "to"],
    ),
    "zone": (
        lambda record, value, side: any(
            _like(value, found) for found in _sides(record, side, "node_zone")
        ),
        ["a", "b", "?", "c"],
        ["any", "from", "to"],
    ),
    "kind": (
        lambda record, value, side: value in _sides(record, side, "kind"),
        ["pod", "node", "service", "external", "unknown"],
        ["any", "from", "to"],
    ),
    "ip": (
        _ip,
        [
            "10.96.0.7",
            "10.244.0.0/16",
            "203.0.113.2",
            "203.0.113.0/30",
            "2001:db8::/32",
            "::/0",
            "203.0.113.*",
        ],
        ["any", "from", "to"],
    ),
    "port": (
        _port,
        ["53", "443", "8080", "5432", "50-80", "8000-20000", "40000-40001"],
        ["any", "from", "to"],
    ),
    "protocol": (
        lambda record, value, _: record.proto == ("sctp" if value == "x" else value),
        ["tcp", "udp", "icmp"],
        ["any"],
    ),
    "cross_namespace": (
        lambda record, *_: (
            None not in (record.src_namespace, record.dst_namespace)
            and record.src_namespace != record.dst_namespace
        ),
        [],
        ["any"],
    ),
    "cross_zone": (
        lambda record, *_: (
            None not in (record.src_node_zone, record.dst_node_zone)
            and record.src_node_zone != record.dst_node_zone
        ),
        [],
        ["any"],
    ),
    "failed": (lambda record, *_: record.unreplied > 0 or record.refused > 0, [], ["any"]),
    "refused": (lambda record, *_: record.refused > 0, [], ["any"]),
    "unreplied": (lambda record, *_: record.unreplied > 0, [], ["any"]),
    "min_bytes": (
        lambda record, value, _: _bytes(record) >= int(value),
        ["0", "1", "2", "500000"],
        ["any"],
    ),
    "min_connections": (
        lambda record, value, _: record.connections >= int(value),
        ["0", "1", "3"],
        ["any"],
    ),
}
# What a row is asked, and not its edge.
OF_ROWS = ("failed", "refused", "unreplied", "min_bytes", "min_connections")


@st.composite
def terms(draw: st.DrawFn, *, edges_only: bool = False) -> tuple[Term, ...]:
    terms = []
    for _ in range(draw(st.integers(0, 3))):
        field = draw(
            st.sampled_from([name for name in FITS if name not in OF_ROWS or not edges_only])
        )
        _, values, sides = FITS[field]
        if edges_only and field == "port":
            sides = ["any", "to"]
        chosen = draw(st.lists(st.sampled_from(values), min_size=1, max_size=2)) if values else []
        side = draw(st.sampled_from(sides))
        terms.append(Term(field, side, tuple(chosen), draw(st.booleans())))  # type: ignore[arg-type]
    return tuple(terms)


def fits(record: FlowRecord, filters: Filters) -> bool:
    if filters.since_ns is not None and record.started_ns < filters.since_ns:
        return False
    if filters.until_ns is not None and record.started_ns >= filters.until_ns:
        return False
    for term in filters.terms:
        test = FITS[term.field][0]
        found = any(test(record, value, term.side) for value in term.values or ("",))
        if found == term.negated:
            return False
    return True


MOMENT = st.one_of(st.none(), st.integers(-HOUR, 3 * DAY + HOUR).map(lambda ns: START + ns))
FOLDED = st.one_of(st.none(), st.integers(0, 4 * DAY))


def sum_up(
    records: list[FlowRecord], keys: tuple[str, ...], *, seen: bool = False
) -> dict[tuple[Any, ...], list[Any]]:
    """Sum records up by keys: the counts of `COUNTS`, and with `seen` its times."""
    groups: dict[tuple[Any, ...], list[Any]] = {}
    for record in records:
        named = record._asdict()
        sums = groups.setdefault(tuple(named[key] for key in keys), list(NOTHING))
        sums[0] += record.connections
        sums[1] += record.new_events + record.update_events + record.destroy_events
        sums[2] += record.unreplied + record.refused
        sums[7] += record.refused
        sums[8] += record.unreplied
        if seen:
            sums[9] = min(record.started_ns, sums[9] or record.started_ns)
            sums[10] = max(record.ended_ns, sums[10] or record.ended_ns)
        for i, ways in (
            (3, (record.packets_out, record.packets_in)),
            (4, (record.bytes_out, record.bytes_in)),
            (5, (record.bytes_out,)),
            (6, (record.bytes_in,)),
        ):
            for moved in ways:
                if moved is not None:
                    sums[i] = moved + (sums[i] or 0)
    return groups


KEYS = st.lists(
    st.sampled_from([key for key in IDENTITY_KEYS if key != "src_port"]),
    min_size=1,
    max_size=3,
    unique=True,
).map(tuple)
