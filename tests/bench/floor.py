"""The least a listener in Python can cost: the recorder's own socket, and its events counted."""

import signal

from ctk.conntrack.socket import Socket

events = 0
stopping = False


def stop(number: int, frame: object) -> None:
    global stopping  # noqa: PLW0603
    stopping = True


signal.signal(signal.SIGINT, stop)
signal.signal(signal.SIGTERM, stop)
with Socket() as sock:
    while not stopping:
        batch = sock.receive(0.25)
        if batch is not None:
            events += len(batch.lengths)
print(events)
