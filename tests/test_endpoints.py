"""Who was behind an address, and when: the recordings of a real cluster, and what goes wrong."""

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctk.kube.endpoints import Endpoints
from ctk.kube.identity import record_of
from ctk.kube.objects import (
    Applied,
    Bookmarked,
    Change,
    Deleted,
    EndpointSlice,
    KubeObject,
    Listed,
    Lost,
    Missed,
    Node,
    Pod,
    Recovered,
    Resource,
    Service,
    ServicePort,
)
from ctk.kube.parse import read, read_objects
from ctk.model import Endpoint, Gap, Via
from ctk.model.history import (
    Closed,
    Completed,
    KnownObject,
    KnownUnknown,
    ObjectClosed,
    ObjectRecord,
    PodsTold,
    ServiceFound,
)
from ctk.timespan import FOREVER_NS

KUBE = Path(__file__).parent.parent / "fixtures" / "kube"
LISTS = ("pods.page1.json", "pods.page2.json", "services.json", "endpointslices.json", "nodes.json")
S = 1_000_000_000
T0 = 1795501200 * S  # 2026-11-24T06:20:00Z
RESOURCES: tuple[Resource, ...] = get_args(Resource)


def pod(name: str = "web-1", address: str = "10.244.0.9", start: int = 0, **more: Any) -> Pod:
    return Pod(
        **{  # type: ignore[arg-type]
            "uid": name,
            "namespace": "shop",
            "name": name,
            "labels": {"app": "web"},
            "node": "n1",
            "workload": "web",
            "workload_kind": "Deployment",
            "phase": "Running",
            "host_network": False,
            "addresses": (address,) if address else (),
            "started_ns": T0 + start * S,
            "ended_ns": None,
            **more,
        }
    )


def service(name: str = "web", address: str = "10.96.0.80", start: int = 0, **more: Any) -> Service:
    addresses = (address,) if address else ()
    return Service(
        **{  # type: ignore[arg-type]
            "uid": f"service {name}",
            "namespace": "shop",
            "name": name,
            "labels": {},
            "type": "ClusterIP",
            "cluster_addresses": addresses,
            "addresses": addresses,
            "ports": (ServicePort("http", "tcp", 80, None),),
            "started_ns": T0 + start * S,
            "changed_ns": T0 + start * S,
            **more,
        }
    )


def backs(name: str, *addresses: str, port: int = 8080, start: int = 0) -> EndpointSlice:
    return EndpointSlice(
        uid=f"slice {name}",
        service=f"shop/{name}",
        addresses=addresses,
        ports=(("tcp", port),),
        started_ns=T0 + start * S,
    )


def node(name: str = "n1", address: str = "172.18.0.2", **more: Any) -> Node:
    return Node(
        **{  # type: ignore[arg-type]
            "uid": f"node {name}",
            "name": name,
            "labels": {},
            "addresses": (address,),
            "pod_cidrs": ("10.244.0.0/24",),
            "started_ns": T0,
            **more,
        }
    )


def cluster(*objects: KubeObject, kube: bool = True, at: int = 0) -> Endpoints:
    """A table that was told these by the first lists."""
    endpoints = Endpoints("n1", ["10.244.0.1", "172.18.0.2"], T0 + at * S, kube=kube)
    listed(endpoints, objects, at)
    endpoints.drain()
    return endpoints


def listed(endpoints: Endpoints, objects: Iterable[KubeObject], at: int) -> None:
    kinds: dict[Resource, type] = {
        "pods": Pod,
        "services": Service,
        "endpointslices": EndpointSlice,
        "nodes": Node,
    }
    for resource, kind in kinds.items():
        chosen = tuple(each for each in objects if isinstance(each, kind))
        endpoints.apply(Listed(resource, chosen, T0 + at * S))


def who(endpoints: Endpoints, address: str, at: float) -> str:
    """Kind and name of whoever had an address at that second."""
    endpoint = endpoints.at(address, T0 + int(at * S))
    return f"{endpoint.kind} {endpoint.name or ''}".strip()


class Dial(NamedTuple):
    """What is asked about one connection."""

    src: Endpoint
    dialled: Endpoint
    backend: Endpoint
    service: str | None
    service_via: Via | None


def dial(
    endpoints: Endpoints,
    dst: str,
    port: int | None = 80,
    *,
    at: float = 100,
    proto: str = "tcp",
    answered_by: str | None = None,
    src: str = "10.244.0.8",
) -> Dial:
    when_ns = T0 + int(at * S)
    source, dialled = endpoints.at(src, when_ns), endpoints.at(dst, when_ns)
    backend = endpoints.at(answered_by or dst, when_ns)
    found = None if port is None else endpoints.service(dialled, proto, port, when_ns)
    return Dial(source, dialled, backend, *(found or (None, None)))


def via(dialled: Dial) -> tuple[str | None, Via | None]:
    return dialled.service, dialled.service_via


# The recordings.


def recorded() -> tuple[Endpoints, int]:
    """The recorded lists, applied a second after the last object was made; and when."""
    endpoints = Endpoints("kl-control-plane", ["10.244.0.1", "172.18.0.2"], T0, kube=True)
    at_ns = T0 + 60 * S
    for change in read_objects([KUBE / name for name in LISTS]):
        assert isinstance(change, Listed)
        endpoints.apply(change._replace(at_ns=at_ns))
    return endpoints, at_ns


def replay(endpoints: Endpoints, name: str, at_ns: int) -> Iterable[tuple[int, dict[str, Any]]]:
    """Apply a recorded watch, an event a second; gives each event after it is applied."""
    resource: Resource = {"pods": "pods", "services": "services"}.get(  # type: ignore[assignment]
        name.split(".")[1], "endpointslices"
    )
    for line in (KUBE / name).read_text().splitlines():
        event = json.loads(line)
        at_ns += S
        if event["type"] != "BOOKMARK":
            kind = Deleted if event["type"] == "DELETED" else Applied
            endpoints.apply(kind(read(resource, event["object"]), at_ns))
        yield at_ns, event


def test_recorded_address_passes_from_one_pod_to_the_next() -> None:
    """
    job-1 succeeds and keeps its podIP; job-2 gets it before job-1 is deleted.

    The time between belongs to nobody in the API's words, but job-2 existed, so it is job-2's.
    """
    endpoints, _ = recorded()
    told_ns = 1795501288 * S  # job-1 was created then
    names = []
    for at_ns, event in replay(endpoints, "watch.pods.jsonl", told_ns):
        endpoint = endpoints.at("10.244.0.31", at_ns)
        names.append((event["type"], event["object"]["metadata"].get("name"), endpoint.name))
    assert names[:7] == [
        ("ADDED", "job-1", None),
        ("MODIFIED", "job-1", "job-1"),
        ("MODIFIED", "job-1", None),  # Succeeded
        ("ADDED", "job-2", None),
        ("MODIFIED", "job-2", "job-2"),
        ("MODIFIED", "job-1", "job-2"),
        ("DELETED", "job-1", "job-2"),
    ]
    assert names[-3] == ("DELETED", "job-2", "job-2")  # its grace
    ended_ns = 1795501301 * S
    assert endpoints.at("10.244.0.31", ended_ns + 30 * S).name is None
    endpoints.apply(Lost("nodes", ended_ns + 90 * S, "away"))  # anything, later
    history = endpoints.drain()
    spans = {
        each.endpoint.name: (each.endpoint.valid_from_ns - told_ns, each.valid_to_ns - told_ns)
        for each in history
        if isinstance(each, Closed) and each.endpoint.address == "10.244.0.31"
        if each.endpoint.kind == "pod"
    }
    assert spans == {"job-1": (0, 3 * S), "job-2": (3 * S, 43 * S)}
    # Asked again about any time, the answer is the same.
    asked = [endpoints.at("10.244.0.31", told_ns + i * S).name for i in range(1, 13)]
    assert asked == ["job-1"] * 2 + ["job-2"] * 10


def test_recorded_services_are_known_by_every_address() -> None:
    endpoints, at_ns = recorded()
    for _ in replay(endpoints, "watch.services.jsonl", at_ns):
        pass
    for _ in replay(endpoints, "watch.endpointslices.jsonl", at_ns):
        pass
    later_ns = 1795501400 * S

    def dialled(dst: str, port: int, proto: str = "tcp") -> tuple[str | None, str | None, str]:
        found = dial(endpoints, dst, port, at=(later_ns - T0) / S, proto=proto)
        return found.service, found.service_via, found.dialled.kind

    assert dialled("10.96.0.1", 443) == ("default/kubernetes", "address", "service")
    assert dialled("10.96.0.80", 80) == ("shop/web", "address", "service")
    assert dialled("172.18.0.2", 30080) == ("shop/web", "address", "node")
    assert dialled("127.0.0.1", 30080) == ("shop/web", "address", "node")
    assert dialled("10.244.0.1", 30080) == ("shop/web", "address", "node")
    assert dialled("192.0.2.10", 443) == ("shop/lb", "address", "service")
    assert dialled("172.18.0.2", 32041) == ("shop/lb", "address", "node")
    assert dialled("10.96.0.10", 53, "udp") == ("kube-system/kube-dns", "address", "service")
    assert dialled("10.96.0.10", 53, "tcp") == (None, None, "service")
    assert dialled("10.96.0.80", 8080) == (None, None, "service")
    # web, headless and lb all have this backend, two of them a ClusterIP: none can be told.
    assert dialled("10.244.0.11", 8080) == (None, None, "pod")
    assert dialled("10.244.0.11", 8081) == (None, None, "pod")
    assert dialled("172.18.0.2", 6443) == (None, None, "node")


# An address belongs to a pod for a time.


def test_an_address_is_nobodys_before_and_after_its_pod() -> None:
    endpoints = cluster(node(), pod("old", start=-100))
    endpoints.apply(Deleted(pod("old", start=-100), T0 + 10 * S))
    endpoints.apply(Applied(pod("new", start=50), T0 + 52 * S))
    asked = [who(endpoints, "10.244.0.9", at) for at in (-200, -99, 39, 40, 49, 50, 1000)]
    assert asked == [
        "unknown",
        "pod old",
        "pod old",
        "unknown",
        "unknown",
        "pod new",
        "pod new",
    ]


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
def test_a_pod_that_is_over_frees_its_address_when_its_last_container_ended(phase: str) -> None:
    endpoints = cluster(pod())
    over = pod(phase=phase, ended_ns=T0 + 20 * S)
    endpoints.apply(Applied(over, T0 + 25 * S))
    assert [who(endpoints, "10.244.0.9", at) for at in (19, 20)] == ["pod web-1", "unknown"]


def test_a_pod_that_came_and_went_between_two_looks_had_its_address() -> None:
    endpoints = cluster(pod("now", start=60))
    endpoints.apply(Applied(pod("job", "", start=10, phase="Pending"), T0 + 70 * S))
    endpoints.apply(
        Applied(pod("job", start=10, phase="Succeeded", ended_ns=T0 + 20 * S), T0 + 71 * S)
    )
    asked = [who(endpoints, "10.244.0.9", at) for at in (10, 19, 21, 61)]
    assert asked == ["pod job", "pod job", "unknown", "pod now"]


def test_another_pod_with_the_address_ends_the_first_ones_time() -> None:
    endpoints = cluster(pod("first"))
    endpoints.apply(Applied(pod("second", start=50), T0 + 55 * S))
    assert [who(endpoints, "10.244.0.9", at) for at in (49, 50)] == ["pod first", "pod second"]
    # Whatever the first still says of itself, the address is not its own again.
    endpoints.apply(Applied(pod("first", labels={"app": "other"}), T0 + 60 * S))
    endpoints.apply(Deleted(pod("first", labels={"app": "other"}), T0 + 70 * S))
    assert [who(endpoints, "10.244.0.9", at) for at in (49, 65, 75)] == [
        "pod first",
        "pod second",
        "pod second",
    ]


def test_within_the_second_of_a_pods_start_the_address_passes_when_the_pod_is_seen() -> None:
    """The API's times have whole seconds, and the first pod may have used what is left of one."""
    endpoints = cluster(pod("first"))
    half = T0 + 50 * S + S // 2
    endpoints.apply(Applied(pod("second", "", start=50, phase="Pending"), half))
    endpoints.apply(Applied(pod("second", start=50), half + S))
    asked = [who(endpoints, "10.244.0.9", at) for at in (50.4, 50.6)]
    assert asked == ["pod first", "pod second"]


def test_a_pod_that_is_told_only_when_it_is_gone_takes_nothing() -> None:
    endpoints = cluster(pod("now", start=50))
    endpoints.apply(Deleted(pod("unheard", start=10), T0 + 60 * S))
    assert [who(endpoints, "10.244.0.9", at) for at in (55, 65)] == ["pod now", "pod now"]


def test_a_deleted_pods_time_is_not_shortened_by_a_pod_that_started_earlier() -> None:
    endpoints = cluster(pod("first", start=10))
    endpoints.apply(Applied(pod("waiting", "", start=5, phase="Pending"), T0 + 20 * S))
    endpoints.apply(Deleted(pod("first", start=10), T0 + 40 * S))
    endpoints.apply(Applied(pod("waiting", start=5), T0 + 50 * S))
    asked = [who(endpoints, "10.244.0.9", at) for at in (39, 41, 50)]
    assert asked == ["pod first", "unknown", "pod waiting"]


def test_of_two_listed_with_one_address_the_later_has_it() -> None:
    endpoints = cluster(pod("later", start=50), pod("earlier", start=0), at=100)
    assert [who(endpoints, "10.244.0.9", at) for at in (49, 51)] == ["pod earlier", "pod later"]


def test_a_listed_pod_that_is_over_owns_nothing_but_its_past() -> None:
    untold = pod("untold", "10.244.0.7", phase="Succeeded")
    told = pod("told", "10.244.0.6", phase="Failed", ended_ns=T0 + 30 * S)
    endpoints = cluster(untold, told, at=100)
    assert [who(endpoints, "10.244.0.7", at) for at in (10, 200)] == ["unknown", "unknown"]
    assert [who(endpoints, "10.244.0.6", at) for at in (10, 200)] == ["pod told", "unknown"]


def test_every_address_of_a_pod_is_its_own() -> None:
    endpoints = cluster(pod(addresses=("10.244.0.9", "fd00:10:244::9")))
    assert who(endpoints, "fd00:10:244::9", 1) == "pod web-1"


def test_host_network_traffic_is_the_nodes() -> None:
    host = pod("proxy", "172.18.0.3", host_network=True)
    endpoints = cluster(node("n2", "172.18.0.3"), host)
    assert who(endpoints, "172.18.0.3", 1) == "node n2"
    assert endpoints.pods_added() == []


def test_a_nodes_address_is_the_node_even_as_a_load_balancers() -> None:
    balanced = service(addresses=("10.96.0.80", "172.18.0.2"))
    endpoints = cluster(node(), balanced)
    edge = dial(endpoints, "172.18.0.2", 80)
    assert (edge.dialled.kind, *via(edge)) == ("node", "shop/web", "address")


def test_a_service_address_on_a_local_interface_is_the_services() -> None:
    """kube-proxy in IPVS mode binds every ClusterIP to an interface of the node."""
    endpoints = Endpoints("n1", ["10.96.0.80"], T0, kube=True)
    listed(endpoints, [service()], 0)
    assert who(endpoints, "10.96.0.80", 1) == "service web"


@pytest.mark.parametrize(
    ("address", "owner"),
    [
        ("127.0.0.1", "node n1"),
        ("127.8.8.8", "node n1"),
        ("::1", "node n1"),
        ("10.244.0.1", "node n1"),
        ("172.18.0.2", "node n1"),
        ("8.8.8.8", "external"),
        ("2600::1", "external"),
        ("192.168.1.5", "external"),
        ("172.18.0.1", "external"),
        ("100.64.0.1", "external"),
        ("169.254.169.254", "external"),
        ("fe80::1", "external"),
        ("10.244.0.77", "unknown"),
        ("10.244.200.1", "unknown"),
        ("10.96.200.1", "unknown"),
        ("fd00:10:244::77", "unknown"),
        ("fd00:10:245::77", "external"),
    ],
)
def test_who_an_address_is_that_nobody_owns(address: str, owner: str) -> None:
    endpoints = cluster(node(), service(), pod(addresses=("10.244.0.9", "fd00:10:244::9")))
    assert who(endpoints, address, 1) == owner


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        ("10.99.3.9", "unknown"),
        ("10.99.4.0", "external"),
        ("10.100.129.1", "unknown"),
        ("10.100.127.255", "external"),
        ("fd00:1:2:3::7", "unknown"),
        ("fd00:1:2:4::7", "external"),
    ],
)
def test_a_private_address_is_a_pods_where_any_node_has_it_in_a_pod_cidr(address, kind):
    cidrs = ("10.99.3.0/24", "fd00:1:2:3::/64"), ("10.99.2.0/24", "10.100.128.0/17")
    nodes = [node(f"n{n}", f"172.18.0.{n}", pod_cidrs=each) for n, each in enumerate(cidrs, 2)]
    assert cluster(*nodes).at(address, T0 + S).kind == kind


@pytest.mark.parametrize(
    ("address", "owner"),
    [("8.8.8.8", "external"), ("192.168.1.5", "unknown"), ("127.0.0.1", "node n1")],
)
def test_before_the_lists_only_public_addresses_are_external(address: str, owner: str) -> None:
    assert who(Endpoints("n1", [], T0, kube=True), address, 1) == owner


# After an outage, and after a deletion.


def known(
    one: Pod | Node, to: int | None = None, start: int | None = None, **changed: Any
) -> KnownObject:
    """A row of the file's history; None: it stood so when the file's knowledge ended."""
    from_ns = one.started_ns if start is None else T0 + start * S
    record = record_of(replace(one, **changed), from_ns, from_ns, -FOREVER_NS)
    return KnownObject(record, None if to is None else T0 + to * S)


def recalled(*rows: KnownObject, until: int = 100, at: int = 110, kube: bool = True) -> Endpoints:
    """A table of a recording that began at `at`, and knows these up to `until` from the file."""
    endpoints = Endpoints("n1", ["172.18.0.2"], T0 + at * S, kube=kube)
    endpoints.recall(rows, T0 + until * S)
    endpoints.drain()
    return endpoints


def finally_named(endpoints: Endpoints, answers: Iterable[Endpoint]) -> list[str]:
    """Who each of the answers is in the file, with all that is known by now."""
    told = {each.unknown: each.known for each in endpoints.drain() if isinstance(each, Completed)}
    final = [told.get(answer, answer) for answer in answers]
    return [f"{each.kind} {each.name or ''}".strip() for each in final]


def test_what_began_while_the_file_watched_is_named_by_it() -> None:
    endpoints = recalled(known(pod("web")), known(pod("gone", "10.244.0.7"), to=50))
    asked = [("10.244.0.9", -1), ("10.244.0.9", 0), ("10.244.0.9", 99), ("10.244.0.7", 49)]
    assert [who(endpoints, *each) for each in asked] == [
        "unknown",
        "pod web",
        "pod web",
        "pod gone",
    ]


def test_what_began_while_nobody_watched_is_named_when_the_list_comes() -> None:
    rows = [known(pod("kept", "10.244.0.7")), known(pod("gone"))]
    endpoints = recalled(*rows)
    asked = [("10.244.0.7", 105), ("10.244.0.9", 105), ("10.244.0.9", 112.5)]
    answers = [endpoints.at(address, T0 + int(at * S)) for address, at in asked]
    assert [each.kind for each in answers] == ["unknown"] * 3
    listed(endpoints, [pod("kept", "10.244.0.7"), pod("new", start=108)], 115)
    assert finally_named(endpoints, answers) == ["pod kept", "pod gone", "pod new"]


def test_while_the_server_is_away_the_file_names_who_was_there_last() -> None:
    endpoints = recalled(known(pod("kept", "10.244.0.7")), known(pod("gone")))
    endpoints.apply(Lost("pods", T0 + 110 * S, "away"))
    asked = [("10.244.0.7", 300), ("10.244.0.9", 120), ("10.244.0.9", 300), ("10.244.0.9", 460)]
    answers = [endpoints.at(address, T0 + at * S) for address, at in asked]
    assert [each.name for each in answers] == ["kept", "gone", "gone", "gone"]
    listed(endpoints, [pod("kept", "10.244.0.7"), pod("new", start=320)], 900)
    endpoints.apply(Recovered("pods", T0 + 110 * S, T0 + 900 * S, "away"))
    assert finally_named(endpoints, answers) == ["pod kept", "pod gone", "pod gone", "pod new"]


def test_a_name_that_was_given_before_and_after_an_address_passed_on_is_taken_back() -> None:
    endpoints = cluster(node(), pod("old"))
    endpoints.apply(Lost("pods", T0 + 20 * S, "away"))
    answers = [endpoints.at("10.244.0.9", T0 + at * S) for at in (30, 80)]
    assert answers[0] is answers[1]
    listed(endpoints, [node(), pod("new", start=70)], 900)
    endpoints.apply(Recovered("pods", T0 + 20 * S, T0 + 900 * S, "away"))
    assert finally_named(endpoints, answers) == ["unknown", "unknown"]
    assert [who(endpoints, "10.244.0.9", at) for at in (30, 80)] == ["pod old", "pod new"]


def test_a_pod_that_died_while_the_recorder_was_away_keeps_its_last_connections() -> None:
    """The newcomer's start lies 2 s after them: once they were within its 5 s of slack."""
    rows = [known(pod("server"))]
    newcomer = pod("client", start=107, node="n2")
    endpoints = recalled(*rows)
    listed(endpoints, [newcomer], 110)
    asked = [who(endpoints, "10.244.0.9", at) for at in (105, 106, 107, 108)]
    assert asked == ["pod server", "pod server", "unknown", "pod client"]
    fresh = Endpoints("n1", [], T0 + 105 * S, kube=True)
    listed(fresh, [newcomer], 110)
    assert [who(fresh, "10.244.0.9", at) for at in (106, 107, 108)] == [
        "unknown",
        "unknown",
        "pod client",
    ]


def test_a_pod_that_is_over_took_its_address_from_one_that_died_before() -> None:
    job = pod("job", start=103, phase="Succeeded", ended_ns=T0 + 106 * S)
    endpoints = recalled(known(pod("dead")))
    listed(endpoints, [job], 110)
    asked = [who(endpoints, "10.244.0.9", at) for at in (102, 103, 104, 105.5, 106)]
    assert asked == ["pod dead", "unknown", "pod job", "pod job", "unknown"]


def test_a_pod_that_waited_for_the_address_has_it_when_it_is_told() -> None:
    """Both started before the outage; when it passed on in between is not known."""
    waiting = pod("waiting", "", start=-5, phase="Pending")
    endpoints = recalled(known(pod("dead")), known(waiting))
    listed(endpoints, [pod("waiting", start=-5)], 110)
    asked = [who(endpoints, "10.244.0.9", at) for at in (99, 101, 109, 110)]
    assert asked == ["pod dead", "unknown", "unknown", "pod waiting"]


def test_slack_is_for_other_nodes_clocks_and_for_times_that_were_watched() -> None:
    endpoints = cluster(node())
    endpoints.apply(Applied(pod("own", start=30), T0 + 31 * S))
    endpoints.apply(Applied(pod("other", "10.244.1.9", start=30, node="n2"), T0 + 31 * S))
    asked = [who(endpoints, each, 26) for each in ("10.244.0.9", "10.244.1.9")]
    assert asked == ["unknown", "pod other"]
    endpoints.apply(Lost("pods", T0 + 50 * S, "away"))
    listed(endpoints, [pod("third", "10.244.1.7", start=60, node="n2")], 70)
    endpoints.apply(Recovered("pods", T0 + 50 * S, T0 + 70 * S, "away"))
    later = pod("fourth", "10.244.1.8", start=72, node="n2")
    endpoints.apply(Applied(later, T0 + 73 * S))
    asked = [who(endpoints, "10.244.1.7", at) for at in (60.5, 61)]
    asked += [who(endpoints, "10.244.1.8", at) for at in (69.5, 70)]
    assert asked == ["unknown", "pod third", "unknown", "pod fourth"]


def test_a_pod_of_this_node_has_the_whole_second_of_its_start() -> None:
    endpoints = cluster(node())
    endpoints.apply(Applied(pod("own", "", start=30, phase="Pending"), T0 + 30 * S + S // 2))
    endpoints.apply(Applied(pod("own", start=30), T0 + 31 * S))
    assert who(endpoints, "10.244.0.9", 30.1) == "pod own"


def test_the_first_list_says_how_the_file_goes_on() -> None:
    changed = pod("changed", "10.244.0.6", labels={"app": "old"})
    rows = [known(pod("kept", "10.244.0.7")), known(changed), known(pod("gone")), known(node())]
    endpoints = recalled(*rows)
    now = pod("changed", "10.244.0.6", labels={"app": "new"})
    objects = [pod("kept", "10.244.0.7"), now]
    endpoints.apply(Listed("pods", tuple(objects), T0 + 115 * S))
    at_ns = T0 + 115 * S
    history = [each for each in endpoints.drain() if isinstance(each, ObjectRecord | ObjectClosed)]
    told = [
        (each.uid, each.valid_from_ns) if isinstance(each, ObjectRecord) else each
        for each in history
    ]
    assert sorted(told, key=str) == sorted(
        [
            ("kept", T0),
            ("changed", at_ns),
            ObjectClosed("pod", "changed", at_ns, inferred=True),
            # Whoever else got its address before is in the list.
            ObjectClosed("pod", "gone", at_ns, inferred=True, sure_until_ns=T0 + 110 * S),
        ],
        key=str,
    )
    assert sorted(each.name or "" for each in endpoints.pods_added()) == ["changed", "kept"]
    assert endpoints.at("10.244.0.6", T0 + 99 * S).labels == {"app": "old"}
    assert endpoints.at("10.244.0.6", T0 + 116 * S).labels == {"app": "new"}


def test_the_first_list_tells_since_when_a_pod_that_the_file_heard_of_late_has_its_address() -> (
    None
):
    """The file knows when it was told; between, the pod before seemed to have it."""
    told_late = known(pod("new", start=90), start=95)
    # As a file of before m012 has it.
    told_late = told_late._replace(record=replace(told_late.record, times=None))
    endpoints = recalled(known(pod("old")), told_late)
    used = {"networked_ns": T0 + 92 * S, "running_ns": T0 + 93 * S}
    endpoints.apply(Listed("pods", (pod("new", start=90, **used),), T0 + 115 * S))
    asked = [who(endpoints, "10.244.0.9", at) for at in (91, 93, 96)]
    assert asked == ["pod old", "pod new", "pod new"]


def test_an_address_that_stays_unknown_is_few_endpoints_however_many_pods_come() -> None:
    """Each endpoint is a row of the file, and each of them makes an edge."""
    endpoints = cluster(node(), pod("web"))
    answers = set()
    for second in range(3600):
        if second % 30 == 0:
            waiting = pod(f"p{second}", "", start=second, phase="Pending")
            endpoints.apply(Applied(waiting, T0 + second * S))
            there = pod(f"p{second}", f"10.244.2.{second // 30}", start=second)
            endpoints.apply(Applied(there, T0 + (second + 1) * S))
        answers.add(endpoints.at("10.244.9.9", T0 + second * S))
    assert len(answers) < 60 + 120 + 60


def test_pods_that_are_not_asked_for_any_more_did_not_end() -> None:
    elsewhere = pod("elsewhere", "10.244.1.9", node="n2")
    endpoints = recalled(known(pod("gone")), known(elsewhere))
    endpoints.apply(Listed("pods", (), T0 + 115 * S, only_node="n1"))
    ended = [each.uid for each in endpoints.drain() if isinstance(each, ObjectClosed)]
    assert ended == ["gone"]
    assert who(endpoints, "10.244.1.9", 99) == "pod elsewhere"
    assert who(endpoints, "10.244.1.9", 120) == "unknown"


@pytest.mark.parametrize("kube", [True, False], ids=["an API server", "objects of a file"])
def test_without_a_list_the_file_names_only_what_it_watched(kube: bool) -> None:
    endpoints = recalled(known(pod("web")), kube=kube)
    assert [who(endpoints, "10.244.0.9", at) for at in (99, 100)] == ["pod web", "unknown"]


def test_objects_of_a_file_go_on_from_what_the_recording_knew() -> None:
    endpoints = recalled(known(pod("kept", "10.244.0.7")), known(pod("gone")), kube=False)
    listed(endpoints, [pod("kept", "10.244.0.7"), pod("new", start=120)], 130)
    asked = [("10.244.0.7", -50), ("10.244.0.7", 150), ("10.244.0.9", 119), ("10.244.0.9", 121)]
    assert [who(endpoints, *each) for each in asked] == [
        "pod kept",
        "pod kept",
        "pod gone",
        "pod new",
    ]


def test_what_was_left_undecided_waits_for_one_that_is_told_of_pods() -> None:
    """Where no server is asked, the first owner of an address is one that always had it."""
    endpoints = recalled(known(pod("web", start=20)), kube=False)
    stranger = Endpoint(address="10.244.0.9", kind="unknown", valid_from_ns=T0 + 12 * S)
    endpoints.recall_unknown([KnownUnknown(stranger, T0 + 13 * S - 1, undecided=True)])
    endpoints.finish(T0 + 120 * S)
    assert endpoints.drain() == []


def test_what_was_unknown_at_first_and_is_no_pods_does_not_end_with_the_recording() -> None:
    endpoints = Endpoints("n1", [], T0, kube=True)
    asked = [endpoints.at(address, T0 + S) for address in ("192.168.7.7", "10.9.9.1")]
    undecided = {each.endpoint: each for each in endpoints.drain() if isinstance(each, Closed)}
    assert [undecided[each] for each in asked] == [
        Closed(each, T0 + 2 * S - 1, inferred=True) for each in asked
    ]
    endpoints.set_local_addresses(frozenset({"10.9.9.1"}))
    listed(endpoints, [node()], 2)
    assert finally_named(endpoints, asked) == ["external", "node n1"]
    endpoints.finish(T0 + 100 * S)
    assert endpoints.drain() == []


def test_what_stays_unknown_was_so_to_the_end_of_the_second() -> None:
    """An answer is taken for one up to then, without asking again."""
    endpoints = cluster(node(), service())
    endpoints.apply(Applied(pod("waits", "", start=1, phase="Pending"), T0 + S))
    endpoint = endpoints.at("10.244.0.50", T0 + 2 * S)
    assert endpoints.good_until_ns(endpoint) == T0 + 3 * S
    endpoints.drain()
    endpoints.finish(T0 + 100 * S)
    assert endpoints.drain() == [Closed(endpoint, T0 + 3 * S)]


def test_a_pods_history_in_several_rows_is_one_life() -> None:
    web = pod("web")
    endpoints = recalled(
        known(web, to=2, phase="Pending", addresses=()),
        known(web, to=50, start=2),
        known(web, start=50, labels={"app": "next"}),
    )
    asked = [endpoints.at("10.244.0.9", T0 + at * S).labels.get("app") for at in (0, 49, 50, 99)]
    assert asked == ["web", "web", "next", "next"]


def test_a_pod_that_the_file_closed_too_early_has_its_address_all_the_time() -> None:
    """The recording before this one knew no list: the file has an end from the one before that."""
    endpoints = recalled(known(pod("web"), to=80), until=100)
    listed(endpoints, [pod("web", labels={"app": "next"})], 110)
    asked = [endpoints.at("10.244.0.9", T0 + at * S) for at in (79, 81, 109, 110)]
    assert [(each.name, each.labels["app"]) for each in asked] == [
        *[("web", "web")] * 3,
        ("web", "next"),
    ]


def test_a_node_that_the_file_knew_is_known_by_its_address_and_zone() -> None:
    zone = {"topology.kubernetes.io/zone": "z1"}
    endpoints = recalled(known(node("n2", "172.18.0.3", labels=zone)))
    assert (who(endpoints, "172.18.0.3", 99), endpoints.zone_of("n2")) == ("node n2", "z1")


@pytest.mark.parametrize(
    ("deletion", "spec", "grace_s"),
    [(60, 30, 60), (0, 45, 45), (None, 45, 45), (None, None, 30), (0, None, 30)],
)
def test_a_grace_is_the_deletions_or_the_specs(
    deletion: int | None, spec: int | None, grace_s: int
) -> None:
    raw = {
        "metadata": {
            "uid": "u",
            "namespace": "shop",
            "name": "web",
            "deletionGracePeriodSeconds": deletion,
        },
        "spec": {"terminationGracePeriodSeconds": spec},
    }
    told = read("pods", raw)
    assert isinstance(told, Pod)
    assert told.grace_s == grace_s


def test_a_deleted_pod_keeps_its_address_for_its_grace() -> None:
    endpoints = cluster(pod("forced", grace_s=20))
    endpoints.apply(Deleted(pod("forced", grace_s=20), T0 + 50 * S))
    answers = [endpoints.at("10.244.0.9", T0 + at * S) for at in (51, 69, 70)]
    listed(endpoints, [], 200)
    assert finally_named(endpoints, answers) == ["pod forced", "pod forced", "unknown"]


def test_a_deleted_pods_grace_ends_where_another_has_the_address() -> None:
    endpoints = cluster(pod("forced"))
    endpoints.apply(Deleted(pod("forced"), T0 + 50 * S))
    answers = [endpoints.at("10.244.0.9", T0 + 51 * S)]
    endpoints.apply(Applied(pod("next", "", start=52, phase="Pending"), T0 + 52 * S + S // 2))
    answers.append(endpoints.at("10.244.0.9", T0 + 53 * S))
    endpoints.apply(Applied(pod("next", start=52), T0 + 54 * S))
    history = endpoints.drain()
    closed = [each.valid_to_ns - T0 for each in history if isinstance(each, Closed)]
    assert closed == [80 * S, 52 * S + S // 2]  # the latest that is possible, then what is known
    told = {each.unknown: each.known.name for each in history if isinstance(each, Completed)}
    assert [told.get(each, each.name) for each in answers] == ["forced", "next"]


def test_a_pod_that_is_over_when_it_is_deleted_has_no_grace() -> None:
    endpoints = cluster(pod("job", phase="Succeeded", ended_ns=T0 + 20 * S), at=30)
    endpoints.apply(Deleted(pod("job", phase="Succeeded", ended_ns=T0 + 20 * S), T0 + 50 * S))
    assert [who(endpoints, "10.244.0.9", at) for at in (19, 21, 51)] == [
        "pod job",
        "unknown",
        "unknown",
    ]


def test_an_address_may_be_anothers_before_its_terminating_pod_is_deleted() -> None:
    endpoints = cluster(pod("old"))
    endpoints.apply(Applied(pod("old", terminating=True), T0 + 50 * S))
    answers = [endpoints.at("10.244.0.9", T0 + 51 * S)]
    endpoints.apply(Applied(pod("new", "", start=52, phase="Pending"), T0 + 52 * S))
    answers.append(endpoints.at("10.244.0.9", T0 + 53 * S))
    endpoints.apply(Applied(pod("new", start=52), T0 + 54 * S))
    assert finally_named(endpoints, answers) == ["pod old", "pod new"]


@pytest.mark.parametrize(
    ("told", "names"),
    [
        ({"networked_ns": T0 + 106 * S}, ["dead", "dead", None, "new", "new"]),
        ({"running_ns": T0 + 106 * S}, ["dead", "dead", None, "new", "new"]),
        (
            {"networked_ns": T0 + 106 * S, "running_ns": T0 + 107 * S},
            ["dead", "dead", "dead", "new", "new"],
        ),
        (
            {"networked_ns": T0 + 108 * S, "running_ns": T0 + 106 * S},
            ["dead", "dead", None, "new", "new"],
        ),
        ({}, ["dead", None, "new", "new", "new"]),
    ],
    ids=[
        "its network",
        "its first container",
        "a container that started in a later second than its network",
        "a network that was told late",
        "only its own start",
    ],
)
def test_an_address_passes_on_unseen_when_the_next_pod_got_it(
    told: dict[str, int], names: list[str | None]
) -> None:
    """A pod may start long before it gets an address that another still has."""
    endpoints = recalled(known(pod("dead")))
    listed(endpoints, [pod("new", start=103, **told)], 110)
    at_s = (102.5, 103.5, 106.5, 107.5, 109)
    assert [endpoints.at("10.244.0.9", T0 + int(at * S)).name for at in at_s] == names


# What happened while nobody watched, where the server still tells of it.


def missed(endpoints: Endpoints, *changes: Applied | Deleted, at: int = 110) -> None:
    """The server tells of these before its first list of what is left."""
    endpoints.apply(Missed(changes, T0 + at * S, whole=True))


def gained(name: str, second: int, ran: int, **more: Any) -> Pod:
    """A pod that got its network in that second, and ran in another."""
    times = {"networked_ns": T0 + second * S, "running_ns": T0 + ran * S}
    return pod(name, start=second - 1, **times, **more)


def test_a_pod_that_came_and_went_while_nobody_watched_had_its_address() -> None:
    """No list has it: once its connections went to the pod that the file knew last."""
    endpoints = recalled(known(pod("dead")))
    between, last = gained("between", 102, 103), gained("last", 106, 107)
    asked = [101, 103, 105, 107, 108]
    answers = [endpoints.at("10.244.0.9", T0 + at * S) for at in asked]
    changes = [Deleted(pod("dead"), 0), Applied(between, 0), Deleted(between, 0), Applied(last, 0)]
    missed(endpoints, *changes)
    listed(endpoints, [last], 110)
    names = ["pod dead", "pod between", "pod between", "pod last", "pod last"]
    assert finally_named(endpoints, answers) == names


def test_a_pod_that_the_server_tells_of_as_it_came_has_the_second_in_which_it_came() -> None:
    """In a list alone, another that came and went may have had the address in that second."""
    came = gained("came", 105, 105)
    endpoints = recalled()
    missed(endpoints, Applied(came, 0))
    listed(endpoints, [came], 110)
    assert who(endpoints, "10.244.0.9", 105) == "pod came"
    untold = recalled()
    listed(untold, [came], 110)
    assert [who(untold, "10.244.0.9", at) for at in (105, 106)] == ["unknown", "pod came"]


def test_what_was_missed_of_a_pod_that_goes_on_changes_nothing_of_it() -> None:
    endpoints = recalled(known(pod("kept")))
    answer = endpoints.at("10.244.0.9", T0 + 105 * S)
    labelled = pod("kept", labels={"app": "next"})
    missed(endpoints, Applied(labelled, 0))
    listed(endpoints, [labelled], 110)
    assert finally_named(endpoints, [answer]) == ["pod kept"]
    assert who(endpoints, "10.244.0.9", 120) == "pod kept"


def test_up_to_when_pods_are_known_and_where_a_watch_would_go_on() -> None:
    endpoints = Endpoints("n1", [], T0, kube=True)
    assert endpoints.told(T0 + 5 * S) == []
    endpoints.apply(Listed("pods", (pod("web"),), T0 + 6 * S, version="7"))
    assert endpoints.told(T0 + 7 * S) == [PodsTold(T0 + 7 * S, "7")]
    endpoints.apply(Applied(pod("web", phase="Failed"), T0 + 8 * S, "9"))
    endpoints.apply(Applied(service(), T0 + 8 * S, "10"))
    assert endpoints.told(T0 + 9 * S) == [PodsTold(T0 + 9 * S, "9")]
    endpoints.apply(Bookmarked(T0 + 9 * S, "12"))
    endpoints.apply(Lost("pods", T0 + 10 * S, "away"))
    assert endpoints.told(T0 + 20 * S) == [PodsTold(T0 + 10 * S, "12")]


# What an earlier recording wrote, and a later one hears.


def remembered(endpoints: Endpoints, endpoint: Endpoint, until: int) -> Endpoint:
    """An endpoint that an earlier recording gave for want of better."""
    endpoints.recall_unknown([KnownUnknown(endpoint, T0 + until * S)])
    return endpoint


def test_a_pod_that_was_named_after_its_address_passed_on_is_taken_back_by_the_next_recording() -> (
    None
):
    """The recording was killed before it heard of the pod that had got the address."""
    endpoints = recalled(known(pod("old"), to=97), until=100)
    in_doubt = replace(endpoints.at("10.244.0.9", T0 + 50 * S), valid_from_ns=T0 + 99 * S + S // 2)
    remembered(endpoints, in_doubt, 100)
    missed(endpoints, Applied(gained("new", 98, 99), 0))
    listed(endpoints, [gained("new", 98, 99)], 110)
    assert finally_named(endpoints, [in_doubt]) == ["pod new"]


def test_what_the_recording_before_could_not_tell_is_no_better_known_by_what_it_knew() -> None:
    """It left the second of a handover unknown, and so it stays."""
    endpoints = recalled(known(pod("old"), to=50), known(pod("new", start=49), start=49))
    shared = Endpoint(address="10.244.0.9", kind="unknown", valid_from_ns=T0 + 50 * S)
    remembered(endpoints, shared, 51)
    listed(endpoints, [pod("new", start=49)], 110)
    assert finally_named(endpoints, [shared]) == ["unknown"]


def test_at_the_end_an_address_that_a_pod_to_come_may_have_is_left_to_the_next_recording() -> None:
    """Its last owner was deleted a second ago, and another waits for an address."""
    for waits, name in ((False, "pod old"), (True, "unknown")):
        endpoints = cluster(pod("old"))
        endpoints.apply(Deleted(pod("old"), T0 + 50 * S))
        if waits:
            pending = pod("next", "", start=50, phase="Pending")
            endpoints.apply(Applied(pending, T0 + 50 * S + S // 2))
        answer = endpoints.at("10.244.0.9", T0 + 51 * S)
        endpoints.finish(T0 + 52 * S)
        history = endpoints.drain()
        [known] = [each.known for each in history if isinstance(each, Completed)] or [answer]
        assert f"{known.kind} {known.name or ''}".strip() == name
        ends = [each for each in history if isinstance(each, Closed) and each.endpoint == known]
        assert ends == ([Closed(known, T0 + 51 * S, inferred=True)] if waits else [])


def test_in_the_second_in_which_one_pod_ended_and_the_next_ran_an_address_is_nobodys() -> None:
    over = pod("over", phase="Succeeded", ended_ns=T0 + 51 * S, running_ns=T0)
    following = pod("next", start=49, networked_ns=T0 + 50 * S, running_ns=T0 + 50 * S)
    asked = (49.5, 50.1, 50.9, 51)
    for objects in ([over, following], [following, over]):
        endpoints = cluster(*objects, at=100)
        assert [who(endpoints, "10.244.0.9", at) for at in asked] == [
            "pod over",
            "unknown",
            "unknown",
            "pod next",
        ]
    later = replace(following, running_ns=T0 + 51 * S)
    endpoints = cluster(over, later, at=100)
    assert [who(endpoints, "10.244.0.9", at) for at in asked] == [
        "pod over",
        "pod over",
        "pod over",
        "pod next",
    ]


def test_a_job_that_came_and_went_in_the_second_of_the_next_pod_takes_nothing_from_it() -> None:
    job = pod("job", start=16, phase="Succeeded", ended_ns=T0 + 18 * S, networked_ns=T0 + 17 * S)
    endpoints = cluster(pod("next", start=15, networked_ns=T0 + 17 * S), job, at=100)
    assert [who(endpoints, "10.244.0.9", at) for at in (17.5, 18, 200)] == [
        "unknown",
        "pod next",
        "pod next",
    ]


@pytest.mark.parametrize(
    ("status", "networked_s", "running_s"),
    [
        ({}, None, None),
        ({"conditions": [{"type": "PodReadyToStartContainers", "status": "False"}]}, None, None),
        (
            {
                "conditions": [
                    {
                        "type": "PodReadyToStartContainers",
                        "status": "True",
                        "lastTransitionTime": "2026-11-24T09:00:05Z",
                    }
                ]
            },
            5,
            None,
        ),
        (
            {
                "initContainerStatuses": [
                    {"state": {"terminated": {"startedAt": "2026-11-24T09:00:06Z"}}}
                ],
                "containerStatuses": [
                    {"state": {"running": {"startedAt": "2026-11-24T09:00:08Z"}}},
                    {"state": {"waiting": {"reason": "ImagePull"}}},
                ],
            },
            None,
            6,
        ),
        (
            {
                "containerStatuses": [
                    {
                        "restartCount": 1,
                        "state": {"running": {"startedAt": "2026-11-24T09:00:09Z"}},
                        "lastState": {"terminated": {"startedAt": "2026-11-24T09:00:07Z"}},
                    }
                ]
            },
            None,
            7,
        ),
        (
            {
                "containerStatuses": [
                    {
                        "restartCount": 2,
                        "state": {"running": {"startedAt": "2026-11-24T09:00:09Z"}},
                    }
                ]
            },
            None,
            None,
        ),
    ],
    ids=["nothing", "no network", "a network", "an init container", "one restart", "more restarts"],
)
def test_a_pod_tells_when_it_got_its_network_and_ran(
    status: dict[str, Any], networked_s: int | None, running_s: int | None
) -> None:
    told = read("pods", {"metadata": {"namespace": "shop", "name": "web"}, "status": status})
    assert isinstance(told, Pod)
    nine_ns = 1795510800 * S
    assert (told.networked_ns, told.running_ns) == tuple(
        None if second is None else nine_ns + second * S for second in (networked_s, running_s)
    )


# What was not known is completed.


def test_traffic_before_a_pods_address_is_known_is_completed_in_place() -> None:
    endpoints = cluster(node())
    endpoints.apply(Applied(pod("late", "", start=10, phase="Pending"), T0 + 10 * S))
    before = endpoints.at("10.244.0.9", T0 + 11 * S)
    assert (before.kind, before.valid_from_ns) == ("unknown", T0 + 11 * S)
    assert endpoints.at("10.244.0.9", T0 + 11 * S + S // 2) is before
    endpoints.drain()
    endpoints.apply(Applied(pod("late", start=10), T0 + 14 * S))
    known = endpoints.at("10.244.0.9", T0 + 11 * S)
    assert known.name == "late"
    assert Completed(before, known) in endpoints.drain()
    assert endpoints.at("10.244.0.9", T0 + 20 * S) is known
    assert [(each.name, each.address) for each in endpoints.pods_added()] == [
        ("late", "10.244.0.9")
    ]
    endpoints.apply(Applied(pod("late", start=10, phase="Succeeded"), T0 + 30 * S))
    closed = [each for each in endpoints.drain() if isinstance(each, Closed)]
    assert closed == [Closed(known, T0 + 30 * S)]


def test_traffic_to_an_idle_address_is_not_the_next_pods() -> None:
    endpoints = cluster(node(), pod("old", start=-100))
    endpoints.apply(Deleted(pod("old", start=-100), T0 + 10 * S))
    idle = endpoints.at("10.244.0.9", T0 + 42 * S)
    endpoints.apply(Applied(pod("new", "", start=50, phase="Pending"), T0 + 50 * S))
    early = endpoints.at("10.244.0.9", T0 + 51 * S)
    assert early is not idle
    endpoints.apply(Applied(pod("new", start=50), T0 + 53 * S))
    completed = [each for each in endpoints.drain() if isinstance(each, Completed)]
    assert completed == [Completed(early, endpoints.at("10.244.0.9", T0 + 51 * S))]
    assert completed[0].known.name == "new"


def test_clocks_that_differ_a_little_take_nothing_from_a_new_pod() -> None:
    endpoints = cluster(node())
    early = endpoints.at("10.244.0.9", T0 + 28 * S)
    much_earlier = endpoints.at("10.244.0.10", T0 + 20 * S)
    endpoints.drain()
    endpoints.apply(Applied(pod("one", start=30, node="n2"), T0 + 31 * S))
    endpoints.apply(Applied(pod("two", "10.244.0.10", start=30, node="n2"), T0 + 31 * S))
    completed = [each.unknown for each in endpoints.drain() if isinstance(each, Completed)]
    assert completed == [early]
    assert endpoints.at("10.244.0.10", T0 + 20 * S) is much_earlier


def test_an_unknown_address_is_one_endpoint_for_a_minute() -> None:
    endpoints = cluster(node())
    first = endpoints.at("10.244.0.50", T0)
    assert endpoints.at("10.244.0.50", T0 + 59 * S) is first
    second = endpoints.at("10.244.0.50", T0 + 60 * S)
    assert (second is first, second.valid_from_ns) == (False, T0 + 60 * S)


def test_what_was_asked_before_the_lists_is_completed_by_them() -> None:
    endpoints = Endpoints("n1", ["172.18.0.2"], T0, kube=True)
    edge = dial(endpoints, "10.96.0.80", 80, answered_by="10.244.0.9", at=1)
    outside = dial(endpoints, "172.18.0.2", 30080, src="192.168.1.5", at=2)
    assert (edge.src.kind, edge.dialled.kind, edge.backend.kind, edge.service) == (
        "unknown",
        "unknown",
        "unknown",
        None,
    )
    with_node_port = service(start=-50, ports=(ServicePort(None, "tcp", 80, 30080),))
    labelled = node(labels={"zone": "a"}, started_ns=T0 - 90 * S)
    pods = [pod(start=-50), pod("client", "10.244.0.8", start=-50)]
    listed(endpoints, [labelled, with_node_port, *pods], 3)
    history = endpoints.drain()
    known = {each.unknown: each.known for each in history if isinstance(each, Completed)}
    assert {(unknown.address, known[unknown].kind, known[unknown].name) for unknown in known} == {
        ("10.244.0.8", "pod", "client"),
        ("10.244.0.9", "pod", "web-1"),
        ("10.96.0.80", "service", "web"),
        ("172.18.0.2", "node", "n1"),
        ("192.168.1.5", "external", None),
    }
    assert known[outside.dialled].labels == {"zone": "a"}
    assert [each for each in history if isinstance(each, ServiceFound)] == [
        ServiceFound(edge.dialled, "tcp", 80, "shop/web", "address"),
        ServiceFound(outside.dialled, "tcp", 30080, "shop/web", "address"),
    ]


def test_a_cluster_ip_that_an_earlier_recording_could_not_name_names_what_was_dialled_at_it() -> (
    None
):
    """The recorder was killed before it heard of the service; the file knows its ports only."""
    ports = (ServicePort("http", "tcp", 80, None), ServicePort("dns", "udp", 53, None))
    web = service(start=40, ports=ports, addresses=("10.96.0.80", "192.168.9.9"))
    endpoints = recalled(until=100)
    before, after, external = (
        Endpoint(address=address, kind="unknown", valid_from_ns=T0 + at * S)
        for address, at in (("10.96.0.80", 39), ("10.96.0.80", 90), ("192.168.9.9", 90))
    )
    for each in (before, after, external):
        remembered(endpoints, each, 100)
    listed(endpoints, [web], 110)
    history = endpoints.drain()
    named = [each.unknown for each in history if isinstance(each, Completed)]
    assert (after in named, before in named) == (True, False)
    # Its other address may have been somebody else's then.
    assert [each for each in history if isinstance(each, ServiceFound)] == [
        ServiceFound(after, "tcp", 80, "shop/web", "address"),
        ServiceFound(after, "udp", 53, "shop/web", "address"),
    ]


@pytest.mark.parametrize("changed", [80, None])
def test_a_cluster_ip_is_its_services_since_its_creation_an_external_address_since_a_change(
    changed: int | None,
) -> None:
    """Without managed fields nothing tells until when another may have had the latter."""
    addresses = ("10.96.0.80", "192.168.9.9")
    web = service(start=40, addresses=addresses, changed_ns=changed and T0 + changed * S)
    endpoints = recalled(until=100)
    inner, _ = [dial(endpoints, address, at=79) for address in addresses]
    listed(endpoints, [node(), web], 110)
    history = endpoints.drain()
    found = [each for each in history if isinstance(each, ServiceFound)]
    assert found == [ServiceFound(inner.dialled, "tcp", 80, "shop/web", "address")]
    kinds = {
        each.unknown.address: each.known.kind for each in history if isinstance(each, Completed)
    }
    assert [kinds[each] for each in addresses] == ["service", "external"]
    assert dial(endpoints, addresses[1], at=111).service == "shop/web"


def test_a_service_heard_as_an_external_name_has_its_cluster_ip_from_the_change_on() -> None:
    web = service(start=-3600)
    before = replace(web, type="ExternalName", cluster_addresses=(), addresses=(), ports=())
    endpoints = cluster(node(), before, at=-5)
    for at in (2, 9.9):
        dial(endpoints, "10.96.0.80", at=at)
    endpoints.apply(Applied(web, T0 + 10 * S))
    assert not [each for each in endpoints.drain() if isinstance(each, Completed | ServiceFound)]
    assert who(endpoints, "10.96.0.80", 9.9) == "external"
    assert dial(endpoints, "10.96.0.80", at=11).service == "shop/web"


def test_what_was_external_is_the_service_that_is_told_later_in_place() -> None:
    endpoints = cluster(node(), at=-5)
    edge = dial(endpoints, "10.96.0.80", at=-1800)
    endpoints.drain()
    endpoints.apply(Applied(service(start=-3600, changed_ns=T0 - 600 * S), T0))
    completed, found = endpoints.drain()[-2:]
    assert isinstance(completed, Completed)
    assert completed.known.kind == "service"
    assert edge.dialled.kind == "external"
    assert found == ServiceFound(edge.dialled, "tcp", 80, "shop/web", "address")


def test_a_slice_that_is_told_before_the_pod_it_lists_does_not_name_the_one_before() -> None:
    endpoints = cluster(node(), service(), backs("web"), pod("old"))
    edge = dial(endpoints, "10.244.0.9", 8080, at=10.2)
    endpoints.apply(Deleted(pod("old"), T0 + 11 * S))
    endpoints.apply(Applied(pod("new", "", start=11, phase="Pending"), T0 + 11 * S))
    endpoints.apply(Applied(backs("web", "10.244.0.9"), T0 + 13 * S))
    endpoints.apply(Applied(gained("new", 12, 13), T0 + 14 * S))
    assert edge.service is None
    assert not [each for each in endpoints.drain() if isinstance(each, ServiceFound)]


def test_slices_that_are_listed_before_the_pods_name_what_was_dialled() -> None:
    endpoints = recalled(known(pod()), until=100)
    edge = dial(endpoints, "10.244.0.9", 8080, at=99)
    for resource, each in (("services", service()), ("endpointslices", backs("web", "10.244.0.9"))):
        endpoints.apply(Listed(resource, (each,), T0 + 101 * S))  # type: ignore[arg-type]
    assert not [each for each in endpoints.drain() if isinstance(each, ServiceFound)]
    endpoints.apply(Listed("pods", (pod(),), T0 + 102 * S))
    found = [each for each in endpoints.drain() if isinstance(each, ServiceFound)]
    assert found == [ServiceFound(edge.dialled, "tcp", 8080, "shop/web", "endpoint")]


def test_a_slice_that_comes_after_the_first_dial_names_the_service() -> None:
    endpoints = cluster(node(), service(), pod())
    edge = dial(endpoints, "10.244.0.9", 8080, at=10)
    other = dial(endpoints, "10.244.0.9", 9090, at=10)
    assert (edge.service, other.service) == (None, None)
    endpoints.apply(Applied(backs("web", "10.244.0.9", start=10), T0 + 12 * S))
    found = [each for each in endpoints.drain() if isinstance(each, ServiceFound)]
    assert found == [ServiceFound(edge.dialled, "tcp", 8080, "shop/web", "endpoint")]


def test_a_slice_of_the_next_pod_of_an_address_does_not_name_what_dialled_the_one_before() -> None:
    """A slice is written up to 5 s late, and the address was used again sooner."""
    endpoints = cluster(node(), backs("other"), service(), backs("web"), pod("old"))
    edge = dial(endpoints, "10.244.0.9", 8080, at=10)
    endpoints.apply(Applied(pod("old", phase="Failed", ended_ns=T0 + 11 * S), T0 + 11 * S))
    endpoints.apply(Applied(gained("new", 11, 12), T0 + 12 * S))
    endpoints.apply(Applied(backs("web", "10.244.0.9"), T0 + 13 * S))
    assert edge.service is None
    assert not [each for each in endpoints.drain() if isinstance(each, ServiceFound)]
    later = dial(endpoints, "10.244.0.9", 8080, at=12.5)
    assert (later.dialled.name, later.service) == ("new", "shop/web")


def test_a_slice_does_not_name_what_was_dialled_before_another_pod_had_its_address() -> None:
    """Nobody is known to have it when it is listed: the pod that will is told a little later."""
    endpoints = cluster(node(), service(), backs("web"))
    edge = dial(endpoints, "10.244.0.9", 8080, at=10.2)
    endpoints.apply(Applied(gained("api", 11, 11), T0 + 11 * S))
    ended = {"phase": "Failed", "ended_ns": T0 + 12 * S}
    endpoints.apply(Applied(gained("api", 11, 11, **ended), T0 + 12 * S))
    endpoints.apply(Applied(backs("web", "10.244.0.9"), T0 + 14 * S))
    assert (edge.dialled.kind, edge.service) == ("unknown", None)
    assert not [each for each in endpoints.drain() if isinstance(each, ServiceFound)]


def test_without_an_api_what_the_file_says_was_always_so() -> None:
    endpoints = cluster(node(), pod(start=500), service(start=500), kube=False)
    assert who(endpoints, "10.244.0.9", -1000) == "pod web-1"
    assert via(dial(endpoints, "10.96.0.80", at=-1000)) == ("shop/web", "address")
    unknown = endpoints.at("10.244.0.50", T0)
    assert endpoints.at("10.244.0.50", T0 + 10_000 * S) is unknown


def test_without_anything_known_everything_private_is_one_unknown_for_ever() -> None:
    endpoints = Endpoints("n1", ["10.244.0.1"], T0, kube=False)
    assert [who(endpoints, each, 1) for each in ("10.244.0.9", "8.8.8.8", "10.244.0.1")] == [
        "unknown",
        "external",
        "node n1",
    ]


# Services.


def test_a_dialled_service_that_nobody_answers_has_its_name() -> None:
    endpoints = cluster(service())
    edge = dial(endpoints, "10.96.0.80", 80)
    assert (edge.backend is edge.dialled, edge.dialled.name, *via(edge)) == (
        True,
        "web",
        "shop/web",
        "address",
    )


def test_a_ping_to_a_service_has_no_port_and_so_no_service() -> None:
    edge = dial(cluster(service()), "10.96.0.80", None, proto="icmp")
    assert (edge.dialled.name, edge.service) == ("web", None)


def test_a_headless_service_is_known_by_its_pods_only() -> None:
    headless = service("db", "", type="headless", cluster_addresses=(), addresses=())
    endpoints = cluster(headless, pod(), backs("db", "10.244.0.9"))
    assert via(dial(endpoints, "10.244.0.9", 8080)) == ("shop/db", "endpoint")
    assert via(dial(endpoints, "10.244.0.9", 80)) == (None, None)


HEADLESS: dict[str, Any] = {"type": "headless", "cluster_addresses": (), "addresses": ()}


@pytest.mark.parametrize(
    ("services", "found"),
    [
        ((service("a", "", **HEADLESS),), "shop/a"),
        ((service("a", "", **HEADLESS), service("b")), "shop/b"),
        ((service("a", "", **HEADLESS), service("b", "", **HEADLESS)), None),
        ((service("a", "10.96.0.1"), service("b", "10.96.0.2")), None),
        ((service("a", "", **HEADLESS), service("b"), service("c", "10.96.0.3")), None),
    ],
    ids=[
        "the only one",
        "the only one with a ClusterIP",
        "two without",
        "two with",
        "one without and two with",
    ],
)
@pytest.mark.parametrize("late", [False, True], ids=["known before", "told after the dial"])
def test_of_several_services_that_a_pod_backs(
    services: tuple[Service, ...], found: str | None, late: bool
) -> None:
    slices = [backs(each.name, "10.244.0.9") for each in services]
    endpoints = cluster(pod()) if late else cluster(*services, *slices, pod())
    edge = dial(endpoints, "10.244.0.9", 8080)
    if not late:
        assert via(edge) == ((found, "endpoint") if found else (None, None))
        return
    endpoints.apply(Listed("endpointslices", tuple(slices), T0 + 101 * S))
    endpoints.apply(Listed("services", services, T0 + 102 * S))
    told = [each for each in endpoints.drain() if isinstance(each, ServiceFound)]
    expected = [ServiceFound(edge.dialled, "tcp", 8080, found, "endpoint")] if found else []
    assert told == expected


def test_an_address_that_services_share_on_one_port_tells_none() -> None:
    shared = [service(name, addresses=("192.0.2.1",), cluster_addresses=()) for name in "ab"]
    assert via(dial(cluster(*shared), "192.0.2.1", 80)) == (None, None)
    apart = service("b", addresses=("192.0.2.1",), ports=(ServicePort(None, "tcp", 81, None),))
    endpoints = cluster(shared[0], apart)
    assert [dial(endpoints, "192.0.2.1", port).service for port in (80, 81)] == ["shop/a", "shop/b"]


def test_ports_and_backends_of_a_service_change_with_time() -> None:
    endpoints = cluster(service(), pod(), backs("web", "10.244.0.9"))
    moved = service(ports=(ServicePort(None, "tcp", 81, None),))
    endpoints.apply(Applied(moved, T0 + 100 * S))
    endpoints.apply(Applied(backs("web"), T0 + 100 * S))
    asked = [(port, at) for port in (80, 81) for at in (99, 100)]
    assert [dial(endpoints, "10.96.0.80", port, at=at).service for port, at in asked] == [
        "shop/web",
        None,
        None,
        "shop/web",
    ]
    backed = [dial(endpoints, "10.244.0.9", 8080, at=at).service for at in (99, 100)]
    assert backed == ["shop/web", None]
    endpoints.apply(Deleted(moved, T0 + 200 * S))
    assert [who(endpoints, "10.96.0.80", at) for at in (199, 200)] == ["service web", "unknown"]


def test_a_deleted_service_made_again_is_another_but_has_the_name() -> None:
    endpoints = cluster(service())
    endpoints.apply(Deleted(service(), T0 + 10 * S))
    endpoints.apply(Applied(service(uid="again", start=20), T0 + 20 * S))
    assert [dial(endpoints, "10.96.0.80", at=at).service for at in (9, 15, 21)] == [
        "shop/web",
        None,
        "shop/web",
    ]


# History.


def test_history_tells_each_change_once() -> None:
    endpoints = Endpoints("n1", [], T0, kube=True)
    endpoints.apply(Applied(pod("a", "", phase="Pending"), T0 + S))
    endpoints.apply(Applied(pod("a"), T0 + 2 * S))
    endpoints.apply(Applied(pod("a"), T0 + 3 * S))
    endpoints.apply(Deleted(pod("a"), T0 + 4 * S))
    history = endpoints.drain()
    records = [each for each in history if isinstance(each, ObjectRecord)]
    assert [(each.phase, each.addresses, each.valid_from_ns) for each in records] == [
        ("Pending", (), T0),
        ("Running", ("10.244.0.9",), T0 + 2 * S),
    ]
    assert [each for each in history if isinstance(each, ObjectClosed)] == [
        ObjectClosed("pod", "a", T0 + 2 * S),
        ObjectClosed("pod", "a", T0 + 4 * S),
    ]
    assert endpoints.drain() == []


def test_changed_labels_are_another_endpoint_of_the_same_pod() -> None:
    endpoints = cluster(pod())
    before = endpoints.at("10.244.0.9", T0 + 9 * S)
    endpoints.apply(Applied(pod(labels={"app": "next"}), T0 + 10 * S))
    after = endpoints.at("10.244.0.9", T0 + 10 * S)
    assert (before.labels, after.labels) == ({"app": "web"}, {"app": "next"})
    assert endpoints.at("10.244.0.9", T0 + 9 * S) is before
    assert Closed(before, T0 + 10 * S) in endpoints.drain()


def test_a_service_in_history_has_its_ports_in_words() -> None:
    endpoints = Endpoints("n1", [], T0, kube=True)
    endpoints.apply(
        Applied(
            service(
                ports=(ServicePort("http", "tcp", 80, 30080), ServicePort(None, "udp", 53, None))
            ),
            T0,
        )
    )
    (record,) = endpoints.drain()
    assert isinstance(record, ObjectRecord)
    assert (record.ports, record.type) == (("http:80/tcp", "53/udp"), "ClusterIP")


# Staleness.


def test_what_a_list_no_longer_holds_is_gone() -> None:
    endpoints = cluster(pod("kept"), pod("dropped", "10.244.0.10"), service(), backs("web"))
    listed(endpoints, [pod("kept")], 50)
    assert [who(endpoints, "10.244.0.10", at) for at in (79, 80)] == ["pod dropped", "unknown"]
    assert who(endpoints, "10.244.0.9", 60) == "pod kept"
    assert who(endpoints, "10.96.0.80", 60) == "unknown"


def test_an_address_that_passed_on_while_the_watch_was_down_is_mended_afterwards() -> None:
    endpoints = cluster(node(), pod("old"), pod("kept", "10.244.0.10"))
    surely_old = endpoints.at("10.244.0.9", T0 + 10 * S)
    endpoints.apply(Lost("pods", T0 + 20 * S, "away"))
    before = endpoints.at("10.244.0.9", T0 + 30 * S)
    doubtful = endpoints.at("10.244.0.9", T0 + 800 * S)
    kept = endpoints.at("10.244.0.10", T0 + 800 * S)
    names = (surely_old.name, before.name, doubtful.name, kept.name)
    assert names == ("old", "old", "old", "kept")
    assert before is not surely_old
    endpoints.drain()
    now = [node(), pod("new", start=700), pod("kept", "10.244.0.10")]
    listed(endpoints, now, 900)
    endpoints.apply(Recovered("pods", T0 + 20 * S, T0 + 900 * S, "away"))
    completed = [
        (each.unknown, each.known.name)
        for each in endpoints.drain()
        if isinstance(each, Completed) and each.known.name != each.unknown.name
    ]
    assert completed == [(doubtful, "new")]
    assert [who(endpoints, "10.244.0.9", at) for at in (650, 750)] == ["pod old", "pod new"]
    assert endpoints.gaps() == [
        Gap("metadata stale", T0 + 20 * S, T0 + 900 * S, None, "pods: away")
    ]
    assert endpoints.at("10.244.0.9", T0 + 10 * S) is surely_old


def test_resources_lost_together_are_one_gap() -> None:
    endpoints = cluster()
    for i, resource in enumerate(RESOURCES):
        endpoints.apply(Lost(resource, T0 + i * S, "away"))
    for i, resource in enumerate(RESOURCES):
        assert endpoints.gaps() == []
        endpoints.apply(Recovered(resource, T0 + i * S, T0 + (60 + i) * S, "away"))
    detail = "pods, services, endpointslices, nodes: away"
    assert endpoints.gaps() == [Gap("metadata stale", T0, T0 + 63 * S, None, detail)]
    assert endpoints.gaps() == []


def test_a_resource_that_stays_forbidden_delays_no_other_gap_and_is_told_at_the_end() -> None:
    endpoints = cluster()
    endpoints.apply(Lost("nodes", T0, "away"))
    endpoints.apply(Lost("nodes", T0, "forbidden", denied=True))
    endpoints.apply(Lost("pods", T0 + 10 * S, "away"))
    endpoints.apply(Recovered("pods", T0 + 10 * S, T0 + 20 * S, "away"))
    assert endpoints.gaps() == [Gap("metadata stale", T0 + 10 * S, T0 + 20 * S, None, "pods: away")]
    endpoints.finish(T0 + 90 * S)
    assert endpoints.gaps() == [Gap("metadata stale", T0, T0 + 90 * S, None, "nodes: forbidden")]


# Bounds and laws.


def test_what_ended_long_ago_is_forgotten() -> None:
    endpoints = cluster()
    for i in range(1000):
        one = pod(f"pod-{i}", start=i)
        endpoints.apply(Applied(one, T0 + i * S))
        endpoints.apply(Deleted(one, T0 + (i + 1) * S))
        endpoints.expire(T0 + (i - 10) * S)
    assert len(endpoints._owners._spans.of("10.244.0.9")) <= 12
    assert who(endpoints, "10.244.0.9", 995.5) == "pod pod-995"
    assert who(endpoints, "10.244.0.9", 500.5) == "unknown"


def test_dials_of_no_service_are_remembered_up_to_a_number() -> None:
    endpoints = cluster(node(), pod())
    for port in range(1, 60_000):
        dial(endpoints, f"10.244.{port % 7}.9", port)
    assert (
        sum(map(len, endpoints._unresolved._dials.values()))
        == endpoints._unresolved._count
        <= 20_000
    )


def test_external_addresses_are_remembered_up_to_a_number() -> None:
    endpoints = cluster(node())
    for i in range(17_000):
        endpoints.at(f"8.{i >> 16}.{i >> 8 & 255}.{i & 255}", T0)
    assert len(endpoints._provisional._of) == 16_384


def test_an_answer_holds_from_the_last_known_change_until_it_may_be_another() -> None:
    endpoints = cluster(node(), service(), pod())
    asked = [endpoints.at(each, T0 + 200 * S) for each in ("10.96.0.80", "8.8.8.8", "10.244.0.77")]
    assert [endpoints.good_until_ns(each) for each in asked] == [
        FOREVER_NS,
        FOREVER_NS,
        T0 + 201 * S,
    ]
    assert endpoints.settled_ns == T0
    assert endpoints.at("10.244.0.77", T0 + 259 * S) is asked[2]
    assert endpoints.good_until_ns(asked[2]) == T0 + 260 * S
    assert endpoints.at("10.244.0.77", T0 + 260 * S) is not asked[2]
    endpoints.apply(Deleted(service(), T0 + 300 * S))
    assert endpoints.settled_ns == T0 + 300 * S
    assert endpoints.at("10.96.0.80", T0 + 299 * S) is asked[0]
    assert endpoints.at("10.96.0.80", T0 + 300 * S) is not asked[0]


@pytest.mark.parametrize("kube", [True, False])
def test_what_turns_out_to_be_an_interface_of_this_node_is_completed(kube: bool) -> None:
    """A recorder that starts before the CNI: kubelet's probes come from its bridge."""
    endpoints = Endpoints("n1", ["172.18.0.2"], T0, kube=kube)
    asked = [endpoints.at(each, T0 + 5 * S) for each in ("10.244.0.1", "8.8.4.4", "10.244.0.2")]
    assert [each.kind for each in asked] == ["unknown", "external", "unknown"]
    endpoints.set_local_addresses(frozenset(("172.18.0.2", "10.244.0.1", "8.8.4.4")))
    now = [endpoints.at(each.address, T0 + 5 * S) for each in asked]
    assert [(each.kind, each.name) for each in now[:2]] == [("node", "n1")] * 2
    assert now[2] is asked[2]
    completed = [Completed(asked[0], now[0]), Completed(asked[1], now[1])]
    assert {each for each in endpoints.drain() if isinstance(each, Completed)} == {*completed}


def test_an_address_that_is_no_interface_any_more_is_not_this_node_later() -> None:
    endpoints = Endpoints("n1", ["172.18.0.2", "8.8.4.4", "127.0.0.1"], T0, kube=True)
    asked = [(each, at) for each in ("172.18.0.2", "8.8.4.4", "127.0.0.1") for at in (10, 20)]
    before = [endpoints.at(address, T0 + at * S) for address, at in asked]
    assert {each.kind for each in before} == {"node"}
    endpoints.set_local_addresses(frozenset(("172.18.0.2",)))
    assert [endpoints.at(address, T0 + at * S) for address, at in asked] == before
    later = [who(endpoints, each, 30) for each in ("172.18.0.2", "8.8.4.4", "127.0.0.1")]
    assert later == ["node n1", "external", "node n1"]
    assert endpoints.drain() == []


def test_a_pods_address_on_an_interface_of_this_node_is_the_pods() -> None:
    endpoints = Endpoints("n1", [], T0, kube=True)
    unknown = endpoints.at("10.244.0.9", T0 - 100 * S)
    listed(endpoints, [pod(), service()], 1)
    endpoints.drain()
    endpoints.set_local_addresses(frozenset(("10.244.0.9", "10.96.0.80")))
    assert endpoints.drain() == []
    assert endpoints.at("10.244.0.9", T0 - 100 * S) is unknown
    assert [who(endpoints, each, 2) for each in ("10.244.0.9", "10.96.0.80")] == [
        "pod web-1",
        "service web",
    ]


def test_a_nodes_zone_is_what_its_label_says_now() -> None:
    label = "topology.kubernetes.io/zone"
    endpoints = cluster(node(labels={label: "z1"}), node("n2", "172.18.0.3"))
    assert [endpoints.zone_of(each) for each in ("n1", "n2", "n3", None)] == ["z1", *[None] * 3]
    endpoints.apply(Applied(node(labels={label: "z2"}), T0 + 5 * S))
    assert endpoints.zone_of("n1") == "z2"
    endpoints.apply(Deleted(node(labels={label: "z2"}), T0 + 6 * S))
    assert endpoints.zone_of("n1") is None


lives = st.lists(
    st.tuples(
        st.sampled_from(["10.244.0.1", "10.244.0.2"]),
        st.integers(1, 5),  # seconds until the next pod starts
        st.integers(1, 20),  # seconds it lives
        st.integers(0, 3),  # seconds until the API tells its address
    ),
    min_size=1,
    max_size=12,
)


@given(lives, st.lists(st.tuples(st.integers(0, 11), st.integers(0, 20)), max_size=30))
def test_every_connection_of_a_pod_is_its_own_once_all_is_known(
    lives: list[tuple[str, int, int, int]], asked: list[tuple[int, int]]
) -> None:
    """
    Pods with addresses that are used again, told in the order of things, late or not.

    No two live at once at one address; a connection that one of them made is its own by the end,
    whether it was asked about before or after its address was told.
    """
    endpoints = cluster(node(addresses=("172.18.0.2",)))
    steps: list[tuple[int, int, Change | tuple[str, str]]] = []
    free = {"10.244.0.1": 0, "10.244.0.2": 0}
    start = 0
    spans: list[tuple[str, int, int]] = []
    for i, (address, pause, lasts, late) in enumerate(lives):
        start = max(start + pause, free[address])
        end = start + lasts
        free[address] = end + 1
        spans.append((address, start, end))
        name = f"pod-{i}"
        begun = pod(name, "", start, phase="Pending")
        steps.append((start, 0, Applied(begun, T0 + start * S)))
        told = min(start + late, end)
        steps.append((told, 2, Applied(pod(name, address, start), T0 + told * S)))
        steps.append((end, 3, Deleted(pod(name, address, start), T0 + end * S)))
    answers: list[tuple[Endpoint, str]] = []
    for which, after in asked:
        address, start, end = spans[which % len(spans)]
        when = min(start + after, end - 1)
        steps.append((when, 1, (address, f"pod-{which % len(spans)}")))
    for when, _, step in sorted(steps, key=lambda step: step[:2]):
        if isinstance(step, Applied | Deleted):
            endpoints.apply(step)
        else:
            address, name = step  # type: ignore[misc]
            answers.append((endpoints.at(address, T0 + when * S), name))
    known = {each.unknown: each.known for each in endpoints.drain() if isinstance(each, Completed)}
    assert [known.get(endpoint, endpoint).name for endpoint, _ in answers] == [
        name for _, name in answers
    ]
