"""--max-size: file and -wal within it at every commit, and no sum is lost for it."""

import sqlite3
from pathlib import Path

import pytest
from edges import edge, with_ids

from ctk.ask.storedgaps import gaps_in_words, gaps_of
from ctk.errors import FileBusyError
from ctk.model import COUNTS_CONNECTION, COUNTS_NEW, Endpoint, EventCounts, FlowRow
from ctk.model.lone import LoneEvents
from ctk.store import connect
from ctk.store.levels import watermarks
from ctk.store.write import Writer
from ctk.timespan import DAY, MINUTE, SECOND

START = 1_700_006_400 * SECOND  # 2023-11-15T00:00:00Z
WINDOW_NS = 10 * SECOND
MAX_BYTES = 2_000_000
POD = Endpoint(address="10.0.0.1", kind="pod", valid_from_ns=0, namespace="shop", name="web")
COUNTS = (1, 1, 0, 0, 0, 0, 100, 1, 60, 1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "node.db"


def _writer(conn: sqlite3.Connection) -> Writer:
    return Writer(
        conn,
        node="n1",
        source="kernel",
        settings={},
        started_ns=START,
        boot_id="boot-1",
        max_bytes=MAX_BYTES,
    )


def _strangers(window: int, count: int) -> list[FlowRow]:
    """Rows of a window, each from an address that was not seen before."""
    at_ns = START + window * WINDOW_NS
    found = []
    for i in range(count):
        # As random ones do, they fall all over the index of addresses.
        number = (window * count + i) * 2_654_435_761 % 2**32
        address = ".".join(str(number >> shift & 255) for shift in (24, 16, 8, 0))
        peer = Endpoint(address=address, kind="external", valid_from_ns=0)
        from_peer = edge("tcp", 0, peer, POD, 443, None, POD, None, None, None)
        found.append(FlowRow(from_peer, at_ns + i, at_ns + i, None, *COUNTS))
    return found


def _write(writer: Writer, window: int, rows: list[FlowRow]) -> None:
    writer.window(
        with_ids(writer, rows),
        committed_ns=START + (window + 1) * WINDOW_NS,
        counters=EventCounts(),
    )


def _size(path: Path) -> int:
    return sum(
        file.stat().st_size for file in (path, path.with_name("node.db-wal")) if file.exists()
    )


def test_a_flood_of_strangers_stays_within_it_and_says_what_was_thinned(path: Path) -> None:
    """Seven minutes, each window a tenth of what is allowed."""
    biggest, written = 0, 0
    with connect.writer(path) as conn:
        writer = _writer(conn)
        for window in range(40):
            rows = _strangers(window, 1_000)
            _write(writer, window, rows)
            written += len(rows)
            biggest = max(biggest, _size(path))
            for _ in writer.maintain(START + window * WINDOW_NS, {}):
                biggest = max(biggest, _size(path))
        for _ in writer.fold_open():
            biggest = max(biggest, _size(path))
        assert biggest <= 1.1 * MAX_BYTES
        assert conn.execute("SELECT SUM(connections), SUM(bytes_out) FROM flow_1d").fetchone() == (
            written,
            100 * written,
        )
        assert conn.execute("SELECT COUNT(*) FROM flow").fetchone() < (written / 10,)
        [gap] = gaps_of(conn)
        flows = watermarks(conn)["flow"]
        assert (gap.kind, gap.lost) == ("thinned", None)
        assert START <= gap.started_ns < gap.ended_ns == flows.pruned_ns
        assert (gaps_in_words([gap]) or "").startswith("1 gap: thinned to coarser sums for ")
    assert path.stat().st_size <= MAX_BYTES


def test_days_go_where_nothing_finer_is_left_and_the_watermark_says_so(path: Path) -> None:
    with connect.writer(path) as conn:
        writer = _writer(conn)
        days = 12
        for day in range(days):
            # Of pods, which no level folds into "other".
            pods = [
                Endpoint(address=f"10.{day}.{i >> 8}.{i & 255}", kind="pod", valid_from_ns=0)
                for i in range(1_200)
            ]
            at_ns = START + day * DAY
            rows = [
                FlowRow(
                    edge("tcp", 0, pod, POD, 443, None, POD, None, None, None),
                    *(at_ns + i, at_ns + i, None),
                    *COUNTS,
                )
                for i, pod in enumerate(pods)
            ]
            writer.window(with_ids(writer, rows), committed_ns=at_ns, counters=EventCounts())
            list(writer.maintain(at_ns + MINUTE, {}))
            assert _size(path) <= 1.1 * MAX_BYTES
        list(writer.fold_open())
        pruned_ns = watermarks(conn)["1d"].pruned_ns
        assert pruned_ns is not None
        gone = (pruned_ns - START) // DAY
        assert 0 < gone < days
        assert conn.execute("SELECT COUNT(*), MIN(started_ns) FROM flow_1d").fetchone() == (
            1_200 * (days - gone),
            pruned_ns,
        )


def _write_until_busy(writer: Writer, path: Path) -> int:
    """Write windows until one has to wait, and give its number."""
    for window in range(1, 200):
        try:
            _write(writer, window, _strangers(window, 250))
        except FileBusyError:
            return window
        list(writer.maintain(START + window * WINDOW_NS, {}))
        assert _size(path) <= 1.1 * MAX_BYTES
    raise AssertionError("the -wal grows without end")


def test_a_reader_that_holds_the_wal_makes_windows_wait_within_it(path: Path) -> None:
    with connect.writer(path) as conn:
        writer = _writer(conn)
        _write(writer, 0, _strangers(0, 250))
        with connect.reader(path) as reading:
            reading.execute("BEGIN")
            reading.execute("SELECT COUNT(*) FROM flow").fetchone()
            window = _write_until_busy(writer, path)
            assert window > 5
            with pytest.raises(FileBusyError, match="keeps its -wal from being emptied"):
                _write(writer, window, _strangers(window, 250))
            assert list(writer.maintain(START + window * WINDOW_NS, {})) == []
            reading.execute("COMMIT")
        _write(writer, window, _strangers(window, 250))
        assert conn.execute("SELECT SUM(connections) FROM flow").fetchone() == (250 * (window + 1),)


def test_a_window_of_too_many_rows_is_summed_up_by_edge(path: Path) -> None:
    begun = COUNTS_CONNECTION | COUNTS_NEW
    to_pod = edge("udp", 0, POD, POD, 53, None, POD, None, None, None)
    with connect.writer(path) as conn:
        writer = _writer(conn)
        for window, count in enumerate((1_000, 20_000)):
            edge_id = writer.edge_id(to_pod)
            events = LoneEvents((START + i, edge_id, 1_000 + i % 7, begun) for i in range(count))
            writer.window(
                [],
                events=events,
                committed_ns=START + (window + 1) * WINDOW_NS,
                counters=EventCounts(),
            )
        assert conn.execute(
            "SELECT COUNT(*), SUM(connections), SUM(new_events) FROM flow"
        ).fetchone() == (1_001, 21_000, 21_000)
        [gap] = gaps_of(conn)
        assert gap[2:6] == (START, START + 19_999, "n1", "thinned")
