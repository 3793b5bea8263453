"""
A cluster of many nodes, as it is and as each node's recorder sees it.

What happens is drawn once; each node that a connection passes tracks it, and those that record
write it with the recorder's own writer. So it is known what the files of all nodes, merged, must
say, to the byte.
"""

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import emptyfile
from edges import edge, with_ids

from ctk.model import ZONE_LABEL, Edge, Endpoint, EventCounts, FlowRow
from ctk.model.history import ClusterFound, ObjectRecord
from ctk.store import connect
from ctk.store.write import Writer
from ctk.timespan import HOUR, SECOND

SINCE = 1_732_525_200 * SECOND  # 2024-11-25T09:00:00Z
NAMESPACES = ("shop", "pay", "search")
PODS, EXTERNALS = 4, 12


class Sight(NamedTuple):
    """What the conntrack of a node says of a connection."""

    node: int
    edge: Edge


class Talk(NamedTuple):
    """Connections of one client to one server, and each node's sight of them, in their order."""

    at_ns: int
    lasted_ns: int
    connections: int
    bytes_out: int
    bytes_in: int
    client: str
    server: str
    service: str | None
    sights: tuple[Sight, ...]


@dataclass(slots=True)
class World:
    """A drawn cluster; `uid` tells it from others."""

    nodes: int
    seed: int = 1
    services: int = 6
    uid: str = "cluster-uid"
    rng: random.Random = field(init=False)
    names: list[str] = field(init=False)
    hosts: list[Endpoint] = field(init=False)
    tunnels: list[str] = field(init=False)
    pods: list[list[Endpoint]] = field(init=False)
    backends: list[list[Endpoint]] = field(init=False)
    addresses: list[Endpoint] = field(init=False)  # of services
    externals: list[Endpoint] = field(init=False)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.names = [f"n{i}" for i in range(self.nodes)]
        self.hosts = [self._host(i, f"10.0.{i >> 8}.{i & 255}") for i in range(self.nodes)]
        self.tunnels = [f"10.{128 + (i >> 8)}.{i & 255}.0" for i in range(self.nodes)]
        self.pods = [[self._pod(i, j) for j in range(PODS)] for i in range(self.nodes)]
        everybody = [pod for pods in self.pods for pod in pods]
        self.backends = [self.rng.sample(everybody, 3) for _ in range(self.services)]
        self.addresses = [
            Endpoint(
                address=f"10.96.0.{i + 1}",
                kind="service",
                valid_from_ns=SINCE,
                namespace=NAMESPACES[i % 3],
                name=f"svc-{i}",
                uid=f"svc-{i}",
            )
            for i in range(self.services)
        ]
        self.externals = [
            Endpoint(address=f"203.0.113.{i}", kind="external", valid_from_ns=SINCE)
            for i in range(EXTERNALS)
        ]

    def _host(self, i: int, address: str) -> Endpoint:
        name = self.names[i]
        return Endpoint(
            address=address,
            kind="node",
            valid_from_ns=SINCE,
            name=name,
            node=name,
            labels={ZONE_LABEL: f"zone-{i % 3}"},
            uid=f"{self.uid}-{name}",
        )

    def _pod(self, i: int, j: int) -> Endpoint:
        app = f"app-{(i * PODS + j) % 7}"
        return Endpoint(
            address=f"10.{128 + (i >> 8)}.{i & 255}.{j + 2}",
            kind="pod",
            valid_from_ns=SINCE,
            namespace=NAMESPACES[j % 3],
            name=f"{app}-{i}-{j}",
            workload=app,
            workload_kind="Deployment",
            node=self.names[i],
            labels={"app": app},
            uid=f"{self.uid}-pod-{i}-{j}",
        )

    def talks(self, count: int, span_ns: int, kinds: Sequence[str] = ()) -> list[Talk]:
        """Draw what happens in a span from SINCE on, oldest first."""
        rng, found = self.rng, []
        for _ in range(count):
            kind = rng.choice(kinds or KINDS)
            client, server, service, sights = getattr(self, f"_{kind}")()
            found.append(
                Talk(
                    SINCE + rng.randrange(span_ns - 10 * SECOND),
                    rng.randrange(10 * SECOND),
                    rng.choice((1, 1, 2, 5)),
                    rng.randrange(60, 5_000),
                    rng.randrange(60, 500_000),
                    called(client),
                    called(server),
                    service and f"{service.namespace}/{service.name}",
                    tuple(sights),
                )
            )
        return sorted(found)

    def _some_pod(self) -> Endpoint:
        return self.rng.choice(self.rng.choice(self.pods))

    def node_of(self, endpoint: Endpoint) -> int:
        return self.names.index(endpoint.node or "")

    def _pod_to_pod(self) -> tuple[Endpoint, Endpoint, None, Iterator[Sight]]:
        client, server = self._some_pod(), self._some_pod()
        return client, server, None, self.direct(client, server)

    def direct(self, client: Endpoint, server: Endpoint) -> Iterator[Sight]:
        for node in dict.fromkeys((self.node_of(client), self.node_of(server))):
            yield Sight(node, edge("tcp", 0, client, server, 8080, None, server, None, None, None))

    def _to_service(self) -> tuple[Endpoint, Endpoint, Endpoint, Iterator[Sight]]:
        """Dial a ClusterIP, from a pod or a node's own process."""
        i = self.rng.randrange(self.services)
        client = self.rng.choice([self._some_pod(), self.rng.choice(self.hosts)])
        server = self.rng.choice(self.backends[i])
        service = self.addresses[i]
        name = f"{service.namespace}/{service.name}"

        def sights() -> Iterator[Sight]:
            at = self.node_of(client)
            yield Sight(
                at, edge("tcp", 0, client, service, 80, None, server, 8080, name, "address")
            )
            if self.node_of(server) != at:
                yield from list(self.direct(client, server))[1:]

        return client, server, service, sights()

    def _out(self) -> tuple[Endpoint, Endpoint, None, Iterator[Sight]]:
        """Dial somebody outside, masqueraded."""
        client, server = self._some_pod(), self.rng.choice(self.externals)
        node = self.node_of(client)
        nat = self.hosts[node].address
        sight = Sight(node, edge("tcp", 0, client, server, 443, nat, server, None, None, None))
        return client, server, None, iter([sight])

    def _node_port(self) -> tuple[Endpoint, Endpoint, Endpoint, Iterator[Sight]]:
        """Come in from outside through some node, which may not be the backend's."""
        return self._from_outside(self.rng.randrange(self.nodes), rewrites=True)

    def _local_node_port(self) -> tuple[Endpoint, Endpoint, Endpoint, Iterator[Sight]]:
        """Come in from outside through the backend's node: externalTrafficPolicy Local."""
        return self._from_outside(None, rewrites=False)

    def _from_outside(
        self, node: int | None, *, rewrites: bool
    ) -> tuple[Endpoint, Endpoint, Endpoint, Iterator[Sight]]:
        i = self.rng.randrange(self.services)
        client, server, service = (
            self.rng.choice(self.externals),
            self.rng.choice(self.backends[i]),
            self.addresses[i],
        )
        name = f"{service.namespace}/{service.name}"
        at = self.node_of(server) if node is None else node
        host = self.hosts[at]
        nat = host.address if rewrites else None

        def sights() -> Iterator[Sight]:
            yield Sight(
                at, edge("tcp", 0, client, host, 30_000 + i, nat, server, 8080, name, "address")
            )
            if self.node_of(server) != at:
                yield from list(self.direct(host, server))[1:]

        return client, server, service, sights()

    def _gateway(self) -> tuple[Endpoint, Endpoint, None, Iterator[Sight]]:
        """Go through a third node, which puts its own address in place of the source."""
        if self.nodes < 3:
            return self._pod_to_pod()
        a, c, d = self.rng.sample(range(self.nodes), 3)
        client, server = self.rng.choice(self.pods[a]), self.rng.choice(self.pods[d])
        host = self.hosts[c]
        sights = [
            Sight(a, edge("tcp", 0, client, server, 9090, None, server, None, None, None)),
            Sight(c, edge("tcp", 0, client, server, 9090, host.address, server, None, None, None)),
            Sight(d, edge("tcp", 0, host, server, 9090, None, server, None, None, None)),
        ]
        return client, server, None, iter(sights)

    def _tunnel(self) -> tuple[Endpoint, Endpoint, None, Iterator[Sight]]:
        """Dial a node from a pod by way of a tunnel, whose address the other node cannot name."""
        a, d = self.rng.sample(range(self.nodes), 2)
        client, server = self.rng.choice(self.pods[a]), self.hosts[d]
        tunnel = self.tunnels[a]
        unknown = Endpoint(address=tunnel, kind="unknown", valid_from_ns=SINCE)
        sights = [
            Sight(a, edge("tcp", 0, client, server, 10250, tunnel, server, None, None, None)),
            Sight(d, edge("tcp", 0, unknown, server, 10250, None, server, None, None, None)),
        ]
        return client, server, None, iter(sights)

    def write(
        self,
        folder: Path,
        talks: Sequence[Talk],
        span_ns: int,
        recorded: Iterable[int],
        *,
        names_tunnels: bool = True,
        skew_s: int = 2,
        retain: dict[str, int] | None = None,
    ) -> list[Path]:
        """Write the file of each node that records, as its recorder does; with skewed clocks."""
        by_node: dict[int, list[FlowRow]] = {node: [] for node in recorded}
        skews = {node: self.rng.randrange(-skew_s, skew_s + 1) * SECOND for node in by_node}
        for talk in talks:
            for node, seen in talk.sights:
                if node in by_node:
                    by_node[node].append(row(talk, seen, skews[node]))
        if names_tunnels:
            # A node's own interface, which it has dialled itself from.
            for node, rows in by_node.items():
                own = self._host(node, self.tunnels[node])
                kubelet = edge("tcp", 0, own, own, 1, None, own, None, None, None)
                nothing = (0,) * 10
                rows.append(FlowRow(kubelet, SINCE + SECOND, SINCE + SECOND, None, *nothing))
        paths = []
        for node, rows in by_node.items():
            path = folder / f"{self.names[node]}.db"
            self.write_node(path, node, rows, span_ns, retain=retain)
            paths.append(path)
        return paths

    def write_node(
        self,
        path: Path,
        node: int,
        rows: Sequence[FlowRow],
        span_ns: int,
        *,
        since_ns: int = SINCE,
        retain: dict[str, int] | None = None,
        folded_ns: int | None = None,
    ) -> None:
        """
        Write a recording of a span, its hours as one window each.

        With `folded_ns` it goes on, and is folded up to then.
        """
        started_ns, end_ns = since_ns - 10 * SECOND, SINCE + span_ns + 10 * SECOND
        host = self.hosts[node]
        told = ObjectRecord(
            kind="node",
            uid=host.uid or "",
            namespace=None,
            name=host.name or "",
            valid_from_ns=SINCE,
            addresses=(host.address,),
            labels=host.labels,
        )
        hours: dict[int, list[FlowRow]] = {}
        for each in rows:
            hours.setdefault((each.started_ns - started_ns) // HOUR, []).append(each)
        if not path.exists():
            emptyfile.put(path)
        with connect.writer(path) as conn:
            writer = Writer(
                conn,
                node=self.names[node],
                source="kernel",
                settings={"window_ns": 10 * SECOND},
                started_ns=started_ns,
                boot_id=f"boot-{node}",
            )
            committed_ns = started_ns
            for hour in range((end_ns - started_ns) // HOUR + 1):
                committed_ns = min(started_ns + (hour + 1) * HOUR, end_ns)
                writer.window(
                    with_ids(writer, hours.get(hour, ())),
                    committed_ns=committed_ns,
                    counters=EventCounts(4 * len(rows) or 1),
                    changes=[ClusterFound(self.uid), told] if not hour else (),
                )
                for _ in writer.maintain(
                    min(folded_ns or committed_ns, committed_ns), retain or {}
                ):
                    pass
            if folded_ns is None:
                for _ in writer.fold_open():
                    pass
                writer.finish(committed_ns)


KINDS = ("pod_to_pod", "to_service", "out", "node_port", "local_node_port", "gateway", "tunnel")


def called(endpoint: Endpoint) -> str:
    """Give the name that `source` and `backend` have for an endpoint."""
    namespace = f"{endpoint.namespace}/" if endpoint.namespace else ""
    return f"{namespace}{endpoint.name}" if endpoint.name else endpoint.address


def row(talk: Talk, seen: Edge, skew_ns: int) -> FlowRow:
    """Give a node's row of a talk, by its own clock."""
    started_ns = max(talk.at_ns + skew_ns, SINCE - 5 * SECOND)
    connections = talk.connections
    return FlowRow(
        seen,
        started_ns,
        started_ns + talk.lasted_ns,
        None,
        *(connections, connections, 2 * connections, connections, 0, 0),
        *(talk.bytes_out, talk.bytes_out // 100 + 1, talk.bytes_in, talk.bytes_in // 1000 + 1),
    )


Sums = tuple[int, int, int]  # connections, bytes out, bytes in


def truth(talks: Iterable[Talk]) -> dict[tuple[str, str, str | None], Sums]:
    """Add up who talked to whom, by which service: what the merged file must say."""
    found: dict[tuple[str, str, str | None], Counter[int]] = {}
    for talk in talks:
        sums = found.setdefault((talk.client, talk.server, talk.service), Counter())
        sums.update({0: talk.connections, 1: talk.bytes_out, 2: talk.bytes_in})
    return {key: (sums[0], sums[1], sums[2]) for key, sums in found.items()}
