"""A recorder that is restarted at any moment while pods come and go: nobody else's name."""

import os
from pathlib import Path

import pytest
from churn import churn

pytestmark = pytest.mark.live

# The long run: CTK_CHURN=20000 pytest tests/live/test_live_churn.py
CONNECTIONS = int(os.environ.get("CTK_CHURN", "1000"))
EACH_SIGNAL = 12 if CONNECTIONS >= 20_000 else 2
MOST_MISSING = 0.005


def test_connections_stand_under_the_pods_that_made_them_and_those_that_answered(
    tmp_path: Path,
) -> None:
    result = churn(tmp_path, seed=7, connections=CONNECTIONS, each_signal=EACH_SIGNAL)
    assert result.failures == []
    verdict = result.verdict
    said = "\n".join([*verdict.lines(), *verdict.stories()])
    held = verdict.counts["held"]
    assert held > CONNECTIONS / 3, said
    assert verdict.faults() == [], said
    never = {"counted twice", "nobody made", "none: the node's own"}
    assert not never & verdict.counts.keys(), said
    assert verdict.counts["missing"] <= held * MOST_MISSING, said
    assert not {what for what in verdict.services if what.startswith("wrong")}, said
