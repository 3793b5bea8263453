"""A few flows of a node, for the tests that read: what is in the file of the `shop` fixture."""

from edges import edge

from ctk.model import Edge, Endpoint, FlowRow, Gap
from ctk.timespan import SECOND

AT = 1_732_560_442_852_716_307  # 2024-11-25T18:47:22.852716307Z

WEB = Endpoint(
    address="10.244.0.5",
    kind="pod",
    valid_from_ns=0,
    namespace="shop",
    name="web-1",
    workload="web",
    workload_kind="Deployment",
    node="n1",
    labels={"app": "web", "tier": "front"},
)
DB = Endpoint(
    address="10.244.1.7",
    kind="pod",
    valid_from_ns=0,
    namespace="shop",
    name="db-0",
    workload="db",
    workload_kind="StatefulSet",
    node="n2",
    labels={"app": "db", "tier": "back"},
)
DB6 = Endpoint(
    address="fd00::1:7",
    kind="pod",
    valid_from_ns=0,
    namespace="shop",
    name="db-0",
    workload="db",
    workload_kind="StatefulSet",
    node="n2",
    labels={"app": "db", "tier": "back"},
)
DNS = Endpoint(
    address="10.244.0.3",
    kind="pod",
    valid_from_ns=0,
    namespace="kube-system",
    name="coredns-7c65d6cfc9-sq2br",
    workload="coredns",
    workload_kind="Deployment",
    node="n1",
    labels={"k8s-app": "kube-dns", "pod-template-hash": "7c65d6cfc9"},
)
NODE = Endpoint(address="10.244.0.1", kind="node", valid_from_ns=0, name="n1", node="n1")
DB_SERVICE = Endpoint(
    address="10.96.0.20", kind="service", valid_from_ns=0, namespace="shop", name="db"
)
CLIENT = Endpoint(address="203.0.113.9", kind="external", valid_from_ns=0)
CLIENT6 = Endpoint(address="2001:db8::9", kind="external", valid_from_ns=0)
STRANGER = Endpoint(address="10.9.9.9", kind="unknown", valid_from_ns=0)

WEB_TO_DB = edge("tcp", 0, WEB, DB_SERVICE, 5432, None, DB, 15432, "shop/db", "address")
NODE_TO_DNS = edge("tcp", 0, NODE, DNS, 8181, None, DNS, None, None, None)
CLIENT_TO_WEB = edge("tcp", 0, CLIENT, NODE, 30080, "10.244.0.1", WEB, 8080, "shop/web", "address")
WEB_TO_CLIENT = edge("tcp", 0, WEB, CLIENT, 443, None, CLIENT, None, None, None)
DB_TO_CLIENT6 = edge("udp", 3, DB6, CLIENT6, 514, None, CLIENT6, None, None, None)
PING = edge("icmp", 0, WEB, STRANGER, None, None, STRANGER, None, None, None)


def _row(
    edge: Edge, after_s: int, counts: tuple[int, ...], moved: tuple[int, ...] | None, port: int = 0
) -> FlowRow:
    at_ns = AT + after_s * SECOND
    measured = moved or (None, None, None, None)
    return FlowRow(edge, at_ns, at_ns + 2 * SECOND, port or None, *counts, *measured)


# connections, new, update, destroy, unreplied, refused; bytes and packets out, bytes and packets in
ROWS = (
    _row(NODE_TO_DNS, 0, (1, 1, 1, 0, 0, 0), None, 53388),
    _row(WEB_TO_DB, 10, (3, 3, 6, 2, 0, 0), (1_200, 14, 48_000, 40)),
    _row(CLIENT_TO_WEB, 20, (2, 2, 4, 2, 0, 0), (900, 10, 5_000_000, 3_500)),
    _row(WEB_TO_CLIENT, 30, (4, 4, 0, 4, 0, 4), (240, 4, 160, 4)),
    _row(DB_TO_CLIENT6, 40, (5, 5, 0, 5, 5, 0), (700, 5, 0, 0), 514),
    _row(PING, 50, (1, 1, 1, 1, 0, 0), (84, 1, 84, 1)),
    _row(WEB_TO_DB, 60, (1, 1, 2, 1, 0, 0), (400, 5, 16_000, 12)),
)
GAPS = (
    Gap("recorder down", AT + 12 * SECOND, AT + 15 * SECOND),
    Gap("events lost", AT + 35 * SECOND, AT + 36 * SECOND, 1_204),
)
