"""Which tables answer for which part of a span."""

import pytest

from ctk.ask import spans
from ctk.store.levels import LEVELS
from ctk.timespan import DAY, HOUR, MINUTE


def _held(**pruned_ns: int) -> list[spans.HeldLevel]:
    folded = {"flow": 2**63 - 1, "1m": 100 * HOUR, "1h": 100 * HOUR, "1d": 4 * DAY}
    return [
        spans.HeldLevel(
            level.name,
            level.table,
            level.width_ns or 1,
            folded[level.name],
            pruned_ns.get(f"l{level.name}", -1),
        )
        for level in LEVELS
    ]


@pytest.mark.parametrize(
    ("pruned", "span", "pieces"),
    [
        ({}, (5, 7), [("flow", 5, 7)]),
        ({}, (0, DAY), [("flow_1d", 0, DAY)]),
        (
            {},
            (HOUR - MINUTE - 1, 2 * DAY),
            [
                ("flow", HOUR - MINUTE - 1, HOUR - MINUTE),
                ("flow_1m", HOUR - MINUTE, HOUR),
                ("flow_1h", HOUR, DAY),
                ("flow_1d", DAY, 2 * DAY),
            ],
        ),
        (
            {},
            (4 * DAY, 101 * HOUR),
            [("flow_1h", 4 * DAY, 100 * HOUR), ("flow", 100 * HOUR, 101 * HOUR)],
        ),
        ({"lflow": 3 * DAY}, (5, 7), [("flow_1m", 0, MINUTE)]),
        (
            {"lflow": 3 * DAY, "l1m": 2 * DAY},
            (DAY + 1, 2 * DAY + 5),
            [("flow_1h", DAY, 2 * DAY), ("flow_1m", 2 * DAY, 2 * DAY + MINUTE)],
        ),
        # The level between is gone, but not the finest.
        ({"l1m": 3 * DAY}, (5, HOUR), [("flow", 5, HOUR)]),
        ({"lflow": 9, "l1m": 9, "l1h": 9}, (5, 7), [("flow_1d", 0, DAY)]),
        # Within the bucket in which rows start to be there.
        ({"lflow": 30}, (40, 50), [("flow", 40, 50)]),
        ({"lflow": 30}, (20, 50), [("flow_1m", 0, MINUTE)]),
        # Pruned at its start, not folded yet at its end.
        (
            {"lflow": 99 * HOUR},
            (99 * HOUR - 1, 101 * HOUR),
            [
                ("flow_1m", 99 * HOUR - MINUTE, 99 * HOUR),
                ("flow_1h", 99 * HOUR, 100 * HOUR),
                ("flow", 100 * HOUR, 101 * HOUR),
            ],
        ),
        ({}, (7, 7), []),
    ],
)
def test_a_span_is_cut_into_the_coarsest_pieces_that_answer_for_it(
    pruned: dict[str, int], span: tuple[int, int], pieces: list[tuple[str, int, int]]
) -> None:
    assert spans.cover(_held(**pruned), *span) == pieces
