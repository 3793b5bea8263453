"""A recorder that is restarted at any moment while pods come and go: nobody else's name, ever."""

import os
from pathlib import Path

import pytest
from churn import churn

pytestmark = pytest.mark.live

# The long run: CTK_CHURN=20000 pytest tests/live/test_live_churn.py
CONNECTIONS = int(os.environ.get("CTK_CHURN", "1500"))
EACH_SIGNAL = 12 if CONNECTIONS >= 20_000 else 2
FINE = {
    "right",
    "held",
    "missing while nobody recorded",
    "failed and unseen",
    "none: never told",
}


def test_no_connection_is_under_a_wrong_pod_and_none_without_a_name_that_was_told(
    tmp_path: Path,
) -> None:
    result = churn(tmp_path, seed=7, connections=CONNECTIONS, each_signal=EACH_SIGNAL)
    verdict = result.verdict
    assert result.failures == []
    said = "\n".join([*verdict.lines(), *verdict.stories()])
    assert {name for name in verdict.counts if name not in FINE} == set(), said
    assert verdict.services["wrong"] == 0, said
    assert verdict.counts["right"] > CONNECTIONS / 3, said
