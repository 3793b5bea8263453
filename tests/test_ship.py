"""Shipping files to ClickHouse (ctk/fleet/clickhouse), in chDB."""

import random
import shutil
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from edges import with_ids
from fleetworld import SINCE, World, row

from ctk.errors import StoreError, UsageError
from ctk.fleet.clickhouse import ddl, tables
from ctk.fleet.clickhouse.client import Answer, AwayError, Client, opened
from ctk.fleet.clickhouse.cut import START
from ctk.fleet.clickhouse.ship import Shipper, ShipReport, recording_of, shipper_of
from ctk.fleet.clickhouse.state import Batch, State
from ctk.fleet.clickhouse.target import parse_target
from ctk.fleet.clickhouse.verify import verify
from ctk.fleet.merge import merge
from ctk.model import EventCounts, FlowRow
from ctk.store import connect
from ctk.store.columns import COUNT_KEYS, flow_sql
from ctk.store.lock import locked
from ctk.store.write import Writer
from ctk.timespan import HOUR, MINUTE, SECOND

FOR_EVER = dict.fromkeys(("1m", "1h", "1d"))
SPAN = 3 * HOUR
_SUMS = ", ".join(f"sum({key})" for key in COUNT_KEYS)
_KEYS = ", ".join(tables.IDENTITY)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """Tables in the one folder that this process may have open; each file is another recording."""
    target = parse_target(f"chdb://{tmp_path_factory.mktemp('chdb') / 'ch'}", {})
    with opened(target, database=False) as made:
        ddl.make(made, FOR_EVER)
    with opened(target) as client:
        yield client


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of three nodes."""
    folder = tmp_path_factory.mktemp("world")
    made = World(3, seed=7)
    made.write(folder, made.talks(240, SPAN), SPAN, range(3))
    return folder


@pytest.fixture
def files(world: Path, tmp_path: Path) -> list[Path]:
    """Copies that are of no other test."""
    copies = [Path(shutil.copy(world / f"n{i}.db", tmp_path)) for i in range(3)]
    for db in copies:
        with sqlite3.connect(db) as conn:
            conn.execute("UPDATE recording SET boot_id = ?", (str(tmp_path),))
    return copies


def recording(db: Path) -> str:
    with connect.reader(db) as conn:
        return recording_of(conn) or ""


@contextmanager
def shipping(
    db: Path, client: Client, most: int = 40, folder: Path | None = None
) -> Iterator[Shipper]:
    with shipper_of(db, client.target.said, folder, most) as shipper:
        yield shipper


def ship(db: Path, client: Client, most: int = 40) -> ShipReport:
    with shipping(db, client, most) as shipper:
        return shipper.ship(client)


@contextmanager
def questions(client: Client) -> Iterator[list[str]]:
    """Keep what is asked; each is a round trip to a server that may be far away."""
    asked: list[str] = []

    def query(sql: str, *bound: Mapping[str, object]) -> Answer:
        asked.append(sql)
        return Client.query(client, sql, *bound)

    client.query = query  # type: ignore[assignment, method-assign]
    yield asked
    del client.query


def in_file(db: Path) -> list[tuple[object, ...]]:
    """What the flows of a file sum up to, by minute and all that they are told apart by."""
    keys = ", ".join(f"{sql} AS {key}" for key, sql in flow_sql().items() if key in tables.IDENTITY)
    assert keys
    with sqlite3.connect(db) as conn:
        found = conn.execute(
            f"SELECT started_ns / {MINUTE} * 60, {_KEYS}, {_SUMS}, MIN(started_ns), MAX(ended_ns)"
            f" FROM flows GROUP BY started_ns / {MINUTE}, {_KEYS}"
        ).fetchall()
    return sorted(found, key=repr)


def there(client: Client, db: Path) -> list[tuple[object, ...]]:
    found = client.query(
        f"SELECT toUnixTimestamp(minute), {_KEYS}, {_SUMS}, min(first_seen_ns), max(last_seen_ns)"
        f" FROM flows_1m WHERE recording = {{recording:String}} GROUP BY minute, {_KEYS}",
        {"recording": recording(db)},
    )
    return sorted(map(tuple, found.rows), key=repr)


def is_right(client: Client, *files: Path) -> bool:
    """Whether each row of these files is there once, at every level, and `--verify` agrees."""
    for db in files:
        assert there(client, db) == in_file(db)
        with shipping(db, client) as shipper, questions(client) as asked:
            found = verify(shipper, client)
        assert len(asked) <= 8  # of however many batches and days
        assert (found.repaired, found.wrong) == (0, [])
        assert found.batches > 0
        minutes, *coarser = (
            client.query(
                f"SELECT {_SUMS} FROM {level.table} WHERE recording = {{recording:String}}",
                {"recording": recording(db)},
            ).rows
            for level in tables.LEVELS
        )
        assert coarser == [minutes, minutes]
    return True


def test_what_is_shipped_is_what_the_files_have_to_the_byte(client, files):
    for db in files:
        with questions(client) as asked:
            shipped = ship(db, client)
        assert shipped.batches > 1
        assert len(asked) <= 3
        assert ship(db, client) == ShipReport()  # again ships nothing
    assert is_right(client, *files)
    for db in files:
        told = client.query(
            "SELECT started_ns, committed_ns, ended_ns FROM recordings FINAL"
            " WHERE recording = {recording:String}",
            {"recording": recording(db)},
        ).rows
        with sqlite3.connect(db) as conn:
            one = conn.execute("SELECT started_ns, committed_ns, ended_ns FROM recording")
            assert list(map(tuple, told)) == one.fetchall()
    nodes = client.query("SELECT name, zone FROM nodes FINAL ORDER BY name").rows
    assert list(map(tuple, nodes)) == [(f"n{i}", f"zone-{i}") for i in range(3)]


def test_a_copy_without_what_was_written_beside_it_ships_only_what_is_new(client, files, tmp_path):
    db = files[0]
    ship(db, client)
    copy = tmp_path / "copy"
    copy.mkdir()
    shutil.copy(db, copy)
    assert ship(copy / db.name, client) == ShipReport()
    assert is_right(client, db)


def test_an_older_snapshot_takes_nothing_back(client, tmp_path):
    """Neither how far a node recorded, by which others defer to it, nor who was where."""
    node, old = Node(tmp_path / "n0.db"), tmp_path / "old.db"
    half = SINCE + SPAN // 2
    with connect.writer(node.path) as conn:
        writer = node.writer(conn)
        for until_ns in (half, SINCE + SPAN):
            rows = [
                each for each in node.rows if until_ns - SPAN // 2 <= each.started_ns < until_ns
            ]
            writer.window(with_ids(writer, rows), committed_ns=until_ns, counters=EventCounts(1))
            if until_ns == half:
                conn.execute("VACUUM INTO ?", (str(old),))
        writer.finish(SINCE + SPAN)
    with sqlite3.connect(old) as conn:
        conn.execute("UPDATE endpoint SET workload = 'not known yet', valid_to_ns = NULL")
    ship(node.path, client)
    own = f"FINAL WHERE recording = '{recording(node.path)}' ORDER BY id"
    asked = [f"SELECT * FROM {table} {own}" for table in ("recordings", "endpoints", "gaps")]
    before = [client.query(each).rows for each in asked]
    assert len(before[1]) > 1
    assert ship(old, client) == ShipReport()
    assert [client.query(each).rows for each in asked] == before
    assert is_right(client, node.path)


def halves(node: "Node", client: Client) -> Path:
    """Ship half of a file, and give what was written beside it then; record the rest."""
    half = SINCE + SPAN // 2
    early = [each for each in node.rows if each.started_ns < half]
    node.write(early[1:], half)
    ship(node.path, client)
    state = node.path.with_name(f"{node.path.name}-ship")
    kept = Path(shutil.copy(state, state.with_name("kept")))
    late = [each for each in node.rows if each.started_ns >= half]
    node.write([early[0], *late], SINCE + SPAN, started_ns=half)
    return kept


def test_with_an_older_state_shipping_goes_on_where_clickhouse_says(client, tmp_path):
    node = Node(tmp_path / "n0.db")
    kept = halves(node, client)
    assert ship(node.path, client).rows > 0
    shutil.copy(kept, node.path.with_name("n0.db-ship"))
    assert ship(node.path, client) == ShipReport()
    assert is_right(client, node.path)


@pytest.mark.parametrize("most", [17, 90])
def test_verify_takes_out_what_was_shipped_twice(client, tmp_path, monkeypatch, most):
    """As by two copies at once, neither of which saw the other."""
    node = Node(tmp_path / "n0.db")
    kept = halves(node, client)
    ship(node.path, client)
    last = client.query(
        f"SELECT max(batch) FROM batches WHERE recording = '{recording(node.path)}'"
    ).rows[0][0]
    shutil.copy(kept, node.path.with_name("n0.db-ship"))
    with monkeypatch.context() as patched, shipping(node.path, client, most) as shipper:
        patched.setattr(Shipper, "greet", lambda self, client: None)
        shipper.state.adopt([], last)
        assert shipper.ship(client).rows > 0
    assert there(client, node.path) != in_file(node.path)
    with shipping(node.path, client) as shipper:
        found = verify(shipper, client)
    assert found.repaired > 0
    assert found.wrong == []
    assert is_right(client, node.path)
    assert ship(node.path, client) == ShipReport()


@pytest.mark.parametrize("is_verified_first", [False, True])
@pytest.mark.parametrize("most", [(40, 25), (25, 40)])
@pytest.mark.parametrize("names", ["ab", "ba"])
def test_of_two_copies_that_cut_batches_otherwise_neither_drops_the_others_rows(
    client, files, tmp_path, most, names, is_verified_first
):
    db, folder = files[0], tmp_path / "beside the other"
    folder.mkdir()
    with shipping(db, client, most[0]) as one, shipping(db, client, most[1], folder) as other:
        for each, name in zip((one, other), names, strict=True):
            each.state.shipper = name
            each.greet(client)
            assert each._cut()
        sent = [each._send(client, each.state.open_batch()).rows for each in (one, other)]
    assert len(set(sent)) == 2
    found = client.query(
        f"SELECT batch, count() FROM flows_1m WHERE recording = '{recording(db)}' GROUP BY 1"
    )
    assert list(map(tuple, found.rows)) == [(1, sum(sent))]
    with shipping(db, client) as shipper:
        if is_verified_first:
            assert verify(shipper, client).repaired == 1
        shipper.ship(client)
        assert any("two copies" in note for note in shipper.notes)
        assert verify(shipper, client).wrong == []
    assert is_right(client, db)


def _garbage(path: Path) -> None:
    path.write_bytes(b"no file of SQLite" * 100)


def _torn(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:9_000])


def _lost_table(path: Path) -> None:
    with sqlite3.connect(path) as conn:
        conn.execute("DROP TABLE batch")


@pytest.mark.parametrize("damage", [_garbage, _torn, _lost_table])
def test_a_damaged_state_says_to_be_removed_and_shipping_goes_on(client, files, damage):
    db, path = files[0], files[0].with_name(f"{files[0].name}-ship")
    ship(db, client)
    damage(path)
    with pytest.raises(StoreError) as raised:
        ship(db, client)
    assert raised.value.message == f"{path} is damaged"
    assert raised.value.hint == "remove it: shipping goes on where ClickHouse says"
    path.unlink()
    assert ship(db, client) == ShipReport()


def test_of_a_damaged_file_its_state_is_not_said_to_be_damaged(client, files):
    db = files[0]
    content = db.read_bytes()
    db.write_bytes(content[: len(content) // 2])
    with pytest.raises(StoreError) as raised:
        ship(db, client)
    assert raised.value.message == f"{db} is damaged"
    assert raised.value.hint == "keep it for a look, and record to a new file"


def test_two_shippers_of_one_file_are_refused(client, files):
    with shipping(files[0], client), pytest.raises(StoreError) as raised:
        ship(files[0], client)
    assert raised.value.message.startswith(f"{files[0]} is being shipped by process ")


def test_a_merged_file_is_refused(client, files, tmp_path):
    merge(files, tmp_path / "all.db")
    with pytest.raises(UsageError, match="is merged"):
        ship(tmp_path / "all.db", client)


class KilledError(BaseException):
    """Stands for SIGKILL: nobody catches it."""


class Shaky:
    """
    Kills at a step, before or after it, or cuts an answer off, as a seeded die says.

    It stands between the shipper and the real client, and the real state.
    """

    def __init__(self, seed: int) -> None:
        self.die = random.Random(seed)
        self.left = self.die.randrange(1, 24)
        self.kills = self.cuts = 0

    def around(self, do, *, answers: bool):
        def step(*args, **options):
            self._tick()
            found = do(*args, **options)
            if answers and self.die.random() < 0.12:
                self.cuts += 1
                raise AwayError("the answer was cut off")
            self._tick()
            return found

        return step

    def _tick(self) -> None:
        self.left -= 1
        if self.left <= 0:
            self.left = self.die.randrange(1, 24)
            self.kills += 1
            raise KilledError


KILLS = 50


def test_killed_at_any_step_and_cut_off_each_row_is_there_once(client, files, monkeypatch):
    shaky = Shaky(seed=1)
    with monkeypatch.context() as patched:
        for name in ("insert", "command", "query"):
            patched.setattr(Client, name, shaky.around(getattr(Client, name), answers=True))
            step = getattr(Client, name)
            patched.setattr(Client, name, lambda self, *a, _s=step, **o: _s(self, *a, **o))
        for name in ("fix", "trying", "done", "move"):
            step = shaky.around(getattr(State, name), answers=False)
            patched.setattr(State, name, lambda self, *a, _s=step, **o: _s(self, *a, **o))
        left = list(files)
        while left and shaky.kills < KILLS:
            try:
                ship(left[0], client, most=12)
                left.pop(0)
            except (KilledError, AwayError):
                pass
    assert shaky.kills >= KILLS
    assert shaky.cuts >= KILLS // 6
    for db in files:
        ship(db, client)
    assert is_right(client, *files)


def test_what_was_sent_by_nobody_any_more_is_sent_anew(client, files):
    """The state is gone, and the last batch was not told of."""
    db = files[0]

    class GoneError(Exception):
        pass

    with shipping(db, client) as shipper:
        tell = shipper.tell

        def gone(of: Client, batch: Batch) -> None:
            if batch.batch == 2:
                raise GoneError
            tell(of, batch)

        shipper.tell = gone  # type: ignore[method-assign]
        with pytest.raises(GoneError):
            shipper.ship(client)
    db.with_name(f"{db.name}-ship").unlink()
    ship(db, client, most=33)
    assert is_right(client, db)


@pytest.mark.parametrize("is_gone_again", [False, True])
@pytest.mark.parametrize("steps", range(3, 15))
def test_killed_while_it_takes_out_what_nobody_told_of_each_row_is_there_once(
    client, files, monkeypatch, steps, is_gone_again
):
    """A number that was taken out is not used again: ClickHouse would know its token."""
    db = files[0]

    def killed(*_: object) -> None:
        raise KilledError

    with shipping(db, client) as shipper:
        tell = shipper.tell
        shipper.tell = lambda of, batch: killed() if batch.batch == 2 else tell(of, batch)  # type: ignore[method-assign, assignment]
        with pytest.raises(KilledError):
            shipper.ship(client)
    db.with_name(f"{db.name}-ship").unlink()
    left = steps

    def stepped(do):
        def step(*args, **options):
            nonlocal left
            left -= 1
            if not left:
                raise KilledError
            return do(*args, **options)

        return step

    with monkeypatch.context() as patched:
        for of, name in ((Client, "command"), (Client, "query"), (State, "adopt")):
            patched.setattr(of, name, stepped(getattr(of, name)))
        with suppress(KilledError):
            ship(db, client)
    if is_gone_again:
        db.with_name(f"{db.name}-ship").unlink()
    ship(db, client)
    assert is_right(client, db)


def test_verify_repairs_what_is_missing_twice_or_not_summed_up(client, files):
    db = files[1]
    ship(db, client)
    own, now = f"recording = '{recording(db)}'", {"mutations_sync": 2}
    client.command(f"ALTER TABLE flows_1m DELETE WHERE batch = 2 AND {own}", settings=now)
    client.command(
        f"INSERT INTO flows_1m SELECT * FROM flows_1m WHERE batch = 3 AND {own}",
        settings={"insert_deduplicate": 0},
    )
    client.command(f"ALTER TABLE flows_1h DELETE WHERE toHour(hour) = 10 AND {own}", settings=now)
    with shipping(db, client) as shipper:
        found = verify(shipper, client)
    assert found.repaired >= 2
    assert found.wrong == []
    assert is_right(client, db)


def test_verify_says_what_the_file_cannot_repair(client, files):
    db = files[1]
    ship(db, client)
    client.command(
        f"ALTER TABLE flows_1m DELETE WHERE batch = 2 AND recording = '{recording(db)}'",
        settings={"mutations_sync": 2},
    )
    with sqlite3.connect(db) as conn:
        conn.execute("DELETE FROM flow")
    with shipping(db, client) as shipper:
        found = verify(shipper, client)
    assert found.wrong[0].startswith("batch 2 has 0 of ")
    assert found.wrong[0].endswith("rows, and n1.db has pruned what is missing")


class Node:
    """A node's file that goes on being written."""

    def __init__(self, path: Path) -> None:
        self.world = World(2, seed=3)
        self.path = path
        self.rows = [
            row(talk, seen, 0)
            for talk in self.world.talks(150, SPAN, ("pod_to_pod", "out"))
            for node, seen in talk.sights
            if node == 0
        ]

    def writer(self, conn: sqlite3.Connection, started_ns: int = SINCE - 10 * SECOND) -> Writer:
        return Writer(
            conn,
            node="n0",
            source="kernel",
            settings={},
            started_ns=started_ns,
            boot_id=str(self.path),
        )

    def write(self, rows, committed_ns, retain=None, started_ns=SINCE - 10 * SECOND) -> None:
        with connect.writer(self.path) as conn:
            writer = self.writer(conn, started_ns)
            writer.window(
                with_ids(writer, rows), committed_ns=committed_ns, counters=EventCounts(1)
            )
            for _ in writer.maintain(committed_ns, retain or {}):
                pass
            writer.finish(committed_ns)


def test_flows_that_were_written_late_are_shipped_once(client, tmp_path):
    node = Node(tmp_path / "n0.db")
    half = SINCE + SPAN // 2
    early = [each for each in node.rows if each.started_ns < half]
    late, in_time = early[::4], [each for n, each in enumerate(early) if n % 4]
    node.write(in_time, half)
    assert ship(node.path, client).rows > 0
    node.write(
        [*late, *(each for each in node.rows if each.started_ns >= half)],
        SINCE + SPAN,
        started_ns=half,
    )
    assert ship(node.path, client).rows > 0
    own = f"recording = '{recording(node.path)}'"
    found = client.query(f"SELECT countIf(from_ns = until_ns) FROM batches WHERE {own}").rows
    assert found[0][0] > 0
    assert is_right(client, node.path)


def test_while_it_is_written_a_file_is_shipped_up_to_two_minutes_ago(client, tmp_path):
    node = Node(tmp_path / "n0.db")
    newest_ns = max(each.started_ns for each in node.rows)
    node.write(node.rows, newest_ns + SECOND)
    settled_ns = (newest_ns + SECOND - 2 * MINUTE) // MINUTE * MINUTE
    with locked(node.path):
        ship(node.path, client)
    (recorded,) = client.query(
        "SELECT committed_ns, ended_ns, (SELECT max(last_seen_ns) FROM flows_1m"
        " WHERE recording = {recording:String} AND first_seen_ns >= {settled:Int64})"
        " FROM recordings FINAL WHERE recording = {recording:String}",
        {"recording": recording(node.path), "settled": settled_ns},
    ).rows
    # Others defer to this node for as long as it is shipped, and no longer.
    assert tuple(recorded) == (settled_ns, None, 0)
    ship(node.path, client)
    assert is_right(client, node.path)


def test_shipped_while_it_is_written_each_row_is_there_once(client, tmp_path):
    """One window is written during each round of shipping; some flows of each are late."""
    node, rounds = Node(tmp_path / "n0.db"), 5
    width_ns = SPAN // rounds
    windows: list[list[FlowRow]] = [[] for _ in range(rounds + 1)]
    for n, each in enumerate(node.rows):
        late = 1 if n % 9 == 0 else 0
        windows[(each.started_ns - SINCE) // width_ns + late].append(each)
    node.write(windows[0], SINCE + width_ns)
    go_on = threading.Semaphore(0)

    def record() -> None:
        with connect.writer(node.path) as conn:
            writer = node.writer(conn, SINCE + width_ns)
            for i, rows in enumerate(windows[1:], 2):
                assert go_on.acquire(timeout=60)
                committed_ns = SINCE + i * width_ns
                writer.window(
                    with_ids(writer, rows), committed_ns=committed_ns, counters=EventCounts(1)
                )
            assert go_on.acquire(timeout=60)
            writer.finish(committed_ns)

    with ThreadPoolExecutor(1) as pool, shipping(node.path, client, 1_000) as shipper:
        recorder = pool.submit(record)
        shipped = []
        for _ in range(rounds + 1):
            go_on.release()
            shipped.append(shipper.ship(client).batches)
        recorder.result(timeout=60)
        shipper.ship(client)
    assert sum(map(bool, shipped)) > 1  # some of it while it was written
    assert is_right(client, node.path)


def test_where_flows_were_pruned_their_minutes_are_shipped(client, tmp_path):
    node = Node(tmp_path / "n0.db")
    node.write(node.rows, SINCE + SPAN)
    expected = [row[1:] for row in _by_minute(in_file(node.path))]
    node.write([], SINCE + SPAN + MINUTE, {"flow": HOUR}, started_ns=SINCE + SPAN)
    with sqlite3.connect(node.path) as conn:
        (oldest_ns,) = conn.execute("SELECT MIN(started_ns) FROM flow").fetchone()
    assert oldest_ns > SINCE + HOUR
    ship(node.path, client)
    own = f"recording = '{recording(node.path)}'"
    levels = client.query(f"SELECT DISTINCT level FROM batches WHERE {own} ORDER BY 1").rows
    assert [tuple(each) for each in levels] == [("1m",), ("flow",)]
    assert [row[1:] for row in _by_minute(there(client, node.path))] == expected


@pytest.mark.parametrize("is_behind", [False, True])
def test_flows_that_are_kept_longer_than_minutes_are_shipped(client, tmp_path, is_behind):
    """Also those that come after what neither of the two holds any more."""
    node = Node(tmp_path / "n0.db")
    first = [each for each in node.rows if each.started_ns < SINCE + HOUR // 2]
    node.write(first, SINCE + HOUR // 2)
    if is_behind:
        ship(node.path, client)
    node.write(node.rows[len(first) :], SINCE + SPAN, started_ns=SINCE + HOUR // 2)
    ages = {"flow": 2 * HOUR, "1m": HOUR} if is_behind else {"1m": HOUR}
    node.write([], SINCE + SPAN + MINUTE, ages, started_ns=SINCE + SPAN)
    with sqlite3.connect(node.path) as conn:
        (pruned_ns,) = conn.execute("SELECT pruned_ns FROM level WHERE name = '1m'").fetchone()
    left = in_file(node.path)
    assert left[0][0] < pruned_ns // SECOND  # type: ignore[operator]
    ship(node.path, client)
    found = there(client, node.path)
    assert [each for each in found if each in left] == left
    assert is_behind or found == left
    with shipping(node.path, client) as shipper:
        assert verify(shipper, client).wrong == []


def _by_minute(rows: list[tuple[object, ...]]) -> list[tuple[object, ...]]:
    """Leave out when rows were first and last seen: minutes do not tell."""
    return [row[:-2] for row in rows]


def test_what_is_pruned_while_clickhouse_is_away_is_a_gap(client, tmp_path):
    node = Node(tmp_path / "n0.db")
    first = [each for each in node.rows if each.started_ns < SINCE + HOUR]
    node.write(first, SINCE + HOUR)
    ship(node.path, client)
    node.write(
        [each for each in node.rows if each.started_ns >= SINCE + HOUR],
        SINCE + SPAN,
        started_ns=SINCE + HOUR,
    )
    ages = {"flow": MINUTE, "1m": MINUTE}
    node.write([], SINCE + SPAN + HOUR, ages, started_ns=SINCE + SPAN)
    with shipping(node.path, client) as shipper:
        shipper.ship(client)
        assert len(shipper.notes) == 1
        assert verify(shipper, client).wrong == []
    gaps = client.query(
        "SELECT kind, started_ns >= {since:Int64} FROM gaps FINAL"
        " WHERE id < 0 AND recording = {recording:String}",
        {"since": SINCE + HOUR - MINUTE, "recording": recording(node.path)},
    ).rows
    assert [tuple(each) for each in gaps] == [("not shipped", 1)]


@pytest.mark.parametrize("is_forgotten", [False, True])
def test_flows_that_came_late_and_were_pruned_before_they_were_shipped_are_said(
    client, tmp_path, is_forgotten
):
    """Minutes have them, but not apart from what was shipped of these minutes before."""
    node = Node(tmp_path / "n0.db")
    half = SINCE + SPAN // 2
    early = [each for each in node.rows if each.started_ns < half]
    late, in_time = early[::4], [each for n, each in enumerate(early) if n % 4]
    node.write(in_time, half)
    ship(node.path, client)
    node.write(
        [*late, *(each for each in node.rows if each.started_ns >= half)],
        SINCE + SPAN,
        started_ns=half,
    )
    with sqlite3.connect(node.path) as conn:
        notes = conn.execute("SELECT * FROM late_flow").fetchall()
    assert len(notes) == len(late)
    node.write([], SINCE + SPAN + MINUTE, {"flow": HOUR}, started_ns=SINCE + SPAN)
    if not is_forgotten:  # notes go once a day
        with sqlite3.connect(node.path) as conn:
            conn.executemany("INSERT OR IGNORE INTO late_flow VALUES (?, ?, ?)", notes)
    said = f"up to {len(late)} flows that came late for what was shipped were pruned before"
    with shipping(node.path, client) as shipper:
        shipper.ship(client)
        assert shipper.notes == [f"{said}: --verify compares"]
        shipper.ship(client)
        assert len(shipper.notes) == 1
        assert [flows for _, flows in shipper.state.late_pruned()] == [len(late)]
        assert len(verify(shipper, client).wrong) == 1
    gaps = client.query(
        "SELECT kind, started_ns = ended_ns, detail FROM gaps FINAL"
        " WHERE id < 0 AND recording = {recording:String}",
        {"recording": recording(node.path)},
    ).rows
    assert [tuple(each) for each in gaps] == [("not shipped", 1, said)]


def test_a_state_starts_at_the_beginning(files, client):
    with shipping(files[0], client) as shipper:
        assert shipper.state.position == START
        assert shipper.state.open_batch() is None
