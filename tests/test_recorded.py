from ctk.fleet.recorded import Recorded, RecordedNode, RecordingRun, recorded_of

A, B = RecordedNode("c", "a"), RecordedNode("c", "b")


def test_a_node_is_recorded_while_a_recording_runs_but_where_it_wrote_nothing():
    found = recorded_of(
        [
            RecordingRun(
                node=A, started_ns=0, ended_ns=100, silent=[(10, 20), (15, 30), (90, 200)]
            ),
            RecordingRun(node=A, started_ns=120, ended_ns=150),
            RecordingRun(node=B, started_ns=50, ended_ns=60),
            RecordingRun(node=B, started_ns=60, ended_ns=80),
        ]
    )
    assert found == Recorded({A: [(0, 10), (30, 90), (120, 150)], B: [(50, 80)]})
    assert found.changes() == [0, 10, 30, 50, 80, 90, 120, 150]


def test_any_part_of_a_span_will_do():
    found = recorded_of(
        [
            RecordingRun(node=A, started_ns=10, ended_ns=20),
            RecordingRun(node=A, started_ns=40, ended_ns=50),
        ]
    )
    asked = [(0, 10), (0, 11), (20, 40), (19, 21), (30, 60), (50, 60), (12, 13)]
    assert [bool(found.at(*span)) for span in asked] == [
        False,
        True,
        False,
        True,
        True,
        False,
        True,
    ]
