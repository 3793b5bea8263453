"""Files of several nodes, merged: what is asked of them is the truth, or said not to be."""

import json
import shutil
import sqlite3
import stat
from collections import Counter
from collections.abc import Callable, Container, Iterable
from pathlib import Path

import pytest
from click.testing import Result
from edges import edge
from fleetworld import SINCE, Sums, Talk, World, row, truth

import ctk
from ctk.ask.recording import Recording
from ctk.conntrack.names import EVENT_NAMES
from ctk.errors import UsageError
from ctk.fleet.merge import Merged, merge
from ctk.model import Endpoint, EventCounts, FlowRow, Gap, GapKind
from ctk.model.history import Closed
from ctk.store import connect
from ctk.store.write import Writer
from ctk.timespan import DAY, HOUR, MINUTE, SECOND

Invoke = Callable[..., Result]
SPAN = 40 * MINUTE
LEVELS = ("flow", "flow_1m", "flow_1h", "flow_1d")


def asked(recording: Recording) -> dict[tuple[str, str, str | None], Sums]:
    """Ask who talked to whom, by which service; a node's own interface says nothing."""
    top = recording.top(by=["source", "backend", "service"], limit=None)
    return {
        row.keys: sums
        for row in top.rows
        if any(sums := (row.counts.connections, row.counts.bytes_out, row.counts.bytes_in))
    }


def of_levels(path: Path) -> list[tuple[int, ...]]:
    with connect.reader(path) as conn:
        return [
            conn.execute(
                "SELECT SUM(connections), SUM(bytes_out), SUM(bytes_in), SUM(packets_out)"
                f" FROM {table}"
            ).fetchone()
            for table in LEVELS
        ]


def total(talks: Iterable[Talk], times: Callable[[Talk], int] = lambda talk: 1) -> Sums:
    sums: Counter[int] = Counter()
    for talk in talks:
        for at, count in enumerate((talk.connections, talk.bytes_out, talk.bytes_in)):
            sums[at] += times(talk) * count
    return sums[0], sums[1], sums[2]


def whole(path: Path, **how: bool) -> Sums:
    with ctk.open(path, **how) as recording:
        counts = recording.top(by="proto").totals
    return counts.connections, counts.bytes_out or 0, counts.bytes_in or 0


def connections(found: Merged, why: str) -> int:
    return sum(aside.connections for aside in found.asides if aside.why == why)


@pytest.fixture(scope="module")
def world() -> World:
    return World(5)


@pytest.fixture(scope="module")
def talks(world: World) -> list[Talk]:
    return world.talks(700, SPAN)


@pytest.fixture(scope="module")
def files(world: World, talks: list[Talk], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return world.write(tmp_path_factory.mktemp("nodes"), talks, SPAN, range(5))


def test_merged_sums_are_the_truth_at_every_level(files, talks, tmp_path):
    out = tmp_path / "all.db"
    seen = []
    found = merge(files, out, progress=lambda done, of: seen.append((done, of)))
    with ctk.open(out) as recording:
        assert asked(recording) == truth(talks)
        assert {each.node for each in recording.flows()} == {f"n{i}" for i in range(5)}
    assert set(of_levels(out)) == {(*total(talks), of_levels(out)[0][3])}
    assert connections(found, "left out") == sum(
        talk.connections * (len(talk.sights) - 1) for talk in talks
    )
    assert connections(found, "unrecorded") == 0
    assert seen[-1][0] == seen[-1][1] > 700
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [out]


def test_a_node_left_out_is_missed_where_it_alone_saw_and_twice_where_it_rewrote(
    files, talks, tmp_path
):
    for left_out in (1, 3):
        recorded = [i for i in range(5) if i != left_out]
        found = merge([files[i] for i in recorded], tmp_path / f"{left_out}.db")
        expected = total(talks, lambda talk, of=recorded: times(talk, of))
        assert whole(tmp_path / f"{left_out}.db") == expected
        # What may count twice is said, and is no less than what does.
        twice = sum(talk.connections for talk in talks if times(talk, recorded) == 2)
        assert 0 < twice <= connections(found, "unrecorded") < total(talks)[0] / 4


def times(talk: Talk, recorded: Container[int]) -> int:
    """How often a talk counts: a rewriter that did not record parts it in two."""
    nodes = [sight.node for sight in talk.sights]
    if len(nodes) == 3 and nodes[1] not in recorded:
        return sum(node in recorded for node in nodes)
    return int(any(node in recorded for node in nodes))


def test_an_unnamed_tunnel_counts_twice_and_that_is_said(world, talks, tmp_path):
    files = world.write(tmp_path, talks, SPAN, range(5), names_tunnels=False)
    found = merge(files, tmp_path / "all.db")
    tunnelled = [talk for talk in talks if talk.sights[-1].edge.src.kind == "unknown"]
    expected = total(talks, lambda talk: 1 + (talk in tunnelled))
    assert (whole(tmp_path / "all.db"), found.completed) == (expected, 0)
    assert connections(found, "unrecorded") == total(tunnelled)[0]


def test_any_order_and_any_number_of_steps_give_the_same(files, talks, tmp_path):
    out = tmp_path / "all.db"
    for start, aside in ((0, False), (2, True)):
        out.unlink(missing_ok=True)
        merge([files[start]], out, aside=aside)
        for file in [*files[start + 1 :], *files[:start]]:
            merge([out, file], out, aside=aside)
        merge([out, files[1], files[1]], out, aside=aside)
        with ctk.open(out) as recording:
            assert asked(recording) == truth(talks)
            merged = recording.describe().merged
        assert len(set(of_levels(out))) == 1
    assert merged[0].endswith("connections that another node counts are left out")


def test_all_observers_are_there_where_they_were_kept(invoke: Invoke, files, talks, tmp_path):
    out = tmp_path / "all.db"
    merge(files, out, aside=True)
    everything = total(talks, lambda talk: len(talk.sights))
    assert (whole(out), whole(out, all_observers=True)) == (total(talks), everything)
    with ctk.open(out, all_observers=True) as recording:
        flows = list(recording.flows())
        assert sum(flow.connections for flow in flows) == everything[0]
        assert [flow.started_ns for flow in flows] == sorted(flow.started_ns for flow in flows)
        assert [flow.started_ns for flow in recording.flows(last=9)] == [
            flow.started_ns for flow in flows[-9:]
        ]
        assert list(recording.sql("SELECT SUM(bytes_out) FROM flows_1h")) == [everything[1:2]]
    for words, column in (
        (["top", out, "--by", "proto"], "connections"),
        (["series", out, "--step", "1d"], "connections"),
        (["query", out, "SELECT SUM(connections) AS connections FROM flows"], "connections"),
    ):
        sums = [
            json.loads(invoke(*words, *flag, "-o", "jsonl").stdout)[column]
            for flag in ([], ["--all-observers"])
        ]
        assert sums == [total(talks)[0], everything[0]], words
    exported = invoke("export", out, "--format", "jsonl", "--all-observers").stdout
    assert len(exported.splitlines()) == len(flows)
    merge(files[:2], tmp_path / "two.db")
    with pytest.raises(UsageError, match="only what counts was kept"):
        ctk.open(tmp_path / "two.db", all_observers=True)
    # A node's own file has nothing besides.
    assert whole(files[0], all_observers=True) == whole(files[0])


def test_the_newer_snapshot_of_a_recording_is_taken_whichever_comes_first(world, tmp_path):
    talks = world.talks(300, SPAN, kinds=["pod_to_pod", "to_service", "node_port", "gateway"])
    rows = {node: [] for node in range(5)}
    for talk in talks:
        for sight in talk.sights:
            rows[sight.node].append(row(talk, sight.edge, 0))
    early = [each for each in rows[0] if each.started_ns < SINCE + SPAN // 2]
    older, newer = tmp_path / "older.db", tmp_path / "n0.db"
    world.write_node(older, 0, early, SPAN // 2)
    for node in range(5):
        world.write_node(tmp_path / f"n{node}.db", node, rows[node], SPAN)
    others = [tmp_path / f"n{node}.db" for node in range(1, 5)]
    half, out = tmp_path / "half.db", tmp_path / "all.db"
    merge([*others, older], half)
    for files in ([newer, older, *others], [half, newer]):
        merge(files, out)
        with ctk.open(out) as recording:
            assert asked(recording) == truth(talks)
            assert len(recording.describe().recordings) == 5
        out.unlink()


def two_runs(world: World, path: Path, gap: tuple[int, int], how: GapKind) -> None:
    """Write a node's file that has nothing of a while."""
    end_ns = SINCE + SPAN
    spans = [(SINCE, gap[0]), (gap[1], end_ns)] if how == "recorder down" else [(SINCE, end_ns)]
    client, server = world.pods[0][0], world.pods[1][0]
    seen = next(world.direct(client, server))
    for started_ns, ended_ns in spans:
        with connect.writer(path) as conn:
            writer = Writer(
                conn, node="n0", source="k", settings={}, started_ns=started_ns, boot_id="b"
            )
            rows = [
                row(Talk(at_ns, 0, 1, 100, 100, "", "", None, ()), seen.edge, 0)
                for at_ns in range(started_ns + SECOND, ended_ns, MINUTE)
                if not gap[0] <= at_ns < gap[1]
            ]
            rows = [each._replace(edge_id=writer.edge_id(each.edge_id)) for each in rows]
            gaps = [] if how == "recorder down" else [Gap(how, *gap, 12)]
            writer.window(rows, gaps=gaps, committed_ns=ended_ns, counters=EventCounts(9))
            for _ in writer.fold_open():
                pass
            writer.finish(ended_ns)


@pytest.mark.parametrize("how", ["disk full", "recorder down", "events lost"])
def test_the_other_side_speaks_while_the_opener_wrote_nothing(world, tmp_path, how):
    """Where it lost events it goes on to speak, lest what it did see is counted twice."""
    gap = SINCE + 10 * MINUTE, SINCE + 20 * MINUTE
    two_runs(world, tmp_path / "n0.db", gap, how)
    client, server = world.pods[0][0], world.pods[1][0]
    seen = next(world.direct(client, server))
    talks = [
        Talk(at_ns, 0, 1, 100, 100, "", "", None, ())
        for at_ns in range(SINCE + SECOND, SINCE + SPAN, MINUTE)
    ]
    world.write_node(tmp_path / "n1.db", 1, [row(talk, seen.edge, 0) for talk in talks], SPAN)
    with connect.writer(tmp_path / "n1.db") as conn:
        conn.execute("UPDATE recording SET cluster_uid = NULL")
    merge([tmp_path / "n0.db", tmp_path / "n1.db"], tmp_path / "all.db")
    lost = 10 if how == "events lost" else 0
    assert whole(tmp_path / "all.db")[0] == total(talks)[0] - lost
    with ctk.open(tmp_path / "all.db") as recording:
        by_node = {row.keys[0]: row.counts.connections for row in recording.top(by="node").rows}
        said = recording.describe().merged
    assert by_node == {"n0": 30} | ({} if lost else {"n1": 10})
    short = "events were lost on n0: what was opened there in those gaps is counted too little"
    assert (short in said) == bool(lost)


def test_a_level_is_there_from_where_all_files_have_it(world, tmp_path):
    talks = world.talks(200, 30 * HOUR, kinds=["pod_to_pod", "to_service"])
    kept = world.write(tmp_path, talks, 30 * HOUR, range(3))
    (tmp_path / "pruned").mkdir()
    retain = {"flow": 2 * HOUR, "1m": 8 * HOUR}
    pruned = world.write(tmp_path / "pruned", talks, 30 * HOUR, [3, 4], retain=retain)
    out = tmp_path / "all.db"
    merge([*kept, *pruned], out)
    assert whole(out) == total(talks)
    with connect.reader(out) as conn:
        firsts = [conn.execute(f"SELECT MIN(started_ns) FROM {t}").fetchone()[0] for t in LEVELS]
    assert firsts[0] > firsts[1] > firsts[2] >= firsts[3]
    with ctk.open(out) as recording:
        for since in ("1h", "5h", "20h"):
            top = recording.top(by="proto", since=since, until="30m")
            assert top.totals.connections > 0
    # Less of it: older flows are left out, and tables that are not wanted.
    merge([out], tmp_path / "less.db", levels=("1h", "1d"), since_ns=SINCE + 24 * HOUR)
    with connect.reader(tmp_path / "less.db") as conn:
        rows = [conn.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0] for table in LEVELS]
        edges = conn.execute("SELECT COUNT(*) FROM edge").fetchone()[0]
    assert rows[:2] == [0, 0]
    assert edges == rows[3]
    midnight = (SINCE // DAY + 1) * DAY
    assert whole(tmp_path / "less.db") == total(talk for talk in talks if talk.at_ns >= midnight)


def test_a_fleet_is_asked_by_zones_by_outside_and_by_backends(files, talks, tmp_path):
    out = tmp_path / "all.db"
    merge(files, out)

    def zone(endpoint: Endpoint) -> str | None:
        return f"zone-{int(endpoint.node[1:]) % 3}" if endpoint.node else None

    zones: Counter[tuple[str | None, str | None]] = Counter()
    outside: Counter[str | None] = Counter()
    for talk in talks:
        first = talk.sights[0].edge
        zones[zone(first.src), zone(first.backend)] += talk.bytes_out + talk.bytes_in
        if first.backend.kind == "external":
            outside[first.src.workload] += talk.bytes_out
    with ctk.open(out) as recording:
        by_zone = recording.top(by="src_node_zone,dst_node_zone")
        assert {row.keys: row.counts.bytes for row in by_zone.rows if row.counts.bytes} == zones
        crossing = recording.top(by="src_node_zone,dst_node_zone", cross_zone=True)
        assert {row.keys: row.counts.bytes for row in crossing.rows} == {
            pair: moved for pair, moved in zones.items() if None not in pair and len({*pair}) == 2
        }
        out_of_it = recording.top(by="src_workload", to_kind="external")
        assert {row.keys[0]: row.counts.bytes_out for row in out_of_it.rows} == outside
        shares = {
            (service.service, backend.backend): backend.counts.connections
            for service in recording.balance().services
            for backend in service.backends
        }
    answered: Counter[tuple[str, str]] = Counter()
    for talk in talks:
        if talk.service is not None:
            answered[talk.service, talk.server] += talk.connections
    assert shares == answered


def test_files_that_are_folded_unlike_have_equal_sums_at_every_level(world, tmp_path):
    """As snapshots of recorders that go on are; and one began later than the others."""
    span_ns = 5 * HOUR
    talks = world.talks(300, span_ns, kinds=["pod_to_pod", "to_service", "node_port"])
    rows = {node: [] for node in range(5)}
    for talk in talks:
        for sight in talk.sights:
            rows[sight.node].append(row(talk, sight.edge, 0))
    folded = [None, SINCE + 2 * HOUR, SINCE + 3 * HOUR + 7 * MINUTE, SINCE + SECOND, None]
    for node, folded_ns in enumerate(folded):
        begins_ns = SINCE + (node == 4) * 95 * MINUTE
        own = [each for each in rows[node] if each.started_ns >= begins_ns]
        path = tmp_path / f"n{node}.db"
        world.write_node(path, node, own, span_ns, since_ns=begins_ns, folded_ns=folded_ns)
    out = tmp_path / "all.db"
    merge([tmp_path / f"n{node}.db" for node in range(5)], out, aside=True)
    # What n4 alone would have seen before it began is missed, and the other side counts the rest.
    seen = [
        talk
        for talk in talks
        if {sight.node for sight in talk.sights} != {4} or talk.at_ns >= SINCE + 95 * MINUTE
    ]
    assert set(of_levels(out)) == {(*total(seen), of_levels(out)[0][3])}
    with connect.reader(out) as conn:
        asides = {
            conn.execute(f"SELECT SUM(bytes_in) FROM {table}_aside").fetchone() for table in LEVELS
        }
    assert len(asides) == 1


def test_nodes_of_other_clusters_defer_to_nobody_and_name_nothing(tmp_path):
    one, other = World(2), World(2, uid="other")
    found = one.talks(60, SPAN, kinds=["pod_to_pod", "tunnel"])
    for world, folder in ((one, "one"), (other, "other")):
        (tmp_path / folder).mkdir()
        world.write(tmp_path / folder, found, SPAN, range(2), skew_s=0)
    halves = [tmp_path / "one" / "n0.db", tmp_path / "other" / "n1.db"]
    merged = merge(halves, tmp_path / "all.db")
    assert whole(tmp_path / "all.db") == total(found, lambda talk: len(talk.sights))
    assert (merged.completed, merged.nodes) == (0, 2)
    # Nodes of one name in two clusters stay apart.
    merge([*halves, *sorted((tmp_path / "other").glob("n0.db"))], tmp_path / "three.db")
    with connect.reader(tmp_path / "three.db") as conn:
        named = conn.execute("SELECT node, cluster FROM recorder ORDER BY id").fetchall()
    assert named == [("n0", None), ("n1", None), ("n0", "other")]


def test_a_file_that_was_gone_on_with_in_another_cluster_is_said_to_be(tmp_path):
    db = tmp_path / "n0.db"
    for uid, since_ns in (("one", SINCE), ("other", SINCE + HOUR)):
        world = World(2, uid=uid)
        rows = [row(talk, talk.sights[0].edge, 0) for talk in world.talks(9, HOUR, ["out"])]
        world.write_node(db, 0, rows, since_ns - SINCE + HOUR, since_ns=since_ns + MINUTE)
    said = "n0 was recorded in several clusters: all counts as of the last"
    assert said in merge([db], tmp_path / "all.db").notes


def test_a_file_that_is_being_written_is_merged_as_of_now(files, talks, tmp_path):
    live = tmp_path / "n0.db"
    shutil.copy(files[0], live)
    with connect.writer(live):  # holds its lock, as a recorder does
        merge([live, *files[1:]], tmp_path / "all.db")
        assert sorted(path.name for path in tmp_path.iterdir() if path.suffix == ".db") == [
            "all.db",
            "n0.db",
        ]
    assert whole(tmp_path / "all.db") == total(talks)


def test_two_recorders_of_one_node_at_once_are_refused(world, tmp_path):
    for name, since_ns in (("a.db", SINCE), ("b.db", SINCE + MINUTE)):
        world.write_node(tmp_path / name, 0, [], SPAN, since_ns=since_ns)
    with pytest.raises(UsageError, match="are of n0 at the same time"):
        merge([tmp_path / "a.db", tmp_path / "b.db"], tmp_path / "all.db")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.db", "b.db"]


def test_a_broken_input_leaves_nothing(files, tmp_path):
    broken = tmp_path / "broken.db"
    shutil.copy(files[0], broken)
    with sqlite3.connect(broken) as conn:
        conn.execute("DROP TABLE flow_1h")
    with pytest.raises(Exception, match="flow_1h"):
        merge([broken, files[1]], tmp_path / "all.db")
    assert list(tmp_path.iterdir()) == [broken]


def test_the_command_says_what_was_left_out(invoke: Invoke, files, talks, tmp_path):
    out = tmp_path / "all.db"
    result = invoke("merge", *files, "-o", out, "--since", "1d")
    twice = sum(talk.connections * (len(talk.sights) - 1) for talk in talks)
    assert (result.exit_code, result.stdout) == (0, "")
    said = result.stderr.splitlines()
    assert said[:2] == [
        f"{out}: 5 recordings of 5 nodes",
        f"{twice:,} connections that another node counts are left out",
    ]
    assert said[2].endswith("unknown addresses are named by another node's file")
    info = invoke("info", out).stdout
    assert f"merged      {twice:,} connections that another node counts are left out\n" in info
    again = invoke("merge", files[0], "-o", files[1])
    assert (again.exit_code, again.stderr) == (
        2,
        f"Error: {files[1]} is there already\nTry: name another file\n",
    )
    kept = invoke("merge", *files[:2], "-o", files[1])  # what a recorder wrote is not written over
    assert kept.stderr == again.stderr
    wrong = invoke("merge", files[0], "-o", tmp_path / "x.db", "--levels", "2m")
    assert wrong.stderr == "Error: '2m' is not a level\nTry: some of flows,1m,1h,1d\n"
    link, before = tmp_path / "link.db", out.stat().st_ino
    link.symlink_to(out)
    assert invoke("merge", link, files[0], "-o", link).exit_code == 0
    assert (link.readlink(), out.stat().st_ino == before) == (out, False)
    recorded = invoke("record", out, "--no-kube")
    assert recorded.stderr.endswith("Try: record to another file\n")


def test_what_an_older_ctk_did_not_say_of_its_filters_is_not_taken_for_filters(
    tmp_path: Path,
) -> None:
    world = World(2)
    talks = world.talks(40, SPAN, kinds=["pod_to_pod"])
    files = world.write(tmp_path, talks, SPAN, range(2))
    known = {"events": EVENT_NAMES, "cidr": [], "exclude_cidr": [], "protocol": [], "port": []}

    def merged(name: str, *settings: dict[str, object]) -> tuple[Sums, tuple[str, ...]]:
        for path, each in zip(files, settings, strict=True):
            with connect.writer(path) as conn:
                conn.execute("UPDATE recording SET settings = ?", (json.dumps(each),))
        notes = merge(files, tmp_path / name).notes
        return whole(tmp_path / name), tuple(note for note in notes if "filter" in note)

    sums = total(talks)
    assert merged("older.db", {}, {}) == (sums, ())
    assert merged("newer.db", known, known) == (sums, ())
    said = "by which filters n0 recorded is not known: it counts as by those of the others"
    assert merged("both.db", {}, known) == (sums, (said,))
    narrowed = known | {"port": [80]}
    said = "n0 recorded by filters of its own: no other node defers to it then"
    assert merged("narrowed.db", narrowed, known) == (sums, (said,))


@pytest.mark.parametrize(("began_s", "name"), [(21, None), (22, "old")])
def test_a_second_in_which_an_address_passed_on_is_nobodys(tmp_path, began_s, name):
    """One file has only who had it before, up to an end that is inferred, another only the next."""
    at_ns = 1_732_560_440 * SECOND
    old, new, nobody = (
        Endpoint(address="10.244.0.9", kind=kind, valid_from_ns=at_ns + from_ns, name=pod, uid=pod)
        for kind, from_ns, pod in (
            ("pod", 0, "old"),
            ("pod", began_s * SECOND, "new"),
            ("unknown", 20 * SECOND + 3, None),
        )
    )
    far = Endpoint(address="8.8.8.8", kind="external", valid_from_ns=at_ns)
    ends = {old: 50 * SECOND, nobody: 21 * SECOND - 1}
    for node, each in enumerate((old, new, nobody)):
        with connect.writer(tmp_path / f"n{node}.db") as conn:
            how = {"node": f"n{node}", "source": "kernel", "settings": {}, "boot_id": "b"}
            writer = Writer(conn, started_ns=at_ns, **how)
            dialled = edge("tcp", 0, far, each, 80, None, each, None, None, None)
            begun_ns = each.valid_from_ns
            row = FlowRow(
                writer.edge_id(dialled), begun_ns, begun_ns, None, 1, *(0,) * 5, *(None,) * 4
            )
            closed = [Closed(each, at_ns + ends[each], inferred=True)] if each in ends else []
            writer.window(
                [row], changes=closed, committed_ns=at_ns + 60 * SECOND, counters=EventCounts()
            )
    merge(sorted(tmp_path.glob("n*.db")), tmp_path / "all.db")
    with connect.reader(tmp_path / "all.db") as conn:
        [(named,)] = conn.execute(
            "SELECT name FROM endpoint WHERE address = ? AND valid_from_ns = ?",
            (nobody.address, nobody.valid_from_ns),
        )
    assert named == name
