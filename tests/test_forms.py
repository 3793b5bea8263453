"""The forms for other systems: ECS, OpenTelemetry, Parquet, and the hash they share."""

import json
import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from fleetworld import SINCE, World, row
from test_eventlog import PROBE

import ctk
from ctk.fleet.merge import merge
from ctk.render.community import community_id
from ctk.render.ecs import ecs_line
from ctk.render.otel import DRAFT, OtelLines
from ctk.store import connect
from ctk.timespan import DAY, HOUR, SECOND, parse_time

Invoke = Callable[..., Result]


# What the Community ID's own implementation gives (communityid 1.5.0); the first three are in its
# specification.
@pytest.mark.parametrize(
    ("proto", "src", "src_port", "dst", "dst_port", "expected"),
    [
        ("tcp", "128.232.110.120", 34855, "66.35.250.204", 80, "1:LQU9qZlK+B5F3KDmev6m5PMibrg="),
        ("tcp", "66.35.250.204", 80, "128.232.110.120", 34855, "1:LQU9qZlK+B5F3KDmev6m5PMibrg="),
        ("udp", "192.168.1.52", 54585, "8.8.8.8", 53, "1:d/FP5EW3wiY1vCndhwleRRKHowQ="),
        ("sctp", "192.168.170.8", 7, "192.168.170.56", 7, "1:MP2EtRCAUIZvTw6MxJHLV7N7JDs="),
        ("tcp", "10.0.0.1", 5000, "10.0.0.1", 80, "1:LD76GfTIBU2lu/ZefEgEGuuBPew="),
        (
            *("tcp", "fe80::200:86ff:fe05:80da", 1022, "fe80::260:97ff:fe07:69ea", 22),
            "1:gS2aYcRwGJWe7UratL8/84dclq4=",
        ),
        ("gre", "10.0.0.2", None, "10.0.0.1", None, "1:+KlEHDT0vJgzs/eNmzHq0aSpRYw="),
        ("47", "10.0.0.2", None, "10.0.0.1", None, "1:+KlEHDT0vJgzs/eNmzHq0aSpRYw="),
        # Where a flow does not say enough there is none: ports that were merged, ICMP's type,
        # addresses that were folded together.
        ("tcp", "10.0.0.1", None, "10.0.0.2", 80, None),
        ("icmp", "10.0.0.1", None, "10.0.0.2", None, None),
        ("tcp", "other", 1, "10.0.0.2", 80, None),
    ],
)
def test_a_community_id_is_what_other_tools_compute(
    proto: str,
    src: str,
    src_port: int | None,
    dst: str,
    dst_port: int | None,
    expected: str | None,
) -> None:
    record = PROBE._replace(
        proto=proto,
        src=src,
        src_port=src_port,
        dst=dst,
        dst_port=dst_port,
        ip_version=6 if ":" in src else 4,
    )
    assert community_id(record) == expected


SERVED = PROBE._replace(
    cluster="prod",
    src_kind="pod",
    src_namespace="shop",
    src_name="web-1",
    src_workload="web",
    src_workload_kind="Deployment",
    src_node="n1",
    src_node_zone="a",
    src_labels='{"app":"web","app.kubernetes.io/name":"web"}',
    dst="10.96.0.10",
    dst_port=53,
    nat_dst="10.244.0.3",
    nat_dst_port=8181,
    service="kube-system/kube-dns",
    service_via="address",
    destroy_events=1,
    bytes_out=120,
    packets_out=2,
    bytes_in=0,
    packets_in=0,
)


def test_an_ecs_event_has_the_fields_of_the_schema_and_the_rest_under_ctk() -> None:
    assert json.loads(ecs_line(SERVED)) == {
        "@timestamp": "2024-11-25T18:47:22.852716307Z",
        "ecs": {"version": "8.11.0"},
        "event": {
            "kind": "event",
            "category": ["network"],
            "type": ["connection", "start", "end"],
            "module": "ctk",
            "dataset": "ctk.flow",
            "start": "2024-11-25T18:47:22.852716307Z",
            "end": "2024-11-25T18:47:22.852816307Z",
            "duration": 100_000,
        },
        "source": {
            "address": "10.244.0.1",
            "ip": "10.244.0.1",
            "port": 53388,
            "bytes": 120,
            "packets": 2,
        },
        "destination": {
            "address": "10.96.0.10",
            "ip": "10.96.0.10",
            "port": 53,
            "bytes": 0,
            "packets": 0,
            "nat": {"ip": "10.244.0.3", "port": 8181},
        },
        "network": {
            "transport": "tcp",
            "iana_number": "6",
            "type": "ipv4",
            "bytes": 120,
            "packets": 2,
            "community_id": community_id(SERVED),
        },
        "related": {"ip": ["10.244.0.1", "10.244.0.3", "10.96.0.10"]},
        "observer": {"hostname": "n1", "product": "ctk", "type": "sensor"},
        "orchestrator": {"type": "kubernetes", "cluster": {"name": "prod"}},
        "ctk": {
            "source": {
                "kind": "pod",
                "namespace": "shop",
                "name": "web-1",
                "workload": "web",
                "workload_kind": "Deployment",
                "node": "n1",
                "node_zone": "a",
                "labels": {"app": "web", "app_kubernetes_io/name": "web"},
            },
            "destination": {
                "kind": "pod",
                "namespace": "kube-system",
                "name": "coredns-7c65d6cfc9-sq2br",
                "workload": "coredns",
                "workload_kind": "Deployment",
                "node": "n1",
                "labels": {"k8s-app": "kube-dns", "pod-template-hash": "7c65d6cfc9"},
            },
            "service": "kube-system/kube-dns",
            "service_via": "address",
            "zone": 0,
            "connections": 1,
            "new_events": 1,
            "update_events": 1,
            "destroy_events": 1,
            "unreplied": 0,
            "refused": 0,
        },
    }


def test_an_ecs_event_leaves_out_what_is_not_known() -> None:
    folded = PROBE._replace(src_port=None, ip_version=None, proto="ipv9", dst="other")
    event = json.loads(ecs_line(folded))
    assert event["source"] == {"address": "10.244.0.1", "ip": "10.244.0.1"}
    assert event["network"] == {"transport": "ipv9"}
    assert "cluster" not in event["orchestrator"]
    icmp = json.loads(ecs_line(PROBE._replace(proto="icmpv6", src="::1", dst="::2", ip_version=6)))
    assert icmp["network"] == {"transport": "ipv6-icmp", "iana_number": "58", "type": "ipv6"}


def test_otel_log_records_have_the_names_of_the_draft_and_say_so() -> None:
    def plain(attributes: list[dict[str, Any]]) -> dict[str, Any]:
        return {each["key"]: next(iter(each["value"].values())) for each in attributes}

    [of_resource] = json.loads(OtelLines()(SERVED))["resourceLogs"]
    assert plain(of_resource["resource"]["attributes"]) == {
        "service.name": "ctk",
        "k8s.node.name": "n1",
        "k8s.cluster.name": "prod",
    }
    [scoped] = of_resource["scopeLogs"]
    assert (scoped["scope"]["name"], scoped["scope"]["version"]) == ("ctk", ctk.__version__)
    assert plain(scoped["scope"]["attributes"]) == {"ctk.draft": DRAFT}
    [logged] = scoped["logRecords"]
    attributes = plain(logged.pop("attributes"))
    # 64 bits are text in OTLP's JSON: a number would be rounded.
    assert logged == {
        "timeUnixNano": "1732560442852716307",
        "observedTimeUnixNano": "1732560442852816307",
        "severityNumber": 9,
        "severityText": "INFO",
        "eventName": "network.flow",
    }
    assert {key: attributes[key] for key in attributes if not key.startswith("ctk.")} == {
        "source.address": "10.244.0.1",
        "source.port": "53388",
        "destination.address": "10.96.0.10",
        "destination.port": "53",
        "network.transport": "tcp",
        "network.type": "ipv4",
        "flow.community_id": community_id(SERVED),
        "flow.bytes.delta": "120",
        "flow.packets.delta": "2",
        "flow.reverse.bytes.delta": "0",
        "flow.reverse.packets.delta": "0",
        "source.k8s.node.name": "n1",
        "source.k8s.namespace.name": "shop",
        "source.k8s.pod.name": "web-1",
        "source.k8s.deployment.name": "web",
        "source.k8s.pod.label.app": "web",
        "source.k8s.pod.label.app.kubernetes.io/name": "web",
        "destination.k8s.node.name": "n1",
        "destination.k8s.namespace.name": "kube-system",
        "destination.k8s.pod.name": "coredns-7c65d6cfc9-sq2br",
        "destination.k8s.deployment.name": "coredns",
        "destination.k8s.pod.label.k8s-app": "kube-dns",
        "destination.k8s.pod.label.pod-template-hash": "7c65d6cfc9",
        "destination.k8s.service.name": "kube-dns",
    }
    assert attributes["ctk.nat_dst"] == "10.244.0.3"
    assert attributes["ctk.connections"] == "1"


@pytest.mark.parametrize("time", ["ns", "us", "rfc3339"])
def test_a_parquet_file_has_the_flows_with_types(
    invoke: Invoke, shop: Path, tmp_path: Path, time: str
) -> None:
    from pyarrow import parquet

    out = tmp_path / "flows.parquet"
    assert invoke("export", shop, "-o", "parquet", "--time", time, "--output", out).exit_code == 0
    table = parquet.read_table(BytesIO(out.read_bytes()))
    lines = invoke("export", shop, "--time", time).stdout.splitlines()
    expected = [json.loads(line) for line in lines]
    assert table.column_names == list(expected[0])
    for name in ("started_at", "ended_at"):
        column = table[name].cast("int64").to_pylist()
        assert column == [parse_time(flow.pop(name), 0) for flow in expected]
    for flow in expected:
        for key in ("src_labels", "dst_labels"):
            flow[key] = None if flow[key] is None else json.dumps(flow[key], separators=(",", ":"))
    assert table.drop_columns(["started_at", "ended_at"]).to_pylist() == expected
    kinds = {field.name: str(field.type) for field in table.schema}
    assert (kinds["started_at"], kinds["bytes_in"], kinds["src"]) == (
        "timestamp[ns, tz=UTC]",
        "int64",
        "string",
    )


@pytest.mark.parametrize("name", ["flows.parquet", "flows/"])
def test_without_the_extra_one_line_says_what_to_install_and_nothing_is_made(
    invoke: Invoke, shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    out = tmp_path / "out"
    out.mkdir()
    refused = invoke("export", shop, "-o", "parquet", "--output", f"{out}/{name}")
    assert (refused.exit_code, refused.stderr) == (
        2,
        "Error: pyarrow is not installed here\nTry: pip install 'ctk[parquet]', or --format csv\n",
    )
    assert list(out.iterdir()) == []


def test_a_folder_of_parquet_has_a_file_a_day_and_node_which_is_written_once(
    invoke: Invoke, tmp_path: Path
) -> None:
    from pyarrow import parquet

    world = World(3)
    talks = world.talks(200, 30 * HOUR, kinds=["pod_to_pod", "to_service"])
    kept = {"flow": 90 * HOUR}
    files = world.write(tmp_path, talks, 30 * HOUR, range(3), skew_s=0, retain=kept)
    merge(files, tmp_path / "all.db")
    out = tmp_path / "flows"
    first = invoke("export", tmp_path / "all.db", "-o", "parquet", "--output", f"{out}/")
    names = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())
    assert first.exit_code == 0, first.stderr
    assert names == [
        *(f"day=2024-11-25/recorder=n{i}/flows.parquet" for i in range(3)),
        *(f"day=2024-11-26/recorder=n{i}/flows-so-far.parquet" for i in range(3)),
    ]
    table = parquet.read_table(out)  # with the parts of the path as columns
    assert sum(table["connections"].to_pylist()) == sum(talk.connections for talk in talks)
    assert set(map(str, table["day"].to_pylist())) == {"2024-11-25", "2024-11-26"}
    assert set(table["node"].to_pylist()) == {"n0", "n1", "n2"}
    # What is over is not touched again, and what is not is written anew.
    before = {name: (out / name).stat().st_mtime_ns for name in names}
    again = invoke("export", tmp_path / "all.db", "-o", "parquet", "--output", out)
    assert [line.split(":")[0] for line in again.stderr.splitlines()] == [
        str(out / name) for name in names[3:]
    ]
    after = {name: (out / name).stat().st_mtime_ns for name in names}
    assert [name for name in names if before[name] != after[name]] == names[3:]
    refused = invoke("export", files[0], "-o", "parquet", "--output", out, "--failed")
    assert refused.stderr.endswith("Try: leave all filters out but --since and --until\n")


def test_a_day_keeps_the_flows_that_were_pruned_since_it_was_written(
    invoke: Invoke, tmp_path: Path
) -> None:
    from pyarrow import parquet

    world, db, out = World(1), tmp_path / "n0.db", tmp_path / "flows"
    talks = world.talks(200, 26 * HOUR, kinds=["out"])
    rows = [row(talk, seen, 0) for talk in talks for _, seen in talk.sights]
    early = [each for each in rows if each.started_ns < SINCE + 10 * HOUR]
    world.write_node(db, 0, early, 10 * HOUR, retain={"flow": DAY})
    assert invoke("export", db, "-o", "parquet", "--output", f"{out}/").exit_code == 0
    going_on = SINCE + 10 * HOUR + 30 * SECOND
    world.write_node(db, 0, rows[len(early) :], 26 * HOUR, since_ns=going_on, retain={"flow": DAY})
    for _ in range(2):
        assert invoke("export", db, "-o", "parquet", "--output", f"{out}/").exit_code == 0
    assert [path.name for path in sorted(out.rglob("*.parquet"))] == [
        "flows.parquet",
        "flows-so-far.parquet",
    ]
    found = parquet.read_table(out)["started_ns"].to_pylist()
    assert sorted(found) == sorted(each.started_ns for each in rows)
    refused = invoke("export", db, "-o", "parquet", "--time", "us", "--output", f"{out}/")
    assert refused.stderr.endswith("has other columns\nTry: --time as before, or another folder\n")


@pytest.mark.parametrize("ended", [True, False])
def test_a_day_is_over_for_a_node_that_was_recorded_past_it_and_whose_names_have_settled(
    invoke: Invoke, tmp_path: Path, ended: bool
) -> None:
    world, out = World(2), tmp_path / "flows"
    midnight = 15 * HOUR
    talks = world.talks(100, midnight, kinds=["out"])
    for node, span_ns in enumerate((midnight, HOUR)):
        rows = [
            row(talk, seen, 0)
            for talk in talks
            for at, seen in talk.sights
            if at == node and talk.at_ns < SINCE + span_ns
        ]
        world.write_node(tmp_path / f"n{node}.db", node, rows, span_ns)
    if not ended:
        with connect.writer(tmp_path / "n0.db") as conn:
            conn.execute("UPDATE recording SET ended_ns = NULL")
    merge([tmp_path / "n0.db", tmp_path / "n1.db"], tmp_path / "all.db")
    done = invoke("export", tmp_path / "all.db", "-o", "parquet", "--output", f"{out}/")
    assert done.exit_code == 0, done.stderr
    assert sorted(f"{path.parent.name}/{path.name}" for path in out.rglob("*.parquet")) == [
        f"recorder=n0/{'flows' if ended else 'flows-so-far'}.parquet",
        "recorder=n1/flows-so-far.parquet",
    ]
