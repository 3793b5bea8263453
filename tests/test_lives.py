"""
No answer ends as a pod that did not have the address; a pod's connections are its own.

`pytest --hypothesis-profile explore tests/test_lives.py` draws other lives each time, 4,000.
"""

from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from lives import END, Life, drawn_lives, played

A, B = "10.244.0.1", "10.244.0.2"


# To shrink what fails takes minutes, and the lives say enough.
@settings(
    max_examples=4 * settings.default.max_examples,
    phases=(Phase.explicit, Phase.generate),
)
@given(
    drawn_lives(),
    st.lists(st.tuples(st.integers(0, 15), st.integers(0, 400)), min_size=10, max_size=60),
    st.lists(st.integers(10, 300), max_size=8),
    st.lists(st.tuples(st.integers(0, END), st.integers(1, 200)), max_size=2),
    st.booleans(),
)
def test_an_answer_is_the_pod_that_had_the_address_or_none(
    lives: list[Life],
    dialled: list[tuple[int, int]],
    turns: list[int],
    outages: list[tuple[int, int]],
    keeps: bool,
) -> None:
    result = played(lives, dialled, turns, outages, keeps=keeps)
    assert result.wrong() == []
    if not outages:  # what was asked meanwhile stands for more than a second
        assert result.nameless() == []


DRAWN: dict[str, dict[str, Any]] = {
    "an end among what was missed is as sure to the next recording": {
        "lives": [
            Life("first", A, "n2", "forced", 180, 191, 198, 207, 391, 395, 399),
            Life("second", A, "n2", "forced", 350, 399, 412, 433, 458, 470, 471),
            Life("third", A, "n1", "forced", 569, 575, 588, 590, 631, 642, 648),
        ],
        "dialled": [(1, 336)],
        "turns": [280, 232, 52, 221, 39],
        "nameless": [],
    },
    "a pod that was seen to come later is no other that may have had the address": {
        "lives": [
            Life("first", A, "n1", "forced", 16, 28, 35, 45, 135, 140, 143),
            Life("other", B, "n1", "graceful", 154, 195, 205, 226, 470, 473, 476),
        ],
        "dialled": [(0, 360)],
        "turns": [206],
        "nameless": [],
    },
    "a pod that a list told of was not seen to come": {
        "lives": [
            Life("first", A, "n1", "completed", 75, 119, 125, 149, 265, 265, 266),
            Life("second", A, "n1", "graceful", 260, 266, 272, 286, 283, 296, 299),
        ],
        "dialled": [(1, 2)],
        "turns": [245, 31, 86, 209],
        "outages": [(296, 105)],
        "nameless": [274],
    },
    "what stood for two pods while the server was away is neither, after a kill, too": {
        "lives": [
            Life("first", A, "n2", "graceful", 399, 459, 469, 478, 572, 572, 573),
            Life("second", A, "n2", "completed", 556, 573, 585, 609, 854, 854, 855),
        ],
        "dialled": [(1, 28), (0, 371)],
        "turns": [763],
        "outages": [(516, 100)],
        "nameless": [572, 613],
    },
    "a name that was wrong gives way to one that is sure": {
        "lives": [
            Life("first", A, "n2", "forced", 1, 9, 15, 22, 211, 213, 215),
            Life("second", A, "n1", "forced", 301, 313, 323, 333, 374, 381, 382),
            Life("third", A, "n2", "graceful", 439, 443, 448, 471, 609, 628, 633),
        ],
        "dialled": [(2, 3)],
        "turns": [],
        "outages": [(280, 183)],
        "nameless": [451],
    },
    "what stood for a pod in an outage is not given after it": {
        "lives": [
            Life("first", A, "n1", "forced", 24, 29, 39, 49, 90, 96, 98),
            Life("second", A, "n1", "graceful", 73, 98, 106, 120, 350, 369, 374),
        ],
        "dialled": [(1, 0), (0, 321)],
        "turns": [113],
        "outages": [(64, 32)],
        "nameless": [],
    },
    "in an outage the last owner is told from the one before": {
        "lives": [
            Life("first", A, "n1", "completed", 287, 299, 304, 322, 404, 404, 410),
            Life("second", A, "n1", "completed", 375, 410, 424, 436, 499, 499, 503),
        ],
        "dialled": [(0, 238), (1, 174)],
        "turns": [519],
        "outages": [(470, 148), (392, 26)],
        "keeps": False,
        "nameless": [499],
    },
    "a pod of another node may have had the address": {
        "lives": [
            Life("first", A, "n2", "graceful", 495, 502, 512, 527, 532, 541, 544),
            Life("second", A, "n1", "graceful", 498, 544, 553, 576, 607, 615, 620),
        ],
        "dialled": [(1, 5), (0, 8)],
        "turns": [610],
        "outages": [(495, 64), (574, 187)],
        "keeps": False,
        "nameless": [520, 558],
    },
    "a list tells of pods in the order in which they got the address": {
        "lives": [
            Life("first", A, "n2", "completed", 134, 139, 147, 162, 294, 294, 300),
            Life("second", A, "n1", "graceful", 341, 345, 353, 377, 373, 389, 390),
            Life("third", A, "n1", "forced", 330, 390, 403, 411, 449, 454, 458),
        ],
        "dialled": [(1, 368)],
        "turns": [169, 244],
        "keeps": False,
        "nameless": [],
    },
    "a second that was nobody's stays so in the next recording": {
        "lives": [
            Life("first", A, "n2", "graceful", 189, 211, 225, 228, 258, 267, 270),
            Life("second", A, "n2", "forced", 253, 270, 279, 286, 531, 542, 545),
        ],
        "dialled": [(0, 126)],
        "turns": [292, 49, 31, 84],
        "outages": [(266, 135)],
        "keeps": False,
        "nameless": [267],
    },
    "a pod keeps its name when who had its address before it is forgotten": {
        "lives": [
            Life("first", A, "n1", "completed", 10, 20, 27, 35, 200, 200, 205),
            Life("second", A, "n1", "graceful", 190, 206, 212, 225, 1300, 1305, 1310),
            Life("third", A, "n1", "graceful", 2370, 2380, 2386, 2400, 2600, 2605, 2610),
        ],
        "dialled": [(1, 20), (1, 300)],
        "turns": [700, 20, 1280, 20, 500],
        "kept": 1000,
        "nameless": [],
    },
    "pods were watched while nobody recorded where all is told that was missed": {
        "lives": [
            Life("first", A, "n1", "completed", 10, 20, 27, 35, 150, 150, 155),
            Life("second", A, "n1", "graceful", 140, 161, 170, 195, 400, 410, 415),
        ],
        "dialled": [(1, 3)],
        "turns": [181, 20],
        "nameless": [],
    },
    "a pod that ran after another in the second in which both got the address had it later": {
        "lives": [
            Life("first", A, "n2", "forced", 54, 60, 71, 73, 77, 77, 79),
            Life("second", A, "n1", "completed", 46, 79, 86, 108, 105, 105, 110),
        ],
        "dialled": [(1, 71)],
        "turns": [],
        "nameless": [],
    },
    "a pod that never told its address may have had that of one that was killed": {
        "lives": [
            Life("first", A, "n1", "forced", 10, 20, 27, 35, 200, 210, 212),
            Life("untold", A, "n1", "forced", 190, 214, 220, 300, 290, 295, 296),
        ],
        "dialled": [(0, 172), (0, 183), (1, 50)],
        "turns": [],
        "nameless": [210, 270],
    },
    "nor does it stand for the one before it where both were gone before a recorder came": {
        "lives": [
            Life("first", A, "n1", "forced", 10, 20, 27, 35, 190, 202, 204),
            Life("untold", A, "n1", "forced", 195, 206, 214, 300, 230, 235, 236),
            Life("third", A, "n1", "graceful", 20, 240, 262, 280, 400, 410, 415),
        ],
        "dialled": [(0, 140), (1, 5), (2, 5)],
        "turns": [180, 120, 61, 20],
        "nameless": [219],
    },
    "nor where they are missing from a list": {
        "lives": [
            Life("first", A, "n1", "forced", 10, 20, 27, 35, 190, 202, 204),
            Life("untold", A, "n1", "forced", 170, 206, 214, 300, 230, 235, 236),
        ],
        "dialled": [(0, 140), (1, 5)],
        "turns": [180, 120, 61, 20],
        "keeps": False,
        "nameless": [219],
    },
    "the last second of a pod is its own once the next pod of its address is told": {
        "lives": [
            Life("first", A, "n1", "completed", 10, 182, 189, 230, 197, 197, 199),
            Life("second", A, "n1", "graceful", 12, 201, 213, 240, 700, 710, 715),
        ],
        "dialled": [(0, 7), (1, 100)],
        "turns": [199, 20, 102],
        "nameless": [],
    },
    "what was unknown stands for nothing that a later recording had": {
        "lives": [Life("only", A, "n1", "graceful", 140, 161, 165, 195, 220, 230, 235)],
        "dialled": [(0, 15)],
        "turns": [182, 78, 1, 20],
        "nameless": [],
    },
    "a row of two pods is neither's, recordings later, where one was killed": {
        "lives": [
            Life("first", A, "n1", "graceful", 180, 204, 213, 219, 224, 307, 308),
            Life("second", A, "n1", "unsaid", 252, 308, 322, 332, 378, 416, 422),
        ],
        "dialled": [(1, 11), (0, 212), (1, 255)],
        "turns": [30, 163, 164, 162, 162],
        "outages": [(264, 72)],
        "keeps": False,
        "nameless": [307, 333],
    },
    "nor is it where each ended well": {
        "lives": [
            Life("first", A, "n1", "graceful", 180, 204, 213, 219, 224, 307, 308),
            Life("second", A, "n1", "unsaid", 252, 308, 322, 332, 378, 416, 422),
        ],
        "dialled": [(1, 11), (0, 212), (1, 255)],
        "turns": [30, 163, 165, 162, 162],
        "outages": [(264, 72)],
        "keeps": False,
        "nameless": [307, 333],
    },
    "after a kill a list is recalled in the order in which it was taken in": {
        "lives": [
            Life("first", A, "n2", "graceful", 122, 129, 134, 143, 168, 175, 176),
            Life("second", A, "n2", "completed", 174, 187, 194, 211, 197, 197, 200),
            Life("third", A, "n2", "graceful", 140, 200, 213, 222, 338, 347, 350),
        ],
        "dialled": [(1, 242)],
        "turns": [160, 68, 83],
        "keeps": False,
        "nameless": [197],
    },
    "what began while nobody recorded is not left to the next recording": {
        "lives": [
            Life("first", A, "n1", "hasty", 220, 225, 230, 233, 237, 237, 238),
            Life("second", A, "n1", "unsaid", 183, 238, 250, 253, 494, 508, 510),
        ],
        "dialled": [(1, 47)],
        "turns": [149, 42, 42, 113, 69],
        "keeps": False,
        "nameless": [297],
    },
    "but it is where the pod that had the address before told when it ended": {
        "lives": [Life("only", A, "n2", "graceful", 73, 78, 92, 115, 215, 222, 228)],
        "dialled": [(0, 249)],
        "turns": [68, 202, 43, 110, 162, 152],
        "nameless": [],
    },
}


@pytest.mark.parametrize("drawn", DRAWN.values(), ids=DRAWN)
def test_lives_that_were_told_wrongly_once(drawn: dict[str, Any]) -> None:
    drawn = {"outages": [], "keeps": True, **drawn}
    nameless = drawn.pop("nameless")
    result = played(**drawn)
    assert result.wrong() == []
    assert sorted(dial.at for dial in result.dials if dial.name is None) == nameless
