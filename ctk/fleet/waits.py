"""How long a collection waits for what."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Waits:
    """In seconds."""

    connect_s: float = 10.0
    answer_s: float = 30.0  # without a byte
    retry_s: float = 0.5  # doubled with each failure, up to
    most_retry_s: float = 8.0
    first_s: float = 4.0  # how long an API server may be away while nothing is made
    away_s: float = 90.0  # and how long then, before it is given up
    cut_s: float = 2.0  # after a signal, for an answer that is under way
    look_s: float = 2.0  # between two looks at the pods
    tick_s: float = 0.2  # between two looks for a signal
    gone_s: float = 90.0  # how long the temporary namespace may take to go
    gone_look_s: float = 1.0  # between two looks whether it has
    # A pod ends by itself when this has passed after the recording: in its turn its file is there.
    fetch_s: float = 3600.0
    fetch_node_s: float = 60.0  # longer for each node
