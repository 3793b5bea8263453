"""A capture, replayed, gives what the live recording gave."""

import pytest
from playednode import CLIENT, PODS, WEB_A, Servers, Traffic
from recording import recording, rows

pytestmark = pytest.mark.live

FLOWS = "SELECT * FROM flows ORDER BY started_ns, src, dst, dst_port, src_port"


@pytest.mark.parametrize("aggregate", ["ports", "none"])
def test_a_replayed_capture_gives_the_same_flows(invoke, play, tmp_path, aggregate):
    live, again, capture = tmp_path / "live.db", tmp_path / "again.db", tmp_path / "live.ctkcap"
    capture.write_bytes(b"older")
    options = ("--aggregate", aggregate, "--window", "1s", "--accounting-interval", "1s")
    with Servers(play) as servers:
        # One connection is older than the recording.
        Traffic(play, servers).tcp(CLIENT, PODS[WEB_A][0], 8080, None, None)
        with recording(play, live, "--capture", str(capture), *options):
            Traffic(play, servers, pause_s=0.02).known()
    assert f"{capture} was replaced: 5 bytes were there\n" in live.with_suffix(".log").read_text()
    words = ("--from-capture", capture, "--objects", live.with_suffix(".objects.json"))
    assert invoke("record", again, *words, *options).exit_code == 0
    assert rows(again, FLOWS) == rows(live, FLOWS)
    assert rows(again, "SELECT * FROM gaps") == rows(live, "SELECT * FROM gaps") == []
