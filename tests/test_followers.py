"""Who is told the records: a log that cannot be written for a while, and comes back."""

import json
from pathlib import Path

import pytest
from test_eventlog import PROBE

from ctk.record.followers import RecordLog
from ctk.record.signals import Stop
from ctk.render.rotate import RotatingFile


def window(record_log: RecordLog, *ports: int) -> None:
    record_log.begin_window()
    for port in ports:
        record_log.write(PROBE._replace(src_port=port))


def ports_in(path: Path) -> list[int]:
    return [json.loads(line)["srcPort"] for line in path.read_text().splitlines()]


def test_a_log_is_written_again_in_the_first_window_it_can_be(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, in_its_place = tmp_path / "node.log", tmp_path / "node.log.1"
    record_log = RecordLog(RotatingFile(path, max_bytes=600), Stop(None))
    in_its_place.mkdir()
    window(record_log, 1, 2, 3)
    window(record_log, 4)
    in_its_place.rmdir()
    window(record_log, 5, 6)
    in_its_place.unlink()
    in_its_place.mkdir()
    window(record_log, 7)
    record_log.end()
    assert [record.getMessage() for record in caplog.records] == [
        f"{path} cannot be put aside: node.log.1: Is a directory:"
        " its lines are left out, recording goes on",
        f"{path} is written again: 2 lines are missing",
        f"{path} cannot be put aside: node.log.1: Is a directory:"
        " its lines are left out, recording goes on",
        f"{path}: 1 line is missing",
    ]
    assert ports_in(path) == [5, 6]


@pytest.mark.parametrize("stopped", [False, True])
def test_what_is_being_compressed_at_the_end_is_whole(tmp_path: Path, stopped: bool) -> None:
    path, stop = tmp_path / "node.log", Stop(None)
    record_log = RecordLog(RotatingFile(path, max_bytes=400, compress=True), stop)
    window(record_log, 1, 2, 3)
    if stopped:
        stop.ask()
    record_log.end()
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "node.log",
        "node.log.1.gz",
        "node.log.2.gz",
    ]


def test_the_rest_of_a_window_is_not_tried(caplog: pytest.LogCaptureFixture) -> None:
    record_log = RecordLog(RotatingFile(Path("/dev/full")), Stop(None))
    window(record_log, *range(1_000))
    record_log.end()
    assert [record.getMessage() for record in caplog.records] == [
        "/dev/full cannot be written: No space left on device:"
        " its lines are left out, recording goes on",
        "/dev/full: 1,000 lines are missing",
    ]


def test_a_log_tells_events_and_what_moved_later_only_where_it_is_asked_for(tmp_path: Path) -> None:
    moved = PROBE._replace(new_events=0, update_events=0, bytes_out=120)
    ended = PROBE._replace(new_events=0, update_events=0, destroy_events=1)
    for accounting, counts in ((False, [2, 1]), (True, [2, 0, 1])):
        path = tmp_path / f"{accounting}.log"
        record_log = RecordLog(RotatingFile(path), Stop(None), accounting=accounting)
        record_log.begin_window()
        for record in (PROBE, moved, ended):
            record_log.write(record)
        record_log.end()
        assert [json.loads(line)["cnt"] for line in path.read_text().splitlines()] == counts


def test_a_hangup_opens_the_log_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, aside = tmp_path / "node.log", tmp_path / "node.log.theirs"
    stop = Stop(None, hangup_reopens=True)
    record_log = RecordLog(RotatingFile(path), stop)
    window(record_log, 1)
    path.rename(aside)
    window(record_log, 2)
    stop.hangups += 1
    record_log.reopen_if_asked()
    assert path.read_text() == ""
    window(record_log, 3)
    record_log.end()
    assert (ports_in(aside), ports_in(path), caplog.records) == ([1, 2], [3], [])


def test_a_log_that_cannot_be_opened_anew_comes_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "node.log"
    stop = Stop(None, hangup_reopens=True)
    record_log = RecordLog(RotatingFile(path), stop)
    path.unlink()
    path.mkdir()
    stop.hangups += 1
    record_log.reopen_if_asked()
    window(record_log, 1)
    path.rmdir()
    window(record_log, 2)
    record_log.end()
    assert ports_in(path) == [2]
    assert [record.getMessage() for record in caplog.records] == [
        f"{path} cannot be opened: Is a directory: its lines are left out, recording goes on",
        f"{path} is written again: 1 line is missing",
    ]
