"""Who listens to the flood: how each is started, and what it says it saw."""

import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import cluster

CTK = Path(sys.executable).with_name("ctk")
BUFFER_BYTES = 256 << 20  # for the others: twice what ctk takes by default
_ULOGD_SECTIONS = {
    "JSON": 'file="{output}"\nsync=0',
    "SQLITE3": 'table="flow"\ndb="{output}"',
}
# ulogd fills the columns it finds: the fields that a row of ctk has, too.
_ULOGD_TABLE = """
CREATE TABLE flow (
    orig_ip_saddr_str TEXT, orig_ip_daddr_str TEXT, orig_ip_protocol INTEGER,
    orig_l4_sport INTEGER, orig_l4_dport INTEGER, reply_ip_saddr_str TEXT,
    reply_ip_daddr_str TEXT, reply_l4_sport INTEGER, reply_l4_dport INTEGER,
    orig_raw_pktlen INTEGER, orig_raw_pktcount INTEGER, reply_raw_pktlen INTEGER,
    reply_raw_pktcount INTEGER, ct_id INTEGER, ct_event INTEGER, flow_start_sec INTEGER
)"""


class Seen(NamedTuple):
    """What a listener left behind."""

    events: int
    rows: int


class Listener(NamedTuple):
    """A program; `prepare` makes what it needs in its directory and returns how to start it."""

    name: str
    prepare: Callable[[Path, Sequence[str]], Sequence[str | Path]]
    seen: Callable[[Path], Seen]
    output: str = "stdout"  # what it writes, in its directory
    most_events: int | None = None  # one that is too slow gets a flood that it can end
    missing: str | None = None


def conntrack() -> Listener:
    def prepare(where: Path, options: Sequence[str]) -> Sequence[str | Path]:
        return ["conntrack", "-E", "-b", str(BUFFER_BYTES)]

    def seen(where: Path) -> Seen:
        lines = _lines(where / "stdout")
        return Seen(lines, lines)

    missing = None if shutil.which("conntrack") else "no conntrack here (Debian: conntrack)"
    return Listener("conntrack -E", prepare, seen, missing=missing)


def ulogd(output: str, most_events: int | None) -> Listener:
    """Debian's ulogd2, a line or row for each event, as the others do."""
    section = output.lower()
    plugins = Path("/usr/lib").glob(f"*/ulogd/ulogd_output_{output}.so")
    plugin = next(iter(plugins), None)

    def prepare(where: Path, options: Sequence[str]) -> Sequence[str | Path]:
        config = where / "ulogd.conf"
        written = where / "output"
        if output == "SQLITE3":
            with sqlite3.connect(written) as conn:
                conn.execute(_ULOGD_TABLE)
            conn.close()
        names = ("inpflow_NFCT", "filter_IP2STR", f"output_{output}")
        lines = [
            "[global]",
            f'logfile="{where}/log"',
            "loglevel=7",
            *(f'plugin="{(plugin or where).parent}/ulogd_{name}.so"' for name in names),
            f"stack=ct:NFCT,text:IP2STR,{section}:{output}",
            "[ct]",
            "hash_enable=0",
            "event_mask=7",
            f"netlink_socket_buffer_size={BUFFER_BYTES}",
            f"netlink_socket_buffer_maxsize={2 * BUFFER_BYTES}",  # one as large is refused
            f"[{section}]",
            _ULOGD_SECTIONS[output].format(output=written),
        ]
        config.write_text("\n".join(lines) + "\n")
        return ["ulogd", "-c", config]

    def seen(where: Path) -> Seen:
        if output == "JSON":
            rows = _lines(where / "output")
        else:
            with sqlite3.connect(where / "output") as conn:
                (rows,) = conn.execute("SELECT count(*) FROM flow").fetchone()
            conn.close()
        return Seen(rows, rows)

    missing = None
    if not shutil.which("ulogd") or plugin is None:
        package = {"JSON": "ulogd2-json", "SQLITE3": "ulogd2-sqlite3"}[output]
        missing = f"no ulogd with {output} here (Debian: ulogd2, {package})"
    return Listener(f"ulogd2 {output}", prepare, seen, "output", most_events, missing)


def floor_c(program: Path) -> Listener:
    def prepare(where: Path, options: Sequence[str]) -> Sequence[str | Path]:
        return [program]

    return Listener("recv loop in C", prepare, _printed)


def floor_python() -> Listener:
    def prepare(where: Path, options: Sequence[str]) -> Sequence[str | Path]:
        return [sys.executable, Path(__file__).with_name("floor.py")]

    return Listener("recv loop in Python", prepare, _printed)


def ctk(objects: Path, program: Path = CTK, name: str = "ctk record") -> Listener:
    """This ctk, or another one to compare it with."""

    def prepare(where: Path, options: Sequence[str]) -> Sequence[str | Path]:
        names = ("--objects", objects, "--node-name", cluster.NODE)
        return (program, "record", where / "node.db", *names, *options)

    def seen(where: Path) -> Seen:
        with sqlite3.connect(f"file:{where / 'node.db'}?mode=ro", uri=True) as conn:
            (events,) = conn.execute("SELECT sum(events) FROM recording").fetchone()
            (rows,) = conn.execute("SELECT count(*) FROM flow").fetchone()
        conn.close()
        return Seen(events, rows)

    return Listener(name, prepare, seen, "node.db")


def _printed(where: Path) -> Seen:
    return Seen(int((where / "stdout").read_text()), 0)


def _lines(path: Path) -> int:
    return int(
        subprocess.run(["wc", "-l", path], check=True, capture_output=True).stdout.split()[0]
    )
