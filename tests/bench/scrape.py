"""
What a scrape of the metrics takes while events come: `record.py --only scrape`.

The same steady flood three times: `conntrack -E`, ctk without metrics, and ctk with them, asked ten
times a second as curl asks: a connection, a request, an answer to its end. A bare server beside it,
of a few lines of Python, is asked the same: what that takes is the machine's. Ends with an error
where what was answered last is not what the file has.
"""

import socket
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path
from statistics import median, quantiles
from typing import TYPE_CHECKING

from listeners import Listener
from prometheus_client.parser import text_string_to_metric_families as families

if TYPE_CHECKING:
    from record import Bench

A_SECOND = 20_000
EVERY_S = 0.1
PORT, BARE_PORT = 9470, 9469
BARE = """
import socket
with socket.create_server(("127.0.0.1", %d)) as server:
    while True:
        with server.accept()[0] as one:
            one.recv(8192)
            one.sendall(b"HTTP/1.1 200 OK\\r\\n\\r\\n" + b"x" * 3400)
"""
REQUEST = (
    b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1:9470\r\nUser-Agent: curl\r\nAccept: */*\r\n\r\n"
)
WRITTEN_S = 30  # a window is 10 s
OF_FILE = """
    SELECT sum(events), sum(new_events + update_events + destroy_events), sum(lost)
    FROM (SELECT events, lost FROM recordings), (
        SELECT sum(new_events) AS new_events, sum(update_events) AS update_events,
            sum(destroy_events) AS destroy_events FROM flows)
"""


def run(
    bench: "Bench", conntrack: Listener, ctk: Listener, seconds: int
) -> list[dict[str, object]]:
    rows = []
    for one, options in ((conntrack, ()), (ctk, ()), (ctk, ("--metrics", str(PORT)))):
        if one.missing:
            continue
        bench.empty()
        started = bench.start(one, options)
        flood = threading.Thread(
            target=bench.flood, args=("udp", seconds * A_SECOND), kwargs={"rate": A_SECOND}
        )
        bare = subprocess.Popen([sys.executable, "-S", "-c", BARE % BARE_PORT])
        time.sleep(0.5)
        flood.start()
        took_ms: dict[int, list[float]] = {PORT: [], BARE_PORT: []}
        while options and flood.is_alive():
            for port, took in took_ms.items():
                began_s = time.perf_counter()
                scrape(port)
                took.append((time.perf_counter() - began_s) * 1e3)
                time.sleep(EVERY_S / 2)
        flood.join()
        bare.kill()
        bare.wait()
        if options:
            _check(started.where / one.output, seconds * A_SECOND)
        ended = started.stop(seconds * A_SECOND, A_SECOND)
        rows.append(
            {
                "listener": " ".join((one.name, *options)),
                "events/s": A_SECOND,
                "seen": ended.seen,
                "lost": ended.lost,
                "us/event": round(ended.us_an_event, 2),
                "peak MiB": round(ended.peak_bytes / 2**20, 1),
                **_times("", took_ms[PORT]),
                **_times("bare ", took_ms[BARE_PORT]),
            }
        )
    return rows


def _times(whose: str, took_ms: list[float]) -> dict[str, object]:
    if not took_ms:
        return {}
    return {
        f"{whose}median ms": round(median(took_ms), 2),
        f"{whose}p95 ms": round(quantiles(took_ms, n=20)[-1], 2),
        f"{whose}max ms": round(max(took_ms), 2),
    }


def scrape(port: int = PORT) -> bytes:
    """Ask once, to the end of the answer."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
        sock.sendall(REQUEST)
        answer = b"".join(iter(lambda: sock.recv(1 << 16), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200 "):
        sys.exit(f"a scrape was answered with {head.decode()}")
    return body


def _check(path: Path, sent: int) -> None:
    """Wait until all is written, and compare the counters with the file's."""
    until_s = time.monotonic() + WRITTEN_S
    while True:
        told = {
            name: sum(each.value for family in families(scrape().decode())
            for each in family.samples if each.name == f"ctk_events_{name}_total")
            for name in ("received", "recorded", "lost")
        }  # fmt: skip
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as conn:
            found = conn.execute(OF_FILE).fetchone()
        conn.close()
        if tuple(told.values()) == found and told["received"] + told["lost"] == sent:
            return
        if time.monotonic() > until_s:
            sys.exit(f"{sent} events were made, the metrics say {told}, the file {found}")
        time.sleep(0.5)
